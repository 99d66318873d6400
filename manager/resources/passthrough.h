// PCI devices of the host that are passed through to a guest: found in sysfs, bound to vfio-pci where that is asked for, opened
// here, so that the VMM need not, and looked at again before a handover.
//
// Two ways lead to a device, and the kernel's configuration says which there is (QEMU 11.1, Linux 7.3):
//
//     cdev     /dev/vfio/devices/vfioN and /dev/iommu. The manager opens both, the VMM inherits them and opens nothing; a new VMM
//              inherits the same two and is told by CPR what the kernel has been told about them.
//     group    /dev/vfio/GROUP and /dev/vfio/vfio. QEMU takes no descriptors of these, so the VMM's user is given the group's
//              node for as long as the VM runs, and QEMU opens it; a new VMM gets them by CPR.
//
// Nothing of it is kept in the manager's memory: descriptors are taken back from the VMM that has them (pidfd_getfd(2)), so a
// manager that was killed or replaced goes on, and a device whose VMM is gone is free at once.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/obstacle.h"
#include "config/vm_definition.h"
#include "manager/process/child_process.h"
#include "manager/record/vm_record.h"
#include "vmm-shim/cpr_channel.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Directories of the kernel's files; tests make trees of their own.
struct KernelRoots {
    std::string sys = "/sys";
    std::string dev = "/dev";
    std::string proc = "/proc";
};

struct ClaimedDevices {
    std::vector<PassedDevice> devices;  ///< Devices as the definition has them.
    std::vector<std::string> warnings;  ///< Obstacles to handing them over.
    std::vector<UniqueFd> locks;        ///< Keep others from claiming them; to be held until the VMM has them open.
};

/// Finds the definition's devices, binds those that are to be bound, and makes sure that the VMM of this user can have them.
/// Throws std::runtime_error that names the device and the remedy; what was done until then is undone. A device that somebody
/// uses or is about to use is not touched.
ClaimedDevices claimDevices(const VmDefinition& definition, const Identity& identity, const KernelRoots& roots = {});

/// Gives the devices of a VM that has ended back: to their drivers, their nodes to their owners. What cannot be done is returned,
/// a sentence each.
std::vector<std::string> releaseDevices(const std::vector<PassedDevice>& devices, const KernelRoots& roots = {});

/// The name of the iommufd, as QEMU's object and as a resource; and that of a device's resource.
inline constexpr const char* iommufdName = "iommufd0";
std::string vfioResource(const std::string& id);

/// Opens what a VMM is to inherit: an iommufd and each cdev; nothing for devices of a group. Throws std::runtime_error.
std::vector<NamedDescriptor> openDevices(const std::vector<PassedDevice>& devices, const KernelRoots& roots = {});

/// Why these devices of a running VMM cannot be handed over. Looks, and changes nothing.
std::optional<Obstacle> obstacleToDevices(const std::vector<PassedDevice>& devices, pid_t vmm, const KernelRoots& roots = {});

/// The extra argument of a VMM that rules a handover with passed-through devices out, and why.
std::optional<Obstacle> obstacleToPassthrough(const std::vector<std::string>& arguments);

/// The entries that the VMM's CPR state must have for these devices. `kept` are the manager's descriptors by resource name,
/// borrowed.
CprPassthrough cprPassthrough(const std::vector<PassedDevice>& devices, const std::map<std::string, int>& kept,
                              const KernelRoots& roots = {});

/// The kernel's numbers of all eventfds that a process has open. QEMU makes one or two for each interrupt vector that the guest
/// enables, and a new VMM gets those that are in the CPR state, which was written before the guest stopped.
std::set<std::string> eventfdsOf(pid_t pid);

/// Throws a Refusal when the manager may not let a VMM lock this much memory for a device's DMA.
void checkMemoryLock(std::uint64_t bytes);

}  // namespace vh
