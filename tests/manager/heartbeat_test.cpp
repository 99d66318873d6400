#include "manager/vmm/heartbeat.h"

#include <sys/socket.h>

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/main_loop.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Le;
using testing::Optional;
using testing::Pair;
using testing::SizeIs;

/// Beats with made-up times, on made-up ports.
class HeartbeatLines : public testing::Test {
 protected:
    void take(const std::string& line, int atMs, std::size_t port = 0) {
        monitor_.take(line, std::chrono::steady_clock::time_point(milliseconds(atMs)), port);
    }
    const HeartbeatSummary& summary() const { return monitor_.summary(); }

    HeartbeatMonitor monitor_;
};

TEST_F(HeartbeatLines, startAtZero) {
    EXPECT_EQ(summary().beats, 0U);
    EXPECT_EQ(summary().pauseMs, std::nullopt);
    EXPECT_FALSE(monitor_.hasBeatWithin(milliseconds(60'000)));
}

TEST_F(HeartbeatLines, areCountedFromWhereverTheyBegin) {
    for (int beat = 700; beat < 710; ++beat) take("B " + std::to_string(beat), beat * 10);
    EXPECT_EQ(summary().beats, 10U);
    EXPECT_EQ(summary().lost, 0U);
    EXPECT_EQ(summary().repeated, 0U);
    EXPECT_DOUBLE_EQ(summary().longestGapMs, 10);
}

TEST_F(HeartbeatLines, countNumbersThatNeverCame) {
    take("B 1", 0);
    take("B 2", 10);
    take("B 6", 20);
    EXPECT_EQ(summary().lost, 3U);
    EXPECT_EQ(summary().repeated, 0U);
}

TEST_F(HeartbeatLines, countNumbersThatCameAgainOrWentBack) {
    for (const char* line : {"B 5", "B 5", "B 3", "B 4"}) take(line, 0);
    EXPECT_EQ(summary().repeated, 2U) << "3 after 5 is a guest that ran twice; 4 after 3 is not";
    EXPECT_EQ(summary().lost, 0U);
}

TEST_F(HeartbeatLines, keepTheLongestGap) {
    take("B 1", 0);
    take("B 2", 10);
    take("B 3", 95);
    take("B 4", 100);
    EXPECT_DOUBLE_EQ(summary().longestGapMs, 85);
}

TEST_F(HeartbeatLines, areNoPauseOnOnePort) {
    take("B 1", 0);
    take("B 2", 5000);
    EXPECT_EQ(summary().pauseMs, std::nullopt);
}

TEST_F(HeartbeatLines, measureThePauseFromOnePortToTheNext) {
    take("B 1", 0, 0);
    take("B 2", 10, 0);
    take("B 3", 17, 1);
    take("B 4", 900, 1);
    EXPECT_THAT(summary().pauseMs, Optional(7.0));
    EXPECT_DOUBLE_EQ(summary().longestGapMs, 883);
}

TEST_F(HeartbeatLines, hasNoPauseWhenOnlyTheNewPortSpeaks) {
    take("B 1", 0, 1);
    take("B 2", 10, 1);
    EXPECT_EQ(summary().pauseMs, std::nullopt);
}

TEST_F(HeartbeatLines, takeTheTailOfAFirstLineForNothing) {
    for (const char* tail :
         {"23", " 123", "", "B", "B ", "B x", "B 12x", "B -1", "B +1", "B 1 2", "B  3", "B 99999999999999999999"})
        take(tail, 0);
    EXPECT_EQ(summary().beats, 0U);
    take("B 7", 0);
    EXPECT_EQ(summary().lost, 0U);
}

TEST_F(HeartbeatLines, countUpToTheLargestNumber) {
    take("B 18446744073709551614", 0);
    take("B 18446744073709551615", 0);
    take("B 0", 0);
    EXPECT_EQ(summary().beats, 3U);
    EXPECT_EQ(summary().lost, 0U);
    EXPECT_EQ(summary().repeated, 1U);
}

TEST_F(HeartbeatLines, keepTheLatestStatus) {
    take("S ram_filled=0 ram_passes=0 mismatches=0", 0);
    take("S ram_filled=1 ram_passes=12 word odd=x =5 empty=", 0);
    EXPECT_THAT(summary().status,
                ElementsAre(Pair("", 5U), Pair("mismatches", 0U), Pair("ram_filled", 1U), Pair("ram_passes", 12U)));
}

TEST_F(HeartbeatLines, keepTheFirstTwentyErrors) {
    for (int i = 0; i < 100; ++i) take("E page " + std::to_string(i) + " differs", 0);
    ASSERT_THAT(summary().errors, SizeIs(20));
    EXPECT_EQ(summary().errors.front(), "page 0 differs");
}

TEST_F(HeartbeatLines, keepABoundedStatusWhateverAGuestInvents) {
    for (int i = 0; i < 10'000; ++i) take("S key" + std::to_string(i) + "=1", 0);
    EXPECT_THAT(summary().status, SizeIs(Le(100)));
}

TEST_F(HeartbeatLines, areToldOneByOne) {
    int told = 0;
    monitor_.onLine([&] { ++told; });
    take("B 1", 0);
    take("S a=1", 0);
    take("E x", 0);
    EXPECT_EQ(told, 3);
    monitor_.onLine([&] {
        monitor_.onLine(nullptr);
        told += 10;
    });
    take("B 2", 0);
    take("B 3", 0);
    EXPECT_EQ(told, 13);
}

/// Bytes on real sockets, as QEMU's chardevs send them.
class HeartbeatPorts : public MainLoopTest {
 protected:
    /// Adds a port; returns its far end.
    UniqueFd port() {
        auto [ours, theirs] = unixPair();
        monitor_.listen(std::move(ours));
        return std::move(theirs);
    }
    static void say(const UniqueFd& port, const std::string& text) {
        ASSERT_EQ(sendSome(port.get(), text.data(), text.size()), text.size());
    }
    bool seen(std::uint64_t beats) {
        return loopUntil([&] { return monitor_.summary().beats >= beats; });
    }

    HeartbeatMonitor monitor_;
};

TEST_F(HeartbeatPorts, areReadAsTheyCome) {
    const UniqueFd old = port();
    say(old, "B 1\nB 2\n");
    ASSERT_TRUE(seen(2));
    const UniqueFd fresh = port();
    say(fresh, "B 3\n");
    ASSERT_TRUE(seen(3));
    EXPECT_TRUE(monitor_.hasBeatWithin(milliseconds(60'000)));
    EXPECT_FALSE(monitor_.hasBeatWithin(milliseconds(-1)));
    EXPECT_NE(monitor_.summary().pauseMs, std::nullopt);
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, joinALineThatBeginsOnTheOldAndEndsOnTheNew) {
    const UniqueFd old = port(), fresh = port();
    say(old, "B 41\nB 4");
    ASSERT_TRUE(seen(1));
    say(fresh, "2\nB 43\n");
    ASSERT_TRUE(seen(3));
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, areDrainedInTheOrderInWhichTheGuestWrote) {
    UniqueFd old = port(), fresh = port();
    // Both have something when the main loop looks next, and the old one has more than is read at once.
    std::string many;
    std::uint64_t beat = 0;
    while (many.size() < 100'000) many += "B " + std::to_string(++beat) + "\n";
    say(fresh, "B " + std::to_string(beat + 1) + "\n");
    say(old, many);
    old.reset();
    ASSERT_TRUE(seen(beat + 1));
    EXPECT_EQ(monitor_.summary().lost, 0U);
    EXPECT_EQ(monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, areReadThroughAnotherConnection) {
    const UniqueFd old = port(), fresh = port();
    say(old, "B 1\nB 2\n");
    say(fresh, "B 3\nB");
    ASSERT_TRUE(seen(3));
    auto [ours, theirs] = unixPair();
    monitor_.listenAgain(1, std::move(ours));
    char byte;
    EXPECT_EQ(::read(fresh.get(), &byte, 1), 0) << "the first connection is closed";
    // What the port held for that one is gone, and the first line that comes may have begun before.
    say(theirs, " 8\nB 9\nB 12\nB 12\n");
    ASSERT_TRUE(seen(6));
    EXPECT_EQ(monitor_.summary().lost, 2U) << "only between what came through one connection";
    EXPECT_EQ(monitor_.summary().repeated, 1U);
}

TEST_F(HeartbeatPorts, areReadOnDemandWhatTheLoopHasNotComeTo) {
    const UniqueFd old = port();
    say(old, "B 1\n");
    monitor_.catchUp(0);
    EXPECT_EQ(monitor_.summary().beats, 1U);
    monitor_.catchUp(0);
    EXPECT_EQ(monitor_.summary().beats, 1U);
}

TEST_F(HeartbeatPorts, areThoseOfAGuestThatGoesOnWhenBeatsComeAtMomentsThatLieApart) {
    const UniqueFd old = port(), fresh = port();
    const auto begin = std::chrono::steady_clock::now();
    for (int beat = 1; beat <= 128; ++beat) monitor_.take("B " + std::to_string(beat), begin + milliseconds(beat / 64), 1);
    EXPECT_FALSE(monitor_.goesOn(1)) << "all that a port's queue holds comes at once";
    monitor_.take("S seq=128", begin + milliseconds(50), 1);
    monitor_.take("B 129", begin + milliseconds(50), 0);
    EXPECT_FALSE(monitor_.goesOn(1)) << "that was no beat, and not from there";
    monitor_.take("B 130", begin + milliseconds(50), 1);
    EXPECT_TRUE(monitor_.goesOn(1));
    EXPECT_FALSE(monitor_.goesOn(0));
    monitor_.watchAfresh(1);
    EXPECT_FALSE(monitor_.goesOn(1));
    monitor_.take("B 131", begin + milliseconds(90), 1);
    EXPECT_FALSE(monitor_.goesOn(1));
    monitor_.take("B 132", begin + milliseconds(100), 1);
    EXPECT_TRUE(monitor_.goesOn(1));
}

TEST_F(HeartbeatPorts, mayHangUp) {
    UniqueFd old = port();
    const UniqueFd fresh = port();
    say(old, "B 1\nB 2");
    old.reset();
    say(fresh, "\nB 3\n");
    ASSERT_TRUE(seen(3));
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
    loopWhileBusy();  // A closed port that stayed in the loop would keep it busy for ever.
}

TEST_F(HeartbeatPorts, maySendGarbageWithoutALineEnd) {
    const UniqueFd old = port();
    const std::string garbage(4096, '\0');
    for (int i = 0; i < 1000; ++i) {
        say(old, garbage);
        loopWhileBusy();
    }
    say(old, "\nB 1\n");
    ASSERT_TRUE(seen(1));
    EXPECT_THAT(monitor_.summary().errors, IsEmpty());
}

TEST_F(HeartbeatPorts, areNotBelievedALineThatIsLongerThanAnyOfOurProbe) {
    const UniqueFd old = port();
    say(old, "B ");
    for (int i = 0; i < 10; ++i) {
        say(old, std::string(4096, '0'));
        loopWhileBusy();
    }
    say(old, "7\nB 8\n");
    ASSERT_TRUE(seen(1));
    loopWhileBusy();
    EXPECT_EQ(monitor_.summary().beats, 1U) << "what is too long is dropped, not kept until its end comes";
}

TEST_F(HeartbeatPorts, maySendManyLinesOfGarbage) {
    const UniqueFd old = port();
    std::string garbage;
    for (int i = 0; garbage.size() < 16'000; ++i)
        garbage += "E" + std::string(static_cast<std::size_t>(i % 7), 'x') + "\nE " + garbage.substr(0, 20) + "\n";
    for (int i = 0; i < 100; ++i) {
        say(old, garbage);
        loopWhileBusy();
    }
    say(old, "\nB 1\n");
    ASSERT_TRUE(seen(1));
    EXPECT_THAT(monitor_.summary().errors, SizeIs(20));
}

}  // namespace
}  // namespace vh
