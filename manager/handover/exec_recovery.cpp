#include "manager/handover/exec_recovery.h"

#include <utility>

#include "manager/handover/in_place.h"
#include "vmm-shim/exec_inbox.h"
#include "vmm-shim/qmp/vmm_state.h"

namespace vh {

using std::chrono::milliseconds;

bool ExecRecovery::isDue(const RecoveryCourse& course) {
    const VmRecord& record = course.record;
    return !record.starting && !record.retiring && course.oldVmm.record().pid == course.newVmm.record().pid &&
           course.newVmm.alive();
}

void ExecRecovery::askWhich() {
    const auto unless = [this](const QmpReply& reply) {
        if (reply.ok()) return false;
        // Refused or hung up on: its listening socket went with the old VMM. One that is silent may be either, and is asked
        // again.
        const bool isSilent = reply.error->errorClass == "Timeout";
        course_.oldVmm.closeMonitor();
        isSilent ? againSoon(&ExecRecovery::askWhich, "its VMM does not answer") : askExecuted();
        return true;
    };
    course_.ask(course_.oldVmm, "query-migrate", nullptr, answerTimeout, [this, unless](const QmpReply& migration) {
        if (unless(migration)) return;
        course_.ask(course_.oldVmm, "query-status", nullptr, answerTimeout, [this, unless, migration](const QmpReply& reply) {
            if (unless(reply)) return;
            // `completed` may be that of the migration that this VMM came from; its own stops the guest first, and then executes.
            const MigrationStatus status = migrationStatusOf(migration.text("status"));
            const RunState runState = runStateOf(reply.text("status"));
            const bool isStopped = runState == RunState::PostMigrate || runState == RunState::FinishMigrate;
            if (cameToNothing(status) || (status == MigrationStatus::Completed && !isStopped)) return keepOld_();
            if (!std::exchange(cancelled_, true))
                course_.oldVmm.monitor().execute("migrate_cancel", nullptr, answerTimeout, nullptr);
            againSoon(&ExecRecovery::askWhich, "the old VMM's migration does not end");
        });
    });
}

void ExecRecovery::askExecuted() {
    course_.ask(course_.newVmm, "query-status", nullptr, answerTimeout, [this](const QmpReply& reply) {
        if (!reply.ok()) {
            course_.newVmm.closeMonitor();
            // Not long ago the process may have been neither: between its two monitors it executes one program after another.
            return againSoon(&ExecRecovery::askWhich, "neither the old VMM nor the one that it was to execute answers");
        }
        const RunState runState = runStateOf(reply.text("status"));
        if (runState == RunState::Unsaid) return againSoon(&ExecRecovery::askExecuted, "the executed VMM does not say how it is");
        if (runState == RunState::InMigrate) return takeStateIn();
        if (runState == RunState::Paused) return course_.letNewRun("the executed VMM", [this] { keepExecuted(); });
        keepExecuted();
    });
}

void ExecRecovery::takeStateIn() {
    course_.ask(course_.newVmm, "query-migrate", nullptr, answerTimeout, [this](const QmpReply& reply) {
        const bool wasNotTold = reply.ok() && migrationStatusOf(reply.text("status")) == MigrationStatus::None;
        if (wasNotTold && !std::exchange(incoming_, true)) {
            QmpClient& monitor = course_.newVmm.monitor();
            monitor.execute("migrate-set-parameters", {{"announce-rounds", 0}}, answerTimeout, nullptr);  // See announce().
            monitor.execute("migrate-incoming", fdsetChannel(stateFdset), answerTimeout, nullptr);
        }
        againSoon(&ExecRecovery::askExecuted, "the executed VMM does not take the devices' state in");
    });
}

void ExecRecovery::keepExecuted() {
    course_.announce([this] {
        course_.ask(course_.newVmm, "remove-fd", {{"fdset-id", stateFdset}}, answerTimeout,
                    [this](const QmpReply&) { course_.settle(course_.newVmm.record(), course_.oldVmm.record().generation); });
    });
}

void ExecRecovery::againSoon(void (ExecRecovery::*step)(), const std::string& problem) {
    // The process's end settles it: then there is no VMM left.
    if (!course_.newVmm.alive()) return course_.settle(course_.newVmm.record(), course_.oldVmm.record().generation);
    if (std::chrono::steady_clock::now() > askUntil_)
        return course_.finish(problem + "; a person must look at " + pidOf(course_.newVmm));
    course_.after(milliseconds(20), [this, step] { (this->*step)(); });
}

void ExecRecovery::emptyInbox() {
    try {
        takeParcels(takeInbox(course_.oldVmm.record(), course_.oldVmm.directory()).get());
    } catch (const std::exception&) {
        // The next handover empties it, or says why it cannot.
    }
}

}  // namespace vh
