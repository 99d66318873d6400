#include "manager/compare/configurations.h"

#include <algorithm>
#include <chrono>

#include "manager/compare/own_network.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t writtenMiB = 16;  ///< By the load `memory`: so little that all of it is mapped again soon after a switch.
constexpr milliseconds longPause{60'000};
constexpr milliseconds longStep{600'000};

std::string probeOptions(const Configuration& one, unsigned number, bool network) {
    // Checking goes on slowly in every load: it proves that RAM is intact, and is not what is measured.
    const char* diskPerSecond = one.load == Load::Disk ? "200" : one.load == Load::Idle ? "1" : "5";
    std::string options = " probe.ram_mib=" + std::to_string(one.touchedBytes >> 20) +
                          " probe.rate_mib_s=" + (one.load == Load::Idle ? "4" : "16") + " probe.disk_per_s=" + diskPerSecond;
    if (one.load == Load::Memory) options += " probe.write_mib=" + std::to_string(writtenMiB);
    if (network) options += " probe.ip=" + guestAddress(number);
    return options;
}

/// Settings that keep no design from showing what it costs.
void letItTakeItsTime(HandoverSettings& handover) {
    handover.pauseBudget = longPause;
    handover.deadlines.launch = handover.deadlines.exchange = handover.deadlines.verify = milliseconds(60'000);
    handover.deadlines.switchOver = longStep;
    handover.onFailure = OnFailure::Report;
}

std::size_t placeOf(const std::string& binary, std::vector<MeasuredVmm>& vmms) {
    const auto known = std::ranges::find(vmms, binary, &MeasuredVmm::binary);
    const auto place = static_cast<std::size_t>(known - vmms.begin());
    if (known == vmms.end()) vmms.push_back({binary, "", ""});
    return place;
}

/// `640MiB-512MiB-4KiB-1cpu-disk+network-memory-1vm-1`, the last number being the binary pair's.
std::string idOf(const Configuration& one, std::size_t pair) {
    return formatSize(one.ramBytes) + "-" + formatSize(one.touchedBytes) + "-" + formatSize(one.pageSizeBytes) + "-" +
           std::to_string(one.vcpus) + "cpu-" + name(one.devices) + "-" + std::string(name(one.load)) + "-" +
           std::to_string(one.vms) + "vm-" + std::to_string(pair + 1);
}

/// What a plan varies, once each; of a VM of the user's own, what its definition says.
ComparePlan factorsOf(const ComparePlan& plan, const std::optional<VmDefinition>& own) {
    if (!own) return plan;
    ComparePlan factors = plan;
    const auto isTap = [](const Network& network) { return network.type == NetworkType::Tap; };
    factors.ram = {{.sizeBytes = own->memory.sizeBytes}};
    factors.pageSizes = {own->memory.pageSizeBytes};
    factors.vcpus = {own->cpu.count()};
    factors.devices = {{!own->disks.empty(), std::ranges::any_of(own->networks, isTap)}};
    factors.loads = {Load::Idle};
    return factors;
}

std::vector<Series> seriesFor(const ComparePlan& plan, const GuestRam& ram) {
    std::vector<Series> all;
    for (const Design design : plan.designs)
        all.push_back({.design = design,
                       .notRun = rowOf(design).baseline && !ram.baselines ? "the plan leaves it out at this size" : "",
                       .rounds = {},
                       .inspection = {}});
    return all;
}

}  // namespace

std::vector<Configuration> configurationsOf(const ComparePlan& plan, const std::optional<VmDefinition>& own,
                                            std::vector<MeasuredVmm>& vmms) {
    const ComparePlan factors = factorsOf(plan, own);
    std::vector<Configuration> all;
    for (std::size_t pair = 0; pair < plan.pairs.size(); ++pair) {
        const std::size_t old = placeOf(plan.pairs[pair].old, vmms), newVmm = placeOf(plan.pairs[pair].new_, vmms);
        for (const unsigned vms : factors.vms)
            for (const Load load : factors.loads)
                for (const DeviceSet& devices : factors.devices)
                    for (const unsigned vcpus : factors.vcpus)
                        for (const std::uint64_t pageSize : factors.pageSizes)
                            for (const GuestRam& ram : factors.ram) {
                                Configuration one{"",       "",    old,     newVmm, ram.sizeBytes, ram.touchedBytes,
                                                  pageSize, vcpus, devices, load,   vms,           seriesFor(plan, ram)};
                                one.id = one.title = idOf(one, pair);
                                all.push_back(std::move(one));
                            }
    }
    return all;
}

std::string titleOf(const Configuration& one, const Results& results) {
    const auto varies = [&](auto Configuration::*factor) {
        return std::ranges::any_of(results.configurations,
                                   [&](const Configuration& other) { return !(other.*factor == one.*factor); });
    };
    const auto version = [&](std::size_t vmm) {
        const std::string& known = results.vmms[vmm].version;
        return known.empty() ? "?" : known;
    };
    std::string title =
        one.touchedBytes != 0 ? formatSize(one.touchedBytes) + " of RAM touched" : formatSize(one.ramBytes) + " of RAM";
    title += ", " + version(one.old) + " -> " + version(one.new_);
    if (varies(&Configuration::pageSizeBytes)) title += ", pages of " + formatSize(one.pageSizeBytes);
    if (varies(&Configuration::vcpus)) title += ", " + std::to_string(one.vcpus) + " CPUs";
    if (varies(&Configuration::devices)) title += ", devices: " + name(one.devices);
    if (varies(&Configuration::load)) title += ", load: " + std::string(name(one.load));
    if (varies(&Configuration::vms)) title += ", " + std::to_string(one.vms) + " VMs at once";
    return title;
}

std::string guestAddress(unsigned number) {
    return std::string(ownNetworkPrefix) + std::to_string(number + 2);
}

VmDefinition guestFor(const Configuration& one, const ComparePlan& plan, const std::string& oldBinary,
                      const std::string& scratchDirectory, MemoryOwner owner, unsigned number, bool network) {
    VmDefinition vm;
    vm.name = "vm-" + std::to_string(number);
    vm.machine = plan.machine;
    vm.accelerator = plan.accelerator;
    vm.cpu.cores = one.vcpus;
    vm.memory = {one.ramBytes, one.pageSizeBytes, owner};
    vm.boot.kernel = plan.guest.kernel;
    vm.boot.initrd = plan.guest.initrd;
    // clearcpuid=erms: without KVM, clearing pages with that instruction is what filling RAM takes three times as long for.
    vm.boot.cmdline = "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms" +
                      probeOptions(one, number, network);
    if (one.devices.disk) vm.disks.push_back({.id = "root", .file = diskCopy(scratchDirectory, "root", number)});
    if (network) vm.networks.push_back({.id = "net0", .type = NetworkType::Tap, .bridge = ownBridge});
    vm.heartbeat = true;
    vm.vmm.binary = oldBinary;
    vm.vmm.user = plan.user;
    vm.vmm.sandbox = false;
    vm.handover.saveDirectory = plan.saveDirectory;
    letItTakeItsTime(vm.handover);
    return vm;
}

VmDefinition guestLike(const VmDefinition& own, const std::string& oldBinary, const std::string& scratchDirectory,
                       MemoryOwner owner, unsigned number) {
    VmDefinition vm = own;
    vm.name = "vm-" + std::to_string(number);
    vm.uuid.clear();
    vm.memory.owner = owner;
    for (Disk& disk : vm.disks) disk.file = diskCopy(scratchDirectory, disk.id, number);
    for (Network& network : vm.networks) {
        network.mac.clear();
        if (network.type == NetworkType::Tap) network.bridge = ownBridge;
    }
    vm.console.log.clear();
    vm.vmm.binary = oldBinary;
    vm.vmm.sandbox = false;
    vm.handover.design = Design::Relayed;
    letItTakeItsTime(vm.handover);
    return vm;
}

std::string diskCopy(const std::string& scratchDirectory, const std::string& disk, unsigned number) {
    return scratchDirectory + "/vm-" + std::to_string(number) + "-" + disk + ".img";
}

}  // namespace vh
