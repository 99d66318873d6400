#include "manager/compare/by_hand.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "manager/resources/memory_room.h"
#include "manager/resources/resources.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// What is typed into the monitors until the guest stops.
class TypedSteps : public Steps {
 public:
    explicit TypedSteps(Course& course) : Steps(course), isCpr_(course.design.state == StatePath::Cpr) {}

    Incoming incoming() const override { return isCpr_ ? Incoming::CprAtOnce : Incoming::Defer; }

    /// One that waits for CPR state has no monitor yet.
    void awaitStart(Then then) override {
        if (!isCpr_) return Steps::awaitStart(std::move(then));
        if (isListening(cprChannelPath(course_.newVmm->directory()))) return then();
        course_.after(milliseconds(2), [this, then = std::move(then)] { awaitStart(then); });
    }

    void exchange() override {
        VmmProcess *old = course_.oldVmm.get(), *newVmm = course_.newVmm.get();
        json channels = mainChannel();
        std::vector<Course::Command> commands{{old, "migrate-set-capabilities", capabilities()}};
        if (isCpr_) {
            commands.push_back({old, "migrate-set-parameters", {{"mode", migrationMode(course_.design)}}});
            channels.at("channels").push_back(channel("cpr", cprChannelPath(newVmm->directory())));
        } else {
            commands.push_back({newVmm, "migrate-set-capabilities", capabilities()});
            commands.push_back({newVmm, "migrate-incoming", channels});
        }
        course_.run(std::move(commands), [this, old, channels] {
            course_.migrateSent = true;
            course_.run({{old, "migrate", channels}}, [] {});
        });
    }

    void switchOver() override {}
    void migrated() override {}

    void undo(Then then) override {
        if (!isCpr_) return then();
        course_.tidy(*course_.oldVmm, "migrate-set-parameters", {{"mode", "normal"}}, std::move(then));
    }

 private:
    /// All, since the old VMM may have been the new one of another design. With `return-path` the old one says `completed` when
    /// the new one has loaded all, and lets the guest go on if it could not.
    json capabilities() const {
        const auto capability = [](const char* which, bool state) { return json{{"capability", which}, {"state", state}}; };
        return {{"capabilities",
                 json::array({capability("events", true), capability("return-path", true), capability("x-ignore-shared", !isCpr_),
                              capability("pause-before-switchover", false)})}};
    }

    const bool isCpr_;
};

/// Whether a VMM was started with its implicit RAM blocks in memfds.
bool sharesImplicitRam(pid_t vmm) {
    return std::ranges::any_of(Process(vmm).commandLine(),
                               [](const std::string& word) { return word.find("aux-ram-share=on") != word.npos; });
}

}  // namespace

ByHand::ByHand(HandoverRequest asked, VmDirectory where, HandoverObserver observer, Done done)
    : Course(std::move(asked), std::move(where), std::move(observer)),
      done_(std::move(done)),
      steps_(std::make_unique<TypedSteps>(static_cast<Course&>(*this))),
      beats_(*this),
      goingBack_(*this, *steps_, beats_, taps_),
      retirement_(*this, *steps_, beats_) {}

void ByHand::begin(State state) {
    switch (state) {
        case State::Preflight:
            return lookForOld();
        case State::Launching:
            return launch();
        case State::Exchanging:
            beats_.noteBeforeSwitch();
            configuredOld = true;
            return steps_->exchange();
        case State::Verifying:
        case State::StandingBy:
            return done();
        case State::Switching:
            return awaitMigrated();
        case State::Proving:
            return prove();
        case State::Confirming:
            return confirm();
        case State::Retiring:
            return retire();
        case State::Discarding:
            return goingBack_.discard();
        case State::Resuming:
            return goingBack_.resume();
        case State::Ending:
            return retirement_.end();
        case State::Withdrawing:
        case State::Executing:
        case State::Refused:
        case State::RolledBack:
        case State::Upgraded:
        case State::Lost:
            return;
    }
}

void ByHand::lookForOld() {
    if (passesThrough()) throw std::runtime_error("the VM has passed-through devices: " + std::string(design.noDevices));
    oldVmm = std::make_unique<VmmProcess>(record().vmm, directory.generation(record().vmm.generation));
    if (!oldVmm->alive()) throw std::runtime_error("the VM is not running");
    oldVmm->process().onExit([this] { oldVmmEnded(); });
    listenTo(*oldVmm);
    beats_.listenToOld([this] { done(); });
}

