#include "manager/handover/preflight.h"

#include <algorithm>

#include "manager/resources/passthrough.h"
#include "vmm-shim/qmp/vmm_state.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using Answer = std::optional<Obstacle>;

constexpr std::uint64_t socketSpaceBytes = 256 * 1024;  ///< Enough for the directory, sockets and record of one more VMM.
constexpr std::uint64_t leanVmmBytes = 16 << 20;        ///< Anonymous, of a QEMU 10.0 or 11.1 that has built its machine: 15 MiB.

std::string use(Design design) {
    return "use " + quoted(design);
}

constexpr bool needsNothing(const DesignRow& row) {
    return row.ram != RamPath::Descriptors && !row.owner && row.oldestOld == Release() && !row.byHandOf;
}
static_assert(std::ranges::any_of(designRows, needsNothing));

/// The first design without CPR that the VM and its VMM are fit for.
std::string useOneWithoutCpr(const HandoverFacts& facts) {
    const std::vector<Design> designs = designsOfUpgrades();
    return use(*std::ranges::find_if(designs, [&](Design design) {
        const DesignRow& row = rowOf(design);
        return row.ram != RamPath::Descriptors &&
               row.owner.value_or(facts.definition.memory.owner) == facts.definition.memory.owner &&
               (facts.old.kind != "QEMU" || releaseOf(facts.old.version) >= row.oldestOld);
    }));
}

Answer ofOldProcess(const HandoverFacts& facts) {
    if (!facts.oldLives) return Obstacle{"the VM is not running", "start it with the new VMM instead"};
    if (facts.monitorProblem)
        return Obstacle{"the old VMM's monitor does not answer: " + *facts.monitorProblem,
                        "see whether another client is connected to it"};
    return {};
}

Answer ofDesign(const HandoverFacts& facts) {
    const DesignRow& row = rowOf(facts.design);
    if (row.owner && *row.owner != facts.definition.memory.owner)
        return Obstacle{quoted(facts.design) + " does not fit a VM that was started with memory.owner '" +
                            std::string(name(facts.definition.memory.owner)) + "'",
                        use(defaultDesign) + ", or change the definition and power-cycle the VM"};
    if (facts.standby && row.state == StatePath::Exec)
        return Obstacle{quoted(facts.design) + " has nothing to hold: the new VMM takes the old one's process",
                        "stand by with " + quoted(defaultDesign)};
    if (facts.standby && !row.standsBy)
        return Obstacle{quoted(facts.design) + " has nothing to prepare: it moves guest RAM when it switches",
                        "stand by with " + quoted(defaultDesign)};
    return {};
}

Answer ofDevices(const HandoverFacts& facts) {
    if (facts.devices.empty()) return {};
    const std::string devices =
        "passed-through devices ('" + facts.devices.front().id + "'" + (facts.devices.size() > 1 ? ", ...)" : ")");
    if (const std::string_view why = rowOf(facts.design).noDevices; !why.empty())
        return Obstacle{quoted(facts.design) + " cannot carry " + devices + ": " + std::string(why), use(defaultDesign)};
    if (facts.definition.accelerator == Accelerator::Tcg)
        return Obstacle{devices +
                            " cannot be handed over from a VMM with accelerator 'tcg': QEMU crashes on MSI-X without KVM when "
                            "it is told to (seen with 11.1.3)",
                        "power-cycle the VM, with accelerator 'kvm' where the host has it"};
    if (const Answer no = obstacleToPassthrough(facts.definition.vmm.arguments))
        return Obstacle{devices + " cannot be handed over with the argument " + no->what, no->remedy};
    return facts.devicesProblem;
}

