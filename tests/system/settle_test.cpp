// What verbs make of the processes and the records that they find: none of them ends a process that may hold a guest, and each
// says what is in its way. The VMMs are reference VMMs; real QEMUs have their turn in host_test.cpp.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "manager/record/report.h"
#include "manager/vmm/strays.h"
#include "tests/support/undying.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

class SettleTest : public HostFixture {
 protected:
    void TearDown() override {
        host.onNotice(nullptr);
        for (const char* vm : {"a", "b"}) destroy(vm);
        workspace.expectNothingLeft();
    }

    /// A VMM that is a script; the guest's program is its last argument.
    std::string executing(const std::string& more = {}) {
        return workspace.referenceVmm(more.empty() ? "executing" : "executing-odd", more);
    }
    std::string starting() { return workspace.script("starting", reference + " \"$@\""); }
    /// Only when it is asked what it can do, it is the VMM itself.
    std::string startingLater() {
        return workspace.script("starting-later", "case \"$*\" in *'-machine none'*) exec " + reference + " \"$@\" ;; esac\n" +
                                                      reference + " \"$@\"");
    }

    std::string definition(const std::string& vm, const std::string& binary, const std::string& retire = "6s") {
        return workspace.file(
            vm + ".yaml",
            referenceDefinition(
                vm, binary,
                "handover: {pause_budget: 6s, deadlines: {launch: 30s, exchange: 4s, verify: 4s, switch: 5s, retire: " + retire +
                    "}}\n",
                "{size: 16MiB}"));
    }
    VerbResult start(const std::string& vm, const std::string& binary, const std::string& retire = "6s") {
        return test::start(host, definition(vm, binary, retire));
    }
    VmDirectory directory(const std::string& vm) const { return {workspace.runtime(), vm}; }
    std::string recordOf(const std::string& vm) const { return directory(vm).path() + "/record.json"; }

