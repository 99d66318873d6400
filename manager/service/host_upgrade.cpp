#include <algorithm>
#include <thread>
#include <utility>

#include "manager/record/last_report.h"
#include "manager/service/host.h"
#include "manager/service/upgrade_request.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// How often an old VMM may change under a handover that was prepared; then it is left alone.
constexpr unsigned mostTimesStartedOver = 3;

/// Whether a handover that was rolled back has left what a recovery comes before: a new VMM that does not end, or a record that
/// could not be written. Another attempt would write over that.
bool leavesSomethingToSettle(const VmDirectory& directory) {
    try {
        const std::optional<VmRecord> record = directory.read();
        return !record || record->isHalfDone();
    } catch (const std::exception&) {
        return true;
    }
}

}  // namespace

void Host::beginUpgrade(const std::string& vm, const Done& done, const Begun& then) {
    const auto reported = [this, vm, done](const VerbResult& result) {
        if (result.report || result.code == ExitCode::Usage) return done(result);
        HandoverReport report;
        report.vm = vm;
        report.outcome = result.code == ExitCode::Lost ? State::Lost : State::Refused;
        report.cause = result.obstacle().what;
        report.remedy = result.obstacle().remedy;
        if (ended_) ended_(report);
        done(VerbResult::of(std::move(report)));
    };
    on(vm, reported, then);
}

void Host::upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) {
    endedStandbys_.erase(vm);
    const auto handOver = [this, options, observer = std::move(observer)](const Operation& operation, const VmRecord& record) {
        HandoverRequest request = upgradeRequest(record, options);
        // The record has room for one that does not end.
        if (record.retiring) {
            request.refusal = leftBehind(record);
            operation->warnings.clear();  // It is the cause.
        }
        request.heard = [this, vm = operation->vm](const HeardLine& line) {
            if (guestListener_) guestListener_(vm, line);
        };
        runHandover(operation, request, observer, request.definition.handover.onFailure == OnFailure::Retry ? 1 : 0);
    };
    beginUpgrade(vm, done, [this, vm, handOver](const Operation& operation) {
        withRecord(operation, vm, [operation, handOver](const VmRecord& record) { handOver(operation, record); });
    });
}

void Host::runHandover(const Operation& operation, const HandoverRequest& request, const Handover::Observer& observer,
                       int attemptsLeft) {
    if (beginsNothing_) throw Refusal(*beginsNothing_);
    operation->parts.handover =
        std::make_unique<Handover>(request, operation->directory, observer,
                                   [this, operation, request, observer, attemptsLeft](const HandoverReport& report) {
                                       handedOver(operation, request, observer, attemptsLeft, report);
                                   });
    operation->parts.handover->onStandby([this, operation](const HandoverReport& report) {
        operation->stoodBy = true;
        if (const Done done = std::exchange(operation->done, nullptr)) done(VerbResult::of(report));
        beginWaiting();
    });
    waiting_.push_back(operation);
    beginWaiting();
}

void Host::beginWaiting() {
    // A handover is mostly two processes' waiting for each other.
    const std::size_t atOnce = 8 * std::max(1U, std::thread::hardware_concurrency());
    const auto underWay = [this] {
        const auto unfinished = std::ranges::count_if(operations_, [](const auto& operation) {
            return operation->parts.handover && !operation->parts.handover->standsBy();
        });
        return static_cast<std::size_t>(unfinished) - waiting_.size();
    };
    while (!waiting_.empty() && underWay() < atOnce) {
        const Operation operation = std::move(waiting_.front());
        waiting_.pop_front();
        operation->parts.handover->begin();
    }
}

void Host::handedOver(const Operation& operation, const HandoverRequest& request, const Handover::Observer& observer,
                      int attemptsLeft, const HandoverReport& report) {
    const bool mayTryAgain = report.outcome == State::RolledBack && !report.cancelled && !operation->isCancelled &&
                             !leavesSomethingToSettle(operation->directory);
    HandoverRequest again = request;
    if (mayTryAgain && report.shouldStartOver && request.timesStartedOver < mostTimesStartedOver) {
        again.standby = false;
        ++again.timesStartedOver;
        again.warnings.push_back("the new VMM was discarded, and another one prepared: " + report.cause);
        return runHandover(operation, again, operation->observer ? operation->observer : observer, attemptsLeft);
    }
    if (mayTryAgain && operation->done && attemptsLeft > 0) {
        again.warnings.push_back("an attempt before this one was rolled back: " + report.cause);
        return runHandover(operation, again, observer, attemptsLeft - 1);
    }
    HandoverReport kept = report;
    keepReport(operation->directory, kept);
    // Of an adopted VM that is as it was nothing is to be kept: its monitor was only pointed to.
    if (request.record.adopted && request.record.vmm.generation == 1 &&
        (report.outcome == State::Refused || report.outcome == State::RolledBack))
        operation->directory.remove();
    if (operation->stoodBy) endedStandbys_[operation->vm] = kept;
    end(operation, VerbResult::of(kept));
}