/// What the two VMMs share is there already. Of its own a new VMM has at least as much as one that was just started, or as the
/// old one, when that is less; in the designs that move guest RAM, as much of that as the guest has touched.
Answer ofMemoryRoom(const HandoverFacts& facts) {
    if (!facts.room) return {};
    const MemoryRoom& least = *facts.room;
    const std::uint64_t own = std::min(facts.resident.ofItsOwn, leanVmmBytes);
    const std::uint64_t ram = sharesRam(facts.design)
                                  ? 0
                                  : std::min(facts.definition.memory.sizeBytes, facts.resident.ofItsOwn + facts.resident.shared);
    if (least.room >= own + ram) return {};
    const auto inMebibytes = [](std::uint64_t bytes) { return exactSize(bytes >> 20 << 20); };
    return Obstacle{"the memory cgroup '" + least.cgroup + "' has room for " + inMebibytes(least.room) + " (its limit is " +
                        inMebibytes(least.limit) + ", in use are " + inMebibytes(least.used) +
                        "), and the new VMM needs at least " + inMebibytes(own + ram) + " beside the old one",
                    "raise the limit, or free memory in it"};
}

Answer ofHost(const HandoverFacts& facts) {
    const bool inFile = rowOf(facts.design).state == StatePath::File;
    if (facts.runtimeFreeBytes < socketSpaceBytes)
        return Obstacle{"'" + facts.runtimeDirectory + "' has " + exactSize(facts.runtimeFreeBytes) +
                            " free, and the new VMM's sockets and record need " + exactSize(socketSpaceBytes),
                        "free some there"};
    if (inFile && facts.saveFreeBytes < facts.definition.memory.sizeBytes)
        return Obstacle{"'" + facts.definition.handover.saveDirectory + "' has no room for " +
                            exactSize(facts.definition.memory.sizeBytes) + " of guest RAM",
                        "set handover.save_directory to one that has"};
    if (!sharesRam(facts.design) && facts.availableBytes < facts.definition.memory.sizeBytes)
        return Obstacle{quoted(facts.design) + " needs " + exactSize(facts.definition.memory.sizeBytes) +
                            " of memory for a second copy of guest RAM, and the host has not that much available",
                        "use a design that shares guest RAM"};
    if (Answer no = ofMemoryRoom(facts)) return no;
    if (!facts.missingFiles.empty())
        return Obstacle{"'" + facts.missingFiles.front().path +
                            "', which the new VMM needs, cannot be opened: " + facts.missingFiles.front().why,
                        "put it back where it was when the VM was started"};
    // Writing and reading at a gigabyte a second is more than most disks do, so below this the refusal is certain to be right.
    const milliseconds least{2 * facts.definition.memory.sizeBytes / (1024 * 1024)};
    if (inFile && facts.definition.handover.pauseBudget < least)
        return Obstacle{quoted(facts.design) + " would pause the guest for " + std::to_string(least.count()) +
                            " ms or longer, and its pause budget is " +
                            std::to_string(facts.definition.handover.pauseBudget.count()) + " ms",
                        "raise it (--pause-budget), or use another design"};
    return {};
}

/// What one side is too old for. The reference VMM has versions of its own, but it does not execute anything.
Answer ofRelease(const HandoverFacts& facts, bool isNew, const std::string& subject, const std::string& kind,
                 const std::string& version) {
    const DesignRow& row = rowOf(facts.design);
    const Release release = releaseOf(version), oldest = isNew ? row.oldestNew : row.oldestOld;
    const bool isQemu = kind == "QEMU";
    if (row.state == StatePath::Exec && !isQemu)
        return Obstacle{subject + (isNew ? " is no QEMU, and only that can be executed in another one's place"
                                         : " is no QEMU, and only that can execute another one in its place"),
                        use(defaultDesign)};
    if (row.state == StatePath::Exec && release < oldest)
        return Obstacle{subject +
                            (isNew ? " cannot be executed in the old one's place" : " cannot execute another one in its place") +
                            ": that needs QEMU " + text(oldest) + " or newer on both sides",
                        use(defaultDesign)};
    if (row.state == StatePath::Cpr && release < oldest)
        return Obstacle{subject + (isNew ? " cannot take a VM over by CPR" : " cannot hand over by CPR") + ": that needs QEMU " +
                            text(oldest) + " or newer",
                        useOneWithoutCpr(facts)};
    if (!facts.devices.empty() && release < firstWithDevices)
        return Obstacle{subject +
                            (isNew ? " cannot take passed-through devices over" : " cannot hand passed-through devices over") +
                            ": that needs QEMU " + text(firstWithDevices) + " or newer",
                        isNew ? "hand over to a newer one" : "the VM has to be power-cycled"};
    if (isQemu && release < oldest)
        return Obstacle{subject +
                            (row.state == StatePath::File && !isNew ? " cannot save its guest to a file"
                             : isNew                                ? " cannot take a guest over"
                                                                    : " cannot hand its guest over so") +
                            ": that needs QEMU " + text(oldest) + " or newer",
                        isNew ? "hand over to a newer one" : useOneWithoutCpr(facts)};
    return {};
}

