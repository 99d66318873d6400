// One handover, driven through the table of handover_table.h on the main loop.
//
// Theory of operation. post() looks an event up in the table and enter() begins the next state's work; nothing else moves the
// handover. Work is asynchronous: monitor commands, monitor events, process exits and timers call back, and each callback is
// bound to the state it was started in (within()), so a late answer can never act in another state. A state's work that throws
// has failed. Three things are watched all the time: that either VMM dies, that a state outlives its deadline, and, from QEMU's
// STOP on, that the guest is stopped for longer than its pause budget.
//
// With a relay (design relayed) the old VMM's CPR state comes to us and not to the new VMM: it is decoded, compared with the old
// VMM's own RAM blocks, adapted and passed on, and the old VMM goes on running the guest until we hang up. An upgrade that stands
// by cancels the old VMM's side at once and leaves its monitor to others (but for vmm-owned, whose old VMM has sent its state to
// the new one itself and stays in the migration), and asks for the state a second time when it is to commit: if that is not the
// same, the new VMM was built for what no longer is, and the handover starts over.
//
// With design vmm-exec there is one process: handover_exec.cpp has what is special to it.
//
// A VM that another manager started (adopted_vm.h) takes the same path. Both VMMs have the same taps then: what the new one does
// to them while it starts is undone at once (tap_settings.h), until it loads the network cards' state and sets them for good. Its
// old VMM is killed in the end and not asked to quit, because QEMU removes the sockets at its exit that both listen on.
//
// Limits: a definition's machine cannot have changed by hotplug (there is no verb for it).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/vm_definition.h"
#include "manager/handover/in_place.h"
#include "manager/handover/relay.h"
#include "manager/process/descriptors.h"
#include "manager/process/event_loop.h"
#include "manager/record/handover_table.h"
#include "manager/record/report.h"
#include "manager/record/vm_record.h"
#include "manager/resources/network_switch.h"
#include "manager/resources/tap_guard.h"
#include "manager/vmm/binary_probe.h"
#include "manager/vmm/heartbeat.h"
#include "manager/vmm/vmm_process.h"

namespace vh {

/// Tells one file at a path from another: device, inode, size and time of its last change. All zero when there is none.
using FileStamp = std::array<std::int64_t, 5>;

struct HandoverRequest {
    VmRecord record;
    /// The definition that the VM was started with, resolved; its handover block may be the file's of today.
    VmDefinition definition;
    Design design = Design::Relayed;  ///< Of this handover; the definition's own may be another.
    std::string binary;               ///< The new VMM.
    /// A reason to refuse that was found before there was a handover, or empty.
    std::string refusal;
    bool dryRun = false;
    std::vector<std::string> warnings;  ///< Of an earlier attempt, for the report.
    unsigned timesStartedOver = 0;      ///< Because the old VMM had changed under an earlier attempt.
    bool standby = false;               ///< Hold before the guest is stopped, until commit().
    HeartbeatMonitor::Listener heard;   ///< Told every line of the guest probe, for who wants to know more than the report says.
};

/// What an observer is told: the state that begins, before anything is done in it.
struct HandoverProgress {
    State state;
    double atMs;
    pid_t oldPid;
    pid_t newPid;  ///< 0 while there is none.
    bool stopped;  ///< QEMU said that the guest is stopped.
    /// What the new VMM was started with, while the observer is called; none in a process that only asked for the handover.
    const Resources* inherited = nullptr;
};

class Handover {
 public:
    using Observer = std::function<void(const HandoverProgress&)>;
    using Done = std::function<void(HandoverReport)>;

    /// `directory` must be locked by the caller for as long as the handover lasts.
    Handover(HandoverRequest request, VmDirectory directory, Observer observer, Done done);

    /// Begins. `done` is called from the main loop, once; the handover may be destroyed then.
    void begin();

