// What a handover was: a value, printed for people and for scripts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/vm_definition.h"
#include "manager/handover_table.h"
#include "manager/heartbeat.h"

namespace vh {

/// Exit codes of every verb; scripts rely on them.
enum class ExitCode { Done = 0, Usage = 1, Refused = 2, RolledBack = 3, Lost = 4, Unreachable = 5 };

struct VmmIdentity {
    std::string binary;
    std::string version;  ///< Empty until it is known.
    int pid = 0;          ///< 0 while there is no process.
};

struct StepTime {
    State state;
    double startMs = 0;  ///< Since the handover began.
    double durationMs = 0;
};

struct HandoverReport {
    std::string vm;
    Design design = Design::ManagerOwned;
    State outcome = State::Refused;  ///< A final state.
    bool dryRun = false;             ///< Preflight passed and nothing more was asked for; `outcome` says nothing then.
    std::string cause;               ///< Why it was not upgraded; empty when it was.
    VmmIdentity old;
    VmmIdentity fresh;
    std::vector<StepTime> steps;
    std::optional<double> stopToResumeMs;   ///< By QEMU's own events: STOP on the old VMM to RESUME, on whichever VMM it was.
    std::optional<HeartbeatSummary> guest;  ///< Absent when the definition has no heartbeat or the guest was silent.
    std::uint64_t bytesSent = 0;            ///< Migration stream, by QEMU's count on the old VMM.
    std::uint64_t ramBytes = 0;
    std::uint64_t ramCopiedBytes = 0;  ///< Guest RAM pages that went through the stream.
    double totalMs = 0;
    std::vector<std::string> warnings;

    ExitCode exitCode() const;
};

nlohmann::json toJson(const HandoverReport& report);

/// The table that `upgrade` ends with, of one to four lines; takes the JSON form, as it may come from the daemon.
std::string reportText(const nlohmann::json& report);

/// `refused`, `rolled back`, `upgraded`, `lost`.
std::string_view outcomeName(State finalState);

}  // namespace vh
