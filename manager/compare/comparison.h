// Runs the rounds of a comparison and writes down what each cost.
//
// Theory of operation. A cell's designs need VMs of one of two kinds, by who makes guest RAM; the VMs of a kind are a stand. When
// memory allows, all stands of a cell are up at once, and each round runs every design once, in random order; the VMs whose turn
// it is not are stopped. When it does not, the rounds are run in sittings of some rounds each, one stand after the other. A
// handover is the manager's own, from the same Host that the command line uses with --embed. After each, a VM on a pair of two
// binaries is taken back to the old one, unmeasured.
//
//     for each cell: for each sitting: start the stands
//         preflight of every design (once a cell): refused ones are not run, with the reason
//         warm-up rounds, an inspection of every design (once a cell), rounds: before - handover - after, figures, results.json
//
// It is a program of its own and not a part of the daemon, so it runs the main loop itself and waits for one thing after the
// other. Everything that it started is ended by the time run() returns.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/compare/cells.h"
#include "manager/compare/guest_watch.h"
#include "manager/service/host.h"

namespace vh {

struct ComparisonSettings {
    ComparePlan plan;                       ///< Complete: pairs, a guest, a seed.
    std::optional<VmDefinition> base;       ///< A VM of the user's own instead of the plan's guest.
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
    Comparison(ComparisonSettings settings, nlohmann::json results, Progress progress);
    ~Comparison();

    /// True when every round was run. Throws std::system_error when results cannot be written.
    bool run();

    /// Ends run() at the next moment that leaves no guest in between.
    void interrupt();

    const nlohmann::json& results() const { return results_; }

 private:
    struct Vm;
    struct Stand;
    struct Cancelled {};  ///< Thrown where an interruption is noticed; run() catches it.
    /// A VM is not what it should be any more; its stand is started anew.
    struct GuestLost : std::runtime_error {
        GuestLost() : std::runtime_error("a VM does not answer any more") {}
    };

    void runCell(std::size_t index);
    void runSitting(std::size_t cell, std::span<Stand> stands, unsigned first, unsigned last);
    /// Starts the stand's VMs, and asks which designs they can be handed over by. False when that cannot be done; its designs are
    /// not run then.
    bool startOrGiveUp(std::size_t cell, Stand& stand);
    void findOutWhichRun(std::size_t cell, Stand& stand);
    void inspectOnce(std::size_t cell, Stand& stand, Design design);
    void runRound(std::size_t cell, Stand& stand, Design design, unsigned round, unsigned order);
    unsigned roundsOf(Design design) const;
    /// Rounds of a design in a cell that are to be run and were not yet.
    std::vector<unsigned> missing(std::size_t cell, Design design, unsigned first, unsigned last) const;
    const nlohmann::json& seriesOf(std::size_t cell, Design design) const;
    nlohmann::json& seriesOf(std::size_t cell, Design design);

    std::vector<Stand> standsOf(std::size_t cell) const;
    void start(Stand& stand);
    void end(Stand& stand);
    void goBack(Stand& stand);
    void setRunning(Vm& vm, bool running);
    void watch(Vm& vm, GuestWatch::Session session);
    void note(const std::string& text);
    void tell(const std::string& what);
    void learn(const nlohmann::json& report, const std::string& binary, pid_t pid);
    void write();

    VerbResult wait(const std::function<void(Verbs::Done)>& verb);
    void runLoop(std::chrono::milliseconds time);
    void throwIfInterrupted() const;
    void clearAway(const std::string& directory);

    ComparisonSettings settings_;
    nlohmann::json results_;
    Progress progress_;
    std::vector<Cell> cells_;
    Workplace workplace_;
    std::unique_ptr<Host> host_;
    std::string networkProblem_;
    std::string traceProblem_;
    bool interrupted_ = false;
    std::size_t handoversDone_ = 0;
};

/// An empty results file for these settings: facts of the host, the plan, its cells. `version` is virt-handover's.
nlohmann::json newResults(const ComparisonSettings& settings, const std::vector<std::string>& command,
                          const std::string& version);

}  // namespace vh
