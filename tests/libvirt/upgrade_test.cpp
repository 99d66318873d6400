// Upgrades of real libvirt domains: what an operator does, and what may happen to it in the middle.
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "manager/compare/own_network.h"
#include "tests/libvirt/libvirt_fixture.h"
#include "vmm-shim/unique_fd.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds, std::chrono::steady_clock;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* journalFile = "/run/virt-handover/libvirt.d/journal.json";
constexpr seconds longest{240};

std::vector<std::string> toolCommand(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), required("VH_LIBVIRT_TOOL"));
    return arguments;
}

Ran tool(std::vector<std::string> arguments) {
    return runProgram(toolCommand(std::move(arguments)), longest);
}

std::vector<std::string> upgradeOf(const TestDomain& domain) {
    return {"--json", "upgrade", domain.name(), "--to", newQemu(), "--pause-budget", "10s"};
}

/// The only domain of an answer.
json outcomeOf(const Ran& ran) {
    const json answer = json::parse(ran.output, nullptr, false);
    if (!answer.is_object() || !answer.contains("domains") || answer["domains"].size() != 1) {
        ADD_FAILURE() << "exit status " << ran.code << ": " << ran.output << ran.error;
        return {{"outcome", ""}, {"cause", ""}};
    }
    return answer["domains"][0];
}

void expectUpgraded(const Ran& ran) {
    const json outcome = outcomeOf(ran);
    EXPECT_EQ(outcome["outcome"], "upgraded") << ran.output << ran.error;
    EXPECT_EQ(ran.code, 0);
    EXPECT_FALSE(fs::exists(journalFile));
}

bool eventually(const std::function<bool()>& condition, milliseconds deadline = seconds(60)) {
    for (const auto end = steady_clock::now() + deadline; steady_clock::now() < end;) {
        if (condition()) return true;
        std::this_thread::sleep_for(milliseconds(2));
    }
    return condition();
}

