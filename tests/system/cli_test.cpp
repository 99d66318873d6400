// The command line as a person or a script meets it: embedded and through the daemon, in words, in JSON and by exit code.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;

class CliTest : public testing::Test {
 protected:
    void TearDown() override {
        run({"--embed", "destroy", "vm"});
        if (daemon_ > 0) endDaemon(SIGTERM);
        workspace.expectNothingLeft();
    }

    /// Starts a program of ours on the workspace's runtime directory, with its output in the files NAME.out and NAME.err.
    pid_t spawn(const std::string& program, const std::vector<std::string>& arguments, int input = -1,
                const std::string& name = "cli") {
        std::vector<std::string> command{program, "--runtime-dir", workspace.runtime()};
        command.insert(command.end(), arguments.begin(), arguments.end());
        return spawnProgram(workspace, command, name, input);
    }

    Ran collect(pid_t child, const std::string& name = "cli") { return collectProgram(workspace, child, name); }

    Ran run(const std::vector<std::string>& arguments) { return collect(spawn(required("VH_CLI"), arguments)); }

    void startDaemon() { daemon_ = test::startDaemon(workspace); }

    void endDaemon(int signal) {
        ::kill(daemon_, signal);
        int status = 0;
        EXPECT_EQ(::waitpid(std::exchange(daemon_, 0), &status, 0) > 0, true);
        if (signal == SIGTERM) {
            EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
        }
    }

    Workspace workspace;
    pid_t daemon_ = 0;
};

TEST_F(CliTest, tellsItsVersion) {
    const Ran ran = run({"version"});
    EXPECT_EQ(ran.code, 0);
    EXPECT_THAT(ran.output, MatchesRegex("virt-handover [0-9]+\\.[0-9]+\\.[0-9]+\n"));
    EXPECT_TRUE(json::parse(run({"--json", "version"}).output).contains("version"));
}

TEST_F(CliTest, exitsWithOneOnWrongUse) {
    EXPECT_EQ(run({}).code, 1);
    EXPECT_EQ(run({"fly"}).code, 1);
    EXPECT_THAT(run({"fly"}).error, StartsWith("virt-handover: there is no verb 'fly'; there are: start, upgrade, "));
    EXPECT_THAT(run({"--embed"}).error, StartsWith("virt-handover: no verb is given; there are: "));
    EXPECT_THAT(run({"upgrade"}).error, HasSubstr("VM is required; see 'virt-handover upgrade --help'"));
    EXPECT_THAT(run({"libvirt", "fly"}).error, StartsWith("virt-handover: there is no verb 'fly'; there are: check, "));
    for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--json"},
                                                  {"fly", "--json"},
                                                  {"--json", "upgrade"},
                                                  {"list", "--bogus", "--json"},
                                                  {"libvirt", "fly", "--json"}}) {
        const Ran ran = run(wrong);
        EXPECT_EQ(ran.code, 1);
        EXPECT_TRUE(json::parse(ran.output).contains("error"));
    }
    EXPECT_EQ(run({"--embed", "upgrade"}).code, 1);
    EXPECT_EQ(run({"--embed", "upgrade", "vm", "--design", "magic"}).code, 1);
    EXPECT_EQ(run({"--embed", "upgrade", "vm", "--design", "cpr-transfer"}).code, 1) << "only a comparison has that";
    EXPECT_THAT(run({"--embed", "upgrade", "vm", "--to", ""}).error, HasSubstr("--to: is empty"));
    for (const std::string verb : {"check", "upgrade"})
        EXPECT_THAT(run({"libvirt", verb, "web1", "--to", ""}).error, HasSubstr("--to: is empty"));
    const Ran budget = run({"--embed", "upgrade", "vm", "--pause-budget", "5"});
    EXPECT_EQ(budget.code, 1);
    EXPECT_THAT(budget.error, HasSubstr("'5'"));
    const Ran nobody = run({"--embed", "show", "nobody"});
    EXPECT_EQ(nobody.code, 1);
    // As it works when it is typed.
    const std::string remedy = "'virt-handover --embed --runtime-dir " + workspace.runtime() + " list' shows those that are";
    EXPECT_EQ(nobody.error, "virt-handover: vm 'nobody' is not running here\n  remedy: " + remedy + "\n");
    EXPECT_EQ(json::parse(run({"--embed", "show", "nobody", "--json"}).output)["remedy"], remedy);
    const Ran upgrade = run({"--embed", "upgrade", "nobody"});
    EXPECT_EQ(upgrade.code, 1);
    EXPECT_EQ(upgrade.error, nobody.error);
    const Ran elsewhere = run({"--embed", "destroy", "../vm"});
    EXPECT_EQ(elsewhere.code, 1);
    EXPECT_THAT(elsewhere.error, HasSubstr("'../vm' cannot be the name of a VM"));
    EXPECT_FALSE(std::filesystem::exists(workspace.path() + "/vm.lock"));
}

