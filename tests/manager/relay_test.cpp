#include "manager/handover/relay.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <filesystem>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
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
            path(), Relay::Peer{Identity{}, ::getpid()}, [this](CprCapture capture) { received = std::move(capture); },
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
    relay->feed(sent, newPath, ::getpid(), [&] { fed = true; });
    ASSERT_TRUE(loopUntil([&] { return fed; }));
    const UniqueFd newVmm(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    CprReceiver receiver;
    EXPECT_TRUE(receiver.receiveSome(newVmm.get())) << "the end of the state was not sent";
    EXPECT_EQ(whatChanged(sent, receiver.take()), "");
    EXPECT_FALSE(hasHungUp(newVmm.get())) << "a new VMM takes the end of the connection for the old VMM's end";
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
    relay->feed(sent, newPath, ::getpid(), [] { ADD_FAILURE() << "nobody was fed"; });
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

/// A VMM whose user may do in its directory what he likes.
class HostileRelayTest : public RelayTest {
 protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root: whose rights are misused else?";
        ASSERT_EQ(::chmod(directory.path().c_str(), 0711), 0);
        ASSERT_EQ(::mkdir(incoming().c_str(), 0700), 0);
        ASSERT_EQ(::chown(incoming().c_str(), nobody.uid, nobody.gid), 0);
    }
    std::string incoming() const { return directory.path() + "/incoming"; }
    std::string relayPath() const { return incoming() + "/relay.sock"; }

    std::unique_ptr<Relay> listenFor(pid_t old) {
        return std::make_unique<Relay>(
            relayPath(), Relay::Peer{nobody, old}, [this](CprCapture capture) { received = std::move(capture); },
            [this](const std::string& why) { cause = why; });
    }

    /// Runs in a child that the kernel kills when it changes the mode or owner of anything by its name; returns how it ended.
    template <class Action>
    static int withoutNamingFiles(Action action) {
        const pid_t child = ::fork();
        if (child == 0) {
            std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
            for (const int forbidden : {SYS_chmod, SYS_chown, SYS_lchown, SYS_fchmodat, SYS_fchownat}) {
                filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(forbidden), 0, 1));
                filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
            }
            filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
            const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
            ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(2);
            action();
            ::_exit(0);
        }
        int status = -1;
        ::waitpid(child, &status, 0);
        return status;
    }

    const Identity nobody{65534, 65534, true};
};

TEST_F(HostileRelayTest, makesASocketForTheVmmsUserWithoutNamingItTwice) {
    struct stat status {};
    EXPECT_EQ(withoutNamingFiles([&] {
                  const auto relay = listenFor(::getpid());
                  const bool isHis = ::stat(relayPath().c_str(), &status) == 0 && status.st_uid == nobody.uid &&
                                     status.st_gid == nobody.gid && status.st_mode == (S_IFSOCK | 0600);
                  if (!isHis) ::_exit(3);
              }),
              0)
        << "between the two times, he may put a link to any file in its place";
    EXPECT_FALSE(std::filesystem::exists(relayPath()));
}

TEST_F(HostileRelayTest, doesNothingWhereTheVmmsUserMayNot) {
    const std::string roots = directory.path() + "/root's";
    ASSERT_EQ(::mkdir(roots.c_str(), 0755), 0);
    std::filesystem::remove(incoming());
    std::filesystem::create_directory_symlink(roots, incoming());
    EXPECT_THROW(listenFor(::getpid()), std::system_error);
    EXPECT_TRUE(std::filesystem::is_empty(roots));
}

TEST_F(HostileRelayTest, givesNoDescriptorsToASocketThatTheVmmsUserCannotConnectTo) {
    const auto relay = listenFor(::getpid());
    const UniqueFd service = listenUnix(directory.path() + "/service.sock");
    std::filesystem::create_symlink(directory.path() + "/service.sock", incoming() + "/cpr.sock");
    const CprCapture sent = captureOf({"a"});
    EXPECT_THROW(relay->feed(sent, incoming() + "/cpr.sock", ::getpid(), [] {}), std::system_error);
    pollfd watched{service.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&watched, 1, 0), 0) << "it was connected to";
}

/// Another process of the same user.
template <class Action>
pid_t asNobody(Action action) {
    const pid_t child = ::fork();
    if (child != 0) return child;
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(1);
    action();
    ::pause();
    ::_exit(0);
}

TEST_F(HostileRelayTest, takesNoStateFromAnotherProcessOfThatUser) {
    const auto relay = listenFor(1);
    const pid_t other = asNobody([&] { static UniqueFd kept = connectUnix(relayPath()); });
    for (int turn = 0; turn < 200 && received == std::nullopt && cause.empty(); ++turn) {
        ::usleep(1000);
        loopWhileBusy();
    }
    const CprCapture sent = captureOf({"a"});
    const UniqueFd old = sendTo(relayPath(), sent);  // We are let in.
    EXPECT_TRUE(loopUntil([&] { return received.has_value(); }));
    EXPECT_EQ(cause, "");
    ::kill(other, SIGKILL);
    ::waitpid(other, nullptr, 0);
}

TEST_F(HostileRelayTest, givesNoStateToAnotherProcessOfThatUser) {
    const auto relay = listenFor(::getpid());
    const std::string path = incoming() + "/cpr.sock";
    const pid_t other = asNobody([&] { static UniqueFd kept = listenUnix(path); });
    for (int turn = 0; turn < 30'000 && !isListening(path); ++turn) ::usleep(1000);
    const CprCapture sent = captureOf({"a"});
    EXPECT_THROW(relay->feed(sent, path, 1, [] {}), std::runtime_error);
    relay->feed(sent, path, other, [] {});
    ::kill(other, SIGKILL);
    ::waitpid(other, nullptr, 0);
}

}  // namespace
}  // namespace vh
