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

#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/exec_inbox.h"

namespace vh {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

std::string refusalOf(const std::function<void()>& action) {
    try {
        action();
    } catch (const std::exception& error) {
        return error.what();
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
    EXPECT_THAT(whyExecIsForbidden(forbidden.pid()), AllOf(HasSubstr("spawn=deny"), HasSubstr("use design 'relayed'")));
    ChildProcess allowed = waiting({}, {"-sandbox", "on,obsolete=deny", "-name", "spawn=deny"});
    EXPECT_EQ(whyExecIsForbidden(allowed.pid()), "");
    end(forbidden);
    end(allowed);
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
    EXPECT_THAT(refusalOf([&] { planDescriptors(process.pid(), {ram}, 1'000'000); }), HasSubstr("raise its limit"));
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
    EXPECT_THAT(refusalOf([&] { takeInbox(record, directory_.path()); }), HasSubstr("is not the inbox"));
    record.inboxDescriptor = 77;
    EXPECT_THAT(refusalOf([&] { takeInbox(record, directory_.path()); }), HasSubstr("take descriptor 77 out of pid"));
    record.inboxDescriptor.reset();
    EXPECT_THAT(refusalOf([&] { takeInbox(record, directory_.path()); }), HasSubstr("started without an inbox"));
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
    std::string trialOf(const std::string& program) {
        const UniqueFd fd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
        std::optional<std::string> problem;
        ShimTrial trial(fd.get(), program, Identity::of("nobody"), [&](const std::string& text) { problem = text; });
        EXPECT_TRUE(loopUntil([&] { return problem.has_value(); }));
        return problem.value_or("no answer");
    }
};

TEST_F(ShimTrialTest, executesWhatTheVmmWillExecute) {
    EXPECT_EQ(trialOf("/bin/true"), "");
    EXPECT_THAT(trialOf("/bin/false"), AllOf(HasSubstr("'/bin/false'"), HasSubstr("exited with status 1")));
}

TEST_F(ShimTrialTest, needsNoWayToTheProgramButTheRightToExecuteIt) {
    // As in a build directory below somebody's home.
    std::filesystem::copy_file("/bin/true", directory_.file("true"));
    ::chmod(directory_.path().c_str(), 0700);
    EXPECT_EQ(trialOf(directory_.file("true")), "");
    if (::geteuid() != 0) GTEST_SKIP() << "who is not root tries as himself, and may execute what he likes; run as root";
    ::chmod(directory_.file("true").c_str(), 0700);
    EXPECT_THAT(trialOf(directory_.file("true")), AllOf(HasSubstr("Permission denied"), HasSubstr("executable for everyone")));
}

TEST(ShimProgram, isTheOneThatTheEnvironmentNames) {
    const char* before = std::getenv("VH_SHIM");
    const std::string kept = before ? before : "";
    ::setenv("VH_SHIM", "/some/where", 1);
    EXPECT_EQ(shimProgram(), "/some/where");
    before ? ::setenv("VH_SHIM", kept.c_str(), 1) : ::unsetenv("VH_SHIM");
}

}  // namespace
}  // namespace vh
