// A guest on a bridge, pinged all the time, while its VMM is replaced. In a network namespace of its own.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>
#include <string>

#include <gmock/gmock.h>

#include "manager/compare/own_network.h"
#include "tests/system/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr const char* bridge = "vhbr0";
constexpr const char* guestAddress = "10.77.0.2";

/// The taps that are members of the bridge.
std::set<std::string> members() {
    std::set<std::string> found;
    // /sys shows the namespace it was mounted in; /proc/net that of this process.
    std::ifstream devices("/proc/self/net/dev");
    std::string line;
    while (std::getline(devices, line)) {
        const std::size_t start = line.find_first_not_of(' ');
        if (start != std::string::npos && line.compare(start, 2, "vh") == 0 && line.compare(start, 4, "vhbr") != 0)
            found.insert(line.substr(start, line.find(':') - start));
    }
    return found;
}

TEST(NetworkTest, keepsAGuestOnItsBridgeReachable) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a network namespace, a bridge and taps";
    ASSERT_EQ(enterOwnNetwork(bridge), "");
    Workspace workspace;
    {
        Host host(workspace.runtime(), "/nonexistent");
        VmOptions options;
        options.more = std::string("networks: [{id: net0, type: tap, bridge: ") + bridge + "}]\n";
        options.cmdline = std::string(" probe.ip=") + guestAddress;
        const std::string file = writeDefinition(workspace, options);
        const VerbResult started = wait([&](Verbs::Done done) { host.start(file, milliseconds(90'000), std::move(done)); });
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        const std::set<std::string> before = members();
        ASSERT_EQ(before.size(), 1U);
        {
            Pinger pinger(guestAddress, milliseconds(5), 8);
            pinger.start();
            ASSERT_TRUE(turnUntil([&] { return pinger.answered() >= 50; }, milliseconds(20'000)))
                << "the guest does not answer pings";
            // To the new release, and with a rollback in between.
            const json rolledBack = wait([&](Verbs::Done done) {
                                        host.upgrade(
                                            "vm", {.binary = newQemu()},
                                            [](const HandoverProgress& progress) {
                                                if (progress.state == State::Proving) ::kill(progress.newPid, SIGKILL);
                                            },
                                            std::move(done));
                                    }).value;
            EXPECT_EQ(rolledBack["outcome"], "rolled back") << rolledBack.dump(2);
            EXPECT_EQ(members(), before) << "the old VMM's tap is the guest's again";
            const unsigned receivedBefore = pinger.answered();
            EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= receivedBefore + 50; }, milliseconds(20'000)));

            const json report =
                wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = newQemu()}, nullptr, std::move(done)); }).value;
            EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
            const unsigned receivedAfter = pinger.answered();
            EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= receivedAfter + 100; }, milliseconds(20'000)))
                << "the guest is not reachable on the new VMM";
            const std::set<std::string> after = members();
            EXPECT_EQ(after.size(), 1U) << "one tap, the new VMM's";
            EXPECT_NE(after, before);
            const PingResult pings = pinger.stop(milliseconds(500));
            std::printf("pings: %u sent, %u lost, longest gap %.1f ms\n", pings.sent, pings.lost, pings.longestGapMs.value_or(0));
        }
        expectGuestIsWell(host, "vm");
        wait([&](Verbs::Done done) { host.destroy("vm", std::move(done)); });
    }
    EXPECT_TRUE(turnUntil([] { return members().empty(); }, milliseconds(5'000))) << "a tap is left";
    workspace.expectNothingLeft();
}

TEST(NetworkTest, keepsAGuestReachableWhoseVmmIsExecuted) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a network namespace, a bridge and taps";
    ASSERT_EQ(enterOwnNetwork(bridge), "");
    Workspace workspace;
    {
        Host host(workspace.runtime(), "/nonexistent");
        VmOptions options;
        options.owner = "vmm";
        options.design = Design::VmmExec;
        options.binary = newQemu();
        options.more = std::string("networks: [{id: net0, type: tap, bridge: ") + bridge + "}]\n";
        options.cmdline = std::string(" probe.ip=") + guestAddress;
        const std::string file = writeDefinition(workspace, options);
        const VerbResult started = wait([&](Verbs::Done done) { host.start(file, milliseconds(90'000), std::move(done)); });
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        Pinger pinger(guestAddress, milliseconds(5), 8);
        pinger.start();
        const auto isReachable = [&] {
            const unsigned before = pinger.answered();
            return turnUntil([&] { return pinger.answered() >= before + 50; }, milliseconds(20'000));
        };
        ASSERT_TRUE(isReachable());
        std::set<std::string> before = members();
        ASSERT_EQ(before.size(), 1U);
        const json report =
            wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = newQemu()}, nullptr, std::move(done)); }).value;
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_TRUE(isReachable());
        EXPECT_NE(members(), before);
        EXPECT_EQ(members().size(), 1U) << "one tap, the new VMM's";

        // The manager that made the taps dies, and the one that finds the executed VMM has none of their descriptors.
        before = members();
        const std::string program = required("VH_CRASHING_MANAGER"), runtime = workspace.runtime(), binary = newQemu();
        const pid_t child = ::fork();
        if (child == 0) {
            ::execl(program.c_str(), program.c_str(), runtime.c_str(), "vm", binary.c_str(), "proving", "0", nullptr);
            ::_exit(127);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status));
        const json settled =
            wait([&](Verbs::Done done) { host.upgrade("vm", {.dryRun = true}, nullptr, std::move(done)); }).value;
        EXPECT_EQ(settled["outcome"], "ready") << settled.dump(2);
        EXPECT_TRUE(isReachable()) << "the guest is not reachable on the VMM that was recovered";
        EXPECT_NE(members(), before);
        EXPECT_EQ(members().size(), 1U);
        wait([&](Verbs::Done done) { host.destroy("vm", std::move(done)); });
    }
    EXPECT_TRUE(turnUntil([] { return members().empty(); }, milliseconds(5'000))) << "a tap is left";
    workspace.expectNothingLeft();
}

}  // namespace
}  // namespace vh::test
