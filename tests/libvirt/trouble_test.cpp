// What may happen in the middle of an upgrade of real libvirt domains: to the tool, to libvirt, to the domain, to the host.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/libvirt/libvirt_fixture.h"
#include "tests/libvirt/upgrade_fixture.h"
#include "tests/support/undying.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds, std::chrono::steady_clock;
using testing::HasSubstr;
namespace fs = std::filesystem;

TEST(UpgradeInTrouble, isNotDisturbedByALibvirtdThatIsStartedInTheMiddle) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "disturbed"});
    domain.start();
    domain.expectGuestIsWell();
    RunningTool upgrading(upgradeOf(domain));
    ASSERT_TRUE(eventually([] { return phaseNow() == "handing over"; }));
    // Daemonized: one that comes up a moment after the lock-out is the host's libvirtd, and stays.
    for (int attempt = 0; attempt < 5 && phaseNow() == "handing over"; ++attempt)
        runProgram({"/usr/sbin/libvirtd", "--daemon"}, patience);
    expectUpgraded(upgrading.wait());
    EXPECT_EQ(domain.state(), "running");
    domain.expectOneVmm();
    domain.expectGuestIsWell();
}

TEST(UpgradeInTrouble, ofADomainThatEndsByItselfInTheMiddleLeavesItOff) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "ending"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t vmm = domain.vmm();
    RunningTool upgrading(upgradeOf(domain));
    ASSERT_TRUE(eventually([] { return phaseNow() == "handing over"; }));
    ::kill(vmm, SIGTERM);  // To QEMU as to a guest that powers off.
    const Ran ran = upgrading.wait();
    const json outcome = outcomeOf(ran);
    if (outcome["outcome"] == "upgraded") {  // It had been handed over already.
        EXPECT_EQ(domain.state(), "running");
        return domain.expectOneVmm();
    }
    EXPECT_EQ(outcome["outcome"], "ended") << ran.output;
    // A libvirtd that was just started answers before it has looked for its VMMs.
    EXPECT_TRUE(eventually([&] { return domain.state() == "shut off"; })) << domain.state();
    EXPECT_EQ(ran.code, 6);
    EXPECT_TRUE(vmmsWithFileOpen(domain.disk()).empty()) << "a QEMU that nobody knows of";
    domain.start();
    domain.expectGuestIsWell();
    expectUpgraded(tool(upgradeOf(domain)));
}

TEST(UpgradeInTrouble, ofADomainThatEndsByItselfOnceItHasBeenHandedOverSaysSo) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "off"});
    domain.start();
    domain.expectGuestIsWell();
    RunningTool upgrading(upgradeOf(domain));
    ASSERT_TRUE(eventually([] { return phaseNow() == "adopted"; }));
    const std::set<pid_t> vmms = vmmsWithFileOpen(domain.disk());
    ASSERT_EQ(vmms.size(), 1U);
    ::kill(*vmms.begin(), SIGTERM);  // To QEMU as to a guest that powers off.
    const Ran ran = upgrading.wait();
    const json outcome = outcomeOf(ran);
    EXPECT_EQ(outcome["outcome"], "ended") << ran.output;
    EXPECT_EQ(outcome["pid"], 0);
    EXPECT_THAT(outcome["cause"].get<std::string>(), HasSubstr("had the guest and ended during the upgrade"));
    EXPECT_EQ(ran.code, 6);
    EXPECT_TRUE(eventually([&] { return domain.state() == "shut off"; })) << domain.state();
    domain.start();
    domain.expectGuestIsWell();
    expectUpgraded(tool(upgradeOf(domain)));
}

TEST(UpgradeInTrouble, withoutSpaceForItsJournalTouchesNothing) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "full"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t vmm = domain.vmm(), daemon = host.daemon();
    fs::create_directories("/run/virt-handover");
    ASSERT_EQ(::mount("tmpfs", "/run/virt-handover", "tmpfs", 0, "size=16k,mode=755"), 0);
    const Ran ran = tool(upgradeOf(domain));
    EXPECT_EQ(ran.code, 2) << ran.output << ran.error;
    EXPECT_THAT(ran.output + ran.error, HasSubstr("No space left on device"));
    EXPECT_EQ(::umount("/run/virt-handover"), 0);
    EXPECT_EQ(domain.vmm(), vmm);
    EXPECT_EQ(host.daemon(), daemon) << "libvirt was stopped for nothing";
    expectUpgraded(tool(upgradeOf(domain)));
}

