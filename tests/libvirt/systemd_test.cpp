// Upgrades where systemd runs libvirt, on the test host: sockets that activate, units that are masked, cgroups, machined,
// AppArmor.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "manager/compare/own_network.h"
#include "tests/libvirt/libvirt_fixture.h"
#include "tests/libvirt/upgrade_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds;
using testing::HasSubstr;
namespace fs = std::filesystem;

Ran systemctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "/usr/bin/systemctl");
    return runProgram(std::move(arguments), patience);
}

/// `masked-runtime`, `disabled`, `enabled`, ...
std::string enablement(const std::string& unit) {
    return systemctl({"is-enabled", unit}).output;
}

std::string cgroupOf(pid_t pid) {
    return readIfThere("/proc/" + std::to_string(pid) + "/cgroup");
}

std::string labelOf(pid_t pid) {
    return readIfThere("/proc/" + std::to_string(pid) + "/attr/current");
}

constexpr const char* units[] = {"libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service"};

void expectLibvirtIsAsBefore() {
    for (const char* unit : units) {
        EXPECT_EQ(enablement(unit), "disabled\n") << unit;
        EXPECT_TRUE(eventually([&] { return systemctl({"is-active", unit}).code == 0; })) << unit << " is not active";
    }
}

std::string machines() {
    return runProgram({"/usr/bin/machinectl", "list", "--no-legend"}, patience).output;
}

/// What AppArmor has denied a domain since the last time. Forgets it. A QEMU that ends would remove its monitor's socket, which
/// is the manager's to remove: that is denied.
std::string denied() {
    std::istringstream log(runProgram({"/usr/bin/dmesg", "--read-clear"}, patience).output);
    std::string denials;
    for (std::string line; std::getline(log, line);)
        if (testing::Matches(testing::ContainsRegex("DENIED.*profile=.libvirt-"))(line) &&
            !testing::Matches(testing::ContainsRegex("operation=.unlink.*/qmp.sock"))(line))
            denials += line + "\n";
    return denials;
}

/// Little to do, since its processor is emulated twice.
constexpr const char* guest = " probe.ram_mib=16 probe.rate_mib_s=1 probe.disk_per_s=5 probe.beat_ms=50";

/// One domain for nearly all tests. No guest is Linux: that costs the host far more time.
class UnderSystemd : public testing::Test {
 protected:
    static void SetUpTestSuite() {
        host_ = std::make_unique<LibvirtHost>();
        domain_ =
            std::make_unique<TestDomain>(*host_, DomainOptions{.name = "unit", .moreDevices = roomToPlugIn(4), .cmdline = guest});
        domain_->start();
        cgroup_ = cgroupOf(domain_->vmm());
        EXPECT_THAT(cgroup_, HasSubstr("/machine.slice/machine-qemu"));
        host_->must({"schedinfo", domain_->name(), "--live", "cpu_shares=77"});
    }
    static void TearDownTestSuite() {
        domain_.reset();
        host_.reset();
    }
    void SetUp() override {
        ASSERT_EQ(domain_->state(), "running") << "an earlier test lost it";
        domain_->expectGuestIsWell();
    }

    /// An upgrade has kept all that systemd and libvirt have set up for the domain, and a disk can be plugged in as `target`.
    static void expectKept(const std::string& target) {
        EXPECT_EQ(cgroupOf(domain_->vmm()), cgroup_);
        EXPECT_EQ(labelOf(domain_->vmm()), "libvirt-" + domain_->uuid() + " (enforce)\n");
        expectLibvirtIsAsBefore();
        domain_->expectOneVmm();
        domain_->expectGuestIsWell();
        // Of what libvirt asks the cgroup, and not QEMU.
        EXPECT_THAT(host_->must({"schedinfo", domain_->name()}), testing::ContainsRegex("cpu_shares *: 77"));
        host_->must({"cpu-stats", domain_->name(), "--total"});
        host_->must({"vcpupin", domain_->name(), "0", "0"});
        EXPECT_THAT(machines(), HasSubstr("unit"));
        // Its profile and its cgroup's rules for devices are changed, for a file that it could not open before.
        host_->must({"attach-device", domain_->name(), diskToPlugIn(target + ".qcow2", target)});
        EXPECT_EQ(denied(), "");
    }