    /// What every verb but `destroy` answers.
    std::vector<std::string> refusals(const std::string& vm) {
        std::vector<std::string> said;
        const auto take = [&](const VerbResult& result) {
            EXPECT_EQ(result.code, ExitCode::Refused) << result.value;
            said.push_back(result.obstacle().text());
        };
        for (const bool dryRun : {true, false})
            take(wait([&](Verbs::Done done) {
                host.upgrade(vm, {.binary = executing(), .dryRun = dryRun}, nullptr, std::move(done));
            }));
        take(wait([&](Verbs::Done done) { host.shutdown(vm, milliseconds(2'000), std::move(done)); }));
        std::vector<std::string> found;
        host.recoverAll([&](const std::string& line) {
            if (line.starts_with("vm '" + vm + "'")) found.push_back(line);
        });
        EXPECT_TRUE(turnUntil([&] { return !found.empty(); }, patience));
        said.insert(said.end(), found.begin(), found.end());
        return said;
    }
    static bool lives(int pid) { return pid > 0 && ::kill(pid, 0) == 0; }
    /// It is reaped a moment after it has ended.
    static bool isGone(int pid) {
        return turnUntil([pid] { return !lives(pid); }, patience);
    }

    const std::string reference = required("VH_REFERENCE_VMM");
};

TEST_F(SettleTest, refusesAStartThatCannotBeWaitedFor) {
    const std::string file = definition("a", executing());
    replaceIn(file, "heartbeat: true", "heartbeat: false");
    const VerbResult refused = test::start(host, file, milliseconds(1'000));
    EXPECT_EQ(refused.code, ExitCode::Refused);
    EXPECT_THAT(refused.value.value("error", ""), HasSubstr("no heartbeat to wait for"));
}

TEST_F(SettleTest, refusesToStartAVmmThatIsNotTheStartedProcess) {
    for (const auto& [binary, what] : {std::pair{starting(), "starts it as a child of its own"},
                                       std::pair{startingLater(), "it is not the started process"}}) {
        const VerbResult started = start("a", binary);
        EXPECT_EQ(started.code, ExitCode::Refused) << started.value;
        EXPECT_THAT(started.obstacle().text(), AllOf(HasSubstr(what), HasSubstr("exec qemu")));
    }
    workspace.expectNothingLeft();
}

TEST_F(SettleTest, handsOverToNoVmmThatIsNotTheStartedProcess) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int pid = show("a")["pid"];
    const json report = upgrade("a", {.binary = starting()});
    EXPECT_THAT(report.value("outcome", ""), testing::AnyOf("rolled back", "refused")) << report.dump(2);
    EXPECT_THAT(whyNot(report), HasSubstr("; if it is a script, have it execute the VMM"));
    EXPECT_TRUE(lives(pid));
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
}

/// An older record in place of the right one, as somebody may put it back.
TEST_F(SettleTest, leavesAGuestAloneWhoseRecordIsOutOfDate) {
    // The second one's output is not in its generation's log, by which a VMM is known as well.
    const std::string log = workspace.file("other.log", "");
    ASSERT_EQ(::chmod(log.c_str(), 0666), 0);
    for (const std::string& more : {std::string(), ">>" + log + " 2>&1"}) {
        SCOPED_TRACE(more);
        const std::string binary = executing(more);
        const VerbResult started = start("a", binary);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        const std::string before = readFile(recordOf("a"));
        ASSERT_EQ(upgrade("a", {.binary = binary})["outcome"], "upgraded");
        const int pid = show("a")["pid"];
        const std::string right = readFile(recordOf("a"));
        std::ofstream(recordOf("a")) << before;
        for (const std::string& said : refusals("a"))
            EXPECT_THAT(said, AllOf(HasSubstr("pid " + std::to_string(pid)), HasSubstr("holds a guest ('running')"),
                                    HasSubstr("virt-handover destroy a")));
        EXPECT_EQ(start("a", binary).code, ExitCode::Refused);
        ASSERT_TRUE(lives(pid));
        std::ofstream(recordOf("a")) << right;
        const json report = upgrade("a", {.binary = binary});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_EQ(report["guest"]["errors"], json::array());
        ASSERT_EQ(destroy("a").code, ExitCode::Done);
    }
}

TEST_F(SettleTest, knowsItsVmsByWhateverNameTheRuntimeDirectoryHas) {
    const std::string link = workspace.path() + "/link";
    fs::create_directory_symlink(workspace.runtime(), link);
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    for (const std::string& name : {workspace.runtime() + "//", link, fs::relative(workspace.runtime()).string()}) {
        Host other(name, "/nonexistent");
        const json report = test::upgrade(other, "a", {.binary = executing()});
        EXPECT_EQ(report["outcome"], "upgraded") << name << ": " << report.dump(2);
    }
    Host other(link, "/nonexistent");
    EXPECT_EQ(test::destroy(other, "a").code, ExitCode::Done);
}

TEST_F(SettleTest, takesNoVmForAnotherOne) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    ASSERT_EQ(start("b", executing()).code, ExitCode::Done);
    const int a = show("a")["pid"], b = show("b")["pid"];
    fs::rename(recordOf("a"), workspace.path() + "/kept");
    fs::rename(recordOf("b"), recordOf("a"));
    fs::rename(workspace.path() + "/kept", recordOf("b"));
    for (const std::string& said : refusals("a")) EXPECT_THAT(said, HasSubstr("it is the record of vm 'b'"));
    for (const std::string& said : refusals("b")) EXPECT_THAT(said, HasSubstr("it is the record of vm 'a'"));
    EXPECT_EQ(start("a", executing()).code, ExitCode::Refused);
    ASSERT_TRUE(lives(a));
    ASSERT_TRUE(lives(b));
    // The way out that every refusal names: it ends this VM, and not the one that its record is of.
    const VerbResult destroyed = destroy("a");
    EXPECT_EQ(destroyed.code, ExitCode::Done) << destroyed.value;
    EXPECT_TRUE(isGone(a));
    EXPECT_TRUE(lives(b));
}

/// A record is what somebody wrote into it, as `vm`, pid and start time here.
TEST_F(SettleTest, destroysNoProcessThatIsNoVmmOfTheVm) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    ASSERT_EQ(start("b", executing()).code, ExitCode::Done);
    const int a = show("a")["pid"], b = show("b")["pid"];
    const std::string right = readFile(recordOf("a"));
    json record = json::parse(right);
    record["vmm"]["pid"] = b;
    record["vmm"]["startTime"] = Process(b).startTime();
    std::ofstream(recordOf("a")) << record;
    const VerbResult refused = destroy("a");
    EXPECT_EQ(refused.code, ExitCode::Refused) << refused.value;
    EXPECT_THAT(refused.value.value("error", ""), AllOf(HasSubstr("pid " + std::to_string(b)), HasSubstr("nothing was ended")));
    EXPECT_TRUE(lives(a));
    EXPECT_TRUE(lives(b));
    std::ofstream(recordOf("a")) << right;
}

TEST_F(SettleTest, removesWhatADestroyThatWasKilledHasLeft) {
    directory("a").makeGeneration(1, ::geteuid(), ::getegid());
    EXPECT_EQ(destroy("a").code, ExitCode::Usage);
    EXPECT_FALSE(fs::exists(directory("a").path()));
}

TEST_F(SettleTest, leavesARuntimeDirectoryThatIsThereAsItIs) {
    fs::create_directories(workspace.runtime());
    fs::permissions(workspace.runtime(), fs::perms::all | fs::perms::sticky_bit);
    EXPECT_EQ(destroy("a").code, ExitCode::Usage);
    EXPECT_EQ(fs::status(workspace.runtime()).permissions(), fs::perms::all | fs::perms::sticky_bit);
    fs::permissions(workspace.runtime(), fs::perms(0755));
}

TEST_F(SettleTest, saysNotReadyWhenAFileOfTheVmIsGone) {
    const std::string kernel = workspace.file("kernel", ""), file = definition("a", executing());
    replaceIn(file, "/dev/null", kernel);
    ASSERT_EQ(test::start(host, file).code, ExitCode::Done);
    fs::remove(kernel);
    const json report = upgrade("a", {.binary = executing(), .dryRun = true});
    EXPECT_EQ(report["outcome"], "refused");
    EXPECT_THAT(report.value("cause", ""), AllOf(HasSubstr("'" + kernel + "'"), HasSubstr("No such file")));
}

TEST_F(SettleTest, namesWhatItEndsBeforeItDestroysIt) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const std::string before = readFile(recordOf("a"));
    ASSERT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
    const int pid = show("a")["pid"];
    std::ofstream(recordOf("a")) << before;
    std::vector<std::string> said;
    host.onNotice([&](const std::string& line) {
        EXPECT_TRUE(lives(pid)) << line;
        said.push_back(line);
    });
    const VerbResult destroyed = destroy("a");
    EXPECT_EQ(destroyed.code, ExitCode::Done) << destroyed.value;
    EXPECT_TRUE(isGone(pid));
    ASSERT_EQ(said.size(), 1U);
    EXPECT_THAT(said.front(), AllOf(HasSubstr("pid " + std::to_string(pid)), HasSubstr("on no record")));
    ASSERT_EQ(destroyed.value["ended"].size(), 1U) << destroyed.value;
    EXPECT_EQ(destroyed.value["ended"][0]["pid"], pid);
    EXPECT_EQ(destroyed.value["ended"][0]["onRecord"], false);
    EXPECT_EQ(show("a").contains("state"), false);
}

TEST_F(SettleTest, leavesAloneWhatAVmmHasStartedForItself) {
    ASSERT_EQ(start("a", workspace.script("helped", "sleep 600 &\nexec " + reference + " \"$@\"")).code, ExitCode::Done);
    const int pid = show("a")["pid"];
    const auto strays = strayVmms(directory("a"), {pid});
    ASSERT_EQ(strays.size(), 1U);
    const json report = upgrade("a", {.binary = executing(), .dryRun = true});
    EXPECT_EQ(report["outcome"], "ready") << report.dump(2);
    EXPECT_TRUE(lives(strays.front().pid));
    // Until the VMM itself is ended.
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
    const int helper = strays.front().pid;
    EXPECT_TRUE(isGone(helper));
}

TEST_F(SettleTest, saysWhatIsWrongWithARecordAndNothingOfTheDefinition) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int pid = show("a")["pid"];
    const std::string right = readFile(recordOf("a"));
    const std::string notText = [&] {
        json value = json::parse(right);
        value["definitionText"] = json::array({value["definitionText"]});
        return value.dump();
    }();
    for (const std::string& damaged :
         {right.substr(0, right.find("heartbeat")), right.substr(0, 20), std::string("x"), notText}) {
        std::ofstream(recordOf("a")) << damaged;
        for (const std::string& said : refusals("a"))
            EXPECT_THAT(said, AllOf(HasSubstr("'" + recordOf("a") + "'"), HasSubstr("put the right record back"),
                                    testing::Not(HasSubstr("kernel"))));
    }
    EXPECT_TRUE(lives(pid));
    EXPECT_EQ(destroy("a").code, ExitCode::Done);
    EXPECT_TRUE(isGone(pid));
}

/// A manager that is killed when the VM's record says what `isSo` looks for.
class KilledStart {
 public:
    KilledStart(const Workspace& workspace, const std::string& definition, const std::function<bool()>& isSo)
        : child_(spawnProgram(
              workspace, {required("VH_CLI"), "--embed", "--runtime-dir", workspace.runtime(), "start", definition}, "start")) {
        EXPECT_TRUE(turnUntil(isSo, patience));
        ::kill(child_, SIGKILL);
        collectProgram(workspace, child_, "start");
    }

 private:
    pid_t child_;
};

TEST_F(SettleTest, undoesAStartThatWasCutShort) {
    for (const bool byVerb : {false, true}) {
        SCOPED_TRACE(byVerb);
        // As a manager leaves it that is killed between writing the VMM down and telling it to run the guest.
        ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
        VmRecord record = *directory("a").read();
        ASSERT_EQ(destroy("a").code, ExitCode::Done);
        const VmDefinition definition = record.definition();
        const std::unique_ptr<VmmProcess> vmm =
            VmmProcess::launch({.definition = definition,
                                .directory = directory("a"),
                                .generation = 1,
                                .binary = definition.vmm.binary,
                                .ram = createGuestRam(definition, Identity::of(definition.vmm.user))});
        bool isUp = false;
        vmm->monitor().execute("query-status", nullptr, patience, [&](const QmpReply& reply) { isUp = reply.ok(); });
        ASSERT_TRUE(turnUntil([&] { return isUp; }, patience));
        vmm->closeMonitor();
        record.vmm = vmm->record();
        record.starting = true;
        directory("a").write(record);
        const int pid = record.vmm.pid;
        EXPECT_EQ(show("a")["state"], "start interrupted");
        if (byVerb) {
            EXPECT_EQ(start("a", executing()).code, ExitCode::Done) << "and begins anew";
        } else {
            std::string said;
            host.recoverAll([&](const std::string& line) { said = line; });
            ASSERT_TRUE(turnUntil([&] { return !said.empty(); }, patience));
            EXPECT_THAT(said, HasSubstr("its start had been interrupted, and was undone"));
            EXPECT_FALSE(fs::exists(directory("a").path()));
        }
        EXPECT_TRUE(isGone(pid));
    }
}

TEST_F(SettleTest, finishesAStartWhoseManagerWasKilledWhenItHadToldTheVmmToRunTheGuest) {
    definition("a", executing("--fault cont=slow:1000"));
    const KilledStart killed(workspace, workspace.path() + "/a.yaml", [&] {
        const auto record = directory("a").read();
        return record && record->starting && record->vmm.pid > 0;
    });
    host.recoverAll([](const std::string&) {});
    // It depends on the moment whether the VMM had been told.
    ASSERT_TRUE(turnUntil([&] { return show("a").value("state", "gone") == "running" || !directory("a").read(); }, patience))
        << show("a").dump(2);
    const auto record = directory("a").read();
    EXPECT_FALSE(record && record->starting);
}

TEST_F(SettleTest, keepsAGuestThatRunsThoughNobodyWroteItDown) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int pid = show("a")["pid"];
    VmRecord record = *directory("a").read();
    record.starting = true;
    directory("a").write(record);
    EXPECT_EQ(start("a", executing()).code, ExitCode::Refused) << "it runs already";
    EXPECT_EQ(show("a")["state"], "running");
    record.starting = true;
    directory("a").write(record);
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
    EXPECT_TRUE(isGone(pid));
}

TEST_F(SettleTest, tellsHowTheGuestIsAndNotOnlyThatAProcessLives) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    ASSERT_EQ(start("b", executing()).code, ExitCode::Done);
    const int a = show("a")["pid"];
    const auto states = [&] {
        const json vms = wait([&](Verbs::Done done) { host.list(std::move(done)); }).value["vms"];
        return vms[0]["state"].get<std::string>() + ", " + vms[1]["state"].get<std::string>();
    };
    EXPECT_EQ(states(), "running, running");
    {
        VmmProcess vmm(directory("a").read()->vmm, directory("a").generation(1));
        bool stopped = false;
        vmm.monitor().execute("stop", nullptr, patience, [&](const QmpReply& reply) { stopped = reply.ok(); });
        ASSERT_TRUE(turnUntil([&] { return stopped; }, patience));
    }
    EXPECT_EQ(states(), "paused, running");
    ::kill(a, SIGSTOP);
    EXPECT_EQ(states(), "no answer, running");
    ::kill(a, SIGCONT);
    const UniqueFd lock = directory("b").tryLock();
    EXPECT_EQ(states(), "paused, busy") << "whoever is at work on it has the only connection to its monitor";
}

