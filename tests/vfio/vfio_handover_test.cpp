// Handovers of a guest that works on a real (emulated, but to vfio real) NVMe disk and network card, through the command line.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include <gmock/gmock.h>

#include "tests/support/cpr_tamperer.h"
#include "tests/vfio/passthrough_fixture.h"
#include "vmm-shim/cpr_state.h"

namespace vh::test {
namespace {

using std::chrono::milliseconds;
using testing::AnyOf;
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
        const std::string command = readIfThere(entry.path() / "cmdline");
        if (command.find("qemu-system") != std::string::npos && command.find(directory) != std::string::npos)
            found.insert(std::stoi(pid));
    }
    return found;
}

TEST_F(Passthrough, losesNothingInHandoversInARow) {
    haveVm();
    EXPECT_EQ(interfaceInUse(), hasIommufd() ? "cdev" : "group");
    struct stat status {};
    ASSERT_EQ(::stat(("/proc/" + std::to_string(vmmPid())).c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 65534U) << "the VMM runs as 'nobody'";
    handOverAndExpectNothingIsLost(static_cast<int>(numberFrom("VH_HANDOVERS", 3)));
}

TEST_F(Passthrough, goesBackAndOnWhenTheNewVmmDies) {
    haveVm();
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
                running = qemus(workspace->path());
                running.erase(old);
                if (running.empty()) return false;
                return readIfThere(workspace->path() + (standby ? "/holder.err" : "/holder.out"))
                           .find(standby ? "holding" : moment) != std::string::npos;
            },
            patience));
        for (const int pid : running) ::kill(pid, SIGKILL);
        const Ran ran = collectProgram(*workspace, holder, "holder");
        EXPECT_EQ(ran.code, 3) << ran.output << ran.error;
        EXPECT_EQ(vmmPid(), old);
        expectGuestIsWell();
        EXPECT_EQ(resets(), resetsBefore);
    }
    handOverAndExpectNothingIsLost(1);
}

TEST_F(Passthrough, outlivesItsManager) {
    haveVm();
    startDaemon();
    for (int i = 0; i < 2; ++i) {
        killDaemon();
        startDaemon();
        handOverAndExpectNothingIsLost(1);
    }
    killDaemon();
    handOverAndExpectNothingIsLost(1);
}

TEST_F(Passthrough, isRefusedToASecondVm) {
    haveVm();
    const Ran second = run({"start", define("other", "  - {id: hd0, address: '" + std::string(disk) + "', bind: true}")});
    EXPECT_NE(second.code, 0);
    EXPECT_THAT(second.error, HasSubstr("'" + std::string(disk) + "' is in use"));
    EXPECT_EQ(driverOf(disk), "vfio-pci") << "the first VM still has it";
    expectGuestIsWell();
}

TEST_F(Passthrough, isRefusedOfADeviceThatIsNotBoundOrNotThere) {
    const Ran unbound = run({"start", define("other", "  - {id: hd0, address: '" + std::string(sharedDisk) + "'}")});
    EXPECT_NE(unbound.code, 0);
    EXPECT_THAT(unbound.error, HasSubstr("has the driver 'nvme', not vfio-pci"));
    const Ran missing = run({"start", define("other", "  - {id: hd0, address: '0000:00:1e.0', bind: true}")});
    EXPECT_NE(missing.code, 0);
    EXPECT_THAT(missing.error, HasSubstr("the host has no PCI device '0000:00:1e.0'"));
}

TEST_F(Passthrough, isRefusedOfAGroupThatTheHostUses) {
    const Ran ran = run({"start", define("other", "  - {id: hd0, address: '" + std::string(sharedDisk) + "', bind: true}")});
    EXPECT_NE(ran.code, 0);
    EXPECT_THAT(ran.error, HasSubstr("IOMMU group"));
    EXPECT_THAT(ran.error, HasSubstr("0000:00:12.1"));
    EXPECT_EQ(driverOf(sharedDisk), "nvme") << "it was not given back";
}

TEST_F(Passthrough, isRefusedToDesignsThatCannotCarryIt) {
    haveVm();
    for (const auto& [design, why] : {std::pair{"manager-owned", "would configure the kernel a second time"},
                                      {"copy", "the state inside a real device cannot be copied"},
                                      {"save-restore", "the state inside a real device cannot be copied"}}) {
        const Ran ran = run({"upgrade", "vm", "--to", newQemu(), "--design", design});
        EXPECT_EQ(ran.code, 2) << design;
        EXPECT_THAT(ran.output, HasSubstr(why));
    }
    const Ran old = run({"upgrade", "vm", "--to", oldQemu()});
    EXPECT_EQ(old.code, 2) << old.output;
    expectGuestIsWell();
}

// QEMU goes on without an interrupt that the guest enables after the CPR state was written.
TEST_F(Passthrough, startsOverWhenTheGuestChangesItsInterruptsInStandby) {
    haveVm();
    startDaemon();
    ASSERT_EQ(run({"upgrade", "vm", "--to", newQemu(), "--standby"}).code, 0);
    rebindNetwork();
    const Ran committed = run({"commit", "vm"});
    EXPECT_EQ(committed.code, 0) << committed.output << committed.error;
    EXPECT_THAT(committed.output, HasSubstr("another one prepared: the old VMM has changed while the new one stood by"));
    handOverAndExpectNothingIsLost(1);
}

