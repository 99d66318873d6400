#include "manager/compare/comparison.h"

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <utility>

#include "config/parse.h"
#include "manager/compare/configurations.h"
#include "manager/compare/disturbance.h"
#include "manager/compare/huge_pages.h"
#include "manager/compare/inspection.h"
#include "manager/compare/own_network.h"
#include "manager/compare/results_file.h"
#include "manager/compare/round.h"
#include "manager/compare/round_order.h"
#include "manager/compare/summary.h"
#include "manager/compare/vm_set.h"
#include "manager/process/event_loop.h"
#include "manager/resources/memory_room.h"
#include "vmm-shim/elf_file.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/proc.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

constexpr unsigned batchRounds = 10;
constexpr unsigned failuresInARow = 3;  ///< After so many rounds, a design is given up in its configuration.
constexpr milliseconds settling{300};
constexpr std::uint64_t spareBytes = 1ULL << 30;  ///< For the VMMs themselves and the host.

/// A VMM that is not the one any more that the rounds before were measured with.
struct ReplacedVmm : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Comparison {
 public:
    Comparison(const ComparisonSettings& settings, Results& results, const ComparisonProgress& progress)
        : settings_(settings), results_(results), progress_(progress) {
        if (settings_.evenIfBusy) note("nobody looked whether the host was idle enough before: --even-if-busy");
        try {
            traceProblem_ = whyNoTrace();
        } catch (const std::exception& error) {
            traceProblem_ = error.what();
        }
        if (!traceProblem_.empty()) note("ioctls were not counted: " + traceProblem_);
        if (std::ranges::any_of(results_.configurations, [](const Configuration& one) { return one.devices.network; })) {
            networkProblem_ = enterOwnNetwork(ownBridge);
            if (!networkProblem_.empty()) note("the VMs had no network: " + networkProblem_);
        }
        results_.scratchDirectory = scratch_.path();
        write();
        control_.emplace(scratch_.path());
    }

    bool run() {
        bool complete = true;
        try {
            for (Configuration& configuration : results_.configurations) runConfiguration(configuration);
            if (!results_.finishedAt) results_.finishedAt = utcNow();
        } catch (const VmControl::Interrupted&) {
            complete = false;
        }
        control_.reset();
        ComparisonDirectory::remove(scratch_.path());
        results_.scratchDirectory.reset();
        return complete;
    }

    void interrupt() {
        if (control_) control_->interrupt();
    }

 private:
    /// A design in a configuration, and the VMs that it is run with.
    struct Entry {
        VmSet* set;
        Series* series;
    };

    /// Whether any of these rounds is to be run and was not yet.
    bool isMissing(const Series& series, unsigned first, unsigned last) const {
        if (!series.isRun()) return false;
        for (unsigned round = first; round <= std::min(last, roundsOf(series.design)); ++round)
            if (!series.has(round)) return true;
        return false;
    }

    unsigned roundsOf(Design design) const {
        const ComparePlan& plan = settings_.plan;
        return rowOf(design).baseline && plan.baselineRounds != 0 ? std::min(plan.baselineRounds, plan.rounds) : plan.rounds;
    }

    void note(const std::string& text) {
        if (std::ranges::find(results_.notes, text) == results_.notes.end()) results_.notes.push_back(text);
    }

    void write() { writeResults(settings_.resultsFile, results_); }

    void tell(const std::string& what) {
        std::size_t left = 0;
        for (const Configuration& one : results_.configurations)
            for (const Series& series : one.series)
                for (unsigned round = 1; round <= settings_.plan.rounds; ++round) left += isMissing(series, round, round) ? 1 : 0;
        progress_(what, handoversDone_, left);
    }

    void tellOf(const Configuration& configuration, const std::string& what) {
        tell("cell " + std::to_string(numberOf(configuration) + 1) + " of " + std::to_string(results_.configurations.size()) +
             ", " + what);
    }

    enum class Kind { Round, WarmUp };

