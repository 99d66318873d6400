// Taps on a real bridge, in a network namespace of its own; this process is both VMMs.
#include "manager/resources/network_switch.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// After <net/if.h>, which it would otherwise clash with.
#include <linux/if_packet.h>
#include <linux/sockios.h>

#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/compare/own_network.h"
#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr const char* bridge = "vhbr0";
constexpr const char* guest = "52:54:00:12:34:56";
constexpr const char* nested = "52:54:00:00:00:77";
constexpr const char* everybody = "ff:ff:ff:ff:ff:ff";
constexpr unsigned char mark = 0xb5;  // Of our frames' type, which nobody else uses (0x88b5, IEEE 802 local experiments).

class NetworkSwitchTest : public NoDescriptorLeaks {
 protected:
    void SetUp() override {
        before_ = UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        if (const std::string why = enterOwnNetwork(bridge); !why.empty())
            GTEST_SKIP() << why << "; run this as root, on a kernel with bridges";
        vm_.name = "web1";
        vm_.networks = {{.id = "lan", .type = NetworkType::Tap, .bridge = bridge, .mac = guest}};
        old_ = makeTap("old%d");
        setAddress(old_.name, parseMac("fe:54:00:12:34:56"));
        joinBridge(old_.name, bridge);
        bringUp(old_.name);
        Tap tap = makeTap("vh%d");
        newName_ = tap.name;
        newTap_.add("tap/lan", std::move(tap.fd));
        say(old_.fd.get(), guest, 0);
        // The kernel lets a bridge send when it has seen that its first port is there, which takes a moment.
        const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        do {
            ASSERT_LT(std::chrono::steady_clock::now(), until) << "the bridge does not send";
            tell(guest, 0);
        } while (heardByOld().empty());
    }
    void TearDown() override {
        if (IsSkipped()) return;
        old_ = {};
        EXPECT_EQ(::setns(before_.get(), CLONE_NEWNET), 0);
        before_.reset();
        newTap_ = Resources();
    }

