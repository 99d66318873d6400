// The verbs on real QEMUs: starts, ends, what is recorded, and a manager that dies at any state of a handover.

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "tests/support/failure_matrix.h"
#include "tests/support/vm_fixture.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;

class HostTest : public HostFixture {};

TEST_F(HostTest, recordsTheMachineTypeBehindAnAliasAndKeepsIt) {
    VmOptions options;
    options.machine = "q35";
    ASSERT_EQ(start(options, patience).code, ExitCode::Done);
    EXPECT_EQ(show()["machine"], "pc-q35-10.0");
    const json report = upgrade({.binary = newQemu()});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(show()["machine"], "pc-q35-10.0") << "q35 means another machine to the new QEMU, and to no running guest";
    EXPECT_EQ(show()["binary"], newQemu());
    expectGuestIsWell(host, "vm");
}

/// An empty qcow2 image, made by QEMU itself (blockdev-create), since no image tool is among the tests' needs.
void createQcow2(const std::string& file, std::uint64_t sizeBytes) {
    std::ofstream(file).close();
    auto [ours, theirs] = unixPair();
    ChildProcess qemu = ChildProcess::launch({.argv = {newQemu(), "-machine", "none", "-nodefaults", "-display", "none",
                                                       "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"},
                                              .descriptors = {theirs.get()},
                                              .identity = {},
                                              .endsWithManager = true});
    QmpClient monitor(std::move(ours));
    bool concluded = false, ended = false;
    monitor.onEvent([&](const QmpEvent& event) {
        concluded = concluded || (event.name == "JOB_STATUS_CHANGE" && event.data.value("status", "") == "concluded");
    });
    const auto execute = [&](const std::string& command, const json& arguments) {
        monitor.execute(command, arguments, patience, [command](const QmpReply& reply) {
            EXPECT_TRUE(reply.ok()) << command << ": " << (reply.ok() ? "" : reply.error->description);
        });
    };
    execute("blockdev-add", {{"driver", "file"}, {"node-name", "target"}, {"filename", file}});
    execute("blockdev-create", {{"job-id", "make"}, {"options", {{"driver", "qcow2"}, {"file", "target"}, {"size", sizeBytes}}}});
    EXPECT_TRUE(turnUntil([&] { return concluded; }, patience));
    qemu.onExit([&] { ended = true; });
    execute("quit", nullptr);
    EXPECT_TRUE(turnUntil([&] { return ended; }, patience));
}

TEST_F(HostTest, handsOverAQcow2DiskAndANetworkOfTheVmmsOwn) {
    VmOptions options;
    options.more = "networks: [{id: net0, type: user}]\n";
    const std::string file = writeDefinition(workspace, options);
    replaceIn(file, "vm.img}", "vm.qcow2, format: qcow2, cache: none, serial: ABC-1}");
    createQcow2(workspace.path() + "/vm.qcow2", 64 * 1024 * 1024);
    const VerbResult started = test::start(host, file, patience);
    ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    for (const std::string& binary : {newQemu(), oldQemu()}) {
        const json report = upgrade({.binary = binary});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectGuestIsWell(host, "vm");
    }
}

/// Huge pages of 2 MiB for as long as it lives.
class HugePages {
 public:
    explicit HugePages(unsigned count) {
        std::ifstream(file) >> before_;
        std::ofstream(file) << before_ + count;
        unsigned now = 0;
        std::ifstream(file) >> now;
        reserved_ = now == before_ + count;
    }
    HugePages(const HugePages&) = delete;
    ~HugePages() { std::ofstream(file) << before_; }

    bool reserved() const { return reserved_; }

 private:
    static constexpr const char* file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    unsigned before_ = 0;
    bool reserved_ = false;
};

TEST_F(HostTest, handsOverHugePages) {
    const HugePages pages(96);
    if (!pages.reserved())
        GTEST_SKIP() << "the host cannot reserve 96 huge pages of 2 MiB: run as root on a host with free memory";
    for (const char* owner : {"manager", "vmm"}) {
        SCOPED_TRACE(owner);
        VmOptions options;
        options.owner = std::string(owner) + ", page_size: 2MiB";
        ASSERT_EQ(start(options, patience).code, ExitCode::Done);
        const json report = upgrade({.binary = newQemu()});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectGuestIsWell(host, "vm");
        destroy();
    }
}

