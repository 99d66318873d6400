#include "manager/handover/recovery.h"

#include <filesystem>
#include <utility>

#include "manager/handover/in_place.h"
#include "manager/resources/memory_files.h"
#include "manager/resources/memory_room.h"
#include "manager/resources/tap_guard.h"
#include "vmm-shim/exec_inbox.h"
#include "vmm-shim/qmp/vmm_state.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds patience{3'000};
/// For what lets a guest run: on a host with too much to do it takes its time, and there is nothing that a stopped guest would be
/// better served by.
constexpr milliseconds contPatience{30'000};
constexpr milliseconds silencePatience{15'000};   ///< For a VMM that does what a manager told it before that died.
constexpr milliseconds executedPatience{20'000};  ///< For a VMM that is just being executed.

const VmmRecord& oldOf(const VmRecord& record) {
    return record.retiring ? *record.retiring : record.vmm;
}

VmmRecord newOf(const VmRecord& record) {
    if (record.retiring) return record.vmm;
    return record.new_.value_or(VmmRecord{});
}

std::string pidOf(const VmmProcess& vmm) {
    return "pid " + std::to_string(vmm.record().pid);
}

}  // namespace

Recovery::Recovery(VmRecord record, VmDirectory directory, Done done)
    : record_(std::move(record)),
      directory_(std::move(directory)),
      done_(std::move(done)),
      old_(oldOf(record_), directory_.generation(oldOf(record_).generation)),
      new_(newOf(record_), directory_.generation(newOf(record_).generation)) {
    // From the next turn, so that no answer comes before the constructor is through.
    timer_ = EventSource::after(milliseconds(0), [this] { guarded([this] { begin(); }); });
}

void Recovery::guarded(const std::function<void()>& step) {
    try {
        step();
    } catch (const std::exception& error) {
        finish(error.what());
    }
}

void Recovery::begin() {
    if (!record_.starting && !record_.retiring && isOneProcess() && new_.alive()) {
        askUntil_ = std::chrono::steady_clock::now() + executedPatience;
        return askWhich();
    }
    facts_ = {.vm = directory_.vm(),
              .starting = record_.starting,
              .retiring = record_.retiring.has_value(),
              .toldToRun = record_.toldToRun && !isOneProcess(),
              .hasDevicesPassed = !record_.passthrough.empty()};
    askUntil_ = std::chrono::steady_clock::now() + silencePatience;
    judge();
}

void Recovery::judge() {
    facts_.oldVmm.pid = old_.record().pid;
    facts_.newVmm.pid = new_.record().pid;
    facts_.oldVmm.isAlive = old_.alive();
    facts_.newVmm.isAlive = new_.alive();
    const RecoveryVerdict verdict = judgeRecovery(facts_);
    switch (verdict.step) {
        case RecoveryVerdict::AskOld:
            return askHow(old_, facts_.oldVmm);
        case RecoveryVerdict::AskNew:
            return askHow(new_, facts_.newVmm);
        case RecoveryVerdict::KeepStart:
            return keepStart();
        case RecoveryVerdict::UndoStart:
            return undoStart();
        case RecoveryVerdict::EndAndUndoStart:
            return end(old_, [this] { undoStart(); });
        case RecoveryVerdict::KeepOld:
            return keepOld();
        case RecoveryVerdict::KeepNew:
            return keepNew();
        case RecoveryVerdict::EndNew:
            return endNew();
        case RecoveryVerdict::LetNewRun:
            return letNewRun(verdict.why);
        case RecoveryVerdict::LeaveBoth:
            if (!askTheSilentAgain()) finish(verdict.why);
    }
}

bool Recovery::askTheSilentAgain() {
    bool isAnySilent = false;
    for (RecoveryFacts::Vmm* vmm : {&facts_.oldVmm, &facts_.newVmm})
        if (vmm->isAlive && vmm->says == RunState::Unsaid && vmm->word.empty()) {
            vmm->says.reset();
            isAnySilent = true;
        }
    if (!isAnySilent || std::chrono::steady_clock::now() > askUntil_) return false;
    timer_ = EventSource::after(milliseconds(20), [this] { guarded([this] { judge(); }); });
    return true;
}

void Recovery::askHow(VmmProcess& vmm, RecoveryFacts::Vmm& known) {
    ask(vmm, "query-status", nullptr, [this, &known](const QmpReply& reply) {
        known.word = reply.text("status");
        known.says = runStateOf(known.word);
        judge();
    });
}

void Recovery::ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, QmpClient::ReplyHandler done) {
    const auto answered = [this, &vmm, command, arguments, done](const QmpReply& reply) {
        guarded([&] {
            if (command != "query-status" || !reply.ok() || vmm.hasOwnAnswer()) return done(reply);
            // Both VMMs of an adopted VM listen on one monitor socket, and the other one took the call.
            vmm.closeMonitor();
            if (--callsLeft_ <= 0) return done({{}, QmpError{"Closed", "another process answers on its monitor"}});
            timer_ = EventSource::after(milliseconds(20),
                                        [this, &vmm, command, arguments, done] { ask(vmm, command, arguments, done); });
        });
    };
    try {
        vmm.monitor().execute(command, arguments, command == "cont" ? contPatience : patience, answered);
    } catch (const std::exception& error) {
        timer_ = EventSource::after(milliseconds(0),
                                    [answered, reply = QmpReply{{}, QmpError{"Closed", error.what()}}] { answered(reply); });
    }
}

void Recovery::keepStart() {
    record_.starting = false;
    directory_.write(record_);
    finish({});
}

void Recovery::undoStart() {
    undone_ = true;
    finish({});
}

void Recovery::letNewRun(const std::string& why) {
    // The old one is asked (again): what it said was about the time before.
    const auto judgeAsRunning = [this] {
        facts_.toldToRun = true;
        facts_.newVmm.says = RunState::Running;
        facts_.oldVmm.says.reset();
        judge();
    };
    if (!record_.guestWasRunning) return judgeAsRunning();
    try {
        if (!record_.adopted) joinBridges(record_.definition(), new_.record().pid);
    } catch (const std::exception& error) {
        return finish(std::string("the new VMM's network: ") + error.what());
    }
    ask(new_, "cont", nullptr, [this, why, judgeAsRunning](const QmpReply& answer) {
        if (answer.ok()) return announce(judgeAsRunning);
        finish(why + ", and the new one, " + pidOf(new_) + ", does not start the guest: " + answer.error->description);
    });
}

/// A new VMM that runs the guest, in place of the manager that had told it not to announce that by itself. Once: a handover does
/// it before it writes down that only the new VMM is left.
void Recovery::announce(std::function<void()> then) {
    if (!record_.new_ || std::exchange(announced_, true)) return then();
    ask(new_, "announce-self", announcements(), [then = std::move(then)](const QmpReply&) { then(); });
}

void Recovery::againSoon(void (Recovery::*step)(), const std::string& problem) {
    // The process's end settles it: then there is no VMM left.
    if (!new_.alive()) return settle(new_.record(), old_.record().generation);
    if (std::chrono::steady_clock::now() > askUntil_) return finish(problem + "; a person must look at " + pidOf(new_));
    timer_ = EventSource::after(milliseconds(20), [this, step] { guarded([this, step] { (this->*step)(); }); });
}

void Recovery::askWhich() {
    const auto unless = [this](const QmpReply& reply) {
        if (reply.ok()) return false;
        // Refused or hung up on: its listening socket went with the old VMM. One that is silent may be either, and is asked
        // again.
        const bool isSilent = reply.error->errorClass == "Timeout";
        old_.closeMonitor();
        isSilent ? againSoon(&Recovery::askWhich, "its VMM does not answer") : askExecuted();
        return true;
    };
    ask(old_, "query-migrate", nullptr, [this, unless](const QmpReply& migration) {
        if (unless(migration)) return;
        ask(old_, "query-status", nullptr, [this, unless, migration](const QmpReply& reply) {
            if (unless(reply)) return;
            // `completed` may be that of the migration that this VMM came from; its own stops the guest first, and then executes.
            const MigrationStatus status = migrationStatusOf(migration.text("status"));
            const RunState runState = runStateOf(reply.text("status"));
            const bool isStopped = runState == RunState::PostMigrate || runState == RunState::FinishMigrate;
            if (cameToNothing(status) || (status == MigrationStatus::Completed && !isStopped)) return keepOld();
            if (!std::exchange(cancelled_, true)) old_.monitor().execute("migrate_cancel", nullptr, patience, nullptr);
            againSoon(&Recovery::askWhich, "the old VMM's migration does not end");
        });
    });
}

void Recovery::askExecuted() {
    ask(new_, "query-status", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok()) {
            new_.closeMonitor();
            // Not long ago the process may have been neither: between its two monitors it executes one program after another.
            return againSoon(&Recovery::askWhich, "neither the old VMM nor the one that it was to execute answers");
        }
        const RunState runState = runStateOf(reply.text("status"));
        if (runState == RunState::Unsaid) return againSoon(&Recovery::askExecuted, "the executed VMM does not say how it is");
        if (runState == RunState::InMigrate) return takeStateIn();
        if (runState == RunState::Paused) return runExecuted();
        keepExecuted();
    });
}

