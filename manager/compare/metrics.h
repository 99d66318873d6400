// What is compared: the figures of a round that statistics are made of, and where they stand in it.
#pragma once

#include <array>
#include <string_view>

namespace vh {

struct Metric {
    std::string_view name;     ///< Its key in `summary`.
    std::string_view pointer;  ///< Where a round of results.json has it (JSON pointer); see README.md.
    std::string_view title;
    std::string_view unit;
};

/// Of all of them less is better.
inline constexpr std::array metrics{
    Metric{"stopToResumeMs", "/stopToResumeMs", "STOP to RESUME", "ms"},
    Metric{"guestPauseMs", "/guestPauseMs", "guest pause (heartbeats)", "ms"},
    Metric{"brownOutMs", "/writeRate/brownOutMs", "brown-out", "ms"},
    Metric{"networkGapMs", "/network/longestGapMs", "longest network gap", "ms"},
    Metric{"networkLost", "/network/lost", "echo requests lost", ""},
    Metric{"totalMs", "/totalMs", "whole handover", "ms"},
    Metric{"prepareMs", "/phasesMs/prepare", "prepare", "ms"},
    Metric{"launchMs", "/phasesMs/launch", "launch", "ms"},
    Metric{"exchangeMs", "/phasesMs/exchange", "exchange", "ms"},
    Metric{"verifyMs", "/phasesMs/verify", "verify", "ms"},
    Metric{"pausePhaseMs", "/phasesMs/pause", "pause", "ms"},
    Metric{"confirmMs", "/phasesMs/confirm", "confirm", "ms"},
    Metric{"retireMs", "/phasesMs/retire", "retire", "ms"},
    Metric{"beatP99AfterMs", "/beats/after/p99Ms", "99th of 100 heartbeat intervals after", "ms"},
    Metric{"bytesSent", "/bytesSent", "sent", "bytes"},
    Metric{"ramCopiedBytes", "/ramCopiedBytes", "RAM copied", "bytes"},
    Metric{"minorFaults", "/pageFaults/minor", "page faults after the switch", ""},
};

}  // namespace vh
