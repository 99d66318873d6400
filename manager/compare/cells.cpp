#include "manager/compare/cells.h"

#include <algorithm>
#include <chrono>

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr std::uint64_t writtenMiB = 16;  ///< By the load `memory`: so little that all of it is mapped again soon after a switch.
constexpr milliseconds longPause{60'000};
constexpr milliseconds longStep{600'000};

std::string probeOptions(const Cell& cell, const std::string& address) {
    // Checking goes on slowly in every load: it proves that RAM is intact, and is not what is measured.
    std::string options = " probe.ram_mib=" + std::to_string(cell.ram.touchedBytes >> 20) +
                          " probe.rate_mib_s=" + (cell.load == Load::Idle ? "4" : "16") + " probe.disk_per_s=" +
                          (cell.load == Load::Disk   ? "200"
                           : cell.load == Load::Idle ? "1"
                                                     : "5");
    if (cell.writes()) options += " probe.write_mib=" + std::to_string(writtenMiB);
    if (cell.devices.network) options += " probe.ip=" + address;
    return options;
}

/// Settings that keep no design from showing what it costs.
void letItTakeItsTime(HandoverSettings& handover) {
    handover.pauseBudget = longPause;
    handover.deadlines.launch = handover.deadlines.exchange = handover.deadlines.verify = milliseconds(60'000);
    handover.deadlines.switchOver = longStep;
    handover.onFailure = OnFailure::Report;
}

}  // namespace

std::vector<Cell> cellsOf(const ComparePlan& plan) {
    std::vector<Cell> cells;
    for (const VmmPair& pair : plan.pairs)
        for (const unsigned vms : plan.vms)
            for (const Load load : plan.loads)
                for (const DeviceSet& devices : plan.devices)
                    for (const unsigned vcpus : plan.vcpus)
                        for (const std::uint64_t pageSize : plan.pageSizes)
                            for (const GuestRam& ram : plan.ram)
                                cells.push_back({pair, ram, pageSize, vcpus, devices, load, vms});
    return cells;
}

std::vector<Cell> cellsOf(const ComparePlan& plan, const VmDefinition& base) {
    const DeviceSet devices{!base.disks.empty(), std::ranges::any_of(base.networks, [](const Network& network) {
                                return network.type == NetworkType::Tap;
                            })};
    std::vector<Cell> cells;
    for (const VmmPair& pair : plan.pairs)
        for (const unsigned vms : plan.vms)
            cells.push_back({pair,
                             {.sizeBytes = base.memory.sizeBytes},
                             base.memory.pageSizeBytes,
                             base.cpu.count(),
                             devices,
                             Load::Idle,
                             vms});
    return cells;
}

std::string idOf(const Cell& cell, const ComparePlan& plan) {
    const auto pair = std::ranges::find(plan.pairs, cell.pair) - plan.pairs.begin();
    return formatSize(cell.ram.sizeBytes) + "-" + formatSize(cell.ram.touchedBytes) + "-" + formatSize(cell.pageSizeBytes) + "-" +
           std::to_string(cell.vcpus) + "cpu-" + name(cell.devices) + "-" + std::string(name(cell.load)) + "-" +
           std::to_string(cell.vms) + "vm-" + std::to_string(pair + 1);
}

json toJson(const Cell& cell) {
    json devices = json::array();
    if (cell.devices.disk) devices.push_back("disk");
    if (cell.devices.network) devices.push_back("network");
    return {{"ramBytes", cell.ram.sizeBytes},
            {"touchedBytes", cell.ram.touchedBytes},
            {"pageSizeBytes", cell.pageSizeBytes},
            {"vcpus", cell.vcpus},
            {"devices", devices},
            {"load", name(cell.load)},
            {"vms", cell.vms}};
}

std::string guestAddress(const Workplace& workplace, unsigned number) {
    return workplace.addressPrefix + std::to_string(number + 2);
}

VmDefinition guestFor(const Cell& cell, const ComparePlan& plan, const Workplace& workplace, MemoryOwner owner, unsigned number) {
    VmDefinition vm;
    vm.name = "vm-" + std::to_string(number);
    vm.machine = plan.machine;
    vm.accelerator = plan.accelerator;
    vm.cpu.cores = cell.vcpus;
    vm.memory = {cell.ram.sizeBytes, cell.pageSizeBytes, owner};
    vm.boot.kernel = plan.guest.kernel;
    vm.boot.initrd = plan.guest.initrd;
    // clearcpuid=erms: without KVM, clearing pages with that instruction is what filling RAM takes three times as long for.
    vm.boot.cmdline = "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms" +
                      probeOptions(cell, guestAddress(workplace, number));
    if (cell.devices.disk) vm.disks.push_back({.id = "root", .file = diskCopy(workplace, "root", number)});
    if (cell.devices.network) vm.networks.push_back({.id = "net0", .type = NetworkType::Tap, .bridge = workplace.bridge});
    vm.heartbeat = true;
    vm.vmm.binary = cell.pair.old;
    vm.vmm.user = plan.user;
    vm.vmm.sandbox = false;
    vm.handover.saveDirectory = plan.saveDirectory;
    letItTakeItsTime(vm.handover);
    return vm;
}

VmDefinition guestLike(const VmDefinition& base, const Cell& cell, const Workplace& workplace, MemoryOwner owner,
                       unsigned number) {
    VmDefinition vm = base;
    vm.name = "vm-" + std::to_string(number);
    vm.uuid.clear();
    vm.memory.owner = owner;
    for (Disk& disk : vm.disks) disk.file = diskCopy(workplace, disk.id, number);
    for (Network& network : vm.networks) {
        network.mac.clear();
        if (network.type == NetworkType::Tap) network.bridge = workplace.bridge;
    }
    vm.console.log.clear();
    vm.vmm.binary = cell.pair.old;
    vm.vmm.sandbox = false;
    vm.handover.design = Design::Relayed;
    letItTakeItsTime(vm.handover);
    return vm;
}

std::string diskCopy(const Workplace& workplace, const std::string& disk, unsigned number) {
    return workplace.directory + "/vm-" + std::to_string(number) + "-" + disk + ".img";
}

MemoryOwner ownerFor(Design design) {
    return rowOf(design).owner.value_or(MemoryOwner::Manager);
}

}  // namespace vh