Answer ofNewBinary(const HandoverFacts& facts) {
    if (facts.newBinaryProblem) return Obstacle{"the new VMM: " + facts.newBinaryProblem->what, facts.newBinaryProblem->remedy};
    if (!facts.newBinary) return {};
    const VmmBinary& binary = *facts.newBinary;
    const std::string subject = "the new VMM '" + binary.path + "' (" + binary.kind + " " + binary.version + ")";
    if (!binary.machines.contains(facts.definition.machine))
        return Obstacle{subject + " has no machine type '" + facts.definition.machine + "', which this guest was started with",
                        "use a QEMU that still has it"};
    if (!binary.missingModels.empty()) {
        std::string models;
        for (const std::string& model : binary.missingModels) append(models, "'" + model + "'");
        return Obstacle{subject + " lacks the device model " + models, "install the package that has its module"};
    }
    return ofRelease(facts, true, subject, binary.kind, binary.version);
}

Answer ofPrivateRam(const HandoverFacts& facts) {
    if (facts.guest.privateRamBlock.empty()) return {};
    if (rowOf(facts.design).state == StatePath::Exec)
        return Obstacle{"RAM block '" + facts.guest.privateRamBlock +
                            "' of the old VMM is no shared file that it keeps open: an exec would lose its content",
                        "give its memory backend share=on, or " + useOneWithoutCpr(facts)};
    return Obstacle{"RAM block '" + facts.guest.privateRamBlock + "' of the old VMM is private memory of its own, which " +
                        quoted(facts.design) + " cannot hand over",
                    useOneWithoutCpr(facts) + ", or power-cycle the VM (a memory backend in vmm.arguments needs share=on)"};
}

Answer ofOldVmm(const HandoverFacts& facts) {
    if (facts.old.version.empty()) return {};
    const std::string subject = "the old VMM, " + facts.old.kind + " " + facts.old.version + ",";
    if (Answer no = ofRelease(facts, false, subject, facts.old.kind, facts.old.version)) return no;
    const DesignRow& row = rowOf(facts.design);
    if (row.state == StatePath::Cpr && !row.relays && facts.newBinary && sendsVfioSubsection(facts.old.version) &&
        !sendsVfioSubsection(facts.newBinary->version))
        return Obstacle{"QEMU " + facts.newBinary->version + " cannot read the CPR state of QEMU " + facts.old.version +
                            ", which has a part that 10.1 introduced",
                        use(defaultDesign) + ", which leaves it out, or a new VMM of 10.1 or later"};
    if (facts.execProblem) return facts.execProblem;
    // An exec would lose it without a word, so that is known before all of the guest's own obstacles.
    if (row.state == StatePath::Exec) return ofPrivateRam(facts);
    return {};
}

Obstacle cannotHandOver(const std::string& why) {
    return {"the old VMM cannot hand its guest over: " + why, "remove that from the VM, by hotplug or with a power-cycle"};
}