    /// Tells once when everything is prepared and a commit is waited for; the report's outcome is StandingBy then.
    void onStandby(std::function<void(HandoverReport)> callback) { standbyCallback_ = std::move(callback); }
    bool standsBy() const { return state_ == State::StandingBy && request_.standby && !committed_; }
    /// Goes on. `observer` is told of the rest instead of the one that was told so far.
    void commit(Observer observer);

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
    void checkMemoryRoom() const;
    void checkPassthrough() const;
    void checkNewBinary() const;
    void askOldVmm();
    void checkGuest(std::function<void()> then);
    void checkWhatItHolds() const;
    void checkBlockers(std::function<void()> then);
    void checkFatalDevices(std::vector<std::string> places, std::vector<std::string> controllers, std::function<void()> then);
    void askForBlockers(std::function<void(const std::vector<std::string>&)> then);
    [[noreturn]] static void refuseFor(const std::string& blocker);
    void checkRam(std::function<void()> then);
    void awaitFirstHeartbeat();
    void passPreflight();
    void launch();
    void checkFiles() const;
    void checkDisks() const;
    void recordNewVmm();
    void newExited();
    void awaitCprListener();
    std::vector<Command> settingsOfNewVmm() const;
    void exchange();
    void setCprMode(const char* mode, std::function<void()> then);
    void sendCprState(std::function<void()> then);
    CprPassthrough expectedDevices() const;
    void takeCprState(CprCapture capture, const std::function<void()>& then);
    void letOldVmmGo(std::function<void()> then);
    void readyNewVmm();
    void checkStillInstalled() const;
    void checkNewCanLoad(std::function<void()> then);
    void verify();
    void gatherRam(VmmProcess& vmm, std::function<void(std::vector<RamBlock>)> then);
    void compareRam(const std::vector<RamBlock>& old, const std::vector<RamBlock>& fresh);
    // Design vmm-exec; see handover_exec.cpp.
    void checkExec(std::function<void()> then);
    void verifyRehearsal();
    void prepareExec();
    void executeNew();
    bool hasExecuted() const;
    void newExecuted();
    bool stopBeforeExec(Event event, const std::string& cause);
    std::string noWayBack() const;
    void undoExecSettings(std::function<void()> then);
    void removeFdsets(VmmProcess& vmm, std::vector<int> fdsets, std::function<void()> then);
    void measureState();
    /// The new VMM is, or is going to be, executed by the old one in its own process: that is never ended for a handover's sake.
    /// Whom the VMMs run as.
    Identity identity() const;
    void guardTaps();
    void placeThreads(std::function<void()> then);
    bool isOneProcess() const { return new_ && new_->record().pid == old_->record().pid; }

    void standBy();
    void recheck();
    void switchOver();
    bool knowsChannels() const;
    bool copiesStopped() const;
    void holdNetwork();
    void checkInterrupts();
    void saveToFile();
    void restoreFromFile();
    void checkSwitched();
    void prove();
    void confirm();
    /// The new VMM is no longer the one that the kernel ends first when memory runs out.
    void spareNewVmm();
    void retire();
    void recordToldToRun();
    void keepRecord();
    void retireOld();
    void recordOnlyNewVmm();
    void askOldToEnd();
    void endOldVmm();
    void oldGone();
    /// Of an adopted VM: what the new VMM can do only now.
    void doAfterwards(std::size_t next);
    void discard();
    void endNewVmm();
    void newGone();
    void resume();
    void removeNewGeneration();
    void resumed();
    /// Of what both VMMs map; the new one has ended.
    void undoGrowth();
    void finish();