void Recovery::takeStateIn() {
    ask(new_, "query-migrate", nullptr, [this](const QmpReply& reply) {
        const bool isFresh = reply.ok() && migrationStatusOf(reply.text("status")) == MigrationStatus::None;
        if (isFresh && !std::exchange(incoming_, true)) {
            new_.monitor().execute("migrate-set-parameters", {{"announce-rounds", 0}}, patience, nullptr);  // See announce().
            new_.monitor().execute("migrate-incoming", fdsetChannel(stateFdset), patience, nullptr);
        }
        againSoon(&Recovery::askExecuted, "the executed VMM does not take the devices' state in");
    });
}

void Recovery::runExecuted() {
    if (!record_.guestWasRunning) return keepExecuted();
    try {
        joinBridges(record_.definition(), new_.record().pid);
    } catch (const std::exception& error) {
        return finish(std::string("the executed VMM's network: ") + error.what());
    }
    ask(new_, "cont", nullptr, [this](const QmpReply& answer) {
        if (answer.ok()) return keepExecuted();
        finish("the executed VMM does not start the guest: " + answer.error->description);
    });
}

void Recovery::keepExecuted() {
    announce([this] {
        ask(new_, "remove-fd", {{"fdset-id", stateFdset}},
            [this](const QmpReply&) { settle(new_.record(), old_.record().generation); });
    });
}

