#include "manager/vmm/heartbeat.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/process/child_process.h"
#include "tests/support/main_loop.h"
#include "tests/support/quiet_threads.h"
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
    /// What the port has no room for waits until some was read.
    void say(const UniqueFd& port, const std::string& text) {
        for (std::size_t sent = 0; sent < text.size(); monitor_.catchUp())
            sent += sendSome(port.get(), text.data() + sent, text.size() - sent);
    }
    /// Without any turn of the main loop. True when all that was sent has been read.
    static bool isReadByItself(const UniqueFd& port) {
        int unread = 1;
        for (int attempt = 0; attempt < 3'000 && unread > 0; ++attempt) {
            ::ioctl(port.get(), SIOCOUTQ, &unread);
            if (unread > 0) ::usleep(10'000);
        }
        return unread == 0;
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
    const UniqueFd newPort = port();
    say(newPort, "B 3\n");
    ASSERT_TRUE(seen(3));
    EXPECT_TRUE(monitor_.hasBeatWithin(milliseconds(60'000)));
    EXPECT_FALSE(monitor_.hasBeatWithin(milliseconds(-1)));
    EXPECT_NE(monitor_.summary().pauseMs, std::nullopt);
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, joinALineThatBeginsOnTheOldAndEndsOnTheNew) {
    const UniqueFd old = port(), newPort = port();
    say(old, "B 41\nB 4");
    ASSERT_TRUE(seen(1));
    say(newPort, "2\nB 43\n");
    ASSERT_TRUE(seen(3));
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, countALineThatTheSwitchCutAsOneBeatOfTheNewVmm) {
    const std::string line = "B 42\n";
    for (std::size_t cut = 0; cut <= line.size(); ++cut) {
        HeartbeatMonitor monitor;
        std::vector<std::pair<std::string, std::size_t>> heard;
        monitor.onHeard([&](const HeardLine& one) { heard.emplace_back(one.text, one.port); });
        auto [ours, old] = unixPair();
        monitor.listen(std::move(ours));
        auto [more, newPort] = unixPair();
        monitor.listen(std::move(more));
        const std::string before = "B 41\n" + line.substr(0, cut), after = line.substr(cut) + "B 43\n";
        ASSERT_EQ(sendSome(old.get(), before.data(), before.size()), before.size());
        monitor.catchUp();
        ASSERT_EQ(sendSome(newPort.get(), after.data(), after.size()), after.size());
        monitor.catchUp();
        const std::size_t ended = cut == line.size() ? 0 : 1;
        EXPECT_THAT(heard, ElementsAre(Pair("B 41", 0U), Pair("B 42", ended), Pair("B 43", 1U))) << cut;
        EXPECT_EQ(monitor.summary().lost + monitor.summary().repeated, 0U) << cut;
    }
}

TEST_F(HeartbeatPorts, doNotJoinALineWhoseRestNeverCameWithTheNextOne) {
    const UniqueFd old = port(), newPort = port();
    say(old, "B 41\nB 4");
    say(newPort, "B 43\nB 44\n");
    EXPECT_EQ(monitor_.summary().beats, 3U);
    EXPECT_EQ(monitor_.summary().lost, 1U) << "42, and none beside it";
    EXPECT_EQ(monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, goOnWithALineThatARollbackInterrupted) {
    const UniqueFd old = port(), newPort = port();
    say(old, "B 41\nB 4");
    say(old, "2\nB 43\n");
    EXPECT_EQ(monitor_.summary().beats, 3U);
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, dateABeatWhenItComesAndNotWhenTheMainLoopHasATurn) {
    std::vector<std::chrono::steady_clock::time_point> arrivals;
    monitor_.onHeard([&](const HeardLine& line) { arrivals.push_back(line.at); });
    const UniqueFd old = port();
    for (const char* beat : {"B 1\n", "B 2\n", "B 3\n"}) {
        const auto sent = std::chrono::steady_clock::now();
        ASSERT_EQ(sendSome(old.get(), beat, 4), 4U);
        ASSERT_TRUE(isReadByItself(old)) << "the main loop has no turn, and nobody else reads";
        std::this_thread::sleep_for(milliseconds(200));  // It is dated soon after it was read, and not at once on a busy host.
        const auto turn = std::chrono::steady_clock::now();
        ASSERT_TRUE(seen(arrivals.size() + 1));
        EXPECT_GE(arrivals.back(), sent);
        EXPECT_LT(arrivals.back(), turn);
    }
}

TEST_F(HeartbeatPorts, areReadByAThreadThatGetsNoSignals) {
    const UniqueFd old = port();
    ASSERT_EQ(sendSome(old.get(), "B 1\n", 4), 4U);
    // A thread that is just being started blocks signals anyhow (glibc's pthread_create()).
    ASSERT_TRUE(isReadByItself(old));
    EXPECT_GE(expectOthersBlockSignals(), 1U);
}

TEST_F(HeartbeatPorts, areReadOnWhenSomebodyWhoIsToldThrows) {
    monitor_.onHeard([](const HeardLine& line) {
        if (line.text == "B 1") throw std::runtime_error("does not like it");
    });
    const UniqueFd old = port(), newPort = port();
    ASSERT_EQ(sendSome(newPort.get(), "B 2\n", 4), 4U);
    ASSERT_EQ(sendSome(old.get(), "B 1\n", 4), 4U);
    EXPECT_THROW(monitor_.catchUp(), std::runtime_error);
    EXPECT_TRUE(seen(2)) << "what had come with it";
    say(newPort, "B 3\n");
    EXPECT_TRUE(seen(3)) << "what came later";
}

TEST_F(HeartbeatPorts, canEndWhileThereIsMoreThanAnybodyReads) {
    auto monitor = std::make_unique<HeartbeatMonitor>();
    auto [ours, theirs] = unixPair();
    monitor->listen(std::move(ours));
    const std::string lines(100'000, '\n');
    std::size_t sent = 0;
    while (sent < (3 << 20) && isReadByItself(theirs)) {
        const std::size_t more = sendSome(theirs.get(), lines.data(), lines.size());
        sent += more;
        if (sent > (1 << 20)) break;
    }
    EXPECT_GT(sent, 1U << 20) << "read while the main loop had no turn";
    sendSome(theirs.get(), lines.data(), lines.size());
    monitor.reset();
    char byte;
    EXPECT_EQ(::send(theirs.get(), &byte, 1, MSG_NOSIGNAL), -1) << "the connection is closed";
}

TEST_F(HeartbeatPorts, doNotDisturbProcessesThatAreStartedMeanwhile) {
    const UniqueFd old = port();
    std::atomic<bool> ends = false;
    std::thread guest([&] {
        std::uint64_t beat = 0;
        while (!ends) {
            const std::string line = "B " + std::to_string(++beat) + "\n";
            for (std::size_t done = 0; done < line.size() && !ends;)
                done += sendSome(old.get(), line.data() + done, line.size() - done);
        }
    });
    for (int i = 0; i < 50; ++i) {
        const ChildProcess child = ChildProcess::launch({.argv = {"/bin/true"}});
        ASSERT_TRUE(loopUntil([&] { return !child.alive(); }));
        EXPECT_EQ(child.howItEnded(), "exited with status 0");
    }
    ends = true;
    guest.join();
    EXPECT_TRUE(seen(1));
}

TEST_F(HeartbeatPorts, areDrainedInTheOrderInWhichTheGuestWrote) {
    UniqueFd old = port(), newPort = port();
    // The old one has more than is read at once, and more than its socket takes.
    std::string many;
    std::uint64_t beat = 0;
    while (many.size() < 1'500'000) many += "B " + std::to_string(++beat) + "\n";
    for (std::size_t sent = 0; sent < many.size(); loopWhileBusy())
        sent += sendSome(old.get(), many.data() + sent, many.size() - sent);
    const std::string next = "B " + std::to_string(beat + 1) + "\n";
    ASSERT_EQ(sendSome(newPort.get(), next.data(), next.size()), next.size());
    old.reset();
    ASSERT_TRUE(seen(beat + 1));
    EXPECT_EQ(monitor_.summary().lost, 0U);
    EXPECT_EQ(monitor_.summary().repeated, 0U);
}

TEST_F(HeartbeatPorts, areReadThroughAnotherConnection) {
    const UniqueFd old = port(), newPort = port();
    say(old, "B 1\nB 2\n");
    say(newPort, "B 3\nB");
    ASSERT_TRUE(seen(3));
    auto [ours, theirs] = unixPair();
    monitor_.listenAgain(1, std::move(ours));
    // Not at once: as long as the thread is in poll(2) with it, the kernel keeps it open.
    pollfd closed{newPort.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&closed, 1, 30'000), 1);
    char byte;
    EXPECT_EQ(::read(newPort.get(), &byte, 1), 0) << "the first connection is closed";
    // What the port held for that one is gone, and the first line that comes may have begun before.
    say(theirs, " 8\nB 9\nB 12\nB 12\n");
    ASSERT_TRUE(seen(6));
    EXPECT_EQ(monitor_.summary().lost, 2U) << "only between what came through one connection";
    EXPECT_EQ(monitor_.summary().repeated, 1U);
}

TEST_F(HeartbeatPorts, areReadOnDemandWhatTheLoopHasNotComeTo) {
    const UniqueFd old = port();
    ASSERT_EQ(sendSome(old.get(), "B 1\n", 4), 4U);
    monitor_.catchUp();
    EXPECT_EQ(monitor_.summary().beats, 1U);
    monitor_.catchUp();
    loopWhileBusy();
    EXPECT_EQ(monitor_.summary().beats, 1U);
}

TEST_F(HeartbeatPorts, areThoseOfAGuestThatGoesOnWhenBeatsComeAtMomentsThatLieApart) {
    const UniqueFd old = port(), newPort = port();
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
    const UniqueFd newPort = port();
    say(old, "B 1\nB 2");
    old.reset();
    say(newPort, "\nB 3\n");
    ASSERT_TRUE(seen(3));
    EXPECT_EQ(monitor_.summary().lost + monitor_.summary().repeated, 0U);
    loopWhileBusy();  // A closed port that stayed in the loop would keep it busy for ever.
}

TEST_F(HeartbeatPorts, maySendGarbageWithoutALineEnd) {
    const UniqueFd old = port();
    const std::string garbage(4096, '\0');
    for (int i = 0; i < 1000; ++i) {
        say(old, garbage);
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
    }
    say(old, "7\nB 8\n");
    EXPECT_EQ(monitor_.summary().beats, 1U) << "what is too long is dropped, not kept until its end comes";
}

TEST_F(HeartbeatPorts, maySendManyLinesOfGarbage) {
    const UniqueFd old = port();
    std::string garbage;
    for (int i = 0; garbage.size() < 16'000; ++i)
        garbage += "E" + std::string(static_cast<std::size_t>(i % 7), 'x') + "\nE " + garbage.substr(0, 20) + "\n";
    for (int i = 0; i < 100; ++i) {
        say(old, garbage);
    }
    say(old, "\nB 1\n");
    ASSERT_TRUE(seen(1));
    EXPECT_THAT(monitor_.summary().errors, SizeIs(20));
}

}  // namespace
}  // namespace vh
