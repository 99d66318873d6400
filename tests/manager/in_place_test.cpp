#include "manager/handover/in_place.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/is_obstacle.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/exec_inbox.h"

namespace vh {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Eq;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;

Obstacle refusalOf(const std::function<void()>& action) {
    try {
        action();
    } catch (const std::exception& error) {
        return obstacleOf(error);
    }
    return {};
}

class InPlaceTest : public MainLoopTest {
 protected:
    /// A process that waits, with descriptors and a command line.
    static ChildProcess waiting(std::vector<int> descriptors, std::vector<std::string> arguments = {}) {
        std::vector<std::string> argv{"/bin/sh", "-c", "echo >&3; sleep 600; true", "sh"};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        auto [ours, theirs] = pipe();
        descriptors.insert(descriptors.begin(), theirs.get());
        ChildProcess process = ChildProcess::launch({.argv = argv, .descriptors = descriptors, .endsWithManager = true});
        char text = 0;
        EXPECT_EQ(::read(ours.get(), &text, 1), 1) << "it executes its program";
        return process;
    }
    static void end(ChildProcess& process) {
        bool ended = false;
        process.onExit([&] { ended = true; });
        process.killAll();
        EXPECT_TRUE(loopUntil([&] { return ended; }));
    }
    static std::pair<UniqueFd, UniqueFd> pipe() {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        return {UniqueFd(ends[0]), UniqueFd(ends[1])};
    }
    static UniqueFd file() { return UniqueFd(::memfd_create("file", MFD_CLOEXEC)); }

