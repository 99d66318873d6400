// The VMs of this host, and every verb on them. The daemon serves it over D-Bus, `virt-handover --embed` runs it in its own
// process.
//
// There is no state in here but work under way, and how upgrades that stood by have ended: what is known of a VM is its record on
// disk and its VMM process, so any number of managers may come and go. One lock a VM keeps two verbs from working on it at once,
// also across processes.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "manager/handover/handover.h"
#include "manager/handover/recovery.h"
#include "manager/handover/start.h"
#include "manager/record/vm_directory.h"
#include "manager/service/verbs.h"
#include "manager/service/vm_summary.h"
#include "manager/vmm/guest_states.h"
#include "manager/vmm/strays.h"

namespace vh {

class Host : public Verbs {
 public:
    Host(const std::string& runtimeDirectory, std::string definitionDirectory);
    ~Host() override;

    void start(const std::string& what, std::optional<std::chrono::milliseconds> waitHeartbeat, Done done) override;
    void upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) override;
    void commit(const std::string& vm, Handover::Observer observer, Done done) override;
    void cancel(const std::string& vm, Done done) override;
    void shutdown(const std::string& vm, std::chrono::milliseconds timeout, Done done) override;
    void destroy(const std::string& vm, Done done) override;
    void list(Done done) override;
    void show(const std::string& vm, Done done) override;
    void console(const std::string& vm, Done done) override;

    // VMs that another manager started; there is no D-Bus method for these. Each answers like an upgrade.

    /// Hands a VM over of which only this file tells; answers with a report. It goes by the file as that is once the VM's lock is
    /// held. So whoever gave the order takes it back by removing the file and then asks recoverAdopted(), which needs the lock,
    /// too: either that waits for this handover and sees its end, or this handover finds no order, however late it comes.
    void adopt(const std::string& file, Handover::Observer observer, Done done);
    /// Finishes or undoes a handover of an adopted VM that was interrupted, and says which VMM it has: `vm`, `state` (`running`,
    /// `dead`, or `none` when no handover of it was ever begun), and of a running one `pid`, `startTime`, `binary`.
    void recoverAdopted(const std::string& vm, Done done);
    /// Removes what is kept of an adopted VM that has ended.
    void forgetAdopted(const std::string& vm, Done done);

    /// The end of this VM's last upgrade that stood by; none if there was no such.
    std::optional<HandoverReport> endedStandby(const std::string& vm) const;

    /// Told every line that a guest probe says while its VM is handed over. Port 0 is the old VMM's, 1 the new one's.
    using GuestListener = std::function<void(const std::string& vm, const HeardLine& line)>;
    void onGuestHeard(GuestListener listener) { guestListener_ = std::move(listener); }

    /// Told of what is about to happen to a VM that nobody but a person at work on it needs to know, a line each: which processes
    /// `destroy` ends, and what a verb waits for.
    void onNotice(std::function<void(const std::string&)> notice) { notice_ = std::move(notice); }

    /// Told once of each upgrade that has ended, however, and of each recovery; not of dry runs. For the log.
    void onEnded(std::function<void(const HandoverReport&)> ended) { ended_ = std::move(ended); }

    /// Refuses from now on to begin a start or an upgrade, for this reason; what is under way goes on. For a manager that is told
    /// to end, and would else wait for ever new ones.
    void beginNothingNew(Obstacle why) { beginsNothing_ = std::move(why); }
    /// Rolls back the handovers that still can be; for a manager that is told to end.
    void cancelHandovers(const std::string& why);
    bool handoverUnderWay() const;
    /// Calls once when no handover is under way any more.
    void whenIdle(std::function<void()> callback);

    /// Finishes or undoes what an earlier manager left half done, on every VM. Problems go to `report`, a line each.
    void recoverAll(const std::function<void(const std::string&)>& report);

 private:
    /// A verb at work on a VM; its end releases the lock.
    struct Work {
        std::string vm;
        UniqueFd lock;
        VmDirectory directory;
        Done done;
        bool isEnded = false;     ///< Set at the end: whatever calls back then finds nothing to end.
        bool isRecovery = false;  ///< Set when the work is nothing but a recovery: other verbs wait for its end.
        bool stoodBy = false;
        bool isCancelled = false;             ///< Somebody wants no further attempt, however late he has said so.
        Handover::Observer observer{};        ///< Observer of whoever committed an upgrade that stood by.
        std::vector<std::string> warnings{};  ///< Added to what the verb answers.
        std::string settledFirst{};           ///< Work that a recovery has done before that.
        /// The parts under way. They call back, and each callback holds the work: so they hold each other, until the end of the
        /// work drops its parts.
        struct Parts {
            std::unique_ptr<Start> start;
            std::unique_ptr<StrayCheck> strays;
            std::unique_ptr<Recovery> recovery;
            std::unique_ptr<Handover> handover;
            std::unique_ptr<VmmProcess> vmm;
            std::list<ChildProcess> ending;  ///< Processes that `destroy` ends.
            EventSource timer;
            EventSource ended;   ///< Of a process that `destroy` ends.
            EventSource answer;  ///< At the end of all.
        } parts{};
    };
    using Operation = std::shared_ptr<Work>;
    using Begun = std::function<void(const Operation&)>;