    static std::unique_ptr<LibvirtHost> host_;
    static std::unique_ptr<TestDomain> domain_;
    static std::string cgroup_;
};

std::unique_ptr<LibvirtHost> UnderSystemd::host_;
std::unique_ptr<TestDomain> UnderSystemd::domain_;
std::string UnderSystemd::cgroup_;

TEST_F(UnderSystemd, anUpgradeKeepsUnitsCgroupsAndConfinementAsTheyWere) {
    const pid_t before = domain_->vmm();
    expectUpgraded(tool(upgradeOf(*domain_)));
    EXPECT_NE(domain_->vmm(), before);
    expectKept("vdb");

    // libvirt may execute what is there, its domains only what they know by name.
    const std::string unknown = writeProgram("/usr/bin/qemu-unknown", "#!/bin/sh\nexec " + newQemu() + " \"$@\"\n");
    const pid_t upgraded = domain_->vmm();
    const json refused = outcomeOf(tool({"--json", "upgrade", domain_->name(), "--to", unknown, "--pause-budget", "10s"}));
    EXPECT_EQ(refused["outcome"], "rolled back") << refused.dump(2);
    EXPECT_THAT(refused["remedy"].get<std::string>(), HasSubstr("journalctl -k"));
    EXPECT_NE(denied(), "");
    EXPECT_EQ(domain_->vmm(), upgraded);
    domain_->expectGuestIsWell();
}

/// Has the file open, by how many descriptors.
std::size_t timesOpen(pid_t pid, const std::string& file) {
    std::size_t count = 0;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ignored))
        if (fs::read_symlink(entry.path(), ignored) == file) ++count;
    return count;
}

