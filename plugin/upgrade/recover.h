// The verb `recover`: what an upgrade left that was killed is finished or undone. May be done at any time, and again.
//
// When an upgrade was killed, its guardian recovers; when both were, virt-handover-recover.service or a person does.
//
// Theory of operation. Three processes are at it: the upgrade (or, after its death, whoever recovers), and for each domain a
// manager that it started, which outlives it. Each may be killed, or be slow, at each point. What must not happen is that
// somebody finds out which QEMU has the guest and lets libvirt in, and that a manager hands the guest over after that.
//
//   - Upgrade and recoverer exclude each other by the lock of the journal (flock, so it ends with its holder, and children do not
//     have it). Manager and manager exclude each other by the lock of the VM.
//   - The upgrade: makes the order's file; writes HandingOver; starts the manager. The manager: takes the VM's lock; reads the
//     order; hands over; writes what it does into the VM's record; lets the lock go by ending. Whoever settles: reads
//     HandingOver; removes the order's file; asks the manager's `--recover`, which takes the VM's lock, reads the record, and
//     answers.
//   - So let the manager's lock come before that of `--recover`: then `--recover` waits for it, as long as all of the manager's
//     deadlines together, and sees the handover's end in the record; or, when that manager was killed, recovers by the record.
//     When it takes longer still, the domain counts as lost, and libvirt is let in without its status XML. So it is with a
//     manager that the kernel holds and SIGKILL does not end: it does nothing more, and keeps the lock.
//   - Let it come later, by any time: then the order's file has been removed before, and the manager finds none and refuses.
//     Nobody makes that file again: its name has the process that gave the order. The next upgrade's order is another file, and a
//     manager of this one that comes so late that there is a next one does not find it.
//   - Killed before HandingOver is written, the upgrade has started no manager. A recoverer that is killed has changed nothing
//     that the next one does not do again. An upgrade that lives settles in the same way what its manager did not report, and
//     what it refused: another manager may have been at work.
//
// A domain whose QEMU libvirt does not know for another reason, without a journal, is looked for as well (orphans.h), and settled
// in the same way.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/exit_code.h"
#include "plugin/host/host_paths.h"
#include "plugin/upgrade/lock_out.h"
#include "plugin/upgrade/upgrade_journal.h"

namespace vh {

struct RecoverEnvironment {
    std::string runtimeDirectory;
    HostPaths paths;
    LockOutSettings lockOut;
    UniqueFd inheritedLock;  ///< The guardian's lock on libvirt.
    bool wait = false;       ///< Wait for the end of an upgrade that is under way, instead of refusing.
};

struct RecoveredDomain {
    std::string domain;
    std::string uuid;
    std::string outcome;  ///< `upgraded`, `rolled back`, `ended`, `lost`.
    std::string cause;
    pid_t pid = 0;
    bool oldQemuLeft = false;  ///< Upgraded, but the old QEMU has not ended, not even by SIGKILL.
};

struct RecoverSummary {
    bool nothing = false;  ///< Set when there was nothing to recover.
    std::vector<RecoveredDomain> domains;
    std::vector<std::string> warnings;

    ExitCode exitCode() const;
};

nlohmann::json toJson(const RecoverSummary& summary);
std::string recoverText(const RecoverSummary& summary);

/// Recovers. Throws UpgradeRefused when an upgrade is under way; std::runtime_error when the journal cannot be understood, or
/// libvirt cannot be kept away.
RecoverSummary recover(RecoverEnvironment environment);

/// Starts the guardian of an upgrade: a process beside it that has the lock on libvirt (lock_out.h) and waits for the upgrade's
/// end. When it ended well there is no journal, and the guardian ends; when it was killed, the guardian recovers, and libvirt was
/// never let in. Throws std::system_error.
void startGuardian(const std::string& runtimeDirectory, int lock);

/// Drops a lost domain, by UUID or name, that a person has put in order. Throws UpgradeRefused when there is none.
void forgetLost(const RecoverEnvironment& environment, const std::string& domain);

}  // namespace vh