TEST_F(SettleTest, endsWhatAManagerLeftThatDiedWhileItEndedTheOldVmm) {
    for (const std::string state : {"retiring", "ending"}) {
        SCOPED_TRACE(state);
        ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
        const int old = show("a")["pid"];
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), state, "0"));
        host.recoverAll([](const std::string& line) { ADD_FAILURE() << line; });
        ASSERT_TRUE(turnUntil([&] { return show("a")["state"] == "running"; }, patience)) << show("a").dump(2);
        EXPECT_TRUE(isGone(old));
        EXPECT_FALSE(fs::exists(directory("a").generation(1))) << "what the old VMM had";
        EXPECT_TRUE(fs::exists(directory("a").generation(2)));
        EXPECT_EQ(directory("a").read()->retiring, std::nullopt);
        EXPECT_EQ(destroy("a").code, ExitCode::Done);
    }
}

/// On a host with too much to do `cont` took more than three seconds, and the guest was given up while it was about to run.
TEST_F(SettleTest, waitsForANewVmmThatTakesItsTimeToLetTheGuestRun) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int old = show("a")["pid"];
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing("--fault cont=slow:4000"), "confirming", "500"));
    const json ready = upgrade("a", {.binary = executing(), .dryRun = true});
    EXPECT_EQ(ready["outcome"], "ready") << ready.dump(2);
    EXPECT_THAT(ready.value("settledFirst", ""), HasSubstr("it was finished: the guest is on the new VMM"));
    EXPECT_NE(show("a")["pid"], old);
    EXPECT_EQ(show("a")["state"], "running");
    EXPECT_TRUE(isGone(old));
}

