// Guest RAM in huge pages, by what the kernel says.
#include "manager/compare/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

constexpr auto smaps =
    "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \nSize:               2048 kB\nRss: 8 kB\nShmemPmdMapped:        0 kB\n"
    "7f1000000000-7f1018000000 rw-s 00000000 00:01 440780                     /memfd:ram0 (deleted)\n"
    "Size:             393216 kB\nRss:              262144 kB\nShmemPmdMapped:   251904 kB\nVmFlags: rd wr sh\n"
    "7f2000000000-7f2000020000 rw-s 00000000 00:01 440781                     /memfd:pc.bios (deleted)\n"
    "Size:                128 kB\nRss: 128 kB\nShmemPmdMapped:        0 kB\n";

TEST(HugePages, areThoseOfTheGreatestMemoryFile) {
    const auto ram = greatestSharedMapping(smaps);
    ASSERT_TRUE(ram);
    EXPECT_EQ(*ram, (SharedMapping{0x7f1000000000, 384ULL << 20, 256ULL << 20, 246ULL << 20}));
    EXPECT_TRUE(isHuge(*ram)) << "but for the ends";
    EXPECT_FALSE(isHuge({0, 384ULL << 20, 256ULL << 20, 200ULL << 20}));
    EXPECT_FALSE(isHuge({0, 384ULL << 20, 0, 0})) << "nothing is there";
    EXPECT_EQ(greatestSharedMapping("7f0000000000-7f0000200000 rw-p 0 00:00 0\nShmemPmdMapped: 0 kB\n"), std::nullopt);
}

/// Memory of a memory file, of our own.
class OwnMemoryFile : public testing::Test {
 protected:
    static constexpr std::size_t bytes = 16 << 20, huge = 2 << 20;

    void map(std::size_t beyond) {
        file_ = UniqueFd(::memfd_create("ram0", MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(file_.get(), bytes), 0);
        area_ = ::mmap(nullptr, bytes + 2 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(area_, MAP_FAILED);
        auto* const first = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(area_) + huge - 1) / huge * huge);
        void* const at = first + beyond;
        ASSERT_EQ(::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_.get(), 0), at);
        std::memset(at, 1, bytes / 2);
    }
    void TearDown() override { ::munmap(area_, bytes + 2 * huge); }

    UniqueFd file_;
    void* area_ = MAP_FAILED;
};

TEST_F(OwnMemoryFile, isPutIntoHugePagesWhereItIsThere) {
    map(0);
    try {
        makeHuge(::getpid());
    } catch (const std::runtime_error& problem) {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root: " << problem.what();
        GTEST_SKIP() << "needs Linux 6.1 with transparent huge pages that are not denied: " << problem.what();
    }
    EXPECT_EQ(guestRamOf(::getpid()).hugeBytes, bytes / 2) << "and no more than that";
}

TEST_F(OwnMemoryFile, isRefusedWhereNoHugePageCanBegin) {
    map(4096);
    try {
        makeHuge(::getpid());
        FAIL() << "it said that it did";
    } catch (const std::runtime_error& problem) {
        EXPECT_THAT(problem.what(), testing::HasSubstr("where no huge page can begin"));
    }
    EXPECT_EQ(guestRamOf(::getpid()).hugeBytes, 0u);
}

TEST(HugePages, areNotSoughtInAProcessThatIsGone) {
    EXPECT_THROW(makeHuge(0x7ffffff0), std::runtime_error);
}

}  // namespace
}  // namespace vh