/// What a manager that died had put into a VMM that was not executed over; its monitor is connected.
void Recovery::emptyInbox() {
    if (!isOneProcess()) return;
    try {
        takeParcels(takeInbox(old_.record(), old_.directory()).get());
    } catch (const std::exception&) {
        // The next handover empties it, or says why it cannot.
    }
}

void Recovery::keepNew() {
    announce([this] {
        if (!old_.alive()) return doAfterwards(0);
        retireOld();
    });
}

void Recovery::retireOld() {
    // Should this manager die, too, nobody has to ask again, and an old VMM that is about to end could not answer.
    record_.retiring = old_.record();
    record_.vmm = new_.record();
    spare(new_.record());
    record_.forgetHandover();
    directory_.write(record_);
    end(
        old_, [this] { doAfterwards(0); }, [this] { leaveOld(); });
}

/// What would have to come afterwards has to wait for its end.
void Recovery::leaveOld() {
    if (!new_.alive())
        return finish("the new VMM has ended, and the guest with it, and the old one, " + pidOf(old_) +
                      ", does not end, not even by SIGKILL, so the kernel holds it, and what it has open of the guest's");
    removeSockets(new_.record());
    finish({});
}

/// See AdoptedVm. What the new VMM refuses it may have done already.
void Recovery::doAfterwards(std::size_t next) {
    if (!record_.adopted || next == record_.adopted->afterwards.size()) return settle(new_.record(), old_.record().generation);
    const AdoptedVm::Command& command = record_.adopted->afterwards[next];
    ask(new_, command.execute, command.arguments, [this, next](const QmpReply&) { doAfterwards(next + 1); });
}

void Recovery::endNew() {
    // As in a handover that goes back: a CPR exchange is cancelled first, for the new VMM's end would make the old one go ahead.
    ask(old_, "migrate_cancel", nullptr, [this](const QmpReply&) {
        const auto goBack = [this] {
            old_.closeMonitor();  // Both VMMs of an adopted VM listen on one monitor socket: this may have been the new one's.
            keepOld();
        };
        end(new_, goBack, [this, goBack] {
            left_ = new_.record();
            goBack();
        });
    });
}

void Recovery::keepOld() {
    if (!old_.alive()) return settle(old_.record(), new_.record().generation);
    try {
        if (record_.adopted) TapGuard(*record_.adopted, old_.record().pid).restore();
    } catch (const std::exception& error) {
        return finish(error.what());
    }
    letOldRun();
}