TEST_F(HostTest, refusesANewVmmThatLacksTheMachineType) {
    VmOptions options;
    options.machine = "pc-q35-5.1";  // In QEMU 10.0, and no longer in 11.1.
    ASSERT_EQ(start(options, patience).code, ExitCode::Done);
    const int pid = show()["pid"];
    const json report = upgrade({.binary = newQemu()});
    EXPECT_EQ(report["outcome"], "refused");
    EXPECT_THAT(report["cause"].get<std::string>(), HasSubstr("has no machine type 'pc-q35-5.1'"));
    EXPECT_EQ(show()["pid"], pid);
    expectGuestIsWell(host, "vm");
    EXPECT_EQ(upgrade({.binary = oldQemu()})["outcome"], "upgraded");
    expectGuestIsWell(host, "vm");
}

TEST_F(HostTest, runsTheVmmUnprivilegedAndSandboxed) {
    ASSERT_EQ(start({}).code, ExitCode::Done);
    const std::string text = readFile("/proc/" + show()["pid"].dump() + "/status");
    if (::geteuid() == 0) {
        EXPECT_THAT(text, testing::Not(HasSubstr("Uid:\t0")));
        EXPECT_THAT(text, HasSubstr("CapEff:\t0000000000000000"));
    }
    EXPECT_THAT(text, HasSubstr("Seccomp:\t2"));
}

TEST_F(HostTest, givesTheVmmASessionOfItsOwn) {
    ASSERT_EQ(start({}).code, ExitCode::Done);
    const pid_t pid = show()["pid"];
    EXPECT_EQ(::getsid(pid), pid);
}

TEST_F(HostTest, refusesToStartAVmTwice) {
    ASSERT_EQ(start({}).code, ExitCode::Done);
    const VerbResult again = start({});
    EXPECT_EQ(again.code, ExitCode::Refused);
    EXPECT_THAT(again.value["error"].get<std::string>(), HasSubstr("vm 'vm' runs already, as pid"));
}

TEST_F(HostTest, refusesToStartAVmWhoseVmmRunsWithoutARecord) {
    ASSERT_EQ(start({}, patience).code, ExitCode::Done);
    const std::string record = workspace.runtime() + "/vm/record.json";
    const int pid = vmmPid(host, "vm");
    std::filesystem::rename(record, workspace.path() + "/kept");
    const VerbResult second = start({});
    EXPECT_EQ(second.code, ExitCode::Refused);
    EXPECT_THAT(second.value["error"].get<std::string>(),
                testing::AllOf(HasSubstr("pid " + std::to_string(pid)),
                               HasSubstr("is a VMM of it that no record names, and it holds a guest ('running')")));
    // With its whole directory gone nobody can ask it.
    std::filesystem::rename(workspace.runtime() + "/vm/1", workspace.path() + "/1");
    const VerbResult third = start({});
    EXPECT_EQ(third.code, ExitCode::Refused) << third.value;
    EXPECT_EQ(::kill(pid, 0), 0);
    std::filesystem::create_directories(workspace.runtime() + "/vm");
    std::filesystem::rename(workspace.path() + "/1", workspace.runtime() + "/vm/1");
    std::filesystem::rename(workspace.path() + "/kept", record);
    expectGuestIsWell(host, "vm");
}

