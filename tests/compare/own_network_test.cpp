// Each test in a network namespace of its own; the tests after these are where they were.
#include "manager/compare/own_network.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// After <net/if.h>, which it would otherwise clash with.
#include <linux/sockios.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/quiet_threads.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

class OwnNetwork : public testing::Test {
 protected:
    void SetUp() override {
        before_ = UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        ASSERT_TRUE(before_);
        if (const std::string why = enterOwnNetwork("vhbr0"); !why.empty())
            GTEST_SKIP() << why << "; run this as root, on a kernel with bridges";
    }
    void TearDown() override {
        if (IsSkipped()) return;
        EXPECT_EQ(::setns(before_.get(), CLONE_NEWNET), 0);
    }

 private:
    UniqueFd before_;
};

TEST_F(OwnNetwork, hasABridgeAndNothingOfTheHosts) {
    EXPECT_NE(::if_nametoindex("vhbr0"), 0U);
    struct if_nameindex* all = ::if_nameindex();
    ASSERT_NE(all, nullptr);
    for (struct if_nameindex* one = all; one->if_index != 0; ++one)
        EXPECT_TRUE(std::string(one->if_name) == "vhbr0" || std::string(one->if_name) == "lo") << one->if_name;
    ::if_freenameindex(all);
}

TEST_F(OwnNetwork, keepsTheHostsAddressWhateverJoinsItsBridge) {
    // A bridge without an address of its own takes the lowest of its ports, and the guests go on sending to the one before.
    const UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)), socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto bridgeAddress = [&] {
        ifreq request{};
        std::strcpy(request.ifr_name, "vhbr0");
        EXPECT_EQ(::ioctl(socket.get(), SIOCGIFHWADDR, &request), 0);
        return std::string(request.ifr_hwaddr.sa_data, 6);
    };
    const std::string before = bridgeAddress();
    ifreq port{};
    std::strcpy(port.ifr_name, "low");
    port.ifr_flags = IFF_TAP | IFF_NO_PI;
    ASSERT_EQ(::ioctl(tap.get(), TUNSETIFF, &port), 0);
    port.ifr_hwaddr = {.sa_family = ARPHRD_ETHER, .sa_data = {2, 0, 0, 0, 0, 0}};
    ASSERT_EQ(::ioctl(socket.get(), SIOCSIFHWADDR, &port), 0);
    ifreq join{};
    std::strcpy(join.ifr_name, "vhbr0");
    join.ifr_ifindex = static_cast<int>(::if_nametoindex("low"));
    ASSERT_EQ(::ioctl(socket.get(), SIOCBRADDIF, &join), 0);
    EXPECT_EQ(bridgeAddress(), before);
}

TEST_F(OwnNetwork, hearsWhoAnswers) {
    Pinger pinger("10.77.0.1", milliseconds(5), 1400);
    pinger.start();
    std::this_thread::sleep_for(milliseconds(300));
    const PingResult result = pinger.stop(milliseconds(500));
    EXPECT_GT(result.sent, 5U);
    EXPECT_EQ(result.lost, 0U);
    EXPECT_TRUE(result.longestGapMs.has_value());
}

TEST_F(OwnNetwork, asksFromAThreadThatGetsNoSignals) {
    Pinger pinger("10.77.0.1", milliseconds(5), 8);
    pinger.start();
    // A thread that is just being started blocks signals anyhow (glibc's pthread_create()).
    for (int tries = 0; tries < 3'000 && pinger.answered() == 0; ++tries) std::this_thread::sleep_for(milliseconds(10));
    ASSERT_GT(pinger.answered(), 0U);
    EXPECT_GE(expectOthersBlockSignals(), 1U);
    pinger.stop(milliseconds(500));
}

TEST_F(OwnNetwork, losesEveryRequestToWhoIsNotThere) {
    Pinger pinger("10.77.0.9", milliseconds(5), 8);
    pinger.start();
    std::this_thread::sleep_for(milliseconds(100));
    const PingResult result = pinger.stop(milliseconds(50));
    EXPECT_GE(result.sent, 1U);
    EXPECT_EQ(result.lost, result.sent);
    EXPECT_FALSE(result.longestGapMs.has_value());
}

TEST_F(OwnNetwork, doesNotMixUpTwoPingers) {
    Pinger answered("10.77.0.1", milliseconds(5), 8), unanswered("10.77.0.9", milliseconds(5), 8);
    answered.start();
    unanswered.start();
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_EQ(answered.stop(milliseconds(500)).lost, 0U);
    const PingResult none = unanswered.stop(milliseconds(50));
    EXPECT_EQ(none.lost, none.sent);
}

}  // namespace
}  // namespace vh