/// The tool in the background, killed at the end if it still runs.
class RunningTool {
 public:
    explicit RunningTool(std::vector<std::string> arguments) {
        std::vector<std::string> command = toolCommand(std::move(arguments));
        std::vector<char*> argv;
        for (std::string& word : command) argv.push_back(word.data());
        argv.push_back(nullptr);
        pid_ = ::fork();
        if (pid_ == 0) {
            ::dup2(::open("/tmp/tool.out", O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
            ::execv(argv[0], argv.data());
            ::_exit(127);
        }
    }
    RunningTool(const RunningTool&) = delete;
    ~RunningTool() {
        if (pid_ > 0) kill();
    }
    void kill() {
        ::kill(pid_, SIGKILL);
        wait();
    }
    int wait() {
        int status = 0;
        ::waitpid(std::exchange(pid_, 0), &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    bool ended() const { return ::waitpid(pid_, nullptr, WNOHANG | WNOWAIT) != 0 && fs::exists("/proc/" + std::to_string(pid_)); }

 private:
    pid_t pid_ = 0;
};

std::string phaseNow() {
    const json journal = json::parse(contents(journalFile), nullptr, false);
    return journal.is_object() ? journal.value("/domains/0/phase"_json_pointer, std::string()) : std::string();
}

/// Processes of the tool that stand by for another one.
std::set<pid_t> guardians() {
    std::set<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        const std::string words = contents(entry.path() / "cmdline");
        if (words.find("virt-handover-libvirt") != std::string::npos && words.find("--guard") != std::string::npos)
            found.insert(std::stoi(entry.path().filename()));
    }
    return found;
}

class Upgrade : public testing::TestWithParam<VmmUser> {};
INSTANTIATE_TEST_SUITE_P(As, Upgrade, testing::Values(VmmUser::LibvirtQemu, VmmUser::Root),
                         [](const auto& parameter) { return std::string(name(parameter.param)); });

/// Where an image goes that an earlier test may have left.
std::string freshImage(const std::string& name) {
    const std::string file = "/var/lib/libvirt/images/" + name;
    fs::remove(file);
    return file;
}

std::string snippet(const std::string& name, const std::string& xml) {
    const std::string file = "/tmp/" + name + ".xml";
    std::ofstream(file) << xml;
    return file;
}

/// What an operator may do to a domain, on an adopted one.
void expectVirshWorks(const LibvirtHost& host, const TestDomain& domain) {
    const std::string name = domain.name(), more = freshImage("more.qcow2"),
                      overlay = freshImage("overlay.qcow2");
    runProgram({"/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", more, "16M"}, seconds(20));
    const std::string disk = snippet("disk", "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='" +
                                                 more + "'/><target dev='vdb' bus='virtio'/></disk>");
    const std::string rng =
        snippet("rng", "<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='ua-rng'/></rng>");
    const std::vector<std::vector<std::string>> commands{
        {"list"},
        {"domstate", name},
        {"dominfo", name},
        {"domstats", name},
        {"vcpuinfo", name},
        {"vcpucount", name},
        {"vcpupin", name},
        {"vcpupin", name, "0", "0"},
        {"emulatorpin", name},
        {"iothreadinfo", name},
        {"dommemstat", name},
        {"domblklist", name},
        {"domblkinfo", name, "vda"},
        {"domblkstat", name, "vda"},
        {"domblkerror", name},
        {"domiflist", name},
        {"domid", name},
        {"domuuid", name},
        {"domcontrol", name},
        {"domjobinfo", name},
        {"ttyconsole", name},
        {"suspend", name},
        {"resume", name},
        {"setmem", name, "150M"},
        {"setmem", name, "192M"},
        {"attach-device", name, disk},
        {"domblkstat", name, "vdb"},
        {"blkdeviotune", name, "vdb", "--total-iops-sec", "1000"},
        {"blkdeviotune", name, "vdb", "--total-iops-sec", "0"},
        {"detach-device", name, disk},
        {"attach-device", name, rng},
        {"detach-device", name, rng},
        {"snapshot-create-as", name, "s1", "--disk-only", "--no-metadata", "--diskspec",
         "vda,file=" + overlay},
        {"blockcommit", name, "vda", "--active", "--pivot", "--wait"},
        {"blockjob", name, "vda"},
        {"domdirtyrate-calc", name},
        {"iothreadadd", name, "1"},
        {"iothreaddel", name, "1"},
        {"dump", name, "/tmp/core", "--memory-only"},
        {"dumpxml", name},
        {"qemu-monitor-command", name, "--hmp", "info status"},
        {"send-key", name, "KEY_A"},
        {"numatune", name},
        {"perf", name},
        {"desc", name, "adopted"},
        {"reset", name},
    };
    for (const std::vector<std::string>& command : commands) {
        const Ran ran = host.virsh(command);
        std::string line;
        for (const std::string& word : command) line += " " + word;
        EXPECT_EQ(ran.code, 0) << "virsh" << line << ": " << ran.error;
    }
}

TEST_P(Upgrade, leavesADomainOfWhichAllOfVirshWorks) {
    LibvirtHost host(GetParam());
    const TestDomain domain(host, {.name = "web 1"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t before = domain.vmm();

    EXPECT_EQ(tool({"check", domain.name(), "--to", newQemu()}).code, 0);
    expectUpgraded(tool(upgradeOf(domain)));
    EXPECT_NE(domain.vmm(), before);
    EXPECT_EQ(domain.state(), "running");
    EXPECT_THAT(host.must({"qemu-monitor-command", domain.name(), "--hmp", "info version"}), HasSubstr("11.1"));
    domain.expectOneVmm();
    domain.expectGuestIsWell();
    domain.expectConsoleAnswers("hello");
    expectVirshWorks(host, domain);
    host.restart();
    domain.expectOneVmm();

    expectUpgraded(tool({"--json", "upgrade", domain.name(), "--pause-budget", "10s"}));
    domain.expectOneVmm();
    domain.expectGuestIsWell();
    host.must({"shutdown", domain.name()});
    EXPECT_TRUE(eventually([&] { return domain.state() == "shut off"; }));
    EXPECT_TRUE(vmmsWithFileOpen(domain.disk()).empty());
}

/// Somebody takes connections on a TCP port of this host.
bool isServed(unsigned short port) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

TEST(UpgradeAsDebianHasIt, takesADomainOfEachKind) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    for (const DomainOptions& options :
         {DomainOptions{.name = "o'clock \"now\" & <größe>;$(reboot)"}, DomainOptions{.name = "file", .memory = DomainMemory::File},
          DomainOptions{.name = "cells", .memory = DomainMemory::TwoCells}, DomainOptions{.name = "vnc", .graphics = true},
          DomainOptions{.name = "uefi", .uefi = true}}) {
        SCOPED_TRACE(options.name);
        const TestDomain domain(host, options);
        domain.start();
        domain.expectGuestIsWell();
        for (int round = 0; round < 2; ++round) {
            EXPECT_EQ(isServed(5900), options.graphics);
            expectUpgraded(tool(upgradeOf(domain)));
            domain.expectOneVmm();
            domain.expectGuestIsWell();
        }
        EXPECT_EQ(isServed(5900), options.graphics);
        if (options.graphics) host.must({"screenshot", domain.name(), "/tmp/shot.ppm"});
    }
}

TEST(UpgradeAsDebianHasIt, keepsTheNetworkOfADomainOnABridge) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "bridged", .network = true});
    domain.start();
    domain.expectGuestIsWell();
    Pinger pinger(TestDomain::guestAddress, milliseconds(5), 8);
    pinger.start();
    ASSERT_TRUE(turnUntil([&] { return pinger.answered() > 50; }, seconds(60)));
    for (int round = 0; round < 2; ++round) {
        expectUpgraded(tool(upgradeOf(domain)));
        const unsigned before = pinger.answered();
        EXPECT_TRUE(turnUntil([&] { return pinger.answered() > before + 50; }, seconds(60))) << "the guest's network is dead";
    }
    const PingResult pings = pinger.stop(seconds(2));
    std::cout << pings.lost << " of " << pings.sent << " pings lost in two handovers\n";
    domain.expectGuestIsWell();
}

TEST_P(Upgrade, keepsWhatWasPluggedInWhileItRan) {
    const LibvirtHost host(GetParam());
    // Slots to plug into.
    const std::string root = "    <controller type='pci' model='pcie-root'/>\n";
    const std::string port = "    <controller type='pci' model='pcie-root-port'/>\n";
    const TestDomain domain(
        host,
        {.name = "plugged", .network = true, .moreDevices = root + port + port + port + port + port + port + port + port + port});
    domain.start();
    domain.expectGuestIsWell();
    runProgram({"/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "/var/lib/libvirt/images/b.qcow2", "16M"}, seconds(20));
    const std::string disk = snippet("b",
                                     "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source "
                                     "file='/var/lib/libvirt/images/b.qcow2'/><target dev='vdb' bus='virtio'/></disk>");
    const std::string rng = snippet("r", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>");
    host.must({"attach-device", domain.name(), disk});
    host.must({"attach-device", domain.name(), rng});
    host.must({"attach-interface", domain.name(), "bridge", TestDomain::bridge, "--model", "virtio"});
    host.must({"snapshot-create-as", domain.name(), "s1", "--disk-only", "--no-metadata", "--diskspec",
               "vda,file=" + freshImage("o.qcow2"), "--diskspec", "vdb,snapshot=no"});
    expectUpgraded(tool(upgradeOf(domain)));
    domain.expectGuestIsWell();
    host.must({"blockcommit", domain.name(), "vda", "--active", "--pivot", "--wait"});
    host.must({"detach-device", domain.name(), disk});
    domain.expectGuestIsWell();
}

TEST(UpgradeAsDebianHasIt, isPossibleForADomainThatWasPreparedAndStartedAnew) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "later", .memory = DomainMemory::Anonymous, .ready = false});
    domain.start();
    EXPECT_EQ(tool({"check", domain.name()}).code, 2);
    const Ran shown = tool({"prepare", domain.name()});
    EXPECT_THAT(shown.output, HasSubstr("+  <memoryBacking>")) << shown.error;
    EXPECT_EQ(host.must({"dumpxml", domain.name(), "--inactive"}).find("aux-ram-share"), std::string::npos) << "nobody said yes";
    EXPECT_EQ(tool({"prepare", domain.name(), "--yes"}).code, 0);
    domain.destroy();
    domain.start();
    EXPECT_EQ(tool({"check", domain.name()}).code, 0);
    domain.expectGuestIsWell();
    expectUpgraded(tool({"--json", "upgrade", domain.name(), "--pause-budget", "10s"}));  // To the same QEMU.
    expectUpgraded(tool(upgradeOf(domain)));
    domain.expectGuestIsWell();
    EXPECT_THAT(tool({"import", domain.name()}).output, HasSubstr("machine: pc-q35-10.0"));
}

TEST(UpgradeAsDebianHasIt, leavesAPausedDomainPaused) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "paused"});
    domain.start();
    domain.expectGuestIsWell();
    host.must({"suspend", domain.name()});
    expectUpgraded(tool(upgradeOf(domain)));
    EXPECT_EQ(domain.state(), "paused");
    host.must({"resume", domain.name()});
    domain.expectGuestIsWell();
}

