// The guest's heartbeat in a handover: heard on the old VMM before the switch, on whichever VMM has it after.
#pragma once

#include <chrono>
#include <functional>

#include "manager/handover/course.h"

namespace vh {

class GuestBeats {
 public:
    explicit GuestBeats(Course& course) : course_(course) {}

    /// Listens to the old VMM's port in Preflight, and waits for a first beat.
    void listenToOld(std::function<void()> then);
    /// Notes whether the guest was heard, right before the switch.
    void noteBeforeSwitch();
    /// Goes on when the guest has been heard on the VMM that it was given to, or too long has not.
    void afterFirstOnNew(std::function<void()> then);
    void afterNextOnOld(std::function<void()> then);

 private:
    /// Waits until the guest is known to go on beating on a VMM, and connects to its port anew when it is not heard.
    void await(const VmmProcess& vmm, std::chrono::milliseconds longest, unsigned connections,
               std::function<void(bool heard)> then);
    void reportSilence(std::function<void()> then);

    Course& course_;
    bool beatBefore_ = false;  ///< The guest was heard just before the switch.
};

}  // namespace vh
