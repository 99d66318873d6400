#include "manager/handover/handover.h"

#include <map>
#include <stdexcept>
#include <system_error>

#include "manager/process/process_traits.h"
#include "manager/resources/memory_files.h"
#include "manager/resources/memory_room.h"
#include "vmm-shim/json_text.h"

namespace vh {

using nlohmann::json;
using std::chrono::milliseconds;

Handover::Handover(HandoverRequest asked, VmDirectory where, Observer observer, Done done)
    : Course(std::move(asked), std::move(where), std::move(observer)),
      done_(std::move(done)),
      steps_(stepsOf(*this)),
      questions_(*this, *steps_),
      beats_(*this),
      goingBack_(*this, *steps_, beats_, taps_),
      retirement_(*this, *steps_, beats_) {}

void Handover::entering(State state) {
    if (state > State::StandingBy) tapTimer_.reset();
    const bool mayRunOnNew = state == State::Confirming || (state == State::Proving && passesThrough());
    if (mayRunOnNew && !confirming) spareNewVmm();
}

void Handover::begin(State state) {
    switch (state) {
        case State::Preflight:
            return preflight();
        case State::Launching:
            return launch();
        case State::Exchanging:
            return exchange();
        case State::Verifying:
            return verify();
        case State::StandingBy:
            return standBy();
        case State::Switching:
            return switchOver();
        case State::Withdrawing:
            return steps_->withdraw();
        case State::Executing:
            return steps_->execute();
        case State::Proving:
            return prove();
        case State::Confirming:
            return confirm();
        case State::Retiring:
            return retirement_.retire();
        case State::Discarding:
            return goingBack_.discard();
        case State::Resuming:
            return goingBack_.resume();
        case State::Ending:
            return retirement_.end();
        case State::Refused:
        case State::RolledBack:
        case State::Upgraded:
        case State::Lost:
            return;
    }
}

// Preflight.

void Handover::preflight() {
    if (request.refusal) throw Refusal(*request.refusal);
    oldVmm = std::make_unique<VmmProcess>(record().vmm, directory.generation(record().vmm.generation));
    questions_.judgeRequest();
    oldVmm->process().onExit([this] { oldVmmEnded(); });
    listenTo(*oldVmm);
    questions_.ask([this] {
        beats_.listenToOld([this] {
            if (!request.dryRun) return done();
            report.dryRun = true;
            post(Event::Cancelled, {});
        });
    });
}

void Handover::oldVmmEnded() {
    if (state() == State::Retiring) return done();
    if (state() == State::Ending) return within([this] { retirement_.oldGone(); })();
    if (steps_->oldEnded()) return;
    dropPauseBudget();  // Nobody is left who could run the guest sooner than the new VMM.
    postOldDied();
}

// Launching.

void Handover::launch() {
    const pid_t old = record().vmm.pid;
    // On disk before it exists, and again when it does: a manager that is killed from here on leaves a trail to the new process.
    record().new_ = VmmRecord{.generation = record().vmm.generation + 1, .binary = request.binary};
    record().guestWasRunning = wasRunning;
    record().memoryBefore = memoryFilesOf(old);
    record().oomScore = oomScoreOf(old);
    AdoptedVm* adopted = record().adopted ? &*record().adopted : nullptr;
    if (adopted) readTapSettings(*adopted, old);
    directory.write(record());
    UniqueFd ram;
    if (definition().memory.owner == MemoryOwner::Manager)
        ram = sharesRam(request.design) ? reopenGuestRam(record().vmm)
                                        : createGuestRam(definition(), Identity::of(definition().vmm.user));
    if (adopted) {
        taps_ = TapGuard(*adopted, old);
        guardTaps();
    }
    // Kept to the end: whatever becomes of the two VMMs, the kernel does not reset a device that is still open.
    devices = takeDevices(record().vmm);
    newVmm = VmmProcess::launch({.definition = definition(),
                                 .directory = directory,
                                 .generation = record().new_->generation,
                                 .binary = request.binary,
                                 .ram = std::move(ram),
                                 .devices = takeDevices(record().vmm),
                                 .incoming = steps_->incoming(),
                                 .shareImplicitRam = newBinary.majorVersion >= 10,
                                 .connectHeartbeat = listensToGuest() && !steps_->rehearses(),
                                 .rehearsal = steps_->rehearses(),
                                 .adopted = adopted,
                                 .old = &record().vmm});
    newVmm->process().onExit([this] { newVmmEnded(); });
    newVmmIsThere();
    steps_->awaitStart([this] { done(); });
}

void Handover::newVmmIsThere() {
    report.new_.pid = newVmm->record().pid;
    checkDisks();
    record().new_ = newVmm->record();
    record().new_->kind = newBinary.kind;
    record().new_->version = newBinary.version;
    directory.write(record());
    listenTo(*newVmm);
    if (UniqueFd port = newVmm->takeHeartbeat()) heartbeat.listen(std::move(port));
}

void Handover::newVmmEnded() {
    if (state() == State::Discarding) return goingBack_.newGone();
    if (steps_->newEnded()) return;
    postNewDied();
}

/// Looks once a millisecond: a new VMM that builds its machine gives no sign of when it has come to the taps.
void Handover::guardTaps() {
    if (taps_.empty() || state() > State::StandingBy) return;
    try {
        taps_.restore();
    } catch (const std::exception& error) {
        return fail(error);
    }
    tapTimer_ = EventSource::after(milliseconds(1), [this] { guardTaps(); });
}

void Handover::checkDisks() const {
    if (record().adopted) return;
    for (const Disk& disk : definition().disks)
        if (newVmm->record().disks.at(disk.id) != record().vmm.disks.at(disk.id))
            throw Refusal({"disk '" + disk.id + "': '" + disk.file + "' is another file than the one the VM was started with",
                           "put that one back"});
}

// Exchanging, verifying, standing by.

void Handover::exchange() {
    ask(*oldVmm, "query-migrate-parameters", nullptr, [this](const QmpReply& reply) {
        const json parameters = migrationParameters(*this);
        for (const auto& [parameter, value] : parameters.items())
            if (const json& found = JsonReader(reply.value).at("/" + parameter); found.is_number_unsigned())
                record().parametersBefore[parameter] = found;
        keepRecord();
        configuredOld = true;
        run(settingsOfOldVmm(*this, true), [this] { steps_->exchange(); });
    });
}

void Handover::verify() {
    questions_.checkStillInstalled();
    exchangeRam(*oldVmm, [this](const std::vector<RamBlock>& old) {
        exchangeRam(*newVmm, [this, old](const std::vector<RamBlock>& newBlocks) {
            steps_->compare(old, newBlocks);
            checkNewCanLoad(
                [this] { steps_->verified([this] { record().adopted ? placeThreads([this] { done(); }) : done(); }); });
        });
    });
}

/// A device model that cannot be migrated (NVMe before 11.1) cannot be loaded either (migration/savevm.c:qemu_loadvm_state,
/// 10.0), and would say so when the guest has been stopped.
void Handover::checkNewCanLoad(std::function<void()> then) {
    send(*newVmm, "query-migrate", nullptr, [then = std::move(then)](const QmpReply& reply) {
        for (const json& blocked : JsonReader(reply.value).list("/blocked-reasons"))
            if (const std::string reason = JsonReader(blocked).text(""); reason.starts_with("non-migratable device"))
                throw std::runtime_error("the new VMM cannot take the guest's devices over: " + reason);
        then();
    });
}

/// Lets each vCPU's thread run where that of the old VMM does. What cannot be placed runs where the whole VMM may.
void Handover::placeThreads(std::function<void()> then) {
    ask(*oldVmm, "query-cpus-fast", nullptr, [this, then = std::move(then)](const QmpReply& old) {
        ask(*newVmm, "query-cpus-fast", nullptr, [this, old, then](const QmpReply& newCpus) {
            std::map<int, pid_t> models;
            for (const json& cpu : old.value) models[cpu.at("cpu-index")] = cpu.at("thread-id");
            for (const json& cpu : newCpus.value) {
                const auto model = models.find(cpu.at("cpu-index"));
                if (model == models.end())
                    throw std::runtime_error("the new VMM has a vCPU " + cpu.at("cpu-index").dump() + ", the old one has not");
                try {
                    placeLike(cpu.at("thread-id"), model->second);
                } catch (const std::system_error& error) {
                    warn(error.what());
                }
            }
            then();
        });
    });
}

void Handover::standBy() {
    steps_->hold([this] {
        record().standingBy = true;
        directory.write(record());
        HandoverReport held = report;
        held.outcome = State::StandingBy;
        held.old.alive = oldVmm->alive();
        held.new_.alive = newVmm->alive();
        held.totalMs = sinceBeginMs();
        if (standbyCallback_)
            standbyAnswer_ = EventSource::soon([callback = std::move(standbyCallback_), held] { callback(held); });
    });
}

void Handover::commit(Observer observer) {
    observe(std::move(observer));
    committed = true;
    restartDeadline("the last check before the switch");
    within([this] { recheck(); })();
}

/// What was prepared may be hours old: everything that may have changed is looked at again, while the guest still runs.
void Handover::recheck() {
    if (oldLetGo) listenTo(*oldVmm);
    questions_.askGuestAgain([this] {
        record().standingBy = false;
        record().guestWasRunning = wasRunning;
        directory.write(record());
        if (!std::exchange(oldLetGo, false)) return verify();
        steps_->resumeExchange([this] { verify(); });
    });
}

// Switching, proving, confirming.

void Handover::switchOver() {
    beats_.noteBeforeSwitch();
    network.emplace(definition(), record().vmm.pid, newVmm->resources());
    steps_->switchOver();
}

void Handover::guestHasStopped() {
    if (state() == State::Switching) steps_->guestStopped();
}

void Handover::migrated(bool byOld) {
    if (byOld && oldMigration == MigrationStatus::Failed && isBeforePointOfNoReturn()) explainOldFailure();
    if (byOld && oldMigration == MigrationStatus::PreSwitchover && state() == State::Switching)
        return within([this] { steps_->aboutToSwitch(); })();
    if (state() == State::Switching || state() == State::Withdrawing || state() == State::Executing)
        within([this] { steps_->migrated(); })();
}

void Handover::explainOldFailure() {
    send(*oldVmm, "query-migrate", nullptr, [this](const QmpReply& reply) {
        std::string cause = "the old VMM could not hand over";
        if (const std::string why = reply.text("error-desc"); !why.empty()) cause += ": " + why;
        failUnlessNewDies(cause);
    });
}

/// The new VMM does not have all of the guest's state yet only with passed-through devices, or when the old one died in
/// Switching.
void Handover::prove() {
    if (newMigration != MigrationStatus::Completed) {
        if (newMigration == MigrationStatus::Failed)
            throw std::runtime_error(report.cause.empty() ? "the new VMM could not take the guest over" : report.cause);
        return after(milliseconds(1), [this] { prove(); });
    }
    ask(*newVmm, "query-status", nullptr, [this](const QmpReply& reply) {
        const std::string runState = reply.text("status");
        if (runStateOf(runState) != RunState::Paused)
            throw std::runtime_error("the new VMM is in the state '" + runState + "' instead of holding the guest");
        steps_->proved([this] { done(); });
    });
}

void Handover::confirm() {
    recordToldToRun();
    network->toNew();
    if (!wasRunning) return done();
    send(*newVmm, "cont", nullptr, [this](const QmpReply& reply) {
        if (reply.ok()) return done();
        // Without an answer nobody knows; the new VMM's death or the deadline decides.
        if (reply.error->errorClass == "Timeout") return;
        const std::string refusal = errorText(*newVmm, "cont", *reply.error);
        send(*newVmm, "query-status", nullptr, [this, refusal](const QmpReply& status) {
            if (!status.ok()) return;
            if (JsonReader(status.value).at("/running") != false) return done();  // Whatever else it says, it may run.
            fail(refusal);
        });
    });
}

/// On disk before the new VMM is told, or it is not told: else whoever comes after this manager's death and the new VMM's would
/// let the old one go on with memory that the guest has changed since. Where an old VMM cannot go on, nothing depends on it, and
/// failing would be the guest's end.
void Handover::recordToldToRun() {
    const bool oldCouldGoOn = wayBack() == WayBack::UntilConfirmed && oldVmm->alive();
    record().toldToRun = true;
    if (!oldCouldGoOn) return keepRecord();
    try {
        directory.write(record());
    } catch (...) {
        record().toldToRun = false;
        throw;
    }
}

/// The new VMM is no longer the one that the kernel ends first when memory runs out.
void Handover::spareNewVmm() {
    if (isOneProcess() || !record().oomScore) return;
    if (const std::string problem = setOomScore(newVmm->record().pid, *record().oomScore); !problem.empty())
        warn(problem + "; when memory runs out, the kernel ends the new VMM first");
}

// The end.

void Handover::finish() {
    if (state() == State::RolledBack) {
        record().forgetHandover();
        if (goingBack_.hasEndedNew() && newVmm->alive()) {
            record().retiring = newVmm->record();
            warn("the new VMM, pid " + std::to_string(newVmm->record().pid) +
                 ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not answer?). It "
                 "never had the guest and never will; every further command on this VM tries to end it first");
        }
        keepRecord();
    }
    describeEnd();
    if (state() == State::Lost)
        if (const std::string more = steps_->whenLost(); !more.empty()) report.cause += "; then " + more;
    report.cause = withFileNames(report.cause, definition());
    for (std::string& warning : report.warnings) warning = withFileNames(warning, definition());
    report.outcome = state();
    report.totalMs = sinceBeginMs();
    if (heartbeat.summary().beats > 0) report.guest = heartbeat.summary();
    answer_ = EventSource::soon([done = std::move(done_), result = report] { done(result); });
}

