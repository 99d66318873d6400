// What stands against a handover, by what is known of it: each refusal once, and its remedy.
#include "manager/handover/preflight.h"

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vh {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t gibibyte = 1 << 30;

/// Of a handover that nothing stands against, with all that can be known.
HandoverFacts good(Design design = Design::Relayed) {
    HandoverFacts facts;
    facts.design = design;
    facts.definition.memory.owner = rowOf(design).owner.value_or(MemoryOwner::Manager);
    facts.definition.accelerator = Accelerator::Kvm;
    facts.definition.machine = "pc-q35-10.0";
    facts.definition.memory.sizeBytes = gibibyte;
    facts.definition.handover.pauseBudget = std::chrono::minutes(1);
    facts.runtimeDirectory = "/run/virt-handover";
    facts.definition.handover.saveDirectory = "/var/tmp";
    facts.resident = {.ofItsOwn = 64 << 20, .shared = gibibyte};
    facts.newBinary = VmmBinary{.path = "/opt/qemu",
                                .kind = "QEMU",
                                .version = "11.1.3",
                                .majorVersion = 11,
                                .machines = {"pc-q35-10.0", "pc-q35-11.1"},
                                .aliases = {},
                                .missingModels = {}};
    facts.old = {"QEMU", "11.1.3"};
    facts.guest.runState = "running";
    facts.oldPid = 4711;
    return facts;
}

HandoverFacts withDevice(Design design = Design::Relayed) {
    HandoverFacts facts = good(design);
    facts.devices = {{.id = "nic0", .address = "0000:01:00.0", .node = "/dev/vfio/devices/vfio0"}};
    return facts;
}

struct Case {
    const char* name;
    HandoverFacts facts;
    std::string what, remedy;
};

void PrintTo(const Case& one, std::ostream* stream) {
    *stream << one.name;
}

Case changed(const char* name, HandoverFacts facts, const std::function<void(HandoverFacts&)>& change, std::string what,
             std::string remedy) {
    change(facts);
    return {name, std::move(facts), std::move(what), std::move(remedy)};
}

using F = HandoverFacts;

std::string nameOf(const testing::TestParamInfo<Case>& one) {
    return one.param.name;
}

class PreflightRefusal : public testing::TestWithParam<Case> {};

TEST_P(PreflightRefusal, refusesWithTheReasonAndARemedy) {
    const std::optional<Obstacle> obstacle = obstacleTo(GetParam().facts);
    ASSERT_TRUE(obstacle.has_value());
    EXPECT_THAT(obstacle->what, HasSubstr(GetParam().what));
    ASSERT_NE(GetParam().remedy, "");
    EXPECT_THAT(obstacle->remedy, HasSubstr(GetParam().remedy));
    EXPECT_THAT(obstacle->what, Not(HasSubstr(GetParam().remedy))) << "a script reads them apart";
}

INSTANTIATE_TEST_SUITE_P(
    OfTheDesign, PreflightRefusal,
    testing::Values(changed(
                        "managerOwned", good(Design::ManagerOwned), [](F& f) { f.definition.memory.owner = MemoryOwner::Vmm; },
                        "design 'manager-owned' does not fit a VM that was started with memory.owner 'vmm'",
                        "use design 'relayed'"),
                    changed(
                        "vmmOwned", good(Design::VmmOwned), [](F& f) { f.definition.memory.owner = MemoryOwner::Manager; },
                        "memory.owner 'manager'", "power-cycle"),
                    changed(
                        "vmmExec", good(Design::VmmExec), [](F& f) { f.definition.memory.owner = MemoryOwner::Manager; },
                        "memory.owner 'manager'", "use design 'relayed'"),
                    changed(
                        "execHoldsNothing", good(Design::VmmExec), [](F& f) { f.standby = true; }, "has nothing to hold",
                        "stand by with design 'relayed'"),
                    changed(
                        "copyPreparesNothing", good(Design::Copy), [](F& f) { f.standby = true; }, "has nothing to prepare",
                        "stand by with design 'relayed'")),
    nameOf);

INSTANTIATE_TEST_SUITE_P(
    OfDevices, PreflightRefusal,
    testing::Values(changed(
                        "managerOwned", withDevice(Design::ManagerOwned), [](F&) {},
                        "cannot carry passed-through devices ('nic0')", "use design 'relayed'"),
                    changed(
                        "vmmExec", withDevice(Design::VmmExec), [](F&) {}, "it was never tried with them",
                        "use design 'relayed'"),
                    changed(
                        "copy", withDevice(Design::Copy), [](F&) {}, "cannot be copied", "use design 'relayed'"),
                    changed(
                        "saveRestore", withDevice(Design::SaveRestore), [](F&) {}, "cannot be copied", "use design 'relayed'"),
                    changed(
                        "tcg", withDevice(), [](F& f) { f.definition.accelerator = Accelerator::Tcg; }, "accelerator 'tcg'",
                        "with accelerator 'kvm'"),
                    changed(
                        "several", withDevice(),
                        [](F& f) { f.devices.push_back(f.devices.front()), f.definition.accelerator = Accelerator::Tcg; },
                        "('nic0', ...)", "with accelerator 'kvm'"),
                    changed(
                        "argument", withDevice(),
                        [](F& f) {
                            f.definition.vmm.arguments = {"-device", "intel-iommu"};
                        },
                        "('nic0') cannot be handed over with the argument 'intel-iommu': a handover of devices behind",
                        "power-cycle the VM, without it"),
                    changed(
                        "kernel", withDevice(),
                        [](F& f) {
                            f.devicesProblem = {"the kernel's reason", "use a newer one"};
                        },
                        "the kernel's reason", "use a newer one"),
                    changed(
                        "oldRelease", withDevice(), [](F& f) { f.old.version = "10.0.2"; },
                        "cannot hand passed-through devices over", "power-cycled"),
                    changed(
                        "newRelease", withDevice(), [](F& f) { f.newBinary->version = "10.0.2"; },
                        "cannot take passed-through devices over: that needs QEMU 10.1", "hand over to a newer one")),
    nameOf);

INSTANTIATE_TEST_SUITE_P(
    OfTheHost, PreflightRefusal,
    testing::Values(
        changed(
            "socketSpace", good(), [](F& f) { f.runtimeFreeBytes = 100 << 10; },
            "'/run/virt-handover' has 100 KiB free, and the new VMM's sockets and record need 256 KiB", "free some"),
        changed(
            "saveSpace", good(Design::SaveRestore), [](F& f) { f.saveFreeBytes = 1 << 20; }, "'/var/tmp' has no room for 1 GiB",
            "handover.save_directory"),
        changed(
            "secondCopy", good(Design::Copy), [](F& f) { f.availableBytes = gibibyte - 1; }, "second copy of guest RAM",
            "shares guest RAM"),
        changed(
            "cgroup", good(),
            [](F& f) {
                f.room = MemoryRoom{"/vms", 100 << 20, 90 << 20, 10 << 20};
            },
            "'/vms' has room for 10 MiB (its limit is 100 MiB, in use are 90 MiB), and the new VMM needs at least 16 MiB",
            "raise the limit"),
        changed(
            "cgroupForCopy", good(Design::Copy),
            [](F& f) {
                f.room = MemoryRoom{"/vms", gibibyte, 0, gibibyte};
            },
            "needs at least 1040 MiB", "raise the limit"),
        changed(
            "file", good(),
            [](F& f) {
                f.missingFiles = {{"/boot/vmlinuz", "No such file or directory"}};
            },
            "'/boot/vmlinuz', which the new VMM needs, cannot be opened: No such file", "put it back"),
        changed(
            "pause", good(Design::SaveRestore), [](F& f) { f.definition.handover.pauseBudget = std::chrono::seconds(1); },
            "would pause the guest for 2048 ms or longer, and its pause budget is 1000 ms", "--pause-budget")),
    nameOf);

INSTANTIATE_TEST_SUITE_P(
    OfTheVmms, PreflightRefusal,
    testing::Values(changed(
                        "notRunning", good(), [](F& f) { f.oldLives = false; }, "the VM is not running",
                        "start it with the new VMM"),
                    changed(
                        "silentMonitor", good(), [](F& f) { f.monitorProblem = "no answer within 10000 ms"; },
                        "the old VMM's monitor does not answer: no answer within 10000 ms", "another client"),
                    changed(
                        "newIsNone", good(),
                        [](F& f) {
                            f.newBinary.reset();
                            f.newBinaryProblem = {"'/bin/true' is not a working QEMU", "name another"};
                        },
                        "the new VMM: '/bin/true' is not a working QEMU", "name another"),
                    changed(
                        "machine", good(), [](F& f) { f.definition.machine = "pc-q35-7.2"; },
                        "'/opt/qemu' (QEMU 11.1.3) has no machine type 'pc-q35-7.2'", "still has it"),
                    changed(
                        "models", good(),
                        [](F& f) {
                            f.newBinary->missingModels = {"qxl", "vmware-svga"};
                        },
                        "lacks the device model 'qxl', 'vmware-svga'", "install the package"),
                    changed(
                        "newWithoutCpr", good(), [](F& f) { f.newBinary->version = "9.2.0"; }, "that needs QEMU 10.0 or newer",
                        "use design 'manager-owned'"),
                    changed(
                        "newWithoutCprOfVmmMemory", good(Design::VmmOwned), [](F& f) { f.newBinary->version = "9.2.0"; },
                        "that needs QEMU 10.0 or newer", "use design 'copy'"),
                    changed(
                        "newWithoutChannels", good(Design::Copy), [](F& f) { f.newBinary->version = "8.1.0"; },
                        "that needs QEMU 8.2", "newer one"),
                    changed(
                        "newWithoutExec", good(Design::VmmExec), [](F& f) { f.newBinary->version = "10.1.0"; },
                        "cannot be executed in the old one's place: that needs QEMU 10.2 or newer on both sides", "'relayed'"),
                    changed(
                        "oldWithoutCpr", good(), [](F& f) { f.old.version = "9.2.0"; },
                        "the old VMM, QEMU 9.2.0, cannot hand over by CPR", "use design 'manager-owned'"),
                    changed(
                        "oldWithoutCprOrChannels", good(), [](F& f) { f.old.version = "7.2.22"; }, "cannot hand over by CPR",
                        "use design 'copy'"),
                    changed(
                        "oldWithoutChannels", good(Design::ManagerOwned), [](F& f) { f.old.version = "7.2.22"; },
                        "that needs QEMU 8.2", "use design 'copy'"),
                    changed(
                        "oldWithoutFiles", good(Design::SaveRestore), [](F& f) { f.old.version = "7.2.22"; },
                        "cannot save its guest to a file: that needs QEMU 8.2", "use design 'copy'"),
                    changed(
                        "oldWithoutExec", good(Design::VmmExec), [](F& f) { f.old.version = "10.1.4"; },
                        "cannot execute another one in its place", "'relayed'"),
                    changed(
                        "oldIsNoQemu", good(Design::VmmExec), [](F& f) { f.old.kind = "reference VMM"; },
                        "the old VMM, reference VMM 11.1.3, is no QEMU, and only that can execute another one", "'relayed'"),
                    changed(
                        "newIsNoQemu", good(Design::VmmExec), [](F& f) { f.newBinary->kind = "reference VMM"; },
                        "(reference VMM 11.1.3) is no QEMU, and only that can be executed in another one's place", "'relayed'"),
                    changed(
                        "backTo100", good(Design::VmmOwned), [](F& f) { f.newBinary->version = "10.0.2"; },
                        "QEMU 10.0.2 cannot read the CPR state of QEMU 11.1.3", "use design 'relayed'"),
                    changed(
                        "exec", good(Design::VmmExec),
                        [](F& f) {
                            f.execProblem = {"its sandbox", "use 'relayed'"};
                        },
                        "its sandbox", "use 'relayed'")),
    nameOf);

INSTANTIATE_TEST_SUITE_P(
    OfTheGuest, PreflightRefusal,
    testing::Values(
        changed(
            "impostor", good(), [](F& f) { f.guest.isOwnAnswer = false; }, "another process than the old VMM, pid 4711, answers",
            "it may have the guest"),
        changed(
            "state", good(), [](F& f) { f.guest.runState = "io-error"; }, "the guest is in the state 'io-error'",
            "find out what has stopped it"),
        changed(
            "blockJob", good(), [](F& f) { f.guest.hasBlockJobs = true; }, "a block job is running", "wait for it or cancel it"),
        changed(
            "listener", good(), [](F& f) { f.guest.listeners = {"tcp 0.0.0.0:4444"}; }, "listens on 'tcp 0.0.0.0:4444'",
            "remove that"),
        changed(
            "tap", good(), [](F& f) { f.guest.taps = {"tap7"}; }, "has the tap 'tap7'", "'networks'"),
        changed(
            "deletedFile", good(), [](F& f) { f.guest.deletedFiles = {"/tmp/vl.x"}; }, "'/tmp/vl.x', which has no name any more",
            "remove that"),
        changed(
            "blocker", good(), [](F& f) { f.guest.blockers = {"non-migratable device: x"}; },
            "cannot hand its guest over: non-migratable device: x", "by hotplug or with a power-cycle"),
        changed(
            "serial", good(), [](F& f) { f.guest.serials = {"ser0"}; }, "'pci-serial-2x' ('ser0')", "by hotplug"),
        changed(
            "nvme", good(), [](F& f) { f.guest.drivelessNvmes = {"/machine/peripheral/n0"}; }, "without 'drive='", "by hotplug"),
        changed(
            "privateRam", good(), [](F& f) { f.guest.privateRamBlock = "pc.ram"; },
            "RAM block 'pc.ram' of the old VMM is private memory of its own", "use design 'manager-owned', or power-cycle"),
        changed(
            "privateRamOfExec", good(Design::VmmExec), [](F& f) { f.guest.privateRamBlock = "pc.ram"; },
            "an exec would lose its content", "share=on")),
    nameOf);

TEST(Preflight, findsNothingAgainstWhatIsRight) {
    for (const DesignRow& row : designRows) EXPECT_FALSE(obstacleTo(good(row.design)).has_value()) << row.name;
    for (const Design design : {Design::Relayed, Design::VmmOwned}) EXPECT_FALSE(obstacleTo(withDevice(design)).has_value());
    HandoverFacts paused = good();
    paused.guest.runState = "paused";
    EXPECT_FALSE(obstacleTo(paused).has_value());
    HandoverFacts ancient = good(Design::Copy);
    ancient.old.version = "7.2.22";
    EXPECT_FALSE(obstacleTo(ancient).has_value());
}

TEST(Preflight, isNotStoppedByWhatIsNotKnownYet) {
    HandoverFacts facts = good();
    facts.newBinary.reset();
    facts.old = {};
    facts.guest.runState.clear();
    EXPECT_FALSE(obstacleTo(facts).has_value());
}

TEST(Preflight, refusesToCommitWhatWasReplacedSinceItWasProbed) {
    const FileStamp probed{1, 2, 3, 4, 5}, other{1, 7, 3, 4, 5}, gone{};
    EXPECT_FALSE(changeOfInstalled("/opt/qemu", probed, probed, "").has_value());
    const auto whatOf = [](const std::optional<Obstacle>& obstacle) {
        EXPECT_THAT(obstacle.value_or(Obstacle{}).remedy, HasSubstr("prepare the upgrade again"));
        return obstacle.value_or(Obstacle{}).what;
    };
    EXPECT_THAT(whatOf(changeOfInstalled("/opt/qemu", probed, other, "")),
                HasSubstr("'/opt/qemu' was replaced after it was probed"));
    EXPECT_THAT(whatOf(changeOfInstalled("/opt/qemu", probed, gone, "")),
                HasSubstr("'/opt/qemu' was deleted after it was probed"));
    EXPECT_THAT(whatOf(changeOfInstalled("/opt/qemu", probed, probed, "/lib/libc.so")),
                HasSubstr("'/lib/libc.so', which the new VMM runs, was deleted or replaced after its start"));
}

TEST(Preflight, knowsWhichVmmsLoseWritesOfARunningGuest) {
    HandoverFacts facts = good(Design::Copy);
    facts.old.version = "8.2.0";
    EXPECT_FALSE(losesWritesOfRunningGuest(facts)) << "KVM tells of every write";
    facts.definition.accelerator = Accelerator::Tcg;
    EXPECT_TRUE(losesWritesOfRunningGuest(facts));
    facts.old.version = "9.0.0";
    EXPECT_FALSE(losesWritesOfRunningGuest(facts));
}

}  // namespace
}  // namespace vh