TEST(UpgradeAsDebianHasIt, leavesAnIdleDomainIdle) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "idle"});
    domain.start();
    domain.expectGuestIsWell();
    host.must({"suspend", domain.name()});
    expectUpgraded(tool(upgradeOf(domain)));
    const auto ticks = [&] {
        std::istringstream fields(contents("/proc/" + std::to_string(domain.vmm()) + "/stat"));
        std::string word;
        for (int field = 0; field < 13; ++field) fields >> word;
        long user = 0, system = 0;
        fields >> user >> system;
        return user + system;
    };
    // A terminal that nobody has open hangs up all the time; a main loop that spins on it takes a whole processor.
    const long before = ticks();
    std::this_thread::sleep_for(seconds(3));
    EXPECT_LT(ticks() - before, ::sysconf(_SC_CLK_TCK)) << "its QEMU is busy with nothing";
}

TEST(UpgradeAsDebianHasIt, refusesADomainThatIsNotReadyOrHasAJob) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain plain(host, {.name = "plain", .ready = false}), busy(host, {.name = "busy"});
    plain.start();
    busy.start();
    const pid_t before = plain.vmm(), daemon = host.daemon();
    const Ran refused = tool(upgradeOf(plain));
    EXPECT_EQ(refused.code, 2);
    EXPECT_THAT(outcomeOf(refused)["cause"].get<std::string>(), HasSubstr("aux-ram-share"));
    EXPECT_EQ(plain.vmm(), before);

    host.must({"blockcopy", busy.name(), "vda", "/var/lib/libvirt/images/copy.qcow2", "--transient-job"});
    const Ran job = tool(upgradeOf(busy));
    EXPECT_EQ(job.code, 2);
    EXPECT_THAT(outcomeOf(job)["cause"].get<std::string>(), HasSubstr("block job"));
    EXPECT_EQ(host.daemon(), daemon) << "libvirt was stopped for nothing";
    busy.expectOneVmm();
}

