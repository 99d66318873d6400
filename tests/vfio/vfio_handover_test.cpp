// Handovers of a guest that works on a real (emulated, but to vfio real) NVMe disk and network card, through the command line.

#include <signal.h>
#include <sys/stat.h>

#include <filesystem>

#include <gmock/gmock.h>

#include "tests/vfio/passthrough_fixture.h"

namespace vh::test {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
namespace fs = std::filesystem;

bool hasIommufd() {
    return fs::exists("/dev/iommu");
}

/// The pids of QEMUs that speak of this VM's directory.
std::set<int> qemus(const std::string& directory) {
    std::set<int> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        const std::string pid = entry.path().filename();
        if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
        const std::string command = contents(entry.path() / "cmdline");
        if (command.find("qemu-system") != std::string::npos && command.find(directory) != std::string::npos)
            found.insert(std::stoi(pid));
    }
    return found;
}

TEST_F(Passthrough, losesNothingInTenHandovers) {
    startAndWait(defineUsual());
    EXPECT_EQ(interfaceInUse(), hasIommufd() ? "cdev" : "group");
    struct stat status {};
    ASSERT_EQ(::stat(("/proc/" + std::to_string(vmmPid())).c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 65534U) << "the VMM runs as 'nobody'";
    handOverAndExpectNothingIsLost(10);
    EXPECT_EQ(run({"destroy", "vm"}).code, 0);
    EXPECT_EQ(driverOf(disk), "nvme");
    EXPECT_EQ(driverOf(networkCard), "virtio-pci");
}

TEST_F(Passthrough, goesBackAndOnWhenTheNewVmmDies) {
    startAndWait(defineUsual());
    const int old = vmmPid(), resetsBefore = resets();
    // Killed when it has the devices' descriptors, at two moments: while it waits for its state, and while it is being set up.
    for (const char* moment : {"standing by", "exchanging"}) {
        SCOPED_TRACE(moment);
        const bool standby = std::string(moment) == "standing by";
        std::vector<std::string> arguments{"upgrade", "vm", "--to", newQemu()};
        if (standby) arguments.emplace_back("--standby");
        const pid_t holder = spawn(arguments, "holder");
        std::set<int> running;
        ASSERT_TRUE(turnUntil(
            [&] {
                running = qemus(workspace.path());
                running.erase(old);
                if (running.empty()) return false;
                return contents(workspace.path() + (standby ? "/holder.err" : "/holder.out")).find(standby ? "holding" : moment) !=
                       std::string::npos;
            },
            milliseconds(60'000)));
        for (const int pid : running) ::kill(pid, SIGKILL);
        const Ran ran = collectProgram(workspace, holder, "holder");
        EXPECT_EQ(ran.code, 3) << ran.output << ran.error;
        EXPECT_EQ(vmmPid(), old);
        expectGuestIsWell();
        EXPECT_EQ(resets(), resetsBefore);
    }
    handOverAndExpectNothingIsLost(1);
}

TEST_F(Passthrough, outlivesItsManager) {
    startDaemon();
    startAndWait(defineUsual());
    for (int i = 0; i < 2; ++i) {
        killDaemon();
        startDaemon();
        handOverAndExpectNothingIsLost(1);
    }
    killDaemon();
    handOverAndExpectNothingIsLost(1);
}

TEST_F(Passthrough, isRefusedToASecondVm) {
    const std::string vfio = "  - {id: hd0, address: '" + std::string(disk) + "', bind: true}";
    ASSERT_EQ(run({"start", define("other", vfio)}).code, 0);
    const Ran second = run({"start", define("vm", vfio)});
    EXPECT_NE(second.code, 0);
    EXPECT_THAT(second.error, HasSubstr("'" + std::string(disk) + "' is in use"));
    EXPECT_EQ(run({"show", "other"}).code, 0);
    EXPECT_EQ(driverOf(disk), "vfio-pci") << "the first VM still has it";
}

TEST_F(Passthrough, isRefusedOfADeviceThatTheHostUses) {
    const Ran unbound = run({"start", define("vm", "  - {id: hd0, address: '" + std::string(disk) + "'}")});
    EXPECT_NE(unbound.code, 0);
    EXPECT_THAT(unbound.error, HasSubstr("has the driver 'nvme', not vfio-pci"));
    const Ran missing = run({"start", define("vm", "  - {id: hd0, address: '0000:00:1e.0', bind: true}")});
    EXPECT_NE(missing.code, 0);
    EXPECT_THAT(missing.error, HasSubstr("the host has no PCI device '0000:00:1e.0'"));
}

TEST_F(Passthrough, isRefusedOfAGroupThatTheHostUses) {
    const Ran ran = run({"start", define("vm", "  - {id: hd0, address: '" + std::string(sharedDisk) + "', bind: true}")});
    EXPECT_NE(ran.code, 0);
    EXPECT_THAT(ran.error, HasSubstr("IOMMU group"));
    EXPECT_THAT(ran.error, HasSubstr("0000:00:12.1"));
    EXPECT_EQ(driverOf(sharedDisk), "nvme") << "it was not given back";
}

// On a kernel with CONFIG_VFIO_PCI_DMABUF, QEMU maps BARs for DMA in a way that an iommufd cannot hand over.
TEST_F(Passthrough, withDmaBufsIsRefusedByCdevAndTheGuestGoesOn) {
    startAndWait(defineUsual(", interface: cdev"));
    const int old = vmmPid(), resetsBefore = resets();
    for (int i = 0; i < 2; ++i) {
        const Ran ran = run({"upgrade", "vm", "--to", newQemu()});
        EXPECT_EQ(ran.code, 2) << ran.output << ran.error;
        EXPECT_THAT(ran.output, HasSubstr("dma-buf"));
        EXPECT_EQ(vmmPid(), old);
        expectGuestIsWell();
    }
    EXPECT_EQ(resets(), resetsBefore);
}

TEST_F(Passthrough, withDmaBufsGoesByItsGroup) {
    startAndWait(defineUsual());
    EXPECT_EQ(interfaceInUse(), "group");
    handOverAndExpectNothingIsLost(2);
}

}  // namespace
}  // namespace vh::test
