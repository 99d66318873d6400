// A VM that another manager started. That manager is here a second one of ours, which does not know what happens to its VM: it
// started a QEMU with descriptors, a tap and a user of its own, and that is all that is gone by.
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include "manager/compare/own_network.h"
#include "manager/process/held_by_process.h"
#include "tests/support/undying.h"
#include "tests/support/vm_fixture.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr const char* bridge = "vhbr0";
constexpr const char* guestAddress = "10.77.0.2";
constexpr const char* name_ = "other-1";

std::vector<std::string> argumentsOf(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
    std::vector<std::string> words;
    for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
    return words;
}

/// `CapBnd:` and the like of /proc/PID/status, which tell one process's rights from another's.
std::string rightsOf(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    std::string rights;
    for (std::string line; std::getline(file, line);)
        for (const char* field : {"Umask:", "Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Cpus_allowed:"})
            if (line.starts_with(field)) rights += line + "\n";
    return rights;
}

class AdoptTest : public testing::Test {
 protected:
    static void SetUpTestSuite() {
        if (::geteuid() != 0) return;
        ASSERT_EQ(enterOwnNetwork(bridge), "");
    }

    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root, to take descriptors of a process of another user";
        other_ = std::make_unique<Host>(workspace_.path() + "/other", "/nonexistent");
        ours_ = std::make_unique<Host>(workspace_.runtime(), "/nonexistent");
        VmOptions options;
        options.owner = "vmm";
        options.more = std::string("networks: [{id: net0, type: tap, bridge: ") + bridge + "}]\n";
        options.cmdline = std::string(" probe.ip=") + guestAddress;
        const std::string file = writeDefinition(workspace_, options);
        const VerbResult started = start(*other_, file, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        pid_ = vmmPid(*other_, "vm");
        directory_ = show(*other_, "vm")["directory"];
        arguments_ = argumentsOf(pid_);
        // From the wrapper's loader on to QEMU's own.
        while (!arguments_.empty() && !arguments_.front().starts_with("-name")) arguments_.erase(arguments_.begin());
        ASSERT_FALSE(arguments_.empty());
    }

    void TearDown() override {
        if (!ours_) return;
        if (pid_ > 0) ::kill(pid_, SIGKILL);
        turnUntil([&] { return ::kill(pid_, 0) != 0 || Process(pid_).startTime() == 0; }, patience);
        wait([&](Verbs::Done done) { ours_->forgetAdopted(name_, std::move(done)); });
        destroy(*other_, "vm");
        ours_.reset();
        other_.reset();
        workspace_.expectNothingLeft();
    }

    std::string adoption(const std::string& binary) {
        json descriptors = json::array();
        // QEMU has moved what it was given by -add-fd, and uses the numbers for something else.
        std::map<int, int> moved;
        const json sets = askMonitor(directory_ + "/qmp.sock", "query-fdsets");
        for (std::size_t i = 0; i + 1 < arguments_.size(); ++i) {
            int number = 0, set = 0;
            if (arguments_[i] != "-add-fd" || std::sscanf(arguments_[i + 1].c_str(), "fd=%d,set=%d", &number, &set) != 2)
                continue;
            const std::string opaque = arguments_[i + 1].substr(arguments_[i + 1].find("opaque=") + 7);
            for (const json& known : sets)
                for (const json& fd : known["fds"])
                    if (known["fdset-id"] == set && fd.value("opaque", "") == opaque) moved[number] = fd["fd"];
        }
        for (const auto& [number, of] : moved) descriptors.push_back({{"number", number}, {"of", of}, {"tap", false}});
        for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/fdinfo")) {
            const int number = std::stoi(entry.path().filename());
            if (!isInherited(number) || moved.contains(number)) continue;
            std::stringstream info;
            info << std::ifstream(entry.path()).rdbuf();
            descriptors.push_back({{"number", number}, {"of", number}, {"tap", info.str().find("iff:") != std::string::npos}});
        }
        const json value{{"vm", name_},
                         {"title", "the other's VM"},
                         {"uuid", "6f1c7a52-0b7e-4c39-9c61-0d5f6d0e8a11"},
                         {"machine", "pc-q35-10.0"},
                         {"pid", pid_},
                         {"startTime", Process(pid_).startTime()},
                         {"monitor", directory_ + "/qmp.sock"},
                         {"binary", binary},
                         {"models", {"virtio-net-pci"}},
                         {"memoryBytes", 0},
                         {"pauseBudgetMs", 20'000},  // A busy host must not send the guest back.
                         {"arguments", arguments_},
                         {"descriptors", descriptors},
                         {"pidFile", directory_ + "/pid"},
                         {"logFile", directory_ + "/vmm.log"},
                         {"socketDirectory", directory_ + "/incoming"}};
        return workspace_.file("adoption.json", value.dump());
    }

