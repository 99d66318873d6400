#include "manager/recovery.h"

#include <chrono>
#include <utility>

#include "manager/in_place.h"
#include "manager/memory_room.h"
#include "vmm-shim/exec_inbox.h"

namespace vh {
namespace {

constexpr std::chrono::milliseconds patience{3'000};
constexpr std::chrono::milliseconds executedPatience{20'000};  ///< For a VMM that is just being executed.

}  // namespace

Recovery::Recovery(VmRecord record, VmDirectory directory, Done done)
    : record_(std::move(record)),
      directory_(std::move(directory)),
      done_(std::move(done)),
      old_(record_.vmm, directory_.generation(record_.vmm.generation)),
      new_(*record_.fresh, directory_.generation(record_.fresh->generation)) {
    // From the next turn, so that no answer comes before the constructor is through.
    timer_ = EventSource::after(std::chrono::milliseconds(0), [this] {
        if (!new_.alive()) return keepOld();
        askUntil_ = std::chrono::steady_clock::now() + executedPatience;
        isOneProcess() ? askWhich() : askNew();
    });
}

void Recovery::ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, QmpClient::ReplyHandler done) {
    try {
        vmm.monitor().execute(command, std::move(arguments), patience, done);
    } catch (const std::exception& error) {
        timer_ = EventSource::after(std::chrono::milliseconds(0),
                                    [done, reply = QmpReply{{}, QmpError{"Closed", error.what()}}] { done(reply); });
    }
}

void Recovery::askNew() {
    ask(new_, "query-status", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok()) return askOld();
        const std::string runState = reply.value.value("status", "");
        // In any other state (running, io-error, shutdown, guest-panicked, ...) it has run the guest.
        const bool neverRan = runState == "paused" || runState == "inmigrate" || runState == "prelaunch";
        if (!neverRan) return keepNew();
        if (old_.alive()) return record_.passthrough.empty() || runState != "paused" ? endNew() : askWhoHasDevices();
        if (runState != "paused") return finish("the old VMM is gone and the new one never received the guest; destroy the VM");
        letNewRun("the old VMM is gone");
    });
}

/// An old VMM that has handed its devices over cannot run the guest any more (handover_table.h), and nobody but the new one can.
void Recovery::askWhoHasDevices() {
    ask(old_, "query-status", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok())
            return finish("the new VMM holds the guest, stopped, and the old one, pid " + std::to_string(old_.record().pid) +
                          ", does not say whether it has given the guest's devices away; a person must look");
        reply.value.value("status", "") == "postmigrate" ? letNewRun("the old VMM has handed over") : endNew();
    });
}

void Recovery::letNewRun(const std::string& why) {
    if (!record_.guestWasRunning) return keepNew();
    try {
        if (!record_.adopted) joinBridges(record_.definition(), new_.record().pid);
    } catch (const std::exception& error) {
        return finish(std::string("the new VMM's network: ") + error.what());
    }
    ask(new_, "cont", nullptr, [this, why](const QmpReply& answer) {
        if (answer.ok()) return announce([this] { keepNew(); });
        finish(why + " and the new one does not start the guest: " + answer.error->description);
    });
}

/// A new VMM that runs the guest, in place of the manager that had told it not to announce that by itself.
void Recovery::announce(std::function<void()> then) {
    ask(new_, "announce-self", announcements(), [then = std::move(then)](const QmpReply&) { then(); });
}

void Recovery::againSoon(void (Recovery::*step)(), const std::string& problem) {
    // The process's end settles it: then there is no VMM left.
    if (!new_.alive()) return settle(new_.record(), old_.record().generation);
    if (std::chrono::steady_clock::now() > askUntil_)
        return finish(problem + "; a person must look at pid " + std::to_string(new_.record().pid));
    timer_ = EventSource::after(std::chrono::milliseconds(20), [this, step] { (this->*step)(); });
}

void Recovery::askWhich() {
    const auto unless = [this](const QmpReply& reply) {
        if (reply.ok()) return false;
        // Refused or hung up on: its listening socket went with the old VMM. One that is silent may be either, and is asked again.
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
            const std::string status = migration.value.value("status", "none"), runState = reply.value.value("status", "");
            const bool isStopped = runState == "postmigrate" || runState == "finish-migrate";
            if (status == "none" || status == "cancelled" || status == "failed" || (status == "completed" && !isStopped))
                return keepOld();
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
        const std::string runState = reply.value.value("status", "");
        if (runState == "inmigrate") return takeStateIn();
        if (runState == "paused") return runExecuted();
        keepExecuted();
    });
}

