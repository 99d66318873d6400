// What GLib opens once for itself is opened before the first test counts descriptors.
#include <csignal>

#include <gtest/gtest.h>

#include "tests/support/main_loop.h"

namespace vh {
namespace {

class MainLoopExists : public testing::Environment {
 public:
    void SetUp() override {
        std::signal(SIGPIPE, SIG_IGN);  // As main() does.
        const EventSource signals = EventSource::unixSignal(SIGUSR2, [] {});
        loopWhileBusy();
    }
};

// gtest owns it.
[[maybe_unused]] testing::Environment* const environment = testing::AddGlobalTestEnvironment(new MainLoopExists);

}  // namespace
}  // namespace vh
