#include "manager/handover/course.h"

#include <algorithm>
#include <array>

#include "manager/record/ram_section.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/ram_block_section.h"
#include "vmm-shim/text.h"

namespace vh {

using nlohmann::json;
using std::chrono::milliseconds;

std::string inMilliseconds(milliseconds duration) {
    return std::to_string(duration.count()) + " ms";
}

Course::Course(HandoverRequest asked, VmDirectory where, HandoverObserver observer)
    : request(std::move(asked)), directory(std::move(where)), design(rowOf(request.design)), observer_(std::move(observer)) {
    report.vm = request.definition.name;
    report.warnings = request.warnings;
    report.design = request.design;
    report.old = {record().vmm.binary, record().vmm.kind, record().vmm.version, record().vmm.pid};
    report.new_.binary = request.binary;
    report.ramBytes = definition().memory.sizeBytes;
    report.passthrough = record().passthrough;
    heartbeat.onHeard(std::move(request.heard));
}

WayBack Course::wayBack() const {
    return wayBackOf(design, passesThrough());
}

void Course::enter(State state) {
    if (state == State::StandingBy && !request.standby) return enter(next(state, Event::Done));
    const double now = sinceBeginMs();
    if (!report.steps.empty()) report.steps.back().durationMs = now - report.steps.back().startMs;
    state_ = state;
    const unsigned epoch = ++epoch_;
    deadline_.reset();
    timer_.reset();
    entering(state);
    if (!isBeforePointOfNoReturn()) {
        pauseBudget_.reset();
        confirming = confirming || state <= State::Confirming;
    }
    if (!isFinal(state)) report.steps.push_back({state, now});
    if (observer_)
        observer_({state, now, oldVmm ? oldVmm->record().pid : 0, newVmm ? newVmm->record().pid : 0, guestIsStopped(),
                   newVmm ? newVmm->resources().identities() : std::vector<NamedIdentity>()});
    if (epoch != epoch_) return;  // The observer cancelled.
    if (isFinal(state)) return finish();
    restartDeadline(std::string(name(state)));
    try {
        begin(state);
    } catch (const std::exception& error) {
        fail(error);
    }
}

void Course::restartDeadline(const std::string& what) {
    // In preflight the new binary has a deadline of its own, and says itself that it was not met.
    const milliseconds more = state_ == State::Retiring    ? silenceTimeout
                              : state_ == State::Preflight ? deadlineOf(State::Launching)
                                                           : milliseconds(0);
    const milliseconds deadline = deadlineOf(state_) + more;
    deadline_ = EventSource::after(deadline, within([this, what, deadline] {
                                       post(Event::TimedOut, what + " took longer than " + inMilliseconds(deadline));
                                   }));
}

void Course::post(Event event, const std::string& cause) {
    if (isFinal(state_)) return;
    const State following = next(state_, event, wayBack());
    if (following == state_) return unheeded(event, cause);
    if (event != Event::Done && event != Event::Executed && report.cause.empty()) report.cause = cause;
    if (event == Event::Cancelled) report.cancelled = true;
    if (following == State::Lost && report.cause != cause) report.cause += "; then " + cause;
    enter(following);
}

void Course::fail(const std::exception& error) {
    const Obstacle obstacle = obstacleOf(error);
    if (report.cause.empty()) report.remedy = obstacle.remedy;
    fail(obstacle.what);
}

void Course::failUnlessNewDies(const std::string& cause) {
    after(milliseconds(100), [this, cause] { fail(cause); });
}

void Course::postOldDied() {
    const std::string words = oldVmm->stderrTail();
    post(Event::OldDied, "the old VMM " + oldVmm->process().howItEnded() + " by itself" + (words.empty() ? "" : ": " + words));
}

void Course::postNewDied() {
    const std::string words = newVmm->stderrTail();
    post(Event::NewDied, "the new VMM " + newVmm->process().howItEnded() + (words.empty() ? "" : ": " + words));
}

void Course::after(milliseconds delay, std::function<void()> callback) {
    timer_ = EventSource::after(delay, within(std::move(callback)));
}

void Course::send(VmmProcess& vmm, const std::string& command, json arguments, std::function<void(const QmpReply&)> then,
                  UniqueFd descriptor) {
    const auto answered = within([then = std::move(then)](const QmpReply& reply) {
        // A VMM that closes its monitor is ending, and how it ends is the better cause: its exit, or the deadline, comes next.
        if (reply.ok() || reply.error->errorClass != "Closed") then(reply);
    });
    vmm.monitor().execute(command, std::move(arguments), deadlineOf(state_), answered, std::move(descriptor));
}

void Course::ask(VmmProcess& vmm, const std::string& command, json arguments, std::function<void(const QmpReply&)> then,
                 UniqueFd descriptor) {
    send(
        vmm, command, std::move(arguments),
        [this, &vmm, command, then = std::move(then)](const QmpReply& reply) {
            if (!reply.ok()) return fail(errorText(vmm, command, *reply.error));
            then(reply);
        },
        std::move(descriptor));
}

void Course::run(std::vector<Command> commands, std::function<void()> then) {
    if (commands.empty()) return then();
    const Command first = std::move(commands.front());
    commands.erase(commands.begin());
    ask(*first.vmm, first.name, first.arguments,
        [this, rest = std::move(commands), then = std::move(then)](const QmpReply&) { run(rest, then); });
}

void Course::tidy(VmmProcess& vmm, const std::string& command, json arguments, std::function<void()> then) {
    vmm.monitor().execute(command, std::move(arguments), tidyTimeout,
                          within([then = std::move(then)](const QmpReply&) { then(); }));
}

void Course::gatherRam(VmmProcess& vmm, std::function<void(std::vector<RamBlock>)> then) {
    vmm.gatherRamBlocks(deadlineOf(state_),
                        within([this, &vmm, then = std::move(then)](std::vector<RamBlock> blocks, const std::string& problem) {
                            // As in send(): how a VMM ends is the better cause than that it has closed its monitor.
                            if (!problem.empty() && vmm.monitor().closed()) return;
                            if (!problem.empty()) throw std::runtime_error(describe(vmm) + ": RAM blocks: " + problem);
                            then(std::move(blocks));
                        }));
}

void Course::exchangeRam(VmmProcess& vmm, std::function<void(std::vector<RamBlock>)> then) {
    gatherRam(vmm, [this, &vmm, then = std::move(then)](const std::vector<RamBlock>& blocks) {
        const std::string section = encodeRamBlocks(blocks);
        try {
            keepRamSection(directory, vmm.record().generation, section);
        } catch (const std::system_error& error) {  // Only for people who come later.
            warn(std::string(error.what()) + "; the RAM blocks of " + describe(vmm) + " are not kept");
        }
        then(decodeRamBlocks(section));
    });
}

void Course::askForBlockers(std::function<void(const std::vector<std::string>&)> then) {
    ask(*oldVmm, "query-migrate", nullptr, [then = std::move(then)](const QmpReply& reply) {
        std::vector<std::string> reasons;
        for (const json& blocked : JsonReader(reply.value).list("/blocked-reasons"))
            reasons.push_back(blocked.is_string() ? blocked.get<std::string>() : blocked.dump());
        then(reasons);
    });
}

void Course::listenTo(VmmProcess& vmm) {
    vmm.monitor().onEvent([this, isOld = &vmm == oldVmm.get()](const QmpEvent& event) {
        if (event.name == "STOP" && isOld) guestStopped(event.at);
        if (event.name == "RESUME") guestResumed(event.at);
        if (event.name != "MIGRATION") return;
        (isOld ? oldMigration : newMigration) = migrationStatusOf(JsonReader(event.data).text("/status"));
        migrated(isOld);
    });
}

void Course::guestStopped(Clock::time_point at) {
    stoppedAt_ = at;
    stoppedByMigration = oldMigration != MigrationStatus::None;
    guestHasStopped();
    if (!isBeforePointOfNoReturn()) return;
    const milliseconds budget = definition().handover.pauseBudget;
    // Of which some has passed where the manager got no turn meanwhile.
    const auto left = std::chrono::ceil<milliseconds>(at + budget - Clock::now());
    pauseBudget_ = EventSource::after(std::max(left, milliseconds(0)), [this, budget] {
        if (isBeforePointOfNoReturn())
            post(Event::TimedOut, "the guest had been stopped for " + inMilliseconds(budget) + ", its pause budget");
    });
}

void Course::guestResumed(Clock::time_point at) {
    // Not below zero, whatever two VMMs say.
    if (stoppedAt_) report.stopToResumeMs = std::max(0.0, std::chrono::duration<double, std::milli>(at - *stoppedAt_).count());
    // What was done by then is not undone: to go back would stop the guest for longer still.
    const milliseconds budget = definition().handover.pauseBudget;
    if (stoppedAt_ && at > *stoppedAt_ + budget)
        warn("the guest was stopped for " + fixed(*report.stopToResumeMs, 1) + " ms, longer than its pause budget, " +
             inMilliseconds(budget));
    stoppedAt_.reset();
    pauseBudget_.reset();
}

milliseconds Course::deadlineOf(State state) const {
    constexpr std::array configured{
        std::pair{State::Launching, &Deadlines::launch},     std::pair{State::Exchanging, &Deadlines::exchange},
        std::pair{State::Verifying, &Deadlines::verify},     std::pair{State::StandingBy, &Deadlines::standby},
        std::pair{State::Switching, &Deadlines::switchOver}, std::pair{State::Executing, &Deadlines::switchOver},
        std::pair{State::Retiring, &Deadlines::retire},      std::pair{State::Ending, &Deadlines::retire}};
    const Deadlines& deadlines = definition().handover.deadlines;
    if (state == State::StandingBy && committed) return deadlines.exchange;
    for (const auto& [one, deadline] : configured)
        if (one == state) return deadlines.*deadline;
    return stepTimeout;
}

std::string Course::errorText(const VmmProcess& vmm, const std::string& command, const QmpError& error) const {
    return describe(vmm) + ": " + command + ": " + error.description;
}

Identity Course::identity() const {
    return record().adopted ? Identity::ofProcess(record().vmm.pid) : Identity::of(definition().vmm.user);
}

void Course::keepRecord() {
    try {
        directory.write(record());
    } catch (const std::exception& error) {
        warn(error.what());
    }
}

}  // namespace vh
