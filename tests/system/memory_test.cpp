// A host that is short of memory: what the kernel ends is never the VMM that has the guest. In a real memory cgroup, of whichever
// version this host has.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include <gmock/gmock.h>

#include "manager/process/cgroups.h"
#include "manager/resources/memory_room.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr std::uint64_t mib = 1 << 20;
constexpr int scoreOfTheGuest = 200;

/// A memory cgroup inside of the one that this process is in, which has this process and what it starts.
class MemoryCgroup {
 public:
    MemoryCgroup() {
        for (const CgroupPlace& place : cgroupsOf(::getpid())) {
            if (!place.isVersion2() && !place.controls("memory")) continue;
            const std::string parent = directoryOf(place), directory = parent + "/vh-test-" + std::to_string(::getpid());
            std::error_code ignored;
            ::rmdir(directory.c_str());  // Of a test that was ended; pids in a namespace come again.
            if (parent.empty() || !fs::create_directory(directory, ignored)) continue;
            if (place.isVersion2()) std::ofstream(parent + "/cgroup.subtree_control") << "+memory";
            limit_ = directory + (place.isVersion2() ? "/memory.max" : "/memory.limit_in_bytes");
            if (fs::exists(limit_) && std::ofstream(directory + "/cgroup.procs") << ::getpid() << std::flush) {
                parent_ = parent;
                directory_ = directory;
                return;
            }
            fs::remove(directory, ignored);
        }
    }
    MemoryCgroup(const MemoryCgroup&) = delete;
    ~MemoryCgroup() {
        if (directory_.empty()) return;
        std::ofstream(parent_ + "/cgroup.procs") << ::getpid() << std::flush;
        turnUntil([this] { return ::rmdir(directory_.c_str()) == 0; }, patience);
    }

    explicit operator bool() const { return !directory_.empty(); }
    const std::string& directory() const { return directory_; }
    /// Leaves so much room for what cannot be reclaimed.
    void leave(std::uint64_t bytes) const {
        limitTo(std::uint64_t{1} << 40);
        const auto now = leastMemoryRoom(::getpid());
        ASSERT_TRUE(now && now->cgroup == directory_);
        limitTo(now->used + bytes);
    }
    void limitTo(std::uint64_t bytes) const {
        EXPECT_TRUE(std::ofstream(limit_) << bytes << std::flush) << "limit '" << directory_ << "' to " << bytes;
    }

 private:
    std::string parent_, directory_, limit_;
};

class MemoryTest : public HostFixture {
 protected:
    /// Starts a VM. Its VMM is less dear to the kernel than others, so that one can see whose score is whose.
    void start(const VmOptions& options) {
        const VerbResult started = OwnHost::start(options, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        EXPECT_EQ(oomScoreOf(vmmPid(host, "vm")), oomScoreOf(::getpid())) << "a first start leaves it alone";
        ASSERT_EQ(setOomScore(vmmPid(host, "vm"), scoreOfTheGuest), "");
    }

    std::unique_ptr<MemoryCgroup> cgroup_;  ///< Goes when what was in it has been ended.
};

TEST_F(MemoryTest, isRefusedOrCostsTheNewVmmAndNeverTheGuest) {
    cgroup_ = std::make_unique<MemoryCgroup>();
    const MemoryCgroup& cgroup = *cgroup_;
    if (!cgroup) GTEST_SKIP() << "needs a memory cgroup in which another one can be made: run as root, and where cgroups are";
    cgroup.limitTo(std::uint64_t{1} << 40);
    ASSERT_NO_FATAL_FAILURE(start({}));
    const int old = vmmPid(host, "vm");
    ASSERT_EQ(setOomScore(old, oomScoreOf(::getpid()).value()), "");

    // Too little for any VMM: seen before. A VMM gives memory back of itself (QEMU's malloc_trim, util/rcu.c), so what was left
    // may be more by the time it is looked at: then the new VMM pays.
    json report = json::object();
    for (int tries = 0; tries < 5 && report.value("outcome", "") != "refused"; ++tries) {
        cgroup.leave(8 * mib);
        report = upgrade({.binary = newQemu()});
        EXPECT_EQ(vmmPid(host, "vm"), old);
        if (report["outcome"] == "refused") continue;
        ASSERT_EQ(report["outcome"], "rolled back") << report.dump(2);
        EXPECT_THAT(report["cause"].get<std::string>(), HasSubstr("the new VMM was killed by signal 9"));
    }
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_THAT(whyNot(report), AllOf(HasSubstr("the memory cgroup '" + cgroup.directory() + "' has room for"),
                                      HasSubstr("; raise the limit, or free memory in it")));

    // Enough for one, and not for this one, which is smaller than the old one when it comes to it. The kernel would end the
    // larger.
    cgroup.leave(48 * mib);
    report =
        upgrade({.binary = workspace.impostor("all=$(head -c 200000000 /dev/zero | tr '\\0' x)\nexec " + newQemu() + " \"$@\"")});
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report["cause"].get<std::string>(), HasSubstr("the new VMM was killed by signal 9"));
    EXPECT_EQ(vmmPid(host, "vm"), old);

    cgroup.limitTo(std::uint64_t{1} << 40);
    expectGuestIsWell(host, "vm");
    EXPECT_EQ(upgrade({.binary = newQemu()})["outcome"], "upgraded");
    expectGuestIsWell(host, "vm");
}

TEST_F(MemoryTest, isTakenFromTheNewVmmUntilItIsToldToRunTheGuest) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    const json report = upgrade({.binary = newQemu()}, [&](const HandoverProgress& progress) {
        SCOPED_TRACE(name(progress.state));
        if (progress.state >= State::Ending) return;  // The old one may have ended by now.
        if (progress.oldPid) {
            EXPECT_EQ(oomScoreOf(progress.oldPid), scoreOfTheGuest);
        }
        if (!progress.newPid) return;
        EXPECT_EQ(oomScoreOf(progress.newPid), isBeforePointOfNoReturn(progress.state) ? firstToBeEnded : scoreOfTheGuest);
    });
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(oomScoreOf(vmmPid(host, "vm")), scoreOfTheGuest);

    // A manager that dies leaves it to the next one, whichever VMM is kept.
    for (const char* state : {"verifying", "confirming", "retiring"}) {
        SCOPED_TRACE(state);
        crashManager(workspace, "vm", "vm", newQemu(), state, "0");
        EXPECT_EQ(upgrade({.binary = "/nonexistent"})["outcome"], "refused");
        EXPECT_EQ(oomScoreOf(vmmPid(host, "vm")), scoreOfTheGuest);
    }
    expectGuestIsWell(host, "vm");
}

TEST_F(MemoryTest, isTakenFromTheRehearsalOfAVmmThatIsExecuted) {
    VmOptions options;
    options.owner = "vmm";
    options.design = Design::VmmExec;
    options.binary = newQemu();
    ASSERT_NO_FATAL_FAILURE(start(options));
    std::set<int> rehearsals;
    const json report = upgrade({.binary = newQemu()}, [&](const HandoverProgress& progress) {
        if (progress.state >= State::Ending) return;  // The old one may have ended by now.
        if (progress.oldPid) {
            EXPECT_EQ(oomScoreOf(progress.oldPid), scoreOfTheGuest) << name(progress.state);
        }
        if (progress.newPid && progress.newPid != progress.oldPid) rehearsals.insert(oomScoreOf(progress.newPid).value_or(-1));
    });
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(rehearsals, std::set<int>{firstToBeEnded});
    EXPECT_EQ(oomScoreOf(vmmPid(host, "vm")), scoreOfTheGuest);
}

}  // namespace
}  // namespace vh::test
