// Design vmm-exec on real QEMUs: the old one executes the new one in its own process, and there is no way back from that. So what
// counts is what is found before it, and that nothing ends the one process when something goes wrong.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <gmock/gmock.h>

#include "tests/support/failure_matrix.h"
#include "tests/support/vm_fixture.h"
#include "tests/system/cpr_faults.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

/// What a process has open, by kind: a file's name, or what the kernel calls it, and how often.
std::map<std::string, int> openFiles(int pid) {
    std::map<std::string, int> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
        std::string target = fs::read_symlink(entry.path(), ignored);
        target.resize(std::min(target.size(), target.find(":[")));  // Of a socket's number.
        ++found[target.ends_with("/vmm.log") ? "vmm.log" : target];
    }
    return found;
}

/// A process has nothing open that it had not before, as soon as it has noticed that its clients have gone.
void expectNoMoreFiles(int pid, const std::map<std::string, int>& before) {
    const auto more = [&] {
        std::map<std::string, int> added;
        for (const auto& [kind, count] : openFiles(pid))
            if (const auto known = before.find(kind); known == before.end() || count > known->second) added[kind] = count;
        return added;
    };
    turnUntil([&] { return more().empty(); }, patience);
    EXPECT_EQ(more(), (std::map<std::string, int>{})) << "it had " << testing::PrintToString(before);
}

class VmmExecTest : public testing::Test {
 protected:
    // One VM for all tests that leave it as it was.
    static inline std::unique_ptr<OwnHost> shared;

    static VmOptions options() {
        VmOptions options;
        options.owner = "vmm";
        options.design = Design::VmmExec;
        options.binary = newQemu();
        return options;
    }

    static void start(OwnHost& vm, const VmOptions& options) {
        const VerbResult started = vm.start(options, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    }

    void SetUp() override {
        if (shared) return;
        shared = std::make_unique<OwnHost>();
        ASSERT_NO_FATAL_FAILURE(start(*shared, options()));
    }

    static void TearDownTestSuite() {
        if (shared) shared->end();
        shared.reset();
    }

    /// A VM of a test's own; the shared one makes way, since this process's descriptors are counted for both.
    OwnHost& own(const VmOptions& options) {
        TearDownTestSuite();
        own_ = std::make_unique<OwnHost>();
        start(*own_, options);
        return *own_;
    }
    void TearDown() override {
        if (own_) own_->end();
        own_.reset();
    }

    static json upgrade(OwnHost& vm, const std::string& binary, const Handover::Observer& observer = nullptr,
                        UpgradeOptions options = {}) {
        options.binary = binary;
        if (!options.design) options.design = Design::VmmExec;
        return vm.upgrade(options, observer);
    }

    static void expectUpgraded(OwnHost& vm, const json& report) {
        ASSERT_EQ(report.value("outcome", ""), "upgraded") << report.dump(2);
        expectNothingLost(report);
        EXPECT_TRUE(report["guest"]["pauseMs"].is_number()) << report.dump(2);
        EXPECT_TRUE(report["vmm"]["stopToResumeMs"].is_number());
        EXPECT_EQ(report["ramCopiedBytes"], 0);
        EXPECT_GT(report["bytesSent"], 1000);
        EXPECT_GT(report["ramBlocks"]["compared"], 5);
        EXPECT_THAT(report["warnings"].dump(), HasSubstr("has no way back"));
        EXPECT_EQ(report["old"]["pid"], report["new"]["pid"]);
        expectGuestIsWell(vm.host, "vm");
    }

    /// The report of an upgrade after which the guest must run on as before, and can be upgraded after all.
    static void expectGuestStayed(OwnHost& vm, int pid, const json& report, const std::string& outcome,
                                  const testing::Matcher<std::string>& cause) {
        EXPECT_EQ(report.value("outcome", ""), outcome) << report.dump(2);
        EXPECT_THAT(report.value("cause", ""), cause);
        EXPECT_EQ(vmmPid(vm.host, "vm"), pid);
        EXPECT_EQ(vm.show()["state"], "running");
        expectGuestIsWell(vm.host, "vm");
        expectUpgraded(vm, upgrade(vm, newQemu()));
    }

    static Handover::Observer at(State state, const std::function<void()>& what) {
        return [state, what](const HandoverProgress& progress) {
            if (progress.state == state) what();
        };
    }

    std::unique_ptr<OwnHost> own_;
};

/// A copy of the program that the VMM executes, which a test may spoil.
class SpoiltShim {
 public:
    explicit SpoiltShim(const Workspace& workspace) : before_(required("VH_SHIM")), path(workspace.path() + "/vmm-shim") {
        fs::copy_file(before_, path, fs::copy_options::overwrite_existing);
        ::setenv("VH_SHIM", path.c_str(), 1);
    }
    SpoiltShim(const SpoiltShim&) = delete;
    ~SpoiltShim() { ::setenv("VH_SHIM", before_.c_str(), 1); }

