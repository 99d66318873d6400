#include "manager/vmm/guest_states.h"

#include <poll.h>
#include <sys/socket.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

/// Monitors that say nothing by themselves.
class GuestStatesTest : public MainLoopTest {
 protected:
    GuestStates::Question silentVmm() {
        const std::string vmm = directory_.path() + "/" + std::to_string(listeners_.size());
        std::filesystem::create_directory(vmm);
        listeners_.push_back(listenUnix(vmm + "/qmp.sock"));
        return {VmmRecord{}, vmm};
    }
    static bool isReadable(int fd) {
        pollfd watched{fd, POLLIN, 0};
        return ::poll(&watched, 1, 0) == 1;
    }
    static void say(const UniqueFd& client, const std::string& line) {
        EXPECT_GT(sendSome(client.get(), line.data(), line.size()), 0U);
    }

    TemporaryDirectory directory_;
    std::vector<UniqueFd> listeners_;
};

TEST_F(GuestStatesTest, asksAllAtOnceSoThatTheSilentOnesShareOneDeadline) {
    std::vector<GuestStates::Question> questions;
    for (int i = 0; i < 100; ++i) questions.push_back(silentVmm());
    std::vector<std::string> answered;
    GuestStates states(questions, [&](std::vector<std::string> all) { answered = std::move(all); });
    EXPECT_FALSE(states.isAnswered());
    std::vector<UniqueFd> clients;
    loopWhileBusy();
    for (const UniqueFd& listener : listeners_) {
        ASSERT_TRUE(isReadable(listener.get())) << "it waits for another one's answer";
        clients.emplace_back(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    }
    // One answers, one says what is no state, one hangs up; the rest are silent.
    for (const int i : {0, 1}) say(clients[i], "{\"QMP\": {}}\n");
    say(clients[0], "{\"id\": 1, \"return\": {\"status\": \"io-error\"}}\n");
    say(clients[1], "{\"id\": 1, \"return\": {\"status\": 5}}\n");
    clients[2].reset();
    ASSERT_TRUE(loopUntil([&] { return !answered.empty(); }));
    EXPECT_TRUE(states.isAnswered());
    EXPECT_EQ(answered[0], "io-error");
    for (std::size_t i = 1; i < answered.size(); ++i) EXPECT_EQ(answered[i], "no answer") << i;
}

TEST_F(GuestStatesTest, answersForAVmmThatIsGoneAndForNone) {
    std::vector<std::string> answered{"?"};
    GuestStates none({}, [&](std::vector<std::string> all) { answered = std::move(all); });
    ASSERT_TRUE(loopUntil([&] { return answered.empty(); }));
    GuestStates gone({{VmmRecord{}, directory_.path() + "/nowhere"}},
                     [&](std::vector<std::string> all) { answered = std::move(all); });
    ASSERT_TRUE(loopUntil([&] { return !answered.empty(); }));
    EXPECT_THAT(answered, testing::ElementsAre("no answer"));
}

TEST_F(GuestStatesTest, asksMoreThanItAsksAtOnce) {
    std::vector<GuestStates::Question> questions(600, {VmmRecord{}, directory_.path() + "/nowhere"});
    std::vector<std::string> answered;
    GuestStates states(questions, [&](std::vector<std::string> all) { answered = std::move(all); });
    ASSERT_TRUE(loopUntil([&] { return !answered.empty(); }));
    EXPECT_EQ(answered.size(), 600U);
}

}  // namespace
}  // namespace vh
