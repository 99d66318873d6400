// The time of a VMM's event, on the clock that nobody sets.
//
// QEMU tells it by the wall clock (qapi/qmp-event.c:timestamp_put, g_get_real_time(), 11.1), to the microsecond. That is the
// better time of the event: it is late in nothing, while a manager that had no turn reads the line some milliseconds later. But a
// wall clock is set, by people and by NTP, and the guest's pause is told by two processes. So the event's age is taken from the
// wall clock, at the moment it is read, and everything else is reckoned on the steady clock. The two clocks run alike (NTP slews
// both) unless one is set: when they have moved against each other, an age proves nothing, and the time of reading counts.
#pragma once

#include <chrono>
#include <cstdint>

namespace vh {

class EventClock {
 public:
    using Steady = std::chrono::steady_clock::time_point;
    using Wall = std::chrono::system_clock::time_point;

    EventClock() : EventClock(std::chrono::steady_clock::now(), std::chrono::system_clock::now()) {}
    EventClock(Steady steady, Wall wall);

    /// Reads both clocks; something has just been read.
    void look() { look(std::chrono::steady_clock::now(), std::chrono::system_clock::now()); }
    void look(Steady steady, Wall wall);

    /// The time of an event that was read at the last look; `toldUs` is in microseconds since 1970, 0 for unknown.
    Steady happened(std::int64_t toldUs) const;

 private:
    std::chrono::microseconds offset_;  ///< Time from the steady clock to the wall clock.
    Steady steady_;
    Wall wall_;
    bool wasSet_ = false;  ///< The wall clock was set between the last two looks.
};

}  // namespace vh
