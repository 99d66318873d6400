#include "manager/compare/round.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "manager/compare/configurations.h"
#include "manager/compare/host_facts.h"
#include "manager/compare/inspection.h"
#include "manager/compare/own_network.h"
#include "manager/process/event_loop.h"
#include "vmm-shim/json_text.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

// How long a port is listened to that says nothing before somebody connects to it again, and how many times in all.
constexpr milliseconds silence{250};
constexpr int connections = 4;

/// What a reader calls the steps.
constexpr std::array phases{
    std::pair{State::Preflight, &PhaseTimes::prepare},   std::pair{State::Launching, &PhaseTimes::launch},
    std::pair{State::Exchanging, &PhaseTimes::exchange}, std::pair{State::Verifying, &PhaseTimes::verify},
    std::pair{State::Switching, &PhaseTimes::pause},     std::pair{State::Executing, &PhaseTimes::pause},
    std::pair{State::Proving, &PhaseTimes::pause},       std::pair{State::Confirming, &PhaseTimes::confirm},
    std::pair{State::Retiring, &PhaseTimes::retire},     std::pair{State::Ending, &PhaseTimes::retire}};

PhaseTimes phasesOf(const HandoverReport& report) {
    PhaseTimes times;
    for (const StepTime& step : report.steps)
        for (const auto& [state, phase] : phases)
            if (step.state == state) times.*phase = (times.*phase).value_or(0) + step.durationMs;
    // `copy` sends RAM while it is switching, and the guest runs all the while but for the end.
    const std::optional<double> stopped = report.stopToResumeMs;
    if (report.design == Design::Copy && stopped && times.pause && times.exchange) {
        const double sending = std::max(0.0, *times.pause - *stopped);
        *times.exchange += sending;
        *times.pause -= sending;
    }
    return times;
}

/// What the report says; the rest is looked at from outside.
Round reported(const HandoverReport& report) {
    Round round;
    for (const Outcome outcome : allOutcomes)
        if (report.outcomeText() == name(outcome)) round.outcome = outcome;
    round.cause = report.cause;
    round.phasesMs = phasesOf(report);
    round.totalMs = report.totalMs;
    if (!round.upgraded()) return round;
    round.stopToResumeMs = report.stopToResumeMs;
    if (report.guest) round.guestPauseMs = report.guest->pauseMs;
    round.bytesSent = report.bytesSent;
    round.ramCopiedBytes = report.ramCopiedBytes;
    return round;
}

/// None of a process that ends while it is looked at.
std::optional<PageFaults> pageFaultsIfAlive(pid_t pid) {
    try {
        return pageFaults(pid);
    } catch (const std::exception&) {
        return std::nullopt;
    }
}

/// Its steps are called in their order.
class RoundWatch {
 public:
    RoundWatch(VmControl& control, const Trial& trial, const ComparePlan& plan,
               const std::function<void(const std::string&)>& note)
        : control_(control), trial_(trial), plan_(plan), note_(note), attempts_(trial.set.vms.size()) {}

