// The course of a handover: everything that its parts share, and what moves it. No design is known here.
//
// Theory of operation. post() looks an event up in the table (handover_table.h) and enter() begins the next state's work; nothing
// else moves a handover. Work is asynchronous: monitor commands, monitor events, process exits and timers call back, and each
// callback is bound to the state it was started in (within()), so a late answer can never act in another state. A state's work
// that throws has failed. Three things are watched all the time: that either VMM dies, that a state outlives its deadline, and,
// from QEMU's STOP on, that the guest is stopped for longer than its pause budget.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/design.h"
#include "config/obstacle.h"
#include "manager/handover/handover_table.h"
#include "manager/process/event_loop.h"
#include "manager/record/report.h"
#include "manager/record/vm_directory.h"
#include "manager/resources/network_switch.h"
#include "manager/resources/resources.h"
#include "manager/vmm/binary_probe.h"
#include "manager/vmm/heartbeat.h"
#include "manager/vmm/vmm_process.h"
#include "vmm-shim/qmp/vmm_state.h"

namespace vh {

struct HandoverRequest {
    VmRecord record;
    /// The definition that the VM was started with, resolved; its handover block may be the file's of today.
    VmDefinition definition;
    Design design = defaultDesign;    ///< Design of this handover; the definition's own may be another.
    std::string binary;               ///< Program of the new VMM.
    std::optional<Obstacle> refusal;  ///< Obstacle found before there was a handover.
    bool dryRun = false;
    std::vector<std::string> warnings;  ///< Warnings of the request and of an earlier attempt, for the report.
    unsigned timesStartedOver = 0;      ///< New attempts so far, because the old VMM had changed under an earlier one.
    bool standby = false;               ///< Hold before the guest is stopped, until commit().
    HeartbeatMonitor::Listener heard;   ///< Told every line of the guest probe, for who wants to know more than the report says.
};

/// The state that begins, for an observer, before anything is done in it.
struct HandoverProgress {
    State state;
    double atMs;
    pid_t oldPid;
    pid_t newPid;  ///< 0 while there is none.
    bool stopped;  ///< QEMU said that the guest is stopped.
    /// What the new VMM was started with; none in a process that only asked for the handover.
    std::vector<NamedIdentity> inherited{};
};

using HandoverObserver = std::function<void(const HandoverProgress&)>;

/// Deadline of steps that no definition sets one for: preflight, confirming, going back.
constexpr std::chrono::milliseconds stepTimeout{10'000};
/// Deadline of commands that only tidy up: they must not make a resumed guest a lost one.
constexpr std::chrono::milliseconds tidyTimeout{2'000};

/// Time that the new VMM's guest may be silent, in Retiring, before a person is told; see guest_beats.cpp.
constexpr std::chrono::milliseconds silenceTimeout{6'000};

class Course {
 public:
    using Clock = std::chrono::steady_clock;
    struct Command {
        VmmProcess* vmm;
        std::string name;
        nlohmann::json arguments;
    };
    Course(HandoverRequest request, VmDirectory directory, HandoverObserver observer);
    Course(const Course&) = delete;
    virtual ~Course() = default;

    // The work of a state, and the news that it hears.
    /// Called when a state is about to begin, and nobody has been told yet.
    virtual void entering(State state) = 0;
    /// Begins the work of a state that is not final.
    virtual void begin(State state) = 0;
    virtual void finish() = 0;
    /// Called for an event that changes nothing in this state.
    virtual void unheeded(Event event, const std::string& cause) = 0;
    /// Called when the new VMM's process is there, and all that it has inherited.
    virtual void newVmmIsThere() = 0;
    virtual void newVmmEnded() = 0;
    virtual void guestHasStopped() = 0;
    /// Called when a VMM has told how its migration is.
    virtual void migrated(bool byOld) = 0;

    State state() const { return state_; }
    void enter(State state);
    void post(Event event, const std::string& cause);
    void fail(const std::string& cause) { post(Event::Failed, cause); }
    void done() { post(Event::Done, {}); }
    /// Fails the state soon: when the new VMM is dying of what went wrong, its death and the end of its stderr are the better
    /// cause.
    void failUnlessNewDies(const std::string& cause);
    /// Posts the unexpected end of a VMM: how it ended, and the end of its stderr, are the cause.
    void postOldDied();
    void postNewDied();

    /// Wraps a callback so that it acts only while the handover is still in today's state, and so that its exceptions fail that
    /// state.
    template <class Callback>
    auto within(Callback callback) {
        return [this, epoch = epoch_, callback = std::move(callback)](auto&&... arguments) {
            if (epoch != epoch_) return;
            try {
                callback(std::forward<decltype(arguments)>(arguments)...);
            } catch (const std::exception& error) {
                fail(error);
            }
        };
    }
    void fail(const std::exception& error);
    /// Calls back in this state, once; a later call takes the place of an earlier one.
    void after(std::chrono::milliseconds delay, std::function<void()> callback);
    void cancelTimer() { timer_.reset(); }
    /// Sets the state's deadline anew, from now on.
    void restartDeadline(const std::string& what);

    /// Sends a command; `then` gets the answer, whatever it is, if the state is still the same.
    void send(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, std::function<void(const QmpReply&)> then,
              UniqueFd descriptor = {});
    /// Sends a command like send(); an answer that is an error fails the state.
    void ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, std::function<void(const QmpReply&)> then,
             UniqueFd descriptor = {});
    /// Sends commands one after another; an answer that is an error fails the state.
    void run(std::vector<Command> commands, std::function<void()> then);
    /// Sends a command that only tidies up: goes on whatever the answer, or without one.
    void tidy(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, std::function<void()> then);
    void gatherRam(VmmProcess& vmm, std::function<void(std::vector<RamBlock>)> then);
    /// Gathers RAM blocks to be compared: what comes is what the vmstate section of it says (vmm-shim/ram_block_section.h), which
    /// is kept with the VMM. What no section holds fails the state.
    void exchangeRam(VmmProcess& vmm, std::function<void(std::vector<RamBlock>)> then);
    /// Asks what keeps the old VMM from migrating, in the mode that is set (migration/migration.c:fill_source_migration_info,
    /// 10.0 and 11.1).
    void askForBlockers(std::function<void(const std::vector<std::string>&)> then);

    /// Listens to a VMM's events; to be called after every connection to its monitor.
    void listenTo(VmmProcess& vmm);
    bool guestIsStopped() const { return stoppedAt_.has_value(); }
    void dropPauseBudget() { pauseBudget_.reset(); }

    std::chrono::milliseconds deadlineOf(State state) const;
    double sinceBeginMs() const { return std::chrono::duration<double, std::milli>(Clock::now() - begun_).count(); }
    std::string errorText(const VmmProcess& vmm, const std::string& command, const QmpError& error) const;
    std::string describe(const VmmProcess& vmm) const { return &vmm == oldVmm.get() ? "the old VMM" : "the new VMM"; }
    Identity identity() const;  ///< User that the VMMs run as.

    /// Writes the record where a failure must not stop what is being done: only a manager that comes after this one's death goes
    /// by the record, and one that is out of date makes it ask more.
    void keepRecord();
    void warn(const std::string& what) { report.warnings.push_back(what); }

    VmRecord& record() { return request.record; }
    const VmRecord& record() const { return request.record; }
    const VmDefinition& definition() const { return request.definition; }
    bool passesThrough() const { return !request.record.passthrough.empty(); }
    /// True when the guest is heard on the heartbeat port of both VMMs: it is told of any change of connection, and should see
    /// none (hw/char/virtio-serial-bus.c:virtio_serial_post_load_timer_cb, 10.0).
    bool listensToGuest() const { return request.definition.heartbeat && wasRunning; }
    WayBack wayBack() const;
    bool isBeforePointOfNoReturn() const { return vh::isBeforePointOfNoReturn(state_, wayBack()); }
    /// True when the new VMM has taken the guest in, or is still at it: one whose stream was cut off says that it failed, and
    /// ends.
    bool newMayHoldGuest() const { return newMigration == MigrationStatus::Completed || newMigration == MigrationStatus::Active; }
    /// True when the new VMM is, or is going to be, executed by the old one in its own process: that is never ended for a
    /// handover's sake.
    bool isOneProcess() const { return newVmm && newVmm->record().pid == oldVmm->record().pid; }

    HandoverRequest request;
    VmDirectory directory;
    const DesignRow& design;
    HandoverReport report;

    std::unique_ptr<VmmProcess> oldVmm, newVmm;
    VmmBinary newBinary;
    HeartbeatMonitor heartbeat;
    std::optional<NetworkSwitch> network;  ///< Present from the switch on, until one of the VMMs runs the guest.
    std::vector<NamedDescriptor> devices;  ///< The manager's own descriptors of passed-through devices.

    bool wasRunning = true;      ///< The guest ran before the handover; a paused one stays paused.
    bool configuredOld = false;  ///< Migration settings of the old VMM were changed.
    bool migrateSent = false;
    bool committed = false;
    bool stoppedByMigration = false;  ///< The guest was stopped by the migration; not before, by a command of ours.
    bool oldLetGo = false;            ///< Standing by: the old VMM runs the guest as if there were no handover.
    bool confirming = false;          ///< The new VMM was, or was about to be, told to run the guest.
    /// State in each VMM's latest MIGRATION event; `None`: there was no such.
    MigrationStatus oldMigration = MigrationStatus::None, newMigration = MigrationStatus::None;

 protected:
    void observe(HandoverObserver observer) { observer_ = std::move(observer); }

 private:
    void guestStopped(Clock::time_point at);
    void guestResumed(Clock::time_point at);

    const Clock::time_point begun_ = Clock::now();
    HandoverObserver observer_;
    State state_ = State::Preflight;
    unsigned epoch_ = 0;  ///< Counts the states entered; see within().
    EventSource deadline_, pauseBudget_, timer_;
    std::optional<Clock::time_point> stoppedAt_;  ///< Time of STOP; none while the guest runs.
};

/// `250 ms`
std::string inMilliseconds(std::chrono::milliseconds duration);

}  // namespace vh
