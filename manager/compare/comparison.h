// Runs the rounds of a comparison and writes down what each cost.
//
// Theory of operation. The designs of a configuration need VMs of one of two kinds, by who makes guest RAM; the VMs of a kind are
// a VM set. When memory allows, both sets of a configuration are up at once, and each round runs every design once, in random
// order; the VMs of the other set are stopped meanwhile. When it does not, the rounds are run in batches of some rounds each, one
// set after the other. A handover is the manager's own, from the same Host that the command line uses with --embed. After each, a
// VM on a pair of two binaries is taken back to the old one, unmeasured.
//
//     for each configuration: for each batch: start the VM sets
//         preflight of every design (once): refused ones are not run, with the reason
//         warm-up rounds, an inspection of every design (once), rounds: before - handover - after, figures, results.json
//
// It is a program of its own and not a part of the daemon, so it runs the main loop itself and waits for one thing after the
// other. Everything that it started is ended by the time run() returns.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "manager/compare/configurations.h"
#include "manager/compare/round.h"
#include "manager/compare/scratch_directory.h"
#include "manager/compare/vm_set.h"

namespace vh {

struct ComparisonSettings {
    ComparePlan plan;                       ///< Complete: binary pairs, a guest, a seed.
    std::optional<VmDefinition> own;        ///< A VM of the user's own instead of the plan's guest.
    std::chrono::milliseconds bootWait{0};  ///< How long such a VM without a heartbeat takes to boot.
    std::string resultsFile;                ///< Written after every round.
    bool evenIfBusy = false;                ///< Measure on a host that is too busy for it.
};

class Comparison {
 public:
    /// Told what is being done, in words, how many handovers were measured so far, and how many are left.
    using Progress = std::function<void(const std::string& what, std::size_t done, std::size_t left)>;

    /// `results` is what newResults() made, or an interrupted run's, which then goes on. Throws std::runtime_error with the
    /// reason why nothing can be measured here.
    Comparison(ComparisonSettings settings, Results results, Progress progress);

    /// True when every round was run. Throws std::system_error when results cannot be written.
    bool run();

    /// Ends run() at the next moment that leaves no guest in between.
    void interrupt();

    const Results& results() const { return results_; }

 private:
    /// A design in a configuration, and the VMs that it is run with.
    struct Entry {
        VmSet* set;
        Series* series;
    };

    void requireIdleHost();
    void makeNetwork();
    std::vector<VmSet> vmSetsOf(Configuration& configuration) const;
    void runConfiguration(Configuration& configuration);
    void runBatch(Configuration& configuration, std::span<VmSet> sets, unsigned first, unsigned last);
    /// Does something with VMs that are what they should be: when they are not any more, once again with VMs that are started
    /// anew.
    void attempt(Configuration& configuration, const Entry& entry, const std::function<void()>& what);
    /// Starts a set's VMs, and asks which designs they can be handed over by. False when that cannot be done; its designs are not
    /// run then.
    bool startOrGiveUp(Configuration& configuration, VmSet& set);
    void start(VmSet& set);
    void findOutWhichRun(Configuration& configuration, VmSet& set);
    void runRound(const Trial& trial);
    void keep(const Trial& trial, std::vector<Round> rounds);
    void inspect(const Configuration& configuration, Series& series, VmSet& set);
    /// To where the next round begins: on the pair's old VMM, stopped.
    void goBack(VmSet& set);
    void end(VmSet& set);

    unsigned roundsOf(Design design) const;
    /// Whether any of these rounds is to be run and was not yet.
    bool isMissing(const Series& series, unsigned first, unsigned last) const;
    /// The entries in the order in which a round runs them: the same for the same seed, however the run was interrupted.
    std::vector<Entry> ordered(const Configuration& configuration, const std::vector<Entry>& entries, unsigned round) const;
    std::size_t numberOf(const Configuration& one) const {
        return static_cast<std::size_t>(&one - results_.configurations.data());
    }
    std::string binaryOf(std::size_t vmm) const { return results_.vmms[vmm].binary; }
    bool hasNetwork(const Configuration& one) const { return one.devices.network && networkProblem_.empty(); }
    void note(const std::string& text);
    void tell(const std::string& what);
    void tellOf(const Configuration& configuration, const std::string& what);
    void learn(const HandoverReport& report, std::size_t vmm, pid_t pid);
    void write();

    ComparisonSettings settings_;
    Results results_;
    Progress progress_;
    std::string networkProblem_;
    std::string traceProblem_;
    std::size_t handoversDone_ = 0;
    ComparisonDirectory scratch_;
    std::optional<VmControl> control_;
};

/// Empty results for these settings: facts of the host, the plan, its configurations. `version` is virt-handover's.
Results newResults(const ComparisonSettings& settings, const std::vector<std::string>& command, const std::string& version);

}  // namespace vh
