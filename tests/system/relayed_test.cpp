// What the design `relayed` adds: it goes back to an older QEMU, as often as one likes, and it can stand by.

#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;
namespace fs = std::filesystem;

/// What may not grow: a VMM's descriptors, and the sizes of the memory files it holds, by name.
struct Footprint {
    std::size_t descriptors = 0;
    std::multiset<std::pair<std::string, std::uint64_t>> memoryFiles;
};

Footprint footprintOf(int pid) {
    Footprint footprint;
    for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
        std::error_code closed;  // QEMU opens and closes some all the time.
        const std::string target = fs::read_symlink(entry.path(), closed);
        if (closed) continue;
        ++footprint.descriptors;
        struct stat status {};
        if (!target.starts_with("/memfd:") || ::stat(entry.path().c_str(), &status) != 0) continue;
        footprint.memoryFiles.emplace(target, static_cast<std::uint64_t>(status.st_size));
    }
    return footprint;
}

std::uint64_t ownResidentKiB() {
    std::ifstream status("/proc/self/status");
    std::string word;
    std::uint64_t kilobytes = 0;
    while (status >> word)
        if (word == "VmRSS:" && status >> kilobytes) break;
    return kilobytes;
}

class RelayedTest : public testing::Test {
 protected:
    static inline std::unique_ptr<OwnHost> vm;