TEST(UpgradeAsDebianHasIt, takesSeveralDomainsInOneAbsenceOfLibvirt) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    std::vector<std::unique_ptr<TestDomain>> domains;
    for (const char* name : {"a", "b", "c"}) domains.push_back(std::make_unique<TestDomain>(host, DomainOptions{.name = name}));
    const TestDomain plain(host, {.name = "plain", .ready = false});
    for (const auto& domain : domains) domain->start();
    plain.start();
    for (const auto& domain : domains) domain->expectGuestIsWell();
    const Ran ran = tool({"--json", "upgrade", "--all", "--to", newQemu(), "--pause-budget", "10s", "--parallel", "2"});
    EXPECT_EQ(ran.code, 0) << ran.output << ran.error;
    std::map<std::string, int> outcomes;
    const json answer = json::parse(ran.output);
    for (const json& domain : answer["domains"]) ++outcomes[domain["outcome"]];
    EXPECT_EQ(outcomes, (std::map<std::string, int>{{"upgraded", 3}, {"skipped", 1}})) << ran.output;
    for (const auto& domain : domains) {
        domain->expectOneVmm();
        domain->expectGuestIsWell();
    }
    plain.expectOneVmm();
}

TEST(UpgradeAsDebianHasIt, isNotDisturbedByALibvirtdThatIsStartedInTheMiddle) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "disturbed"});
    domain.start();
    domain.expectGuestIsWell();
    RunningTool upgrading(upgradeOf(domain));
    ASSERT_TRUE(eventually([] { return phaseNow() == "handing over"; }));
    // Daemonized: one that comes up a moment after the lock-out is the host's libvirtd, and stays.
    for (int attempt = 0; attempt < 5 && phaseNow() == "handing over"; ++attempt)
        runProgram({"/usr/sbin/libvirtd", "--daemon"}, seconds(20));
    EXPECT_EQ(upgrading.wait(), 0) << contents("/tmp/tool.out");
    EXPECT_EQ(domain.state(), "running");
    domain.expectOneVmm();
    domain.expectGuestIsWell();
}