 private:
    std::string before_;

 public:
    const std::string path;
};

TEST_F(VmmExecTest, upgradesInOneProcessAgainAndAgain) {
    const int pid = vmmPid(shared->host, "vm");
    std::map<std::string, int> before;
    for (int round = 0; round < 4; ++round) {
        SCOPED_TRACE(round);
        const json report = upgrade(*shared, newQemu());
        ASSERT_NO_FATAL_FAILURE(expectUpgraded(*shared, report));
        EXPECT_EQ(vmmPid(shared->host, "vm"), pid);
        if (round == 0)  // The first exec changes what there is: until then its descriptors were those of a start.
            before = openFiles(pid);
        else
            expectNoMoreFiles(pid, before);
    }
}

TEST_F(VmmExecTest, hasItsMonitorAndConsoleInTheNewGeneration) {
    const std::string before = shared->show()["directory"];
    ASSERT_NO_FATAL_FAILURE(expectUpgraded(*shared, upgrade(*shared, newQemu())));
    const std::string after = shared->show()["directory"];
    EXPECT_NE(after, before);
    EXPECT_FALSE(fs::exists(before));
    const UniqueFd console = connectUnix(after + "/console.sock");
    std::string heard;
    const EventSource reader = EventSource::readable(console.get(), [&] {
        char buffer[1024];
        const ssize_t count = ::read(console.get(), buffer, sizeof(buffer));
        if (count > 0) heard.append(buffer, static_cast<std::size_t>(count));
    });
    EXPECT_EQ(sendSome(console.get(), "hello\n", 6), 6U);
    EXPECT_TRUE(turnUntil([&] { return heard.find("probe: echo hello") != std::string::npos; }, patience)) << heard;
    EXPECT_EQ(fs::read_symlink("/proc/" + shared->show()["pid"].dump() + "/fd/1"), after + "/vmm.log");
}

// The process on an older record is the right one, by pid and start time; what it uses is not there.
TEST_F(VmmExecTest, leavesAGuestAloneWhoseRecordIsOutOfDate) {
    const int pid = vmmPid(shared->host, "vm");
    const std::string record = shared->workspace.runtime() + "/vm/record.json", older = readFile(record);
    ASSERT_NO_FATAL_FAILURE(expectUpgraded(*shared, upgrade(*shared, newQemu())));
    const std::string right = readFile(record);
    std::ofstream(record) << older;
    for (const bool dryRun : {true, false}) {
        const json report = upgrade(*shared, newQemu(), nullptr, {.dryRun = dryRun});
        EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
        EXPECT_THAT(report.value("cause", ""),
                    AllOf(HasSubstr("pid " + std::to_string(pid)), HasSubstr("the record, an older one")));
    }
    std::ofstream(record) << right;
    expectGuestStayed(*shared, pid, upgrade(*shared, "/nonexistent"), "refused", HasSubstr("/nonexistent"));
}

TEST_F(VmmExecTest, saysInADryRunThatThereIsNoWayBack) {
    const json report = upgrade(*shared, newQemu(), nullptr, {.dryRun = true});
    EXPECT_EQ(report["outcome"], "ready") << report.dump(2);
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("has no way back"));
}

TEST_F(VmmExecTest, leavesAPausedGuestPaused) {
    shared->ask("stop");
    const json report = upgrade(*shared, newQemu());
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_FALSE(shared->ask("query-status").value("running", true));
    shared->ask("cont");
    expectGuestIsWell(shared->host, "vm");
}

TEST_F(VmmExecTest, handsOverAndBackToOtherDesigns) {
    // A relayed upgrade makes a new process, which can be executed over as the first one could.
    const int pid = vmmPid(shared->host, "vm");
    EXPECT_EQ(upgrade(*shared, newQemu(), nullptr, {.design = Design::Relayed})["outcome"], "upgraded");
    EXPECT_NE(vmmPid(shared->host, "vm"), pid);
    ASSERT_NO_FATAL_FAILURE(expectUpgraded(*shared, upgrade(*shared, newQemu())));
    EXPECT_EQ(upgrade(*shared, newQemu(), nullptr, {.design = Design::VmmOwned})["outcome"], "upgraded");
    expectGuestIsWell(shared->host, "vm");
}

