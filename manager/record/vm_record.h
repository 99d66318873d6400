// What the manager knows of a running VM: a value, which is all that a new manager needs to go on. Where it is kept, and who may
// change it: vm_directory.h.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/vm_definition.h"
#include "manager/record/adopted_vm.h"
#include "vmm-shim/file_identity.h"

namespace vh {

struct NodeOwner {
    uid_t uid = 0;
    gid_t gid = 0;

    bool operator==(const NodeOwner&) const = default;
};

/// A host's PCI device that is passed through to a guest, as it was found at the first start; see passthrough.h.
struct PassedDevice {
    std::string id;
    std::string address;
    VfioInterface interface = VfioInterface::Cdev;  ///< Never Auto.
    unsigned group = 0;                             ///< IOMMU group.
    std::string node;                               ///< `/dev/vfio/devices/vfio0`, or `/dev/vfio/12`.
    bool bound = false;                             ///< Bound by us, to vfio-pci.
    std::optional<NodeOwner> formerOwner;           ///< Owner of the node before the VMM's user was made it.

    bool operator==(const PassedDevice&) const = default;
};
nlohmann::json toJson(const PassedDevice& device);

/// A file that a VMM has guest RAM or an implicit block in.
struct MemoryFile {
    FileIdentity identity;
    std::uint64_t size = 0;  ///< Bytes.

    bool operator==(const MemoryFile&) const = default;
};

/// A descriptor number inside a process, and the file that must be found there.
struct KeptDescriptor {
    int descriptor = 0;
    FileIdentity file;

    bool operator==(const KeptDescriptor&) const = default;
};

/// A VMM process of a VM.
struct VmmRecord {
    unsigned generation = 0;
    pid_t pid = 0;
    std::uint64_t startTime = 0;
    std::string binary;
    std::string kind = "QEMU";  ///< The kind of VMM: QEMU, or what else speaks its monitor's language; see vmmKind().
    std::string version;        ///< Version such as `10.0.2`, as it said itself; empty until it has.
    /// Descriptor number of guest RAM inside the process, when the manager owns it, and the file that must be found there.
    std::optional<int> ramDescriptor;
    FileIdentity ram;
    /// Passed-through devices that the manager opened (passthrough.h), by the resource's name.
    std::map<std::string, KeptDescriptor> vfio;
    /// Descriptor number of its inbox (vmm-shim/exec_inbox.h) inside the process; none in a VMM that is never executed.
    std::optional<int> inboxDescriptor;
    std::map<std::string, FileIdentity> disks;  ///< The files it has open, by the disk's id.

    bool operator==(const VmmRecord&) const = default;
};

struct VmRecord {
    std::string definitionFile;                  ///< File that the definition was read from; absolute.
    std::string definitionText;                  ///< The text that the VM was started with.
    std::string uuid;                            ///< The guest's uuid, also when the definition names none.
    std::string machine;                         ///< The versioned machine type, also when the definition names an alias.
    Accelerator accelerator = Accelerator::Tcg;  ///< Never Auto.
    VmmRecord vmm;
    /// The VMM is being started and was not told to run the guest, or nobody wrote down that it was.
    bool starting = false;
    /// The VMM that a handover is bringing up. While it is there, either may turn out to hold the guest; see recovery.h.
    std::optional<VmmRecord> new_;
    /// The new VMM was told to run the guest, or is just about to be: from here on the old one's state may be out of date.
    bool toldToRun = false;
    /// The VMM that the guest has gone over from, until it has ended for certain: the new one has said that it runs the guest. Or
    /// the new VMM of a handover that was undone, when it does not end.
    std::optional<VmmRecord> retiring;
    std::vector<PassedDevice> passthrough;  ///< The definition's vfio devices, as found at the first start.
    bool standingBy = false;                ///< The handover is prepared and waits for a commit.
    std::optional<AdoptedVm> adopted;       ///< A VM that another manager started; then there is no definition.
    bool guestWasRunning = true;            ///< The guest ran when the handover began; one that somebody paused stays paused.
    std::optional<int> oomScore;            ///< The old VMM's oom_score_adj, for the one that is kept (memory_room.h).
    /// Migration parameters of the old VMM that the handover sets, as they were before.
    std::map<std::string, std::uint64_t> parametersBefore;
    std::vector<MemoryFile> memoryBefore;  ///< Memory files of the old VMM before that handover started a new one.

    /// The definition that the VM was started with, machine type, uuid and accelerator resolved. Of an adopted VM only what a
    /// handover goes by: its name is its title.
    VmDefinition definition() const;

    /// All VMMs that it names.
    std::vector<VmmRecord> vmms() const;

    /// True while a start or a handover is under way, or was left so by a manager that has died; then a recovery is due.
    bool isHalfDone() const { return starting || new_ || retiring; }

    /// Forgets a handover that is over, whichever VMM is kept: nothing of it stays but `retiring`.
    void forgetHandover();
};

/// All but whose record it is, which its directory adds.
nlohmann::json toJson(const VmRecord& record);
/// What toJson() made, in this release or an earlier one. Throws std::exception when it is no record as this release knows it.
VmRecord vmRecordFromJson(const nlohmann::json& value);

/// True when the VMM's process lives, and is that one.
bool isAlive(const VmmRecord& vmm);

/// True when a VM can have this name: those of definitions are shorter (config/README.md), those of other managers' VMs are made
/// of what that manager calls them.
bool isVmName(std::string_view name);
/// The error about a name that is none.
std::string noVmName(std::string_view name);

}  // namespace vh
