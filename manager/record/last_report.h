// The end of a VM's last handover, kept in its directory for a person who comes later. Nothing is decided by it.
#pragma once

#include <ctime>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "manager/record/report.h"
#include "manager/record/vm_directory.h"

namespace vh {

struct LastReport {
    HandoverReport report;
    std::string at;     ///< When it ended (UTC).
    std::string error;  ///< Why the report cannot be told; empty when it can.
};

/// `2026-11-30T08:00:00Z`
std::string utc(std::time_t time);

/// Replaces the kept report, at once. Throws std::system_error.
void keepLastReport(const VmDirectory& directory, const HandoverReport& report);

/// The kept report; none when there was no handover.
std::optional<LastReport> lastReport(const VmDirectory& directory);

/// The report's own JSON with `at`, or `error` alone.
nlohmann::json toJson(const LastReport& last);
/// The report from the JSON of a manager of any version; one that is no such JSON has its `error`.
LastReport lastReportFromJson(const nlohmann::json& value);

std::string lastReportText(const LastReport& last);

}  // namespace vh
