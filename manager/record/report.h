// The report on a handover: a value, printed for people and for scripts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/design.h"
#include "config/exit_code.h"
#include "manager/record/state.h"
#include "manager/record/vm_record.h"
#include "vmm-shim/ram_block_differences.h"

namespace vh {

/// Summary of a guest's heartbeat since somebody began to listen; see heartbeat.h.
struct HeartbeatSummary {
    std::uint64_t beats = 0;
    std::uint64_t lost = 0;      ///< Numbers that never came, but for those that a connection closed by us may have swallowed.
    std::uint64_t repeated = 0;  ///< Numbers that came again or went back: the guest ran twice.
    double longestGapMs = 0;
    std::optional<double> pauseMs;                ///< Time from the last beat on the first port to the first one on the second.
    std::map<std::string, std::uint64_t> status;  ///< The probe's latest status line: ram_filled, ram_passes, mismatches, ...
    std::vector<std::string> errors;              ///< Errors that the probe reported, the first 20.
};

struct VmmIdentity {
    std::string binary;
    std::string kind;     ///< `QEMU`, or `reference VMM`; empty until it is known.
    std::string version;  ///< Empty until it is known.
    int pid = 0;          ///< 0 while there is no process.
    bool alive = false;   ///< Lives when the handover is over, and was not told to end by it.
};

struct StepTime {
    State state;
    double startMs = 0;  ///< Time since the handover began.
    double durationMs = 0;
};

struct HandoverReport {
    std::string vm;
    std::optional<Design> design;    ///< Absent when it did not come to a handover.
    State outcome = State::Refused;  ///< A final state, or StandingBy while it waits for a commit.
    /// The guest beat on the old VMM and was not heard on the new one, which says that it runs it. Shown as an outcome of its own
    /// in place of Upgraded: a person has to look.
    bool silent = false;
    bool recovery = false;  ///< Made not by the handover's own manager, but by one that settled what that left when it died.
    bool dryRun = false;    ///< Preflight passed and nothing more was asked for; `outcome` says nothing then.
    std::string cause;      ///< Reason why it was not upgraded, or is silent; empty when all is well.
    std::string remedy;     ///< Step for a person to take; empty when the cause says it, or nothing can be done.
    VmmIdentity old;
    VmmIdentity new_;
    std::vector<StepTime> steps;
    /// Time from STOP on the old VMM to RESUME, on whichever VMM it was, by the steady clock (manager/process/event_clock.h). The
    /// guest's CPUs stand still when QEMU says STOP, and go on right after RESUME (system/cpus.c:do_vm_stop and vm_prepare_start,
    /// 11.1). In between: the devices' state goes over, and then comes the manager's part, which is query-status on the new VMM,
    /// the record on disk, the bridges of its taps, and `cont`. With vmm-exec both events are one process's, of the program
    /// before the exec and of the one after it. Known to some 0.1 ms, and to what a manager is late in reading if the wall clock
    /// is set meanwhile.
    std::optional<double> stopToResumeMs;
    /// QEMU's own figure, `downtime` of query-migrate on the old VMM, in whole milliseconds of the steady clock: from before
    /// it stops the guest's CPUs, earlier than STOP, until it knows by the return path that the new VMM has loaded all
    /// (migration/migration.c:migration_stop_vm, migration_completion, migration_completion_end; 10.0 and 11.1). What the
    /// manager does after that is not in it. Absent when the guest was stopped before the migration began, which QEMU does not
    /// count, and with vmm-exec, where the program that knew it is gone as soon as it does
    /// (migration/cpr-exec.c:cpr_exec_notifier).
    std::optional<double> qemuDowntimeMs;
    std::optional<HeartbeatSummary> guest;  ///< Absent when the definition has no heartbeat or the guest was silent.
    std::uint64_t bytesSent = 0;            ///< Migration stream, by QEMU's count on the old VMM.
    std::uint64_t ramBytes = 0;
    std::uint64_t ramCopiedBytes = 0;   ///< Guest RAM pages that went through the stream.
    std::size_t ramBlocksCompared = 0;  ///< RAM blocks of the old VMM that were compared; 0 when it did not come to that.
    std::vector<RamBlockDifference> ramBlockDifferences;
    std::vector<PassedDevice> passthrough;  ///< Devices of the host that the guest has.
    double totalMs = 0;
    std::vector<std::string> warnings;
    /// Work that an earlier manager had left half done, and that was settled before anything else; empty when there was nothing.
    std::string settledFirst;
    /// The old VMM changed while the new one stood by: a new attempt would go by what it is now.
    bool shouldStartOver = false;
    /// Lost, and no VMM can go on with the guest, also when the old one lives: the guest ended with the new one, to which it had
    /// gone over. Only a new start helps.
    bool guestIsGone = false;
    bool oldVmmLeft = false;  ///< Upgraded, but the old VMM has not ended, not even by SIGKILL.
    bool cancelled = false;   ///< A person, or the manager's own end, asked to stop.

    ExitCode exitCode() const;
    /// The outcome as people and scripts are told it: also `ready` and `silent`.
    std::string_view outcomeText() const;
};

nlohmann::json toJson(const HandoverReport& report);
/// Reads what toJson() made, in this process or another one. Throws std::exception when it is no report as this version knows it;
/// keys that are not known, as a later version may have them, are passed over.
HandoverReport handoverReportFromJson(const nlohmann::json& value);

/// The text of an answer. What a VMM said need not be UTF-8, which JSON is; such bytes are replaced.
std::string jsonText(const nlohmann::json& value, int indent = -1);

/// The table that `upgrade` ends with.
std::string reportText(const HandoverReport& report);

/// `refused`, `rolled back`, `upgraded`, `lost`.
std::string_view outcomeName(State finalState);
/// Outcome in reports of an upgrade after which the guest was not heard.
constexpr std::string_view silentOutcome = "silent";

}  // namespace vh
