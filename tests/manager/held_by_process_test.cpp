#include "manager/process/held_by_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/resources/bridge_port.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::Contains;
using testing::Not;

TEST(HeldByProcess, knowsWhereAProcessListens) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/a socket";
    const UniqueFd listener = listenUnix(path), other = connectUnix(path);
    EXPECT_THAT(listenersOf(::getpid()), Contains(path));

    const UniqueFd internet(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(internet.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    socklen_t length = sizeof(address);
    ASSERT_EQ(::getsockname(internet.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    const std::string port = "TCP port " + std::to_string(ntohs(address.sin_port));
    EXPECT_THAT(listenersOf(::getpid()), Not(Contains(port))) << "it has an address, and does not listen yet";
    ASSERT_EQ(::listen(internet.get(), 1), 0);
    EXPECT_THAT(listenersOf(::getpid()), Contains(port));
    EXPECT_THAT(listenersOf(::getppid()), Not(Contains(port))) << "that is another process";
}

TEST(HeldByProcess, knowsFilesThatNobodyCanOpenAgain) {
    const TemporaryDirectory directory;
    const auto opened = [&](const std::string& name, int flags) {
        directory.write(name, "text", 0600);
        return UniqueFd(::open((directory.path() + "/" + name).c_str(), flags | O_CLOEXEC));
    };
    const UniqueFd written = opened("written", O_RDWR), read = opened("read", O_RDONLY), kept = opened("kept", O_RDWR);
    const UniqueFd memory(::memfd_create("memory", MFD_CLOEXEC));
    for (const char* name : {"written", "read"}) std::filesystem::remove(directory.path() + "/" + name);
    EXPECT_EQ(deletedFilesOf(::getpid()), std::set<std::string>{directory.path() + "/written"});
}

TEST(HeldByProcess, knowsTaps) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a tap; run this as root";
    EXPECT_TRUE(tapsHeldBy(::getpid()).empty());
    const UniqueFd unused(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(tapsHeldBy(::getpid()).empty());
    const Tap tap = makeTap("held%d");
    EXPECT_EQ(tapsHeldBy(::getpid()), std::set<std::string>{tap.name});
}

TEST(HeldByProcess, knowsCodeThatWasReplacedUnderIt) {
    EXPECT_EQ(replacedCodeOf(::getpid()), "");
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/library";
    const UniqueFd file(::open(directory.write("library", std::string(4096, 'x'), 0700).c_str(), O_RDONLY | O_CLOEXEC));
    void* code = ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file.get(), 0);
    ASSERT_NE(code, MAP_FAILED);
    EXPECT_EQ(replacedCodeOf(::getpid()), "");
    std::filesystem::rename(directory.write("newer", "y", 0700), path);
    EXPECT_EQ(replacedCodeOf(::getpid()), path);
    ::munmap(code, 4096);
    EXPECT_EQ(replacedCodeOf(::getpid()), "");
}

TEST(HeldByProcess, saysNothingOfAProcessThatIsGone) {
    EXPECT_TRUE(listenersOf(0x3fffffff).empty());
    EXPECT_TRUE(deletedFilesOf(0x3fffffff).empty());
    EXPECT_TRUE(tapsHeldBy(0x3fffffff).empty());
    EXPECT_EQ(replacedCodeOf(0x3fffffff), "");
}

}  // namespace
}  // namespace vh
