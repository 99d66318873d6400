// Handovers of a real guest between real QEMUs: what must work, and what must not hurt when it does not.
//
// One VM lives through all the tests of a design. Each test makes one thing go wrong, asserts that the guest goes on under the
// old VMM with nothing lost, and then that a good upgrade of the same VM works.

#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "manager/service/terminal.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

class HandoverTest : public testing::TestWithParam<Design> {
 protected:
    // googletest has no set-up for each parameter of a suite, so the VM is made by the first test that needs one of its design.
    static inline std::map<Design, std::unique_ptr<OwnHost>> vms;

    void SetUp() override {
        std::unique_ptr<OwnHost>& vm = vms[GetParam()];
        if (!vm) {
            vm = std::make_unique<OwnHost>();
            vm->workspace.makeRuntimeSmall();
            const char* owner = GetParam() == Design::VmmOwned ? "vmm" : "manager";
            const VerbResult started = vm->start({.owner = owner, .design = GetParam()}, patience);
            ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        }
        vm_ = vm.get();
        oldPid_ = vmmPid(host(), "vm");
        ASSERT_GT(oldPid_, 0) << "an earlier test lost the VM";
    }

    static void TearDownTestSuite() {
        // All are ended before any is looked at: they share this process's descriptors.
        for (auto& [design, vm] : vms) EXPECT_EQ(vm->destroy().code, ExitCode::Done);
        for (auto& [design, vm] : vms) vm->workspace.expectNothingLeft();
        vms.clear();
    }

    Host& host() { return vm_->host; }
    Workspace& workspace() { return vm_->workspace; }
    std::string definition() { return workspace().path() + "/vm.yaml"; }

    json upgradeTo(const std::string& binary, const Handover::Observer& observer = nullptr, UpgradeOptions options = {}) {
        options.binary = binary;
        options.design = GetParam();
        return vm_->upgrade(options, observer);
    }

    /// For a VMM that hangs.
    json impatientUpgradeTo(const std::string& binary, const Handover::Observer& observer = nullptr) {
        const Impatience impatience(workspace());
        return upgradeTo(binary, observer);
    }

    /// An observer that does something to the new VMM when a state begins.
    static Handover::Observer at(State state, const std::function<void(pid_t newPid)>& what) {
        return [state, what](const HandoverProgress& progress) {
            if (progress.state == state) what(progress.newPid);
        };
    }

    /// The report of a handover that must not have happened.
    void expectGuestStayed(const json& report, const testing::Matcher<std::string>& outcome,
                           const testing::Matcher<std::string>& cause) {
        EXPECT_THAT(report.value("outcome", ""), outcome) << report.dump(2);
        EXPECT_THAT(report.value("cause", ""), cause);
        EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
        if (report.value("outcome", "") == "rolled back") expectNothingLost(report);
        expectGuestIsWell(host(), "vm");
        expectGoodUpgrade(runningBinary());
    }

    void expectGoodUpgrade(const std::string& binary) {
        const json report = upgradeTo(binary);
        ASSERT_EQ(report.value("outcome", ""), "upgraded") << report.dump(2);
        // Errors are told at once, status lines some times a second, so a quick handover may have none. The count of mismatches
        // is for the guest's life: the next expectGuestIsWell() sees what comes of this one.
        expectNothingLost(report);
        EXPECT_EQ(report["ramCopiedBytes"], 0);
        EXPECT_TRUE(report["guest"]["pauseMs"].is_number());
        EXPECT_TRUE(report["vmm"]["stopToResumeMs"].is_number());
        EXPECT_TRUE(report["vmm"]["qemuDowntimeMs"].is_number()) << "every design of these stops the guest in a migration";
        EXPECT_NE(vmmPid(host(), "vm"), oldPid_);
    }

    std::string runningBinary() { return vm_->show()["binary"]; }

    OwnHost* vm_ = nullptr;
    int oldPid_ = 0;
};

/// What is refused before the design is looked at: once, then, and not for each.
class RefusalTest : public HandoverTest {};

TEST_P(RefusalTest, refusesABinaryThatDoesNotExist) {
    expectGuestStayed(upgradeTo("/nonexistent/qemu"), "refused", HasSubstr("'/nonexistent/qemu': No such file or directory"));
}

