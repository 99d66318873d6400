#include "manager/resources/memory_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::size_t page = 4096;

/// A file that this process maps, as a VMM does its RAM.
struct Mapped {
    UniqueFd fd;
    void* address = MAP_FAILED;
    std::size_t length = 0;

    Mapped(UniqueFd file, std::size_t bytes, int protection = PROT_READ | PROT_WRITE)
        : fd(std::move(file)), address(::mmap(nullptr, bytes, protection, MAP_SHARED, fd.get(), 0)), length(bytes) {
        EXPECT_NE(address, MAP_FAILED);
    }
    Mapped(const Mapped&) = delete;
    ~Mapped() { ::munmap(address, length); }

    std::uint64_t size() const {
        struct stat status {};
        EXPECT_EQ(::fstat(fd.get(), &status), 0);
        return static_cast<std::uint64_t>(status.st_size);
    }
    void grow(std::size_t bytes) const { EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0); }
    /// As one that had been of no length.
    MemoryFile claimedEmpty() const { return {FileIdentity::of(fd.get()), 0}; }
};

UniqueFd memfd(std::size_t bytes) {
    UniqueFd fd(::memfd_create("vga.vram", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    return fd;
}

class MemoryFilesTest : public NoDescriptorLeaks {
 protected:
    static std::vector<MemoryFile> ours() { return memoryFilesOf(::getpid()); }
    static bool has(const std::vector<MemoryFile>& files, const Mapped& one) {
        return std::ranges::find(files, FileIdentity::of(one.fd.get()), &MemoryFile::identity) != files.end();
    }
    TemporaryDirectory directory_;
};

TEST_F(MemoryFilesTest, areCutBackToWhatTheyWere) {
    const Mapped grown(memfd(2 * page), 2 * page), same(memfd(page), page);
    const std::vector<MemoryFile> before = ours();
    grown.grow(64 * page);
    EXPECT_THAT(cutBackMemoryFiles(::getpid(), before), ElementsAre("/memfd:vga.vram"));
    EXPECT_EQ(grown.size(), 2 * page);
    EXPECT_EQ(same.size(), page);
    EXPECT_THAT(cutBackMemoryFiles(::getpid(), before), IsEmpty()) << "once";
}

TEST_F(MemoryFilesTest, areNotFilesThatHaveANameWhateverItIs) {
    const std::string path = directory_.write("memfd:x (deleted)", std::string(page, 'x'));
    const Mapped named(UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC)), page);
    EXPECT_FALSE(has(ours(), named));
    EXPECT_THAT(cutBackMemoryFiles(::getpid(), {named.claimedEmpty()}), IsEmpty());
    EXPECT_EQ(named.size(), page);
}

TEST_F(MemoryFilesTest, areNotThoseThatTheProcessMayOnlyRead) {
    const UniqueFd writable = memfd(page);
    const std::string path = "/proc/self/fd/" + std::to_string(writable.get());
    UniqueFd readable(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    // Only the readable one is left: whoever writes to it is another process.
    const UniqueFd kept(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ::dup3(kept.get(), writable.get(), O_CLOEXEC);
    const Mapped mapped(std::move(readable), page, PROT_READ);
    EXPECT_FALSE(has(ours(), mapped));
}

TEST_F(MemoryFilesTest, areLeftWhereTheProcessHasComeToUseMore) {
    const Mapped small(memfd(page), page);
    const std::vector<MemoryFile> before = ours();
    small.grow(4 * page);
    {
        const Mapped more(UniqueFd(::fcntl(small.fd.get(), F_DUPFD_CLOEXEC, 0)), 4 * page);
        EXPECT_THAT(cutBackMemoryFiles(::getpid(), before), IsEmpty());
        EXPECT_EQ(small.size(), 4 * page);
    }
    EXPECT_THAT(cutBackMemoryFiles(::getpid(), before), testing::SizeIs(1));
}

TEST_F(MemoryFilesTest, areUnknownOfAProcessThatIsGone) {
    EXPECT_THAT(memoryFilesOf(0x3fffffff), IsEmpty());
    EXPECT_THAT(cutBackMemoryFiles(0x3fffffff, {{{1, 2}, 3}}), IsEmpty());
}

}  // namespace
}  // namespace vh
