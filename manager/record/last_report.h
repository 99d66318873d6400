// How the last handover of a VM ended, kept in its directory for a person who comes later. Nothing is decided by it.
#pragma once

#include <ctime>
#include <string>

#include <nlohmann/json.hpp>

#include "manager/record/report.h"
#include "manager/record/vm_directory.h"

namespace vh {

/// `2026-11-30T08:00:00Z`
std::string utc(std::time_t time);

/// In place of the one before, at once. Throws std::system_error.
void keepLastReport(const VmDirectory& directory, const HandoverReport& report);

/// The report as JSON, with `at` (UTC), when there is one; `error` alone when it cannot be understood. Null when there is none.
nlohmann::json lastReport(const VmDirectory& directory);

/// What there is to say of a JSON value of lastReport().
std::string lastReportText(const nlohmann::json& value);

}  // namespace vh
