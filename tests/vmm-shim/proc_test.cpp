#include "vmm-shim/proc.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::steady_clock, std::chrono::milliseconds;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

/// A child that makes something and stays; it is ended with the object.
class Child {
 public:
    /// `make` returns a number that the parent is told.
    explicit Child(const std::function<int()>& make) {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        const UniqueFd reading(ends[0]);
        UniqueFd writing(ends[1]);
        pid_ = ::fork();
        if (pid_ == 0) {
            const int number = make();
            if (::write(writing.get(), &number, sizeof(number)) < 0) ::_exit(1);
            for (;;) ::pause();
        }
        writing.reset();
        if (::read(reading.get(), &number_, sizeof(number_)) < 0) number_ = -1;
    }
    Child(const Child&) = delete;
    ~Child() {
        ::kill(pid_, SIGKILL);
        reap();
    }

    pid_t pid() const { return pid_; }
    int number() const { return number_; }
    Process process() const { return Process(pid_); }
    OpenFile file() const {
        for (OpenFile& file : process().files())
            if (file.number == number_) return file;
        ADD_FAILURE() << "it has no descriptor " << number_;
        return {};
    }
    void reap() const { ::waitpid(pid_, nullptr, 0); }
    void becomeAZombie() const {
        ::kill(pid_, SIGKILL);
        siginfo_t ended{};
        ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOWAIT), 0);
    }

 private:
    pid_t pid_ = 0;
    int number_ = -1;
};

int nothing() {
    return 0;
}

int makeMemfd() {
    const int fd = ::memfd_create("ram", MFD_CLOEXEC);
    return ::ftruncate(fd, 8192) == 0 && ::write(fd, "content", 7) == 7 ? fd : -1;
}

class ProcessTest : public NoDescriptorLeaks {};

TEST_F(ProcessTest, isKnownByPidAndStartTime) {
    const Child child(nothing);
    const ProcessIdentity own = ProcessIdentity::of(::getpid()), its = ProcessIdentity::of(child.pid());
    EXPECT_EQ(own.pid, ::getpid());
    EXPECT_TRUE(own.isAlive());
    EXPECT_TRUE(its.isAlive());
    EXPECT_EQ(its.startTime, child.process().startTime());
    EXPECT_FALSE((ProcessIdentity{its.pid, its.startTime + 1}).isAlive()) << "its pid is another's by now";
    EXPECT_FALSE(ProcessIdentity().isAlive());
}

TEST_F(ProcessTest, thatHasEndedIsNoneAlsoAsAZombie) {
    const Child child(nothing);
    const ProcessIdentity its = ProcessIdentity::of(child.pid());
    child.becomeAZombie();
    EXPECT_FALSE(its.isAlive());
    EXPECT_EQ(ProcessIdentity::of(child.pid()), ProcessIdentity());
    EXPECT_EQ(child.process().startTime(), its.startTime) << "its number is still its own";
    child.reap();
    EXPECT_EQ(child.process().startTime(), 0U);
    EXPECT_EQ(child.process().link("exe"), "");
    EXPECT_EQ(child.process().program().file, "");
    EXPECT_THAT(child.process().mappings(), IsEmpty());
    EXPECT_THAT(child.process().visibleFiles(), IsEmpty());
    EXPECT_THROW(child.process().files(), std::system_error);
    EXPECT_THROW(child.process().commandLine(), std::system_error);
    EXPECT_THROW(child.process().take(1), std::system_error);
}

TEST_F(ProcessTest, hasItsStartTimeWhateverItCallsItself) {
    const Child child([] { return ::prctl(PR_SET_NAME, "a) Z 1 (b 2"); });
    EXPECT_EQ(child.process().field("comm", ""), "a) Z 1 (b 2");
    EXPECT_TRUE(ProcessIdentity::of(child.pid()).isAlive());
    EXPECT_GE(child.process().startTime(), Process(::getpid()).startTime());
    EXPECT_LT(child.process().startTime(), Process(::getpid()).startTime() + 1'000'000);
}