    /// Asks the VMMs of these VMs how their guests are, where the summary does not say it already.
    void fillStates(std::vector<VmSummary> vms, std::function<void(const std::vector<VmSummary>&)> then);
    VmDirectory directoryOf(const std::string& vm) const { return {runtimeDirectory_, vm}; }
    /// Begins an upgrade, which always answers with a report, also when there was no handover to report on.
    void beginUpgrade(const std::string& vm, const Done& done, const Begun& then);
    /// Waiting for the lock of a VM that somebody has.
    struct Wait {
        bool isEndless = false;
        bool isTold = false;  ///< The notice of it was given.
        std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
    };
    /// Begins an operation with its lock, or answers why not. Waits for a recovery of this VM by any manager, and for who only
    /// looks.
    void on(const std::string& vm, const Done& done, const Begun& then) { tryToBegin(vm, done, then, {}); }
    void tryToBegin(const std::string& vm, const Done& done, const Begun& then, Wait wait);
    /// Time that a verb waits.
    std::chrono::milliseconds timeoutWith(const std::string& vm) const;
    /// Says to other verbs, of this and of other managers, whether this one is settling what another one left half done.
    static void saySettling(const Operation& operation, bool isSo);
    void end(const Operation& operation, VerbResult result);
    /// Runs a step of an operation; what it throws is its answer.
    void guarded(const Operation& operation, const std::function<void()>& step);
    /// Gives back what a VM that has ended was given, and removes all that is known of it. Returns what could not be done.
    std::vector<std::string> removeEnded(const Operation& operation);
    /// Ends the operation of a verb that has ended the VM.
    void endWith(const Operation& operation, const std::string& state, nlohmann::json value = nlohmann::json::object());
    /// Sends SIGKILL; ends the operation when all have ended. `names` is what is answered of them.
    void endAll(const Operation& operation, const std::set<pid_t>& pids, const nlohmann::json& names);
    /// Keeps the report of a handover that had begun, and tells of it.
    void keepReport(const VmDirectory& directory, HandoverReport& report);
    /// VMs that a verb is for.
    enum class Whose { Ours, Anybodys };
    /// Gives the VM's record to `then`, after recovery if one is due. Ends the operation itself when there is none.
    void withRecord(const Operation& operation, const std::string& vm, std::function<void(VmRecord)> then,
                    Whose whose = Whose::Ours);
    /// Goes on with `then` when no process is left of this VM that may hold its guest, but for those on record; ends the
    /// operation itself if there is one.
    void settleStrays(const Operation& operation, const std::optional<VmRecord>& record, std::function<void()> then);
    /// Goes on when no start and no handover of it is half done; without a record when it was a start that was undone.
    void recover(const Operation& operation, const VmRecord& record, std::function<void(std::optional<VmRecord>)> then);
    void startAnew(const Operation& operation, const StartRequest& request);
    void runHandover(const Operation& operation, const HandoverRequest& request, const Handover::Observer& observer,
                     int attemptsLeft);
    void handedOver(const Operation& operation, const HandoverRequest& request, const Handover::Observer& observer,
                    int attemptsLeft, const HandoverReport& report);
    /// Lets handovers begin in the order in which they were asked for, so many at once that none pays with its deadlines for the
    /// others' work.
    void beginWaiting();
    /// The upgrade of this VM that stands by in this process, or else answers why there is none.
    Operation standingBy(const std::string& vm, const Done& done);

    std::string runtimeDirectory_;
    std::string definitionDirectory_;
    std::list<Operation> operations_;
    std::deque<Operation> waiting_;                        ///< Operations that wait for their handover to begin.
    std::map<std::string, HandoverReport> endedStandbys_;  ///< Reports of VMs whose upgrade stood by.
    std::map<unsigned, EventSource> attempts_;             ///< Attempts to begin on a VM that somebody else has.
    unsigned lastAttempt_ = 0;
    std::list<std::unique_ptr<GuestStates>> questions_;
    std::optional<Obstacle> beginsNothing_;  ///< Present when nothing new is to begin: why.
    std::function<void()> idleCallback_;
    EventSource idleAnswer_;
    std::function<void(const std::string&)> notice_;
    std::function<void(const HandoverReport&)> ended_;
    GuestListener guestListener_;
};

// Answers that the verbs have in common.
VerbResult failure(ExitCode code, const Obstacle& why);
VerbResult noSuchVm(const std::string& vm);

/// Summary of a VM in `list`, and in `show` and `start` among other things. Its `state` is empty where the VMM has to be asked.
VmSummary summary(const std::string& vm, const VmRecord& record, const VmDirectory& directory);

/// The obstacle that a VMM is which was sent SIGKILL and has not ended.
Obstacle leftBehind(const VmRecord& record);

}  // namespace vh
