// A handover that goes back: the new VMM is ended for certain (Discarding), then the old one runs the guest again (Resuming).
#pragma once

#include <functional>
#include <vector>

#include "manager/handover/course.h"
#include "manager/handover/guest_beats.h"
#include "manager/handover/steps.h"
#include "manager/resources/tap_guard.h"

namespace vh {

class GoingBack {
 public:
    GoingBack(Course& course, Steps& steps, GuestBeats& beats, TapGuard& taps)
        : course_(course), steps_(steps), beats_(beats), taps_(taps) {}

    void discard();
    /// Called when the new VMM's process has ended, in Discarding.
    void newGone();
    void resume();

    bool hasEndedNew() const { return endedNew_; }
    /// True when the old VMM has handed passed-through devices over and cannot run the guest any more.
    bool oldCannotRun() const { return gaveDevicesAway_; }

 private:
    void endNew();
    void resumed();
    void undoSettings(std::function<void()> then);
    void tidyAll(std::vector<Course::Command> commands, std::function<void()> then);
    void undoGrowth();
    void removeNewGeneration();

    Course& course_;
    Steps& steps_;
    GuestBeats& beats_;
    TapGuard& taps_;
    bool newDiedByItself_ = false;
    bool endedNew_ = false;
    bool gaveDevicesAway_ = false;
};

}  // namespace vh
