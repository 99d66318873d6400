#include "manager/process/child_process.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <climits>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/resources/memory_room.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

volatile std::sig_atomic_t alarms = 0;

class ChildProcessTest : public MainLoopTest {
 protected:
    ChildProcessTest() : output_(::memfd_create("output", MFD_CLOEXEC)) {}

    ChildProcess shell(const std::string& script, std::vector<int> descriptors = {}) {
        return ChildProcess::launch(
            {.argv = {"/bin/sh", "-c", script}, .descriptors = std::move(descriptors), .output = output_.get()});
    }

    /// Waits for the end of a process and returns how it came.
    static std::string endOf(ChildProcess& process) {
        bool ended = false;
        process.onExit([&] { ended = true; });
        EXPECT_TRUE(loopUntil([&] { return ended; }));
        EXPECT_FALSE(process.alive());
        return process.howItEnded();
    }

    std::string output() const {
        std::string text(65536, '\0');
        const ssize_t count = ::pread(output_.get(), text.data(), text.size(), 0);
        text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
        return text;
    }

    static UniqueFd file(const std::string& text) {
        UniqueFd fd(::memfd_create("file", MFD_CLOEXEC));
        EXPECT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
        return fd;
    }

    UniqueFd output_;
};

TEST_F(ChildProcessTest, runsAProgramAndSaysHowItEnded) {
    ChildProcess process = shell("echo out; echo err >&2");
    EXPECT_GT(process.pid(), 0);
    EXPECT_GT(process.startTime(), 0U);
    EXPECT_EQ(endOf(process), "exited with status 0");
    EXPECT_EQ(output(), "out\nerr\n");
}

TEST_F(ChildProcessTest, tellsItsExitStatus) {
    ChildProcess process = shell("exit 3");
    EXPECT_EQ(endOf(process), "exited with status 3");
}

TEST_F(ChildProcessTest, tellsTheSignalThatKilledIt) {
    ChildProcess process = shell("kill -9 $$");
    EXPECT_EQ(endOf(process), "was killed by signal 9 (Killed)");
    EXPECT_EQ(process.howItEnded(), "was killed by signal 9 (Killed)") << "as often as one asks";
}

TEST_F(ChildProcessTest, canBeKilled) {
    ChildProcess process = shell("exec sleep 1000");
    EXPECT_TRUE(process.alive());
    process.kill(SIGKILL);
    EXPECT_EQ(endOf(process), "was killed by signal 9 (Killed)");
    process.kill(SIGKILL);  // Nobody else can be hit.
}

TEST_F(ChildProcessTest, saysWhyItCannotBeExecuted) {
    const TemporaryDirectory directory;
    const auto why = [&](const std::string& path, Identity identity = {}) {
        ChildProcess process = ChildProcess::launch({.argv = {path}, .output = output_.get(), .identity = identity});
        return endOf(process);
    };
    EXPECT_EQ(
        why("/does/not/exist"),
        "could not be started: execute '/does/not/exist': No such file or directory (the file, or the interpreter or loader "
        "that it names)");
    const std::string script = directory.write("script", "#!/no/such/interpreter\n", 0755);
    EXPECT_THAT(why(script), HasSubstr("(the file, or the interpreter or loader that it names)"));
    // An ELF file for another machine: EM_S390 where ours has EM_X86_64.
    std::string elf(
        "\x7f"
        "ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\x16\0\1\0\0\0",
        24);
    elf.resize(256);
    EXPECT_THAT(why(directory.write("foreign", elf, 0755)),
                HasSubstr("Exec format error (no program, or one for another kind of machine)"));
    EXPECT_THAT(why(directory.write("text", "x", 0644)),
                HasSubstr("Permission denied (by its mode, a directory above it, a file"));
    EXPECT_EQ(output(), "") << "which may be the log of another process";
}

TEST_F(ChildProcessTest, saysWhyItCannotBeWhatItWasToBe) {
    ChildProcess process =
        ChildProcess::launch({.argv = {"/bin/true"}, .output = output_.get(), .pidFile = "/does/not/exist/pid"});
    EXPECT_EQ(endOf(process), "could not be started: create '/does/not/exist/pid': No such file or directory");
}

TEST_F(ChildProcessTest, isTheFirstToBeEndedWhenMemoryRunsOutIfItIsExpendable) {
    for (const bool expendable : {false, true}) {
        ChildProcess process = ChildProcess::launch({.argv = {"/bin/cat", "/proc/self/oom_score_adj"},
                                                     .output = output_.get(),
                                                     .identity = ::geteuid() == 0 ? Identity::of("nobody") : Identity{},
                                                     .expendable = expendable});
        EXPECT_EQ(endOf(process), "exited with status 0");
    }
    EXPECT_EQ(output(), std::to_string(oomScoreOf(::getpid()).value()) + "\n1000\n");
}

