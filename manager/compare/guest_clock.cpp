#include "manager/compare/guest_clock.h"

#include <algorithm>
#include <cmath>

namespace vh {
namespace {

std::optional<double> rounded(double number) {
    return std::round(number * 10) / 10;
}

bool isEarlier(const ClockSample& one, const ClockSample& other) {
    return one.timeStampCounter < other.timeStampCounter || one.kvmClockNs < other.kvmClockNs;
}

/// Between the first sample and another one: by the guest's own clock where it has one, for lines arrive late and at once.
double ticksPerMs(const ClockSample& first, const ClockSample& last) {
    const double ms = last.kvmClockNs > first.kvmClockNs ? static_cast<double>(last.kvmClockNs - first.kvmClockNs) / 1e6
                                                         : last.atMs - first.atMs;
    return ms > 0 ? static_cast<double>(last.timeStampCounter - first.timeStampCounter) / ms : 0;
}

}  // namespace

std::optional<GuestClock> guestClock(const std::vector<ClockSample>& samples) {
    if (samples.empty()) return std::nullopt;
    GuestClock clock;
    for (std::size_t i = 1; i < samples.size(); ++i) clock.wentBack = clock.wentBack || isEarlier(samples[i], samples[i - 1]);
    const auto next = std::ranges::find(samples, true, &ClockSample::onNewVmm);
    if (next == samples.begin() || next == samples.end()) return clock;
    const ClockSample &last = *std::prev(next), &first = *next;
    clock.hostGapMs = rounded(first.atMs - last.atMs);
    if (isEarlier(first, last)) return clock;
    if (first.kvmClockNs != 0) clock.clockGapMs = rounded(static_cast<double>(first.kvmClockNs - last.kvmClockNs) / 1e6);
    const double pace = ticksPerMs(samples.front(), last);
    if (pace > 0) clock.tscGapMs = rounded(static_cast<double>(first.timeStampCounter - last.timeStampCounter) / pace);
    return clock;
}

}  // namespace vh
