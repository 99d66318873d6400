#include "manager/relay.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/manager/main_loop.h"
#include "tests/manager/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::HasSubstr;

UniqueFd memoryFile(const char* name) {
    return UniqueFd(::memfd_create(name, MFD_CLOEXEC));
}

CprCapture captureOf(const std::vector<std::string>& names) {
    CprCapture capture;
    for (const std::string& name : names) {
        capture.state.fds.push_back({name, 0});
        capture.descriptors.push_back(memoryFile(name.c_str()));
    }
    return capture;
}

bool hasHungUp(int socket) {
    pollfd watched{socket, POLLIN, 0};
    return ::poll(&watched, 1, 0) > 0 && (watched.revents & POLLHUP);
}

class RelayTest : public MainLoopTest {
 protected:
    std::string path() const { return directory.path() + "/relay.sock"; }

    std::unique_ptr<Relay> listen() {
        return std::make_unique<Relay>(
            path(), Identity{}, [this](CprCapture capture) { received = std::move(capture); },
            [this](const std::string& why) { cause = why; });
    }
    /// Sends as an old VMM does, which waits for the hang-up then.
    static UniqueFd sendTo(const std::string& path, const CprCapture& capture) {
        UniqueFd socket = connectUnix(path);
        CprSender sender(capture);
        EXPECT_TRUE(sender.sendSome(socket.get()));
        return socket;
    }

    TemporaryDirectory directory;
    std::optional<CprCapture> received;
    std::string cause;
};

TEST_F(RelayTest, takesAStateInAndKeepsTheOldVmmWaiting) {
    const auto relay = listen();
    const CprCapture sent = captureOf({"pc.bios", "vga.vram"});
    const UniqueFd old = sendTo(path(), sent);
    ASSERT_TRUE(loopUntil([&] { return received.has_value(); }));
    EXPECT_EQ(received->state, sent.state);
    EXPECT_EQ(whatChanged(sent, *received), "");
    loopWhileBusy();
    EXPECT_FALSE(hasHungUp(old.get()));
    relay->hangUp();
    EXPECT_TRUE(hasHungUp(old.get()));
}

TEST_F(RelayTest, feedsTheNewVmmAndEndsTheStateButNotTheConnection) {
    const auto relay = listen();
    const CprCapture sent = captureOf({"pc.bios"});
    const std::string newPath = directory.path() + "/cpr.sock";
    const UniqueFd listener = listenUnix(newPath);
    bool fed = false;
    relay->feed(sent, newPath, [&] { fed = true; });
    ASSERT_TRUE(loopUntil([&] { return fed; }));
    const UniqueFd fresh(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    CprReceiver receiver;
    EXPECT_TRUE(receiver.receiveSome(fresh.get())) << "the end of the state was not sent";
    EXPECT_EQ(whatChanged(sent, receiver.take()), "");
    EXPECT_FALSE(hasHungUp(fresh.get())) << "a new VMM takes the end of the connection for the old VMM's end";
}

TEST_F(RelayTest, hangsUpWhenItGoesAway) {
    auto relay = listen();
    const UniqueFd old = sendTo(path(), captureOf({"a"}));
    ASSERT_TRUE(loopUntil([&] { return received.has_value(); }));
    relay.reset();
    EXPECT_TRUE(hasHungUp(old.get()));
    EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(RelayTest, takesOneConnectionOnly) {
    const auto relay = listen();
    const UniqueFd old = sendTo(path(), captureOf({"a"}));
    ASSERT_TRUE(loopUntil([&] { return received.has_value(); }));
    EXPECT_THROW(connectUnix(path()), std::system_error);
}

TEST_F(RelayTest, saysWhatIsWrongWithAStateAndWhere) {
    const auto relay = listen();
    const UniqueFd old = connectUnix(path());
    sendSome(old.get(), "QCPRxxxx", 8);
    ::shutdown(old.get(), SHUT_WR);
    ASSERT_TRUE(loopUntil([&] { return !cause.empty(); }));
    EXPECT_THAT(cause, HasSubstr("the CPR state of the old VMM: offset 4: CPR state version"));
    EXPECT_FALSE(hasHungUp(old.get())) << "a hang-up would make the old VMM stop its guest: it is cancelled first";
    EXPECT_FALSE(received);
}

TEST_F(RelayTest, saysWhenTheOldVmmGoesInTheMiddle) {
    const auto relay = listen();
    UniqueFd old = connectUnix(path());
    sendSome(old.get(), "QCPR", 4);
    old.reset();
    ASSERT_TRUE(loopUntil([&] { return !cause.empty(); }));
    EXPECT_THAT(cause, HasSubstr("offset 4: version needs 4 bytes, 0 are left"));
}

TEST_F(RelayTest, saysWhenTheNewVmmIsGone) {
    const auto relay = listen();
    const std::string newPath = directory.path() + "/cpr.sock";
    UniqueFd listener = listenUnix(newPath);
    const CprCapture sent = captureOf({"a"});
    relay->feed(sent, newPath, [] { ADD_FAILURE() << "nobody was fed"; });
    listener.reset();
    ASSERT_TRUE(loopUntil([&] { return !cause.empty(); }));
    EXPECT_THAT(cause, HasSubstr("give the CPR state to the new VMM"));
}

TEST_F(RelayTest, waitsForAnOldVmmThatSendsSlowly) {
    const auto relay = listen();
    const CprCapture sent = captureOf({"a"});
    const EncodedCprState encoded = encodeCprState(sent.state);
    const UniqueFd old = connectUnix(path());
    for (std::size_t i = 0; i < encoded.bytes.size(); ++i) {
        sendSome(old.get(), encoded.bytes.data() + i, 1, i == encoded.serviceBytes[0] ? sent.descriptors[0].get() : -1);
        loopWhileBusy();
        EXPECT_FALSE(received);
    }
    ::shutdown(old.get(), SHUT_WR);
    ASSERT_TRUE(loopUntil([&] { return received.has_value(); }));
    EXPECT_EQ(whatChanged(sent, *received), "");
}

}  // namespace
}  // namespace vh