TEST_F(ChildProcessTest, letsAnotherUserDoWhatOnlyHeMay) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root may act as another user";
    const Identity nobody = Identity::of("nobody");
    const TemporaryDirectory directory;  // Of root's.
    const std::string path = directory.path() + "/made";
    const auto make = [&path] { return ::mkdir(path.c_str(), 0700) == 0 ? 0 : errno; };
    EXPECT_EQ(doAs(nobody, "make it", make), EACCES);
    EXPECT_EQ(doAs({}, "make it", make), 0);
    const UniqueFd shared(::memfd_create("shared", MFD_CLOEXEC));
    EXPECT_EQ(doAs(
                  nobody, "truncate it", [&] { return ::ftruncate(shared.get(), 7); }, shared.get()),
              0);
    EXPECT_EQ(::lseek(shared.get(), 0, SEEK_END), 7);
    EXPECT_EQ(::geteuid(), 0U);
}

/// As on a file system of that user's which takes a call and never answers: the call ends by no signal.
TEST_F(ChildProcessTest, waitsForNoOtherUsersFileSystemWithoutAnEnd) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root may act as another user";
    const TemporaryDirectory directory;
    int ends[2], held[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(held, O_CLOEXEC), 0);
    UniqueFd told(ends[0]), tell(ends[1]), hold(held[0]), letGo(held[1]);
    // Stands by to keep the child from ending, and is told that it may go.
    const pid_t keeper = ::fork();
    if (keeper == 0) {
        tell.reset();
        letGo.reset();
        pid_t child = 0;
        (void)!::read(told.get(), &child, sizeof(child));
        ::ptrace(PTRACE_SEIZE, child, nullptr, PTRACE_O_TRACEEXIT);
        char nothing = 0;
        (void)!::read(hold.get(), &nothing, 1);
        ::_exit(0);
    }
    hold.reset();
    told.reset();
    UniqueFd lock(::open((directory.path() + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
    const auto hang = [&] {
        const pid_t self = ::getpid();
        (void)!::write(tell.get(), &self, sizeof(self));
        for (;;) ::pause();
        return 0;
    };
    try {
        doAs(Identity::of("nobody"), "unlink 'x'", hang, tell.get());
        ADD_FAILURE() << "it was done";
    } catch (const std::runtime_error& error) {
        EXPECT_THAT(error.what(),
                    AllOf(StartsWith("unlink 'x': "), HasSubstr("does not answer"), HasSubstr("not even by SIGKILL")));
    }
    const UniqueFd again(::open((directory.path() + "/lock").c_str(), O_RDWR | O_CLOEXEC));
    lock.reset();
    EXPECT_EQ(::flock(again.get(), LOCK_EX | LOCK_NB), 0) << "a VM's lock, held by who is stuck for another VM";
    letGo.reset();
    ASSERT_EQ(::waitpid(keeper, nullptr, 0), keeper);
}

TEST_F(ChildProcessTest, getsExactlyTheListedDescriptorsInTheirOrder) {
    const UniqueFd first = file("first"), second = file("second");
    const UniqueFd leaky(::open("/dev/null", O_RDONLY));  // Not close-on-exec, as another library's may be.
    ASSERT_FALSE(::fcntl(leaky.get(), F_GETFD) & FD_CLOEXEC);
    // Asked number by number: a program that lists a directory has it open meanwhile.
    ChildProcess process = shell(
        "n=0; while [ $n -lt 1024 ]; do [ ! -e /proc/$$/fd/$n ] || printf \"$n \"; n=$((n+1)); done; echo; cat <&3; cat <&4",
        {first.get(), second.get()});
    ::lseek(first.get(), 0, SEEK_SET);
    ::lseek(second.get(), 0, SEEK_SET);
    EXPECT_EQ(endOf(process), "exited with status 0");
    EXPECT_EQ(output(), "0 1 2 3 4 \nfirstsecond");
}

TEST_F(ChildProcessTest, getsDescriptorsRightWhoseNumbersAreEachOthersPlaces) {
    // Twenty in reverse order: most sit on a number that another one gets.
    std::vector<UniqueFd> files;
    std::vector<int> reversed;
    std::string expected;
    for (char letter = 'a'; letter < 'a' + 20; ++letter) {
        files.push_back(file(std::string(1, letter)));
        reversed.insert(reversed.begin(), files.back().get());
        expected.insert(expected.begin(), letter);
    }
    ASSERT_LT(files.front().get(), ChildProcess::firstDescriptor + 20) << "else nothing collides";
    ChildProcess process = shell("n=3; while [ $n -lt 23 ]; do cat /proc/$$/fd/$n; n=$((n+1)); done", reversed);
    EXPECT_EQ(endOf(process), "exited with status 0");
    EXPECT_EQ(output(), expected);
}

TEST_F(ChildProcessTest, mayBeGivenOneDescriptorTwice) {
    const UniqueFd twice = file("x");
    ChildProcess process = shell("[ /proc/$$/fd/3 -ef /proc/$$/fd/4 ]", {twice.get(), twice.get()});
    EXPECT_EQ(endOf(process), "exited with status 0");
}

TEST_F(ChildProcessTest, startsFromAManagerWithoutStandardStreams) {
    // As under a supervisor that closes them: what is opened next, and is to be passed on, has the numbers 0, 1 and 2.
    const pid_t manager = ::fork();
    ASSERT_GE(manager, 0);
    if (manager == 0) {
        const int copy = ::fcntl(output_.get(), F_DUPFD, 100);
        for (int fd = 0; fd < 3; ++fd) ::close(fd);
        UniqueFd first = file("first"), second = file("second");
        const int output = ::dup(copy);
        for (const int fd : {first.get(), second.get()}) ::lseek(fd, 0, SEEK_SET);
        if (first.get() != 0 || second.get() != 1 || output != 2) ::_exit(99);
        ChildProcess child =
            ChildProcess::launch({.argv = {"/bin/sh", "-c", "cat <&3; cat <&4; read line && exit 1; test -c /proc/$$/fd/0"},
                                  .descriptors = {0, 1},
                                  .output = output});
        int status = 0;
        ::waitpid(child.pid(), &status, 0);
        ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 98);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(manager, &status, 0), manager);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0) << output();
    EXPECT_EQ(output(), "firstsecond");
}