TEST_P(RefusalTest, refusesABinaryThatIsNotExecutable) {
    const std::string file = workspace().file("plain", "#!/bin/sh\n");
    expectGuestStayed(upgradeTo(file), "refused", HasSubstr("is not executable"));
}

TEST_P(RefusalTest, refusesABinaryThatIsNotAQemu) {
    expectGuestStayed(upgradeTo("/bin/true"), "refused", HasSubstr("is not a working QEMU: it exited with status 0"));
}

TEST_P(RefusalTest, refusesABinaryThatHangs) {
    expectGuestStayed(impatientUpgradeTo(workspace().script("hangs", "exec sleep 600")), "refused",
                      HasSubstr("did not answer as a QEMU within 15000 ms"));
}

TEST_P(HandoverTest, rollsBackWhenTheNewVmmExitsAtOnce) {
    expectGuestStayed(upgradeTo(workspace().impostor("echo 'no such luck' >&2; exit 7")), "rolled back",
                      HasSubstr("exited with status 7: no such luck"));
}

TEST_P(HandoverTest, rollsBackWhenTheNewVmmHangsAtItsStart) {
    expectGuestStayed(impatientUpgradeTo(workspace().impostor("exec sleep 600")), "rolled back",
                      HasSubstr("launching took longer than 15000 ms"));
}

TEST_P(HandoverTest, refusesANewVmmThatLacksADeviceModel) {
    // A root of QEMU 11.1 whose modules are not installed.
    const fs::path wrapper = newQemu(), root = wrapper.parent_path().parent_path() / "roots" / wrapper.filename();
    const fs::path poor = fs::path(workspace().path()) / "poor", usr = poor / "roots" / wrapper.filename() / "usr";
    fs::create_directories(poor / "bin");
    fs::copy_file(wrapper, poor / "bin" / wrapper.filename(), fs::copy_options::overwrite_existing);
    fs::create_directories(usr / "lib/x86_64-linux-gnu");
    for (const char* shared : {"bin", "share"})
        if (!fs::exists(usr / shared)) fs::create_directory_symlink(root / "usr" / shared, usr / shared);
    for (const auto& entry : fs::directory_iterator(root / "usr/lib/x86_64-linux-gnu"))
        if (entry.path().filename() != "qemu" && !fs::exists(usr / "lib/x86_64-linux-gnu" / entry.path().filename()))
            fs::create_symlink(entry.path(), usr / "lib/x86_64-linux-gnu" / entry.path().filename());
    expectGuestStayed(upgradeTo(poor / "bin" / wrapper.filename()), "refused",
                      HasSubstr("lacks the device model 'virtio-gpu-pci'"));
}

TEST_P(HandoverTest, rollsBackWhenARamBlockHasAnotherSize) {
    const json report = upgradeTo(workspace().impostor("exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32"));
    const json kept = vm_->show()["ramBlocks"]["blocks"];
    EXPECT_TRUE(std::ranges::any_of(kept,
                                    [](const json& block) {
                                        return block["idstr"].get<std::string>().ends_with("vga.vram") &&
                                               block["used_length"] == 16 << 20;
                                    }))
        << "what is kept is the old VMM's: " << kept.dump(2);
    expectGuestStayed(report, "rolled back", HasSubstr("vga.vram: used_length 16 MiB on the old VMM, 32 MiB on the new one"));
}

TEST_P(HandoverTest, keepsTheVmstateSectionThatTheVmmsWereComparedBy) {
    const json report = upgradeTo(newQemu());
    ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
    const json shown = vm_->show(), kept = shown["ramBlocks"];
    EXPECT_EQ(kept["blocks"].size(), report["ramBlocks"]["compared"]) << kept.dump(2);
    // It is the one of the VMM that has the guest now: its very files.
    const std::string compare = required("VH_SHIM") + " diff --same-files '" + kept["file"].get<std::string>() + "' '" +
                                shown["directory"].get<std::string>() + "/qmp.sock'";
    EXPECT_EQ(std::system(compare.c_str()), 0);
    EXPECT_THAT(showText(shown),
                AllOf(HasSubstr("vmm-shim dump " + kept["file"].get<std::string>()), HasSubstr("\n  pc.bios: ")));
}

