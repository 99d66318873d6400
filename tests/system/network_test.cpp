// A guest on a bridge while its VMM is replaced: pinged, sent to, and only sending. In a network namespace of its own.

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// After <net/if.h>, which it would otherwise clash with.
#include <linux/sockios.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "manager/compare/own_network.h"
#include "tests/support/vm_fixture.h"

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

using Mac = std::array<unsigned char, 6>;

// What a guest that only sends is told once, at its boot. A new tap's random address would be lower than this one nearly always.
constexpr Mac nicMac{0xfa, 0, 0, 0, 0, 1}, guestMac{0x52, 0x54, 0, 0x77, 0, 2};
constexpr const char *lan = "vhbr1", *lanAddress = "10.78.0.1", *lanGuest = "10.78.0.2", *wireAddress = "10.78.0.3";
constexpr std::uint16_t udpPort = 7777;

ifreq requestFor(const std::string& interface) {
    ifreq request{};
    std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
    return request;
}

void control(unsigned long what, const ifreq& request) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq asked = request;
    ASSERT_EQ(::ioctl(socket.get(), what, &asked), 0) << std::strerror(errno);
}

void bringUp(const std::string& interface) {
    ifreq request = requestFor(interface);
    request.ifr_flags = IFF_UP;
    control(SIOCSIFFLAGS, request);
}

Mac macOf(const std::string& interface) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = requestFor(interface);
    EXPECT_EQ(::ioctl(socket.get(), SIOCGIFHWADDR, &request), 0) << interface;
    Mac mac;
    std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());
    return mac;
}

std::string text(const Mac& mac) {
    char buffer[18];
    std::snprintf(buffer, sizeof(buffer), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    return buffer;
}

/// Which numbers of a stream have come.
class Numbers {
 public:
    void add(std::uint64_t number) {
        const std::lock_guard lock(mutex_);
        if (number >= seen_.size()) seen_.resize(number + 10'000);
        if (seen_[number]) return void(++repeated_);
        seen_[number] = true;
        ++count_;
        first_ = first_ == 0 ? number : std::min(first_, number);
        last_ = std::max(last_, number);
    }
    std::uint64_t last() const {
        const std::lock_guard lock(mutex_);
        return last_;
    }
    /// Between the first and the last that came.
    std::uint64_t missing() const {
        const std::lock_guard lock(mutex_);
        return count_ == 0 ? 0 : last_ - first_ + 1 - count_;
    }
    std::uint64_t repeated() const {
        const std::lock_guard lock(mutex_);
        return repeated_;
    }

 private:
    mutable std::mutex mutex_;
    std::vector<bool> seen_;
    std::uint64_t count_ = 0, first_ = 0, last_ = 0, repeated_ = 0;
};

/// A bridge as the kernel makes it, with no address set, and the host's IP address on it.
void makeLan() {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::ioctl(socket.get(), SIOCBRADDBR, lan), 0) << std::strerror(errno);
    ifreq request = requestFor(lan);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, lanAddress, &address.sin_addr);
    std::memcpy(&request.ifr_addr, &address, sizeof(address));
    control(SIOCSIFADDR, request);
    ::inet_pton(AF_INET, "255.255.255.0", &address.sin_addr);
    std::memcpy(&request.ifr_netmask, &address, sizeof(address));
    control(SIOCSIFNETMASK, request);
    bringUp(lan);
}