TEST_F(ChildProcessTest, leadsASessionOfItsOwn) {
    ChildProcess process = shell("cut -d' ' -f1,5,6 /proc/$$/stat");
    endOf(process);
    const std::string pid = std::to_string(process.pid());
    EXPECT_EQ(output(), pid + " " + pid + " " + pid + "\n");
}

TEST_F(ChildProcessTest, readsNothing) {
    ChildProcess process = shell("read line; echo \"$? '$line'\"");
    endOf(process);
    EXPECT_EQ(output(), "1 ''\n");
}

TEST_F(ChildProcessTest, hasNoSignalBlocked) {
    sigset_t blocked, before;
    ::sigfillset(&blocked);
    ::sigprocmask(SIG_BLOCK, &blocked, &before);
    // Without a shell, which would unblock them itself.
    ChildProcess process = ChildProcess::launch({.argv = {"/bin/grep", "SigBlk", "/proc/self/status"}, .output = output_.get()});
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    endOf(process);
    EXPECT_EQ(output(), "SigBlk:\t0000000000000000\n");
}

/// A process with threads stands still for milliseconds when it has to make that room itself, and a VMM would do it in a pause.
TEST_F(ChildProcessTest, hasRoomForAThousandDescriptors) {
    ChildProcess process = ChildProcess::launch({.argv = {"/bin/grep", "FDSize", "/proc/self/status"}, .output = output_.get()});
    endOf(process);
    EXPECT_EQ(output(), "FDSize:\t1024\n");
}

TEST_F(ChildProcessTest, doesNotInheritACprExecState) {
    ::setenv("QEMU_CPR_EXEC_STATE", "5", 1);
    ::setenv("VH_KEPT", "kept", 1);
    ChildProcess process = shell("echo \"${QEMU_CPR_EXEC_STATE-none} $VH_KEPT\"");
    endOf(process);
    ::unsetenv("VH_KEPT");
    EXPECT_EQ(output(), "none kept\n");
}