void Recovery::takeStateIn() {
    ask(new_, "query-migrate", nullptr, [this](const QmpReply& reply) {
        if (reply.ok() && reply.value.value("status", "none") == "none" && !std::exchange(incoming_, true)) {
            new_.monitor().execute("migrate-set-parameters", {{"announce-rounds", 0}}, patience, nullptr);  // See announce().
            new_.monitor().execute("migrate-incoming", fdsetChannel(execStateFdset), patience, nullptr);
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
        if (answer.ok()) return announce([this] { keepExecuted(); });
        finish("the executed VMM does not start the guest: " + answer.error->description);
    });
}

void Recovery::keepExecuted() {
    ask(new_, "remove-fd", {{"fdset-id", execStateFdset}},
        [this](const QmpReply&) { settle(new_.record(), old_.record().generation); });
}

/// What a manager that died had put into a VMM that was not executed over; its monitor is connected.
void Recovery::emptyInbox() {
    if (!isOneProcess()) return;
    old_.monitor().execute("remove-fd", {{"fdset-id", execStateFdset}}, patience, nullptr);
    try {
        takeParcels(takeInbox(old_.record(), old_.directory()).get());
    } catch (const std::exception&) {
        // The next handover empties it, or says why it cannot.
    }
}

void Recovery::askOld() {
    if (!old_.alive())
        return finish("the old VMM is gone and the new one does not answer; a person must look at pid " +
                      std::to_string(new_.record().pid));
    ask(old_, "query-status", nullptr, [this](const QmpReply& reply) {
        // A new VMM without a monitor, as while it waits for CPR state, is known to be harmless by the old one running the guest.
        if (reply.ok() && reply.value.value("running", false)) return endNew();
        finish("neither VMM can be shown to hold the guest: the new one, pid " + std::to_string(new_.record().pid) +
               ", does not answer, and the old one, pid " + std::to_string(old_.record().pid) +
               ", does not run it; a person must look");
    });
}

void Recovery::keepNew() {
    if (!old_.alive()) return doAfterwards(0);
    end(old_, [this] { doAfterwards(0); });
}

/// See AdoptedVm. What the new VMM refuses it may have done already.
void Recovery::doAfterwards(std::size_t next) {
    if (!record_.adopted || next == record_.adopted->afterwards.size()) return settle(new_.record(), old_.record().generation);
    const AdoptedVm::Command& command = record_.adopted->afterwards[next];
    ask(new_, command.name, command.arguments, [this, next](const QmpReply&) { doAfterwards(next + 1); });
}

void Recovery::endNew() {
    // As in a handover that goes back: a CPR exchange is cancelled first, for the new VMM's end would make the old one go ahead.
    ask(old_, "migrate_cancel", nullptr, [this](const QmpReply&) {
        end(new_, [this] {
            old_.closeMonitor();  // Both VMMs of an adopted VM listen on one monitor socket: this may have been the new one's.
            keepOld();
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
        if (!reply.ok()) return finish("the old VMM does not answer: " + reply.error->description);
        if (!record_.passthrough.empty() && reply.value.value("status", "") == "postmigrate")
            return finish("the new VMM is gone, and the old one, pid " + std::to_string(old_.record().pid) +
                          ", has given the guest's devices away: on it the guest would wait for them for ever; destroy the VM and "
                          "start it again");
        const auto settled = [this] {
            // As found before the handover, whatever that had set.
            emptyInbox();
            ask(old_, "migrate-set-parameters", {{"mode", "normal"}}, [this](const QmpReply&) {
                cutBackMemoryFiles(old_.record().pid, record_.memoryBefore);
                settle(old_.record(), new_.record().generation);
            });
        };
        if (reply.value.value("running", false) || !record_.guestWasRunning) return settled();
        ask(old_, "cont", nullptr, [this, settled](const QmpReply& answer) {
            if (answer.ok()) return settled();
            // A migration that was cancelled just now takes a moment to let go of the guest.
            if (--attemptsLeft_ == 0) return finish("the old VMM does not start the guest: " + answer.error->description);
            timer_ = EventSource::after(std::chrono::milliseconds(20), [this] { letOldRun(); });
        });
    });
}

void Recovery::end(VmmProcess& vmm, std::function<void()> then) {
    vmm.process().onExit([this, then = std::move(then)] {
        timer_.reset();
        then();
    });
    timer_ = EventSource::after(patience, [this, &vmm] { finish("pid " + std::to_string(vmm.record().pid) + " does not end"); });
    vmm.process().killAll();
}

void Recovery::settle(const VmmRecord& kept, unsigned goneGeneration) {
    record_.vmm = kept;
    record_.fresh.reset();
    record_.memoryBefore.clear();
    if (const auto score = std::exchange(record_.oomScore, std::nullopt); score && startTimeOf(kept.pid) == kept.startTime)
        setOomScore(kept.pid, *score);
    record_.standingBy = false;
    try {
        directory_.write(record_);
        directory_.removeGeneration(goneGeneration);
        finish({});
    } catch (const std::exception& error) {
        finish(error.what());
    }
}

void Recovery::finish(std::string problem) {
    timer_.reset();
    callSoon([done = std::exchange(done_, nullptr), record = record_, problem = std::move(problem)] {
        if (done) done(record, problem);
    });
}

}  // namespace vh