/// Asked again and again, one that answers all else would keep whoever recovers it, and so every verb, for two hours.
TEST_F(SettleTest, givesUpAnOldVmmThatDoesNotAnswerWhenItIsToLetTheGuestRun) {
    ASSERT_EQ(start("a", executing("--fault cont@2=slow:600000")).code, ExitCode::Done);
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), "proving", "0"));
    const json report = upgrade("a", {.binary = executing(), .dryRun = true});
    EXPECT_THAT(report.value("cause", ""), HasSubstr("the old VMM does not start the guest: no answer to 'cont'"))
        << report.dump(2);
}

/// What has been sent SIGKILL runs no guest any more, however long the kernel holds it: the guest that is well is not to pay for
/// that.
TEST_F(SettleTest, goesOnWithTheNewVmmWhileTheOldOneDoesNotEnd) {
    for (const std::string state : {"confirming", "retiring", "ending"}) {
        SCOPED_TRACE(state);
        ASSERT_EQ(start("a", executing(), "2s").code, ExitCode::Done);
        const int old = show("a")["pid"];
        Undying undying(old);
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), state, state == "confirming" ? "1" : "0"));
        const std::string text = "pid " + std::to_string(old);
        std::vector<std::string> said;
        host.recoverAll([&](const std::string& line) { said.push_back(line); });
        ASSERT_TRUE(turnUntil([&] { return !said.empty(); }, patience));
        EXPECT_THAT(said, testing::ElementsAre(AllOf(HasSubstr(text), HasSubstr("not even by SIGKILL"))));
        const int newPid = show("a")["pid"];
        EXPECT_NE(newPid, old);
        EXPECT_EQ(directory("a").read()->retiring.value_or(VmmRecord{}).pid, old) << "so that the next verb looks again";
        const json refused = upgrade("a", {.binary = executing()});
        EXPECT_EQ(refused["outcome"], "refused") << refused.dump(2);
        EXPECT_THAT(refused.value("cause", ""), HasSubstr(text));
        EXPECT_EQ(show("a")["state"], "running");
        if (state == "retiring") {
            const VerbResult ended = wait([&](Verbs::Done done) { host.shutdown("a", milliseconds(5'000), std::move(done)); });
            EXPECT_EQ(ended.code, ExitCode::Done) << ended.value;
            EXPECT_THAT(ended.value.value("warnings", json::array()).dump(), HasSubstr(text));
            EXPECT_TRUE(isGone(newPid));
            undying.release();
            EXPECT_TRUE(isGone(old));
            continue;
        }
        undying.release();
        EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
        EXPECT_TRUE(isGone(old));
        EXPECT_EQ(directory("a").read()->retiring, std::nullopt);
        EXPECT_EQ(destroy("a").code, ExitCode::Done);
    }
}

/// And the other way about: one that never had the guest does not keep the old one from it.
TEST_F(SettleTest, goesOnWithTheOldVmmWhileTheNewOneDoesNotEnd) {
    ASSERT_EQ(start("a", executing(), "2s").code, ExitCode::Done);
    const int old = show("a")["pid"];
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), "proving", "0"));
    const int newPid = directory("a").read()->new_.value_or(VmmRecord{}).pid;
    ASSERT_TRUE(lives(newPid));
    Undying undying(newPid);
    std::vector<std::string> said;
    host.recoverAll([&](const std::string& line) { said.push_back(line); });
    ASSERT_TRUE(turnUntil([&] { return !said.empty(); }, patience));
    EXPECT_THAT(said, testing::ElementsAre(AllOf(HasSubstr("pid " + std::to_string(newPid)), HasSubstr("not even by SIGKILL"))));
    EXPECT_EQ(show("a")["state"], "running");
    EXPECT_EQ(show("a")["pid"], old);
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "refused");
    EXPECT_EQ(show("a")["state"], "running");
    undying.release();
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
    EXPECT_TRUE(isGone(newPid));
    EXPECT_TRUE(isGone(old));
}