TEST_F(CliTest, exitsWithOneAndSaysAllThatIsWrongWithADefinition) {
    const std::string file =
        workspace.file("bad.yaml", "name: vm\nmachine: q35\nmemory: {size: 1}\nboot: {kernel: /k}\ncolour: red\n");
    const Ran ran = run({"--embed", "start", file});
    EXPECT_EQ(ran.code, 1);
    EXPECT_THAT(ran.error, HasSubstr(file + ":3:16: memory.size: found '1', expected"));
    EXPECT_THAT(ran.error, HasSubstr(file + ":5:1: unknown key 'colour'"));
}

TEST_F(CliTest, exitsWithFiveWhenTheManagerCannotBeReached) {
    const Ran ran = run({"list"});
    EXPECT_EQ(ran.code, 5);
    EXPECT_THAT(ran.error, HasSubstr("start virt-handoverd, or work without it: virt-handover --embed"));
    EXPECT_EQ(json::parse(run({"--json", "list"}).output).contains("error"), true);
}

TEST_F(CliTest, saysThatNothingRuns) {
    EXPECT_EQ(run({"--embed", "list"}).output, "no VMs are running here; 'virt-handover --embed --runtime-dir " +
                                                   workspace.runtime() + " start FILE.yaml' starts one\n");
    EXPECT_EQ(json::parse(run({"--embed", "--json", "list"}).output)["vms"], json::array());
}

TEST_F(CliTest, saysWhatRunsWhenItHasWaitedInVainForAHeartbeat) {
    const std::string file =
        workspace.file("vm.yaml", referenceDefinition("vm", workspace.referenceVmm("silent", "--silent-connections 9")));
    const Ran silent = run({"--embed", "start", file, "--wait-heartbeat", "300ms"});
    EXPECT_EQ(silent.code, 4) << silent.error;
    const json shown = json::parse(run({"--embed", "show", "vm", "--json"}).output);
    EXPECT_EQ(shown["state"], "running");
    EXPECT_THAT(silent.error, AllOf(HasSubstr("no heartbeat from the guest's probe, with its RAM filled, within 300 ms"),
                                    HasSubstr("the VM was started and runs on, as pid " + shown["pid"].dump()),
                                    HasSubstr(" console vm' "), HasSubstr(" destroy vm' ")));
}