void Host::keepReport(const VmDirectory& directory, HandoverReport& report) {
    if (report.dryRun) return;
    try {
        if (report.outcome != State::Refused) keepLastReport(directory, report);
    } catch (const std::exception& error) {
        report.warnings.push_back(std::string("its report is not kept: ") + error.what());
    }
    if (ended_) ended_(report);
}

Host::Operation Host::standingBy(const std::string& vm, const Done& done) {
    for (const auto& operation : operations_)
        if (operation->vm == vm && operation->parts.handover && operation->parts.handover->standsBy()) return operation;
    Obstacle why{"has no upgrade that stands by", "'virt-handover upgrade " + vm + " --standby' prepares one"};
    try {
        const std::optional<VmRecord> record = directoryOf(vm).read();
        if (!record) {
            done(noSuchVm(vm));
            return nullptr;
        }
        if (const auto ended = endedStandbys_.find(vm); ended != endedStandbys_.end())
            why.what += " any more: " + (ended->second.cause.empty() ? "it was committed" : ended->second.cause);
        const bool isOurs = std::ranges::any_of(operations_, [&vm](const auto& operation) { return operation->vm == vm; });
        if (record->standingBy && isOurs)
            why = {"has an upgrade that is being committed or undone just now", "wait for its end"};
        else if (record->standingBy && !directoryOf(vm).tryLock())
            why = {"stands by under a manager that is not this one: the command 'virt-handover --embed upgrade " + vm +
                       " --standby'",
                   "use --embed"};
    } catch (const std::exception& error) {
        done(failure(ExitCode::Refused, obstacleOf(error)));
        return nullptr;
    }
    done(failure(ExitCode::Refused, {"vm '" + vm + "' " + why.what, why.remedy}));
    return nullptr;
}

std::optional<HandoverReport> Host::endedStandby(const std::string& vm) const {
    const auto found = endedStandbys_.find(vm);
    return found == endedStandbys_.end() ? std::nullopt : std::optional(found->second);
}

void Host::commit(const std::string& vm, Handover::Observer observer, Done done) {
    const Operation operation = standingBy(vm, done);
    if (!operation) return;
    operation->done = std::move(done);
    operation->observer = observer;
    operation->parts.handover->commit(std::move(observer));
}

void Host::cancel(const std::string& vm, Done done) {
    const Operation operation = standingBy(vm, done);
    if (!operation) return;
    operation->done = [vm, done](const VerbResult& result) {
        if (result.code == ExitCode::RolledBack)
            return done({ExitCode::Done, {{"vm", vm}, {"state", "cancelled; the guest runs on the old VMM as before"}}});
        VerbResult failed = failure(result.code, {"vm '" + vm + "': " + result.obstacle().what, result.obstacle().remedy});
        failed.value["vm"] = vm;
        done(failed);
    };
    operation->isCancelled = true;
    operation->parts.handover->cancel("cancelled");
}

void Host::cancelHandovers(const std::string& why) {
    // Those that wait have ended by that, and are not to begin any more.
    waiting_.clear();
    for (const auto& operation : operations_)
        if (operation->parts.handover) {
            operation->isCancelled = true;
            operation->parts.handover->cancel(why);
        }
}

bool Host::handoverUnderWay() const {
    return std::any_of(operations_.begin(), operations_.end(),
                       [](const auto& operation) { return operation->parts.handover != nullptr; });
}

void Host::whenIdle(std::function<void()> callback) {
    idleCallback_ = std::move(callback);
    if (!handoverUnderWay()) idleAnswer_ = EventSource::soon(std::exchange(idleCallback_, nullptr));
}

}  // namespace vh
