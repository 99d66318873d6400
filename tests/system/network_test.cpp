// A guest on a bridge, pinged all the time, while its VMM is replaced. In a network namespace of its own.

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// After <net/if.h>, which it would otherwise clash with.
#include <linux/sockios.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include <gmock/gmock.h>

#include "tests/system/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr const char* bridge = "vhbr0";
constexpr const char* hostAddress = "10.77.0.1";
constexpr const char* guestAddress = "10.77.0.2";

sockaddr_in addressOf(const char* text) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, text, &address.sin_addr);
    return address;
}

void need(int result, const char* what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
}

/// A network namespace with a bridge that has an address; this process lives in it from then on.
void enterOwnNetwork() {
    static bool entered = false;
    if (std::exchange(entered, true)) return;
    need(::unshare(CLONE_NEWNET), "make a network namespace");
    const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    need(::ioctl(control.get(), SIOCBRADDBR, bridge), "make a bridge");
    ifreq request{};
    std::strcpy(request.ifr_name, bridge);
    sockaddr_in address = addressOf(hostAddress);
    std::memcpy(&request.ifr_addr, &address, sizeof(address));
    need(::ioctl(control.get(), SIOCSIFADDR, &request), "give the bridge an address");
    request.ifr_flags = IFF_UP;
    need(::ioctl(control.get(), SIOCSIFFLAGS, &request), "bring up the bridge");
}

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

/// Sends an echo request every 5 ms from the main loop and notes what comes back.
class Pinger {
 public:
    Pinger() : socket_(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMP)) {
        if (!socket_) throw std::system_error(errno, std::generic_category(), "open a socket for pings");
        reader_ = EventSource::readable(socket_.get(), [this] { receive(); });
        send();
    }

    unsigned sent() const { return sent_; }
    unsigned received() const { return received_; }
    double longestGapMs() const { return longestGapMs_; }

 private:
    void send() {
        std::array<unsigned char, 16> packet{};
        packet[0] = ICMP_ECHO;
        packet[4] = 'v';
        packet[6] = static_cast<unsigned char>(++sent_ >> 8);
        packet[7] = static_cast<unsigned char>(sent_);
        unsigned sum = 0;
        for (std::size_t i = 0; i < packet.size(); i += 2) sum += packet[i] << 8 | packet[i + 1];
        sum = ~((sum >> 16) + (sum & 0xffff));
        packet[2] = static_cast<unsigned char>(sum >> 8);
        packet[3] = static_cast<unsigned char>(sum);
        const sockaddr_in to = addressOf(guestAddress);
        (void)!::sendto(socket_.get(), packet.data(), packet.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
        timer_ = EventSource::after(milliseconds(5), [this] { send(); });
    }

    void receive() {
        std::array<unsigned char, 128> packet{};
        while (::recv(socket_.get(), packet.data(), packet.size(), 0) >= 28) {
            if (packet[20] != ICMP_ECHOREPLY) continue;
            const auto now = std::chrono::steady_clock::now();
            if (received_++ > 0)
                longestGapMs_ = std::max(longestGapMs_, std::chrono::duration<double, std::milli>(now - last_).count());
            last_ = now;
        }
    }

    UniqueFd socket_;
    EventSource reader_;
    EventSource timer_;
    unsigned sent_ = 0;
    unsigned received_ = 0;
    double longestGapMs_ = 0;
    std::chrono::steady_clock::time_point last_;
};

TEST(NetworkTest, keepsAGuestOnItsBridgeReachable) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a network namespace, a bridge and taps";
    enterOwnNetwork();
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
            Pinger pinger;
            ASSERT_TRUE(turnUntil([&] { return pinger.received() >= 50; }, milliseconds(20'000)))
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
            const unsigned receivedBefore = pinger.received();
            EXPECT_TRUE(turnUntil([&] { return pinger.received() >= receivedBefore + 50; }, milliseconds(20'000)));

            const json report =
                wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = newQemu()}, nullptr, std::move(done)); }).value;
            EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
            const unsigned receivedAfter = pinger.received();
            EXPECT_TRUE(turnUntil([&] { return pinger.received() >= receivedAfter + 100; }, milliseconds(20'000)))
                << "the guest is not reachable on the new VMM";
            const std::set<std::string> after = members();
            EXPECT_EQ(after.size(), 1U) << "one tap, the new VMM's";
            EXPECT_NE(after, before);
            RecordProperty("pings_sent", static_cast<int>(pinger.sent()));
            RecordProperty("pings_received", static_cast<int>(pinger.received()));
            std::printf("pings: %u sent, %u answered, longest gap %.1f ms\n", pinger.sent(), pinger.received(),
                        pinger.longestGapMs());
        }
        expectGuestIsWell(host, "vm");
        wait([&](Verbs::Done done) { host.destroy("vm", std::move(done)); });
    }
    EXPECT_TRUE(turnUntil([] { return members().empty(); }, milliseconds(5'000))) << "a tap is left";
    workspace.expectNothingLeft();
}

TEST(NetworkTest, keepsAGuestReachableWhoseVmmIsExecuted) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a network namespace, a bridge and taps";
    enterOwnNetwork();
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
        Pinger pinger;
        const auto isReachable = [&] {
            const unsigned before = pinger.received();
            return turnUntil([&] { return pinger.received() >= before + 50; }, milliseconds(20'000));
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
