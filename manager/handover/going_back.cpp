#include "manager/handover/going_back.h"

#include "manager/resources/memory_files.h"

namespace vh {

using std::chrono::milliseconds;

void GoingBack::discard() {
    course_.dropPauseBudget();
    if (std::exchange(course_.record().toldToRun, false)) course_.keepRecord();  // It answered that it does not run the guest.
    if (!course_.newVmm) return course_.done();
    newDiedByItself_ = !course_.newVmm->alive();
    // It has all of the guest, or may yet, and nobody else has: recovery.h has the next look at it.
    if (!course_.oldVmm->alive() && !newDiedByItself_ && course_.newMayHoldGuest())
        return course_.post(Event::OldDied, "the old VMM has ended, and the new one does not prove that it holds the guest");
    // The process is the guest's: there is nothing to end.
    const auto goOn = [this] { course_.isOneProcess() ? course_.done() : endNew(); };
    if (!course_.migrateSent || hasEnded(course_.oldMigration)) return goOn();
    // Cancelled before the new VMM goes: its end would be the hang-up that makes the old one go ahead.
    course_.tidy(*course_.oldVmm, "migrate_cancel", nullptr, goOn);
}

void GoingBack::endNew() {
    if (!course_.newVmm->alive()) return newGone();
    endedNew_ = true;
    course_.newVmm->process().killAll();
}

void GoingBack::newGone() {
    try {
        taps_.restore();
    } catch (const std::exception& error) {
        course_.warn(std::string(error.what()) + ": the guest's network may be dead");
    }
    const std::string words = newDiedByItself_ ? course_.newVmm->stderrTail() : std::string();
    // It may have said more since the cause was noted; the beginning is what tells.
    std::string& cause = course_.report.cause;
    if (!words.empty() && cause.find(words.substr(0, words.find(';'))) == std::string::npos)
        cause += "; the new VMM said: " + words;
    course_.done();
}

void GoingBack::resume() {
    steps_.letGo();
    VmmProcess& old = *course_.oldVmm;
    if (!old.alive()) return course_.post(Event::OldDied, course_.report.cause);
    if (!course_.isOneProcess()) removeNewGeneration();
    if (course_.oldLetGo) {  // It runs the guest as before: there is nothing to ask it, and its monitor is others'.
        undoGrowth();
        return course_.done();
    }
    if (old.monitor().closed()) {  // It may have had a bad moment: nothing but its monitor can say that it runs the guest.
        old.closeMonitor();
        course_.listenTo(old);
    }
    course_.ask(old, "query-migrate", nullptr, [this, &old](const QmpReply& reply) {
        const MigrationStatus migration = migrationStatusOf(reply.text("status"));
        if (migration != MigrationStatus::None && !hasEnded(migration))
            return course_.after(milliseconds(5), [this] { resume(); });
        course_.ask(old, "query-status", nullptr, [this, &old](const QmpReply& status) {
            gaveDevicesAway_ = course_.passesThrough() && runStateOf(status.text("status")) == RunState::PostMigrate;
            if (gaveDevicesAway_)
                return course_.fail("the old VMM has given the guest's devices away and cannot run it any more");
            if (!course_.wasRunning || status.flag("running")) return resumed();
            course_.send(old, "cont", nullptr, [this](const QmpReply& answer) {
                if (answer.ok()) return resumed();
                // The new VMM's image locks may outlive it by a moment.
                course_.after(milliseconds(50), [this] { resume(); });
            });
        });
    });
}

void GoingBack::removeNewGeneration() {
    if (course_.record().new_) course_.directory.removeGeneration(course_.record().new_->generation);
}

void GoingBack::resumed() {
    if (course_.network) course_.network->toOld();
    course_.network.reset();
    if (course_.isOneProcess()) removeNewGeneration();  // Not before it is certain that no VMM will look for its sockets there.
    undoGrowth();
    undoSettings([this] { beats_.afterNextOnOld([this] { course_.done(); }); });
}

/// As found, for whoever migrates this VM next. Without effect on the guest, so a refusal does not matter; but awaited, since
/// QEMU drops what it has not begun with when a monitor hangs up (monitor/qmp.c:monitor_qmp_event, 11.1).
void GoingBack::undoSettings(std::function<void()> then) {
    if (!course_.configuredOld) return then();
    tidyAll(settingsOfOldVmm(course_, false), [this, then = std::move(then)] { steps_.undo(then); });
}

void GoingBack::tidyAll(std::vector<Course::Command> commands, std::function<void()> then) {
    if (commands.empty()) return then();
    const Course::Command first = std::move(commands.front());
    commands.erase(commands.begin());
    course_.tidy(*first.vmm, first.name, first.arguments,
                 [this, rest = std::move(commands), then = std::move(then)] { tidyAll(rest, then); });
}

/// Of what both VMMs map; the new one has ended.
void GoingBack::undoGrowth() {
    for (const std::string& file : cutBackMemoryFiles(course_.oldVmm->record().pid, course_.record().memoryBefore))
        course_.warn("the new VMM had grown the memory '" + file + "'; it was cut back to what the old VMM has");
}

}  // namespace vh
