#include "manager/process/event_clock.h"

namespace vh {
namespace {

using std::chrono::duration_cast, std::chrono::microseconds;

/// Both clocks are read one after the other, and we may lose our turn in between; who sets a clock moves it by more.
constexpr microseconds togetherness{1'000};

/// Longer than a manager is ever kept from reading; what a VMM says beyond that is not an age.
constexpr std::chrono::seconds oldest{10};

microseconds offsetOf(EventClock::Steady steady, EventClock::Wall wall) {
    return duration_cast<microseconds>(wall.time_since_epoch()) - duration_cast<microseconds>(steady.time_since_epoch());
}

}  // namespace

EventClock::EventClock(Steady steady, Wall wall) : offset_(offsetOf(steady, wall)), steady_(steady), wall_(wall) {}

void EventClock::look(Steady steady, Wall wall) {
    const microseconds offset = offsetOf(steady, wall);
    wasSet_ = std::chrono::abs(offset - offset_) > togetherness;
    offset_ = offset;
    steady_ = steady;
    wall_ = wall;
}

EventClock::Steady EventClock::happened(std::int64_t toldUs) const {
    if (toldUs == 0 || wasSet_) return steady_;
    const microseconds age = duration_cast<microseconds>(wall_.time_since_epoch()) - microseconds(toldUs);
    return age < microseconds(0) || age > oldest ? steady_ : steady_ - age;
}

}  // namespace vh
