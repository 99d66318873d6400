// Upgrades of real libvirt domains: what an operator does. trouble_test.cpp has what may happen in the middle.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "manager/compare/own_network.h"
#include "tests/libvirt/libvirt_fixture.h"
#include "tests/libvirt/upgrade_fixture.h"
#include "vmm-shim/unique_fd.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds;
using testing::AllOf, testing::HasSubstr;
namespace fs = std::filesystem;

class Upgrade : public testing::TestWithParam<VmmUser> {};
INSTANTIATE_TEST_SUITE_P(As, Upgrade, testing::Values(VmmUser::LibvirtQemu, VmmUser::Root),
                         [](const auto& parameter) { return std::string(name(parameter.param)); });

/// What an operator may do to a domain, on an adopted one.
void expectVirshWorks(const LibvirtHost& host, const TestDomain& domain) {
    const std::string name = domain.name(), overlay = freshImage("overlay.qcow2"), disk = diskToPlugIn("more.qcow2");
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
        {"snapshot-create-as", name, "s1", "--disk-only", "--no-metadata", "--diskspec", "vda,file=" + overlay},
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
    const TestDomain domain(host, {.name = "web 1", .withLinux = true});
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
         {DomainOptions{.name = "o'clock \"now\" & <größe>;$(reboot)"},
          DomainOptions{.name = "file", .memory = DomainMemory::File},
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
    ASSERT_TRUE(turnUntil([&] { return pinger.answered() > 50; }, patience));
    for (int round = 0; round < 2; ++round) {
        expectUpgraded(tool(upgradeOf(domain)));
        const unsigned before = pinger.answered();
        EXPECT_TRUE(turnUntil([&] { return pinger.answered() > before + 50; }, patience)) << "the guest's network is dead";
    }
    const PingResult pings = pinger.stop(seconds(2));
    std::cout << pings.lost << " of " << pings.sent << " pings lost in two handovers\n";
    domain.expectGuestIsWell();
}

TEST_P(Upgrade, keepsWhatWasPluggedInWhileItRan) {
    const LibvirtHost host(GetParam());
    const TestDomain domain(host, {.name = "plugged", .withLinux = true, .network = true, .moreDevices = roomToPlugIn(9)});
    domain.start();
    domain.expectGuestIsWell();
    const std::string disk = diskToPlugIn("b.qcow2");
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

TEST(UpgradeAsDebianHasIt, keepsWhatLibvirtSetOnTheMonitor) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "set"});
    domain.start();
    domain.expectGuestIsWell();
    host.must({"blkdeviotune", domain.name(), "vda", "--total-iops-sec", "900", "--total-iops-sec-max", "1800",
               "--total-iops-sec-max-length", "5", "--write-bytes-sec", "50000000", "--group-name", "shared"});
    host.must({"dommemstat", domain.name(), "--period", "3", "--live"});
    host.must({"iothreadadd", domain.name(), "1"});
    host.must({"iothreadset", domain.name(), "1", "--poll-max-ns", "5000", "--poll-grow", "3", "--poll-shrink", "4"});
    // Each asks QEMU, not libvirt's own memory.
    const auto settings = [&] {
        return host.must({"blkdeviotune", domain.name(), "vda"}) +
               host.must({"qemu-monitor-command", domain.name(),
                          R"({"execute":"qom-get","arguments":{"path":)"
                          R"("/machine/peripheral/balloon0","property":)"
                          R"("guest-stats-polling-interval"}})"})
                   .substr(0, 11) +
               host.must({"domstats", domain.name(), "--iothread"});
    };
    const std::string before = settings();
    ASSERT_THAT(before,
                AllOf(HasSubstr(": 1800\n"), HasSubstr("shared"), HasSubstr(R"({"return":3)"), HasSubstr("poll-max-ns=5000")));
    for (int round = 0; round < 2; ++round) {
        expectUpgraded(tool(upgradeOf(domain)));
        EXPECT_EQ(settings(), before);
    }
    domain.expectGuestIsWell();
}

std::size_t times(const std::string& text, std::string_view what) {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; ++at) ++count;
    return count;
}

TEST(UpgradeAsDebianHasIt, goesOnWithTheLogsOfSerialPorts) {
    const std::string log = "/var/log/libvirt/qemu/port.log";
    for (const char* handler : {"logd", "file"}) {
        const LibvirtHost host(VmmUser::LibvirtQemu, std::string("stdio_handler = \"") + handler + "\"");
        for (const std::string& serial : {"<serial type='pty'><log file='" + log + "' append='off'/></serial>",
                                          "<serial type='file'><source path='" + log + "'/></serial>"}) {
            SCOPED_TRACE(serial + " by " + handler);
            fs::remove(log);
            const TestDomain domain(host, {.name = "logged", .serial = serial});
            domain.start();
            domain.expectGuestIsWell();
            const auto boots = [&] { return times(readIfThere(log), "guest: ready"); };
            ASSERT_TRUE(eventually([&] { return boots() == 1; }));
            expectUpgraded(tool(upgradeOf(domain)));
            EXPECT_EQ(boots(), 1U) << "what was in the log is lost";
            host.must({"reset", domain.name()});
            EXPECT_TRUE(eventually([&] { return boots() == 2; }, patience)) << "nothing more comes into the log";
        }
    }
}

TEST(UpgradeAsDebianHasIt, refusesAQemuWithTheModulesOfAnotherRelease) {
    const LibvirtHost host(VmmUser::LibvirtQemu);
    const TestDomain domain(host, {.name = "mixed"});
    domain.start();
    domain.expectGuestIsWell();
    // As after an upgrade of one package and not of the other.
    std::string wrapper = readFile(newQemu());
    const std::string modules = "QEMU_MODULE_DIR=$lib/qemu\n", root = "root=${self%/*}/..";
    ASSERT_THAT(wrapper, AllOf(HasSubstr(modules), HasSubstr(root)));
    const std::string cache = fs::path(newQemu()).parent_path().parent_path();
    wrapper.replace(wrapper.find(modules), modules.size(),
                    "QEMU_MODULE_DIR=" + cache + "/roots/qemu-10.0/usr/lib/x86_64-linux-gnu/qemu\n");
    wrapper.replace(wrapper.find(root), root.size(), "root=" + cache);
    const std::string mixed = writeProgram("/opt/qemu-mixed", wrapper);

    const pid_t before = domain.vmm(), daemon = host.daemon();
    const Ran ran = tool({"--json", "upgrade", domain.name(), "--to", mixed, "--pause-budget", "10s"});
    EXPECT_EQ(ran.code, 2) << ran.output << ran.error;
    EXPECT_THAT(ran.output + ran.error, HasSubstr(mixed));
    EXPECT_EQ(domain.vmm(), before);
    EXPECT_EQ(host.daemon(), daemon) << "libvirt was stopped for nothing";
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
    const TestDomain domain(host, {.name = "paused", .withLinux = true});
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
        std::istringstream fields(readIfThere("/proc/" + std::to_string(domain.vmm()) + "/stat"));
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

}  // namespace
}  // namespace vh::test