    /// QEMU's own files come after those that it was given: the numbers that its arguments name are the latter.
    bool isInherited(int number) const {
        const std::string text = "fd=" + std::to_string(number);
        for (const std::string& argument : arguments_)
            for (const char* end : {",", ""})
                if (const std::string wanted = text + end;
                    *end ? argument.find(wanted) != std::string::npos : argument.ends_with(wanted))
                    return true;
        return false;
    }

    json adopt(const std::string& binary, const Handover::Observer& observer = nullptr) {
        const std::string file = adoption(binary);
        return wait([&](Verbs::Done done) { ours_->adopt(file, observer, std::move(done)); }).value;
    }

    /// All processes that have the VM's disk open.
    std::set<pid_t> vmms() const {
        std::set<pid_t> found;
        std::error_code gone;
        for (const auto& process : std::filesystem::directory_iterator("/proc")) {
            const pid_t pid = std::atoi(process.path().filename().c_str());
            if (pid <= 0 || pid == ::getpid()) continue;
            for (const auto& fd : std::filesystem::directory_iterator(process.path() / "fd", gone))
                if (std::filesystem::read_symlink(fd.path(), gone).string().starts_with(workspace_.path() + "/vm.img"))
                    found.insert(pid);
        }
        return found;
    }

    Workspace workspace_;
    std::unique_ptr<Host> other_, ours_;
    pid_t pid_ = 0;
    std::string directory_;
    std::vector<std::string> arguments_;
};

TEST_F(AdoptTest, handsOverWhatAnotherManagerStartedAndGoesBackWhenItFails) {
    const std::string rights = rightsOf(pid_);
    Pinger pinger(guestAddress, milliseconds(5), 8);
    pinger.start();
    ASSERT_TRUE(turnUntil([&] { return pinger.answered() >= 50; }, patience)) << "the guest does not answer pings";

    for (const State deadly : {State::Exchanging, State::Verifying, State::Proving}) {
        SCOPED_TRACE(name(deadly));
        const json rolledBack = adopt(newQemu(), [&](const HandoverProgress& progress) {
            if (progress.state == deadly) ::kill(progress.newPid, SIGKILL);
        });
        ASSERT_EQ(rolledBack["outcome"], "rolled back") << rolledBack.dump(2);
        const unsigned before = pinger.answered();
        EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= before + 50; }, patience)) << "the guest's network is dead";
        EXPECT_FALSE(std::filesystem::exists(workspace_.runtime() + "/" + name_)) << "nothing of it is kept";
        EXPECT_EQ(askMonitor(directory_ + "/qmp.sock", "query-migrate-parameters")["mode"], "normal")
            << "its own manager could not migrate it";
    }

    // The first one is slow to start, as on a host that is at work on many VMs.
    const std::string slow = workspace_.impostor("sleep 11\nexec " + newQemu() + " \"$@\"");
    for (const std::string& binary : {slow, newQemu(), oldQemu()}) {
        SCOPED_TRACE(binary);
        const json report = adopt(binary);
        ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
        std::cout << "STOP to RESUME " << report["vmm"]["stopToResumeMs"] << " ms\n";
        EXPECT_EQ(report["warnings"], json::array());
        const pid_t newPid = report["new"]["pid"];
        EXPECT_NE(newPid, pid_);
        EXPECT_EQ(rightsOf(newPid), rights);
        EXPECT_EQ(::kill(pid_, 0), -1) << "the old VMM is still there";
        pid_ = newPid;
        EXPECT_EQ(lockHolder(directory_ + "/pid"), newPid);
        const unsigned before = pinger.answered();
        EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= before + 50; }, patience)) << "the guest's network is dead";
        expectGuestIsWell(*other_, "vm");
    }
    const PingResult pings = pinger.stop(milliseconds(1'000));
    std::cout << pings.lost << " of " << pings.sent << " pings lost in six handovers, three of which went back\n";
}

TEST_F(AdoptTest, survivesAManagerThatDiesAtAnyState) {
    const std::vector<std::pair<std::string, std::string>> moments = {
        {"preflight", "4"},   {"launching", "0"},  {"launching", "1"}, {"launching", "4"}, {"exchanging", "0"},
        {"exchanging", "20"}, {"verifying", "0"},  {"switching", "0"}, {"switching", "4"}, {"proving", "0"},
        {"confirming", "0"},  {"confirming", "2"}, {"retiring", "0"}};
    Pinger pinger(guestAddress, milliseconds(5), 8);
    pinger.start();
    for (const auto& [state, delayMs] : moments) {
        SCOPED_TRACE(state + " + " + delayMs + " ms");
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace_, name_, adoption(newQemu()), newQemu(), state, delayMs));
        const VerbResult found = wait([&](Verbs::Done done) { ours_->recoverAdopted(name_, std::move(done)); });
        ASSERT_EQ(found.code, ExitCode::Done) << found.value;
        if (found.value["state"] == "running") pid_ = found.value["pid"];
        EXPECT_EQ(vmms(), std::set<pid_t>{pid_}) << found.value;
        const unsigned before = pinger.answered();
        EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= before + 20; }, patience)) << "the guest's network is dead";
        expectGuestIsWell(*other_, "vm");
    }
    const json report = adopt(newQemu());
    ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
    pid_ = report["new"]["pid"];
}