    static void SetUpTestSuite() {
        vm = std::make_unique<OwnHost>();
        // A place to plug a device into.
        const VerbResult started =
            vm->start({.withLinux = true, .arguments = ", -device, 'pcie-root-port,id=slot0,chassis=1,slot=1'"}, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    }
    static void TearDownTestSuite() {
        vm->end();
        vm.reset();
    }
    void SetUp() override {
        oldPid_ = vmmPid(host(), "vm");
        ASSERT_GT(oldPid_, 0) << "an earlier test lost the VM";
    }

    static Host& host() { return vm->host; }
    static json upgrade(const UpgradeOptions& options, const Handover::Observer& observer = nullptr) {
        return vm->upgrade(options, observer);
    }
    json standBy(const std::string& binary) { return upgrade({.binary = binary, .standby = true}); }
    VerbResult commit(const Handover::Observer& observer = nullptr) {
        return wait([&](Verbs::Done done) { host().commit("vm", observer, std::move(done)); });
    }
    VerbResult cancel() {
        return wait([&](Verbs::Done done) { host().cancel("vm", std::move(done)); });
    }
    static std::string state() { return vm->show().value("state", ""); }
    static void expectNothingLost(const json& report) {
        test::expectNothingLost(report);
        expectGuestIsWell(host(), "vm");
    }

    int oldPid_ = 0;
};

TEST_F(RelayedTest, isWhatAnUpgradeDoesUnlessToldOtherwise) {
    const json report = upgrade({.binary = newQemu()});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(report["design"], "relayed");
    EXPECT_GT(report["ramBlocks"]["compared"], 5);
    EXPECT_EQ(report["ramBlocks"]["differences"], json::array());
    EXPECT_EQ(report["ramCopiedBytes"], 0);
    expectNothingLost(report);
}

TEST_F(RelayedTest, leavesVmsWhoseCprStateTheToolCanTake) {
    // A VMM that has taken a guest over says "completed" of its migration for good.
    const std::string out = vm->workspace.path() + "/capture.json", directory = vm->show()["directory"],
                      command = required("VH_SHIM") + " capture --json " + directory + "/qmp.sock >" + out;
    ASSERT_EQ(std::system(command.c_str()), 0);
    EXPECT_THAT(json::parse(readFile(out)).dump(), HasSubstr("pc.bios"));
    EXPECT_EQ(vm->ask("query-status")["running"], true);
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
}

TEST_F(RelayedTest, goesBackAndForthTwentyTimesWithoutGrowing) {
    std::map<std::string, Footprint> first;
    std::uint64_t residentKiB = 0;
    for (int round = 0; round < 20; ++round)
        for (const std::string& binary : {oldQemu(), newQemu()}) {
            SCOPED_TRACE("round " + std::to_string(round) + ", to " + binary);
            const json report = upgrade({.binary = binary});
            ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
            test::expectNothingLost(report);
            const Footprint now = footprintOf(vmmPid(host(), "vm"));
            if (!first.contains(binary)) first[binary] = now;
            // QEMU itself has some more or fewer at a given moment; one more a handover would be twenty by the end.
            EXPECT_LT(now.descriptors, first[binary].descriptors + 10);
            EXPECT_EQ(now.memoryFiles, first[binary].memoryFiles);
            if (round == 2) residentKiB = ownResidentKiB();
        }
    EXPECT_LT(ownResidentKiB(), residentKiB + 4096) << "the manager's own memory, in KiB";
    expectGuestIsWell(host(), "vm");
}

TEST_F(RelayedTest, standsByAndSwitchesOnCommit) {
    const json prepared = standBy(newQemu());
    EXPECT_EQ(prepared["outcome"], "standing by") << prepared.dump(2);
    EXPECT_EQ(prepared["exitCode"], 0);
    EXPECT_EQ(state(), "standing by");
    EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
    EXPECT_EQ(vm->ask("query-status")["running"], true) << "the old VMM's monitor is left to others meanwhile";
    EXPECT_EQ(vm->ask("query-migrate")["status"], "cancelled") << "and it is not kept in a migration";

    const VerbResult second =
        wait([&](Verbs::Done done) { host().upgrade("vm", {.binary = newQemu()}, nullptr, std::move(done)); });
    EXPECT_EQ(second.code, ExitCode::Refused);
    EXPECT_THAT(second.value["cause"].get<std::string>(), HasSubstr("has an upgrade that stands by"));
    EXPECT_THAT(second.value["remedy"].get<std::string>(), HasSubstr("'virt-handover commit vm' switches"));

    const VerbResult committed = commit();
    EXPECT_EQ(committed.code, ExitCode::Done);
    EXPECT_EQ(committed.value["outcome"], "upgraded") << committed.value.dump(2);
    EXPECT_EQ(state(), "running");
    EXPECT_NE(vmmPid(host(), "vm"), oldPid_);
    expectNothingLost(committed.value);
}

TEST_F(RelayedTest, standsByAndUndoesItOnCancel) {
    ASSERT_EQ(standBy(newQemu())["outcome"], "standing by");
    const VerbResult cancelled = cancel();
    EXPECT_EQ(cancelled.code, ExitCode::Done) << cancelled.value;
    EXPECT_EQ(state(), "running");
    EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
    EXPECT_EQ(cancel().code, ExitCode::Refused);
    const VerbResult late = commit();
    EXPECT_THAT(late.value["error"].get<std::string>(), HasSubstr("has no upgrade that stands by"));
    EXPECT_THAT(late.value["remedy"].get<std::string>(), HasSubstr("--standby"));
    expectGuestIsWell(host(), "vm");
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
}

TEST_F(RelayedTest, undoesAStandbyWhoseNewVmmDies) {
    pid_t newPid = 0;
    const json prepared =
        upgrade({.binary = newQemu(), .standby = true}, [&](const HandoverProgress& progress) { newPid = progress.newPid; });
    ASSERT_EQ(prepared["outcome"], "standing by");
    ::kill(newPid, SIGKILL);
    EXPECT_TRUE(turnUntil([&] { return static_cast<bool>(VmDirectory(vm->workspace.runtime(), "vm").tryLock()); }, patience));
    const VerbResult late = commit();
    EXPECT_EQ(late.code, ExitCode::Refused);
    EXPECT_THAT(late.value["error"].get<std::string>(), HasSubstr("stands by any more: the new VMM was killed by signal 9"));
    EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
    expectGuestIsWell(host(), "vm");
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
}

TEST_F(RelayedTest, rollsBackWhenTheNewVmmHangsAfterTheCommit) {
    for (const State at : {State::StandingBy, State::Switching}) {
        SCOPED_TRACE(std::string(name(at)));
        oldPid_ = vmmPid(host(), "vm");
        const Impatience impatience(vm->workspace);
        pid_t newPid = 0;
        const json prepared =
            upgrade({.binary = newQemu(), .standby = true}, [&](const HandoverProgress& progress) { newPid = progress.newPid; });
        ASSERT_EQ(prepared["outcome"], "standing by");
        if (at == State::StandingBy) ::kill(newPid, SIGSTOP);
        const VerbResult result = commit([&](const HandoverProgress& progress) {
            if (progress.state == at) ::kill(newPid, SIGSTOP);
        });
        EXPECT_EQ(result.code, ExitCode::RolledBack) << result.value.dump(2);
        EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
        expectNothingLost(result.value);
    }
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
}

TEST_F(RelayedTest, keepsTheGuestPausedThatWasPausedWhileItStoodBy) {
    ASSERT_EQ(standBy(newQemu())["outcome"], "standing by");
    vm->ask("stop");
    EXPECT_EQ(commit().value["outcome"], "upgraded");
    EXPECT_EQ(vm->ask("query-status")["status"], "paused");
    vm->ask("cont");
    expectGuestIsWell(host(), "vm");
}

TEST_F(RelayedTest, givesUpWithoutHarmWhenSomebodyKeepsTheOldVmmsMonitor) {
    ASSERT_EQ(standBy(newQemu())["outcome"], "standing by");
    {
        const UniqueFd other = connectUnix(vm->show()["directory"].get<std::string>() + "/qmp.sock");
        const VerbResult committed = commit();
        EXPECT_EQ(committed.code, ExitCode::RolledBack) << committed.value.dump(2);
        EXPECT_TRUE(committed.value["vmm"]["stopToResumeMs"].is_null()) << "the guest was never stopped";
    }
    EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
    expectGuestIsWell(host(), "vm");
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
}

TEST_F(RelayedTest, refusesToStandByWhereThereIsNothingToPrepare) {
    for (const Design design : {Design::Copy, Design::SaveRestore}) {
        const json report = upgrade({.binary = newQemu(), .design = design, .standby = true});
        EXPECT_EQ(report["outcome"], "refused");
        EXPECT_THAT(report["cause"].get<std::string>(), HasSubstr("has nothing to prepare"));
    }
}

TEST_F(RelayedTest, standsByInTheOtherDesignThatSharesThisMemory) {
    ASSERT_EQ(upgrade({.binary = newQemu(), .design = Design::ManagerOwned, .standby = true})["outcome"], "standing by");
    const VerbResult committed = commit();
    EXPECT_EQ(committed.value["outcome"], "upgraded") << committed.value.dump(2);
    expectNothingLost(committed.value);
}

/// A QEMU whose file is the test's own, so that it can be replaced under a VMM that runs it.
std::string ownCopy(const Workspace& workspace) {
    const fs::path wrapper = newQemu(), root = wrapper.parent_path().parent_path() / "roots" / wrapper.filename();
    fs::copy_file(root / "usr/bin/qemu-system-x86_64", workspace.path() + "/qemu", fs::copy_options::overwrite_existing);
    std::string text = readFile(wrapper);
    const auto replace = [&text](const std::string& what, const std::string& by) {
        for (std::size_t at; (at = text.find(what)) != std::string::npos;) text.replace(at, what.size(), by);
    };
    replace("${self%/*}/../roots/" + wrapper.filename().string(), root);
    replace("\"$root/usr/bin/qemu-system-x86_64\"", workspace.path() + "/qemu");
    return workspace.script("qemu-copy", text);
}

TEST_F(RelayedTest, commitsNothingThatIsNotInstalledAnyMore) {
    const std::string program = ownCopy(vm->workspace), image = vm->workspace.path() + "/qemu";
    const std::vector<std::pair<std::string, std::function<void()>>> changes = {
        {"'" + image + "', which the new VMM runs, was deleted or replaced", [&] { fs::remove(image); }},
        {"'" + image + "', which the new VMM runs, was deleted or replaced",
         [&] {
             fs::copy_file(image, image + "-new");
             fs::rename(image + "-new", image);
         }},
        {"'" + program + "' was replaced", [&] { std::ofstream(program, std::ios::app) << "# newer\n"; }},
        {"'" + program + "' was deleted", [&] { fs::remove(program); }},
    };
    for (const auto& [cause, change] : changes) {
        SCOPED_TRACE(cause);
        ownCopy(vm->workspace);
        const json prepared = standBy(program);
        ASSERT_EQ(prepared["outcome"], "standing by") << prepared.dump(2);
        change();
        const VerbResult result = commit();
        EXPECT_EQ(result.code, ExitCode::RolledBack) << result.value.dump(2);
        EXPECT_THAT(result.value.value("cause", ""), HasSubstr(cause));
        EXPECT_TRUE(result.value["vmm"]["stopToResumeMs"].is_null()) << "the guest was stopped for it";
        EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
        expectNothingLost(result.value);
    }
    ownCopy(vm->workspace);
    ASSERT_EQ(standBy(program)["outcome"], "standing by");
    const VerbResult committed = commit();
    EXPECT_EQ(committed.code, ExitCode::Done) << committed.value.dump(2);
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
}

// The last one: it leaves the machine with a device that no definition names.
TEST_F(RelayedTest, startsOverWhenADeviceWasPluggedMeanwhile) {
    ASSERT_EQ(standBy(newQemu())["outcome"], "standing by");
    vm->ask("device_add", {{"driver", "virtio-net-pci"}, {"id", "plugged"}, {"bus", "slot0"}});
    int launched = 0;
    const VerbResult committed =
        commit([&](const HandoverProgress& progress) { launched += progress.state == State::Launching; });
    EXPECT_EQ(launched, 1) << "it starts over with the machine as it is now";
    // And finds that the definition has no such device: nothing that a handover may guess.
    EXPECT_EQ(committed.code, ExitCode::RolledBack) << committed.value.dump(2);
    EXPECT_THAT(committed.value["cause"].get<std::string>(), HasSubstr("virtio-net-pci.rom"));
    EXPECT_THAT(committed.value["warnings"].dump(), HasSubstr("virtio-net-pci.rom' is new in the CPR state"));
    EXPECT_TRUE(committed.value["vmm"]["stopToResumeMs"].is_null()) << "the guest was never stopped";
    EXPECT_EQ(vmmPid(host(), "vm"), oldPid_);
    expectNothingLost(committed.value);
}

class RelayedMemoryOfTheVmmsOwn : public HostFixture {};

TEST_F(RelayedMemoryOfTheVmmsOwn, goesThroughTheChannelAsWell) {
    ASSERT_EQ(start({.owner = "vmm"}, patience).code, ExitCode::Done);
    for (const std::string& binary : {newQemu(), oldQemu()}) {
        const json report = upgrade({.binary = binary});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectNothingLost(report);
        expectGuestIsWell(host, "vm");
    }
    // In vmm-owned the old VMM has sent its state and waits; it can stand by as well, with its monitor kept from others.
    ASSERT_EQ(upgrade({.binary = newQemu(), .design = Design::VmmOwned, .standby = true})["outcome"], "standing by");
    EXPECT_EQ(wait([&](Verbs::Done done) { host.cancel("vm", std::move(done)); }).code, ExitCode::Done);
    ASSERT_EQ(upgrade({.binary = newQemu(), .design = Design::VmmOwned, .standby = true})["outcome"], "standing by");
    const json committed = wait([&](Verbs::Done done) { host.commit("vm", nullptr, std::move(done)); }).value;
    EXPECT_EQ(committed["outcome"], "upgraded") << committed.dump(2);
    expectGuestIsWell(host, "vm");
}

}  // namespace
}  // namespace vh::test
