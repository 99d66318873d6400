// The speed at which a guest writes memory around the moment at which it changes its VMM, from a counter that it reports about
// every 10 ms.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace vh {

/// A guest's report: pages written since boot. `atMs` is when that was heard, by the host's steady clock.
struct WriteSample {
    double atMs = 0;
    std::uint64_t pages = 0;
};

struct BrownOutWindow {
    double beforeMs = 1000;    ///< Time before the handover that the rate before is taken from, in spans of `spanMs`.
    double spanMs = 100;       ///< A rate is a mean over so long.
    double enoughPart = 0.95;  ///< Part of the rate before at which the brown-out is over.
    double binMs = 25;
    double firstBinMs = -500;
    double endMs = 1500;  ///< End of the curve after the switch. The rest goes on to the last sample where that is later.
};

/// The `writeRate` of a round, see README.md; what was measured is rounded to tenths.
struct BrownOut {
    std::optional<double> beforePagesPerSecond;  ///< The median of spans.
    std::optional<double> brownOutMs;
    /// Work that the guest did not do (pages not written) from the handover's beginning to the window's end, as time at its
    /// speed before; as far off as that is, so that it may be below 0. Where there is no `brownOutMs` the guest went on to lose.
    std::optional<double> workLostMs;
    double binMs = 0;
    double firstBinMs = 0;
    std::vector<std::optional<double>> curvePercent;  ///< Absent where there are not samples on both sides.
};

/// `beganAtMs` is when the handover began, `switchedAtMs` the guest's first beat on the new VMM. Between two samples the counter
/// is taken as a straight line, also over a hole, but not where it goes back.
BrownOut brownOut(std::vector<WriteSample> samples, double beganAtMs, double switchedAtMs, const BrownOutWindow& window = {});

}  // namespace vh