void Recovery::letOldRun() {
    ask(old_, "query-status", nullptr, [this](const QmpReply& reply) {
        const RunState runState = runStateOf(reply.text("status"));
        if (!reply.ok()) return finish("the old VMM does not answer: " + reply.error->description);
        if (runState == RunState::Unsaid) return finish("the old VMM, " + pidOf(old_) + ", does not say how it is");
        if (!record_.passthrough.empty() && runState == RunState::PostMigrate)
            return finish("the new VMM is gone, and the old one, " + pidOf(old_) +
                          ", has given the guest's devices away: on it the guest would wait for them for ever; destroy the VM "
                          "and start it again");
        const auto settled = [this] {
            // As found before the handover, whatever that had set.
            emptyInbox();
            for (const int fdset : {stateFdset, shimFdset})
                old_.monitor().execute("remove-fd", {{"fdset-id", fdset}}, patience, nullptr);
            ask(old_, "migrate-set-parameters", {{"mode", "normal"}}, [this](const QmpReply&) {
                cutBackMemoryFiles(old_.record().pid, record_.memoryBefore);
                settle(old_.record(), new_.record().generation);
            });
        };
        if (runState == RunState::Running || !record_.guestWasRunning) return settled();
        ask(old_, "cont", nullptr, [this, settled](const QmpReply& answer) {
            if (answer.ok()) return settled();
            // A migration that was cancelled just now takes a moment to let go of the guest; it says so at once.
            if (--attemptsLeft_ == 0 || answer.error->errorClass == "Timeout")
                return finish("the old VMM does not start the guest: " + answer.error->description);
            timer_ = EventSource::after(milliseconds(20), [this] { guarded([this] { letOldRun(); }); });
        });
    });
}

void Recovery::end(VmmProcess& vmm, std::function<void()> then, std::function<void()> otherwise) {
    if (!otherwise)
        otherwise = [this, &vmm] { finish(pidOf(vmm) + " does not end, not even by SIGKILL, so the kernel holds it"); };
    vmm.process().onExit([this, then = std::move(then)] {
        timer_.reset();
        guarded(then);
    });
    // Much memory, or devices that have to be let go of, take their time.
    timer_ = EventSource::after(record_.definition().handover.deadlines.retire, [this, &vmm, otherwise = std::move(otherwise)] {
        vmm.process().ignoreExit();
        guarded(otherwise);
    });
    vmm.process().killAll();
}

/// While a handover lasts, it is the new VMM that the kernel is to end first when memory runs out.
void Recovery::spare(const VmmRecord& kept) {
    if (const auto score = std::exchange(record_.oomScore, std::nullopt);
        score && Process(kept.pid).startTime() == kept.startTime)
        setOomScore(kept.pid, *score);
}

void Recovery::settle(const VmmRecord& kept, unsigned goneGeneration) {
    record_.vmm = kept;
    spare(kept);
    record_.forgetHandover();
    record_.retiring = left_;
    if (left_ && record_.adopted) record_.adopted->afterwards.clear();  // They are the new VMM's.
    try {
        directory_.write(record_);
        if (!left_) directory_.removeGeneration(goneGeneration);
        removeSockets(kept);
        finish({});
    } catch (const std::exception& error) {
        const bool lives = Process(kept.pid).startTime() == kept.startTime;
        finish(std::string("it could not be written down: ") + error.what() +
               (lives ? ". The guest is on pid " + std::to_string(kept.pid) : "") +
               "; mend that (is there space left?) and run the command again");
    }
}

/// Those of the manager that died: a relay's, and the one on which a command that held an upgrade was told to commit it.
void Recovery::removeSockets(const VmmRecord& kept) const {
    std::error_code ignored;
    for (const std::string& socket : {relayPath(directory_.generation(kept.generation)), managerSocket(directory_.path())})
        std::filesystem::remove(socket, ignored);
}

void Recovery::finish(std::string problem) {
    timer_.reset();
    for (VmmProcess* vmm : {&old_, &new_}) vmm->process().ignoreExit();
    callSoon([done = std::exchange(done_, nullptr), record = undone_ ? std::nullopt : std::optional(record_),
              problem = std::move(problem)] {
        if (done) done(record, problem);
    });
}

}  // namespace vh
