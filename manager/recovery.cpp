#include "manager/recovery.h"

#include <chrono>
#include <utility>

namespace vh {
namespace {

constexpr std::chrono::milliseconds patience{3'000};

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
        askNew();
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
        if (old_.alive()) return endNew();
        if (runState != "paused") return finish("the old VMM is gone and the new one never received the guest; destroy the VM");
        if (!record_.guestWasRunning) return keepNew();
        ask(new_, "cont", nullptr, [this](const QmpReply& answer) {
            if (answer.ok()) return keepNew();
            finish("the old VMM is gone and the new one does not start the guest: " + answer.error->description);
        });
    });
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
    if (!old_.alive()) return settle(new_.record(), old_.record().generation);
    end(old_, [this] { settle(new_.record(), old_.record().generation); });
}

void Recovery::endNew() {
    // As in a handover that goes back: a CPR exchange is cancelled first, for the new VMM's end would make the old one go ahead.
    ask(old_, "migrate_cancel", nullptr, [this](const QmpReply&) { end(new_, [this] { keepOld(); }); });
}

void Recovery::keepOld() {
    if (!old_.alive()) return settle(old_.record(), new_.record().generation);
    letOldRun();
}

void Recovery::letOldRun() {
    ask(old_, "query-status", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok()) return finish("the old VMM does not answer: " + reply.error->description);
        const auto settled = [this] {
            // As found before the handover, whatever that had set.
            ask(old_, "migrate-set-parameters", {{"mode", "normal"}}, [this](const QmpReply&) {
                old_.gatherRamBlocks(patience, [this](const std::vector<RamBlock>& blocks, const std::string&) {
                    old_.shrinkGrownBlocks(blocks);
                    settle(old_.record(), new_.record().generation);
                });
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