TEST_F(UnderSystemd, aNetworkThatTheKernelServesGoesOn) {
    const TestDomain networked(*host_, {.name = "net", .network = true, .moreDevices = roomToPlugIn(9), .cmdline = guest});
    networked.start();
    networked.expectGuestIsWell();
    ASSERT_EQ(timesOpen(networked.vmm(), "/dev/vhost-net"), 1U) << "libvirt has QEMU serve the network";
    Pinger pinger(TestDomain::guestAddress, milliseconds(50), 8);
    pinger.start();
    const auto answered = [&](unsigned more) {
        const unsigned before = pinger.answered();
        return turnUntil([&] { return pinger.answered() >= before + more; }, patience);
    };
    ASSERT_TRUE(answered(20)) << "the guest does not answer pings";

    // A QEMU without one of the devices has the tap, stops the guest, and cannot load its state.
    const std::string lacking = writeProgram(fs::path(newQemu()).parent_path() / "qemu-lacking",
                                             R"(#!/bin/bash
arguments=()
all=" $* "
while (($#)); do
    if [[ $all == *' -incoming '* && $1 == -device && $2 == *virtio-balloon* ]]; then shift 2; continue; fi
    arguments+=("$1")
    shift
done
exec )" + newQemu() + R"( "${arguments[@]}"
)");
    const pid_t old = networked.vmm();
    const json rolledBack = outcomeOf(tool({"--json", "upgrade", networked.name(), "--to", lacking, "--pause-budget", "10s"}));
    EXPECT_EQ(rolledBack["outcome"], "rolled back") << rolledBack.dump(2);
    std::cout << "rolled back: " << rolledBack["cause"] << "\n";
    EXPECT_EQ(networked.vmm(), old);
    EXPECT_TRUE(answered(20)) << "the guest's network is dead";

    for (int round = 0; round < 2; ++round) {
        expectUpgraded(tool(upgradeOf(networked)));
        EXPECT_EQ(timesOpen(networked.vmm(), "/dev/vhost-net"), 1U + static_cast<std::size_t>(round));
        EXPECT_TRUE(answered(20)) << "the guest's network is dead";
        if (round == 0) host_->must({"attach-interface", networked.name(), "bridge", TestDomain::bridge, "--model", "virtio"});
    }
    const PingResult pings = pinger.stop(seconds(2));
    std::cout << pings.lost << " of " << pings.sent << " pings lost in two handovers\n";
    EXPECT_EQ(denied(), "");
    networked.expectGuestIsWell();
    domain_->expectGuestIsWell();
}

TEST_F(UnderSystemd, nobodyActivatesLibvirtInTheMiddle) {
    RunningTool upgrading(upgradeOf(*domain_), {{"VH_STOP_AT", "handing over"}}, "VH_STOPPING_TOOL");
    ASSERT_TRUE(upgrading.stands()) << readIfThere("/tmp/tool.err");
    for (const char* unit : units) EXPECT_EQ(enablement(unit), "masked-runtime\n") << unit;
    EXPECT_NE(host_->virsh({"list"}, patience).code, 0);
    EXPECT_NE(systemctl({"start", "libvirtd.socket"}).code, 0);
    EXPECT_NE(systemctl({"start", "libvirtd.service"}).code, 0);
    EXPECT_EQ(host_->daemon(), 0);
    upgrading.goOn();
    expectUpgraded(upgrading.wait());
    expectKept("vdc");
}

/// The unit as it is installed, with the tool of this build.
void installRecovery() {
    std::string unit = readFile(required("VH_RECOVER_UNIT"));
    const std::string key = "ExecStart=";
    const std::size_t begin = unit.find(key) + key.size(), end = unit.find(' ', begin);
    unit.replace(begin, end - begin, required("VH_LIBVIRT_TOOL"));
    unit.insert(unit.find("ExecStart="), "Environment=VH_CLI=" + required("VH_CLI") + "\n");
    std::ofstream("/etc/systemd/system/virt-handover-recover.service") << unit;
    EXPECT_EQ(systemctl({"daemon-reload"}).code, 0);
    EXPECT_EQ(systemctl({"enable", "virt-handover-recover.service"}).code, 0);
}

TEST_F(UnderSystemd, theUnitRecoversAnUpgradeThatWasKilledWithItsGuardian) {
    installRecovery();
    for (const bool unmaskedByHand : {false, true}) {
        SCOPED_TRACE(unmaskedByHand ? "somebody starts libvirt" : "somebody starts the recovery");
        {
            RunningTool upgrading(upgradeOf(*domain_), {{"VH_STOP_AT", "committed"}}, "VH_STOPPING_TOOL");
            ASSERT_TRUE(upgrading.stands()) << readIfThere("/tmp/tool.err");
            for (const pid_t pid : guardians()) endProcess(pid, SIGKILL);
            upgrading.kill();
        }
        EXPECT_EQ(enablement("libvirtd.socket"), "masked-runtime\n");
        if (unmaskedByHand) {
            std::vector<std::string> unmask{"unmask", "--runtime"};
            unmask.insert(unmask.end(), std::begin(units), std::end(units));
            EXPECT_EQ(systemctl(unmask).code, 0);
            EXPECT_EQ(systemctl({"start", "libvirtd.service"}).code, 0);
        } else {
            EXPECT_EQ(systemctl({"start", "virt-handover-recover.service"}).code, 0)
                << systemctl({"status", "--no-pager", "virt-handover-recover.service"}).output;
        }
        EXPECT_TRUE(eventually([&] { return host_->virsh({"version"}).code == 0; }));
        EXPECT_FALSE(fs::exists(journalFile));
        EXPECT_EQ(domain_->state(), "running");
        expectLibvirtIsAsBefore();
        domain_->expectOneVmm();
        domain_->expectGuestIsWell();
    }
}

TEST_F(UnderSystemd, aShutdownEndsTheUnitsOfAnUpgradedDomain) {
    host_->must({"shutdown", domain_->name()});
    EXPECT_TRUE(eventually([&] { return domain_->state() == "shut off"; }));
    EXPECT_TRUE(eventually([&] { return machines().empty(); }));
}

}  // namespace
}  // namespace vh::test
