// What a guest's clocks did while it changed its VMM, from the time stamp counter and the KVM clock that it reports about every
// 10 ms (the bare guest's lines `T`).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace vh {

/// What the guest said. `atMs` is when that was heard, by the host's steady clock.
struct ClockSample {
    double atMs = 0;
    std::uint64_t timeStampCounter = 0;
    std::uint64_t kvmClockNs = 0;  ///< 0: the guest has none.
    bool onNewVmm = false;
};

/// The `guestClock` of a round, see README.md: from the last sample on the old VMM to the first on the new one.
struct GuestClock {
    std::optional<double> hostGapMs;  ///< By the host's clock.
    std::optional<double> tscGapMs;   ///< By the time stamp counter, at its pace before.
    std::optional<double> clockGapMs;
    bool wentBack = false;  ///< One of the two, at any time in the round.
};

/// None of a guest that said nothing of its clocks.
std::optional<GuestClock> guestClock(const std::vector<ClockSample>& samples);

}  // namespace vh