TEST_F(VmmExecTest, refusesToStandBy) {
    expectGuestStayed(*shared, vmmPid(shared->host, "vm"), upgrade(*shared, newQemu(), nullptr, {.standby = true}), "refused",
                      HasSubstr("has nothing to hold"));
}

TEST_F(VmmExecTest, refusesANewVmmThatIsTooOld) {
    expectGuestStayed(*shared, vmmPid(shared->host, "vm"), upgrade(*shared, oldQemu()), "refused",
                      AllOf(HasSubstr("(QEMU 10.0."), HasSubstr("needs QEMU 10.2 or newer on both sides")));
}

TEST_F(VmmExecTest, refusesANewVmmThatDoesNotRun) {
    expectGuestStayed(*shared, vmmPid(shared->host, "vm"), upgrade(*shared, "/bin/true"), "refused",
                      HasSubstr("is not a working QEMU"));
}

TEST_F(VmmExecTest, rollsBackWhatTheRehearsalShows) {
    // None of these could be undone once the new VMM was executed.
    for (const auto& [argument, cause] : {std::pair("-global VGA.vgamem_mb=32", "vga.vram: used_length 16 MiB on the old VMM"),
                                          std::pair("-device no-such-device", "'no-such-device' is not a valid device model")}) {
        const std::string binary = shared->workspace.impostor("exec " + newQemu() + " \"$@\" " + argument);
        expectGuestStayed(*shared, vmmPid(shared->host, "vm"), upgrade(*shared, binary), "rolled back", HasSubstr(cause));
    }
}

TEST_F(VmmExecTest, refusesAShimThatTheVmmsUserMayNotExecute) {
    if (::geteuid() != 0) GTEST_SKIP() << "who is not root runs the VMM as himself, and may execute what he likes; run as root";
    const SpoiltShim shim(shared->workspace);
    ::chmod(shim.path.c_str(), 0700);
    const json report = upgrade(*shared, newQemu());
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_THAT(report["cause"].get<std::string>(), AllOf(HasSubstr(shim.path), HasSubstr("Permission denied")));
    EXPECT_THAT(report["remedy"].get<std::string>(), HasSubstr("make it readable and executable"));
    expectGuestIsWell(shared->host, "vm");
}

TEST_F(VmmExecTest, rollsBackWhenTheExecFails) {
    if (::geteuid() != 0) GTEST_SKIP() << "who is not root runs the VMM as himself, and may execute what he likes; run as root";
    const int pid = vmmPid(shared->host, "vm");
    const std::map<std::string, int> before = openFiles(pid);
    json report;
    {
        const SpoiltShim shim(shared->workspace);
        report = upgrade(*shared, newQemu(), at(State::Switching, [&] { ::chmod(shim.path.c_str(), 0600); }));
    }
    expectNothingLost(report);
    expectNoMoreFiles(pid, before);
    expectGuestStayed(*shared, pid, report, "rolled back", HasSubstr("execvp /proc/self/fd/"));
}

TEST_F(VmmExecTest, rollsBackWhenAPersonAsksToStopBeforeTheExec) {
    for (const State state : {State::Launching, State::Exchanging, State::Verifying}) {
        SCOPED_TRACE(std::string(name(state)));
        EventSource later;
        const json report =
            upgrade(*shared, newQemu(),
                    at(state, [&] { later = EventSource::soon([] { shared->host.cancelHandovers("stopped by the test"); }); }));
        expectGuestStayed(*shared, vmmPid(shared->host, "vm"), report, "rolled back", "stopped by the test");
    }
}

TEST_F(VmmExecTest, neverHarmsTheGuestWhenAPersonAsksToStopWhileItSwitches) {
    // Too early or too late, as it happens: the one rolls back, the other goes on.
    for (const int delayMs : {0, 2, 5, 10, 15, 20, 50, 200}) {
        SCOPED_TRACE(delayMs);
        EventSource later;
        const json report = upgrade(*shared, newQemu(), at(State::Switching, [&] {
            later = EventSource::after(milliseconds(delayMs), [] { shared->host.cancelHandovers("stopped by the test"); });
        }));
        ASSERT_THAT(report["outcome"], AnyOf("rolled back", "upgraded")) << report.dump(2);
        expectNothingLost(report);
        if (report["outcome"] == "rolled back") {
            EXPECT_EQ(report["cause"], "stopped by the test");
        }
        expectGuestIsWell(shared->host, "vm");
    }
}