    /// The entries that have this round, in its order: the same for the same seed, however the run was interrupted.
    std::vector<Entry> ordered(const Configuration& configuration, const std::vector<Entry>& entries, unsigned round,
                               Kind kind = Kind::Round) const {
        std::vector<const Series*> series;
        for (const Entry& entry : entries) series.push_back(entry.series);
        const auto rounds = [&](Design design) { return kind == Kind::WarmUp ? settings_.plan.warmUpRounds : roundsOf(design); };
        const std::uint64_t stream = numberOf(configuration) | (kind == Kind::WarmUp ? 1ULL << 32 : 0);
        std::vector<Entry> order;
        for (const Series* next : seriesInOrder(series, round, rounds, results_.seed, stream))
            order.push_back(*std::ranges::find(entries, next, &Entry::series));
        return order;
    }

    std::vector<VmSet> vmSetsOf(Configuration& configuration) const {
        const std::string old = binaryOf(configuration.old);
        std::vector<VmSet> sets;
        for (const MemoryOwner owner : {MemoryOwner::Manager, MemoryOwner::Vmm}) {
            VmSet set{.owner = owner, .series = {}, .vms = {}};
            for (Series& series : configuration.series)
                if (rowOf(series.design).owner.value_or(MemoryOwner::Manager) == owner) set.series.push_back(&series);
            if (set.series.empty()) continue;
            for (unsigned i = 0; i < configuration.vms; ++i) {
                MeasuredVm& vm = set.vms.emplace_back();
                vm.number = static_cast<unsigned>(sets.size()) * configuration.vms + i;
                vm.transparentHuge = configuration.transparentHuge;
                vm.definition = settings_.own ? guestLike(*settings_.own, old, scratch_.path(), owner, vm.number)
                                              : guestFor(configuration, settings_.plan, old, scratch_.path(), owner, vm.number,
                                                         hasNetwork(configuration));
            }
            sets.push_back(std::move(set));
        }
        return sets;
    }

    void runConfiguration(Configuration& configuration) {
        const unsigned rounds = settings_.plan.rounds;
        std::vector<VmSet> sets = vmSetsOf(configuration);
        const auto anyMissing = [this](const VmSet& set, unsigned first, unsigned last) {
            return std::ranges::any_of(set.series, [&](const Series* series) { return isMissing(*series, first, last); });
        };
        // What one set needs, and a design that copies RAM once more.
        const std::uint64_t setBytes = configuration.vms * configuration.ramBytes;
        const bool copies = std::ranges::any_of(
            configuration.series, [](const Series& series) { return rowOf(series.design).baseline && series.isRun(); });
        const std::uint64_t needed = (sets.size() + (copies ? 1 : 0)) * setBytes + spareBytes;
        if (setBytes + spareBytes > availableMemoryBytes()) {
            for (Series& series : configuration.series)
                if (series.isRun())
                    series.notRun = "the VMs of this cell need " + formatSize(setBytes + spareBytes) +
                                    " of memory, and the host has not that much available";
            return;
        }
        const bool hasDevices = settings_.own && !settings_.own->vfio.empty();  // Which only one VM can have at a time.
        if ((needed <= availableMemoryBytes() && !hasDevices) || sets.size() == 1) {
            if (std::ranges::any_of(sets, [&](const VmSet& set) { return anyMissing(set, 1, rounds); }))
                runBatch(configuration, sets, 1, rounds);
            return;
        }
        note("in cells of " + formatSize(configuration.ramBytes) +
             " the designs that need RAM of the manager's and those that need RAM of the VMM's own were measured in turns of " +
             std::to_string(batchRounds) + " rounds and not within each round: " +
             (hasDevices ? "passed-through devices are there only once" : "memory is not enough for both"));
        for (unsigned first = 1; first <= rounds; first += batchRounds)
            for (VmSet& set : sets) {
                const unsigned last = std::min(rounds, first + batchRounds - 1);
                if (anyMissing(set, first, last)) runBatch(configuration, std::span(&set, 1), first, last);
            }
    }