TEST_F(ProcessTest, hasItsWordsOneByOne) {
    const TemporaryDirectory directory;
    const std::string there = directory.file("there"), script = "touch '" + there + "'; while :; do sleep 1; done";
    const Child child([&] {
        if (::fork() == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            const char* const words[] = {"/bin/sh", "-c", script.c_str(), "", "two words", nullptr};
            const char* const environment[] = {"A=b c", "PATH=/usr/bin:/bin", nullptr};
            ::execve(words[0], const_cast<char**>(words), const_cast<char**>(environment));
        }
        return 0;
    });
    while (!std::filesystem::exists(there)) ::usleep(1000);
    for (const pid_t pid : allProcesses()) {
        const Process one(pid);
        if (one.field("status", "PPid:") != std::to_string(child.pid())) continue;
        EXPECT_THAT(one.commandLine(), ElementsAre("/bin/sh", "-c", script, "", "two words"));
        EXPECT_THAT(one.environment(), ElementsAre("A=b c", "PATH=/usr/bin:/bin"));
        return;
    }
    ADD_FAILURE() << "the child of the child is not among all processes";
}

TEST_F(ProcessTest, hasItsFilesByNumber) {
    const TemporaryDirectory directory;
    const std::string path = directory.write("file", "x");
    const Child child([&] {
        const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
        return ::unlink(path.c_str()) == 0 ? fd : -1;
    });
    const OpenFile file = child.file();
    EXPECT_EQ(file.target, path + " (deleted)");
    EXPECT_TRUE(hasDeletedMark(file.target));
    EXPECT_EQ(withoutDeletedMark(file.target), path);
    EXPECT_FALSE(file.isMemfd());
    ASSERT_TRUE(file.status());
    EXPECT_EQ(file.status()->st_nlink, 0U);
    const long flags = std::stol(child.process().field("fdinfo/" + std::to_string(file.number), "flags:"), nullptr, 8);
    EXPECT_EQ(flags & (O_ACCMODE | O_APPEND | O_CLOEXEC), O_WRONLY | O_APPEND | O_CLOEXEC);
    const std::vector<OpenFile> all = child.process().files();
    EXPECT_TRUE(std::ranges::is_sorted(all, {}, &OpenFile::number));
    EXPECT_THAT(Process(::getpid()).files(), testing::Not(Contains(testing::Field(&OpenFile::target, file.target))));
    ::kill(child.pid(), SIGKILL);
    child.reap();
    EXPECT_FALSE(file.status());
}

TEST_F(ProcessTest, hasItsSockets) {
    const TemporaryDirectory directory;
    const std::string path = directory.file("a.sock");
    const Child child([&] { return listenUnix(path).release(); });
    const auto listening = socketsAt(path, SocketKind::Listening);
    ASSERT_EQ(listening.size(), 1U);
    EXPECT_THAT(child.process().sockets(), Contains(*listening.begin()));
    EXPECT_THAT(Process(::getpid()).sockets(), testing::Not(Contains(*listening.begin())));
}

TEST_F(ProcessTest, hasItsMappings) {
    const Child child([] {
        const int fd = makeMemfd();
        return ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096) == MAP_FAILED ? -1 : fd;
    });
    const auto status = child.file().status();
    ASSERT_TRUE(status);
    std::vector<MemoryMapping> its;
    for (const MemoryMapping& mapping : child.process().mappings())
        if (mapping.file == FileIdentity{status->st_dev, status->st_ino}) its.push_back(mapping);
    ASSERT_EQ(its.size(), 1U);
    EXPECT_EQ(its[0].end - its[0].start, 4096U);
    EXPECT_EQ(its[0].offset, 4096U);
    EXPECT_TRUE(its[0].writable && its[0].shared && !its[0].executable);
    EXPECT_EQ(its[0].path, "/memfd:ram (deleted)");
    if (::geteuid() != 0) GTEST_SKIP() << "/proc/PID/map_files is for root: run this as root";
    EXPECT_EQ(readFile(child.process().fileOf(its[0]), 7), "content");
}

