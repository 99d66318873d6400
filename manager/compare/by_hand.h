// A handover as a person does it who has two stock QEMUs and a monitor on each: by bare `cpr-transfer`, or by bare
// `x-ignore-shared`. A comparison has it as a yardstick for what our own part costs.
//
//     start the new QEMU with the old one's arguments and -incoming        launching
//     migrate-set-capabilities, migrate-set-parameters, migrate            exchanging, until the guest stops
//     wait: until the old one says `completed`                             switching
//     query-status, until the new one says `paused`; cont                  proving, confirming
//     quit                                                                 retiring
//
// Nothing is asked beforehand, no name, descriptor or RAM block is compared, nothing is held back until the new VMM is proved, no
// packet is kept for the guest, and nothing is on record until the guest runs on the new VMM. What is the same as in a handover
// of ours is what looks on (the times of STOP and RESUME, heartbeats, the states' times: course.h), and that a guest is not left
// standing: a failure gives it back to the old VMM as long as that can be (going_back.h).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "manager/handover/course.h"
#include "manager/handover/going_back.h"
#include "manager/handover/guest_beats.h"
#include "manager/handover/retirement.h"
#include "manager/handover/steps.h"
#include "manager/resources/tap_guard.h"

namespace vh {

class ByHand : private Course {
 public:
    using Done = std::function<void(HandoverReport)>;

    /// The request's design is one with `byHandOf`. `directory` must be locked by the caller for as long as this lasts.
    ByHand(HandoverRequest request, VmDirectory directory, HandoverObserver observer, Done done);

    /// Begins. `done` is called from the main loop, once; this may be destroyed then.
    void begin() { enter(State::Preflight); }
    /// Asks to stop: the guest goes back to the old VMM if it still can.
    void cancel(const std::string& why) { post(Event::Cancelled, why); }

 private:
    void entering(State) override {}
    void begin(State state) override;
    void finish() override;
    void unheeded(Event, const std::string&) override {}
    void newVmmIsThere() override;
    void newVmmEnded() override;
    void guestHasStopped() override;
    void migrated(bool byOld) override;

    void lookForOld();
    void oldVmmEnded();
    void launch();
    void awaitMigrated();
    void prove();
    void confirm();
    void retire();

    Done done_;
    EventSource answer_;
    const std::unique_ptr<Steps> steps_;
    GuestBeats beats_;
    TapGuard taps_;  ///< Guards none: each VMM has taps of its own.
    GoingBack goingBack_;
    Retirement retirement_;
};

}  // namespace vh