TEST_F(CliTest, showsAnUpgradeStepByStepAndEndsWithItsFigures) {
    const std::string file = writeDefinition(workspace, {});
    const Ran started = run({"--embed", "start", file, "--wait-heartbeat", "90s"});
    ASSERT_EQ(started.code, 0) << started.error;
    EXPECT_THAT(started.output, MatchesRegex("vm: running on QEMU 10\\.0\\.[0-9]+, pid [0-9]+, pc-q35-10\\.0, tcg\n"));
    EXPECT_THAT(run({"--embed", "list"}).output, HasSubstr("pc-q35-10.0   tcg"));

    const Ran refused = run({"--embed", "upgrade", "vm", "--to", "/bin/true"});
    EXPECT_EQ(refused.code, 2);
    EXPECT_THAT(refused.output, HasSubstr("vm: refused   nothing was touched   design relayed"));
    EXPECT_THAT(refused.output, HasSubstr("cause: the new VMM: '/bin/true' is not a working QEMU: it exited with status 0"));

    const std::string bad = workspace.impostor("exit 9");
    const Ran rolledBack = run({"--embed", "upgrade", "vm", "--to", bad});
    EXPECT_EQ(rolledBack.code, 3);
    EXPECT_THAT(rolledBack.output, HasSubstr("vm: rolled back   the guest runs on QEMU 10.0"));

    const Ran dry = run({"--embed", "upgrade", "vm", "--to", newQemu(), "--dry-run"});
    EXPECT_EQ(dry.code, 0);
    EXPECT_THAT(dry.output, HasSubstr("dry run: preflight found nothing in the way"));

    const Ran upgraded = run({"--embed", "upgrade", "vm", "--to", newQemu()});
    EXPECT_EQ(upgraded.code, 0);
    for (const char* step :
         {"preflight", "launching", "exchanging", "verifying", "switching", "proving", "confirming", "retiring"})
        EXPECT_THAT(upgraded.output, HasSubstr(std::string("  ") + step));
    EXPECT_THAT(upgraded.output,
                testing::ContainsRegex("vm: upgraded   QEMU 10\\.0\\.[0-9]+ -> 11\\.1\\.[0-9]+   design relayed\n"
                                       "  guest pause [0-9.]+ ms \\(heartbeats\\)   [0-9.]+ ms \\(STOP to RESUME\\)   "
                                       "[0-9]+ ms \\(QEMU's downtime\\)   "
                                       "[0-9.]+ MB sent   0 of 192 MiB RAM copied   total [0-9.]+ s\n"));
    EXPECT_THAT(upgraded.output, testing::Not(HasSubstr("\033["))) << "colour is for terminals";

    const Ran asJson = run({"--embed", "upgrade", "vm", "--to", newQemu(), "--json"});
    EXPECT_EQ(asJson.code, 0);
    const json report = json::parse(asJson.output);
    EXPECT_EQ(report["outcome"], "upgraded");
    EXPECT_EQ(report["old"]["kind"], "QEMU");
    EXPECT_EQ(report["new"]["kind"], "QEMU");
    EXPECT_EQ(run({"--embed", "shutdown", "vm"}).output, "vm: shut down\n");
}

TEST_F(CliTest, connectsTheConsoleToWhicheverVmmRunsTheGuest) {
    const std::string file = writeDefinition(workspace, {});
    ASSERT_EQ(run({"--embed", "start", file, "--wait-heartbeat", "90s"}).code, 0);
    int input[2];
    ASSERT_EQ(::pipe2(input, O_CLOEXEC), 0);
    UniqueFd reading(input[0]), writing(input[1]);
    const pid_t child = spawn(required("VH_CLI"), {"--embed", "console", "vm"}, reading.get(), "console");
    reading.reset();
    const auto type = [&](const std::string& line) {
        EXPECT_EQ(::write(writing.get(), line.data(), line.size()), static_cast<ssize_t>(line.size()));
        return turnUntil(
            [&] {
                return readIfThere(workspace.path() + "/console.out").find("probe: echo " + line.substr(0, line.size() - 1)) !=
                       std::string::npos;
            },
            patience);
    };
    EXPECT_TRUE(type("before\n"));
    ASSERT_EQ(run({"--embed", "upgrade", "vm", "--to", newQemu()}).code, 0);
    // What is typed while the console moves to the new VMM may be lost, as on a line that is unplugged; so again until it is
    // there.
    bool echoed = false;
    for (int attempt = 0; attempt < 5 && !echoed; ++attempt) echoed = type("after" + std::to_string(attempt) + "\n");
    EXPECT_TRUE(echoed) << readIfThere(workspace.path() + "/console.out");
    EXPECT_EQ(run({"--embed", "destroy", "vm"}).code, 0);
    EXPECT_EQ(collect(child, "console").code, 0) << "the console ends with the VM";
}

