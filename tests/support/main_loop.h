// Turns the main loop until something has happened. The deadline is only there so that a test that fails ends; nothing is timed.
#pragma once

#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <functional>

#include <glib.h>
#include <gtest/gtest.h>

#include "manager/process/event_loop.h"
#include "tests/support/open_descriptors.h"

namespace vh {

/// True when `happened` became true while the main loop ran.
inline bool loopUntil(const std::function<bool()>& happened) {
    bool tooLate = false;
    const EventSource deadline = EventSource::after(std::chrono::seconds(30), [&tooLate] { tooLate = true; });
    while (!happened() && !tooLate) g_main_context_iteration(nullptr, TRUE);
    return happened();
}

/// Runs what is due now, and all that follows from it at once.
inline void loopWhileBusy() {
    while (g_main_context_iteration(nullptr, FALSE)) continue;
}

/// For code that works on the main loop: no descriptor is left, and no child, not even a dead one.
class MainLoopTest : public NoDescriptorLeaks {
 protected:
    ~MainLoopTest() override {
        loopWhileBusy();
        EXPECT_TRUE(loopUntil([] { return !haveChildren(); })) << "a child remains";
        loopWhileBusy();
    }

    static bool haveChildren() {
        siginfo_t info{};
        return ::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD;
    }
};

}  // namespace vh