TEST_F(Passthrough, startsOverWhenTheGuestChangesItsInterruptsAtTheLastMoment) {
    haveVm();
    std::atomic<int> captures = 0;
    VerbResult result;
    {
        const HandoverTamperer tamperer(shown()["directory"], [&](CprTraffic&) {
            if (++captures == 1) rebindNetwork();
        });
        result = upgradeHere();
    }
    EXPECT_EQ(static_cast<int>(result.code), 0) << result.value.dump(2);
    EXPECT_EQ(captures, 2);
    EXPECT_THAT(result.value.dump(), HasSubstr("the guest changed interrupts of a passed-through device"));
    handOverAndExpectNothingIsLost(1);
}

/// Changes one thing of a state; the descriptors follow their entries.
using Damage = std::function<void(CprState&, std::vector<UniqueFd>&)>;

void removeEntry(const std::string& name, CprState& state, std::vector<UniqueFd>& descriptors) {
    for (std::size_t i = 0; i < state.fds.size(); ++i) {
        if (state.fds[i].name != name) continue;
        state.fds.erase(state.fds.begin() + static_cast<std::ptrdiff_t>(i));
        descriptors.erase(descriptors.begin() + static_cast<std::ptrdiff_t>(i));
        return;
    }
    ADD_FAILURE() << "there is no entry '" << name << "'";
}

TEST_F(Passthrough, byCdevGoesOnWhenItsStateIsDamaged) {
    haveVm();
    const int old = vmmPid(), resetsBefore = resets();
    const std::vector<std::pair<std::string, Damage>> damages{
        {"'hd0' is not in the CPR state", [](CprState& state, auto& fds) { removeEntry("hd0", state, fds); }},
        {"not in the CPR state's list of vfio devices", [](CprState& state, auto&) { state.vfioDevices->pop_back(); }},
        {"would be lost", [](CprState& state, auto& fds) { removeEntry("hd0_interrupt", state, fds); }},
        {"is no eventfd",
         [](CprState& state, auto& fds) {
             for (std::size_t i = 0; i < state.fds.size(); ++i)
                 if (state.fds[i].name == "net0_interrupt") fds[i] = UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
         }},
        {"comes twice", [](CprState& state, auto&) { state.vfioDevices->push_back(state.vfioDevices->front()); }},
    };
    for (const auto& [expected, damage] : damages) {
        SCOPED_TRACE(expected);
        VerbResult result;
        {
            const HandoverTamperer tamperer(shown()["directory"], [&damage = damage](CprTraffic& traffic) {
                CprState state = decodeCprState(traffic.bytes);
                damage(state, traffic.descriptors);
                traffic.bytes = encodeCprState(state).bytes;
            });
            result = upgradeHere();
        }
        EXPECT_EQ(static_cast<int>(result.code), 3) << result.value.dump(2);
        EXPECT_THAT(result.value.value("cause", ""), HasSubstr(expected));
        EXPECT_EQ(vmmPid(), old);
    }
    expectGuestIsWell();
    EXPECT_EQ(resets(), resetsBefore);
    handOverAndExpectNothingIsLost(1);
}

TEST_F(Passthrough, isRefusedToAManagerWithoutRights) {
    const Ran unprivileged =
        runAs(65534, {"start", define("other", "  - {id: hd0, address: '" + std::string(sharedDisk) + "', bind: true}")});
    EXPECT_NE(unprivileged.code, 0);
    EXPECT_THAT(unprivileged.error, AnyOf(HasSubstr("Permission denied"), HasSubstr("must be locked")));
    EXPECT_EQ(driverOf(sharedDisk), "nvme");
}

// The kernel waits for the VMM to let go of it, and the VMM for its guest, which cannot unplug what is on its root bus.
TEST_F(Passthrough, isRefusedWhileTheHostTakesTheDeviceAway) {
    haveVm();
    std::thread remover([] { std::ofstream("/sys/bus/pci/devices/" + std::string(networkCard) + "/remove") << "1"; });
    EXPECT_TRUE(turnUntil([] { return driverOf(networkCard).empty(); }, patience));
    const Ran ran = run({"upgrade", "vm", "--to", newQemu()});
    EXPECT_EQ(ran.code, 2) << ran.output << ran.error;
    EXPECT_THAT(ran.output, HasSubstr("vfio 'net0' (0000:01:00.0) is being taken away by the host"));
    expectGuestIsWell();
    EXPECT_EQ(run({"destroy", "vm"}).code, 0);
    remover.join();
    EXPECT_FALSE(fs::exists("/sys/bus/pci/devices/" + std::string(networkCard)));
    std::ofstream("/sys/bus/pci/rescan") << "1";
    EXPECT_TRUE(turnUntil([] { return driverOf(networkCard) == "virtio-pci"; }, patience));
}

// Last of those without dma-bufs, since it needs a VM of another kind, and the one before has just ended the usual one.
TEST_F(Passthrough, isCarriedByTheVmmsThemselves) {
    haveVm(both(), "vmm");
    handOverAndExpectNothingIsLost(2, {"--design", "vmm-owned"});
}

// On a kernel with CONFIG_VFIO_PCI_DMABUF, QEMU maps BARs for DMA in a way that an iommufd cannot hand over.
TEST_F(Passthrough, withDmaBufsIsRefusedByCdevAndTheGuestGoesOn) {
    haveVm(both(", interface: cdev"));
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
    haveVm();
    EXPECT_EQ(interfaceInUse(), "group");
    handOverAndExpectNothingIsLost(2);
}

}  // namespace
}  // namespace vh::test