TEST_P(HandoverTest, rollsBackWhenTheNewVmmDoesNotUnderstandADevice) {
    expectGuestStayed(upgradeTo(workspace().impostor("exec " + newQemu() + " \"$@\" -device no-such-device")), "rolled back",
                      HasSubstr("'no-such-device' is not a valid device model name"));
}

TEST_P(HandoverTest, rollsBackWhenTheNewVmmIsKilledAtAnyState) {
    for (const State state : {State::Exchanging, State::Verifying, State::Switching, State::Proving}) {
        SCOPED_TRACE(std::string(name(state)));
        oldPid_ = vmmPid(host(), "vm");
        const json report = upgradeTo(newQemu(), at(state, [](pid_t newPid) { ::kill(newPid, SIGKILL); }));
        expectGuestStayed(report, "rolled back",
                          AnyOf(HasSubstr("the new VMM was killed by signal 9"), HasSubstr("the old VMM"),
                                HasSubstr("closed its monitor"), HasSubstr("the new VMM ended")));
    }
}

TEST_P(HandoverTest, rollsBackWhenTheNewVmmIsKilledWhileTheStreamIsUnderWay) {
    // Stopped before the stream begins, it takes nothing in; the old VMM has stopped the guest when the new one is killed.
    EventSource later;
    const json report = upgradeTo(newQemu(), at(State::Switching, [&](pid_t newPid) {
                                      ::kill(newPid, SIGSTOP);
                                      later = EventSource::after(milliseconds(200), [newPid] { ::kill(newPid, SIGKILL); });
                                  }));
    expectGuestStayed(report, "rolled back", testing::Not(std::string()));
}

TEST_P(HandoverTest, rollsBackWhenTheNewVmmHangsAtAnyState) {
    for (const State state : {State::Exchanging, State::Verifying, State::Switching, State::Proving}) {
        SCOPED_TRACE(std::string(name(state)));
        oldPid_ = vmmPid(host(), "vm");
        const json report = impatientUpgradeTo(newQemu(), at(state, [](pid_t newPid) { ::kill(newPid, SIGSTOP); }));
        expectGuestStayed(
            report, "rolled back",
            state == State::Switching || state == State::Proving
                ? AnyOf(HasSubstr("the guest had been stopped for 1000 ms, its pause budget"), HasSubstr("took longer than"))
                : testing::Matcher<std::string>(AnyOf(HasSubstr("took longer than"), HasSubstr("no answer to"))));
    }
}

TEST_P(HandoverTest, rollsBackWhenAPersonAsksToStop) {
    for (const State state : {State::Launching, State::Exchanging, State::Verifying, State::Switching, State::Proving}) {
        SCOPED_TRACE(std::string(name(state)));
        oldPid_ = vmmPid(host(), "vm");
        EventSource later;
        const json report = upgradeTo(newQemu(), [&](const HandoverProgress& progress) {
            if (progress.state == state) later = EventSource::soon([this] { host().cancelHandovers("interrupted by the test"); });
        });
        // A request that comes when the point of no return is just being passed is too late, and the report says so.
        if (report["outcome"] == "upgraded") {
            EXPECT_EQ(state, State::Proving);
            continue;
        }
        expectGuestStayed(report, AnyOf("rolled back", "refused"), "interrupted by the test");
    }
}

TEST_P(RefusalTest, refusesWhenTheDefinitionFileWasChanged) {
    replaceIn(definition(), "192MiB", "256MiB");
    const json report = upgradeTo(newQemu());
    replaceIn(definition(), "256MiB", "192MiB");
    expectGuestStayed(report, "refused", HasSubstr("memory.size was '192MiB' and is now '256MiB'"));
    EXPECT_EQ(report.value("remedy", ""), "put it back, or power-cycle the VM to apply it");
}

TEST_P(RefusalTest, refusesWhenTheDefinitionFileHasBecomeInvalid) {
    fs::copy_file(definition(), definition() + ".good");
    std::ofstream(definition(), std::ios::app) << "nonsense: 1\n";
    const json report = upgradeTo(newQemu());
    fs::rename(definition() + ".good", definition());
    expectGuestStayed(report, "refused", HasSubstr("unknown key 'nonsense'"));
}