    static std::vector<unsigned char> frame(const char* to, const char* from, unsigned char number) {
        std::vector<unsigned char> bytes(60);
        std::memcpy(bytes.data(), parseMac(to).data(), 6);
        std::memcpy(bytes.data() + 6, parseMac(from).data(), 6);
        bytes[12] = 0x88;
        bytes[13] = mark;
        bytes[14] = number;
        return bytes;
    }
    /// The guest sends from an address, by the VMM that has that tap.
    static void say(int tap, const char* from, unsigned char number) {
        std::vector<unsigned char> bytes = frame(everybody, from, number);
        bytes.insert(bytes.begin(), 10, 0);
        EXPECT_EQ(::write(tap, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    }
    /// The host sends a packet to an address.
    static void tell(const char* to, unsigned char number) {
        const UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
        const sockaddr_ll port{.sll_family = AF_PACKET, .sll_ifindex = static_cast<int>(::if_nametoindex(bridge))};
        const std::vector<unsigned char> bytes = frame(to, "02:00:00:00:00:01", number);
        EXPECT_EQ(::sendto(socket.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&port), sizeof(port)),
                  static_cast<ssize_t>(bytes.size()));
    }
    /// The numbers of the packets that a VMM reads from its tap.
    static std::vector<int> heardBy(int tap) {
        std::vector<int> numbers;
        ::fcntl(tap, F_SETFL, O_NONBLOCK);
        std::array<unsigned char, 2048> bytes{};
        for (ssize_t length; (length = ::read(tap, bytes.data(), bytes.size())) > 0;)
            if (length > 24 && bytes[22] == 0x88 && bytes[23] == mark) numbers.push_back(bytes[24]);
        return numbers;
    }
    /// The packet sockets of this network namespace, by their inodes.
    static std::vector<std::string> packetSockets() {
        std::ifstream table("/proc/thread-self/net/packet");
        std::vector<std::string> inodes;
        std::string line;
        std::getline(table, line);  // The heads.
        while (std::getline(table, line)) inodes.push_back(line.substr(line.find_last_of(' ') + 1));
        return inodes;
    }
    std::vector<int> heardByOld() const { return heardBy(old_.fd.get()); }
    std::vector<int> heardByNew() const { return heardBy(newTap_.fd("tap/lan")); }
    /// Known to the bridge by the first descriptor, as those of a VMM are by their numbers.
    NetworkSwitch begin() const { return NetworkSwitch(vm_, ::getpid(), newTap_); }

    VmDefinition vm_;
    Tap old_;
    std::string newName_;
    Resources newTap_;

 private:
    UniqueFd before_;
};

TEST_F(NetworkSwitchTest, givesWhatCameInBetweenToTheNewVmmOnceAndInOrder) {
    tell(guest, 1);
    EXPECT_THAT(heardByOld(), ElementsAre(1));
    NetworkSwitch network = begin();
    EXPECT_THAT(network.problems(), IsEmpty());
    tell(guest, 2);
    EXPECT_THAT(heardByOld(), ElementsAre(2)) << "which still runs the guest";
    network.hold();
    EXPECT_THAT(network.problems(), IsEmpty());
    tell(guest, 3);
    say(old_.fd.get(), guest, 0);  // The guest runs on, and the bridge hears it there.
    tell(guest, 4);
    EXPECT_THAT(heardByOld(), IsEmpty());
    EXPECT_THAT(heardByNew(), IsEmpty()) << "which is not ready to read";
    network.toNew();
    tell(guest, 5);
    EXPECT_THAT(network.problems(), IsEmpty());
    EXPECT_THAT(heardByNew(), ElementsAre(3, 4, 5));
    EXPECT_THAT(heardByOld(), IsEmpty());
}

/// To close one takes the kernel milliseconds, and with eight networks there were 24 of that in a pause.
TEST_F(NetworkSwitchTest, hasOneSenderForAllNetworksFromBeforeTheGuestStops) {
    newTap_ = Resources();  // Those of the old VMM come first.
    const Tap second = makeTap("old%d");
    joinBridge(second.name, bridge);
    vm_.networks.push_back({.id = "wan", .type = NetworkType::Tap, .bridge = bridge, .mac = nested});
    for (const char* resource : {"tap/lan", "tap/wan"}) newTap_.add(resource, makeTap("vh%d").fd);
    NetworkSwitch network = begin();
    const std::vector<std::string> sender = packetSockets();
    EXPECT_THAT(sender, SizeIs(1));
    network.hold();
    tell(guest, 1);
    tell(nested, 2);
    network.toNew();
    EXPECT_THAT(network.problems(), IsEmpty());
    EXPECT_EQ(packetSockets(), sender);
    EXPECT_THAT(heardByNew(), ElementsAre(1));
    EXPECT_THAT(heardBy(newTap_.fd("tap/wan")), ElementsAre(2));
}

TEST_F(NetworkSwitchTest, givesWhatCameInBetweenBackToTheOldVmm) {
    {
        NetworkSwitch network = begin();
        network.hold();
        tell(guest, 1);
        network.toOld();
        tell(guest, 2);
        EXPECT_THAT(network.problems(), IsEmpty());
    }
    tell(guest, 3);
    EXPECT_THAT(heardByOld(), ElementsAre(1, 2, 3));
    EXPECT_THAT(heardByNew(), IsEmpty());
}

TEST_F(NetworkSwitchTest, takesWhatIsForEverybodyOutOfTheOldVmmsQueue) {
    NetworkSwitch network = begin();
    network.hold();
    tell(everybody, 1);
    network.toNew();
    EXPECT_THAT(heardByNew(), ElementsAre(1));
}

TEST_F(NetworkSwitchTest, leavesWhatIsForEverybodyToTheOldVmmThatGoesOn) {
    NetworkSwitch network = begin();
    network.hold();
    tell(everybody, 1);
    network.toOld();
    EXPECT_THAT(heardByOld(), ElementsAre(1));
}

TEST_F(NetworkSwitchTest, knowsAllAddressesBehindTheGuest) {
    say(old_.fd.get(), nested, 0);
    NetworkSwitch network = begin();
    network.hold();
    tell(nested, 1);
    EXPECT_THAT(heardByOld(), IsEmpty());
    network.toNew();
    EXPECT_THAT(heardByNew(), ElementsAre(1));
}

TEST_F(NetworkSwitchTest, leavesTheGuestReachableWhenItsManagerDies) {
    {
        NetworkSwitch network = begin();
        network.hold();
        tell(guest, 1);
    }
    tell(guest, 2);
    EXPECT_THAT(heardByOld(), ElementsAre(2)) << "and what was held is lost with the manager";
}

TEST_F(NetworkSwitchTest, goesOnWithoutTheOldVmmsTap) {
    // As when it was executed over, or died.
    old_ = {};
    vm_.networks.push_back({.id = "wan", .type = NetworkType::Tap, .bridge = bridge, .mac = nested});
    newTap_.add("tap/wan", makeTap("vh%d").fd);
    const pid_t nobody = 0;
    NetworkSwitch network(vm_, nobody, newTap_);
    network.hold();
    network.toNew();
    EXPECT_EQ(network.problems().size(), 2U);
    tell(guest, 1);
    EXPECT_THAT(heardByNew(), ElementsAre(1));
}

TEST_F(NetworkSwitchTest, keepsTheBridgesAddressWhereTheOldTapHasGivenItItsOwn) {
    // A bridge as the kernel makes it, and a tap of a manager that gave taps any address.
    old_ = {};
    old_ = makeTap("older%d");
    setAddress(old_.name, parseMac("06:00:00:00:00:02"));
    const Tap nic = makeTap("nic%d");
    setAddress(nic.name, parseMac("f2:00:00:00:00:01"));
    const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::ioctl(control.get(), SIOCBRADDBR, "vhbr1"), 0);
    joinBridge(nic.name, "vhbr1");
    joinBridge(old_.name, "vhbr1");
    vm_.networks[0].bridge = "vhbr1";
    ASSERT_EQ(addressOf("vhbr1"), parseMac("06:00:00:00:00:02"));
    NetworkSwitch network = begin();
    network.hold();
    network.toNew();
    old_ = {};
    EXPECT_EQ(addressOf("vhbr1"), parseMac("06:00:00:00:00:02"));
    EXPECT_EQ(addressOf(newName_), parseMac("06:00:00:00:00:02"));
}

}  // namespace
}  // namespace vh