TEST_F(CliTest, goesBackWhenItIsInterrupted) {
    const std::string file = writeDefinition(workspace, {});
    ASSERT_EQ(run({"--embed", "start", file, "--wait-heartbeat", "90s"}).code, 0);
    const std::string slow = workspace.impostor("exec sleep 600");
    const auto interrupted = [&](const std::vector<int>& signals) {
        std::ofstream(workspace.path() + "/cli.out").close();
        const pid_t child = spawn(required("VH_CLI"), {"--embed", "upgrade", "vm", "--to", slow});
        EXPECT_TRUE(turnUntil([&] { return readIfThere(workspace.path() + "/cli.out").find("launching") != std::string::npos; },
                              patience));
        for (const int signal : signals) ::kill(child, signal);
        const Ran ran = collect(child);
        EXPECT_EQ(ran.code, 3);
        return ran.output;
    };
    EXPECT_THAT(interrupted({SIGINT}), HasSubstr("cause: interrupted from the keyboard"));
    const auto inherited = ::signal(SIGHUP, SIG_DFL);
    EXPECT_THAT(interrupted({SIGHUP}), HasSubstr("cause: its terminal is gone (SIGHUP)"));
    ::signal(SIGHUP, SIG_IGN);  // As nohup(1) does.
    EXPECT_THAT(interrupted({SIGHUP, SIGTERM}), HasSubstr("cause: asked to terminate (SIGTERM)"));
    ::signal(SIGHUP, inherited);
    Host host(workspace.runtime(), "/nonexistent");
    expectGuestIsWell(host, "vm");
}

TEST_F(CliTest, exitsWithFiveWhenItIsInterruptedBeforeItHasAnswered) {
    const std::string file =
        workspace.file("vm.yaml", referenceDefinition("vm", workspace.referenceVmm("silent", "--silent-connections 9")));
    const pid_t child = spawn(required("VH_CLI"), {"--embed", "start", file, "--wait-heartbeat", "10min"}, -1, "start");
    ASSERT_TRUE(turnUntil([&] { return run({"--embed", "list"}).output.find("vm ") != std::string::npos; }, patience));
    ::kill(child, SIGINT);
    const Ran interrupted = collect(child, "start");
    EXPECT_EQ(interrupted.code, 5) << interrupted.output << interrupted.error;
    EXPECT_THAT(interrupted.error, AllOf(HasSubstr("interrupted from the keyboard"), HasSubstr(" list' shows what runs")));
}