    void runBatch(Configuration& configuration, std::span<VmSet> sets, unsigned first, unsigned last) {
        std::vector<Entry> entries;
        for (VmSet& set : sets) {
            for (Series* series : set.series) entries.push_back({&set, series});
            startOrGiveUp(configuration, set);
        }
        write();
        const auto trialOf = [&](const Entry& entry, unsigned round, unsigned order) {
            return Trial{configuration,
                         *entry.series,
                         *entry.set,
                         binaryOf(configuration.new_),
                         round,
                         order,
                         hasNetwork(configuration) && !settings_.own};
        };
        for (unsigned warmUp = 1; warmUp <= settings_.plan.warmUpRounds; ++warmUp)
            for (const Entry& entry : ordered(configuration, entries, warmUp, Kind::WarmUp))
                attempt(configuration, entry, [&] { runRound(trialOf(entry, 0, 0)); });
        for (const Entry& entry : entries)
            if (!entry.series->inspection)
                attempt(configuration, entry, [&] { inspect(configuration, *entry.series, *entry.set); });
        for (unsigned round = first; round <= last; ++round) {
            unsigned order = 0;
            for (const Entry& entry : ordered(configuration, entries, round)) {
                ++order;
                attempt(configuration, entry, [&] {
                    if (isMissing(*entry.series, round, round)) runRound(trialOf(entry, round, order));
                });
                if (isMissing(*entry.series, round, round))
                    entry.series->notRun = "given up in round " + std::to_string(round) + ": its VMs do not stay alive";
            }
        }
        for (VmSet& set : sets) end(set);
    }

    /// Does something with VMs that are what they should be: when they are not any more, once again with VMs that are started
    /// anew.
    void attempt(Configuration& configuration, const Entry& entry, const std::function<void()>& what) {
        for (int tries = 0; tries < 2 && entry.series->isRun(); ++tries) {
            try {
                return what();
            } catch (const GuestLost& lost) {
                charge(configuration, *entry.set, lost.vm);
                end(*entry.set);
                if (!startOrGiveUp(configuration, *entry.set)) return;
            }
        }
    }

    /// A guest that is found dead was lost by the handover that it had last, however well that one ended.
    void charge(const Configuration& configuration, VmSet& set, unsigned number) {
        for (std::size_t i = 0; i < set.vms.size(); ++i) {
            const MeasuredVm& vm = set.vms[i];
            const std::string after =
                vm.lastRound == 0 ? "before its first round"
                                  : "after round " + std::to_string(vm.lastRound) + " of " + std::string(name(vm.lastDesign));
            if (vm.number != number) continue;
            note("cell " + std::to_string(numberOf(configuration) + 1) + ": the VMs were started anew " + after);
            for (Series* series : set.series)
                for (Round& round : series->rounds)
                    if (series->design == vm.lastDesign && round.round == vm.lastRound && round.vm == i + 1 && round.upgraded()) {
                        round.outcome = Outcome::Lost;
                        round.cause = "the guest was found dead before its next round";
                    }
        }
    }

    /// Starts a set's VMs, and asks which designs they can be handed over by. False when that cannot be done; its designs are not
    /// run then.
    bool startOrGiveUp(Configuration& configuration, VmSet& set) {
        try {
            start(set);
            findOutWhichRun(configuration, set);
            return true;
        } catch (const ReplacedVmm&) {
            throw;
        } catch (const std::runtime_error& error) {
            for (Series* series : set.series)
                if (series->isRun()) series->notRun = error.what();
            end(set);
            return false;
        }
    }

    void start(VmSet& set) {
        for (MeasuredVm& vm : set.vms) {
            tell("starting a VM with " + formatSize(vm.definition.memory.sizeBytes) + " of RAM");
            makeDisks(vm.definition, settings_.own);
            vm.lastRound = 0;
            control_->start(vm, settings_.bootWait);
            noteHugePages(vm);
        }
    }

    /// A host may give them unasked; figures are then not of the pages that the cell says.
    void noteHugePages(const MeasuredVm& vm) {
        if (vm.transparentHuge || vm.definition.memory.pageSizeBytes > 4096) return;
        try {
            if (guestRamOf(vm.pid).hugeBytes > 0)
                note(
                    "guest RAM in pages of 4KiB was partly in transparent huge pages, for this host gives them unasked "
                    "('/sys/kernel/mm/transparent_hugepage/shmem_enabled')");
        } catch (const std::exception&) {  // Of a process that may end at any moment.
        }
    }