TEST_F(ProcessTest, givesADescriptorThatIsTheSameOpenFile) {
    const Child child(makeMemfd);
    const UniqueFd taken = child.process().take(child.number());
    ASSERT_EQ(::lseek(taken.get(), 5, SEEK_SET), 5);
    EXPECT_EQ(child.process().field("fdinfo/" + std::to_string(child.number()), "pos:"), "5");
    EXPECT_TRUE(child.file().isMemfd());
    try {
        child.process().take(child.number() + 100);
        ADD_FAILURE() << "it has no such descriptor";
    } catch (const std::system_error& error) {
        EXPECT_EQ(error.code().value(), EBADF);
        EXPECT_THAT(error.what(), HasSubstr(" out of pid " + std::to_string(child.pid())));
    }
}

TEST_F(ProcessTest, runsTheProgramThatItWasStartedWith) {
    const Child child(nothing);
    EXPECT_EQ(child.process().program().path, std::filesystem::read_symlink("/proc/self/exe"));
    EXPECT_TRUE(std::filesystem::equivalent(child.process().program().file, "/proc/self/exe"));
}

/// As QEMU does with an ELF kernel; a loader's program is looked for among what is mapped.
TEST_F(ProcessTest, runsNoProgramThatItHasMappedToReadIt) {
    int ends[2] = {};
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::dup2(ends[1], STDOUT_FILENO);
        ::execl("/lib64/ld-linux-x86-64.so.2", "ld.so", "/usr/bin/python3", "-c",
                // Below all else, where it is found first. PROT_READ; MAP_PRIVATE | MAP_FIXED.
                "import ctypes, os, time\n"
                "libc = ctypes.CDLL(None)\n"
                "libc.mmap.restype = ctypes.c_size_t\n"
                "file = os.open('/usr/bin/env', os.O_RDONLY)\n"
                "at = libc.mmap(ctypes.c_void_p(0x200000), ctypes.c_size_t(4096), 1, 0x12, file, ctypes.c_long(0))\n"
                "print('mapped' if at == 0x200000 else 'failed', flush=True)\n"
                "time.sleep(600)",
                nullptr);
        ::_exit(127);
    }
    char said[6] = {};
    EXPECT_EQ(::read(ends[0], said, sizeof said), static_cast<ssize_t>(sizeof said));
    EXPECT_EQ(std::string_view(said, sizeof said), "mapped");
    EXPECT_EQ(std::filesystem::path(Process(pid).program().path).filename(),
              std::filesystem::canonical("/usr/bin/python3").filename());
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    for (const int end : ends) ::close(end);
}

TEST_F(ProcessTest, isEndedByForceWhenItDoesNotEndWhenAsked) {
    const Child child([] { return ::signal(SIGTERM, SIG_IGN) == SIG_ERR ? -1 : 0; });
    const UniqueFd process = openPidfd(child.pid());
    ASSERT_TRUE(process);
    EXPECT_FALSE(awaitEnd(process.get(), steady_clock::now() + milliseconds(1)));
    endProcess(process.get(), milliseconds(20));
    EXPECT_TRUE(awaitEnd(process.get(), {}));
    siginfo_t ended{};
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &ended, WEXITED | WNOWAIT), 0);
    EXPECT_EQ(ended.si_status, SIGKILL);
    endProcess(process.get(), milliseconds(20));  // It has ended: no error.
    child.reap();
    EXPECT_FALSE(signalProcess(process.get(), SIGKILL));
    EXPECT_EQ(errno, ESRCH);
    EXPECT_FALSE(openPidfd(child.pid()));
}

TEST_F(ProcessTest, holdsALockForWritingOnly) {
    const TemporaryDirectory directory;
    const std::string path = directory.write("pid", "4711\n");
    const auto locked = [&](int command, short type) {
        return [&path, command, type] {
            const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
            struct flock lock {};
            lock.l_type = type;
            return ::fcntl(fd, command, &lock);
        };
    };
    EXPECT_FALSE(lockHolder(path)) << "what is in it does not count";
    {
        const Child child(locked(F_SETLK, F_WRLCK));
        ASSERT_EQ(child.number(), 0);
        EXPECT_EQ(lockHolder(path), child.pid());
        std::filesystem::create_symlink(path, directory.file("link"));
        EXPECT_FALSE(lockHolder(directory.file("link"))) << "a link is not followed";
    }
    EXPECT_FALSE(lockHolder(path)) << "it has ended";
    {
        const Child child(locked(F_SETLK, F_RDLCK));
        ASSERT_EQ(child.number(), 0);
        EXPECT_FALSE(lockHolder(path)) << "everybody who can read it may have such a one";
    }
    const Child child(locked(F_OFD_SETLK, F_WRLCK));
    ASSERT_EQ(child.number(), 0);
    EXPECT_EQ(lockHolder(path), -1);
    EXPECT_FALSE(lockHolder(directory.file("none")));
}