TEST_F(CliTest, worksThroughTheDaemonWhichMayDieAtAnyMoment) {
    startDaemon();
    const std::string file = writeDefinition(workspace, {});
    const Ran started = run({"start", file, "--wait-heartbeat", "90s"});
    ASSERT_EQ(started.code, 0) << started.error;
    EXPECT_THAT(run({"list"}).output, HasSubstr("running"));
    EXPECT_EQ(json::parse(run({"show", "vm", "--json"}).output)["state"], "running");

    endDaemon(SIGKILL);
    EXPECT_EQ(run({"list"}).code, 5);
    startDaemon();
    const Ran upgraded = run({"upgrade", "vm", "--to", newQemu()});
    EXPECT_EQ(upgraded.code, 0) << upgraded.output << upgraded.error;
    EXPECT_THAT(upgraded.output, HasSubstr("verifying"));
    EXPECT_THAT(upgraded.output, HasSubstr("vm: upgraded   QEMU 10.0"));
    EXPECT_EQ(run({"upgrade", "vm", "--to", "/bin/true"}).code, 2);

    // Killed in the middle of a handover; the next one settles it when it starts.
    const std::string slow = workspace.impostor("exec sleep 600");
    const pid_t child = spawn(required("VH_CLI"), {"upgrade", "vm", "--to", slow});
    ASSERT_TRUE(
        turnUntil([&] { return readIfThere(workspace.path() + "/cli.out").find("launching") != std::string::npos; }, patience));
    endDaemon(SIGKILL);
    const Ran orphaned = collect(child);
    EXPECT_EQ(orphaned.code, 5);
    EXPECT_THAT(orphaned.error, HasSubstr("the manager went away before it answered"));
    startDaemon();
    EXPECT_TRUE(turnUntil([&] { return json::parse(run({"show", "vm", "--json"}).output)["state"] == "running"; }, patience));
    {
        Host host(workspace.runtime(), "/nonexistent");
        expectGuestIsWell(host, "vm");
    }
    EXPECT_EQ(run({"upgrade", "vm", "--to", newQemu()}).code, 0);

    // The daemon holds what stands by, and undoes it when it ends.
    const Ran prepared = run({"upgrade", "vm", "--to", newQemu(), "--standby"});
    EXPECT_EQ(prepared.code, 0) << prepared.output << prepared.error;
    EXPECT_THAT(prepared.output,
                HasSubstr("'virt-handover --runtime-dir " + workspace.runtime() + " commit vm' switches, 'cancel' undoes"));
    EXPECT_THAT(run({"list"}).output, HasSubstr("standing by"));
    EXPECT_THAT(run({"shutdown", "vm"}).error, HasSubstr("has an upgrade that stands by"));
    const Ran committed = run({"commit", "vm"});
    EXPECT_EQ(committed.code, 0) << committed.output << committed.error;
    EXPECT_THAT(committed.output, HasSubstr("switching"));
    EXPECT_THAT(committed.output, HasSubstr("vm: upgraded"));
    EXPECT_THAT(run({"commit", "vm"}).error, HasSubstr("vm 'vm' has no upgrade that stands by"));
    EXPECT_THAT(run({"cancel", "nobody"}).error, HasSubstr("vm 'nobody' is not running here"));
    ASSERT_EQ(run({"upgrade", "vm", "--to", newQemu(), "--standby"}).code, 0);
    EXPECT_EQ(run({"cancel", "vm"}).output, "vm: cancelled; the guest runs on the old VMM as before\n");
    for (const int signal : {SIGTERM, SIGKILL}) {
        ASSERT_EQ(run({"upgrade", "vm", "--to", newQemu(), "--standby"}).code, 0);
        endDaemon(signal);
        startDaemon();
        EXPECT_TRUE(turnUntil([&] { return json::parse(run({"show", "vm", "--json"}).output)["state"] == "running"; }, patience));
    }
    EXPECT_EQ(run({"upgrade", "vm", "--to", newQemu()}).code, 0);
    const std::string pid = json::parse(run({"show", "vm", "--json"}).output)["pid"].dump();
    EXPECT_THAT(run({"destroy", "vm"}).output, AllOf(StartsWith("vm: destroyed\n"), HasSubstr("  ended pid " + pid + " ('")));
}

TEST_F(CliTest, asksADaemonInVainThatIsAskedToEnd) {
    startDaemon();
    const std::string deaf = workspace.referenceVmm("deaf", "--fault quit=hang"), right = workspace.referenceVmm("right");
    const auto definition = [&](const std::string& vm) {
        return workspace.file(vm + ".yaml", referenceDefinition(vm, deaf, "handover: {deadlines: {retire: 10min}}\n"));
    };
    for (const std::string vm : {"vm", "other"}) ASSERT_EQ(run({"start", definition(vm)}).code, 0);
    const pid_t old = json::parse(run({"show", "vm", "--json"}).output)["pid"];
    // It waits for its old VMM's end, and is past the point where it can be cancelled.
    const pid_t child = spawn(required("VH_CLI"), {"upgrade", "vm", "--to", right}, -1, "last");
    const auto says = [&](const std::string& file, const std::string& word) {
        return turnUntil([&] { return readIfThere(workspace.path() + "/" + file).find(word) != std::string::npos; }, patience);
    };
    ASSERT_TRUE(says("last.out", "retiring"));
    ::kill(daemon_, SIGTERM);
    ASSERT_TRUE(says("daemon.err", "SIGTERM"));
    for (const std::vector<std::string>& tooLate :
         {std::vector<std::string>{"upgrade", "other", "--to", right}, {"start", definition("third")}}) {
        const Ran refused = run(tooLate);
        EXPECT_EQ(refused.code, 2) << refused.output << refused.error;
        EXPECT_THAT(refused.output + refused.error, AllOf(HasSubstr("virt-handoverd is asked to end"), HasSubstr("remedy: ")));
    }
    ::kill(old, SIGKILL);
    const Ran last = collect(child, "last");
    EXPECT_EQ(last.code, 0) << last.output << last.error;
    EXPECT_THAT(last.output, HasSubstr("vm: upgraded"));
    endDaemon(SIGTERM);
    EXPECT_EQ(run({"--embed", "destroy", "other"}).code, 0);
}

