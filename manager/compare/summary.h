// What the rounds of a results file say: the `summary` member of results.json. README.md has its shape.
#pragma once

#include <cstddef>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/compare/metrics.h"

namespace vh {

/// Takes results of which at least `cells` is there. Nothing in it is random: the same cells make the same summary.
nlohmann::json summarize(const nlohmann::json& results);

/// Every entry of a series' `rounds` is one of these.
struct RoundCount {
    std::size_t entered = 0;    ///< What statistics are made of.
    std::size_t failed = 0;     ///< Not upgraded.
    std::size_t disturbed = 0;  ///< Upgraded while the host had too little CPU time.

    std::size_t all() const { return entered + failed + disturbed; }
    /// What is left of a series may be of its quiet rounds by chance, or not.
    bool tooDisturbed() const { return disturbed * 5 > entered + disturbed; }
};
RoundCount countRounds(const nlohmann::json& series);

/// The values of those rounds that enter statistics, one for each VM and round that has one.
std::vector<double> valuesOf(const nlohmann::json& series, const Metric& metric);

/// One value a round: the median of its VMs. What happens to VMs that are handed over at once is not independent, so that
/// intervals are made of these.
std::vector<double> roundValuesOf(const nlohmann::json& series, const Metric& metric);

}  // namespace vh