TEST_F(HostTest, clearsAVmmAwayThatNeverRanItsGuest) {
    // What a manager leaves that is killed between starting a VMM and writing it down.
    ASSERT_EQ(start({}).code, ExitCode::Done);
    const int running = vmmPid(host, "vm");
    ::kill(running, SIGKILL);
    turnUntil([&] { return show()["state"] == "dead"; }, patience);
    const VmRecord record = *VmDirectory(workspace.runtime(), "vm").read();
    VmDefinition definition = record.definition();
    definition.disks.clear();
    std::unique_ptr<VmmProcess> stray = VmmProcess::launch({.definition = definition,
                                                            .directory = VmDirectory(workspace.runtime(), "vm"),
                                                            .generation = 2,
                                                            .binary = oldQemu(),
                                                            .ram = createGuestRam(definition, Identity::of("nobody"))});
    bool isUp = false;
    stray->monitor().execute("query-status", nullptr, patience, [&](const QmpReply& reply) { isUp = reply.ok(); });
    ASSERT_TRUE(turnUntil([&] { return isUp; }, patience));
    stray->closeMonitor();
    EXPECT_EQ(start({}, patience).code, ExitCode::Done);
    EXPECT_TRUE(turnUntil([&] { return !stray->alive(); }, patience));
    expectGuestIsWell(host, "vm");
}

TEST_F(HostTest, leavesNothingOfAStartThatFails) {
    VmOptions options;
    options.more = "networks: [{id: net0, type: tap, bridge: vh-none}]\n";
    const VerbResult started = start(options);
    EXPECT_EQ(started.code, ExitCode::Refused);
    EXPECT_THAT(started.value["error"].get<std::string>(), HasSubstr("'vh-none'"));
    EXPECT_EQ(wait([&](Verbs::Done done) { host.list(std::move(done)); }).value["vms"], json::array());
}

TEST_F(HostTest, saysWhatTheVmmSaidWhenItDoesNotStart) {
    VmOptions options;
    options.machine = "pc-q35-10.0";
    const std::string file = writeDefinition(workspace, options);
    replaceIn(file, "virtio-gpu-pci", "'VGA,no-such-property=1'");
    const VerbResult started = test::start(host, file);
    EXPECT_EQ(started.code, ExitCode::Refused);
    EXPECT_THAT(started.value["error"].get<std::string>(), HasSubstr("Property 'VGA.no-such-property' not found"));
}

TEST_F(HostTest, forgetsAVmWhoseVmmHasDied) {
    ASSERT_EQ(start({}).code, ExitCode::Done);
    const pid_t pid = show()["pid"];
    ::kill(pid, SIGKILL);
    EXPECT_TRUE(turnUntil([&] { return show()["state"] == "dead"; }, patience));
    EXPECT_EQ(whyNot(upgrade({.binary = newQemu()})), "the VM is not running; start it with the new VMM instead");
    EXPECT_EQ(start({}).code, ExitCode::Done) << "and starts again";
}

