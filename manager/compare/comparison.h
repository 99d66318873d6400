// Runs the rounds of a comparison and writes down what each cost.
//
// Theory of operation. The designs of a configuration need VMs of one of two kinds, by who makes guest RAM; the VMs of a kind are
// a VM set. When memory allows, both sets of a configuration are up at once, and each round runs every design once, in an order
// that is balanced over rounds (round_order.h); the VMs of the other set are stopped meanwhile. When it does not, the rounds are
// run in batches of some rounds each, one set after the other. A handover is the manager's own, from the same Host that the
// command line uses with --embed. After each, a VM on a pair of two binaries is taken back to the old one, unmeasured.
//
//     for each configuration: for each batch: start the VM sets
//         preflight of every design (once): refused ones are not run, with the reason
//         warm-up rounds, an inspection of every design (once), rounds: before - handover - after, figures, results.json
//
// It is a program of its own and not a part of the daemon, so it runs the main loop itself and waits for one thing after the
// other. Everything that it started is ended by the time that it returns.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/vm_definition.h"
#include "manager/compare/results.h"

namespace vh {

struct ComparisonSettings {
    ComparePlan plan;                       ///< Complete: binary pairs, a guest, a seed.
    std::optional<VmDefinition> own;        ///< A VM of the user's own instead of the plan's guest.
    std::chrono::milliseconds bootWait{0};  ///< Time that such a VM without a heartbeat takes to boot.
    std::string resultsFile;                ///< Written after every round.
    bool evenIfBusy = false;                ///< Measure on a host that is too busy for it.
};

/// Told what is being done, in words, how many handovers were measured so far, and how many are left.
using ComparisonProgress = std::function<void(const std::string& what, std::size_t done, std::size_t left)>;

/// Runs the rounds that `results` lacks: those that newResults() made, or an interrupted run's. True when every round was run,
/// false when somebody asked this process to end (SIGINT, SIGTERM, SIGHUP), which it does at the next moment that leaves no guest
/// in between. Throws std::runtime_error with the reason why nothing can be measured here, before anything is written where the
/// host is too busy, or why rounds from now on would not go with those before; and std::system_error when results cannot be
/// written. The last of the results' sittings is this one.
bool runComparison(const ComparisonSettings& settings, Results& results, const ComparisonProgress& progress);

/// Empty results for these settings: facts of the host, the plan, its configurations. `version` is virt-handover's.
Results newResults(const ComparisonSettings& settings, const std::vector<std::string>& command, const std::string& version);

}  // namespace vh