/// A process that has nothing to do with libvirt, whose pid stands where libvirtd's is expected.
class Bystander {
 public:
    Bystander() : pid_(::fork()) {
        if (pid_ == 0) {
            ::execl("/usr/bin/sleep", "sleep", "1000", nullptr);
            ::_exit(127);
        }
    }
    Bystander(const Bystander&) = delete;
    ~Bystander() {
        EXPECT_EQ(::kill(pid_, 0), 0);
        EXPECT_EQ(::waitpid(pid_, nullptr, WNOHANG), 0) << "a process was ended that has nothing to do with libvirt";
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    std::string pid() const { return std::to_string(pid_); }

 private:
    pid_t pid_;
};

constexpr const char* driverPidFile = "/run/libvirt/qemu/driver.pid";

TEST(UpgradeInTrouble, believesTheLockOnAPidFileAndNotItsContent) {
    LibvirtHost host;
    const TestDomain domain(host, {.name = "stale"});
    domain.start();
    domain.expectGuestIsWell();
    const Bystander bystander;

    // A daemon that was killed has left its pid, which is another process's by now.
    const auto leaveStalePid = [&] {
        host.stop(SIGKILL);
        ASSERT_TRUE(fs::exists(driverPidFile)) << "a killed libvirtd has left no file";
        for (const char* file : {driverPidFile, "/run/libvirtd.pid"}) std::ofstream(file) << bystander.pid() << "\n";
    };
    leaveStalePid();
    host.start();
    expectUpgraded(tool(upgradeOf(domain)));
    domain.expectOneVmm();

    // While a daemon runs, and has the lock.
    std::ofstream(driverPidFile) << bystander.pid() << "\n";
    expectUpgraded(tool(upgradeOf(domain)));
    domain.expectOneVmm();

    // Just before the tool comes to it; somebody else starts libvirt again later.
    RunningTool upgrading(upgradeOf(domain), {{"VH_CLI", managerAfter("kill -KILL $(cat /run/libvirtd.pid)\nsleep 0.2\necho " +
                                                                      bystander.pid() + " >" + driverPidFile)}});
    ASSERT_TRUE(eventually([] { return phaseNow() == "handing over"; }));
    // One that meets the lock-out ends a moment after it has said that all is well.
    ASSERT_TRUE(eventually([&] {
        if (host.daemon() == 0) runProgram({"/usr/sbin/libvirtd", "--daemon"}, patience);
        return host.virsh({"version"}).code == 0;
    }));
    const Ran ran = upgrading.wait();
    expectUpgraded(ran);
    domain.expectOneVmm();
    domain.expectGuestIsWell();
}

TEST(UpgradeInTrouble, killsALibvirtdThatDoesNotEnd) {
    const LibvirtHost host;
    const TestDomain domain(host, {.name = "stopped"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t daemon = host.daemon();
    const auto began = steady_clock::now();
    RunningTool upgrading(upgradeOf(domain), {{"VH_CLI", managerAfter("kill -STOP $(cat /run/libvirtd.pid)")}});
    const Ran ran = upgrading.wait();
    expectUpgraded(ran);
    EXPECT_GE(steady_clock::now() - began, seconds(5)) << "it had no time to end by itself";
    EXPECT_LT(steady_clock::now() - began, seconds(100)) << "it was waited for as if it could still answer";
    EXPECT_FALSE(fs::exists("/proc/" + std::to_string(daemon)));
    EXPECT_NE(host.daemon(), 0) << "libvirt was not started again";
    domain.expectOneVmm();
    domain.expectGuestIsWell();
}

TEST(UpgradeInTrouble, asksForAPersonWhenTheOldQemuDoesNotEnd) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "held"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t old = domain.vmm();
    Undying undying(old);
    const Ran ran = tool(upgradeOf(domain));
    EXPECT_EQ(ran.code, 4) << ran.output << ran.error;
    const json outcome = outcomeOf(ran);
    EXPECT_EQ(outcome["outcome"], "upgraded") << ran.output;
    EXPECT_EQ(outcome["oldQemuLeft"], true);
    EXPECT_THAT(outcome["notes"].dump(), HasSubstr("pid " + std::to_string(old)));
    EXPECT_EQ(domain.state(), "running");
    EXPECT_NE(domain.vmm(), old);
    EXPECT_FALSE(fs::exists(journalFile)) << "libvirt has the domain as it is";
    domain.expectGuestIsWell();
    const pid_t daemon = host.daemon();
    const json again = outcomeOf(tool(upgradeOf(domain)));
    EXPECT_EQ(again["outcome"], "refused");
    EXPECT_THAT(again["cause"].get<std::string>(), HasSubstr("pid " + std::to_string(old)));
    EXPECT_EQ(host.daemon(), daemon) << "libvirt was stopped for nothing";
    undying.release();
    EXPECT_TRUE(eventually([&] { return vmmsWithFileOpen(domain.disk()).size() == 1; }));
    domain.expectOneVmm();
}

struct Crash {
    const char* phase;
    bool guardianToo;
};

/// Kills the tool when the first of two domains has come to a phase, and with it its guardian, or not.
void crash(const Crash& crash) {
    SCOPED_TRACE(std::string("killed at phase '") + crash.phase + "'" + (crash.guardianToo ? ", and its guardian, too" : ""));
    LibvirtHost host;
    const TestDomain one(host, {.name = "one"}), two(host, {.name = "two"});
    const auto both = {&one, &two};
    for (const TestDomain* domain : both) domain->start();
    for (const TestDomain* domain : both) domain->expectGuestIsWell();
    {
        RunningTool upgrading(upgradeOf({"one", "two"}), {{"VH_STOP_AT", crash.phase}}, "VH_STOPPING_TOOL");
        ASSERT_TRUE(upgrading.stands()) << readIfThere("/tmp/tool.out") << readIfThere("/tmp/tool.err");
        EXPECT_THAT(readIfThere(journalFile), HasSubstr(std::string("\"phase\": \"") + crash.phase + "\""));
        // A process that has just been started may not have its name yet.
        EXPECT_TRUE(eventually([&] { return guardians().empty() == (crash.phase == std::string("prepared")); }));
        if (crash.guardianToo)
            for (const pid_t pid : guardians()) endProcess(pid, SIGKILL);
        upgrading.kill();
    }
    const Ran recovered = tool({"--json", "recover", "--wait"});
    EXPECT_EQ(recovered.code, 0) << recovered.output << recovered.error;
    EXPECT_FALSE(fs::exists(journalFile));
    EXPECT_TRUE(eventually([] { return guardians().empty(); }));
    for (const TestDomain* domain : both)
        EXPECT_EQ(vmmsWithFileOpen(domain->disk()).size(), 1U) << "two QEMUs on one disk, or none";
    if (host.daemon() == 0) eventually([&] { return host.daemon() != 0; }, seconds(10));
    if (host.daemon() == 0) host.start();
    EXPECT_TRUE(eventually([&] { return host.virsh({"version"}).code == 0; })) << "libvirt does not come back";
    for (const TestDomain* domain : both) {
        EXPECT_EQ(domain->state(), "running");
        domain->expectOneVmm();
        domain->expectGuestIsWell();
    }
    const Ran again = tool(upgradeOf({"one", "two"}));
    EXPECT_EQ(again.code, 0) << again.output << again.error;
    for (const TestDomain* domain : both) domain->expectOneVmm();
}

/// A file system of its own for what the manager and the plugin keep.
class SmallRuntimeDirectory {
 public:
    SmallRuntimeDirectory() {
        fs::create_directories(path);
        EXPECT_EQ(::mount("tmpfs", path, "tmpfs", 0, "size=512k,mode=755"), 0);
    }
    SmallRuntimeDirectory(const SmallRuntimeDirectory&) = delete;
    ~SmallRuntimeDirectory() { EXPECT_EQ(::umount2(path, MNT_DETACH), 0); }

    static void fill() {
        std::ofstream filling(std::string(path) + "/filling");
        while (filling << std::string(4096, 'x') << std::flush) continue;
    }

 private:
    static constexpr const char* path = "/run/virt-handover";
};

TEST(UpgradeInTrouble, isRecoveredWhereNothingMoreCanBeWritten) {
    LibvirtHost host;
    const SmallRuntimeDirectory directory;
    const TestDomain one(host, {.name = "one"}), two(host, {.name = "two"});
    const auto both = {&one, &two};
    for (const TestDomain* domain : both) domain->start();
    for (const TestDomain* domain : both) domain->expectGuestIsWell();
    {
        RunningTool upgrading(upgradeOf({"one", "two"}), {{"VH_STOP_AT", "committed"}}, "VH_STOPPING_TOOL");
        ASSERT_TRUE(upgrading.stands()) << readIfThere("/tmp/tool.out") << readIfThere("/tmp/tool.err");
        for (const pid_t pid : guardians()) endProcess(pid, SIGKILL);
        upgrading.kill();
    }
    directory.fill();
    const Ran recovered = tool({"--json", "recover", "--wait"});
    EXPECT_EQ(recovered.code, 0) << recovered.output << recovered.error;
    EXPECT_TRUE(eventually([&] { return host.virsh({"version"}).code == 0; })) << "libvirt does not come back";
    for (const TestDomain* domain : both) {
        EXPECT_EQ(domain->state(), "running");
        domain->expectOneVmm();
        domain->expectGuestIsWell();
    }
}

constexpr const char* phases[] = {"prepared", "handing over", "committed", "adopted"};

TEST(UpgradeInTrouble, thatIsKilledIsRecoveredByItsGuardian) {
    for (const char* phase : phases) crash({phase, false});
}

TEST(UpgradeInTrouble, thatIsKilledWithItsGuardianIsRecoveredByHand) {
    for (const char* phase : phases) crash({phase, true});
}

}  // namespace
}  // namespace vh::test