/// The host's NIC in the bridge, and who is behind it: counts what the guest sends there, hears what everybody hears, and sends
/// to the guest.
class Wire {
 public:
    Wire() : tap_(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)) {
        ifreq request = requestFor("nic0");
        request.ifr_flags = IFF_TAP | IFF_NO_PI;
        EXPECT_EQ(::ioctl(tap_.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
        request = requestFor("nic0");
        request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
        std::memcpy(request.ifr_hwaddr.sa_data, nicMac.data(), nicMac.size());
        control(SIOCSIFHWADDR, request);
        ifreq join = requestFor(lan);
        join.ifr_ifindex = static_cast<int>(::if_nametoindex("nic0"));
        control(SIOCBRADDIF, join);
        bringUp("nic0");
        thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
    }

    /// Sends to the guest from now on, so many a second; 0 for none.
    void sendPerSecond(unsigned rate) { rate_ = rate; }
    std::uint64_t sent() const { return sent_; }
    const Numbers& received() const { return received_; }
    unsigned rarps() const { return rarps_; }
    unsigned gratuitousArps() const { return gratuitousArps_; }

 private:
    void run(const std::stop_token& stop) {
        auto next = std::chrono::steady_clock::now();
        while (!stop.stop_requested()) {
            pollfd waited{tap_.get(), POLLIN, 0};
            ::poll(&waited, 1, 1);
            std::array<unsigned char, 2048> frame;
            for (ssize_t length; (length = ::read(tap_.get(), frame.data(), frame.size())) > 0;)
                hear(frame.data(), static_cast<std::size_t>(length));
            const unsigned rate = rate_;
            const auto now = std::chrono::steady_clock::now();
            if (rate == 0 || next + std::chrono::seconds(1) < now) next = now;
            for (; rate > 0 && next <= now; next += std::chrono::nanoseconds(1'000'000'000 / rate)) send();
        }
    }

    void hear(const unsigned char* frame, std::size_t length) {
        const unsigned type = length < ETH_HLEN ? 0 : static_cast<unsigned>(frame[12] << 8 | frame[13]);
        if (length < ETH_HLEN || std::memcmp(frame + ETH_ALEN, guestMac.data(), ETH_ALEN) != 0) return;
        if (type == ETHERTYPE_REVARP) ++rarps_;
        if (type == ETHERTYPE_ARP && length >= 42 && std::memcmp(frame + 28, frame + 38, 4) == 0) ++gratuitousArps_;
        if (type != ETHERTYPE_IP || length < 50 || std::memcmp(frame, nicMac.data(), ETH_ALEN) == 0) return;
        if (frame[23] == IPPROTO_UDP && frame[36] == udpPort >> 8 && frame[37] == (udpPort & 0xff)) {
            std::uint64_t number = 0;
            for (int i = 0; i < 8; ++i) number = number << 8 | frame[42 + i];
            received_.add(number);
        }
    }

    void send() {
        struct __attribute__((packed)) {
            ether_header ethernet;
            iphdr ip;
            udphdr udp;
            std::uint64_t number;
        } frame{};
        std::memcpy(frame.ethernet.ether_dhost, guestMac.data(), ETH_ALEN);
        frame.ethernet.ether_shost[0] = 2;
        frame.ethernet.ether_shost[5] = 3;
        frame.ethernet.ether_type = htons(ETHERTYPE_IP);
        frame.ip.version = 4;
        frame.ip.ihl = 5;
        frame.ip.ttl = 64;
        frame.ip.protocol = IPPROTO_UDP;
        frame.ip.tot_len = htons(sizeof(frame) - sizeof(ether_header));
        frame.ip.saddr = ::inet_addr(wireAddress);
        frame.ip.daddr = ::inet_addr(lanGuest);
        unsigned sum = 0;
        const auto* words = reinterpret_cast<const unsigned char*>(&frame.ip);
        for (std::size_t i = 0; i < sizeof(iphdr); i += 2) sum += static_cast<unsigned>(words[i] << 8 | words[i + 1]);
        while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
        frame.ip.check = htons(static_cast<std::uint16_t>(~sum));
        frame.udp.source = frame.udp.dest = htons(udpPort);
        frame.udp.len = htons(sizeof(udphdr) + sizeof(frame.number));
        frame.number = htobe64(sent_ + 1);
        if (::write(tap_.get(), &frame, sizeof(frame)) == static_cast<ssize_t>(sizeof(frame))) ++sent_;
    }

    UniqueFd tap_;
    std::atomic<unsigned> rate_ = 0, rarps_ = 0, gratuitousArps_ = 0;
    std::atomic<std::uint64_t> sent_ = 0;
    Numbers received_;
    std::jthread thread_;
};

/// What the guest sends to the host's own address.
class HostReceiver {
 public:
    HostReceiver() : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(udpPort);
        ::inet_pton(AF_INET, lanAddress, &address.sin_addr);
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
        const int bytes = 8 << 20;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
        thread_ = std::jthread([this](const std::stop_token& stop) {
            while (!stop.stop_requested()) {
                pollfd waited{socket_.get(), POLLIN, 0};
                ::poll(&waited, 1, 20);
                for (std::uint64_t number; ::recv(socket_.get(), &number, sizeof(number), 0) == sizeof(number);)
                    received_.add(be64toh(number));
            }
        });
    }
    const Numbers& received() const { return received_; }

 private:
    UniqueFd socket_;
    Numbers received_;
    std::jthread thread_;
};

class LanTest : public testing::TestWithParam<Design> {
 protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a network namespace, a bridge and taps";
        ASSERT_EQ(enterOwnNetwork(bridge), "");
        makeLan();
        wire_.emplace();
        receiver_.emplace();
        macBefore_ = macOf(lan);
        ASSERT_EQ(text(macBefore_), text(nicMac)) << "of the lowest of its ports";
    }
    void TearDown() override {
        receiver_.reset();
        wire_.reset();
    }

    /// A guest that sends to the host and behind the wire, and answers nobody.
    std::string definition(const Workspace& workspace) {
        VmOptions options;
        options.withLinux = true;
        options.design = GetParam();
        const bool owns = options.design == Design::VmmOwned || options.design == Design::VmmExec;
        options.owner = owns ? "vmm" : "manager";
        options.binary = options.design == Design::VmmExec ? newQemu() : oldQemu();
        options.more = std::string("networks: [{id: net0, type: tap, mac: '") + text(guestMac) + "', bridge: " + lan + "}]\n";
        options.cmdline = std::string(" probe.ram_mib=16 probe.rate_mib_s=4 probe.ip=") + lanGuest + " probe.send=" + lanAddress +
                          "/" + text(nicMac) + "," + wireAddress + "/02:00:00:00:00:03 probe.send_per_s=" + std::to_string(rate_);
        return writeDefinition(workspace, options);
    }

    /// The new VMM of the next upgrade: there and back again where the design can.
    std::string nextBinary(unsigned round) const {
        const bool goesBack = GetParam() == Design::Relayed || GetParam() == Design::ManagerOwned;
        return goesBack && round % 2 == 1 ? oldQemu() : newQemu();
    }

    void startGuest(Host& host, const Workspace& workspace) {
        const VerbResult started = start(host, definition(workspace), patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        ASSERT_TRUE(goesOn()) << "the guest does not send";
    }

    /// The guest's packets come, here and behind the wire.
    bool goesOn() const {
        const std::uint64_t here = receiver_->received().last(), there = wire_->received().last();
        return turnUntil([&] { return receiver_->received().last() > here + 100 && wire_->received().last() > there + 100; },
                         patience);
    }

    const unsigned rate_ = static_cast<unsigned>(numberFrom("VH_PACKETS_PER_SECOND", 1000));
    std::optional<Wire> wire_;
    std::optional<HostReceiver> receiver_;
    Mac macBefore_{};
};

TEST_P(LanTest, losesNoPacketAndKeepsTheBridgesAddress) {
    Workspace workspace;
    {
        Host host(workspace.runtime(), "/nonexistent");
        startGuest(host, workspace);
        wire_->sendPerSecond(rate_);
        const unsigned upgrades = static_cast<unsigned>(numberFrom("VH_UPGRADES", 3));
        for (unsigned round = 0; round < upgrades && !HasFailure(); ++round) {
            const auto observe = [&](const HandoverProgress& progress) {
                EXPECT_EQ(text(macOf(lan)), text(macBefore_)) << "at " << name(progress.state);
            };
            const json report = upgrade(host, "vm", {.binary = nextBinary(round)}, observe);
            ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
            for (const json& warning : report["warnings"])
                EXPECT_EQ(warning.get<std::string>().find("network"), std::string::npos) << warning;
            EXPECT_EQ(text(macOf(lan)), text(macBefore_));
            EXPECT_TRUE(goesOn()) << "the guest's packets do not arrive after upgrade " << round + 1;
        }
        wire_->sendPerSecond(0);
        const std::uint64_t sent = wire_->sent();
        std::uint64_t arrived = 0, repeated = 0;
        for (int attempt = 0; attempt < 5 && arrived < sent; ++attempt) {
            auto status = guestStatus(host, "vm");
            arrived = status["udp_received"];
            repeated = status["udp_repeated"];
        }
        std::printf(
            "%s: %u upgrades at %u packets/s: to the host %llu, %llu lost, %llu twice; through the NIC %llu, %llu lost, %llu "
            "twice; to "
            "the guest %llu, %lld lost, %llu twice\n",
            std::string(name(GetParam())).c_str(), upgrades, rate_, static_cast<unsigned long long>(receiver_->received().last()),
            static_cast<unsigned long long>(receiver_->received().missing()),
            static_cast<unsigned long long>(receiver_->received().repeated()),
            static_cast<unsigned long long>(wire_->received().last()),
            static_cast<unsigned long long>(wire_->received().missing()),
            static_cast<unsigned long long>(wire_->received().repeated()), static_cast<unsigned long long>(sent),
            static_cast<long long>(sent - arrived), static_cast<unsigned long long>(repeated));
        EXPECT_EQ(receiver_->received().missing(), 0U) << "from the guest to the host";
        EXPECT_EQ(wire_->received().missing(), 0U) << "from the guest through the NIC";
        EXPECT_EQ(arrived, sent) << "to the guest";
        EXPECT_EQ(receiver_->received().repeated() + wire_->received().repeated() + repeated, 0U);
        destroy(host, "vm");
        EXPECT_EQ(text(macOf(lan)), text(macBefore_));
    }
    workspace.expectNothingLeft();
}

TEST_P(LanTest, announcesTheGuestOnceWhenItRunsOnTheNewVmm) {
    // What QEMU announces after a migration is one set: five packets within a second, and those that its guest sends along.
    constexpr unsigned oneSet = 5;
    const auto pass = [](milliseconds time) { turnUntil([] { return false; }, time); };
    Workspace workspace;
    {
        Host host(workspace.runtime(), "/nonexistent");
        startGuest(host, workspace);
        const unsigned arpsOfItsBoot = wire_->gratuitousArps();
        if (GetParam() != Design::VmmExec) {  // Which has no way back.
            const json report = upgrade(host, "vm", {.binary = newQemu()}, [](const HandoverProgress& progress) {
                if (progress.state == State::Proving) ::kill(progress.newPid, SIGKILL);
            });
            EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
            pass(milliseconds(1'500));
            EXPECT_EQ(wire_->rarps(), 0U) << "after a rollback";
            EXPECT_EQ(wire_->gratuitousArps(), arpsOfItsBoot) << "after a rollback";
        }
        const auto observe = [&](const HandoverProgress& progress) {
            if (progress.state >= State::Retiring) return;
            EXPECT_EQ(wire_->rarps(), 0U) << "at " << name(progress.state);
            EXPECT_EQ(wire_->gratuitousArps(), arpsOfItsBoot) << "at " << name(progress.state);
        };
        const json report = upgrade(host, "vm", {.binary = newQemu()}, observe);
        ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_TRUE(turnUntil([&] { return wire_->rarps() >= oneSet && wire_->gratuitousArps() > arpsOfItsBoot; }, patience))
            << wire_->rarps() << " announcements";
        pass(milliseconds(1'500));
        EXPECT_EQ(wire_->rarps(), oneSet);
        EXPECT_LE(wire_->gratuitousArps(), arpsOfItsBoot + oneSet);

        // The new VMM runs the guest, and the manager that was to have it announced is gone.
        const std::string next = GetParam() == Design::VmmExec || GetParam() == Design::VmmOwned ? newQemu() : oldQemu();
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "vm", "vm", next, "retiring", "0"));
        const unsigned before = wire_->rarps();
        host.recoverAll([](const std::string& line) { ADD_FAILURE() << line; });
        EXPECT_TRUE(turnUntil([&] { return wire_->rarps() >= before + oneSet; }, patience))
            << wire_->rarps() - before << " announcements";
        pass(milliseconds(1'500));
        EXPECT_EQ(before, oneSet);
        EXPECT_EQ(wire_->rarps(), before + oneSet);
        EXPECT_TRUE(goesOn()) << "the guest's packets do not arrive after the recovery";
        destroy(host, "vm");
    }
    workspace.expectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(Designs, LanTest,
                         testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned, Design::VmmExec),
                         [](const auto& instance) { return testName(instance.param); });

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
        const VerbResult started = start(host, file, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        const std::set<std::string> before = members();
        ASSERT_EQ(before.size(), 1U);
        {
            Pinger pinger(guestAddress, milliseconds(5), 8);
            pinger.start();
            ASSERT_TRUE(turnUntil([&] { return pinger.answered() >= 50; }, patience)) << "the guest does not answer pings";
            // To the new release, and with a rollback in between.
            const json rolledBack = upgrade(host, "vm", {.binary = newQemu()}, [](const HandoverProgress& progress) {
                if (progress.state == State::Proving) ::kill(progress.newPid, SIGKILL);
            });
            EXPECT_EQ(rolledBack["outcome"], "rolled back") << rolledBack.dump(2);
            EXPECT_EQ(members(), before) << "the old VMM's tap is the guest's again";
            const unsigned receivedBefore = pinger.answered();
            EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= receivedBefore + 50; }, patience));

            const json report = upgrade(host, "vm", {.binary = newQemu()});
            EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
            const unsigned receivedAfter = pinger.answered();
            EXPECT_TRUE(turnUntil([&] { return pinger.answered() >= receivedAfter + 100; }, patience))
                << "the guest is not reachable on the new VMM";
            const std::set<std::string> after = members();
            EXPECT_EQ(after.size(), 1U) << "one tap, the new VMM's";
            EXPECT_NE(after, before);
            const PingResult pings = pinger.stop(milliseconds(500));
            std::printf("pings: %u sent, %u lost, longest gap %.1f ms\n", pings.sent, pings.lost, pings.longestGapMs.value_or(0));
        }
        expectGuestIsWell(host, "vm");
        destroy(host, "vm");
    }
    EXPECT_TRUE(turnUntil([] { return members().empty(); }, patience)) << "a tap is left";
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
        const VerbResult started = start(host, file, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        Pinger pinger(guestAddress, milliseconds(5), 8);
        pinger.start();
        const auto isReachable = [&] {
            const unsigned before = pinger.answered();
            return turnUntil([&] { return pinger.answered() >= before + 50; }, patience);
        };
        ASSERT_TRUE(isReachable());
        std::set<std::string> before = members();
        ASSERT_EQ(before.size(), 1U);
        const json report = upgrade(host, "vm", {.binary = newQemu()});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_TRUE(isReachable());
        EXPECT_NE(members(), before);
        EXPECT_EQ(members().size(), 1U) << "one tap, the new VMM's";

        // The manager that made the taps dies, and the one that finds the executed VMM has none of their descriptors.
        before = members();
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "vm", "vm", newQemu(), "proving", "0"));
        const json settled = upgrade(host, "vm", {.dryRun = true});
        EXPECT_EQ(settled["outcome"], "ready") << settled.dump(2);
        EXPECT_TRUE(isReachable()) << "the guest is not reachable on the VMM that was recovered";
        EXPECT_NE(members(), before);
        EXPECT_EQ(members().size(), 1U);
        destroy(host, "vm");
    }
    EXPECT_TRUE(turnUntil([] { return members().empty(); }, patience)) << "a tap is left";
    workspace.expectNothingLeft();
}

}  // namespace
}  // namespace vh::test