/// What the old VMM holds that two cannot have at a time: the new one's start would take it away, or fail. All of it that a
/// definition describes is inherited, and so is what an adopted VM has.
Answer ofHeld(const HandoverFacts& facts) {
    const std::string remedy = "remove that from the VM (by its monitor, or from vmm.arguments with a power-cycle)";
    if (!facts.guest.listeners.empty())
        return Obstacle{"the old VMM listens on '" + facts.guest.listeners.front() +
                            "', where two VMMs cannot listen at a time, and which the old one's end would close",
                        remedy};
    if (!facts.guest.taps.empty())
        return Obstacle{"the old VMM has the tap '" + facts.guest.taps.front() + "', which two VMMs cannot have at a time",
                        "let the definition have the network instead ('networks', of type tap); " + remedy};
    if (!facts.guest.deletedFiles.empty())
        return Obstacle{"the old VMM writes to '" + facts.guest.deletedFiles.front() +
                            "', which has no name any more, as a disk with snapshot=on does: the new VMM could not open it, and "
                            "the guest would find its disk as it was before",
                        remedy};
    return {};
}

Answer ofGuest(const HandoverFacts& facts) {
    if (facts.guest.runState.empty()) return {};
    // That of an adopted VM is where its own manager has put it, in a directory of the VMM's user.
    if (!facts.guest.isOwnAnswer)
        return Obstacle{"another process than the old VMM, pid " + std::to_string(facts.oldPid) + ", answers on its monitor",
                        "find out which process that is, and end nothing before: it may have the guest"};
    const RunState runState = runStateOf(facts.guest.runState);
    if (runState != RunState::Running && runState != RunState::Paused)
        return Obstacle{"the guest is in the state '" + facts.guest.runState + "'",
                        "find out what has stopped it, and let it run on or pause it; or power-cycle the VM"};
    if (facts.guest.hasBlockJobs) return Obstacle{"a block job is running", "wait for it or cancel it"};
    if (Answer no = ofHeld(facts)) return no;
    if (!facts.guest.blockers.empty()) return cannotHandOver(facts.guest.blockers.front());
    if (!facts.guest.serials.empty())
        return cannotHandOver("it would crash, and the guest with it, when it saves a 'pci-serial-2x' ('" +
                              facts.guest.serials.front() + "')");
    if (!facts.guest.drivelessNvmes.empty())
        return cannotHandOver(
            "it would crash, and the guest with it, when it saves an NVMe controller that has no drive of its own ('" +
            facts.guest.drivelessNvmes.front() + "', without 'drive=')");
    return ofPrivateRam(facts);
}

}  // namespace

bool sendsVfioSubsection(const std::string& version) {
    return releaseOf(version) != Release{10, 0};
}

bool losesWritesOfRunningGuest(const HandoverFacts& facts) {
    return facts.definition.accelerator == Accelerator::Tcg && facts.old.kind == "QEMU" &&
           releaseOf(facts.old.version) < Release{9, 0};
}

std::optional<Obstacle> obstacleTo(const HandoverFacts& facts) {
    for (const auto judge : {ofOldProcess, ofDevices, ofDesign, ofHost, ofNewBinary, ofOldVmm, ofGuest})
        if (Answer no = judge(facts)) return no;
    return {};
}

std::optional<Obstacle> changeOfInstalled(const std::string& binary, const FileStamp& probed, const FileStamp& now,
                                          const std::string& replacedCode) {
    const std::string again = "prepare the upgrade again, so that what is there now is looked at";
    if (now != probed)
        return Obstacle{"'" + binary + "' was " + (now == FileStamp{} ? "deleted" : "replaced") +
                            " after it was probed and the new VMM was started from it",
                        again};
    if (!replacedCode.empty())
        return Obstacle{"'" + replacedCode + "', which the new VMM runs, was deleted or replaced after its start", again};
    return {};
}

}  // namespace vh
