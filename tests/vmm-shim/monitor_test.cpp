// A monitor that is a hostile process's.
#include "vmm-shim/qmp/monitor.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

const std::string greeting = R"({"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}, "capabilities": []}})"
                             "\n"
                             R"({"return": {}, "id": 1})"
                             "\n";

/// Says something to its first client, over and over when it is told so, until that client goes.
class HostileMonitor {
 public:
    HostileMonitor(std::string first, std::string then = {}, bool again = false) {
        listener_ = listenUnix(path());
        speaker_ = std::thread([this, first = std::move(first), then = std::move(then), again] { speak(first, then, again); });
    }
    HostileMonitor(const HostileMonitor&) = delete;
    ~HostileMonitor() { speaker_.join(); }

    std::string path() const { return directory_.file("qmp.sock"); }

 private:
    /// False when the client has gone.
    static bool say(int client, const std::string& text) {
        for (std::size_t said = 0; said < text.size();) {
            const ssize_t count = ::send(client, text.data() + said, text.size() - said, MSG_NOSIGNAL);
            if (count <= 0) return false;
            said += static_cast<std::size_t>(count);
        }
        return true;
    }

    void speak(const std::string& first, const std::string& then, bool again) {
        pollfd waiting{listener_.get(), POLLIN, 0};
        if (::poll(&waiting, 1, 30'000) != 1) return;
        const UniqueFd client(::accept(listener_.get(), nullptr, nullptr));
        bool there = say(client.get(), first);
        do there = there && say(client.get(), then);
        while (there && again);
        for (char word[512]; there && ::read(client.get(), word, sizeof word) > 0;) continue;
    }

    const TemporaryDirectory directory_;
    UniqueFd listener_;
    std::thread speaker_;
};

std::string complaint(const HostileMonitor& hostile, milliseconds timeout = milliseconds(20'000)) {
    try {
        Monitor monitor(hostile.path(), timeout);
        monitor.execute("query-status");
    } catch (const MonitorUnreachable& error) {
        return error.what();
    }
    return "none";
}

TEST(Monitor, isGivenUpWhenItsAnswerHasNoBottom) {
    const std::string depth(1'000'000, '['), whole = depth + std::string(1'000'000, ']');
    for (const std::string& answer :
         {depth, whole, R"({"return": )" + whole + R"(, "id": 2})", R"({"event": "A", "data": )" + whole + "}"}) {
        const HostileMonitor hostile(greeting, answer + "\n");
        EXPECT_THAT(complaint(hostile), HasSubstr("nested deeper"));
    }
}

TEST(Monitor, isGivenUpWhenItSaysSomethingElseForEver) {
    const HostileMonitor hostile(greeting, "{}\n", true);
    EXPECT_THAT(complaint(hostile, milliseconds(300)), testing::AnyOf(HasSubstr("no answer"), HasSubstr("longer than any")));
}

TEST(Monitor, isGivenUpWhenItSaysSomethingElseForEverInsteadOfAGreeting) {
    const HostileMonitor hostile("", std::string(1'000, 'x'), true);
    EXPECT_THAT(complaint(hostile, milliseconds(300)), testing::AnyOf(HasSubstr("nobody greets"), HasSubstr("longer than any")));
}

TEST(Monitor, readsManyShortLines) {
    std::string events;
    for (int i = 0; i < 500'000; ++i) events += "{}\n";
    const HostileMonitor hostile(greeting, events + R"({"return": {"status": "running"}, "id": 2})"
                                                    "\n");
    Monitor monitor(hostile.path(), milliseconds(60'000));
    EXPECT_EQ(monitor.execute("query-status")["status"], "running");
}

}  // namespace
}  // namespace vh
