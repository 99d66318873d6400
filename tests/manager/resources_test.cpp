#include "manager/resources/resources.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/obstacle.h"
#include "manager/compare/own_network.h"
#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Ge;
using testing::HasSubstr;
using testing::StartsWith;

struct stat statusOf(int fd) {
    struct stat status {};
    EXPECT_EQ(::fstat(fd, &status), 0);
    return status;
}

int accessMode(int fd) {
    return ::fcntl(fd, F_GETFL) & O_ACCMODE;
}

/// What an action that must throw says.
template <class Error, class Action>
std::string errorOf(Action action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "(no error)";
}

class ResourcesTest : public NoDescriptorLeaks {
 protected:
    ResourcesTest() {
        vm_.name = "web1";
        vm_.accelerator = Accelerator::Tcg;
        vm_.memory.sizeBytes = 16 << 20;
    }

    static UniqueFd opened() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

    TemporaryDirectory directory_;
    VmDefinition vm_;
    const Identity identity_{};
};

TEST_F(ResourcesTest, numberDescriptorsInTheOrderInWhichTheyWereAdded) {
    Resources resources;
    resources.add("a", opened());
    resources.add("b", opened());
    EXPECT_EQ(resources.numberOf("a"), ChildProcess::firstDescriptor);
    EXPECT_EQ(resources.numberOf("b"), ChildProcess::firstDescriptor + 1);
    EXPECT_THAT(resources.descriptors(), ElementsAre(resources.fd("a"), resources.fd("b")));
    EXPECT_TRUE(resources.has("a"));
    EXPECT_FALSE(resources.has("c"));
    EXPECT_THAT(errorOf<std::out_of_range>([&] { resources.numberOf("c"); }), HasSubstr("'c'"));
    EXPECT_THROW(resources.fd("c"), std::out_of_range);
}

TEST_F(ResourcesTest, keepOnlyTheTapsWhenReleased) {
    Resources resources;
    for (const char* name : {"qmp", "tap/lan", "disk/root/rw"}) resources.add(name, opened());
    resources.release();
    EXPECT_THAT(resources.descriptors(), ElementsAre(-1, Ge(0), -1));
    EXPECT_EQ(resources.numberOf("disk/root/rw"), ChildProcess::firstDescriptor + 2) << "the VMM's numbers stay";
}

TEST_F(ResourcesTest, makeGuestRamOfExactlyTheRightSize) {
    const UniqueFd ram = createGuestRam(vm_, identity_);
    EXPECT_EQ(statusOf(ram.get()).st_size, 16 << 20);
    EXPECT_EQ(statusOf(ram.get()).st_mode & 07777, 0600U);
    EXPECT_EQ(statusOf(ram.get()).st_blocks, 0) << "nothing is allocated before the guest touches it";
    EXPECT_TRUE(::fcntl(ram.get(), F_GETFD) & FD_CLOEXEC);
    EXPECT_EQ(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(ram.get())), "/memfd:web1/ram0 (deleted)");
}

