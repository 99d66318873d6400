// What tests of passed-through devices share. They run on the test host (in-test-host), whose devices these are.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/system/vm_fixture.h"

namespace vh::test {

inline constexpr const char* disk = "0000:00:10.0";
inline constexpr const char* networkCard = "0000:01:00.0";
inline constexpr const char* sharedDisk = "0000:00:12.0";  ///< In one group with 0000:00:12.1, which the host uses.

/// Of a PCI device; empty without one.
std::string driverOf(const std::string& address);

class Passthrough : public testing::Test {
 protected:
    void TearDown() override;

    /// A definition of a VM with these entries under `vfio`; the guest exercises the NVMe disk, and answers pings at 10.77.0.2.
    std::string define(const std::string& name, const std::string& vfio) const;
    /// One with the disk and the network card, which the manager binds.
    std::string defineUsual(const std::string& more = "") const;

    /// A verb on the command line, without the daemon or, once startDaemon() has been called, through it.
    Ran run(std::vector<std::string> arguments);
    pid_t spawn(std::vector<std::string> arguments, const std::string& name);
    void startDaemon();
    void killDaemon();

    /// Starts the VM and waits until its guest works on the disk. A boot that fails is tried once more: one in some twenty does, on
    /// the emulated processor.
    void startAndWait(const std::string& definition);

    /// What the guest says of itself.
    std::map<std::string, std::uint64_t> status();
    /// It ticks, goes on with its disk, and has met neither wrong data nor failed I/O.
    void expectGuestIsWell();

    /// Handovers to the same QEMU, one after the other. The guest works on its disk and is pinged meanwhile: nothing is lost, and no
    /// device is reset.
    void handOverAndExpectNothingIsLost(int times);

    /// The manager's word for how the devices are reached: cdev or group.
    std::string interfaceInUse();
    int vmmPid() { return shown().value("pid", 0); }
    nlohmann::json shown();

    Workspace workspace;

 private:
    pid_t daemon_ = 0;
};

/// How many times the kernel has reset a passed-through device since it was booted.
int resets();

}  // namespace vh::test
