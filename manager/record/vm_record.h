// What the manager knows of a running VM, on disk: it survives the manager, and is all that a new manager needs to go on.
//
//     RUNTIME_DIRECTORY/
//         manager.sock             virt-handoverd's own socket
//         web1.lock                held (flock) by whoever works on web1, who may say in it what he does; never removed
//         web1/record.json         the VmRecord below, replaced by rename
//         web1/last-report.json    how its last handover ended (last_report.h), for people
//         web1/1/                  one directory a VMM process, numbered from the first start:
//             qmp.sock console.sock heartbeat.sock      made by the manager, inherited by the VMM as listening sockets
//             exec.sock                                 with memory of the VMM's own: its inbox (vmm-shim/exec_inbox.h)
//             vmm.log                                   what the VMM said on its standard error
//             ram-blocks                                its RAM blocks, as a handover has found them (ram_section.h)
//             incoming/                                 the VMM user's own: sockets it makes itself for a handover
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/vm_definition.h"
#include "manager/record/adopted_vm.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/unique_fd.h"

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
    unsigned group = 0;                             ///< Its IOMMU group.
    std::string node;                               ///< `/dev/vfio/devices/vfio0`, or `/dev/vfio/12`.
    bool bound = false;                             ///< By us, to vfio-pci.
    std::optional<NodeOwner> formerOwner;           ///< Of the node, when the VMM's user was made its owner.

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

/// One VMM process of a VM.
struct VmmRecord {
    unsigned generation = 0;
    pid_t pid = 0;
    std::uint64_t startTime = 0;
    std::string binary;
    std::string kind = "QEMU";  ///< Or what else speaks its monitor's language; see vmmKind().
    std::string version;        ///< `10.0.2`, as it said itself; empty until it has.
    /// Where guest RAM is, when the manager owns it: a descriptor number inside the process, and the file that must be found
    /// there.
    std::optional<int> ramDescriptor;
    FileIdentity ram;
    /// Passed-through devices that the manager opened (passthrough.h), by the resource's name.
    std::map<std::string, KeptDescriptor> vfio;
    /// Where its inbox is (vmm-shim/exec_inbox.h), a descriptor number inside the process; none in a VMM that is never executed.
    std::optional<int> inboxDescriptor;
    std::map<std::string, FileIdentity> disks;  ///< The files it has open, by the disk's id.

    bool operator==(const VmmRecord&) const = default;
};

struct VmRecord {
    std::string definitionFile;                  ///< Where the definition was read from; absolute.
    std::string definitionText;                  ///< The text that the VM was started with.
    std::string uuid;                            ///< As the guest has it, also when the definition names none.
    std::string machine;                         ///< The versioned machine type, also when the definition names an alias.
    Accelerator accelerator = Accelerator::Tcg;  ///< Never Auto.
    VmmRecord vmm;
    /// The VMM is being started and was not told to run the guest, or nobody wrote down that it was.
    bool starting = false;
    /// The VMM that a handover is bringing up. While it is there, either may turn out to hold the guest; see recovery.h.
    std::optional<VmmRecord> new_;
    /// That one was told to run the guest, or is just about to be: from here on the old one's state may be out of date.
    bool toldToRun = false;
    /// The VMM that the guest has gone over from, until it has ended for certain: the new one has said that it runs the guest.
    /// Also one that a handover had brought up which was undone, when it does not end.
    std::optional<VmmRecord> retiring;
    std::vector<PassedDevice> passthrough;  ///< The definition's vfio devices, as found at the first start.
    bool standingBy = false;                ///< That handover is prepared and waits for a commit.
    std::optional<AdoptedVm> adopted;       ///< A VM that another manager started; then there is no definition.
    bool guestWasRunning = true;            ///< When that handover began; a guest that somebody paused stays paused.
    std::optional<int> oomScore;            ///< The old VMM's oom_score_adj, for the one that is kept (memory_room.h).
    std::vector<MemoryFile> memoryBefore;   ///< The old VMM's, before that handover started a new one.

    /// The definition that the VM was started with, machine type, uuid and accelerator resolved. Of an adopted VM only what a
    /// handover goes by: its name is its title.
    VmDefinition definition() const;

    /// All that it names.
    std::vector<VmmRecord> vmms() const;

    /// When a handover is over, whichever VMM is kept: nothing of it stays but `retiring`.
    void forgetHandover();
};

/// Whether its process lives, and is that one.
bool isAlive(const VmmRecord& vmm);

/// Whether a VM can have this name: those of definitions are shorter (config/README.md), those of other managers' VMs are made of
/// what that manager calls them.
bool isVmName(std::string_view name);
/// What to say of one that is none.
std::string noVmName(std::string_view name);

/// The paths of one VM. Throws std::invalid_argument for what is no VM's name: it would lead out of the runtime directory.
class VmDirectory {
 public:
    VmDirectory(const std::string& runtimeDirectory, const std::string& vm);

    std::string path() const { return runtime_ + "/" + vm_; }
    std::string generation(unsigned number) const { return path() + "/" + std::to_string(number); }
    std::string lockFile() const { return runtime_ + "/" + vm_ + ".lock"; }
    const std::string& runtime() const { return runtime_; }
    const std::string& vm() const { return vm_; }

    /// The record, if the VM has one. Throws std::runtime_error that says what is wrong and what to do when the file cannot be
    /// understood, or is another VM's.
    std::optional<VmRecord> read() const;

    /// Replaces the record: the old one or the new one is on disk at every moment. Throws std::system_error.
    void write(const VmRecord& record) const;

    /// Makes the directory of a generation, with `incoming/` owned by the given user. What an earlier attempt left there is
    /// removed.
    std::string makeGeneration(unsigned number, uid_t uid, gid_t gid) const;

    /// Lets `incoming/` of a generation be another directory, where a VMM under a security module's rules may make sockets. Not
    /// one below it: after a hotplug libvirt's AppArmor profile has the files right in a domain's directory, and no others
    /// (src/security/virt-aa-helper.c, main, 11.3.0). Sockets that an earlier handover left there are removed.
    void moveIncoming(unsigned number, const std::string& socketDirectory) const;

    void removeGeneration(unsigned number) const;
    /// Removes what managers that were killed have left: all generations but those of the record's processes.
    void removeOtherGenerations(const VmRecord& record) const;
    void remove() const;

    /// An exclusive lock on the VM, or nothing when somebody else holds it. It lasts as long as the descriptor.
    UniqueFd tryLock() const;
    /// Whoever has the lock says that he settles what an earlier manager left half done, which others wait for; or says it no
    /// more.
    static void sayBeingSettled(int lock, bool isSo);
    /// Whether that is said. It means nothing when nobody has the lock: who died, or got the lock after him, has not taken it
    /// back yet.
    bool isBeingSettled() const;

 private:
    std::string unreadable(const std::string& why) const;

    std::string runtime_;
    std::string vm_;
};

/// The VMs that have a record in a runtime directory, by name.
std::vector<std::string> recordedVms(const std::string& runtimeDirectory);

/// `/run/virt-handover` for root, else below XDG_RUNTIME_DIR.
std::string defaultRuntimeDirectory();

/// Where the daemon listens.
std::string managerSocket(const std::string& runtimeDirectory);

/// In a generation's directory: where its VMM listens for the main migration channel and for the CPR state.
std::string mainChannelPath(const std::string& directory);
std::string cprChannelPath(const std::string& directory);
/// Where the relay listens for the old VMM's CPR state, in the new VMM's directory.
std::string relayPath(const std::string& directory);

}  // namespace vh