TEST_F(VmmExecTest, neverHarmsTheGuestWhenThePauseBudgetIsUsedUp) {
    for (const int budgetMs : {1, 5, 10, 20, 100}) {
        SCOPED_TRACE(budgetMs);
        const json report = upgrade(*shared, newQemu(), nullptr, {.pauseBudget = milliseconds(budgetMs)});
        ASSERT_THAT(report["outcome"], AnyOf("rolled back", "upgraded")) << report.dump(2);
        expectNothingLost(report);
        const json& stopped = report["vmm"]["stopToResumeMs"];
        if (stopped.is_number() && stopped > budgetMs + 1) {
            EXPECT_THAT(report["warnings"].dump(), HasSubstr("longer than its pause budget"));
        }
        expectGuestIsWell(shared->host, "vm");
    }
}

TEST_F(VmmExecTest, rollsBackWhenADiskIsAnotherFileByNow) {
    const int pid = vmmPid(shared->host, "vm");
    const std::string disk = shared->workspace.path() + "/vm.img";
    fs::rename(disk, disk + ".moved");
    fs::copy_file(disk + ".moved", disk);
    const json report = upgrade(*shared, newQemu());
    fs::rename(disk + ".moved", disk);
    expectGuestStayed(*shared, pid, report, "rolled back", HasSubstr("is another file than the one the VM was started with"));
}

TEST_F(VmmExecTest, refusesAnOldVmmThatIsTooOld) {
    VmOptions old = options();
    old.binary = oldQemu();
    OwnHost& vm = own(old);
    const json report = upgrade(vm, newQemu());
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_THAT(report["cause"].get<std::string>(),
                AllOf(HasSubstr("the old VMM, QEMU 10.0."), HasSubstr("needs QEMU 10.2 or newer on both sides")));
    expectGuestIsWell(vm.host, "vm");
    // And comes there by another design, in two steps.
    EXPECT_EQ(upgrade(vm, newQemu(), nullptr, {.design = Design::Relayed})["outcome"], "upgraded");
    expectUpgraded(vm, upgrade(vm, newQemu()));
}

TEST_F(VmmExecTest, refusesAVmThatWasStartedWithASandboxThatForbidsIt) {
    VmOptions relayed = options();
    relayed.design = Design::Relayed;
    OwnHost& vm = own(relayed);
    const json report = upgrade(vm, newQemu());
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_THAT(report["cause"].get<std::string>(), HasSubstr("spawn=deny"));
    EXPECT_THAT(report["remedy"].get<std::string>(), HasSubstr("'vmm.sandbox: false'"));
    expectGuestIsWell(vm.host, "vm");
}

TEST_F(VmmExecTest, refusesAVmWhoseMemoryAnExecWouldLose) {
    VmOptions uncovered = options();
    uncovered.arguments = ", -object, 'memory-backend-ram,id=window,size=1M,share=off', -device, 'ivshmem-plain,memdev=window'";
    OwnHost& vm = own(uncovered);
    const json report = upgrade(vm, newQemu());
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_THAT(report["cause"].get<std::string>(), AllOf(HasSubstr("window' of the old VMM"), HasSubstr("an exec would lose")));
    expectGuestIsWell(vm.host, "vm");
}

TEST_F(VmmExecTest, saysWhatHappenedWhenTheExecutedVmmEnds) {
    OwnHost& vm = own(options());
    const int pid = vmmPid(vm.host, "vm");
    const json report = upgrade(vm, vm.workspace.impostor("echo 'no such luck' >&2; exit 7", Until::Executed));
    EXPECT_EQ(report["outcome"], "lost") << report.dump(2);
    EXPECT_EQ(report["exitCode"], 4);
    EXPECT_THAT(report["cause"].get<std::string>(),
                AllOf(HasSubstr("the new VMM ended: no such luck"), HasSubstr("there is no way back"),
                      HasSubstr("pid " + std::to_string(pid) + " has ended, and the guest with it")));
    // It can be started again, as after a crash.
    EXPECT_EQ(test::start(vm.host, vm.workspace.path() + "/vm.yaml", patience).code, ExitCode::Done);
}

