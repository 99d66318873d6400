#include "manager/compare/host_facts.h"

#include <elf.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/process/child_process.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/elf_file.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"

namespace vh {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

class HostFactsTest : public MainLoopTest {
 protected:
    /// Waits until a process that was just launched is the program and not our own copy any more, and has mapped it.
    static std::string buildIdWhenThere(const ChildProcess& process, const std::function<bool(const std::string& exe)>& there) {
        std::string id;
        for (int attempt = 0; attempt < 500 && id.empty(); ++attempt) {
            ::usleep(10'000);
            std::error_code gone;
            const std::string exe =
                std::filesystem::read_symlink("/proc/" + std::to_string(process.pid()) + "/exe", gone).filename();
            if (there(exe)) id = buildIdOf(Process(process.pid()).program().file);
        }
        return id;
    }
    static void end(const ChildProcess& process) {
        process.killAll();
        EXPECT_TRUE(loopUntil([&] { return !process.alive(); }));
    }

    TemporaryDirectory proc_;
};

/// An ELF file of one note segment; `notes` is what it has in it.
std::string elfWith(const std::string& notes, std::uint64_t claimedSize) {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    Elf64_Phdr segment{};
    segment.p_type = PT_NOTE;
    segment.p_offset = sizeof(header) + sizeof(segment);
    segment.p_filesz = claimedSize;
    segment.p_align = 4;
    std::string file(reinterpret_cast<const char*>(&header), sizeof(header));
    file.append(reinterpret_cast<const char*>(&segment), sizeof(segment));
    return file + notes;
}

std::string note(std::uint32_t type, const std::string& name, const std::string& content) {
    const std::uint32_t words[] = {static_cast<std::uint32_t>(name.size()), static_cast<std::uint32_t>(content.size()), type};
    std::string bytes(reinterpret_cast<const char*>(words), sizeof(words));
    for (const std::string& part : {name, content}) bytes += part + std::string((4 - part.size() % 4) % 4, '\0');
    return bytes;
}

TEST_F(HostFactsTest, areReadFromProc) {
    proc_.write("cpuinfo", "processor\t: 0\nmodel name\t: Ideal CPU: fast\nflags\t\t: fpu vme hypervisor\n");
    proc_.write("meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
    proc_.write("loadavg", "0.25 0.50 0.75 1/234 5678\n");
    proc_.write("stat", "cpu  10 0 10 70 0 0 0 10 0 0\ncpu0 1\nprocs_running 1\n");
    const std::string release = proc_.write("os-release", "NAME=\"An OS\"\nPRETTY_NAME=\"An OS 12\"\n");
    const auto facts = hostFacts(proc_.path(), release);
    EXPECT_EQ(facts.cpu, "Ideal CPU: fast");
    EXPECT_EQ(facts.memoryBytes, 2U << 20);
    EXPECT_EQ(facts.os, "An OS 12");
    EXPECT_EQ(facts.virtualized, true);
    EXPECT_EQ(facts.loadAverage1, 0.25);
    EXPECT_EQ(facts.stealPercent, 10);
    EXPECT_EQ(facts.runQueue, 0);
    EXPECT_EQ(facts.pageSizeBytes, static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
}

TEST_F(HostFactsTest, areThereOnThisHost) {
    const auto facts = hostFacts();
    EXPECT_GT(facts.cpus, 0U);
    EXPECT_GT(facts.memoryBytes, 0U);
    EXPECT_NE(facts.kernel, "");
    EXPECT_NE(facts.os, "");
    EXPECT_GT(CpuTimes::now().total(), 0U);
}

TEST_F(HostFactsTest, haveTheTimeOfDayWithMilliseconds) {
    EXPECT_THAT(utcNow(), MatchesRegex("20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"));
}

TEST_F(HostFactsTest, sayInWhatHostsDifferThatMustNotBeMixed) {
    HostFacts one, other;
    one.kernel = other.kernel = "6.1.0";
    one.cpu = other.cpu = "Some CPU";
    one.machineId = "12ab";
    EXPECT_EQ(differenceOf(one, other), "") << "of an older file nobody knows the machine";
    other.loadAverage1 = 3;
    other.machineId = "12ab";
    EXPECT_EQ(differenceOf(one, other), "");
    other.kernel = "6.2.0";
    EXPECT_EQ(differenceOf(one, other), "kernel '6.1.0' there, '6.2.0' here");
    other.cpu = "Another";
    other.machineId = "34cd";
    EXPECT_EQ(differenceOf(one, other),
              "kernel '6.1.0' there, '6.2.0' here; CPU 'Some CPU' there, 'Another' here; "
              "machine (by its id) '12ab' there, '34cd' here");
}

TEST_F(HostFactsTest, tellMachinesApartWithoutTheirIds) {
    const std::string id = "0123456789abcdef0123456789abcdef\n", file = proc_.write("machine-id", id);
    const std::string published = hostFacts(proc_.path(), proc_.file("none"), file).machineId;
    EXPECT_THAT(published, MatchesRegex("[0-9a-f]{16}"));
    EXPECT_EQ(id.find(published), id.npos);
    EXPECT_EQ(hostFacts(proc_.path(), proc_.file("none"), file).machineId, published);
    EXPECT_NE(hostFacts(proc_.path(), proc_.file("none"), proc_.write("machine-id", "1" + id)).machineId, published);
    EXPECT_EQ(hostFacts(proc_.path(), proc_.file("none"), proc_.file("nothing")).machineId, "");
}

TEST_F(HostFactsTest, areEmptyWhereProcIsNot) {
    const auto facts = hostFacts(proc_.file("nowhere"), proc_.file("nothing"));
    EXPECT_EQ(facts.cpu, "");
    EXPECT_FALSE(facts.loadAverage1);
    EXPECT_EQ(runnable(proc_.file("nowhere")), 0U);
}

TEST_F(HostFactsTest, countTheWaitForDisksAsIdleAndStealAsNeither) {
    proc_.write("stat", "cpu  1 2 3 40 50 6 7 8 900 900\n");
    const CpuTimes times = CpuTimes::now(proc_.path());
    EXPECT_EQ(times.busy, 19U);
    EXPECT_EQ(times.idle, 90U);
    EXPECT_EQ(times.steal, 8U);
}

TEST_F(HostFactsTest, leaveTheAskerOutOfWhatCanRun) {
    proc_.write("stat", "cpu  1 2 3 4 5 6 7 8 9 10\nprocs_running 4\nprocs_blocked 9\n");
    EXPECT_EQ(runnable(proc_.path()), 3U);
}

TEST_F(HostFactsTest, doNotCallAnIdleHostBusy) {
    EXPECT_EQ(tooBusy({0, 0, 0}, {10, 88, 2}, {0, 1, 0, 5, 0}, 5, 2), std::nullopt);
    EXPECT_EQ(tooBusy({0, 0, 0}, {0, 0, 0}, {}, 5, 2), std::nullopt);
}

TEST_F(HostFactsTest, sayWhatMakesAHostBusy) {
    EXPECT_THAT(tooBusy({0, 0, 0}, {10, 80, 10}, {}, 5, 2).value_or(""), HasSubstr("took 10.0 % of its CPU time away"));
    EXPECT_THAT(tooBusy({0, 0, 0}, {60, 40, 0}, {}, 5, 2).value_or(""), HasSubstr("other processes used 60.0 %"));
    EXPECT_THAT(tooBusy({0, 0, 0}, {10, 90, 0}, {3, 0, 3}, 5, 2).value_or(""), HasSubstr("3 other tasks wanted to run"));
}

TEST_F(HostFactsTest, takeNoHarmFromCountersThatGoBack) {
    EXPECT_EQ(stealPercent({10, 10, 10}, {20, 10, 9}), 0);
    EXPECT_EQ(busyPercent({10, 10, 10}, {9, 20, 10}), 0);
}

TEST_F(HostFactsTest, haveTheBuildIdOfAFile) {
    const std::string notes = note(1, std::string("GNU\0", 4), "other") + note(3, std::string("XYZ\0", 4), "nope") +
                              note(3, std::string("GNU\0", 4), "\x01\xab\xff");
    EXPECT_EQ(buildIdOf(proc_.write("elf", elfWith(notes, notes.size()))), "01abff");
}

TEST_F(HostFactsTest, haveNoBuildIdOfABadFile) {
    const std::string good = note(3, std::string("GNU\0", 4), "\x01\xab\xff");
    EXPECT_EQ(buildIdOf(proc_.file("nothing")), "");
    EXPECT_EQ(buildIdOf(proc_.path()), "") << "a directory";
    EXPECT_EQ(buildIdOf("/dev/zero"), "");
    EXPECT_EQ(buildIdOf(proc_.write("empty", "")), "");
    EXPECT_EQ(buildIdOf(proc_.write("script", "#!/bin/sh\nexec true\n")), "");
    EXPECT_EQ(buildIdOf(proc_.write("larger", elfWith(good, good.size() + 1))), "") << "the segment ends after the file";
    EXPECT_EQ(buildIdOf(proc_.write("huge", elfWith(good, ~0ULL))), "");
    std::string claims = good;
    claims[4] = '\x7f';
    EXPECT_EQ(buildIdOf(proc_.write("claims", elfWith(claims, claims.size()))), "") << "the note is longer than its segment";
    claims = good;
    for (int i = 0; i < 4; ++i) claims[static_cast<std::size_t>(i)] = '\xff';
    EXPECT_EQ(buildIdOf(proc_.write("name", elfWith(claims, claims.size()))), "");
    const std::string whole = elfWith(good, good.size());
    for (std::size_t length = 0; length < whole.size() - 1; ++length)
        EXPECT_EQ(buildIdOf(proc_.write("cut", whole.substr(0, length))), "") << length;
}

TEST_F(HostFactsTest, haveTheBuildIdOfAProcess) {
    EXPECT_EQ(buildIdOf(Process(::getpid()).program().file), buildIdOf("/proc/self/exe"));
    EXPECT_EQ(buildIdOf(Process(0).program().file), "");
}

/// The program interpreter that a file names.
std::string loaderOf(const std::string& path) {
    const std::string bytes = readFile(path);
    const std::size_t at = bytes.find("/lib");
    const std::size_t end = bytes.find('\0', at);
    const std::string found = at == std::string::npos ? "" : bytes.substr(at, end - at);
    return found.find("/ld-") == std::string::npos ? "" : found;
}

TEST_F(HostFactsTest, haveTheBuildIdOfAProgramThatALoaderStarted) {
    const std::string program = "/bin/sleep", loader = loaderOf(program);
    if (loader.empty()) GTEST_SKIP() << "'" << program << "' names no dynamic loader here";
    const ChildProcess child = ChildProcess::launch({.argv = {loader, program, "60"}});
    const std::string id = buildIdWhenThere(child, [](const std::string& exe) { return exe.starts_with("ld-"); });
    end(child);
    EXPECT_EQ(id, buildIdOf(program));
    EXPECT_THAT(id, MatchesRegex("[0-9a-f]{40}"));
}

TEST_F(HostFactsTest, haveTheBuildIdOfARealVmm) {
    const char* binary = std::getenv("VH_QEMU_OLD");
    if (!binary) GTEST_SKIP() << "VH_QEMU_OLD is not set: name a QEMU binary there (scripts/setup installs some)";
    const ChildProcess child =
        ChildProcess::launch({.argv = {binary, "-machine", "none", "-display", "none", "-S", "-nodefaults", "-monitor", "none"}});
    const std::string id =
        buildIdWhenThere(child, [](const std::string& exe) { return exe.starts_with("ld-") || exe.starts_with("qemu"); });
    end(child);
    EXPECT_THAT(id, MatchesRegex("[0-9a-f]{40}"));
    EXPECT_NE(id, buildIdOf("/proc/self/exe"));
}

}  // namespace
}  // namespace vh