class FullDirectory {
 public:
    explicit FullDirectory(const std::string& directory) : file_(directory + "/filler") {
        std::ofstream output(file_, std::ios::binary);
        const std::string page(4096, 'x');
        while (output.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
        }
    }
    FullDirectory(const FullDirectory&) = delete;
    ~FullDirectory() { fs::remove(file_); }

 private:
    std::string file_;
};

TEST_P(HandoverTest, refusesWhenThereIsNoRoomForSockets) {
    json report;
    {
        const FullDirectory full(workspace().runtime());
        report = upgradeTo(newQemu());
    }
    expectGuestStayed(report, "refused", HasSubstr("the new VMM's sockets and record need 256 KiB"));
}

TEST_P(HandoverTest, rollsBackWhenTheRoomForSocketsIsGoneAfterPreflight) {
    std::unique_ptr<FullDirectory> full;
    const json report =
        upgradeTo(newQemu(), at(State::Launching, [&](pid_t) { full = std::make_unique<FullDirectory>(workspace().runtime()); }));
    full.reset();
    expectGuestStayed(report, "rolled back", HasSubstr("No space left on device"));
}

TEST_P(HandoverTest, rollsBackWhenADiskIsAnotherFileByNow) {
    const std::string disk = workspace().path() + "/vm.img";
    fs::rename(disk, disk + ".moved");
    fs::copy_file(disk + ".moved", disk);
    const json report = upgradeTo(newQemu());
    fs::rename(disk + ".moved", disk);
    expectGuestStayed(report, "rolled back", HasSubstr("is another file than the one the VM was started with"));
}

TEST_P(RefusalTest, refusesASecondUpgradeOfTheSameVm) {
    json second;
    const json first = upgradeTo(runningBinary(), [&](const HandoverProgress& progress) {
        if (progress.state != State::Exchanging) return;
        UpgradeOptions options;
        options.binary = newQemu();
        host().upgrade("vm", options, nullptr, [&](const VerbResult& result) { second = toJson(result); });
    });
    EXPECT_EQ(second.value("outcome", ""), "refused");
    EXPECT_THAT(second.value("cause", ""), HasSubstr("another command is at work on vm 'vm'"));
    EXPECT_EQ(first.value("outcome", ""), "upgraded") << first.dump(2);
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, refusesADesignThatDoesNotFitTheVmsMemory) {
    const Design other = GetParam() == Design::VmmOwned ? Design::ManagerOwned : Design::VmmOwned;
    const json report = vm_->upgrade({.binary = newQemu(), .design = other});
    expectGuestStayed(report, "refused", HasSubstr("does not fit a VM that was started with memory.owner"));
}