TEST_F(ResourcesTest, makeGuestRamThatNobodyCanCutOff) {
    const UniqueFd ram = createGuestRam(vm_, identity_);
    EXPECT_EQ(::fcntl(ram.get(), F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    EXPECT_EQ(::ftruncate(ram.get(), 4096), -1);
    EXPECT_EQ(::ftruncate(ram.get(), 32 << 20), -1);
    EXPECT_EQ(::pwrite(ram.get(), "x", 1, 0), 1) << "but the guest may write";
}

TEST_F(ResourcesTest, giveGuestRamToTheVmmsUser) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root may give files away; run this as root";
    const UniqueFd ram = createGuestRam(vm_, {.uid = 65534, .gid = 65533, .change = true});
    EXPECT_EQ(statusOf(ram.get()).st_uid, 65534U);
    EXPECT_EQ(statusOf(ram.get()).st_gid, 65533U);
}

TEST_F(ResourcesTest, refuseHugePagesThatTheHostDoesNotHave) {
    vm_.memory = {.sizeBytes = std::uint64_t{1} << 50, .pageSizeBytes = 2 << 20};
    try {
        createGuestRam(vm_, identity_);
        FAIL() << "it has them";
    } catch (const Refusal& refusal) {
        EXPECT_THAT(refusal.what(), HasSubstr("guest RAM of 1024 TiB needs 536870912 free huge pages of 2 MiB, this host has "));
        EXPECT_EQ(refusal.obstacle().remedy, "raise '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'");
    }
}

TEST_F(ResourcesTest, openTheSameGuestRamAgain) {
    const UniqueFd ram = createGuestRam(vm_, identity_);
    ASSERT_EQ(::pwrite(ram.get(), "mark", 4, 4096), 4);
    VmmRecord record{.pid = ::getpid(), .ramDescriptor = ram.get(), .ram = FileIdentity::of(ram.get())};
    const UniqueFd again = reopenGuestRam(record);
    char mark[5] = {};
    EXPECT_EQ(::pread(again.get(), mark, 4, 4096), 4);
    EXPECT_STREQ(mark, "mark");
    EXPECT_EQ(accessMode(again.get()), O_RDWR);
    EXPECT_TRUE(::fcntl(again.get(), F_GETFD) & FD_CLOEXEC);
}

TEST_F(ResourcesTest, refuseAnotherFileInThePlaceOfGuestRam) {
    const UniqueFd ram = createGuestRam(vm_, identity_), other = createGuestRam(vm_, identity_);
    const VmmRecord record{.pid = ::getpid(), .ramDescriptor = other.get(), .ram = FileIdentity::of(ram.get())};
    EXPECT_THAT(errorOf<std::runtime_error>([&] { reopenGuestRam(record); }),
                HasSubstr("is not the memory that the VM was started with"));
}

TEST_F(ResourcesTest, nameThePlaceWhereGuestRamShouldBe) {
    const VmmRecord gone{.pid = ::getpid(), .ramDescriptor = 12345}, unknown{.pid = ::getpid()};
    EXPECT_THAT(errorOf<std::system_error>([&] { reopenGuestRam(gone); }), HasSubstr("/fd/12345"));
    EXPECT_THROW(reopenGuestRam(unknown), std::system_error);
}

TEST_F(ResourcesTest, areTheSocketsLogsAndDisksThatTheDefinitionNames) {
    vm_.heartbeat = true;
    vm_.console.log = directory_.file("console.log");
    vm_.disks = {{.id = "root", .file = directory_.write("root.img", "disk")},
                 {.id = "data", .file = directory_.write("data.img", "disk"), .readOnly = true}};
    const Resources resources = acquireResources(vm_, directory_.path());
    for (const char* name : {"qmp", "console", "heartbeat"})
        EXPECT_TRUE(isListening(directory_.file(std::string(name) + ".sock"))) << name;
    EXPECT_EQ(accessMode(resources.fd("disk/root/ro")), O_RDONLY);
    EXPECT_EQ(accessMode(resources.fd("disk/root/rw")), O_RDWR);
    EXPECT_EQ(accessMode(resources.fd("disk/data/ro")), O_RDONLY);
    EXPECT_FALSE(resources.has("disk/data/rw"));
    EXPECT_TRUE(::fcntl(resources.fd("console/log"), F_GETFL) & O_APPEND);
    EXPECT_FALSE(resources.has("kvm"));
    for (const int fd : resources.descriptors()) EXPECT_TRUE(::fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

TEST_F(ResourcesTest, openEachDiskForItsOwnVmmAlone) {
    vm_.disks = {{.id = "root", .file = directory_.write("root.img", "disk")}};
    std::filesystem::create_directory(directory_.file("1"));
    std::filesystem::create_directory(directory_.file("2"));
    const Resources old = acquireResources(vm_, directory_.file("1")), newOnes = acquireResources(vm_, directory_.file("2"));
    // A lock of an open file description keeps out whoever has another one, and only those.
    struct flock lock {};
    lock.l_type = F_WRLCK;
    ASSERT_EQ(::fcntl(old.fd("disk/root/rw"), F_OFD_SETLK, &lock), 0);
    EXPECT_EQ(::fcntl(newOnes.fd("disk/root/rw"), F_OFD_SETLK, &lock), -1);
}

TEST_F(ResourcesTest, keepWhatIsInTheConsoleLog) {
    vm_.console.log = directory_.write("console.log", "before\n");
    const Resources resources = acquireResources(vm_, directory_.path());
    ASSERT_EQ(::write(resources.fd("console/log"), "after\n", 6), 6);
    EXPECT_EQ(readFile(vm_.console.log), "before\nafter\n");
}

TEST_F(ResourcesTest, nameTheDiskThatIsMissing) {
    vm_.disks = {{.id = "root", .file = directory_.file("missing.img")}};
    std::string text;
    try {
        acquireResources(vm_, directory_.path());
        FAIL() << "acquired";
    } catch (const std::system_error& error) {
        EXPECT_EQ(error.code(), std::errc::no_such_file_or_directory);
        text = error.what();
    }
    EXPECT_THAT(text, HasSubstr("'" + directory_.file("missing.img") + "'"));
}

TEST_F(ResourcesTest, doNotWaitForTheOtherEndOfAPipe) {
    // One in a disk's or the log's place would stop the manager, and with it every VM's.
    ASSERT_EQ(::mkfifo(directory_.file("pipe").c_str(), 0600), 0);
    vm_.console.log = directory_.file("pipe");
    const std::string refusal = "open '" + directory_.file("pipe") + "': a named pipe cannot be a disk or a log";
    EXPECT_EQ(errorOf<std::runtime_error>([this] { acquireResources(vm_, directory_.path()); }), refusal);
    std::filesystem::remove(directory_.file("qmp.sock"));
    std::filesystem::remove(directory_.file("console.sock"));
    vm_.console.log = {};
    vm_.disks = {{.id = "root", .file = directory_.file("pipe")}};
    EXPECT_EQ(errorOf<std::runtime_error>([this] { acquireResources(vm_, directory_.path()); }), refusal);
}

/// In a network namespace of its own, and back in the old one afterwards.
class TapTest : public ResourcesTest {
 protected:
    void SetUp() override {
        before_ = UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        if (const std::string why = enterOwnNetwork("vhbr0"); !why.empty())
            GTEST_SKIP() << why << "; run this as root, on a kernel with bridges";
    }
    void TearDown() override {
        if (!IsSkipped()) {
            EXPECT_EQ(::setns(before_.get(), CLONE_NEWNET), 0);
        }
        before_.reset();
    }

    /// The address of the tap that a VM with that address gets.
    std::string tapAddressFor(const std::string& guestAddress) {
        vm_.networks = {{.id = "lan", .type = NetworkType::Tap, .bridge = "vhbr0", .mac = guestAddress}};
        const Resources resources = acquireResources(vm_, directory_.path());
        std::filesystem::remove(directory_.file("qmp.sock"));
        std::filesystem::remove(directory_.file("console.sock"));
        ifreq tap{};
        EXPECT_EQ(::ioctl(resources.fd("tap/lan"), TUNGETIFF, &tap), 0);
        const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        EXPECT_EQ(::ioctl(socket.get(), SIOCGIFHWADDR, &tap), 0);
        std::string text;
        for (std::size_t i = 0; i < 6; ++i) {
            char byte[4];
            std::snprintf(byte, sizeof(byte), "%02x:", static_cast<unsigned char>(tap.ifr_hwaddr.sa_data[i]));
            text += byte;
        }
        return text.substr(0, 17);
    }

 private:
    UniqueFd before_;
};

TEST_F(TapTest, hasTheGuestsAddressButForAFirstByteThatNoBridgeTakes) {
    EXPECT_EQ(tapAddressFor("52:54:00:12:34:56"), "fe:54:00:12:34:56");
    EXPECT_EQ(tapAddressFor("02:54:00:12:34:56"), "fe:54:00:12:34:56");
    EXPECT_EQ(tapAddressFor("fe:54:00:12:34:56"), "fa:54:00:12:34:56") << "and never the guest's own";
}

TEST_F(TapTest, hasTheSameAddressEachTimeWhereTheDefinitionSetsNone) {
    vm_.uuid = "5c9a3d3e-6d0f-4f4e-9c55-31d5c0d7a001";
    const std::string address = tapAddressFor("");
    EXPECT_THAT(address, StartsWith("fe:54:00:"));
    EXPECT_EQ(tapAddressFor(""), address);
}

TEST_F(ResourcesTest, joinNoBridgeWithoutATap) {
    vm_.networks = {{.id = "wan"}};
    joinBridges(vm_, Resources());
}

}  // namespace
}  // namespace vh
