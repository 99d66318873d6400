// A handover: the work of each state that is the same for all designs. What moves it is course.h; what a design does differently
// is steps.h; what is asked before anything is touched, questions.h and preflight.h; how it goes back, going_back.h; how the old
// VMM ends, retirement.h.
//
// A VM that another manager started (adopted_vm.h) takes the same path. Both VMMs have the same taps then: what the new one does
// to them while it starts is undone at once (tap_guard.h), until it loads the network cards' state and sets them for good. Its
// old VMM is killed in the end and not asked to quit, because QEMU removes the sockets at its exit that both listen on.
//
// Limits: a definition's machine cannot have changed by hotplug (there is no verb for it).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "manager/handover/course.h"
#include "manager/handover/going_back.h"
#include "manager/handover/guest_beats.h"
#include "manager/handover/questions.h"
#include "manager/handover/retirement.h"
#include "manager/handover/steps.h"
#include "manager/resources/tap_guard.h"

namespace vh {

class Handover : private Course {
 public:
    using Observer = HandoverObserver;
    using Done = std::function<void(HandoverReport)>;

    /// `directory` must be locked by the caller for as long as the handover lasts.
    Handover(HandoverRequest request, VmDirectory directory, Observer observer, Done done);

    /// Begins. `done` is called from the main loop, once; the handover may be destroyed then.
    void begin() { enter(State::Preflight); }

    /// Tells once when everything is prepared and a commit is waited for; the report's outcome is StandingBy then.
    void onStandby(std::function<void(HandoverReport)> callback) { standbyCallback_ = std::move(callback); }
    bool standsBy() const { return state() == State::StandingBy && request.standby && !committed; }
    /// Goes on. `observer` is told of the rest instead of the one that was told so far.
    void commit(Observer observer);

    /// Asks to stop: rolls back when that is still possible.
    void cancel(const std::string& why) { post(Event::Cancelled, why); }

 private:
    void entering(State state) override;
    void begin(State state) override;
    void finish() override;
    void unheeded(Event event, const std::string& cause) override { steps_->unheeded(event, cause); }
    void newVmmIsThere() override;
    void newVmmEnded() override;
    void guestHasStopped() override;
    void migrated(bool byOld) override;

    void preflight();
    void oldVmmEnded();
    void launch();
    void guardTaps();
    void checkDisks() const;
    void exchange();
    void verify();
    void checkNewCanLoad(std::function<void()> then);
    void placeThreads(std::function<void()> then);
    void standBy();
    void recheck();
    void switchOver();
    void explainOldFailure();
    void prove();
    void confirm();
    void recordToldToRun();
    void spareNewVmm();
    void describeEnd();

    Done done_;
    std::function<void(HandoverReport)> standbyCallback_;
    const std::unique_ptr<Steps> steps_;
    Questions questions_;
    GuestBeats beats_;
    TapGuard taps_;  ///< Guards the taps of an adopted VM, which both VMMs have.
    EventSource tapTimer_, standbyAnswer_, answer_;
    GoingBack goingBack_;
    Retirement retirement_;
};

}  // namespace vh
