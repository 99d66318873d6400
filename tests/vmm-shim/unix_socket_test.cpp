#include "vmm-shim/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/receive.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using testing::HasSubstr;

bool isCloseOnExec(int fd) {
    return ::fcntl(fd, F_GETFD) & FD_CLOEXEC;
}
bool isNonBlocking(int fd) {
    return ::fcntl(fd, F_GETFL) & O_NONBLOCK;
}

std::error_code errorOf(const std::function<void()>& action, std::string* text = nullptr) {
    try {
        action();
    } catch (const std::system_error& error) {
        if (text) *text = error.what();
        return error.code();
    }
    return {};
}

class UnixSocketTest : public NoDescriptorLeaks {
 protected:
    std::string path(const std::string& name) const { return directory_.file(name); }

    const TemporaryDirectory directory_;
};

TEST_F(UnixSocketTest, connectsToAListenerThatHasNotAcceptedYet) {
    const UniqueFd listener = listenUnix(path("a.sock"));
    const UniqueFd client = connectUnix(path("a.sock"));
    ASSERT_EQ(sendSome(client.get(), "hello", 5), 5U);
    const UniqueFd served(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(receive(served.get()).bytes, "hello");
}

TEST_F(UnixSocketTest, makesDescriptorsThatNoChildInheritsByAccident) {
    const UniqueFd listener = listenUnix(path("a.sock"));
    const UniqueFd client = connectUnix(path("a.sock"));
    const auto [one, other] = unixPair();
    for (const UniqueFd* fd : {&listener, &client, &one, &other}) EXPECT_TRUE(isCloseOnExec(fd->get()));
    for (const UniqueFd* fd : {&client, &one, &other}) EXPECT_TRUE(isNonBlocking(fd->get()));
}

TEST_F(UnixSocketTest, connectsBothEndsOfAPair) {
    const auto [one, other] = unixPair();
    ASSERT_EQ(sendSome(one.get(), "to", 2), 2U);
    ASSERT_EQ(sendSome(other.get(), "fro", 3), 3U);
    EXPECT_EQ(receive(other.get()).bytes, "to");
    EXPECT_EQ(receive(one.get()).bytes, "fro");
}

TEST_F(UnixSocketTest, refusesAPathThatNoSocketAddressHoldsAndNamesIt) {
    const std::string longest(107, 'x'), tooLong(108, 'x');
    // One byte less is only a file that is not there.
    EXPECT_EQ(errorOf([&] { connectUnix(longest); }), std::errc::no_such_file_or_directory);
    std::string text;
    EXPECT_EQ(errorOf([&] { connectUnix(tooLong); }, &text), std::errc::filename_too_long);
    EXPECT_THAT(text, HasSubstr("'" + tooLong + "'"));
    EXPECT_EQ(errorOf([&] { listenUnix(tooLong); }), std::errc::filename_too_long);
}

TEST_F(UnixSocketTest, namesThePathThatItCannotListenOn) {
    const UniqueFd listener = listenUnix(path("a.sock"));
    std::string text;
    EXPECT_EQ(errorOf([&] { listenUnix(path("a.sock")); }, &text), std::errc::address_in_use);
    EXPECT_THAT(text, HasSubstr(path("a.sock")));
}

TEST_F(UnixSocketTest, namesThePathThatNobodyListensOn) {
    listenUnix(path("a.sock"));  // Closed again at once; its name stays.
    std::string text;
    EXPECT_EQ(errorOf([&] { connectUnix(path("a.sock")); }, &text), std::errc::connection_refused);
    EXPECT_THAT(text, HasSubstr(path("a.sock")));
}

TEST_F(UnixSocketTest, seesThatSomebodyListensOnlyWhileItIsSo) {
    EXPECT_FALSE(isListening(path("a.sock")));
    {
        const UniqueFd listener = listenUnix(path("a.sock"));
        EXPECT_TRUE(isListening(path("a.sock")));
        EXPECT_FALSE(isListening("a.sock")) << "another path with the same end";
        EXPECT_FALSE(isListening(path("a.soc")));
    }
    EXPECT_FALSE(isListening(path("a.sock"))) << "the name stays, the listener is gone";
}

TEST_F(UnixSocketTest, doesNotTakeABoundSocketForAListeningOne) {
    const UniqueFd bound(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path("b.sock").c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(bound.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_FALSE(isListening(path("b.sock")));
    ASSERT_EQ(::listen(bound.get(), 1), 0);
    EXPECT_TRUE(isListening(path("b.sock")));
}

TEST_F(UnixSocketTest, doesNotTakeAServedConnectionForAListener) {
    UniqueFd listener = listenUnix(path("a.sock"));
    const UniqueFd client = connectUnix(path("a.sock"));
    const UniqueFd served(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    listener.reset();
    EXPECT_FALSE(isListening(path("a.sock"))) << "an accepted connection has the listener's name in /proc/net/unix";
}

TEST_F(UnixSocketTest, tellsWhoHasAcceptedAConnectionAndNotWhoInheritedTheListener) {
    UniqueFd listener = listenUnix(path("a.sock"));
    const UniqueFd client = connectUnix(path("a.sock"));
    const pid_t self = ::getpid();
    EXPECT_FALSE(holdsSocket(self, socketsAt(path("a.sock"), SocketKind::Accepted))) << "it waits in the backlog";
    EXPECT_TRUE(holdsSocket(self, socketsAt(path("a.sock"), SocketKind::Listening)));
    UniqueFd served(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto accepted = socketsAt(path("a.sock"), SocketKind::Accepted);
    EXPECT_EQ(accepted.size(), 1U);
    EXPECT_TRUE(holdsSocket(self, accepted));
    const pid_t child = ::fork();
    if (child == 0) {
        served.reset();
        ::pause();
        ::_exit(0);
    }
    bool holds = true;
    for (int tries = 0; holds && tries < 5000; ++tries, ::usleep(1000)) holds = holdsSocket(child, accepted);
    EXPECT_FALSE(holds);
    EXPECT_TRUE(holdsSocket(child, socketsAt(path("a.sock"), SocketKind::Listening)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    served.reset();
    EXPECT_EQ(socketsAt(path("a.sock"), SocketKind::Accepted), std::set<std::uint64_t>{});
}

TEST_F(UnixSocketTest, passesOneDescriptorWithTheFirstByte) {
    const auto [one, other] = unixPair();
    const UniqueFd given(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(sendSome(one.get(), "ab", 2, given.get()), 2U);
    ASSERT_EQ(sendSome(one.get(), "c", 1), 1U);

    const Received received = receive(other.get());
    EXPECT_EQ(received.bytes.front(), 'a');
    ASSERT_EQ(received.descriptors.size(), 1U);
    const int got = received.descriptors.front().get();
    EXPECT_NE(got, given.get());
    EXPECT_TRUE(isCloseOnExec(got));
    struct stat before {
    }, after{};
    ASSERT_EQ(::fstat(given.get(), &before), 0);
    ASSERT_EQ(::fstat(got, &after), 0);
    EXPECT_EQ(before.st_rdev, after.st_rdev);
    EXPECT_TRUE(receive(other.get()).descriptors.empty());
}

TEST_F(UnixSocketTest, passesNoDescriptorWhenNoneIsGiven) {
    const auto [one, other] = unixPair();
    ASSERT_EQ(sendSome(one.get(), "a", 1), 1U);
    EXPECT_TRUE(receive(other.get()).descriptors.empty());
}

TEST_F(UnixSocketTest, reportsADeadPeerInsteadOfDyingOfASignal) {
    ASSERT_EQ(::signal(SIGPIPE, SIG_DFL), SIG_DFL) << "else this test proves nothing";
    auto pair = unixPair();
    pair.second.reset();
    EXPECT_EQ(errorOf([&] { sendSome(pair.first.get(), "a", 1); }), std::errc::broken_pipe);
}

TEST_F(UnixSocketTest, reportsAFullSocketAsNothingSent) {
    const auto [one, other] = unixPair();
    const std::string block(4096, 'x');
    std::size_t sent = 0, last = 0;
    do {
        last = sendSome(one.get(), block.data(), block.size());
        sent += last;
        ASSERT_LT(sent, 64U << 20) << "the socket never fills up";
    } while (last > 0);
    EXPECT_GT(sent, 0U);
    const UniqueFd given(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(sendSome(one.get(), "a", 1, given.get()), 0U);
    std::size_t received = 0;
    for (Received part = receive(other.get()); !part.bytes.empty(); part = receive(other.get())) {
        received += part.bytes.size();
        EXPECT_TRUE(part.descriptors.empty()) << "the one that was refused must not arrive";
    }
    EXPECT_EQ(received, sent);
}

}  // namespace
}  // namespace vh