TEST(UpgradeAsDebianHasIt, ofADomainThatEndsByItselfInTheMiddleLeavesItOff) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "ending"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t vmm = domain.vmm();
    RunningTool upgrading(upgradeOf(domain));
    ASSERT_TRUE(eventually([] { return phaseNow() == "handing over"; }));
    ::kill(vmm, SIGTERM);  // To QEMU as to a guest that powers off.
    upgrading.wait();
    if (domain.state() == "running") return domain.expectOneVmm();  // It had been handed over already.
    EXPECT_EQ(domain.state(), "shut off");
    EXPECT_TRUE(vmmsWithFileOpen(domain.disk()).empty()) << "a QEMU that nobody knows of";
    domain.start();
    domain.expectGuestIsWell();
    expectUpgraded(tool(upgradeOf(domain)));
}

TEST(UpgradeAsDebianHasIt, withoutSpaceForItsJournalTouchesNothing) {
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

struct Crash {
    const char* phase;
    bool guardianToo;
};

/// Kills the tool when its journal shows a phase, and with it its guardian, or not.
void crash(VmmUser user, const Crash& crash) {
    SCOPED_TRACE(std::string("killed at phase '") + crash.phase + "'" + (crash.guardianToo ? ", and its guardian, too" : ""));
    LibvirtHost host(user);
    const TestDomain domain(host, {.name = "crashed"});
    domain.start();
    domain.expectGuestIsWell();
    {
        RunningTool upgrading(upgradeOf(domain));
        // Guardians are there a moment after the first phase. A phase that was too short to be seen is over, and the next one
        // does.
        ASSERT_TRUE(eventually([&] {
                        return phaseNow() == crash.phase && (crash.phase == std::string("prepared") || !guardians().empty());
                    }) ||
                    upgrading.ended());
        if (crash.guardianToo)
            for (const pid_t pid : guardians()) ::kill(pid, SIGKILL);
        upgrading.kill();
    }
    const Ran recovered = tool({"--json", "recover", "--wait"});
    EXPECT_EQ(recovered.code, 0) << recovered.output << recovered.error;
    EXPECT_FALSE(fs::exists(journalFile));
    EXPECT_TRUE(guardians().empty() || eventually([] { return guardians().empty(); }));
    EXPECT_EQ(vmmsWithFileOpen(domain.disk()).size(), 1U) << "two QEMUs on one disk, or none";
    if (host.daemon() == 0) eventually([&] { return host.daemon() != 0; }, seconds(10));
    if (host.daemon() == 0) host.start();
    EXPECT_TRUE(eventually([&] { return host.virsh({"version"}).code == 0; })) << "libvirt does not come back";
    EXPECT_EQ(domain.state(), "running");
    domain.expectOneVmm();
    domain.expectGuestIsWell();
    expectUpgraded(tool(upgradeOf(domain)));
    domain.expectOneVmm();
}

TEST(UpgradeAsDebianHasIt, thatIsKilledIsRecoveredByItsGuardian) {
    for (const char* phase : {"prepared", "handing over", "committed", "adopted"}) crash(VmmUser::LibvirtQemu, {phase, false});
}

TEST(UpgradeAsDebianHasIt, thatIsKilledWithItsGuardianIsRecoveredByHand) {
    for (const char* phase : {"prepared", "handing over", "committed", "adopted"}) crash(VmmUser::LibvirtQemu, {phase, true});
}

}  // namespace
}  // namespace vh::test