TEST_F(SettleTest, remembersANewVmmThatDoesNotEndWhenItIsDiscarded) {
    ASSERT_EQ(start("a", executing(), "2s").code, ExitCode::Done);
    const int old = show("a")["pid"];
    int newPid = 0;
    std::optional<Undying> undying;
    const json report = upgrade("a", {.binary = executing("--fault verify=exit:3")}, [&](const HandoverProgress& progress) {
        if (progress.state != State::Exchanging) return;
        newPid = progress.newPid;
        undying.emplace(newPid);
    });
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report["warnings"].dump(), AllOf(HasSubstr("pid " + std::to_string(newPid)), HasSubstr("not even by SIGKILL")));
    const json refused = upgrade("a", {.binary = executing()});
    EXPECT_THAT(refused.value("cause", ""), HasSubstr("pid " + std::to_string(newPid)));
    EXPECT_THAT(refused.value("remedy", ""), HasSubstr("'/proc/" + std::to_string(newPid) + "/stack'"));
    EXPECT_EQ(show("a")["state"], "running");
    EXPECT_EQ(show("a")["pid"], old);
    undying->release();
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
    EXPECT_TRUE(isGone(newPid));
}

/// The record has room for one.
TEST_F(SettleTest, makesNoFurtherAttemptBesideANewVmmThatDoesNotEnd) {
    const std::string file = definition("a", executing());
    replaceIn(file, "handover: {", "handover: {on_failure: retry, ");
    ASSERT_EQ(test::start(host, file).code, ExitCode::Done);
    int launched = 0;
    std::optional<Undying> undying;
    const json report = upgrade("a", {.binary = executing("--fault verify=exit:3")}, [&](const HandoverProgress& progress) {
        launched += progress.state == State::Launching;
        if (progress.state == State::Exchanging && launched == 1) undying.emplace(progress.newPid);
    });
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_EQ(launched, 1);
    EXPECT_TRUE(directory("a").read()->retiring) << "it is not forgotten";
    undying.reset();
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
}

