// What is made of a guest's lines in a round: above all, that nothing is taken for good that was not seen.
#include "manager/compare/guest_watch.h"

#include <chrono>
#include <string>

#include <gtest/gtest.h>

namespace vh {
namespace {

using Session = GuestWatch::Session;
using std::chrono::milliseconds;

class GuestWatchTest : public testing::Test {
 protected:
    void hear(const std::string& line, Session session, bool mayFollowLost = false) {
        watch_.heard({line, start_ + milliseconds(++now_), 0, mayFollowLost}, session);
    }
    void beats(int count, Session session) {
        for (int i = 0; i < count; ++i) hear("B " + std::to_string(++number_), session);
    }
    void status(unsigned checked, Session session, unsigned mismatches = 0) {
        hear("S seq=1 ram_checked=" + std::to_string(checked) + " mismatches=" + std::to_string(mismatches), session);
    }
    Round round() {
        Round round;
        round.outcome = Outcome::Upgraded;
        watch_.fill(round, 0, false);
        return round;
    }

    GuestWatch watch_;
    std::chrono::steady_clock::time_point start_{std::chrono::hours(1)};
    int now_ = 0, number_ = 0;
};

TEST_F(GuestWatchTest, saysIntactOfWhatWasCheckedAfterTheSwitch) {
    beats(10, Session::Before);
    status(100, Session::Before);
    beats(10, Session::Old);
    beats(10, Session::New);
    status(180, Session::After);
    EXPECT_EQ(round().patterns->intact, true);
    EXPECT_EQ(round().patterns->pagesChecked, 80u);
}

TEST_F(GuestWatchTest, countsNoBeatThatWentMissingWhenAPortWasConnectedToAnew) {
    for (const Session session : {Session::Old, Session::New}) {
        beats(10, session);
        ++number_;
        hear("B " + std::to_string(++number_), session, true);
        EXPECT_EQ(round().beats->lost, 0u);
    }
    ++number_;
    beats(2, Session::New);
    EXPECT_EQ(round().beats->lost, 1u);
}

TEST_F(GuestWatchTest, hearsTheGuestsClocksOnBothVmms) {
    hear("T 1000 1000000", Session::Before);
    hear("T 3000 3000000", Session::Old);
    hear("T 9000 4000000", Session::New);
    ASSERT_TRUE(round().guestClock);
    EXPECT_EQ(round().guestClock->hostGapMs, 1);
    EXPECT_EQ(round().guestClock->clockGapMs, 1);
    EXPECT_FALSE(round().isBroken());
    for (const char* nonsense : {"T", "T ", "T 1", "T x y", "T 9001 ", "T  9001"}) hear(nonsense, Session::After);
    EXPECT_FALSE(round().isBroken()) << "what is no pair of numbers is nothing";
    hear("T 8999 5000000", Session::After);
    EXPECT_TRUE(round().isBroken());
}

TEST_F(GuestWatchTest, doesNotSayIntactWhenNothingWasChecked) {
    beats(10, Session::Before);
    status(100, Session::Before);
    beats(10, Session::New);
    EXPECT_EQ(round().patterns->intact, std::nullopt);
}

TEST_F(GuestWatchTest, doesNotSayIntactOfAGuestThatWasNotHeardOnTheNewVmm) {
    beats(10, Session::Before);
    status(100, Session::Before);
    status(180, Session::Old);
    EXPECT_EQ(watch_.switchedAtMs(), std::nullopt);
    EXPECT_EQ(round().patterns->intact, std::nullopt);
}

TEST_F(GuestWatchTest, saysBrokenWhateverElseWasNotSeen) {
    beats(10, Session::Before);
    status(100, Session::Before, 1);
    EXPECT_EQ(round().patterns->intact, false);
    EXPECT_TRUE(round().isBroken());
}

TEST_F(GuestWatchTest, saysBrokenWhenABeatIsMissingBetweenTheTwoVmms) {
    beats(10, Session::Old);
    ++number_;
    beats(10, Session::New);
    status(100, Session::New);
    EXPECT_EQ(round().patterns->intact, false);
    EXPECT_EQ(round().beats->lost, 1u);
}

}  // namespace
}  // namespace vh