/// Who is left, and whether that is who should be.
void Handover::describeEnd() {
    report.old.alive = oldVmm && oldVmm->alive();
    report.new_.alive = newVmm && newVmm->alive() && !goingBack_.hasEndedNew();
    const bool isLost = state() == State::Lost;
    // The old VMM died before it had handed anything over: nothing is left that the new one could be for.
    if (isLost && newVmm && !confirming && !isOneProcess() && !newMayHoldGuest()) {
        newVmm->process().killAll();
        report.new_.alive = false;
    }
    // And the other way about: the new VMM, which had been confirmed, has died, and the guest with it.
    if (isLost && record().retiring && !report.new_.alive) {
        oldVmm->process().killAll();
        report.old.alive = false;
    }
    // As a recovery sees it, which comes before any further command.
    const bool isOutOfDate = record().toldToRun || goingBack_.oldCannotRun() || (passesThrough() && confirming);
    report.guestIsGone = isLost && !report.new_.alive && (!report.old.alive || isOutOfDate);
    if (state() != State::Upgraded || !report.old.alive || isOneProcess()) return;
    report.oldVmmLeft = true;
    warn("the old VMM, pid " + std::to_string(oldVmm->record().pid) +
         ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not answer?). The guest runs "
         "on the new VMM and the old one can never run it again, but it still has the guest's memory and files open; every "
         "further command on this VM tries to end it first");
}

}  // namespace vh