    void findOutWhichRun(Configuration& configuration, VmSet& set) {
        MeasuredVm& vm = set.vms.front();
        // By now: the old one's is about to be known.
        const bool hadBuildIds =
            !results_.vmms[configuration.old].buildId.empty() && !results_.vmms[configuration.new_].buildId.empty();
        learn({}, configuration.old, vm.pid);
        control_->setRunning(vm, true);
        for (Series* series : set.series) {
            if (!series->isRun() || (!series->rounds.empty() && hadBuildIds)) continue;  // It is known, or will be.
            const HandoverReport report =
                control_->upgrade(vm, {.binary = binaryOf(configuration.new_), .design = series->design, .dryRun = true});
            learn(report, configuration.old, vm.pid);
            learn(report, configuration.new_, 0);
            if (!report.dryRun && series->rounds.empty()) series->notRun = Obstacle{report.cause, report.remedy}.text();
        }
        control_->setRunning(vm, false);
        configuration.title = titleOf(configuration, results_);
    }

    /// What is known already must stay so: rounds with another VMM would be mixed in.
    void learn(const HandoverReport& report, std::size_t vmm, pid_t pid) {
        MeasuredVmm& known = results_.vmms[vmm];
        const std::string buildId = pid != 0 ? buildIdOf(Process(pid).program().file) : "";
        if (!known.buildId.empty() && !buildId.empty() && known.buildId != buildId)
            throwReplaced(known, "build id '" + known.buildId + "'", "'" + buildId + "'");
        for (const VmmIdentity& side : {report.old, report.new_}) {
            if (side.binary != known.binary || side.version.empty()) continue;
            if (!known.version.empty() && known.version != side.version)
                throwReplaced(known, "version '" + known.version + "'", "'" + side.version + "'");
            known.version = side.version;
        }
        if (known.buildId.empty()) known.buildId = buildId;
    }

    [[noreturn]] void throwReplaced(const MeasuredVmm& known, const std::string& was, const std::string& is) const {
        throw ReplacedVmm("'" + known.binary + "' was replaced since '" + settings_.resultsFile + "' was begun: it had " + was +
                          ", and has " + is + " now; put the former one back, or begin anew with another --output");
    }

    void end(VmSet& set) {
        for (MeasuredVm& vm : set.vms) {
            control_->destroy(vm);
            std::error_code ignored;
            for (const Disk& disk : vm.definition.disks) std::filesystem::remove(disk.file, ignored);
        }
    }

    void runRound(const Trial& trial) {
        const std::string round = trial.round == 0
                                      ? "warm-up"
                                      : "round " + std::to_string(trial.round) + " of " + std::to_string(settings_.plan.rounds);
        tellOf(trial.configuration, round + ", " + std::string(name(trial.series.design)));
        if (trial.round > 0) ++handoversDone_;
        RoundEnd ended = vh::runRound(*control_, trial, settings_.plan, [this](const std::string& text) { note(text); });
        for (std::size_t i = 0; i < ended.rounds.size(); ++i)
            if (ended.rounds[i].upgraded()) learn(ended.reports[i], trial.configuration.new_, trial.set.vms[i].pid);
        if (trial.round > 0) keep(trial, std::move(ended.rounds));
        for (MeasuredVm& vm : trial.set.vms) {
            vm.lastDesign = trial.series.design;
            vm.lastRound = trial.round;
        }
        if (ended.lostVm) throw GuestLost{trial.set.vms[*ended.lostVm].number};
        goBack(trial.set);
    }

    void keep(const Trial& trial, std::vector<Round> rounds) {
        std::vector<Round>& all = trial.series.rounds;
        std::ranges::move(rounds, std::back_inserter(all));
        if (failedRoundsInARow(trial.series) >= failuresInARow)
            trial.series.notRun = "given up after " + std::to_string(failuresInARow) + " failures in a row: " + all.back().cause;
        write();
    }

    /// To where the next round begins: on the pair's old VMM, stopped.
    void goBack(VmSet& set) {
        for (MeasuredVm& vm : set.vms) {
            const std::string old = vm.definition.vmm.binary;
            if (vm.binary != old) {
                const std::string from = vm.binary;
                const HandoverReport report = control_->upgrade(vm, {.binary = old, .design = defaultDesign});
                if (report.exitCode() != ExitCode::Done) {
                    note("VMs had to be started anew in place of going back from " + from + " to " + old + ": " + report.cause);
                    throw GuestLost{vm.number};
                }
                control_->runFor(settling);
            }
            control_->setRunning(vm, false);
        }
    }

