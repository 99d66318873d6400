// A guest's clocks while it changed its VMM, from the time stamp counter and the KVM clock that it reports about every 10 ms (the
// bare guest's lines `T`).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace vh {

/// A guest's report. `atMs` is when that was heard, by the host's steady clock.
struct ClockSample {
    double atMs = 0;
    std::uint64_t timeStampCounter = 0;
    std::uint64_t kvmClockNs = 0;  ///< 0: the guest has none.
    bool onNewVmm = false;
};

/// The `guestClock` of a round, see README.md: from the last sample on the old VMM to the first on the new one.
struct GuestClock {
    std::optional<double> hostGapMs;  ///< Gap by the host's clock.
    std::optional<double> tscGapMs;   ///< Gap by the time stamp counter, at its pace before.
    std::optional<double> clockGapMs;
    bool wentBack = false;  ///< True when one of the two went back, at any time in the round.
};

/// The clocks in a round; none of a guest that said nothing of them.
std::optional<GuestClock> guestClock(const std::vector<ClockSample>& samples);

}  // namespace vh
