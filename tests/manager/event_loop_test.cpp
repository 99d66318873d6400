#include "manager/process/event_loop.h"

#include <csignal>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/main_loop.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

/// Keeps what GLib is given to log while it lives.
class CapturedLog {
 public:
    CapturedLog() : previous_(g_log_set_default_handler(keep, this)) {}
    ~CapturedLog() { g_log_set_default_handler(previous_, nullptr); }
    const std::string& text() const { return text_; }

 private:
    static void keep(const char*, GLogLevelFlags, const char* message, gpointer self) {
        static_cast<CapturedLog*>(self)->text_ += std::string(message) + "\n";
    }
    GLogFunc previous_;
    std::string text_;
};

class EventSourceTest : public MainLoopTest {
 protected:
    EventSourceTest() : pair_(unixPair()) {}
    std::pair<UniqueFd, UniqueFd> pair_;
    int calls_ = 0;
};

TEST_F(EventSourceTest, firesOnceAfterItsDelay) {
    const EventSource source = EventSource::after(milliseconds(0), [this] { ++calls_; });
    EXPECT_EQ(calls_, 0) << "never before the main loop's turn";
    EXPECT_TRUE(loopUntil([this] { return calls_ > 0; }));
    loopWhileBusy();
    EXPECT_EQ(calls_, 1);
}

TEST_F(EventSourceTest, doesNotFireOnceReset) {
    EventSource source = EventSource::after(milliseconds(0), [this] { ++calls_; });
    source.reset();
    source.reset();
    loopWhileBusy();
    EXPECT_EQ(calls_, 0);
}

TEST_F(EventSourceTest, doesNotFireOnceDestroyed) {
    {
        const EventSource source = EventSource::after(milliseconds(0), [this] { ++calls_; });
    }
    loopWhileBusy();
    EXPECT_EQ(calls_, 0);
}

TEST_F(EventSourceTest, keepsWhatItsCallbackHoldsWhileThatResetsIt) {
    EventSource source;
    const auto held = std::make_shared<std::string>("still here");
    std::string seen;
    source = EventSource::readable(pair_.first.get(), [&source, held, &seen] {
        source.reset();
        seen = *held;
    });
    ASSERT_EQ(sendSome(pair_.second.get(), "x", 1), 1U);
    EXPECT_TRUE(loopUntil([&] { return !seen.empty(); }));
    EXPECT_EQ(seen, "still here");
    EXPECT_EQ(held.use_count(), 1) << "the callback is freed with its source";
}

TEST_F(EventSourceTest, canBeReplacedInItsOwnCallback) {
    EventSource source;
    source = EventSource::after(milliseconds(0), [&] {
        ++calls_;
        source = EventSource::after(milliseconds(0), [this] { calls_ += 10; });
    });
    EXPECT_TRUE(loopUntil([this] { return calls_ == 11; }));
}

TEST_F(EventSourceTest, fireFromTheirNewPlaceAfterAMove) {
    EventSource from = EventSource::after(milliseconds(0), [this] { ++calls_; });
    EventSource to(std::move(from));
    from.reset();  // NOLINT(bugprone-use-after-move): that it has no effect is the point.
    EXPECT_TRUE(loopUntil([this] { return calls_ == 1; }));
}

TEST_F(EventSourceTest, dropsItsOwnWhenAnotherIsMovedIn) {
    EventSource source = EventSource::after(milliseconds(0), [this] { calls_ += 10; });
    source = EventSource::after(milliseconds(0), [this] { ++calls_; });
    EXPECT_TRUE(loopUntil([this] { return calls_ > 0; }));
    loopWhileBusy();
    EXPECT_EQ(calls_, 1);
}

TEST_F(EventSourceTest, isReadableAsLongAsThereIsSomething) {
    ASSERT_EQ(sendSome(pair_.second.get(), "ab", 2), 2U);
    const EventSource source = EventSource::readable(pair_.first.get(), [this] {
        char byte = 0;
        if (::read(pair_.first.get(), &byte, 1) == 1) ++calls_;
    });
    EXPECT_TRUE(loopUntil([this] { return calls_ == 2; }));
    loopWhileBusy();
    EXPECT_EQ(calls_, 2);
}

TEST_F(EventSourceTest, isReadableWhenThePeerHangsUp) {
    EventSource source;
    source = EventSource::readable(pair_.first.get(), [&] {
        ++calls_;
        source.reset();
    });
    pair_.second.reset();
    EXPECT_TRUE(loopUntil([this] { return calls_ == 1; }));
}

TEST_F(EventSourceTest, isWritableWhenThePeerHasRoom) {
    EventSource source;
    source = EventSource::writable(pair_.first.get(), [&] {
        ++calls_;
        source.reset();
    });
    EXPECT_TRUE(loopUntil([this] { return calls_ == 1; }));
}

TEST_F(EventSourceTest, survivesAnExceptionAndSaysSo) {
    const CapturedLog log;
    ASSERT_EQ(sendSome(pair_.second.get(), "ab", 2), 2U);
    const EventSource source = EventSource::readable(pair_.first.get(), [this] {
        char byte = 0;
        if (::read(pair_.first.get(), &byte, 1) != 1) return;
        ++calls_;
        throw std::runtime_error("thrown by the test");
    });
    EXPECT_TRUE(loopUntil([this] { return calls_ == 2; })) << "the source goes on after the first exception";
    EXPECT_THAT(log.text(), HasSubstr("defect: an exception reached the main loop: thrown by the test"));
}

TEST_F(EventSourceTest, hearsAUnixSignal) {
    const EventSource source = EventSource::unixSignal(SIGUSR1, [this] { ++calls_; });
    ::raise(SIGUSR1);
    EXPECT_TRUE(loopUntil([this] { return calls_ == 1; }));
    ::raise(SIGUSR1);
    EXPECT_TRUE(loopUntil([this] { return calls_ == 2; }));
}

TEST_F(EventSourceTest, callsSoonButNotAtOnce) {
    const EventSource source = EventSource::soon([this] { ++calls_; });
    EXPECT_EQ(calls_, 0);
    EXPECT_TRUE(loopUntil([this] { return calls_ == 1; }));
    loopWhileBusy();
    EXPECT_EQ(calls_, 1);
}

TEST_F(EventSourceTest, callsNobodySoonWhoHasGone) {
    EventSource::soon([this] { ++calls_; }).reset();
    loopWhileBusy();
    EXPECT_EQ(calls_, 0);
}

}  // namespace
}  // namespace vh
