#include "manager/compare/round.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "manager/compare/configurations.h"
#include "manager/compare/cpu_time.h"
#include "manager/compare/disturbance.h"
#include "manager/compare/host_facts.h"
#include "manager/compare/inspection.h"
#include "manager/compare/own_network.h"
#include "manager/process/event_loop.h"
#include "manager/vmm/qmp_client.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds cpusTimeout{10'000};
// How long a port is listened to that says nothing before somebody connects to it again, and how many times in all.
constexpr milliseconds silence{250};
constexpr int connections = 4;
// Of a guest that is lost: on a host with too much to do one that lives is silent for seconds.
constexpr double silentAtMostMs = 10'000;
// Of a guest that is about to be handed over.
constexpr milliseconds heardWithin{1'000};

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
    // RAM that is copied while the guest runs is sent in the switch.
    const std::optional<double> stopped = report.stopToResumeMs;
    if (report.design && copiesRunningGuest(*report.design) && stopped && times.pause && times.exchange) {
        const double sending = std::max(0.0, *times.pause - *stopped);
        *times.exchange += sending;
        *times.pause -= sending;
    }
    return times;
}

/// From the first state from which the old VMM cannot have the guest back until the new one runs it.
double withoutWayBackMs(const HandoverReport& report) {
    const WayBack way = wayBackOf(rowOf(report.design.value()), !report.passthrough.empty());
    double time = 0;
    for (const StepTime& step : report.steps)
        if (!isBeforePointOfNoReturn(step.state, way) && step.state <= State::Confirming) time += step.durationMs;
    return time;
}

