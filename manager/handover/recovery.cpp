#include "manager/handover/recovery.h"

#include <utility>

#include "manager/handover/steps.h"
#include "manager/resources/memory_files.h"
#include "manager/resources/tap_guard.h"
#include "vmm-shim/qmp/vmm_state.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds busyTimeout{15'000};  ///< For a VMM that does what a manager told it before that died.

}  // namespace

// From the next turn, so that no answer comes before the constructor is through.
Recovery::Recovery(VmRecord known, VmDirectory where, Done done)
    : RecoveryCourse(std::move(known), std::move(where), std::move(done)) {
    after(milliseconds(0), [this] { begin(); });
}

void Recovery::begin() {
    RecoveryCourse& course = *this;
    if (ExecRecovery::isDue(course)) return exec_.emplace(course, [this] { keepOld(); }).begin();
    facts_ = {.vm = directory.vm(),
              .starting = record.starting,
              .retiring = record.retiring.has_value(),
              // One process that has ended: neither of the two is there.
              .toldToRun = record.toldToRun && oldVmm.record().pid != newVmm.record().pid,
              .hasDevicesPassed = !record.passthrough.empty()};
    askUntil_ = std::chrono::steady_clock::now() + busyTimeout;
    judge();
}

void Recovery::judge() {
    facts_.oldVmm.pid = oldVmm.record().pid;
    facts_.newVmm.pid = newVmm.record().pid;
    facts_.oldVmm.isAlive = oldVmm.alive();
    facts_.newVmm.isAlive = newVmm.alive();
    const RecoveryVerdict verdict = judgeRecovery(facts_);
    switch (verdict.step) {
        case RecoveryVerdict::AskOld:
            return askHow(oldVmm, facts_.oldVmm);
        case RecoveryVerdict::AskNew:
            return askHow(newVmm, facts_.newVmm);
        case RecoveryVerdict::KeepStart:
            return keepStart();
        case RecoveryVerdict::UndoStart:
            return undoStart();
        case RecoveryVerdict::EndAndUndoStart:
            return end(oldVmm, [this] { undoStart(); });
        case RecoveryVerdict::KeepOld:
            return keepOld();
        case RecoveryVerdict::KeepNew:
            return keepNew();
        case RecoveryVerdict::EndNew:
            return endNew();
        case RecoveryVerdict::LetNewRun:
            return letNewRun(verdict.why + ", and the new one, " + pidOf(newVmm) + ",", [this] { judgeAsRunning(); });
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
    after(milliseconds(20), [this] { judge(); });
    return true;
}

void Recovery::askHow(VmmProcess& vmm, RecoveryFacts::Vmm& known) {
    ask(vmm, "query-status", nullptr, answerTimeout, [this, &known](const QmpReply& reply) {
        known.word = reply.text("status");
        known.says = runStateOf(known.word);
        judge();
    });
}

/// The old one is asked (again): what it said was about the time before.
void Recovery::judgeAsRunning() {
    facts_.toldToRun = true;
    facts_.newVmm.says = RunState::Running;
    facts_.oldVmm.says.reset();
    judge();
}

void Recovery::keepStart() {
    record.starting = false;
    directory.write(record);
    finish({});
}

void Recovery::undoStart() {
    startUndone = true;
    finish({});
}

void Recovery::keepNew() {
    announce([this] {
        if (!oldVmm.alive()) return doAfterwards(0);
        retireOld();
    });
}

void Recovery::retireOld() {
    // Should this manager die, too, nobody has to ask again, and an old VMM that is about to end could not answer.
    record.retiring = oldVmm.record();
    record.vmm = newVmm.record();
    spare(newVmm.record());
    record.forgetHandover();
    directory.write(record);
    end(
        oldVmm, [this] { doAfterwards(0); }, [this] { leaveOld(); });
}

/// What would have to come afterwards has to wait for its end.
void Recovery::leaveOld() {
    if (!newVmm.alive())
        return finish("the new VMM has ended, and the guest with it, and the old one, " + pidOf(oldVmm) +
                      ", does not end, not even by SIGKILL, so the kernel holds it, and what it has open of the guest's");
    removeSockets(newVmm.record());
    finish({});
}

/// See AdoptedVm. What the new VMM refuses it may have done already.
void Recovery::doAfterwards(std::size_t next) {
    if (!record.adopted || next == record.adopted->afterwards.size()) return settle(newVmm.record(), oldVmm.record().generation);
    const AdoptedVm::Command& command = record.adopted->afterwards[next];
    ask(newVmm, command.execute, command.arguments, answerTimeout, [this, next](const QmpReply&) { doAfterwards(next + 1); });
}

void Recovery::endNew() {
    // As in a handover that goes back: a CPR exchange is cancelled first, for the new VMM's end would make the old one go ahead.
    ask(oldVmm, "migrate_cancel", nullptr, answerTimeout, [this](const QmpReply&) {
        const auto goBack = [this] {
            oldVmm.closeMonitor();  // Both VMMs of an adopted VM listen on one monitor socket: this may have been the new one's.
            keepOld();
        };
        end(newVmm, goBack, [this, goBack] {
            left = newVmm.record();
            goBack();
        });
    });
}

void Recovery::keepOld() {
    if (!oldVmm.alive()) return settle(oldVmm.record(), newVmm.record().generation);
    try {
        if (record.adopted) TapGuard(*record.adopted, oldVmm.record().pid).restore();
    } catch (const std::exception& error) {
        return finish(error.what());
    }
    letOldRun();
}

void Recovery::letOldRun() {
    ask(oldVmm, "query-status", nullptr, answerTimeout, [this](const QmpReply& reply) {
        const RunState runState = runStateOf(reply.text("status"));
        if (!reply.ok()) return finish("the old VMM does not answer: " + reply.error->description);
        if (runState == RunState::Unsaid) return finish("the old VMM, " + pidOf(oldVmm) + ", does not say how it is");
        if (!record.passthrough.empty() && runState == RunState::PostMigrate)
            return finish("the new VMM is gone, and the old one, " + pidOf(oldVmm) +
                          ", has given the guest's devices away: on it the guest would wait for them for ever; destroy the VM "
                          "and start it again");
        const auto settled = [this] {
            // As found before the handover, whatever that had set.
            if (exec_) exec_->emptyInbox();
            for (const int fdset : {stateFdset, shimFdset})
                oldVmm.monitor().execute("remove-fd", {{"fdset-id", fdset}}, answerTimeout, nullptr);
            oldVmm.monitor().execute("migrate-set-capabilities", noMigrationCapabilities(), answerTimeout, nullptr);
            oldVmm.monitor().execute("migrate-set-parameters", record.parametersBefore, answerTimeout, nullptr);
            ask(oldVmm, "migrate-set-parameters", {{"mode", "normal"}}, answerTimeout, [this](const QmpReply&) {
                cutBackMemoryFiles(oldVmm.record().pid, record.memoryBefore);
                settle(oldVmm.record(), newVmm.record().generation);
            });
        };
        if (runState == RunState::Running || !record.guestWasRunning) return settled();
        ask(oldVmm, "cont", nullptr, contTimeout, [this, settled](const QmpReply& answer) {
            if (answer.ok()) return settled();
            // A migration that was cancelled just now takes a moment to let go of the guest; it says so at once.
            if (--attemptsLeft_ == 0 || answer.error->errorClass == "Timeout")
                return finish("the old VMM does not start the guest: " + answer.error->description);
            after(milliseconds(20), [this] { letOldRun(); });
        });
    });
}

void Recovery::end(VmmProcess& vmm, std::function<void()> then, std::function<void()> otherwise) {
    if (!otherwise)
        otherwise = [this, &vmm] { finish(pidOf(vmm) + " does not end, not even by SIGKILL, so the kernel holds it"); };
    vmm.process().onExit([this, then = std::move(then)] {
        timer.reset();
        guarded(then);
    });
    // Much memory, or devices that have to be let go of, take their time.
    after(record.definition().handover.deadlines.retire, [&vmm, otherwise = std::move(otherwise)] {
        vmm.process().ignoreExit();
        otherwise();
    });
    vmm.process().killAll();
}

}  // namespace vh