/// The name of its monitor is in a directory of the VMM's user, who may have it lead to another VMM's.
TEST_F(AdoptTest, isRefusedWhenAnotherProcessAnswersOnItsMonitor) {
    const std::string file = adoption(newQemu()), monitor = directory_ + "/qmp.sock",
                      another = workspace_.path() + "/another.sock";
    const pid_t pid = spawnProgram(
        workspace_,
        {newQemu(), "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "unix:" + another + ",server=on,wait=off"},
        "another");
    EXPECT_TRUE(turnUntil([&] { return isListening(another); }, patience));
    std::filesystem::rename(monitor, directory_ + "/kept.sock");
    std::filesystem::create_symlink(another, monitor);
    const json report = wait([&](Verbs::Done done) { ours_->adopt(file, nullptr, std::move(done)); }).value;
    std::filesystem::rename(directory_ + "/kept.sock", monitor);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_THAT(report.value("cause", ""), HasSubstr("another process than the old VMM, pid " + std::to_string(pid_)));
    expectGuestIsWell(*other_, "vm");
}

/// No cause to take the domain from its own manager: that hears of the new VMM, and of the old one.
TEST_F(AdoptTest, isSettledWithTheNewVmmWhileTheOldOneDoesNotEnd) {
    const pid_t old = pid_;
    Undying undying(old);
    ASSERT_NO_FATAL_FAILURE(crashManager(workspace_, name_, adoption(newQemu()), newQemu(), "ending", "0"));
    const VerbResult left = wait([&](Verbs::Done done) { ours_->recoverAdopted(name_, std::move(done)); });
    EXPECT_EQ(left.code, ExitCode::Done) << left.value;
    ASSERT_EQ(left.value["state"], "running") << left.value;
    pid_ = left.value["pid"];
    EXPECT_NE(pid_, old);
    EXPECT_THAT(left.value.value("warnings", json::array()).dump(), HasSubstr("pid " + std::to_string(old)));
    expectGuestIsWell(*other_, "vm");
    const json refused = adopt(newQemu());
    EXPECT_EQ(refused["outcome"], "refused") << refused.dump(2);
    EXPECT_THAT(refused.value("cause", ""), HasSubstr("pid " + std::to_string(old)));
    undying.release();
    const VerbResult settled = wait([&](Verbs::Done done) { ours_->recoverAdopted(name_, std::move(done)); });
    EXPECT_EQ(settled.code, ExitCode::Done) << settled.value;
    EXPECT_FALSE(settled.value.contains("warnings")) << settled.value;
    EXPECT_EQ(vmms(), std::set<pid_t>{pid_});
    expectGuestIsWell(*other_, "vm");
}

TEST_F(AdoptTest, isLeftToItsOwnManagerByEveryOtherVerb) {
    ASSERT_EQ(adopt(newQemu())["outcome"], "upgraded");
    const auto refusal = [&](const std::function<void(Verbs::Done)>& verb) {
        const VerbResult result = wait(verb);
        EXPECT_EQ(result.code, ExitCode::Refused) << result.value;
        return result.value.value("error", result.value.value("cause", ""));
    };
    EXPECT_THAT(refusal([&](Verbs::Done done) { ours_->upgrade(name_, {.binary = newQemu()}, nullptr, std::move(done)); }),
                HasSubstr("the other's VM"));
    EXPECT_THAT(refusal([&](Verbs::Done done) { ours_->destroy(name_, std::move(done)); }), HasSubstr("the other's VM"));
    EXPECT_THAT(refusal([&](Verbs::Done done) { ours_->shutdown(name_, milliseconds(1'000), std::move(done)); }),
                HasSubstr("the other's VM"));
    EXPECT_THAT(refusal([&](Verbs::Done done) { ours_->forgetAdopted(name_, std::move(done)); }), HasSubstr("runs"));
    const VerbResult found = wait([&](Verbs::Done done) { ours_->recoverAdopted(name_, std::move(done)); });
    EXPECT_EQ(found.value["state"], "running") << found.value;
    pid_ = found.value["pid"];
    expectGuestIsWell(*other_, "vm");
}

}  // namespace
}  // namespace vh::test
