// What is made of what a guest says of its clocks.
#include "manager/compare/guest_clock.h"

#include <vector>

#include <gtest/gtest.h>

#include "manager/compare/results.h"

namespace vh {
namespace {

constexpr std::uint64_t ms = 1'000'000;  // In ns.

/// Two GHz, every 10 ms; the switch takes 50 ms of the host's time.
std::vector<ClockSample> samples(std::uint64_t tscGap, std::uint64_t clockGapNs) {
    std::vector<ClockSample> all;
    for (unsigned i = 0; i < 10; ++i) all.push_back({10.0 * i, 1000 + 20'000'000ULL * i, 5 + 10 * ms * i, false});
    all.push_back({140.0, all.back().timeStampCounter + tscGap, all.back().kvmClockNs + clockGapNs, true});
    return all;
}

TEST(GuestClocks, areSetAgainstTheHostsOverTheSwitch) {
    const auto clock = guestClock(samples(100'000'000, 12 * ms));
    ASSERT_TRUE(clock);
    EXPECT_EQ(clock->hostGapMs, 50);
    EXPECT_EQ(clock->tscGapMs, 50) << "the counter went on";
    EXPECT_EQ(clock->clockGapMs, 12) << "KVM's clock stood still with the guest";
    EXPECT_FALSE(clock->wentBack);
}

TEST(GuestClocks, thatGoBackBreakARound) {
    std::vector<ClockSample> all = samples(100'000'000, 12 * ms);
    all.back().kvmClockNs = all.front().kvmClockNs;
    Round round;
    round.guestClock = guestClock(all);
    EXPECT_TRUE(round.guestClock->wentBack);
    EXPECT_TRUE(round.isBroken());
    EXPECT_EQ(round.guestClock->clockGapMs, std::nullopt);
    all = samples(100'000'000, 12 * ms);
    all[3].timeStampCounter = 1;
    EXPECT_TRUE(guestClock(all)->wentBack) << "also where the VMM stays the same";
}

TEST(GuestClocks, haveNoGapWithoutTheSwitch) {
    std::vector<ClockSample> all = samples(1, 1);
    all.pop_back();
    const auto clock = guestClock(all);
    ASSERT_TRUE(clock);
    EXPECT_EQ(clock->hostGapMs, std::nullopt);
    EXPECT_FALSE(clock->wentBack);
    EXPECT_EQ(guestClock({}), std::nullopt);
}

TEST(GuestClocks, withoutKvmsClockGoByTheCounterAlone) {
    std::vector<ClockSample> all = samples(60'000'000, 0);
    for (ClockSample& sample : all) sample.kvmClockNs = 0;
    const auto clock = guestClock(all);
    EXPECT_EQ(clock->tscGapMs, 30) << "at the pace that it had by the host's clock";
    EXPECT_EQ(clock->clockGapMs, std::nullopt);
    EXPECT_FALSE(clock->wentBack);
}

}  // namespace
}  // namespace vh
