// Processes of a VM that are on no record, and what a verb may do with them.
//
// There is one when a manager was killed between starting a VMM and writing it down, when somebody put an older record back, or
// when it is not the process on record that is the VMM. To be on no record is no reason to be ended:
//
//   its monitor says `prelaunch` or `inmigrate`    it never had the guest: it is ended
//   it listens for CPR state                       it has no machine yet: it is ended
//   a process on record answers that monitor       it is a helper that this one has started: it is left alone
//   no answer, a handover was just starting it,    it was told nothing yet: it is ended
//     and the VMM on record runs the guest
//   anything else, or no answer                    it may hold the guest: it is left alone, and the verb is refused
//
// A process that executed another program (design vmm-exec) is on an older record as well, by its pid. What tells is where it
// listens.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "manager/process/event_loop.h"
#include "manager/record/vm_directory.h"
#include "manager/vmm/vmm_process.h"
#include "vmm-shim/proc.h"

namespace vh {

/// A process that is known by its standard output, which is its generation's log, or by the monitor that it listens on: a script
/// may have sent the output elsewhere.
struct StrayVmm {
    pid_t pid = 0;
    std::string directory;  ///< Directory of its generation; empty when that was removed under it.
};

/// Processes of a VM that are on no record; `keep` are the pids on record.
std::vector<StrayVmm> strayVmms(const VmDirectory& directory, const std::set<pid_t>& keep,
                                const std::vector<UnixSocket>& sockets = unixSockets());

/// True when a process is a VMM of this VM: its output is a generation's log, or it listens in one's directory. True, too, for
/// one that has let go of its files, since it is ending. A record says what somebody wrote into it.
bool isVmmOf(const VmDirectory& directory, pid_t pid);

/// The pids of those processes of a record that live.
std::set<pid_t> livePids(const VmRecord& record);

/// The other processes of the session that this one leads: what a VMM's wrapper script has started beside it.
std::vector<ChildProcess> companionsOf(pid_t leader);

/// `pid 4711 ('qemu-system-x86')`.
std::string processText(pid_t pid);

/// Looks at each stray of a VM, one after another.
class StrayCheck {
 public:
    /// Called at the end; `problem` is empty when no process is left that may hold the guest, but for those on record.
    using Done = std::function<void(std::string problem)>;

    /// Looks at the strays of `directory`, which is locked. Calls `done` from the main loop, once.
    StrayCheck(VmDirectory directory, std::optional<VmRecord> record, Done done);

 private:
    std::vector<StrayVmm> found(const std::vector<UnixSocket>& sockets) const;
    /// Says why when a process on record is there by an older one; empty otherwise.
    std::string outOfDate(const std::vector<UnixSocket>& sockets) const;
    void look();
    void take(const StrayVmm& stray);
    void judge(const StrayVmm& stray, const QmpReply& reply);
    void end(pid_t pid);
    /// Looks again for a while before it settles: what speaks against this stray may be over in a moment, since it may be about
    /// to execute the VMM, or to end.
    void laterOr(const StrayVmm& stray, const std::string& problem);
    /// True when a handover was just starting this stray: it writes a new VMM's generation down, starts it, and writes its pid
    /// down before it tells it anything.
    bool wasJustStarted(const StrayVmm& stray) const;
    void endUnlessItMayHoldTheGuest(const StrayVmm& stray, const std::string& problem);
    void finish(std::string problem);

    VmDirectory directory_;
    std::optional<VmRecord> record_;
    Done done_;
    std::set<pid_t> keep_;
    std::set<pid_t> helpers_;
    std::chrono::steady_clock::time_point until_;
    std::unique_ptr<VmmProcess> vmm_;
    ChildProcess ending_;
    EventSource timer_, answer_;
};

}  // namespace vh