/// From the command until all is ready for the switch.
double preparationMs(const HandoverReport& report) {
    double time = 0;
    for (const StepTime& step : report.steps)
        if (step.state < State::Switching) time += step.durationMs;
    return time;
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
    round.preparationMs = preparationMs(report);
    round.noWayBackMs = withoutWayBackMs(report);
    round.stopToResumeMs = report.stopToResumeMs;
    round.qemuDowntimeMs = report.qemuDowntimeMs;
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

/// The threads of a VMM that are its guest's CPUs.
std::set<pid_t> guestCpus(VmControl& control, const MeasuredVm& vm) {
    std::set<pid_t> threads;
    QmpClient monitor(connectUnix(vm.directory + "/qmp.sock"));
    bool answered = false;
    monitor.execute("query-cpus-fast", nullptr, cpusTimeout, [&](const QmpReply& reply) {
        answered = true;
        for (const auto& cpu : JsonReader(reply.value).list(""))
            if (const std::uint64_t thread = JsonReader(cpu).count("/thread-id")) threads.insert(static_cast<pid_t>(thread));
    });
    control.waitUntil([&answered] { return answered; });
    return threads;
}

/// Adds up what the processes of one handover have spent. Looked at when a state begins, as few times as that can be.
class CpuWatch {
 public:
    void begin(std::set<pid_t> oldCpus, pid_t oldPid) {
        oldCpus_ = std::move(oldCpus);
        before_ = CpuTime::of(oldPid);
        managerMs_ = CpuTime::ofThisThreadMs();
    }
    void see(const HandoverProgress& step, bool executes) {
        if (step.state == State::Verifying && executes) rehearsedMs_ = CpuTime::of(step.newPid).totalMs;
        if (step.state == State::Switching || (step.state == State::Retiring && !executes)) lastOfOld_ = CpuTime::of(step.oldPid);
        if (step.state == State::Executing) executedMs_ = CpuTime::of(step.oldPid).totalMs;
    }
    void end(pid_t newPid) {
        managerMs_ = CpuTime::ofThisThreadMs() - managerMs_;
        new_ = CpuTime::of(newPid);
    }
    /// In one process, what the old program spent on the switch itself counts as the VMM's, the guest's last moments with it.
    CpuUse use(const std::set<pid_t>& newCpus, std::size_t handovers) const {
        CpuTime old = lastOfOld_;
        if (executedMs_) old.totalMs = *executedMs_;
        return {managerMs_ / static_cast<double>(handovers), old.withoutMs(oldCpus_) - before_.withoutMs(oldCpus_),
                new_.withoutMs(newCpus) - executedMs_.value_or(0) + rehearsedMs_};
    }

 private:
    std::set<pid_t> oldCpus_;
    CpuTime before_, lastOfOld_, new_;
    double managerMs_ = 0, rehearsedMs_ = 0;
    std::optional<double> executedMs_;
};

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
        const double lostAtMs = steadyMs() + silentAtMostMs;
        waits_[0] = CpuWaitCounters::now(vmms());
        control_.runFor(plan_.before);
        while (silentVm() && steadyMs() < lostAtMs) {
            listenAgain(GuestWatch::Session::Before);
            control_.runFor(std::max(heardWithin, plan_.before));
        }
        waits_[1] = CpuWaitCounters::now(vmms());
        if (const MeasuredVm* silent = silentVm()) throw GuestLost{silent->number};
        for (MeasuredVm& vm : trial_.set.vms) vm.watch.stopListening();
        for (std::size_t i = 0; i < attempts_.size(); ++i) oldCpus_.push_back(cpusOf(trial_.set.vms[i]));
    }

    void handOver() {
        cpuBefore_ = CpuTimes::now();
        beganAtMs_ = steadyMs();
        startedAt_ = utcNow();
        std::map<std::string, GuestWatch*> watches;
        for (MeasuredVm& vm : trial_.set.vms) watches[vm.definition.name] = &vm.watch;
        control_.onGuestHeard([&](const std::string& vm, const HeardLine& line) {
            watches.at(vm)->heard(line, line.port == 0 ? GuestWatch::Session::Old : GuestWatch::Session::New);
        });
        for (std::size_t i = 0; i < attempts_.size(); ++i) attempts_[i].cpu.begin(oldCpus_[i], trial_.set.vms[i].pid);
        for (std::size_t i = 0; i < attempts_.size(); ++i) beginHandover(trial_.set.vms[i], attempts_[i]);
        // Not ended by an interruption: handovers that are cancelled go back and answer.
        turnUntil([this] { return std::ranges::all_of(attempts_, [](const Attempt& one) { return one.report.has_value(); }); });
        control_.onGuestHeard(nullptr);
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
        waits_[2] = CpuWaitCounters::now(vmms());
    }

    RoundEnd end() {
        RoundEnd end;
        for (std::size_t i = 0; i < attempts_.size(); ++i) {
            Round& round = end.rounds.emplace_back(roundOf(trial_.set.vms[i], attempts_[i]));
            round.vm = static_cast<unsigned>(i + 1);
            if (attempts_[i].guestLost || round.outcome == Outcome::Lost || round.outcome == Outcome::Silent) end.lostVm = i;
            end.reports.push_back(*std::move(attempts_[i].report));
        }
        judge(end.rounds);
        return end;
    }

 private:
    std::vector<pid_t> vmms() const {
        std::vector<pid_t> pids;
        for (const MeasuredVm& vm : trial_.set.vms) pids.push_back(vm.pid);
        return pids;
    }

    /// What disturbs one VM disturbs the round.
    void judge(std::vector<Round>& rounds) const {
        const bool fills = fillCpus(trial_.configuration, std::thread::hardware_concurrency());
        if (fills)
            note_("VMs that keep all CPUs of the host busy by themselves: of these rounds only steal could tell other work");
        if (!waits_[0].pressureMs) note_("CPU pressure was not looked at: this kernel has no /proc/pressure/cpu");
        if (!waits_[0].manager) note_("waits for a CPU were not looked at: this kernel has no /proc/PID/schedstat");
        std::string why;
        for (std::size_t i = 0; i < rounds.size(); ++i) {
            rounds[i].disturbance = Disturbance{waitBetween(waits_[0], waits_[1], i), waitBetween(waits_[1], waits_[2], i)};
            const std::optional<BeatIntervals> beats = rounds[i].beats ? rounds[i].beats->before : std::nullopt;
            if (why.empty()) why = whyDisturbed(plan_, stealPercent_, rounds[i].disturbance->before, beats, fills);
        }
        for (Round& round : rounds) {
            round.disturbed = !why.empty();
            round.disturbedBy = why;
        }
    }

    /// What becomes of one VM.
    struct Attempt {
        std::optional<HandoverReport> report;
        std::unique_ptr<Pinger> pinger;
        std::optional<PageFaults> faultsAtSwitch;
        CpuWatch cpu;
        bool guestLost = false;
    };

    /// None of one that does not answer, which is seen by whoever waits for its guest.
    std::set<pid_t> cpusOf(const MeasuredVm& vm) {
        try {
            return guestCpus(control_, vm);
        } catch (const std::system_error&) {
            return {};
        }
    }
    /// One whose guest has not been heard of late; null when there is none.
    const MeasuredVm* silentVm() const {
        const auto silent = std::ranges::find_if(trial_.set.vms, [](const MeasuredVm& vm) {
            return vm.definition.heartbeat && !vm.watch.hasBeatenSince(steadyMs() - static_cast<double>(heardWithin.count()));
        });
        return silent == trial_.set.vms.end() ? nullptr : &*silent;
    }
    /// A port may stay silent for a new listener, for ever, and speak to the next one (manager/handover/guest_beats.cpp). Whether
    /// one was.
    bool listenAgain(GuestWatch::Session session) {
        bool anySilent = false;
        for (std::size_t i = 0; i < attempts_.size(); ++i) {
            MeasuredVm& vm = trial_.set.vms[i];
            // One that went back has no session after.
            const bool hasSession = session != GuestWatch::Session::After || attempts_[i].report->outcome != State::RolledBack;
            if (!hasSession || !vm.watch.listening() || vm.watch.hasBeatenIn(session)) continue;
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
            [&attempt, executes = !rowOf(trial_.series.design).wayBack](const HandoverProgress& step) {
                attempt.cpu.see(step, executes);
                if (step.state == State::Retiring) attempt.faultsAtSwitch = pageFaultsIfAlive(step.newPid);
            },
            [this, &attempt, &vm](VerbResult result) {
                attempt.cpu.end(vm.pid);
                attempt.report = std::move(result.report);
                try {
                    if (attempt.report->outcomeText() == name(Outcome::Upgraded)) control_.listen(vm, GuestWatch::Session::After);
                    if (attempt.report->outcome == State::RolledBack) control_.listen(vm, GuestWatch::Session::Before);
                } catch (const GuestLost&) {
                    attempt.guestLost = true;
                }
            });
    }

    Round roundOf(MeasuredVm& vm, Attempt& attempt) {
        vm.watch.stopListening();
        Round round = reported(*attempt.report);
        round.round = trial_.round;
        round.order = trial_.order;
        round.stealPercent = stealPercent_;
        round.startedAt = startedAt_;
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
        if (round.upgraded()) round.cpuMs = attempt.cpu.use(cpusOf(vm), attempts_.size());
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
    std::vector<std::set<pid_t>> oldCpus_;
    CpuTimes cpuBefore_;
    double beganAtMs_ = 0;
    double stealPercent_ = 0;
    std::string startedAt_;
    std::array<CpuWaitCounters, 3> waits_;  ///< When the guest is run, when the handover begins, and at the end.
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
