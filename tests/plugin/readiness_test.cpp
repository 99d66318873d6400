#include "plugin/upgrade/readiness.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugin/host/command.h"
#include "plugin/machine/inherited_descriptors.h"
#include "plugin/upgrade/orphans.h"
#include "plugin/upgrade/tested_versions.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/elf_file.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using testing::HasSubstr;

/// What readelf(1), of the compiler's own package, says.
std::string buildIdByReadelf(const std::string& file) {
    const std::string output = run({.argv = {"readelf", "-n", file}}).output, key = "Build ID: ";
    const std::size_t at = output.find(key);
    return at == std::string::npos ? "" : output.substr(at + key.size(), output.find('\n', at) - at - key.size());
}

TEST(BuildId, isWhatReadelfSays) {
    for (const char* file : {"/usr/bin/python3", "/bin/ls"}) EXPECT_EQ(buildIdOf(file), buildIdByReadelf(file)) << file;
    EXPECT_FALSE(buildIdOf("/bin/ls").empty());
}

TEST(BuildId, ofWhatIsNoElfFileIsNone) {
    const TemporaryDirectory scratch;
    const std::string file = scratch.path() + "/file";
    for (const std::string& text :
         {std::string(), std::string("#!/bin/sh\n"), std::string("\177ELF"), std::string(4096, '\177')}) {
        std::ofstream(file) << text;
        EXPECT_EQ(buildIdOf(file), "");
    }
    EXPECT_EQ(buildIdOf(scratch.path() + "/none"), "");
}

TEST(BuildId, ofAnElfFileCutAnywhereIsTheSameOrNone) {
    const TemporaryDirectory scratch;
    const std::string whole = readFile("/bin/ls"), file = scratch.path() + "/cut", id = buildIdOf("/bin/ls");
    for (std::size_t length = 0; length < 2048; length += 3) {
        std::ofstream(file) << whole.substr(0, length);
        EXPECT_THAT(buildIdOf(file), testing::AnyOf("", id)) << length;
    }
}

/// A process of a QEMU whose file may be replaced under it.
class RunningEmulator : public testing::Test {
 protected:
    RunningEmulator() { std::filesystem::copy_file(pretended_, binary_); }
    ~RunningEmulator() override {
        if (const UniqueFd process = openPidfd(pid_)) endProcess(process.get(), std::chrono::milliseconds(1000));
    }

    void start(const std::vector<std::string>& argv) {
        pid_ = startDetached({.program = argv.front(), .argv = argv});  // posix_spawn(3) returns after the exec.
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        // A dynamic loader needs a moment until the program is mapped.
        while (readFile("/proc/" + std::to_string(pid_) + "/maps").find(binary_) == std::string::npos)
            ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    }

    void expectThePretendedOne(bool isReplaced) const {
        const EmulatorIdentity running = runningEmulator(pid_);
        EXPECT_EQ(running.path, binary_);
        EXPECT_EQ(running.version, "10.0.2");
        EXPECT_EQ(running.buildId, buildIdOf(pretended_));
        EXPECT_EQ(running.replaced, isReplaced);
    }

    TemporaryDirectory scratch_;
    const std::string pretended_ = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "pretend-qemu";
    const std::string binary_ = scratch_.path() + "/qemu-system-x86_64";
    pid_t pid_ = 0;
};

TEST_F(RunningEmulator, saysItsVersionAndItsBuildId) {
    start({binary_, "-name", "guest=web1"});
    expectThePretendedOne(false);
}

TEST_F(RunningEmulator, isStillTheOldOneWhenItsFileWasReplaced) {
    start({binary_, "-name", "guest=web1"});
    std::filesystem::remove(binary_);
    std::filesystem::copy_file("/bin/ls", binary_);
    expectThePretendedOne(true);
}

TEST_F(RunningEmulator, isSeenThroughADynamicLoader) {
    if (::geteuid() != 0) GTEST_SKIP() << "/proc/PID/map_files is for root (CAP_CHECKPOINT_RESTORE): run this as root";
    start({"/lib64/ld-linux-x86-64.so.2", binary_, "-name", "guest=web1"});
    std::filesystem::remove(binary_);
    expectThePretendedOne(true);
}

TEST_F(RunningEmulator, ofAScriptIsTheOneThatTheScriptExecuted) {
    const std::string script = scratch_.write("wrapper", "#!/bin/sh\nexec " + binary_ + " \"$@\"\n", 0755);
    start({script, "-name", "guest=web1"});
    EXPECT_EQ(runningEmulator(pid_).path, binary_);
    const EmulatorIdentity installed = installedEmulator(script);
    EXPECT_EQ(installed.version, "10.0.2");
    EXPECT_EQ(installed.buildId, "");
}

TEST(InstalledEmulator, thatDoesNotAnswerAsQemuDoesIsRefused) {
    EXPECT_THROW(installedEmulator("/bin/ls"), std::runtime_error);
    EXPECT_THROW(installedEmulator("/no/such/qemu"), std::system_error);
}

