// Where the manager keeps what it knows of a running VM, on disk: it survives the manager.
//
//     RUNTIME_DIRECTORY/
//         manager.sock             virt-handoverd's own socket
//         web1.lock                held (flock) by whoever works on web1, who may say in it what he does; never removed
//         web1/record.json         the VmRecord (vm_record.h), replaced by rename
//         web1/last-report.json    how its last handover ended (last_report.h), for people
//         web1/1/                  one directory a VMM process, numbered from the first start:
//             qmp.sock console.sock heartbeat.sock      made by the manager, inherited by the VMM as listening sockets
//             exec.sock                                 with memory of the VMM's own: its inbox (vmm-shim/exec_inbox.h)
//             vmm.log                                   what the VMM said on its standard error
//             ram-blocks                                its RAM blocks, as a handover has found them (ram_section.h)
//             incoming/                                 the VMM user's own: sockets it makes itself for a handover
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "config/obstacle.h"
#include "manager/record/vm_record.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// The paths of one VM. Throws std::invalid_argument for what is no VM's name: it would lead out of the runtime directory.
class VmDirectory {
 public:
    VmDirectory(const std::string& runtimeDirectory, const std::string& vm);

    std::string path() const { return runtime_ + "/" + vm_; }
    std::string generation(unsigned number) const { return path() + "/" + std::to_string(number); }
    std::string lockFile() const { return runtime_ + "/" + vm_ + ".lock"; }
    const std::string& runtime() const { return runtime_; }
    const std::string& vm() const { return vm_; }

    /// The record, if the VM has one. Throws a Refusal when the file cannot be understood, or is another VM's.
    std::optional<VmRecord> read() const;

    /// Replaces the record: the old one or the new one is on disk at every moment. One that is half done keeps room beside it, in
    /// which it can be settled when the file system has none left. Throws std::system_error.
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
    /// Says that the holder of the lock settles what an earlier manager left half done, which others wait for; or says it no
    /// more.
    static void sayBeingSettled(int lock, bool isSo);
    /// True when that is said. It means nothing when nobody has the lock: who died, or got the lock after him, has not taken it
    /// back yet.
    bool isBeingSettled() const;

 private:
    Obstacle unreadable(const std::string& why) const;

    std::string runtime_;
    std::string vm_;
};

/// The VMs that have a record in a runtime directory, by name.
std::vector<std::string> recordedVms(const std::string& runtimeDirectory);

/// `/run/virt-handover` for root, else below XDG_RUNTIME_DIR.
std::string defaultRuntimeDirectory();

/// The socket that the daemon listens on.
std::string managerSocket(const std::string& runtimeDirectory);

/// The sockets of a VMM for the main migration channel and for the CPR state, in its generation's directory.
std::string mainChannelPath(const std::string& directory);
std::string cprChannelPath(const std::string& directory);
/// The relay's socket for the old VMM's CPR state, in the new VMM's directory.
std::string relayPath(const std::string& directory);

}  // namespace vh
