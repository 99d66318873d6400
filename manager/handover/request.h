// What a handover is asked for, and what an observer of it is told.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "config/vm_definition.h"
#include "manager/record/report.h"
#include "manager/record/vm_record.h"
#include "manager/resources/resources.h"
#include "manager/vmm/heartbeat.h"

namespace vh {

struct HandoverRequest {
    VmRecord record;
    /// The definition that the VM was started with, resolved; its handover block may be the file's of today.
    VmDefinition definition;
    Design design = Design::Relayed;  ///< Of this handover; the definition's own may be another.
    std::string binary;               ///< The new VMM.
    /// A reason to refuse that was found before there was a handover, or empty.
    std::string refusal;
    bool dryRun = false;
    std::vector<std::string> warnings;  ///< Of an earlier attempt, for the report.
    unsigned timesStartedOver = 0;      ///< Because the old VMM had changed under an earlier attempt.
    bool standby = false;               ///< Hold before the guest is stopped, until commit().
    HeartbeatMonitor::Listener heard;   ///< Told every line of the guest probe, for who wants to know more than the report says.
};

/// What an observer is told: the state that begins, before anything is done in it.
struct HandoverProgress {
    State state;
    double atMs;
    pid_t oldPid;
    pid_t newPid;  ///< 0 while there is none.
    bool stopped;  ///< QEMU said that the guest is stopped.
    /// What the new VMM was started with, while the observer is called; none in a process that only asked for the handover.
    const Resources* inherited = nullptr;
};

using HandoverObserver = std::function<void(const HandoverProgress&)>;

}  // namespace vh