TEST_F(SettleTest, removesGenerationsThatNoVmmUses) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    directory("a").makeGeneration(7, ::geteuid(), ::getegid());
    EXPECT_EQ(upgrade("a", {.binary = executing(), .dryRun = true})["outcome"], "ready");
    EXPECT_FALSE(fs::exists(directory("a").generation(7)));
    EXPECT_TRUE(fs::exists(directory("a").generation(1)));
}

/// A manager was killed between starting a VMM, which hangs, and writing its pid down.
TEST_F(SettleTest, endsASilentVmmThatWasJustBeingStartedWhenTheRecordedOneRunsTheGuest) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int pid = show("a")["pid"];
    directory("a").makeGeneration(2, ::geteuid(), ::getegid());
    const pid_t hanging = ::fork();
    if (hanging == 0) {
        const int log = ::open((directory("a").generation(2) + "/vmm.log").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ::dup2(log, STDOUT_FILENO);
        ::execl("/bin/sleep", "sleep", "600", nullptr);
        ::_exit(127);
    }
    EXPECT_TRUE(turnUntil([&] { return isVmmOf(directory("a"), hanging); }, patience));
    // On no record, it may be anybody's, and have the guest.
    EXPECT_THAT(refusals("a"), testing::Each(HasSubstr("pid " + std::to_string(hanging))));
    EXPECT_TRUE(lives(hanging));

    VmRecord record = *directory("a").read();
    record.new_ = VmmRecord{.generation = 2, .binary = "/bin/sleep"};
    directory("a").write(record);
    // Whoever asks for anything is told what was done before.
    const json refused = upgrade("a", {.binary = "/nonexistent"});
    EXPECT_EQ(refused["outcome"], "refused") << refused;
    EXPECT_THAT(refused.value("settledFirst", ""),
                HasSubstr("was undone: the guest is on the old VMM, pid " + std::to_string(pid)));
    EXPECT_THAT(reportText(handoverReportFromJson(refused)),
                AllOf(HasSubstr("nothing more was touched"), HasSubstr("  first: an earlier manager")));
    const json ready = upgrade("a", {.binary = executing(), .dryRun = true});
    EXPECT_EQ(ready["outcome"], "ready");
    EXPECT_FALSE(ready.contains("settledFirst")) << "there was nothing any more";
    EXPECT_EQ(::waitpid(hanging, nullptr, 0), hanging);
    EXPECT_EQ(show("a")["pid"], pid);
    EXPECT_EQ(show("a")["state"], "running");
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
}

/// H1 of the audit: silence must not be the way to live on beside the new VMM.
TEST_F(SettleTest, endsAnOldVmmThatIsSilentOnceItHasHandedOver) {
    for (const State silentFrom : {State::Confirming, State::Retiring, State::Ending}) {
        SCOPED_TRACE(std::string(name(silentFrom)));
        ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
        const int old = show("a")["pid"];
        const json report = upgrade("a", {.binary = executing()}, [&](const HandoverProgress& progress) {
            if (progress.state == silentFrom) ::kill(old, SIGSTOP);
        });
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_EQ(report["oldVmmLeft"], false);
        EXPECT_TRUE(isGone(old));
        EXPECT_EQ(destroy("a").code, ExitCode::Done);
    }
    for (const std::string answer : {"query-migrate=5", "query-migrate={\"ram\":5}", "quit=5"}) {
        SCOPED_TRACE(answer);
        ASSERT_EQ(start("a", executing("--answer '" + answer + "' --fault quit=lie")).code, ExitCode::Done);
        const int old = show("a")["pid"];
        const json report = upgrade("a", {.binary = executing(), .design = Design::ManagerOwned});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_TRUE(isGone(old));
        EXPECT_EQ(destroy("a").code, ExitCode::Done);
    }
}