    void lookBefore() {
        for (std::size_t i = 0; i < attempts_.size(); ++i) {
            MeasuredVm& vm = trial_.set.vms[i];
            vm.watch = GuestWatch();
            control_.setRunning(vm, true);
            control_.listen(vm, GuestWatch::Session::Before);
            if (trial_.network) sendEchoRequests(i);
        }
        control_.runFor(plan_.before);
        for (int tries = 1; tries < connections && listenAgain(GuestWatch::Session::Before); ++tries)
            control_.runFor(plan_.before);
        for (MeasuredVm& vm : trial_.set.vms) {
            if (vm.definition.heartbeat && !vm.watch.hasBeatenSince(steadyMs() - 1'000)) throw GuestLost{vm.number};
            vm.watch.stopListening();
        }
    }

    void handOver() {
        cpuBefore_ = CpuTimes::now();
        beganAtMs_ = steadyMs();
        std::map<std::string, GuestWatch*> watches;
        for (MeasuredVm& vm : trial_.set.vms) watches[vm.definition.name] = &vm.watch;
        control_.host().onGuestHeard(
            [&](const std::string& vm, const std::string& line, std::chrono::steady_clock::time_point at, std::size_t port) {
                watches.at(vm)->heard(line, at, port == 0 ? GuestWatch::Session::Old : GuestWatch::Session::New);
            });
        for (std::size_t i = 0; i < attempts_.size(); ++i) beginHandover(trial_.set.vms[i], attempts_[i]);
        // Not ended by an interruption: handovers that are cancelled go back and answer.
        turnUntil([this] { return std::ranges::all_of(attempts_, [](const Attempt& one) { return one.report.has_value(); }); });
        control_.host().onGuestHeard(nullptr);
        control_.throwIfInterrupted();
    }

    void lookAfter() {
        // One that has not beaten on its new VMM yet has the window from now on to do it.
        double until = steadyMs();
        for (const MeasuredVm& vm : trial_.set.vms)
            until = std::max(until, vm.watch.switchedAtMs().value_or(steadyMs()) + static_cast<double>(plan_.after.count()));
        for (int tries = 1; tries < connections && until - steadyMs() > static_cast<double>(silence.count()); ++tries) {
            control_.runFor(silence);
            if (!listenAgain(GuestWatch::Session::After)) break;
        }
        control_.runFor(milliseconds(std::lround(std::max(0.0, until - steadyMs()))));
        stealPercent_ = stealPercent(cpuBefore_, CpuTimes::now());
    }

    RoundEnd end() {
        RoundEnd end;
        for (std::size_t i = 0; i < attempts_.size(); ++i) {
            Round& round = end.rounds.emplace_back(roundOf(trial_.set.vms[i], attempts_[i]));
            round.vm = static_cast<unsigned>(i + 1);
            if (attempts_[i].guestLost || round.outcome == Outcome::Lost || round.outcome == Outcome::Silent) end.lostVm = i;
            end.reports.push_back(*std::move(attempts_[i].report));
        }
        return end;
    }

 private:
    /// What becomes of one VM.
    struct Attempt {
        std::optional<HandoverReport> report;
        std::unique_ptr<Pinger> pinger;
        std::optional<PageFaults> faultsAtSwitch;
        bool guestLost = false;
    };

    /// A port may stay silent for a new listener, for ever, and speak to the next one (manager/handover/guest_beats.cpp). Whether
    /// one was.
    bool listenAgain(GuestWatch::Session session) {
        bool anySilent = false;
        for (MeasuredVm& vm : trial_.set.vms) {
            if (!vm.watch.listening() || vm.watch.hasBeatenIn(session)) continue;
            control_.listen(vm, session);
            anySilent = true;
        }
        return anySilent;
    }

    void sendEchoRequests(std::size_t vm) {
        const bool loaded = trial_.configuration.load == Load::Network;
        try {
            attempts_[vm].pinger = std::make_unique<Pinger>(guestAddress(trial_.set.vms[vm].number), milliseconds(loaded ? 1 : 5),
                                                            loaded ? 1400 : 8);
            attempts_[vm].pinger->start();
        } catch (const std::system_error& error) {
            note_(std::string("the VMs were not asked for echoes: ") + error.what());
        }
    }

    void beginHandover(MeasuredVm& vm, Attempt& attempt) {
        control_.beginUpgrade(
            vm, {.binary = trial_.newBinary, .design = trial_.series.design},
            [&attempt](const HandoverProgress& step) {
                if (step.state == State::Retiring) attempt.faultsAtSwitch = pageFaultsIfAlive(step.newPid);
            },
            [this, &attempt, &vm](VerbResult result) {
                attempt.report = std::move(result.report);
                try {
                    if (attempt.report->outcomeText() == name(Outcome::Upgraded)) control_.listen(vm, GuestWatch::Session::After);
                    if (attempt.report->outcome == State::RolledBack) control_.listen(vm, GuestWatch::Session::Before);
                } catch (const GuestLost&) {
                    attempt.guestLost = true;
                }
            });
    }

    Round roundOf(MeasuredVm& vm, Attempt& attempt) const {
        vm.watch.stopListening();
        Round round = reported(*attempt.report);
        round.round = trial_.round;
        round.order = trial_.order;
        round.stealPercent = stealPercent_;
        round.disturbed = stealPercent_ > plan_.stealLimitPercent;
        if (vm.definition.heartbeat) {
            vm.watch.fill(round, beganAtMs_, trial_.configuration.load == Load::Memory);
            if (round.upgraded() && !vm.watch.switchedAtMs()) {
                round.outcome = Outcome::Silent;
                round.cause = "the guest did not beat on the new VMM within " + std::to_string(plan_.after.count()) + " ms";
            }
        }
        if (round.upgraded() && attempt.faultsAtSwitch) {
            const PageFaults then = *attempt.faultsAtSwitch;
            const std::optional<PageFaults> now = pageFaultsIfAlive(vm.pid);
            if (now && now->minor >= then.minor && now->major >= then.major)
                round.pageFaults = PageFaults{now->minor - then.minor, now->major - then.major};
        }
        if (attempt.pinger) {
            const PingResult pings = attempt.pinger->stop(milliseconds(200));
            const bool silentBefore = !pings.firstAnswer || steadyMs(*pings.firstAnswer) > beganAtMs_;
            round.network = EchoRequests{.sent = pings.sent,
                                         .lost = pings.lost,
                                         .longestGapMs = silentBefore ? std::nullopt : pings.longestGapMs,
                                         .notBack = pings.notBack && !silentBefore,
                                         .silentBefore = silentBefore};
        }
        return round;
    }

    VmControl& control_;
    const Trial& trial_;
    const ComparePlan& plan_;
    const std::function<void(const std::string&)>& note_;
    std::vector<Attempt> attempts_;
    CpuTimes cpuBefore_;
    double beganAtMs_ = 0;
    double stealPercent_ = 0;
};

}  // namespace

RoundEnd runRound(VmControl& control, const Trial& trial, const ComparePlan& plan,
                  const std::function<void(const std::string&)>& note) {
    RoundWatch watch(control, trial, plan, note);
    watch.lookBefore();
    watch.handOver();
    watch.lookAfter();
    return watch.end();
}

}  // namespace vh
