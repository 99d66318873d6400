#include "manager/compare/inspection.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/compare/cpu_time.h"
#include "tests/support/main_loop.h"
#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::Contains;

UniqueFd memfd(const std::string& name) {
    return UniqueFd(::memfd_create(name.c_str(), MFD_CLOEXEC));
}

FoundDescriptor entry(const std::string& name, const std::string& createdBy, const std::string& passedBy) {
    return {name, createdBy, passedBy};
}

class Inspection : public MainLoopTest {
 protected:
    /// A stand-in for a VMM that has exactly these descriptors, and waits.
    static ChildProcess holder(const std::vector<int>& descriptors) {
        ChildProcess process = ChildProcess::launch({.argv = {"/bin/sh", "-c", "kill -STOP $$"}, .descriptors = descriptors});
        bool stopped = false;
        for (int attempt = 0; attempt < 500 && !stopped; ++attempt) {
            ::usleep(10'000);
            std::ifstream stat("/proc/" + std::to_string(process.pid()) + "/stat");
            std::string field;
            stat >> field >> field >> field;
            stopped = field == "T";
        }
        EXPECT_TRUE(stopped);
        return process;
    }
    static void waitForSleep(const ChildProcess& process) {
        for (int attempt = 0; attempt < 500; ++attempt) {
            std::error_code gone;
            const std::string exe =
                std::filesystem::read_symlink("/proc/" + std::to_string(process.pid()) + "/exe", gone).filename();
            if (exe == "sleep" || exe == "coreutils" || exe == "busybox") return;
            ::usleep(10'000);
        }
        ADD_FAILURE() << "/bin/sleep did not start";
    }
    void end(const ChildProcess& process) {
        process.killAll();
        EXPECT_TRUE(loopUntil([&] { return !process.alive(); }));
    }

    TemporaryDirectory directory_;
};

TEST_F(Inspection, ofAProcessThatItCannotReadIsAnError) {
    EXPECT_THROW(pageFaults(0), std::system_error);
    EXPECT_THROW(descriptorsOf(::getpid(), 0, {}, ""), std::system_error);
}

TEST_F(Inspection, readsPageFaultsBehindAnyName) {
    const PageFaults faults = parsePageFaults("1234 (a) S 1 (b) x) S 1 2 3 0 -1 4194560 77 88 5 99 0 0\n");
    EXPECT_EQ(faults.minor, 77U);
    EXPECT_EQ(faults.major, 5U);
    EXPECT_THROW(parsePageFaults("1234 (name) S 1 2"), std::runtime_error);
    EXPECT_THROW(parsePageFaults(""), std::runtime_error);
}

TEST_F(Inspection, countsPageFaults) {
    const std::size_t size = 4 << 20;
    const PageFaults before = pageFaults(::getpid());
    void* area = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(area, MAP_FAILED);
    ::madvise(area, size, MADV_NOHUGEPAGE);
    std::memset(area, 1, size);
    EXPECT_GE(pageFaults(::getpid()).minor, before.minor + size / static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
    ::munmap(area, size);
}

TEST_F(Inspection, tellsWhoMadeADescriptor) {
    Resources resources;
    resources.add("qmp", listenUnix(directory_.file("qmp.sock")));
    const std::string image = directory_.write("root.img", "disk");
    resources.add("disk/root/ro", UniqueFd(::open(image.c_str(), O_RDONLY | O_CLOEXEC)));
    resources.add("disk/root/rw", UniqueFd(::open(image.c_str(), O_RDWR | O_CLOEXEC)));
    resources.add("ram0", memfd("vm/ram0"));
    const UniqueFd again(::open(("/proc/self/fd/" + std::to_string(resources.fd("ram0"))).c_str(), O_RDWR | O_CLOEXEC));
    const UniqueFd rom = memfd("pc.bios"), own = memfd("own");
    const UniqueFd passed(::eventfd(0, EFD_CLOEXEC)), made(::eventfd(0, EFD_CLOEXEC));
    std::vector<int> descriptors = resources.descriptors();
    for (const int more : {again.get(), rom.get(), own.get(), passed.get(), made.get()}) descriptors.push_back(more);
    const ChildProcess older = holder({rom.get(), passed.get()}), newer = holder(descriptors);
    resources.release();  // As the manager does.

    const std::vector<FoundDescriptor> expected = {entry("qmp", "manager", "inherited"),
                                                   entry("disk/root/ro", "manager", "inherited"),
                                                   entry("disk/root/rw", "manager", "inherited"),
                                                   entry("ram0", "manager", "inherited"),
                                                   entry("ram0", "manager", "inherited"),
                                                   entry("pc.bios", "old VMM", "relay"),
                                                   entry("memfd:own", "new VMM", ""),
                                                   entry("eventfd", "old VMM", "relay"),
                                                   entry("eventfd", "new VMM", "")};
    EXPECT_EQ(descriptorsOf(older.pid(), newer.pid(), resources.identities(), "relay"), expected);
    end(older);
    end(newer);
}

TEST_F(Inspection, knowsAFileByWhatItIsAndNotByHowItIsOpen) {
    const std::string first = directory_.write("first.img", "disk"), second = directory_.write("second.img", "disk");
    const auto open = [](const std::string& path, int flags) { return UniqueFd(::open(path.c_str(), flags | O_CLOEXEC)); };
    Resources resources;
    resources.add("disk/first/ro", open(first, O_RDONLY));
    resources.add("disk/first/rw", open(first, O_RDWR));
    resources.add("disk/second/ro", open(second, O_RDONLY));
    resources.add("console/log", open(directory_.write("console.log", ""), O_WRONLY | O_APPEND));
    resources.add("inbox", listenUnix(directory_.file("inbox.sock")));
    const UniqueFd stray = open(directory_.write("stray", "x"), O_RDONLY),
                   log = open(directory_.file("stray"), O_WRONLY | O_APPEND);
    const UniqueFd socket = listenUnix(directory_.file("own.sock"));
    const ChildProcess older = holder({});
    const ChildProcess newer =
        holder({stray.get(), resources.fd("disk/second/ro"), resources.fd("inbox"), socket.get(), resources.fd("disk/first/rw"),
                log.get(), resources.fd("console/log"), resources.fd("disk/first/ro")});
    resources.release();
    const std::string strayPath = std::filesystem::canonical(directory_.file("stray"));
    const std::vector<FoundDescriptor> expected = {entry(strayPath, "new VMM", ""),
                                                   entry("disk/second/ro", "manager", "inherited"),
                                                   entry("inbox", "manager", "inherited"),
                                                   entry("socket", "new VMM", ""),
                                                   entry("disk/first/rw", "manager", "inherited"),
                                                   entry(strayPath, "new VMM", ""),
                                                   entry("console/log", "manager", "inherited"),
                                                   entry("disk/first/ro", "manager", "inherited")};
    EXPECT_EQ(descriptorsOf(older.pid(), newer.pid(), resources.identities(), "relay"), expected);
    EXPECT_THAT(descriptorsOf(older.pid(), newer.pid(), resources.identities(), "relay", {directory_.file("stray")}),
                testing::SizeIs(6))
        << "what a shell has left open";
    end(older);
    end(newer);
}

/// dash moves its script to 10 and leaves it open there, without close-on-exec, when the numbers below are taken.
TEST_F(Inspection, tracesWithoutADescriptorOfItsOwnInTheVmm) {
    if (const std::string why = whyNoTrace(); !why.empty()) GTEST_SKIP() << why;
    std::filesystem::permissions(directory_.path(), std::filesystem::perms(0755));
    const TraceWrapper trace(directory_.path(), "/bin/sleep", {});
    std::vector<UniqueFd> descriptors;
    std::vector<int> borrowed;
    for (int i = 0; i < 12; ++i) borrowed.push_back(descriptors.emplace_back(::eventfd(0, EFD_CLOEXEC)).get());
    const ChildProcess vmm = ChildProcess::launch({.argv = {trace.program(), "60"}, .descriptors = borrowed});
    waitForSleep(vmm);
    const auto open = [&vmm] {
        std::vector<std::string> targets;
        for (const OpenFile& file : Process(vmm.pid()).files())
            if (file.number >= ChildProcess::firstDescriptor) targets.push_back(file.target);
        return targets;
    };
    const std::vector<std::string> borrowedOnly(borrowed.size(), "anon_inode:[eventfd]");
    // Its loader opens libraries for a moment.
    for (int i = 0; i < 1'000 && open() != borrowedOnly; ++i) ::usleep(10'000);
    EXPECT_EQ(open(), borrowedOnly);
    end(vmm);
}

TEST_F(Inspection, countsTheMemoryOfAVmmThatIsGoneBeforeTheGuestRuns) {
    const std::size_t size = 8 << 20;
    UniqueFd ram = memfd("ram0"), more = memfd("rehearsed");
    for (const int file : {ram.get(), more.get()}) ASSERT_EQ(::posix_fallocate(file, 0, size), 0);
    const ChildProcess old = holder({ram.get()}), rehearsed = holder({more.get()});
    more.reset();  // Else it would be the manager's as well.
    CloseLook look(Design::VmmExec, old.pid(), "/bin/true", "not tried", directory_.path(), {});
    EXPECT_EQ(look.program(), "/bin/true");
    look.see({State::Launching, 0, old.pid(), 0, false});
    look.see({State::Verifying, 1, old.pid(), rehearsed.pid(), false});
    end(rehearsed);
    look.see({State::Retiring, 2, old.pid(), old.pid(), false});
    const vh::Inspection found = look.found(old.pid());
    EXPECT_GE(found.memoryOldBytes, size);
    EXPECT_GE(found.extraMemoryBytes, size);
    EXPECT_EQ(found.memoryPeakBytes, *found.memoryOldBytes + *found.extraMemoryBytes);
    EXPECT_GE(found.memorySamples, 2U);
    EXPECT_EQ(found.untraced, "not tried");
    EXPECT_EQ(found.ioctls, std::nullopt);
    end(old);
}

TEST(CpuTime, isOfAllThreadsButThoseThatAreLeftOut) {
    const CpuTime before = CpuTime::of(::getpid());
    const double ownBefore = CpuTime::ofThisThreadMs();
    std::atomic<pid_t> worker = 0;
    std::atomic<bool> ends = false;
    std::thread busy([&] {
        worker = static_cast<pid_t>(::syscall(SYS_gettid));
        while (!ends && CpuTime::ofThisThreadMs() < 200) continue;
        while (!ends) ::usleep(1'000);
    });
    CpuTime now;
    for (int attempt = 0; attempt < 3'000 && now.threadsMs[worker] < 200; ++attempt) {
        ::usleep(10'000);
        now = CpuTime::of(::getpid());
    }
    ends = true;
    busy.join();
    EXPECT_GE(now.threadsMs[worker], 200);
    EXPECT_GE(now.totalMs - before.totalMs, 200);
    EXPECT_LT(now.withoutMs({worker}), now.totalMs - 199);
    EXPECT_DOUBLE_EQ(now.withoutMs({}), now.totalMs);
    EXPECT_GE(CpuTime::of(::getpid()).totalMs, now.totalMs) << "also of threads that have ended";
    EXPECT_GE(CpuTime::ofThisThreadMs(), ownBefore);
    for (const pid_t nobody : {0, 4'194'305}) EXPECT_EQ(CpuTime::of(nobody).totalMs, 0) << nobody;
}

TEST_F(Inspection, seesThatANumberWasTakenByAnotherFile) {
    Resources resources;
    resources.add("kvm", UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)));
    resources.add("qmp", listenUnix(directory_.file("qmp.sock")));
    const UniqueFd other(::eventfd(0, EFD_CLOEXEC));
    const ChildProcess older = holder({}), newer = holder({other.get(), resources.fd("qmp")});
    const std::vector<FoundDescriptor> expected = {entry("eventfd", "new VMM", ""), entry("qmp", "manager", "inherited")};
    EXPECT_EQ(descriptorsOf(older.pid(), newer.pid(), resources.identities(), "CPR channel"), expected);
    end(older);
    end(newer);
}

TEST_F(Inspection, doesNotTakeAProcessThatBecameTheNewVmmForItsOwnPredecessor) {
    const UniqueFd rom = memfd("pc.bios"), event(::eventfd(0, EFD_CLOEXEC));
    const ChildProcess vmm = holder({rom.get(), event.get()});
    const std::vector<FoundDescriptor> expected = {entry("pc.bios", "old VMM", "exec"), entry("eventfd", "new VMM", "")};
    EXPECT_EQ(descriptorsOf(vmm.pid(), vmm.pid(), {}, "exec"), expected);
    end(vmm);
}

TEST_F(Inspection, countsIoctlsByClass) {
    const TraceCount count = parseTrace(
        "11 ioctl(9, KVM_GET_API_VERSION, 0) = 12\n"
        "11 ioctl(9, KVM_RUN, 0) = 0\n"
        "11 ioctl(14, VFIO_GROUP_GET_STATUS, 0x7ffd) = 0\n"
        "11 ioctl(14, VFIO_IOMMU_GET_INFO or VFIO_DEVICE_BIND_IOMMUFD or X, 0x7ffd) = 0\n"
        "11 ioctl(15, IOMMU_IOAS_ALLOC, 0x7ffd) = 0\n"
        "11 ioctl(16, VHOST_SET_OWNER, 0) = 0\n"
        "11 ioctl(17, TUNGETIFF, {ifr_name=\"vh0\"}) = 0\n"
        "11 ioctl(17, SIOCGIFHWADDR, {ifr_name=\"vh0\"}) = 0\n"
        "11 ioctl(0, TCGETS, 0x7ffd) = -1 ENOTTY (Inappropriate ioctl for device)\n"
        "11 ioctl(0, SNDCTL_TMR_STOP or TCSETSW, {B38400}) = 0\n"
        "11 ioctl(20, BLKGETSIZE64, [512]) = 0\n");
    EXPECT_EQ(count.ioctls,
              (decltype(count.ioctls){{"KVM", 1}, {"VFIO", 2}, {"iommufd", 1}, {"vhost", 1}, {"tap", 2}, {"other", 3}}));
}

TEST_F(Inspection, knowsIoctlsThatStraceHasNoNameFor) {
    const TraceCount count = parseTrace(
        "11 ioctl(9, _IOC(_IOC_READ|_IOC_WRITE, 0xae, 0xd5, 0x40), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(_IOC_NONE, 0x3b, 0x76, 0), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(_IOC_NONE, 0x3b, 0x80, 0), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(_IOC_WRITE, 0xaf, 0x83, 0x4), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(_IOC_WRITE, 0x54, 0xe3, 0x4), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(_IOC_WRITE, 0x54, 0x20, 0x4), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(_IOC_WRITE, 0x94, 0x20, 0x4), 0x7ffd) = 0\n"
        "11 ioctl(9, _IOC(nonsense\n");
    EXPECT_EQ(count.ioctls,
              (decltype(count.ioctls){{"KVM", 1}, {"VFIO", 1}, {"iommufd", 1}, {"vhost", 1}, {"tap", 1}, {"other", 3}}));
}

TEST_F(Inspection, countsACallThatWasInterruptedInTheTraceOnce) {
    const TraceCount count = parseTrace(
        "11 ioctl(9, KVM_CREATE_VM <unfinished ...>\n"
        "12 memfd_create(\"ram\", MFD_CLOEXEC <unfinished ...>\n"
        "11 <... ioctl resumed>, 0) = 12\n"
        "13 memfd_create(\"test\", MFD_CLOEXEC <unfinished ...>\n"
        "12 <... memfd_create resumed>) = 13\n"
        "13 <... memfd_create resumed>) = 14\n"
        "12 ioctl(9, KVM_CREATE_V");
    EXPECT_EQ(count.ioctls.at("KVM"), 1U) << "and a line of which the end is missing is none yet";
    EXPECT_EQ(count.memfds, 1U);
}

TEST_F(Inspection, countsMemoryFilesThatWereMadeAndKept) {
    const TraceCount count = parseTrace(
        "11 memfd_create(\"test\", MFD_CLOEXEC) = 3\n"
        "11 memfd_create(\"pc.rom\", MFD_CLOEXEC|MFD_ALLOW_SEALING) = 3\n"
        "11 memfd_create(\"huge\", MFD_CLOEXEC|MFD_HUGETLB) = -1 ENOSYS (Function not implemented)\n"
        "memfd_create(\"bios\", MFD_CLOEXEC) = 4\n");
    EXPECT_EQ(count.memfds, 2U);
    EXPECT_EQ(parseTrace("").memfds, 0U);
}

TEST_F(Inspection, tracesEachProcessByItselfAndLeavesItItsPid) {
    if (const std::string why = whyNoTrace(); !why.empty()) GTEST_SKIP() << why;
    std::filesystem::permissions(directory_.path(), std::filesystem::perms(0755));
    const Identity identity = ::geteuid() == 0 ? Identity::of("nobody") : Identity{};
    const TraceWrapper trace(directory_.path(),
                             directory_.write("it's a vmm", "#!/bin/sh\nstty 2>/dev/null\nexec sleep \"$@\"\n", 0755), identity);
    const ChildProcess first = ChildProcess::launch({.argv = {trace.program(), "60"}, .identity = identity});
    const ChildProcess second = ChildProcess::launch({.argv = {trace.program(), "60"}, .identity = identity});
    waitForSleep(first);
    waitForSleep(second);
    for (const ChildProcess* one : {&first, &second}) EXPECT_GE(trace.countOf(one->pid()).ioctls.at("other"), 1U) << one->pid();
    EXPECT_THROW(trace.countOf(::getpid()), std::system_error);
    if (identity.change) {
        struct stat status {};
        ASSERT_EQ(::stat(trace.program().c_str(), &status), 0);
        EXPECT_EQ(status.st_uid, ::geteuid()) << "the VMM's user must not be able to change what others run";
    }
    end(first);
    end(second);
}

TEST_F(Inspection, leavesNoTraceBehind) {
    {
        const TraceWrapper trace(directory_.path(), "/bin/true", {});
        EXPECT_TRUE(std::filesystem::exists(trace.program()));
    }
    EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
    EXPECT_THROW(TraceWrapper(directory_.file("nowhere"), "/bin/true", {}), std::system_error);
}

TEST_F(Inspection, tracesARealVmmInItsSandbox) {
    const char* binary = std::getenv("VH_QEMU_OLD");
    if (!binary) GTEST_SKIP() << "VH_QEMU_OLD is not set: name a QEMU binary there (scripts/setup installs some)";
    if (const std::string why = whyNoTrace(); !why.empty()) GTEST_SKIP() << why;
    std::filesystem::permissions(directory_.path(), std::filesystem::perms(0755));
    const Identity identity = ::geteuid() == 0 ? Identity::of("nobody") : Identity{};
    const TraceWrapper trace(directory_.path(), binary, identity);
    const UniqueFd qmp = listenUnix(directory_.file("qmp.sock"));
    const ChildProcess vmm =
        ChildProcess::launch({.argv = {trace.program(), "-machine", "pc-q35-10.0,memory-backend=ram0", "-m", "64M", "-object",
                                       "memory-backend-memfd,id=ram0,share=on,size=64M", "-display", "none", "-nodefaults", "-S",
                                       "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                                       "-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control"},
                              .descriptors = {qmp.get()},
                              .identity = identity});
    const auto memfds = [&]() -> std::uint64_t {
        try {
            return trace.countOf(vmm.pid()).memfds;
        } catch (const std::system_error&) {
            return 0;  // Not begun.
        }
    };
    for (int attempt = 0; attempt < 2'000 && memfds() == 0; ++attempt) ::usleep(10'000);
    EXPECT_EQ(memfds(), 1U) << "guest RAM";
    EXPECT_THAT(descriptorsOf(vmm.pid(), vmm.pid(), {}, "exec"), Contains(entry("memory-backend-memfd", "old VMM", "exec")));
    end(vmm);
}

}  // namespace
}  // namespace vh