    /// A handover that is looked at closely, and therefore not timed.
    void inspect(const Configuration& configuration, Series& series, VmSet& set) {
        MeasuredVm& vm = set.vms.front();
        tellOf(configuration, "looking closely at " + std::string(name(series.design)));
        control_->setRunning(vm, true);
        control_->runFor(settling);
        CloseLook look(series.design, vm.pid, binaryOf(configuration.new_), traceProblem_, scratch_.path(),
                       Identity::of(vm.definition.vmm.user));
        const HandoverReport report = control_->upgrade(vm, {.binary = look.program(), .design = series.design},
                                                        [&look](const HandoverProgress& step) { look.see(step); });
        if (report.outcomeText() == name(Outcome::Upgraded)) {
            series.inspection = look.found(vm.pid);
            write();
            // Off the traced VMM, also where old and new are the same binary.
            return goBack(set);
        }
        if (report.outcome == State::Lost) throw GuestLost{vm.number};
        control_->setRunning(vm, false);
    }

    std::size_t numberOf(const Configuration& one) const {
        return static_cast<std::size_t>(&one - results_.configurations.data());
    }
    std::string binaryOf(std::size_t vmm) const { return results_.vmms[vmm].binary; }
    bool hasNetwork(const Configuration& one) const { return one.devices.network && networkProblem_.empty(); }

    const ComparisonSettings& settings_;
    Results& results_;
    const ComparisonProgress& progress_;
    std::string networkProblem_;
    std::string traceProblem_;
    std::size_t handoversDone_ = 0;
    ComparisonDirectory scratch_;
    std::optional<VmControl> control_;
};

}  // namespace

bool runComparison(const ComparisonSettings& settings, Results& results, const ComparisonProgress& progress) {
    // From the first moment on: a signal is heard when the main loop is turned, and who begins can be asked to end.
    std::optional<Comparison> comparison;
    bool isInterrupted = false;
    const auto interrupt = [&] {
        isInterrupted = true;
        if (comparison) comparison->interrupt();
    };
    const EventSource keyboard = EventSource::unixSignal(SIGINT, interrupt);
    const EventSource terminate = EventSource::unixSignal(SIGTERM, interrupt);
    const EventSource hangUp = EventSource::unixSignal(SIGHUP, interrupt);
    if (results.scratchDirectory) ComparisonDirectory::remove(*results.scratchDirectory);
    if (!settings.evenIfBusy) {
        progress("looking whether this host is idle enough to measure", 0, 0);
        requireIdleHost(settings.plan.stealLimitPercent);
    }
    bool isComplete = false;
    if (!isInterrupted) {
        comparison.emplace(settings, results, progress);
        isComplete = comparison->run();
    }
    results.sittings.back().finishedAt = utcNow();
    return isComplete;
}

Results newResults(const ComparisonSettings& settings, const std::vector<std::string>& command, const std::string& version) {
    const ComparePlan& plan = settings.plan;
    Results results;
    results.version = version;
    results.command = command;
    results.startedAt = utcNow();
    results.seed = *plan.seed;
    results.settings = {.plan = toYaml(plan),
                        .definition = settings.own ? std::optional(toYaml(*settings.own)) : std::nullopt,
                        .bootWaitMs = settings.bootWait.count(),
                        .rounds = plan.rounds,
                        .baselineRounds = plan.baselineRounds == 0 ? plan.rounds : plan.baselineRounds,
                        .warmUpRounds = plan.warmUpRounds,
                        .beforeMs = plan.before.count(),
                        .afterMs = plan.after.count(),
                        .stealLimitPercent = plan.stealLimitPercent,
                        .cpuPressureLimitPercent = plan.cpuPressureLimitPercent,
                        .runQueueLimitPercent = plan.runQueueLimitPercent,
                        .beatLimitMs = plan.beatLimit.count(),
                        .equivalenceMarginPercent = plan.equivalenceMarginPercent,
                        .primaryMetrics = usualPrimaryMetrics(plan.before.count())};
    results.host = hostFacts();
    addConfigurations(plan, settings.own, probeKvm().guests, results);
    return results;
}

}  // namespace vh