/// An answer of the wrong type is no answer, and ends no verb in an endless wait. All at once: most of it is waiting.
TEST_F(SettleTest, goesOnWhateverTypeAnAnswerHas) {
    struct Odd {
        std::string answer, vm;
        int old = 0;
    };
    std::vector<Odd> all;
    for (const std::string command :
         {"query-status", "query-version", "query-block-jobs", "query-migrate", "migrate-set-capabilities",
          "migrate-set-parameters", "x-query-ramblock", "qom-list", "migrate", "migrate_cancel", "cont"})
        for (const std::string odd : {"5", "{\"status\":{},\"human-readable-text\":1}"})
            all.push_back({command + "=" + odd, "odd-" + std::to_string(all.size())});
    const std::string good = executing();
    for (Odd& one : all) {
        SCOPED_TRACE(one.answer);
        ASSERT_EQ(start(one.vm, workspace.referenceVmm("executing-" + one.vm, "--answer '" + one.answer + "'")).code,
                  ExitCode::Done);
        one.old = show(one.vm)["pid"];
        crashManager(workspace, one.vm, one.vm, good, "exchanging", "1");
    }
    const auto ofAll = [&](const std::function<void(const std::string& vm, Verbs::Done done)>& verb) {
        std::vector<std::optional<VerbResult>> results(all.size());
        for (std::size_t i = 0; i < all.size(); ++i)
            verb(all[i].vm, [&results, i](VerbResult result) { results[i] = std::move(result); });
        EXPECT_TRUE(turnUntil([&] { return std::ranges::all_of(results, [](const auto& result) { return result.has_value(); }); },
                              milliseconds(300'000)));
        return results;
    };
    ofAll([&](const std::string& vm, Verbs::Done done) { host.show(vm, std::move(done)); });
    const auto reports =
        ofAll([&](const std::string& vm, Verbs::Done done) { host.upgrade(vm, {.binary = good}, nullptr, std::move(done)); });
    for (std::size_t i = 0; i < all.size(); ++i) {
        SCOPED_TRACE(all[i].answer);
        ASSERT_TRUE(reports[i]);
        const json report = toJson(*reports[i]);
        EXPECT_TRUE(report.contains("outcome")) << report.dump(2);
        EXPECT_TRUE(lives(all[i].old) || report["outcome"] == "upgraded") << report.dump(2);
    }
    for (const auto& destroyed : ofAll([&](const std::string&vm, Verbs::Done done) { host.destroy(vm, std::move(done)); }))
        EXPECT_TRUE(destroyed && destroyed->code == ExitCode::Done) << (destroyed ? destroyed->value : json());
}

TEST_F(SettleTest, hasAVerbWaitForARecoveryAndSaysSo) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), "verifying", "0"));
    std::vector<std::string> said;
    host.onNotice([&](const std::string& line) { said.push_back(line); });
    host.recoverAll([](const std::string& line) { ADD_FAILURE() << line; });
    const json report = upgrade("a", {.binary = executing()});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_THAT(said, testing::ElementsAre(HasSubstr("waits until what an earlier manager left half done")));
}

/// Of another process, as `--embed` while a daemon starts.
TEST_F(SettleTest, hasAVerbWaitForTheRecoveryOfAnotherProcess) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    UniqueFd lock = directory("a").tryLock();
    VmDirectory::sayBeingSettled(lock.get(), true);
    const pid_t child = spawnProgram(
        workspace, {required("VH_CLI"), "--embed", "--runtime-dir", workspace.runtime(), "upgrade", "a", "--to", executing()},
        "upgrade");
    EXPECT_TRUE(turnUntil([&] { return readIfThere(workspace.path() + "/upgrade.err").find("waits until") != std::string::npos; },
                          patience));
    lock.reset();
    const Ran ran = collectProgram(workspace, child, "upgrade");
    EXPECT_EQ(ran.code, 0) << ran.output << ran.error;
}

TEST_F(SettleTest, tellsOtherProcessesThatItRecovers) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), "verifying", "0"));
    host.recoverAll([](const std::string& line) { ADD_FAILURE() << line; });
    EXPECT_FALSE(directory("a").tryLock());
    EXPECT_TRUE(directory("a").isBeingSettled());
    EXPECT_TRUE(turnUntil([&] { return static_cast<bool>(directory("a").tryLock()); }, patience));
    EXPECT_EQ(show("a")["state"], "running");
}

TEST_F(SettleTest, recoversAVmWhenWhoeverIsAtWorkOnItIsGone) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "a", "a", executing(), "verifying", "0"));
    UniqueFd lock = directory("a").tryLock();
    host.recoverAll([](const std::string& line) { ADD_FAILURE() << line; });
    turnUntil([] { return false; }, milliseconds(700));
    EXPECT_TRUE(directory("a").read()->new_);
    lock.reset();
    EXPECT_TRUE(turnUntil([&] { return !directory("a").read()->new_; }, patience));
}

/// What is not on disk, nobody who comes after this manager knows.
TEST_F(SettleTest, tellsNoVmmToRunTheGuestBeforeThatIsWrittenDown) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int old = show("a")["pid"];
    for (const State until : {State::Discarding, State::Upgraded}) {  // The latter does not come.
        SCOPED_TRACE(std::string(name(until)));
        const std::string inTheWay = recordOf("a") + ".new";
        const json report = upgrade("a", {.binary = executing()}, [&](const HandoverProgress& progress) {
            if (progress.state == State::Confirming) fs::create_directory(inTheWay);
            EXPECT_FALSE(directory("a").read()->toldToRun) << name(progress.state);
            if (progress.state == until) fs::remove(inTheWay);
        });
        EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
        EXPECT_THAT(report.value("cause", ""), HasSubstr(inTheWay));
        EXPECT_TRUE(lives(old));
        fs::remove(inTheWay);
    }
    EXPECT_EQ(upgrade("a", {.binary = executing()})["outcome"], "upgraded");
}

