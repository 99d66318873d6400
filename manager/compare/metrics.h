// What is compared: the figures of a round that statistics are made of.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "manager/compare/results.h"

namespace vh {

struct Metric {
    std::string_view name;     ///< Its key in `summary`.
    std::string_view pointer;  ///< Where a round of results.json has it (JSON pointer), for the page and the CSV; see README.md.
    std::string_view title;
    std::string_view unit;
    std::optional<double> (*of)(const Round& round);
};

/// The figure that these members lead to; none when one of them is.
template <auto Member, auto... Further>
std::optional<double> figure(const auto& from) {
    const auto& value = from.*Member;
    if constexpr (requires { *value; }) {
        if (!value) return std::nullopt;
        if constexpr (sizeof...(Further) > 0)
            return figure<Further...>(*value);
        else
            return static_cast<double>(*value);
    } else {
        return static_cast<double>(value);
    }
}

/// Of all of them less is better.
inline constexpr std::array metrics{
    Metric{"stopToResumeMs", "/stopToResumeMs", "STOP to RESUME", "ms", figure<&Round::stopToResumeMs>},
    Metric{"guestPauseMs", "/guestPauseMs", "guest pause (heartbeats)", "ms", figure<&Round::guestPauseMs>},
    Metric{"brownOutMs", "/writeRate/brownOutMs", "brown-out", "ms", figure<&Round::writeRate, &BrownOut::brownOutMs>},
    Metric{"networkGapMs", "/network/longestGapMs", "longest network gap", "ms",
           figure<&Round::network, &EchoRequests::longestGapMs>},
    Metric{"networkLost", "/network/lost", "echo requests lost", "", figure<&Round::network, &EchoRequests::lost>},
    Metric{"totalMs", "/totalMs", "whole handover", "ms", figure<&Round::totalMs>},
    Metric{"prepareMs", "/phasesMs/prepare", "prepare", "ms", figure<&Round::phasesMs, &PhaseTimes::prepare>},
    Metric{"launchMs", "/phasesMs/launch", "launch", "ms", figure<&Round::phasesMs, &PhaseTimes::launch>},
    Metric{"exchangeMs", "/phasesMs/exchange", "exchange", "ms", figure<&Round::phasesMs, &PhaseTimes::exchange>},
    Metric{"verifyMs", "/phasesMs/verify", "verify", "ms", figure<&Round::phasesMs, &PhaseTimes::verify>},
    Metric{"pausePhaseMs", "/phasesMs/pause", "pause", "ms", figure<&Round::phasesMs, &PhaseTimes::pause>},
    Metric{"confirmMs", "/phasesMs/confirm", "confirm", "ms", figure<&Round::phasesMs, &PhaseTimes::confirm>},
    Metric{"retireMs", "/phasesMs/retire", "retire", "ms", figure<&Round::phasesMs, &PhaseTimes::retire>},
    Metric{"beatP99AfterMs", "/beats/after/p99Ms", "99th of 100 heartbeat intervals after", "ms",
           figure<&Round::beats, &Beats::after, &BeatIntervals::p99Ms>},
    Metric{"bytesSent", "/bytesSent", "sent", "bytes", figure<&Round::bytesSent>},
    Metric{"ramCopiedBytes", "/ramCopiedBytes", "RAM copied", "bytes", figure<&Round::ramCopiedBytes>},
    Metric{"minorFaults", "/pageFaults/minor", "page faults after the switch", "",
           figure<&Round::pageFaults, &PageFaults::minor>},
};

}  // namespace vh
