#include "manager/compare/configurations.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <set>
#include <utility>

#include "manager/compare/own_network.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

constexpr unsigned many = 8;
constexpr milliseconds longPause{60'000};
constexpr milliseconds longStep{600'000};

std::string probeOptions(const Configuration& one, unsigned number, bool network) {
    // Checking goes on slowly in every load: it proves that RAM is intact, and is not what is measured.
    const char* diskPerSecond = one.load == Load::Disk ? "200" : one.load == Load::Idle ? "1" : "5";
    const std::uint64_t hotBytes = one.hotSetBytes.value_or(0);
    std::string options = " probe.ram_mib=" + std::to_string((one.touchedBytes - hotBytes) >> 20) +
                          " probe.rate_mib_s=" + (one.load == Load::Idle ? "4" : "16") + " probe.disk_per_s=" + diskPerSecond;
    if (hotBytes > 0) options += " probe.write_mib=" + std::to_string(hotBytes >> 20);
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

Pages pagesOf(const Configuration& one) {
    return {one.pageSizeBytes, one.transparentHuge};
}

std::size_t placeOf(const std::string& binary, std::vector<MeasuredVmm>& vmms) {
    const auto known = std::ranges::find(vmms, binary, &MeasuredVmm::binary);
    const auto place = static_cast<std::size_t>(known - vmms.begin());
    if (known == vmms.end()) vmms.push_back({binary, "", ""});
    return place;
}

/// `640MiB-512MiB-16MiB-4KiB-1cpu-disk+network-memory-1vm-tcg-linux-1`, the last number being the binary pair's.
std::string idOf(const Configuration& one, std::size_t pair) {
    return formatSize(one.ramBytes) + "-" + formatSize(one.touchedBytes) + "-" + formatSize(one.hotSetBytes.value_or(0)) + "-" +
           name(pagesOf(one)) + "-" + std::to_string(one.vcpus) + "cpu-" + name(one.devices) + "-" + std::string(name(one.load)) +
           "-" + std::to_string(one.vms) + "vm-" + std::string(name(*one.accelerator)) + "-" +
           (one.guest ? std::string(name(*one.guest)) + "-" : "") + std::to_string(pair + 1);
}

/// What a plan varies, once each; of a VM of the user's own, what its definition says.
ComparePlan factorsOf(const ComparePlan& plan, const std::optional<VmDefinition>& own) {
    if (!own) return plan;
    ComparePlan factors = plan;
    const auto isTap = [](const Network& network) { return network.type == NetworkType::Tap; };
    factors.ram = {{.sizeBytes = own->memory.sizeBytes}};
    factors.pages = {{.sizeBytes = own->memory.pageSizeBytes}};
    factors.accelerators = {own->accelerator};
    factors.vcpus = {own->cpu.count()};
    factors.devices = {{!own->disks.empty(), std::ranges::any_of(own->networks, isTap)}};
    factors.loads = {Load::Idle};
    return factors;
}

std::string whyNotRun(Design design, const GuestRam& ram, const Pages& pages, bool hasDevices) {
    if (rowOf(design).byHandOf && hasDevices) return std::string(rowOf(design).noDevices);
    if (!rowOf(design).baseline) return "";
    if (!ram.baselines) return "the plan leaves it out at this size";
    return pages.transparentHuge ? "the RAM that it makes anew would have pages of 4KiB" : "";
}

std::vector<Series> seriesFor(const ComparePlan& plan, const GuestRam& ram, const Pages& pages, bool hasDevices) {
    std::vector<Series> all;
    for (const Design design : plan.designs)
        all.push_back({.design = design, .notRun = whyNotRun(design, ram, pages, hasDevices), .rounds = {}, .inspection = {}});
    return all;
}

/// Makes a cell what it can be on this host. Returns what a reader has to know of that; empty: nothing.
std::string resolve(Configuration& one, KvmAbility::Guests kvm) {
    if (one.accelerator == Accelerator::Auto)
        one.accelerator = kvm == KvmAbility::Guests::All ? Accelerator::Kvm : Accelerator::Tcg;
    if (!one.guest) return "";
    if (one.guest == Guest::Auto)
        one.guest = one.accelerator == Accelerator::Kvm && kvm == KvmAbility::Guests::Plain ? Guest::Bare : Guest::Linux;
    if (one.guest != Guest::Bare || !one.devices.network) return "";
    one.devices.network = false;
    return "the bare guest has no network: its cells are of disks only, or of no devices";
}

template <typename Use>
void forEachCombination(const ComparePlan& factors, bool ownGuest, Use use) {
    const auto memoryFactors = [&](Configuration one) {
        const std::vector<HotSet> none{HotSet{.bytes = 0}};
        for (const HotSet& hotSet : one.load == Load::Memory && !ownGuest ? factors.hotSets : none)
            for (const Pages& pages : factors.pages)
                for (const GuestRam& ram : factors.ram) {
                    one.ramBytes = ram.sizeBytes;
                    one.touchedBytes = ram.touchedBytes;
                    const std::uint64_t hot = hotBytes(hotSet, ram.touchedBytes);
                    one.hotSetBytes = hot == 0 ? std::nullopt : std::optional(hot);
                    one.pageSizeBytes = pages.sizeBytes;
                    one.transparentHuge = pages.transparentHuge;
                    use(one, ram, pages);
                }
    };
    Configuration one;
    for (const Accelerator accelerator : factors.accelerators)
        for (const Guest guest : factors.guests)
            for (const unsigned vms : factors.vms)
                for (const Load load : factors.loads)
                    for (const DeviceSet& devices : factors.devices)
                        for (const unsigned vcpus : factors.vcpus) {
                            one.accelerator = accelerator;
                            one.guest = ownGuest ? std::nullopt : std::optional(guest);
                            one.vms = vms;
                            one.load = load;
                            one.devices = devices;
                            one.vcpus = vcpus;
                            memoryFactors(one);
                        }
}

/// In how many factors a cell is not as the first entries of the lists have it.
unsigned deviationsOf(const Configuration& one, const ComparePlan& factors, const GuestRam& ram) {
    const std::uint64_t usualHot = hotBytes(factors.hotSets.front(), ram.touchedBytes);
    const std::array differs{one.vms != factors.vms.front(),
                             one.load != factors.loads.front(),
                             one.devices != factors.devices.front(),
                             one.vcpus != factors.vcpus.front(),
                             ram != factors.ram.front(),
                             pagesOf(one) != factors.pages.front(),
                             one.hotSetBytes && *one.hotSetBytes != usualHot};
    return static_cast<unsigned>(std::ranges::count(differs, true));
}

/// Eight of each, and as many that are behind root ports of their own.
void addMany(VmDefinition& vm, const std::string& scratchDirectory, unsigned number, bool network) {
    for (unsigned i = 1; i < many; ++i) {
        const std::string disk = "disk" + std::to_string(i);
        vm.disks.push_back({.id = disk, .file = diskCopy(scratchDirectory, disk, number)});
        if (network) vm.networks.push_back({.id = "net" + std::to_string(i), .type = NetworkType::Tap, .bridge = ownBridge});
    }
    for (unsigned i = 1; i <= many; ++i) {
        const std::string port = "port" + std::to_string(i);
        vm.vmm.arguments.insert(vm.vmm.arguments.end(), {"-device", "pcie-root-port,id=" + port + ",chassis=" + std::to_string(i),
                                                         "-device", "virtio-rng-pci,bus=" + port});
    }
}

}  // namespace

void addConfigurations(const ComparePlan& plan, const std::optional<VmDefinition>& own, KvmAbility::Guests kvm,
                       Results& results) {
    std::vector<Configuration>& all = results.configurations;
    std::set<std::string> accelerators;
    const ComparePlan factors = factorsOf(plan, own);
    for (std::size_t pair = 0; pair < plan.pairs.size(); ++pair) {
        const std::size_t old = placeOf(plan.pairs[pair].old, results.vmms),
                          newVmm = placeOf(plan.pairs[pair].new_, results.vmms);
        forEachCombination(factors, own.has_value(), [&](Configuration one, const GuestRam& ram, const Pages& pages) {
            if (plan.combine == Combine::OneAtATime && deviationsOf(one, factors, ram) + (pair > 0 ? 1 : 0) > 1) return;
            one.old = old;
            one.new_ = newVmm;
            const std::string note = resolve(one, kvm);
            one.id = one.title = idOf(one, pair);
            if (std::ranges::find(all, one.id, &Configuration::id) != all.end()) return;  // Two that were resolved to the same.
            if (!note.empty() && std::ranges::find(results.notes, note) == results.notes.end()) results.notes.push_back(note);
            one.series = seriesFor(plan, ram, pages, own && !own->vfio.empty());
            accelerators.emplace(name(*one.accelerator));
            all.push_back(std::move(one));
        });
    }
    results.host.accelerator = joined(accelerators);
}

std::string missingGuest(const ComparePlan& plan, const std::vector<Configuration>& configurations) {
    const auto isMissing = [&](Guest guest, const std::string& file, const std::string& other) {
        return (file.empty() || other.empty()) &&
               std::ranges::find(configurations, guest, &Configuration::guest) != configurations.end();
    };
    if (isMissing(Guest::Linux, plan.guest.kernel, plan.guest.initrd))
        return "there is no guest to measure: name the probe guest with --kernel and --initrd (tests/guest/make-initramfs makes "
               "it), or give the definition of a VM of your own";
    if (isMissing(Guest::Bare, plan.bareGuest.kernel, plan.bareGuest.firmware))
        return "there is no bare guest to measure, and the host's KVM runs no other or the plan asks for it: name it in the "
               "plan, as "
               "'bare_guest: {kernel: BUILD/tests/bare-guest/bare-guest.elf, firmware: "
               "BUILD/tests/bare-guest/bare-firmware.bin}' "
               "with the build directory in place of BUILD, or leave out accelerator 'kvm' and guest 'bare'";
    return "";
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
    if (varies(&Configuration::hotSetBytes) && one.hotSetBytes)
        title += ", " + formatSize(*one.hotSetBytes) + " written again and again";
    title += ", " + version(one.old) + " -> " + version(one.new_);
    if (varies(&Configuration::accelerator) && one.accelerator) title += ", " + std::string(name(*one.accelerator));
    if (varies(&Configuration::guest) && one.guest) title += ", " + std::string(name(*one.guest)) + " guest";
    if (varies(&Configuration::pageSizeBytes) || varies(&Configuration::transparentHuge))
        title += one.transparentHuge ? ", transparent huge pages" : ", pages of " + formatSize(one.pageSizeBytes);
    if (varies(&Configuration::vcpus)) title += ", " + std::to_string(one.vcpus) + (one.vcpus == 1 ? " CPU" : " CPUs");
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
    vm.accelerator = one.accelerator.value_or(Accelerator::Auto);
    vm.cpu.cores = one.vcpus;
    vm.memory = {one.ramBytes, one.pageSizeBytes, owner};
    if (one.guest == Guest::Bare) {
        // Not the host's own CPU: of that, some hosts whose KVM runs this guest only refuse to load what they offer.
        vm.cpu.model = "kvm64";
        vm.boot = {.kernel = plan.bareGuest.kernel, .cmdline = "bare", .firmware = plan.bareGuest.firmware};
    } else {
        vm.boot.kernel = plan.guest.kernel;
        vm.boot.initrd = plan.guest.initrd;
        // clearcpuid=erms: without KVM, clearing pages with that instruction is what filling RAM takes three times as long for.
        vm.boot.cmdline = "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms";
    }
    vm.boot.cmdline += probeOptions(one, number, network);
    if (one.devices.disk) vm.disks.push_back({.id = "root", .file = diskCopy(scratchDirectory, "root", number)});
    if (network) vm.networks.push_back({.id = "net0", .type = NetworkType::Tap, .bridge = ownBridge});
    if (one.devices.many) addMany(vm, scratchDirectory, number, network);
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
    vm.handover.design = defaultDesign;
    letItTakeItsTime(vm.handover);
    return vm;
}

std::string diskCopy(const std::string& scratchDirectory, const std::string& disk, unsigned number) {
    return scratchDirectory + "/vm-" + std::to_string(number) + "-" + disk + ".img";
}

}  // namespace vh