TEST(TestedVersions, onlyWhatWasTestedIsAllowed) {
    EXPECT_FALSE(untested("11.3.0", "10.0.2", "11.1.3"));
    EXPECT_FALSE(untested("11.3.1", "11.1.0", "11.1.9"));
    for (const auto& [libvirt, from, to] : std::vector<std::array<std::string, 3>>{{"11.3.0", "11.1.3", "10.0.2"},
                                                                                   {"11.3.0", "10.1.0", "11.1.3"},
                                                                                   {"12.0.0", "10.0.2", "11.1.3"},
                                                                                   {"1.1.3", "10.0", "11.1"}})
        EXPECT_THAT(untested(libvirt, from, to).value_or(""), HasSubstr("has not been tested")) << libvirt << from << to;
}

TEST(TestedVersions, saysWhatIsLostAfterwards) {
    EXPECT_THAT(cannotAfterwards("11.3.0", "11.1.3").value_or(""), HasSubstr("detach"));
    EXPECT_FALSE(cannotAfterwards("11.3.0", "10.0.2"));
    EXPECT_FALSE(cannotAfterwards("12.1.0", "11.1.3"));
}

TEST(ProcessDescriptors, findsListenersOfAProcess) {
    const TemporaryDirectory scratch;
    const std::string path = scratch.path() + "/a socket";
    const UniqueFd listener = listenUnix(path);
    const ProcessDescriptors found = descriptorsOf(::getpid());
    EXPECT_EQ(found.listeners.at(path), listener.get());
    EXPECT_THROW(descriptorsOf(0), std::system_error);
}

TEST(ShellWords, areThoseOfLibvirtsRendering) {
    EXPECT_THAT(shellWords("LC_ALL=C \\\nA='it'\\''s' /usr/bin/qemu \\\n-name 'guest=web 1,x=\"y\"' \\\n-S ''"),
                testing::ElementsAre("LC_ALL=C", "A=it's", "/usr/bin/qemu", "-name", "guest=web 1,x=\"y\"", "-S", ""));
    EXPECT_THAT(shellWords(""), testing::ElementsAre());
    EXPECT_THROW(shellWords("a 'b"), std::runtime_error);
}

TEST(Command, endsAtItsDeadlineWhateverTheProgramDoes) {
    const CommandResult result = run({.argv = {"sh", "-c", "trap '' TERM; while :; do echo x; done"},
                                      .deadline = std::chrono::milliseconds(100),
                                      .endTimeout = std::chrono::milliseconds(100)});
    EXPECT_TRUE(result.timedOut);
    EXPECT_EQ(result.status, 128 + 9);
}

TEST(Command, saysHowAProgramEndedAndItsLastWord) {
    const CommandResult result = run({.argv = {"sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"}});
    EXPECT_EQ(result.output, "out\n");
    EXPECT_EQ(result.describe(), "exit status 3: last");
    EXPECT_THROW(run({.argv = {"/no/such/program"}}), std::system_error);
}

TEST(Readiness, isToldByBuildIdWhenThereIsOne) {
    Readiness readiness;
    readiness.running = {.path = "/q", .version = "11.1.3", .buildId = "aa"};
    readiness.installed = {.path = "/q", .version = "11.1.3", .buildId = "bb"};
    EXPECT_FALSE(readiness.runsInstalled());
    readiness.installed.buildId = "aa";
    EXPECT_TRUE(readiness.runsInstalled());
    readiness.running.buildId.clear();
    EXPECT_TRUE(readiness.runsInstalled());
    readiness.running.replaced = true;
    EXPECT_FALSE(readiness.runsInstalled());
}

TEST(Readiness, isALineADomainAndBelowItWhatIsInTheWay) {
    Readiness ready;
    ready.domain.name = "web1";
    ready.running = ready.installed = {.path = "/usr/bin/qemu", .version = "11.1.3", .buildId = "aa"};
    ready.notes = {"it is transient"};
    Readiness old = ready;
    old.domain.name = "database";
    old.running = {.path = "/usr/bin/qemu", .version = "10.0.2", .buildId = "bb"};
    old.obstacles = {{"a job is under way", "wait for it"}, {"it is off", ""}};
    old.notes.clear();
    EXPECT_EQ(readinessText({ready, old}),
              "DOMAIN    READY  RUNS          INSTALLED\n"
              "web1      yes    11.1.3        11.1.3 /usr/bin/qemu\n"
              "    note: it is transient\n"
              "database  no     10.0.2 (old)  11.1.3 /usr/bin/qemu\n"
              "    not ready: a job is under way\n"
              "        wait for it\n"
              "    not ready: it is off\n");
}

TEST(Orphan, isToldWithWhatHelps) {
    Orphan orphan;
    orphan.domain.title = "web1";
    orphan.what = "QEMU pid 5 runs it";
    EXPECT_EQ(orphanText(orphan), "domain 'web1': QEMU pid 5 runs it\n    'virt-handover libvirt recover' puts it right\n");
    orphan.remedy = "end it";
    EXPECT_EQ(orphanText(orphan), "domain 'web1': QEMU pid 5 runs it\n    end it\n");
    EXPECT_EQ(toJson(orphan).at("remedy"), "end it");
}

}  // namespace
}  // namespace vh
