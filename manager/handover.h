// One handover, driven through the table of handover_table.h on the main loop.
//
// Theory of operation. post() looks an event up in the table and enter() begins the next state's work; nothing else moves the
// handover. Work is asynchronous: monitor commands, monitor events, process exits and timers call back, and each callback is
// bound to the state it was started in (within()), so a late answer can never act in another state. A state's work that throws
// has failed. Three things are watched all the time: that either VMM dies, that a state outlives its deadline, and, from QEMU's
// STOP on, that the guest is stopped for longer than its pause budget.
//
// Limits: the definition's machine cannot have changed by hotplug (there is no verb for it); vfio devices are refused.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/vm_definition.h"
#include "manager/binary_probe.h"
#include "manager/event_loop.h"
#include "manager/handover_table.h"
#include "manager/heartbeat.h"
#include "manager/report.h"
#include "manager/vm_record.h"
#include "manager/vmm_process.h"

namespace vh {

struct HandoverRequest {
    VmRecord record;
    /// The definition that the VM was started with, resolved; its handover block may be the file's of today.
    VmDefinition definition;
    std::string binary;  ///< The new VMM.
    /// A reason to refuse that was found before there was a handover, or empty.
    std::string refusal;
    bool dryRun = false;
};

/// What an observer is told: the state that begins, before anything is done in it.
struct HandoverProgress {
    State state;
    double atMs;
    pid_t oldPid;
    pid_t newPid;  ///< 0 while there is none.
    bool stopped;  ///< QEMU said that the guest is stopped.
};

class Handover {
 public:
    using Observer = std::function<void(const HandoverProgress&)>;
    using Done = std::function<void(HandoverReport)>;

    /// `directory` must be locked by the caller for as long as the handover lasts.
    Handover(HandoverRequest request, VmDirectory directory, Observer observer, Done done);

    /// Begins. `done` is called from the main loop, once; the handover may be destroyed then.
    void begin();

    /// Asks to stop: rolls back when that is still possible.
    void cancel(const std::string& why) { post(Event::Cancelled, why); }

 private:
    struct Command {
        VmmProcess* vmm;
        std::string name;
        nlohmann::json arguments;
    };
    using Clock = std::chrono::steady_clock;

    void enter(State state);
    void act(State state);
    void post(Event event, const std::string& cause);
    void done() { post(Event::Done, {}); }
    /// Wraps a callback so that it acts only while the handover is still in today's state, and so that its exceptions fail that
    /// state.
    template <class Callback>
    auto within(Callback callback) {
        return [this, epoch = epoch_, callback = std::move(callback)](auto&&... arguments) {
            if (epoch != epoch_) return;
            try {
                callback(std::forward<decltype(arguments)>(arguments)...);
            } catch (const std::exception& error) {
                post(Event::Failed, error.what());
            }
        };
    }
    /// Sends a command; `then` gets the answer, whatever it is, if the state is still the same.
    void send(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, std::function<void(const QmpReply&)> then,
              UniqueFd descriptor = {});
    /// Sends commands one after another; an answer that is an error fails the state.
    void run(std::vector<Command> commands, std::function<void()> then);

    void preflight();
    void checkHost() const;
    void checkNewBinary() const;
    void askOldVmm();
    void awaitFirstHeartbeat();
    void passPreflight();
    void launch();
    void awaitCprListener();
    void exchange();
    void sendCprState();
    void verify();
    void compareRam(const std::string& oldTable, const std::string& newTable) const;
    void switchOver();
    void saveToFile();
    void restoreFromFile();
    void checkSwitched();
    void prove();
    void confirm();
    void retire();
    void endOldVmm();
    void oldGone();
    void discard();
    void endNewVmm();
    void newGone();
    void resume();
    void resumed();
    void finish();

    void oldEvent(const QmpEvent& event);
    void newEvent(const QmpEvent& event);
    void guestStopped(std::int64_t atUs);
    void guestResumed(std::int64_t atUs);
    void explainOldFailure();
    /// Goes on after the guest's next heartbeat, or soon when there is none to be had.
    void afterNextHeartbeat(std::function<void()> then);
    std::string describe(const VmmProcess& vmm) const;
    std::string errorText(const VmmProcess& vmm, const std::string& command, const QmpError& error) const;
    std::chrono::milliseconds deadlineOf(State state) const;
    nlohmann::json capabilities(bool on) const;
    double sinceBeginMs() const;

    bool sharesRam() const { return design_ == Design::ManagerOwned || design_ == Design::VmmOwned; }

    HandoverRequest request_;
    VmDirectory directory_;
    Observer observer_;
    Done done_;
    const Design design_;
    HandoverReport report_;
    const Clock::time_point begun_ = Clock::now();

    State state_ = State::Preflight;
    unsigned epoch_ = 0;  ///< Counts the states entered; see within().
    EventSource deadline_;
    EventSource pauseBudget_;
    EventSource pollTimer_;

    std::unique_ptr<BinaryProbe> probe_;
    VmmBinary newBinary_;
    std::unique_ptr<VmmProcess> old_;
    std::unique_ptr<VmmProcess> new_;
    HeartbeatMonitor heartbeat_;
    bool wasRunning_ = true;      ///< The guest ran before the handover; a paused one stays paused.
    bool configuredOld_ = false;  ///< Migration settings of the old VMM were changed.
    bool migrateSent_ = false;
    bool confirming_ = false;   ///< The new VMM was, or was about to be, told to run the guest.
    std::string oldMigration_;  ///< The status that each VMM's latest MIGRATION event told.
    std::string newMigration_;
    bool newDiedByItself_ = false;
    std::int64_t stoppedAtUs_ = 0;  ///< QEMU's time stamp of STOP; 0 while the guest runs.
    UniqueFd savedState_;           ///< save-restore: the file, which has no name.
};

}  // namespace vh