TEST_F(HostTest, shutsAGuestDownByItsPowerButton) {
    ASSERT_EQ(start({}, patience).code, ExitCode::Done);
    EXPECT_EQ(wait([&](Verbs::Done done) { host.shutdown("vm", milliseconds(60'000), std::move(done)); }).value["state"],
              "shut down");
    EXPECT_EQ(wait([&](Verbs::Done done) { host.show("vm", std::move(done)); }).code, ExitCode::Usage);
}

TEST_F(HostTest, copiesRamInTheBaselinesAndGoesBackFromThem) {
    ASSERT_EQ(start({}, patience).code, ExitCode::Done);
    const std::string bad = workspace.impostor("exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32");
    for (const Design design : {Design::Copy, Design::SaveRestore}) {
        SCOPED_TRACE(std::string(name(design)));
        UpgradeOptions options{.binary = bad, .design = design, .pauseBudget = milliseconds(60'000)};
        const json rolledBack = upgrade(options);
        EXPECT_EQ(rolledBack["outcome"], "rolled back") << rolledBack.dump(2);
        expectGuestIsWell(host, "vm");

        // After the guest was stopped and its state was saved.
        options.binary = newQemu();
        const json killed = upgrade(options, [](const HandoverProgress& progress) {
            if (progress.state == State::Proving) ::kill(progress.newPid, SIGKILL);
        });
        EXPECT_EQ(killed["outcome"], "rolled back") << killed.dump(2);
        expectNothingLost(killed);
        expectGuestIsWell(host, "vm");

        const json report = upgrade(options);
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectNothingLost(report);
        EXPECT_GT(report["ramCopiedBytes"], 32 * 1024 * 1024);
        EXPECT_EQ(report["vmm"]["qemuDowntimeMs"].is_number(), design == Design::Copy)
            << "a guest that was stopped before is not in QEMU's downtime: " << report["vmm"];
        expectGuestIsWell(host, "vm");
    }
    // And RAM that was received by copy is the manager's again, fit for the next handover without one.
    const json report = upgrade({.binary = newQemu(), .design = Design::ManagerOwned});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(report["ramCopiedBytes"], 0);
    expectGuestIsWell(host, "vm");
}

// QEMU 7.2 knows no CPR, and under TCG it loses what a guest writes while it copies its RAM: the guest crashed on the new VMM.
TEST_F(HostTest, copiesTheGuestOfAQemuThatKnowsNothingElse) {
    VmOptions options;
    options.withLinux = true;
    options.binary = required("VH_QEMU_OLDEST");
    options.machine = "pc-q35-7.2";
    ASSERT_EQ(start(options, patience).code, ExitCode::Done);
    EXPECT_THAT(whyNot(upgrade({.binary = newQemu(), .design = Design::Relayed})),
                AllOf(HasSubstr("cannot hand over by CPR"), HasSubstr("use design 'copy'")));
    EXPECT_THAT(
        upgrade({.binary = newQemu(), .design = Design::SaveRestore, .pauseBudget = milliseconds(60'000)}).value("cause", ""),
        HasSubstr("cannot save its guest to a file"));
    const json report = upgrade({.binary = oldQemu(), .design = Design::Copy, .pauseBudget = milliseconds(60'000)});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    expectNothingLost(report);
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("the guest is stopped while its RAM is copied"));
    EXPECT_TRUE(report["vmm"]["stopToResumeMs"].is_number());
    EXPECT_TRUE(report["vmm"]["qemuDowntimeMs"].is_null()) << "QEMU saw a guest that was stopped already";
    expectGuestIsWell(host, "vm");
    EXPECT_EQ(upgrade({.binary = newQemu(), .design = Design::Copy})["outcome"], "upgraded") << "from there on as any other";
    expectGuestIsWell(host, "vm");
}

/// For whoever migrates the VM next.
TEST_F(HostTest, leavesMigrationSettingsOfTheOldVmmAsTheyWere) {
    const VerbResult started = start({}, patience);
    ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    ask("migrate-set-parameters", {{"max-bandwidth", 7'000'000}, {"downtime-limit", 77}});
    const auto settings = [&] { return json{ask("query-migrate-parameters"), ask("query-migrate-capabilities")}; };
    const json before = settings();
    ASSERT_EQ(before[0]["max-bandwidth"], 7'000'000);
    const auto expectAsBefore = [&] { EXPECT_EQ(json::diff(before, settings()), json::array()); };
    const std::string bad = workspace.impostor("exec " + newQemu() + " \"$@\" -global VGA.vgamem_mb=32");
    for (const Design design : {Design::Relayed, Design::ManagerOwned, Design::Copy, Design::SaveRestore}) {
        SCOPED_TRACE(std::string(name(design)));
        const json report = upgrade({.binary = bad, .design = design, .pauseBudget = milliseconds(60'000)});
        EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
        expectAsBefore();
    }
    for (const Design design : {Design::Relayed, Design::ManagerOwned}) {
        SCOPED_TRACE(std::string(name(design)) + ", standing by");
        EXPECT_EQ(upgrade({.binary = newQemu(), .design = design, .standby = true})["outcome"], "standing by");
        expectAsBefore();
        EXPECT_EQ(wait([&](Verbs::Done done) { host.cancel("vm", std::move(done)); }).code, ExitCode::Done);
        expectAsBefore();
    }
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "vm", "vm", newQemu(), "verifying", "0"));
    EXPECT_EQ(upgrade({.binary = newQemu(), .dryRun = true})["outcome"], "ready") << "settled by that";
    expectAsBefore();
}

TEST_F(HostTest, refusesSaveRestoreThatCannotKeepThePauseBudget) {
    ASSERT_EQ(start({}).code, ExitCode::Done);
    const json report = upgrade({.binary = newQemu(), .design = Design::SaveRestore, .pauseBudget = milliseconds(100)});
    EXPECT_EQ(report["outcome"], "refused");
    EXPECT_THAT(report["cause"].get<std::string>(),
                HasSubstr("would pause the guest for 384 ms or longer, and its pause budget is 100 ms"));
}

TEST_F(HostTest, givesACopyUpThatDoesNotConverge) {
    VmOptions options;
    options.design = Design::Copy;
    options.handover = "pause_budget: 2ms, deadlines: {switch: 3s}";
    ASSERT_EQ(start(options, patience).code, ExitCode::Done);
    const json report = upgrade({.binary = newQemu()});
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    expectNothingLost(report);
    expectGuestIsWell(host, "vm");
}

TEST_F(HostTest, showsTheConsoleOfWhicheverVmmRunsTheGuest) {
    ASSERT_EQ(start({}, patience).code, ExitCode::Done);
    const auto echo = [&](const std::string& text) {
        const json place = wait([&](Verbs::Done done) { host.console("vm", std::move(done)); }).value;
        const UniqueFd socket = connectUnix(place["socket"]);
        std::string heard;
        const EventSource reader = EventSource::readable(socket.get(), [&] {
            char buffer[1024];
            const ssize_t count = ::read(socket.get(), buffer, sizeof(buffer));
            if (count > 0) heard.append(buffer, static_cast<std::size_t>(count));
        });
        const std::string line = text + "\n";
        EXPECT_EQ(sendSome(socket.get(), line.data(), line.size()), line.size());
        EXPECT_TRUE(turnUntil([&] { return heard.find("probe: echo " + text) != std::string::npos; }, patience)) << heard;
    };
    echo("before");
    ASSERT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
    echo("after");
}

class CrashTest : public HostTest, public testing::WithParamInterface<Design> {};

TEST_P(CrashTest, aManagerThatDiesAtAnyStateLeavesTheGuestToTheNextOne) {
    VmOptions options;
    options.owner = GetParam() == Design::VmmOwned ? "vmm" : "manager";
    options.design = GetParam();
    ASSERT_EQ(start(options, patience).code, ExitCode::Done);
    const std::vector<std::pair<std::string, std::string>> moments = {
        {"preflight", "4"},   {"launching", "0"},    {"launching", "4"}, {"exchanging", "0"}, {"verifying", "0"},
        {"standing by", "0"}, {"standing by", "50"}, {"switching", "0"}, {"switching", "4"},  {"proving", "0"},
        {"confirming", "0"},  {"confirming", "2"},   {"retiring", "0"}};
    for (const auto& [state, delayMs] : moments) {
        SCOPED_TRACE(state + " + " + delayMs + " ms");
        const pid_t old = vmmPid(host, "vm");
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "vm", "vm", newQemu(), state, delayMs));
        std::string problem;
        host.recoverAll([&](const std::string& line) { problem = line; });
        ASSERT_TRUE(turnUntil([&] { return show().value("state", "") == "running" || !problem.empty(); }, patience))
            << show().dump(2);
        ASSERT_EQ(problem, "");
        const bool isOld = vmmPid(host, "vm") == old;
        if (delayMs == "0")
            expectAsInFailureMatrix({GetParam(), "manager", state, "die", isOld ? "on the old VMM" : "on the new VMM"});
        EXPECT_TRUE(std::filesystem::is_empty(show()["directory"].get<std::string>() + "/incoming")) << "sockets are left";
        expectGuestIsWell(host, "vm");
        const json report = upgrade({.binary = newQemu()});
        ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectGuestIsWell(host, "vm");
    }
}

INSTANTIATE_TEST_SUITE_P(designs, CrashTest, testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned),
                         [](const auto& test) { return testName(test.param); });

}  // namespace
}  // namespace vh::test