TEST_F(ProcessTest, isConfinedByTheWordOfItsLabel) {
    const TemporaryDirectory proc;
    std::filesystem::create_directories(proc.file("7/attr"));
    const Process process(7, proc.path());
    EXPECT_FALSE(process.isConfined());
    for (const auto& [label, isConfined] : {std::pair{"unconfined\n", false}, {"libvirt-1 (enforce)\n", true}}) {
        proc.write("7/attr/current", label);
        EXPECT_EQ(process.isConfined(), isConfined) << label;
    }
}

TEST(OwnProgram, isTheFirstThatCanBeExecutedSeenFromThisOne) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe"), name = std::filesystem::path(self).filename();
    const TemporaryDirectory directory;
    const std::string text = directory.write("text", "no program");
    EXPECT_EQ(ownProgram({"no-such-program", text, directory.path(), name, "/bin/sh"}), self);
    EXPECT_EQ(ownProgram({"../" + std::filesystem::path(self).parent_path().filename().string() + "/" + name}), self);
    EXPECT_EQ(ownProgram({"no-such-program", "/bin/sh"}), "/bin/sh");
    EXPECT_EQ(ownProgram({"no-such-program"}), "");
}

TEST(AllProcesses, areWhatHasANumberForItsName) {
    const TemporaryDirectory proc;
    for (const char* name : {"1", "22", "self", "3x", "-4", "0", "99999999999999"})
        std::filesystem::create_directory(proc.file(name));
    EXPECT_THAT(allProcesses(proc.path()), UnorderedElementsAre(1, 22));
    EXPECT_THAT(allProcesses(proc.file("none")), IsEmpty());
    EXPECT_THAT(allProcesses(), Contains(::getpid()));
}

TEST(UnixSockets, areReadFromTheKernelsTable) {
    const TemporaryDirectory directory;
    const std::string table = directory.write("unix",
                                              "Num       RefCount Protocol Flags    Type St Inode Path\n"
                                              "0000000000000000: 00000002 00000000 00010000 0001 01 4711 /run/a b.sock\n"
                                              "0000000000000000: 00000003 00000000 00000000 0001 03 4712 @abstract\n"
                                              "0000000000000000: 00000003 00000000 00000000 0001 03 4713\n"
                                              "0000000000000000: 00000003 00000000 00000000 0001 02     0 /run/a b.sock\n");
    const std::vector<UnixSocket> found = unixSockets(table);
    ASSERT_EQ(found.size(), 3U) << "one without a name, and the heading, are none";
    EXPECT_EQ(found[0].path, "/run/a b.sock");
    EXPECT_EQ(found[0].kind, SocketKind::Listening);
    EXPECT_EQ(found[1].path, "@abstract");
    EXPECT_EQ(inodesOf(found, "/run/a b.sock", SocketKind::Listening), std::set<std::uint64_t>{4711});
    EXPECT_EQ(inodesOf(found, "/run/a b.sock", SocketKind::Accepted), std::set<std::uint64_t>{0});
    EXPECT_THAT(unixSockets(directory.file("none")), IsEmpty());
}

TEST(ValueIn, isWhatFollowsTheKeyOnItsLine) {
    const std::string text = "Name:\tU id: 9\nUid:\t 1 2 \nEmpty:\nMax open files   1024   files\n";
    EXPECT_EQ(valueIn(text, "Uid:"), "1 2");
    EXPECT_EQ(valueIn(text, "Empty:"), "");
    EXPECT_EQ(valueIn(text, "Max open files"), "1024   files");
    EXPECT_EQ(valueIn(text, "id:"), "") << "not in the middle of a line";
    EXPECT_EQ(valueIn("", "Uid:"), "");
}

}  // namespace
}  // namespace vh