TEST_F(VmmExecTest, leavesAnExecutedVmmThatHangsAlone) {
    OwnHost& vm = own(options());
    const int pid = vmmPid(vm.host, "vm");
    json report;
    {
        const Impatience impatience(vm.workspace);
        report = upgrade(vm, vm.workspace.impostor("kill -STOP $$", Until::Executed));
    }
    EXPECT_EQ(report["outcome"], "lost") << report.dump(2);
    EXPECT_THAT(report["cause"].get<std::string>(), HasSubstr("pid " + std::to_string(pid) + " is left as it is"));
    EXPECT_EQ(::kill(pid, 0), 0);
    // When it goes on after all, the next verb finds it and lets the guest run.
    ::kill(pid, SIGCONT);
    EXPECT_EQ(upgrade(vm, newQemu(), nullptr, {.dryRun = true})["outcome"], "ready");
    EXPECT_EQ(vmmPid(vm.host, "vm"), pid);
    expectGuestIsWell(vm.host, "vm");
    expectUpgraded(vm, upgrade(vm, newQemu()));
}

// What handover_loss_test.cpp does to the other designs. This one tells the new VMM its memory by the state that the process
// leaves to itself, which nobody can look at between the old VMM's last word and the new one's first.
class VmmExecLoss : public VmmExecTest {};

TEST_F(VmmExecLoss, isMetByTheRehearsalOfWhatItCanShow) {
    const std::map<std::string, std::string> scripts{{"`aux-ram-share` missing", withoutAuxRamShare()},
                                                     {"larger video memory", withLargerVideoMemory()}};
    for (const auto& [fault, script] : scripts) {
        SCOPED_TRACE(fault);
        const int pid = vmmPid(shared->host, "vm");
        const json report = upgrade(*shared, shared->workspace.impostor(script));
        expectAsInLossMatrix("vmm-exec", fault, report);
        expectGuestStayed(*shared, pid, report, "rolled back", testing::_);
    }
}

/// Changes the state that an executed QEMU reads (migration/cpr-exec.c of QEMU 11.1: a file whose number is in the environment).
std::string changedState(const std::string& from, const std::string& to) {
    return "state=/proc/$$/fd/$QEMU_CPR_EXEC_STATE\nat=$(grep --text --byte-offset --only-matching " + from +
           " $state | head -n 1 | cut -d : -f 1)\nprintf " + to + " | dd of=$state bs=1 seek=$at conv=notrunc 2>/dev/null";
}

TEST_F(VmmExecLoss, isNamedOfAStateThatIsWrong) {
    OwnHost& vm = own(options());
    const json report = upgrade(vm, vm.workspace.impostor(changedState("ram0", "ramX"), Until::Executed));
    expectAsInLossMatrix("vmm-exec", "an entry renamed", report);
    EXPECT_THAT(report.value("cause", ""), AllOf(HasSubstr("maps another file"), HasSubstr("there is no way back")));
}

class VmmExecCrashTest : public VmmExecTest {};

TEST_F(VmmExecCrashTest, aManagerThatDiesAtAnyStateLeavesTheGuestToTheNextOne) {
    // While it switches, the old VMM executes the new one, whether there is a manager or not.
    const std::vector<std::pair<std::string, std::string>> moments = {
        {"preflight", "4"},  {"launching", "0"},  {"launching", "4"},  {"exchanging", "0"},  {"verifying", "0"},
        {"verifying", "20"}, {"verifying", "40"}, {"switching", "0"},  {"switching", "1"},   {"switching", "5"},
        {"switching", "10"}, {"switching", "20"}, {"switching", "50"}, {"switching", "150"}, {"switching", "250"},
        {"proving", "0"},    {"confirming", "0"}, {"confirming", "2"}, {"retiring", "0"}};
    const int pid = vmmPid(shared->host, "vm");
    for (const auto& [state, delayMs] : moments) {
        SCOPED_TRACE(state + " + " + delayMs + " ms");
        const unsigned generation = VmDirectory(shared->workspace.runtime(), "vm").read()->vmm.generation;
        ASSERT_NO_FATAL_FAILURE(crashManager(shared->workspace, "vm", "vm", newQemu(), state, delayMs));
        std::string problem;
        shared->host.recoverAll([&](const std::string& line) { problem = line; });
        ASSERT_TRUE(turnUntil([&] { return shared->show().value("state", "") == "running" || !problem.empty(); }, patience))
            << shared->show().dump(2);
        ASSERT_EQ(problem, "");
        EXPECT_EQ(vmmPid(shared->host, "vm"), pid);
        const bool isOld = VmDirectory(shared->workspace.runtime(), "vm").read()->vmm.generation == generation;
        if (delayMs == "0")
            expectAsInFailureMatrix({Design::VmmExec, "manager", state, "die", isOld ? "on the old VMM" : "on the new VMM"});
        expectGuestIsWell(shared->host, "vm");
        ASSERT_NO_FATAL_FAILURE(expectUpgraded(*shared, upgrade(*shared, newQemu())));
    }
}

}  // namespace
}  // namespace vh::test