    TemporaryDirectory directory_;
};

TEST_F(InPlaceTest, knowsASandboxThatForbidsToExecute) {
    ChildProcess forbidden = waiting({}, {"-sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny"});
    EXPECT_THAT(obstacleToExec(forbidden.pid()), Optional(isObstacle("spawn=deny", "use design 'relayed'")));
    ChildProcess allowed = waiting({}, {"-sandbox", "on,obsolete=deny", "-name", "spawn=deny"});
    EXPECT_THAT(obstacleToExec(allowed.pid()), Eq(std::nullopt));
    end(forbidden);
    end(allowed);
}

TEST_F(InPlaceTest, countsTheSandboxesThatExecsHaveLeft) {
    const TemporaryDirectory proc;
    std::filesystem::create_directory(proc.file("4711"));
    proc.write("4711/cmdline", std::string("qemu\0-sandbox\0on", 16));
    proc.write("4711/status", "Name:\tqemu\nSeccomp:\t2\nSeccomp_filters:\t200\n");
    EXPECT_THAT(obstacleToExec(4711, proc.path()), Eq(std::nullopt));
    proc.write("4711/status", "Name:\tqemu\nSeccomp:\t2\nSeccomp_filters:\t201\n");
    EXPECT_THAT(obstacleToExec(4711, proc.path()), Optional(isObstacle("its process has 201 sandboxes", "use design 'relayed'")));
}

TEST_F(InPlaceTest, knowsTheBlockThatAnExecWouldLose) {
    const auto block = [](const char* name, bool shared, std::optional<BackingFile> backing) {
        RamBlock ram;
        ram.idstr = name;
        ram.shared = shared;
        ram.file = backing;
        return ram;
    };
    const BackingFile open{{1, 2}, 4096, 7}, closed{{1, 3}, 4096, -1};
    EXPECT_EQ(blockLostByExec({block("a", true, open)}), "");
    EXPECT_EQ(blockLostByExec({block("a", true, open), block("private", false, open)}), "private");
    EXPECT_EQ(blockLostByExec({block("anonymous", true, std::nullopt)}), "anonymous");
    EXPECT_EQ(blockLostByExec({block("closed", true, closed)}), "closed");
    EXPECT_EQ(blockLostByExec({block("", false, open)}), "(nameless)");
    RamBlock confidential = block("guest_memfd", true, open);
    confidential.guest_memfd = true;
    EXPECT_EQ(blockLostByExec({confidential}), "guest_memfd");
}

TEST_F(InPlaceTest, closesWhatAProcessWasStartedWithButNotItsMemory) {
    const UniqueFd disk = file(), memory = file();
    ChildProcess process = waiting({disk.get(), memory.get()});  // On 4 and 5; 3 is for its word that it runs.
    RamBlock ram;
    ram.file = BackingFile{FileIdentity::of(memory.get()), 0, 5};
    const DescriptorPlan plan = planDescriptors(process.pid(), {ram}, 10);
    EXPECT_THAT(plan.close, AllOf(Contains(3), Contains(4), Not(Contains(5)), Not(Contains(1))));
    EXPECT_GT(plan.first, 5 + 10) << "with room for what the process may open meanwhile";
    EXPECT_EQ(planDescriptors(process.pid(), {ram}, 10).first, plan.first);
    EXPECT_THAT(
        refusalOf([&] { planDescriptors(process.pid(), {ram}, 1'000'000); }),
        isObstacle("descriptors for a moment, and pid " + std::to_string(process.pid()) + " may have", "raise its limit"));
    end(process);
}

TEST_F(InPlaceTest, takesAnInboxOutOfAProcess) {
    const UniqueFd inbox = makeInbox(directory_.file("exec.sock")), other = file();
    ChildProcess process = waiting({inbox.get(), other.get()});
    VmmRecord record{.pid = process.pid(), .startTime = process.startTime(), .inboxDescriptor = 4};
    {
        const UniqueFd taken = takeInbox(record, directory_.path());
        postParcel(directory_.file("exec.sock"), "hello", {other.get()});
        EXPECT_EQ(takeParcels(taken.get()).at(0).label, "hello");
    }
    record.inboxDescriptor = 5;
    EXPECT_THAT(refusalOf([&] { takeInbox(record, directory_.path()); }), isObstacle("is not the inbox", "use design 'relayed'"));
    record.inboxDescriptor = 77;
    EXPECT_THAT(refusalOf([&] { takeInbox(record, directory_.path()); }).what, HasSubstr("take descriptor 77 out of pid"));
    record.inboxDescriptor.reset();
    EXPECT_THAT(refusalOf([&] { takeInbox(record, directory_.path()); }),
                isObstacle("started without an inbox", "power-cycle the VM"));
    end(process);
}

TEST_F(InPlaceTest, tellsAProcessFromOneThatHasEnded) {
    ChildProcess process = waiting({});
    EXPECT_TRUE(runsAProgram(process.pid()));
    const pid_t pid = process.pid();
    end(process);
    EXPECT_FALSE(runsAProgram(pid));
}

class ShimTrialTest : public InPlaceTest {
 protected:
    std::optional<Obstacle> trialOf(const std::string& program) {
        const UniqueFd fd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
        bool isOver = false;
        std::optional<Obstacle> problem;
        ShimTrial trial(fd.get(), program, Identity::of("nobody"), [&](const std::optional<Obstacle>& found) {
            isOver = true;
            problem = found;
        });
        EXPECT_TRUE(loopUntil([&] { return isOver; }));
        return problem;
    }
};

TEST_F(ShimTrialTest, executesWhatTheVmmWillExecute) {
    EXPECT_THAT(trialOf("/bin/true"), Eq(std::nullopt));
    EXPECT_THAT(trialOf("/bin/false"),
                Optional(isObstacle("'/bin/false', which the VMM has to execute, exited with status 1", "make it readable")));
}

TEST_F(ShimTrialTest, needsNoWayToTheProgramButTheRightToExecuteIt) {
    // As in a build directory below somebody's home.
    std::filesystem::copy_file("/bin/true", directory_.file("true"));
    ::chmod(directory_.path().c_str(), 0700);
    EXPECT_THAT(trialOf(directory_.file("true")), Eq(std::nullopt));
    if (::geteuid() != 0) GTEST_SKIP() << "who is not root tries as himself, and may execute what he likes; run as root";
    ::chmod(directory_.file("true").c_str(), 0700);
    EXPECT_THAT(trialOf(directory_.file("true")), Optional(isObstacle("Permission denied", "executable for everyone")));
}

class ShimProgram : public testing::Test {
 protected:
    ~ShimProgram() override { before_ ? ::setenv("VH_SHIM", before_->c_str(), 1) : ::unsetenv("VH_SHIM"); }

 private:
    static std::optional<std::string> named() {
        const char* name = std::getenv("VH_SHIM");
        return name ? std::optional<std::string>(name) : std::nullopt;
    }
    const std::optional<std::string> before_ = named();
};

TEST_F(ShimProgram, isTheOneThatTheEnvironmentNames) {
    ::setenv("VH_SHIM", "/some/where", 1);
    EXPECT_EQ(shimProgram(), "/some/where");
}

TEST_F(ShimProgram, isTheFirstThatCanBeExecuted) {
    ::unsetenv("VH_SHIM");
    const TemporaryDirectory directory;
    const std::string text = directory.write("text", "", 0644), program = directory.write("vmm-shim", "", 0755);
    EXPECT_EQ(shimProgram({text, directory.path(), program, "/bin/true"}), program);
    EXPECT_THAT(refusalOf([&] {
                    shimProgram({text, "/no/where"});
                }),
                isObstacle("vmm-shim, is neither beside this one nor in", "install it, or name it in VH_SHIM"));
}

}  // namespace
}  // namespace vh
