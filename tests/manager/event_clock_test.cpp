#include "manager/process/event_clock.h"

#include <gtest/gtest.h>

namespace vh {
namespace {

using namespace std::chrono_literals;
using std::chrono::microseconds;

/// Two clocks that a test moves.
class EventClockTest : public testing::Test {
 protected:
    void pass(microseconds time) {
        steady_ += time;
        wall_ += time;
    }
    void set(microseconds by) { wall_ += by; }
    void read() { clock_.look(steady_, wall_); }
    /// What a VMM says that has something to tell just now.
    std::int64_t told() const { return std::chrono::duration_cast<microseconds>(wall_.time_since_epoch()).count(); }

    EventClock::Steady steady_{1'000s};
    EventClock::Wall wall_{1'700'000'000s};
    EventClock clock_{steady_, wall_};
};

TEST_F(EventClockTest, tellsWhenItHappenedAndNotWhenItWasRead) {
    const auto at = steady_;
    const std::int64_t stamp = told();
    pass(3ms + 25us);
    read();
    EXPECT_EQ(clock_.happened(stamp), at);
}

TEST_F(EventClockTest, isNotMisledByAClockThatWasSetBetweenTwoEvents) {
    for (const microseconds step : {microseconds(24h), microseconds(-24h), microseconds(2ms), microseconds(-2ms)}) {
        const auto stopped = steady_;
        const std::int64_t stop = told();
        pass(100us);
        read();
        EXPECT_EQ(clock_.happened(stop), stopped);
        set(step);
        pass(12ms);
        const auto resumed = steady_;
        const std::int64_t resume = told();
        pass(100us);
        read();
        // Read with a clock that was set: late by what reading took, and by no more.
        EXPECT_GE(clock_.happened(resume), resumed);
        EXPECT_LE(clock_.happened(resume), resumed + 100us);
    }
}

TEST_F(EventClockTest, isNotMisledByAClockThatIsSetWhileALineIsUnderWay) {
    for (const microseconds step : {microseconds(24h), microseconds(-24h), microseconds(5s), microseconds(2ms)}) {
        const auto at = steady_;
        const std::int64_t stamp = told();
        set(step);
        pass(100us);
        read();
        EXPECT_EQ(clock_.happened(stamp), at + 100us);
        read();  // And from then on all is as before.
        const auto next = steady_;
        const std::int64_t nextStamp = told();
        pass(1ms);
        read();
        EXPECT_EQ(clock_.happened(nextStamp), next);
    }
}

TEST_F(EventClockTest, doesNotBelieveAVmmWhoseTimeCannotBe) {
    pass(1ms);
    read();
    for (const microseconds wrong : {microseconds(24h), microseconds(-24h), microseconds(1us), microseconds(-11s)})
        EXPECT_EQ(clock_.happened(told() + wrong.count()), steady_) << wrong.count();
    EXPECT_EQ(clock_.happened(0), steady_) << "it does not know";
    EXPECT_EQ(clock_.happened(1), steady_);
    EXPECT_EQ(clock_.happened(INT64_MAX / 2), steady_);
}

TEST_F(EventClockTest, takesAManagerThatHadNoTurnForNoStepOfAClock) {
    pass(700us);
    read();
    set(400us);  // As if the turn had been lost between reading one clock and the other.
    const auto at = steady_;
    const std::int64_t stamp = told();
    pass(9s);
    read();
    EXPECT_EQ(clock_.happened(stamp), at);
}

}  // namespace
}  // namespace vh