void ByHand::oldVmmEnded() {
    if (state() == State::Retiring) return done();
    if (state() == State::Ending) return within([this] { retirement_.oldGone(); })();
    postOldDied();
}

void ByHand::launch() {
    const pid_t old = record().vmm.pid;
    record().new_ = VmmRecord{.generation = record().vmm.generation + 1, .binary = request.binary};  // Not on disk.
    UniqueFd ram;
    if (definition().memory.owner == MemoryOwner::Manager) ram = reopenGuestRam(record().vmm);
    newVmm = VmmProcess::launch({.definition = definition(),
                                 .directory = directory,
                                 .generation = record().new_->generation,
                                 .binary = request.binary,
                                 .ram = std::move(ram),
                                 .devices = {},
                                 .incoming = steps_->incoming(),
                                 .shareImplicitRam = sharesImplicitRam(old),
                                 .connectHeartbeat = listensToGuest()});
    newVmm->process().onExit([this] { newVmmEnded(); });
    newVmmIsThere();
    joinBridges(definition(), newVmm->resources());
    steps_->awaitStart([this] { done(); });
}

void ByHand::newVmmIsThere() {
    report.new_.pid = newVmm->record().pid;
    record().new_ = newVmm->record();
    if (const auto score = oomScoreOf(record().vmm.pid)) setOomScore(newVmm->record().pid, *score);
    listenTo(*newVmm);
    if (UniqueFd port = newVmm->takeHeartbeat()) heartbeat.listen(std::move(port));
}

void ByHand::newVmmEnded() {
    if (state() == State::Discarding) return goingBack_.newGone();
    postNewDied();
}

/// All that comes before is done while the guest runs, with CPR the making of the new machine as well.
void ByHand::guestHasStopped() {
    if (state() == State::Exchanging && migrateSent) done();
}

void ByHand::migrated(bool byOld) {
    if (!byOld || !isBeforePointOfNoReturn()) return;
    if (oldMigration == MigrationStatus::Failed)
        return send(*oldVmm, "query-migrate", nullptr, [this](const QmpReply& reply) {
            const std::string why = reply.text("error-desc");
            failUnlessNewDies("the old VMM could not hand over" + (why.empty() ? "" : ": " + why));
        });
    if (state() == State::Switching) awaitMigrated();
}

void ByHand::awaitMigrated() {
    if (oldMigration == MigrationStatus::Completed) done();
}

void ByHand::prove() {
    ask(*newVmm, "query-status", nullptr, [this](const QmpReply& reply) {
        const std::string runState = reply.text("status");
        if (runStateOf(runState) == RunState::InMigrate) return after(milliseconds(1), [this] { prove(); });
        if (runStateOf(runState) != RunState::Paused)
            throw std::runtime_error("the new VMM is in the state '" + runState + "' instead of holding the guest");
        done();
    });
}

void ByHand::confirm() {
    send(*newVmm, "cont", nullptr, [this](const QmpReply& reply) {
        if (reply.ok()) return done();
        if (reply.error->errorClass == "Timeout") return;  // It may run the guest or not: the deadline comes next.
        const std::string refusal = errorText(*newVmm, "cont", *reply.error);
        send(*newVmm, "query-status", nullptr, [this, refusal](const QmpReply& status) {
            if (!status.ok()) return;
            JsonReader(status.value).at("/running") == false ? fail(refusal) : done();
        });
    });
}

/// What comes next on this VM goes by the record, and that has to say which QEMU it is.
void ByHand::retire() {
    ask(*newVmm, "query-version", nullptr, [this](const QmpReply& reply) {
        report.new_.kind = record().new_->kind = vmmKind(reply.value);
        report.new_.version = record().new_->version = qemuVersion(reply.value);
        retirement_.retireOld();
    });
}

void ByHand::finish() {
    report.old.alive = oldVmm && oldVmm->alive();
    report.new_.alive = newVmm && newVmm->alive() && !goingBack_.hasEndedNew();
    report.oldVmmLeft = state() == State::Upgraded && report.old.alive;
    report.outcome = state();
    report.totalMs = sinceBeginMs();
    if (heartbeat.summary().beats > 0) report.guest = heartbeat.summary();
    answer_ = EventSource::soon([done = std::move(done_), result = report] { done(result); });
}

}  // namespace vh