/// A new VMM that was told to run the guest may have run it: nobody gives the guest back to what is out of date by then. What the
/// report tells to do is what works.
TEST_F(SettleTest, letsNoOldVmmGoOnWithAGuestThatMayHaveRunElsewhere) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int old = show("a")["pid"];
    const json report = upgrade("a", {.binary = executing("--fault cont=die")});
    EXPECT_EQ(report["outcome"], "lost") << report.dump(2);
    EXPECT_EQ(report["guestIsGone"], true);
    for (const json& one : {report, upgrade("a", {.binary = executing(), .dryRun = true})}) {
        const std::string text = reportText(handoverReportFromJson(one));
        EXPECT_THAT(text, AllOf(HasSubstr("virt-handover destroy a'"), HasSubstr("start"), testing::Not(HasSubstr("--dry-run")),
                                testing::Not(HasSubstr("may run there"))));
        EXPECT_THAT(text, HasSubstr("pid " + std::to_string(old)));
    }
    for (const std::string& said : {upgrade("a", {.binary = executing()}).value("cause", "")})
        EXPECT_THAT(said, AllOf(HasSubstr("has ended, and the guest with it"), HasSubstr("virt-handover destroy a")));
    EXPECT_TRUE(lives(old));
    EXPECT_EQ(destroy("a").code, ExitCode::Done);
    EXPECT_EQ(start("a", executing()).code, ExitCode::Done);
}

/// As when a handover that went back could not write that down: the guest is not called gone, which would have it destroyed.
TEST_F(SettleTest, keepsAGuestThatTheOldVmmRunsWhateverIsOnRecord) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const int old = show("a")["pid"];
    VmRecord record = *directory("a").read();
    record.new_ = VmmRecord{.generation = 2, .binary = executing()};
    record.toldToRun = true;
    directory("a").write(record);
    EXPECT_EQ(upgrade("a", {.binary = executing(), .dryRun = true})["outcome"], "ready");
    EXPECT_EQ(show("a")["pid"], old);
    EXPECT_FALSE(directory("a").read()->toldToRun);
}

/// For whoever comes later: what a handover and what a recovery came to, whoever asked for it, and told once each.
TEST_F(SettleTest, keepsTheLastReportAndTellsOfEach) {
    std::vector<std::string> told;
    host.onEnded(
        [&](const HandoverReport& one) { told.push_back((one.recovery ? "recovery " : "") + std::string(one.outcomeText())); });
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    EXPECT_FALSE(show("a").contains("lastHandover"));
    EXPECT_EQ(upgrade("a", {.binary = executing(), .dryRun = true})["outcome"], "ready");
    EXPECT_EQ(upgrade("a", {.binary = "/nonexistent/qemu"})["outcome"], "refused");
    EXPECT_FALSE(show("a").contains("lastHandover")) << "of nothing that has begun";
    const json upgraded = upgrade("a", {.binary = executing()});
    ASSERT_EQ(upgraded["outcome"], "upgraded") << upgraded.dump(2);
    json last = show("a")["lastHandover"];
    EXPECT_TRUE(last.contains("at"));
    last.erase("at");
    EXPECT_EQ(last, upgraded);
    // As a manager leaves it that dies early in a handover.
    VmRecord record = *directory("a").read();
    record.new_ = VmmRecord{.generation = 7, .binary = executing()};
    directory("a").write(record);
    EXPECT_EQ(upgrade("a", {.binary = executing(), .dryRun = true})["outcome"], "ready");
    EXPECT_EQ(show("a")["lastHandover"]["recovery"], true);
    EXPECT_EQ(show("a")["lastHandover"]["outcome"], "rolled back");
    std::ofstream(directory("a").path() + "/last-report.json") << "no JSON";
    EXPECT_THAT(show("a")["lastHandover"].value("error", ""), HasSubstr("cannot be understood"));
    EXPECT_EQ(upgrade("a", {.binary = executing("--fault cont=die")})["outcome"], "lost");
    EXPECT_EQ(show("a")["lastHandover"]["outcome"], "lost");
    EXPECT_THAT(told, testing::ElementsAre("refused", "upgraded", "recovery rolled back", "lost"));
    EXPECT_EQ(destroy("a").code, ExitCode::Done);
}

/// The old VMM is then ended by us: it is not for a person to look at.
TEST_F(SettleTest, pointsAtNoVmmThatItHasEndedItself) {
    ASSERT_EQ(start("a", executing()).code, ExitCode::Done);
    const json report = upgrade("a", {.binary = executing()}, [](const HandoverProgress& progress) {
        if (progress.state == State::Retiring) ::kill(progress.newPid, SIGKILL);
    });
    EXPECT_EQ(report["outcome"], "lost") << report.dump(2);
    EXPECT_THAT(reportText(handoverReportFromJson(report)),
                AllOf(HasSubstr("the guest is gone; 'virt-handover start a'"), testing::Not(HasSubstr("look at"))));
    EXPECT_EQ(start("a", executing()).code, ExitCode::Done);
}

}  // namespace
}  // namespace vh::test