TEST_F(ChildProcessTest, runsAsAnotherUserWhenTheManagerIsRoot) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root may change users; run this as root";
    const Identity nobody = Identity::of("nobody");
    ASSERT_TRUE(nobody.change);
    gid_t before[NGROUPS_MAX];
    const int count = ::getgroups(NGROUPS_MAX, before);
    ASSERT_GE(count, 0);
    const gid_t extra = 4242;  // A group of the manager's that the VMM must not have.
    ASSERT_EQ(::setgroups(1, &extra), 0);
    ChildProcess process =
        ChildProcess::launch({.argv = {"/bin/sh", "-c", "grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status"},
                              .output = output_.get(),
                              .identity = nobody});
    ::setgroups(static_cast<std::size_t>(count), before);
    endOf(process);
    const auto four = [](unsigned id) {
        const std::string text = "\t" + std::to_string(id);
        return text + text + text + text + "\n";
    };
    EXPECT_THAT(output(), AllOf(HasSubstr("Uid:" + four(nobody.uid)), HasSubstr("Gid:" + four(nobody.gid)),
                                HasSubstr("Groups:\t \n"), HasSubstr("CapEff:\t0000000000000000\n")));
}

TEST_F(ChildProcessTest, knowsNoUserThatDoesNotExist) {
    EXPECT_THROW(Identity::of("nobody-of-that-name"), std::runtime_error);
    EXPECT_FALSE(Identity::of("root").change);
}

TEST_F(ChildProcessTest, leavesNoZombieEvenWhenNobodyAsks) {
    const pid_t pid = shell("exit 0").pid();  // The object is gone at once.
    EXPECT_TRUE(loopUntil([pid] { return ::kill(pid, 0) != 0; })) << "pid " << pid << " is still there";
}

TEST_F(ChildProcessTest, goesOnWhenTheObjectIsGone) {
    pid_t pid = 0;
    std::uint64_t startTime = 0;
    {
        const ChildProcess process = shell("exec sleep 1000");
        pid = process.pid();
        startTime = process.startTime();
    }
    ChildProcess adopted = ChildProcess::adopt(pid, startTime);
    EXPECT_TRUE(adopted.alive());
    EXPECT_EQ(adopted.pid(), pid);
    EXPECT_EQ(adopted.startTime(), startTime);
    adopted.kill(SIGKILL);
    EXPECT_EQ(endOf(adopted), "ended") << "whose child it was knows more";
}

TEST_F(ChildProcessTest, doesNotAdoptAnotherProcessWithTheSamePid) {
    ChildProcess process = shell("exec sleep 1000");
    for (const std::uint64_t wrong : {std::uint64_t{0}, process.startTime() - 1, process.startTime() + 1}) {
        const ChildProcess adopted = ChildProcess::adopt(process.pid(), wrong);
        EXPECT_EQ(adopted.pid(), 0);
        EXPECT_FALSE(adopted.alive());
        adopted.kill(SIGKILL);
    }
    EXPECT_TRUE(process.alive());
    process.kill(SIGKILL);
    EXPECT_THAT(endOf(process), StartsWith("was killed"));
}

TEST_F(ChildProcessTest, doesNotAdoptWhatIsGone) {
    ChildProcess process = shell("exit 0");
    endOf(process);
    loopWhileBusy();
    EXPECT_EQ(ChildProcess::adopt(process.pid(), process.startTime()).pid(), 0);
    for (const pid_t pid : {0, -1}) EXPECT_EQ(ChildProcess::adopt(pid, 0).pid(), 0);
}

TEST_F(ChildProcessTest, isNotAliveBeforeThereIsAProcess) {
    const ChildProcess none;
    EXPECT_FALSE(none.alive());
    none.kill(SIGKILL);
    EXPECT_EQ(none.howItEnded(), "ended");
}

TEST_F(ChildProcessTest, forgetsAWatcherThatNoLongerCares) {
    ChildProcess process = shell("exit 0");
    bool called = false;
    process.onExit([&] { called = true; });
    process.ignoreExit();
    EXPECT_TRUE(loopUntil([&] { return !haveChildren(); }));
    loopWhileBusy();
    EXPECT_FALSE(called);
}

TEST_F(ChildProcessTest, isAliveAlsoWhenASignalInterruptsTheQuestion) {
    ChildProcess process = shell("exec sleep 1000");
    alarms = 0;
    struct sigaction count {
    }, before{};
    count.sa_handler = [](int) { alarms = alarms + 1; };
    ASSERT_EQ(::sigaction(SIGALRM, &count, &before), 0);
    const itimerval often{{0, 20}, {0, 20}}, never{};
    ASSERT_EQ(::setitimer(ITIMER_REAL, &often, nullptr), 0);
    bool alive = true;
    while (alive && alarms < 5000) alive = process.alive();
    ::setitimer(ITIMER_REAL, &never, nullptr);
    ::sigaction(SIGALRM, &before, nullptr);
    EXPECT_TRUE(alive) << "after " << alarms << " signals";
    process.kill(SIGKILL);
    endOf(process);
}

}  // namespace
}  // namespace vh
