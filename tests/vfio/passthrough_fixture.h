// What tests of passed-through devices share. They run on the test host (in-test-host), whose devices these are.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/vm_fixture.h"

namespace vh::test {

inline constexpr const char* disk = "0000:00:10.0";
inline constexpr const char* networkCard = "0000:01:00.0";
inline constexpr const char* sharedDisk = "0000:00:12.0";  ///< In one group with 0000:00:12.1, which the host uses.

/// Of a PCI device; empty without one.
std::string driverOf(const std::string& address);

class Passthrough : public testing::Test {
 protected:
    static void SetUpTestSuite();
    /// Ends the VM, and makes sure that the devices have been given back and nothing is left.
    static void TearDownTestSuite();
    void TearDown() override;

    /// A definition of a VM with these entries under `vfio`; the guest exercises the NVMe disk, and answers pings at 10.77.0.2.
    static std::string define(const std::string& name, const std::string& vfio, const std::string& owner = "manager");
    /// The entries of the disk and the network card, which the manager binds.
    static std::string both(const std::string& more = "");

    /// A verb on the command line, without the daemon or, once startDaemon() has been called, through it.
    Ran run(std::vector<std::string> arguments) const;
    /// The same as another user, with a runtime directory of that user's.
    Ran runAs(uid_t user, std::vector<std::string> arguments) const;
    pid_t spawn(std::vector<std::string> arguments, const std::string& name) const;
    /// An upgrade to the new QEMU by a manager in this process, for a test that stands in the CPR channel: the manager hears
    /// nobody there but the VMM and itself.
    static VerbResult upgradeHere();
    void startDaemon();
    void killDaemon();

    /// Makes sure that the VM `vm` runs, as this definition has it, and that its guest works on the disk. One that an earlier
    /// test left so is taken: booting is what takes longest here. A boot that fails is tried once more: one in some twenty does,
    /// on the emulated processor.
    void haveVm(const std::string& vfio = both(), const std::string& owner = "manager");

    /// What the guest says of itself.
    static std::map<std::string, std::uint64_t> status();
    /// It ticks, goes on with its disk, and has met neither wrong data nor failed I/O.
    void expectGuestIsWell();

    /// Handovers to the same QEMU, one after the other. The guest works on its disk and is pinged meanwhile: nothing is lost, and
    /// no device is reset.
    void handOverAndExpectNothingIsLost(int times, const std::vector<std::string>& options = {});

    /// Has the guest's driver let go of the network card and take it up again, with new interrupts; waits until that is done.
    void rebindNetwork() const;

    /// The manager's word for how the devices are reached: cdev or group.
    std::string interfaceInUse();
    int vmmPid() { return shown().value("pid", 0); }
    nlohmann::json shown();

    static std::unique_ptr<Workspace> workspace;

 private:
    static std::string running_;  ///< The text of the definition that the VM was started with.
    pid_t daemon_ = 0, ping_ = 0;
};

/// How many times the kernel has reset a passed-through device since it was booted.
int resets();

}  // namespace vh::test