TEST_P(HandoverTest, touchesNothingInADryRun) {
    UpgradeOptions options;
    options.dryRun = true;
    const json report = upgradeTo(newQemu(), nullptr, options);
    EXPECT_EQ(report["outcome"], "ready");
    EXPECT_EQ(report["exitCode"], 0);
    EXPECT_EQ(report["new"]["pid"], 0);
    EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, leavesAPausedGuestPaused) {
    vm_->ask("stop");
    const json report = upgradeTo(runningBinary());
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(vm_->ask("query-status").value("running", true), false);
    vm_->ask("cont");
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, retriesOnceWhenTheDefinitionSaysSo) {
    fs::copy_file(definition(), definition() + ".good");
    replaceIn(definition(), "handover: {", "handover: {on_failure: retry, ");
    int cancelledAttempts = 0;
    EventSource later;
    const json cancelled = upgradeTo(runningBinary(), at(State::Exchanging, [&](pid_t) {
                                         ++cancelledAttempts;
                                         later = EventSource::soon([this] { host().cancelHandovers("a person has had enough"); });
                                     }));
    EXPECT_EQ(cancelled["outcome"], "rolled back") << cancelled.dump(2);
    EXPECT_EQ(cancelledAttempts, 1) << "who asks to stop does not want another try";
    int lateCancels = 0;
    const json late = upgradeTo(runningBinary(), [&](const HandoverProgress& progress) {
        if (progress.state == State::Exchanging) ::kill(progress.newPid, SIGKILL);
        if (progress.state != State::Discarding) return;
        ++lateCancels;
        later = EventSource::soon([this] { host().cancelHandovers("a person has had enough"); });
    });
    EXPECT_EQ(late["outcome"], "rolled back") << late.dump(2);
    EXPECT_EQ(lateCancels, 1) << "nor who asks when it goes back already";
    int attempts = 0;
    const json report = upgradeTo(runningBinary(), at(State::Exchanging, [&](pid_t newPid) {
                                      if (++attempts == 1) ::kill(newPid, SIGKILL);
                                  }));
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("an attempt before this one was rolled back: the new VMM was killed"));
    fs::rename(definition() + ".good", definition());
    EXPECT_EQ(attempts, 2);
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, upgradesFromTheOldReleaseToTheNewOneAndOn) {
    expectGoodUpgrade(newQemu());
    oldPid_ = vmmPid(host(), "vm");
    expectGoodUpgrade(newQemu());
    EXPECT_EQ(runningBinary(), newQemu());
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, goesBackToTheOldReleaseOrSaysWhyItCannot) {
    if (runningBinary() != newQemu()) expectGoodUpgrade(newQemu());
    oldPid_ = vmmPid(host(), "vm");
    if (GetParam() == Design::VmmOwned)
        return expectGuestStayed(upgradeTo(oldQemu()), "refused", HasSubstr("cannot read the CPR state of QEMU 11.1"));
    expectGoodUpgrade(oldQemu());
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, rollsBackWhenTheOldVmmHangsForAWhile) {
    // Launching asks the old VMM nothing; in Switching the guest would be its prisoner until it goes on.
    for (const State state : {State::Exchanging, State::Verifying}) {
        SCOPED_TRACE(std::string(name(state)));
        oldPid_ = vmmPid(host(), "vm");
        const json report = impatientUpgradeTo(newQemu(), [&](const HandoverProgress& progress) {
            if (progress.state == state) ::kill(oldPid_, SIGSTOP);
            if (progress.state == State::Discarding) ::kill(oldPid_, SIGCONT);
        });
        expectGuestStayed(report, "rolled back", AnyOf(HasSubstr("took longer than"), HasSubstr("no answer to")));
    }
}

TEST_P(HandoverTest, goesOnWhenTheOldVmmHangsForAMomentWhileItSwitches) {
    EventSource later;
    const json report = upgradeTo(runningBinary(), [&](const HandoverProgress& progress) {
        if (progress.state != State::Switching) return;
        ::kill(oldPid_, SIGSTOP);
        later = EventSource::after(milliseconds(300), [this] { ::kill(oldPid_, SIGCONT); });
    });
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    expectNothingLost(report);
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, endsAnOldVmmThatIsSilentOnceItHasHandedOver) {
    const json report = upgradeTo(runningBinary(), [&](const HandoverProgress& progress) {
        if (progress.state == State::Confirming) ::kill(oldPid_, SIGSTOP);
    });
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(report["oldVmmLeft"], false);
    EXPECT_TRUE(turnUntil([&] { return ::kill(oldPid_, 0) != 0; }, patience)) << "two VMMs of one guest";
    expectGuestIsWell(host(), "vm");
}

TEST_P(HandoverTest, endsTheNewVmmWhenTheOldOneDies) {
    const int oldPid = oldPid_;
    int newPid = 0;
    const json report = upgradeTo(newQemu(), [&](const HandoverProgress& progress) {
        if (progress.state != State::Verifying) return;
        newPid = progress.newPid;
        ::kill(oldPid, SIGKILL);
    });
    EXPECT_EQ(report["outcome"], "lost") << report.dump(2);
    EXPECT_EQ(report["exitCode"], 4);
    EXPECT_THAT(report["cause"].get<std::string>(), testing::MatchesRegex("the old VMM .* by itself"));
    EXPECT_TRUE(turnUntil([&] { return ::kill(newPid, 0) != 0; }, patience)) << "the new VMM lives on without a guest";
}

INSTANTIATE_TEST_SUITE_P(designs, HandoverTest, testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned),
                         [](const auto& test) { return testName(test.param); });
INSTANTIATE_TEST_SUITE_P(designs, RefusalTest, testing::Values(Design::Relayed),
                         [](const auto& test) { return testName(test.param); });

}  // namespace
}  // namespace vh::test
