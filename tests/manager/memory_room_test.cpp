#include "manager/resources/memory_room.h"

#include <unistd.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

constexpr std::uint64_t mib = 1 << 20;

/// A host's /proc and cgroups, as far as they are looked at.
class MemoryRoomTest : public testing::Test {
 protected:
    MemoryRoomTest() {
        write("proc/meminfo", "MemTotal: 100000 kB\nSwapFree: 0 kB\n");
        std::string mounts;
        for (const char* type : {"cgroup2", "cgroup"})
            mounts += "31 24 0:27 / " + directory_.path() + "/" + type + " rw - " + type + " " + type + " rw" +
                      (type == std::string("cgroup") ? ",cpu,memory" : "") + "\n";
        write("proc/self/mountinfo", mounts);
        write("cgroup2/cgroup.procs", "");
        write("cgroup/cgroup.procs", "");
    }
    void write(const std::string& name, const std::string& text) {
        std::filesystem::create_directories(std::filesystem::path(directory_.file(name)).parent_path());
        directory_.write(name, text);
    }
    void version2(const std::string& path, const std::string& max, std::uint64_t current, std::uint64_t cache = 0) {
        const std::string directory = "cgroup2" + path + "/";
        write(directory + "cgroup.procs", "");
        write(directory + "memory.max", max + "\n");
        write(directory + "memory.current", std::to_string(current) + "\n");
        write(directory + "memory.stat", "anon 1\ninactive_file " + std::to_string(cache) + "\nshmem 77\n");
    }
    std::optional<MemoryRoom> least() const { return leastMemoryRoom(7, directory_.path() + "/proc"); }

    TemporaryDirectory directory_;
};

TEST_F(MemoryRoomTest, isUnknownWhereNothingIsLimited) {
    write("proc/7/cgroup", "0::/a\n");
    version2("/a", "max", 5 * mib);
    EXPECT_FALSE(least());
    write("proc/7/cgroup", "3:cpu:/a\n0::/no/such\n");
    EXPECT_FALSE(least());
}

TEST_F(MemoryRoomTest, isWhatTheNarrowestOfTheCgroupsHasLeft) {
    write("proc/7/cgroup", "0::/a/b/c\n");
    version2("/a/b/c", "max", 10 * mib);
    version2("/a/b", std::to_string(100 * mib), 90 * mib);
    version2("/a", std::to_string(1000 * mib), 950 * mib);
    ASSERT_TRUE(least());
    EXPECT_EQ(least()->room, 10 * mib);
    EXPECT_EQ(least()->cgroup, directory_.path() + "/cgroup2/a/b");
    version2("/a", std::to_string(1000 * mib), 1000 * mib);
    EXPECT_EQ(least()->room, 0U);
}

TEST_F(MemoryRoomTest, countsTheCacheOfFilesAsRoom) {
    write("proc/7/cgroup", "0::/a\n");
    version2("/a", std::to_string(100 * mib), 100 * mib, 60 * mib);
    EXPECT_EQ(least()->room, 60 * mib);
    EXPECT_EQ(least()->used, 40 * mib);
    EXPECT_EQ(least()->limit, 100 * mib);
}

TEST_F(MemoryRoomTest, countsSwapThatTheCgroupMayUse) {
    write("proc/7/cgroup", "0::/a\n");
    version2("/a", std::to_string(100 * mib), 100 * mib);
    write("proc/meminfo", "SwapFree: 51200 kB\n");
    EXPECT_EQ(least()->room, 50 * mib);
    write("cgroup2/a/memory.swap.max", std::to_string(30 * mib));
    write("cgroup2/a/memory.swap.current", std::to_string(10 * mib));
    EXPECT_EQ(least()->room, 20 * mib);
    write("cgroup2/a/memory.swap.max", "0");
    EXPECT_EQ(least()->room, 0U);
}

TEST_F(MemoryRoomTest, isKnownOfTheFirstVersionToo) {
    write("proc/7/cgroup", "4:cpu,memory:/m\n0::/\n");
    write("cgroup/m/cgroup.procs", "");
    write("cgroup/m/memory.limit_in_bytes", std::to_string(100 * mib));
    write("cgroup/m/memory.usage_in_bytes", std::to_string(90 * mib));
    write("cgroup/m/memory.stat", "inactive_file 1\ntotal_inactive_file " + std::to_string(20 * mib) + "\n");
    write("cgroup/memory.limit_in_bytes", "9223372036854771712\n");
    write("cgroup/memory.usage_in_bytes", "1\n");
    ASSERT_TRUE(least());
    EXPECT_EQ(least()->room, 30 * mib);
    write("proc/meminfo", "SwapFree: 512000 kB\n");
    write("cgroup/m/memory.memsw.limit_in_bytes", std::to_string(100 * mib));
    write("cgroup/m/memory.memsw.usage_in_bytes", std::to_string(95 * mib));
    EXPECT_EQ(least()->room, 25 * mib);
}

TEST_F(MemoryRoomTest, isLookedAtOnThisHostToo) {
    if (const auto here = leastMemoryRoom(::getpid())) {
        EXPECT_TRUE(std::filesystem::exists(here->cgroup + "/cgroup.procs"));
        EXPECT_LE(here->used, here->limit);
    }
    EXPECT_GT(residentMemoryOf(::getpid()).ofItsOwn, 0U);
    EXPECT_EQ(residentMemoryOf(0x3fffffff).ofItsOwn, 0U);
}

TEST(OomScoreTest, isReadAndSet) {
    const std::optional<int> before = oomScoreOf(::getpid());
    ASSERT_TRUE(before);
    EXPECT_EQ(setOomScore(::getpid(), 700), "");
    EXPECT_EQ(oomScoreOf(::getpid()), 700);
    EXPECT_EQ(setOomScore(::getpid(), *before), "") << "back to what one was started with needs no rights";
    EXPECT_FALSE(oomScoreOf(0x3fffffff));
    EXPECT_THAT(setOomScore(0x3fffffff, 0), testing::HasSubstr("'/proc/1073741823/oom_score_adj' to 0: No such file"));
}

}  // namespace
}  // namespace vh