    /// After every connection to its monitor.
    void listenToOldVmm();
    void oldEvent(const QmpEvent& event);
    void newEvent(const QmpEvent& event);
    void guestStopped(Clock::time_point at);
    void guestResumed(Clock::time_point at);
    void explainOldFailure();
    /// Fails the state soon: when the new VMM is dying of what went wrong, its death and its last words are the better cause.
    void failUnlessNewDies(const std::string& cause);
    /// Waits until the guest is known to go on beating on a VMM, and connects to its port anew when it is not heard.
    void awaitBeats(const VmmProcess& vmm, std::chrono::milliseconds longest, unsigned connections,
                    std::function<void(bool heard)> then);
    /// Goes on when the guest has been heard on the VMM that it was given to, or too long has not.
    void afterFirstBeatsOnNew(std::function<void()> then);
    void reportSilence(std::function<void()> then);
    void afterNextBeatsOnOld(std::function<void()> then);
    std::string describe(const VmmProcess& vmm) const;
    /// The design for VMMs that have no CPR, in the words of a refusal.
    std::string withoutCpr() const;
    std::string errorText(const VmmProcess& vmm, const std::string& command, const QmpError& error) const;
    std::chrono::milliseconds deadlineOf(State state) const;
    nlohmann::json capabilities(bool on) const;
    double sinceBeginMs() const;

    bool usesCpr() const { return design_ == Design::Relayed || design_ == Design::VmmOwned; }
    bool passesThrough() const { return !request_.record.passthrough.empty(); }
    bool executes() const { return design_ == Design::VmmExec; }
    bool sharesRam() const { return usesCpr() || executes() || design_ == Design::ManagerOwned; }

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
    EventSource tapTimer_;
    TapGuard taps_;  ///< Of an adopted VM, whose taps both VMMs have.

    std::optional<NetworkSwitch> network_;  ///< From the switch on, until one of the VMMs runs the guest.

    std::vector<NamedDescriptor> devices_;  ///< Passed through: the manager's own.
    std::set<std::string> eventfdsBefore_;  ///< With devices: the old VMM's, just before it wrote its CPR state.

    std::unique_ptr<BinaryProbe> probe_;
    VmmBinary newBinary_;
    FileStamp binaryStamp_{};  ///< Of the file when it was probed.
    std::unique_ptr<VmmProcess> old_;
    std::unique_ptr<VmmProcess> new_;
    HeartbeatMonitor heartbeat_;
    bool beatBefore_ = false;     ///< The guest was heard just before the switch.
    bool wasRunning_ = true;      ///< The guest ran before the handover; a paused one stays paused.
    bool configuredOld_ = false;  ///< Migration settings of the old VMM were changed.
    bool migrateSent_ = false;
    std::unique_ptr<Relay> relay_;  ///< Design relayed, from the exchange on; destroyed, it hangs up.
    CprCapture capture_;            ///< What the new VMM was built with.
    std::function<void(HandoverReport)> standbyCallback_;
    bool committed_ = false;
    bool oldLetGo_ = false;     ///< Standing by: the old VMM runs the guest as if there were no handover.
    bool confirming_ = false;   ///< The new VMM was, or was about to be, told to run the guest.
    std::string oldMigration_;  ///< The status that each VMM's latest MIGRATION event told.
    std::string newMigration_;
    bool newDiedByItself_ = false;
    bool endedNew_ = false;                       ///< It was told to end.
    bool gaveDevicesAway_ = false;                ///< The old VMM, for good.
    std::vector<ChildProcess> companions_;        ///< What the old VMM's wrapper script had started beside it.
    std::optional<Clock::time_point> stoppedAt_;  ///< When STOP was said; none while the guest runs.
    UniqueFd savedState_;                         ///< save-restore, vmm-exec: the file, which has no name.

    // Design vmm-exec.
    UniqueFd inbox_;  ///< The old VMM's, shared with it.
    UniqueFd shim_;   ///< The program that the old VMM executes.
    std::unique_ptr<ShimTrial> shimTrial_;
    std::vector<RamBlock> ramBeforeExec_;
    bool rehearsalEnds_ = false;              ///< The new VMM's end is what is waited for.
    std::vector<std::string> execArguments_;  ///< Of that program.
    std::optional<std::pair<Event, std::string>> stopAsked_;
    bool executed_ = false;  ///< The process is the new VMM's now.
};

}  // namespace vh
