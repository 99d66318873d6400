// What a guest's heartbeat told of a handover: a value. manager/vmm/heartbeat.h listens to it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vh {

/// What has been seen since somebody began to listen.
struct HeartbeatSummary {
    std::uint64_t beats = 0;
    std::uint64_t lost = 0;      ///< Numbers that never came, but for those that a connection closed by us may have swallowed.
    std::uint64_t repeated = 0;  ///< Numbers that came again or went back: the guest ran twice.
    double longestGapMs = 0;
    std::optional<double> pauseMs;                ///< From the last beat on the first port to the first one on the second.
    std::map<std::string, std::uint64_t> status;  ///< The probe's latest status line: ram_filled, ram_passes, mismatches, ...
    std::vector<std::string> errors;              ///< What the probe reported as wrong, the first 20.
};

}  // namespace vh