TEST_F(CliTest, holdsAnUpgradeItselfWhenThereIsNoDaemon) {
    const std::string file = writeDefinition(workspace, {});
    ASSERT_EQ(run({"--embed", "start", file, "--wait-heartbeat", "90s"}).code, 0);
    EXPECT_THAT(run({"--embed", "commit", "vm"}).error, HasSubstr("no command holds an upgrade of vm 'vm' that stands by"));
    std::string name;
    const auto prepare = [&](const std::string& holderName, const std::string& flag = "--embed") {
        name = holderName;
        const pid_t holder =
            spawn(required("VH_CLI"), {"--embed", "upgrade", "vm", "--to", newQemu(), "--standby", flag}, -1, name);
        EXPECT_TRUE(turnUntil(
            [&] { return readIfThere(workspace.path() + "/" + name + ".err").find("holding") != std::string::npos; }, patience));
        return holder;
    };
    pid_t holder = prepare("committed");
    const Ran committed = run({"--embed", "commit", "vm"});
    EXPECT_EQ(committed.code, 0) << committed.output << committed.error;
    EXPECT_THAT(committed.output, HasSubstr("vm: upgraded"));
    const Ran held = collect(holder, name);
    EXPECT_EQ(held.code, 0);
    EXPECT_THAT(held.output, HasSubstr("vm: upgraded"));

    holder = prepare("cancelled");
    EXPECT_EQ(run({"--embed", "cancel", "vm"}).code, 0);
    EXPECT_EQ(collect(holder, name).code, 3) << "what it was asked for was not done";

    // A script gets one document, which says how it ended; it sees in the VM's state when it can commit.
    holder = prepare("json", "--json");
    EXPECT_EQ(json::parse(run({"--embed", "show", "vm", "--json"}).output)["state"], "standing by");
    EXPECT_EQ(json::parse(run({"--embed", "commit", "vm", "--json"}).output)["outcome"], "upgraded");
    const Ran document = collect(holder, name);
    EXPECT_EQ(document.code, 0);
    EXPECT_EQ(json::parse(document.output)["outcome"], "upgraded");

    holder = prepare("interrupted");
    ::kill(holder, SIGINT);
    const Ran interrupted = collect(holder, name);
    EXPECT_EQ(interrupted.code, 3);
    EXPECT_THAT(interrupted.output, HasSubstr("cause: interrupted from the keyboard"));

    holder = prepare("killed");
    ::kill(holder, SIGKILL);
    collect(holder, name);
    const Ran upgraded = run({"--embed", "upgrade", "vm", "--to", newQemu()});
    EXPECT_EQ(upgraded.code, 0) << upgraded.output << upgraded.error;
    EXPECT_FALSE(std::filesystem::exists(workspace.runtime() + "/vm/manager.sock")) << "the killed command's socket is left";
    Host host(workspace.runtime(), "/nonexistent");
    expectGuestIsWell(host, "vm");
}

TEST_F(CliTest, refusesASecondDaemonOnTheSameSocket) {
    startDaemon();
    const Ran second = collect(spawn(required("VH_DAEMON"), {}));
    EXPECT_EQ(second.code, 1);
    EXPECT_THAT(second.error, HasSubstr("another virt-handoverd listens on"));
    EXPECT_EQ(run({"list"}).code, 0) << "the first one is unharmed";
}

}  // namespace
}  // namespace vh::test
