// What the rounds of a comparison say: the `summary` member of results.json. README.md has its shape.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manager/compare/metrics.h"
#include "manager/compare/results.h"

namespace vh {

/// Every round of a series is one of these.
struct RoundCount {
    std::size_t entered = 0;    ///< What statistics are made of.
    std::size_t failed = 0;     ///< Not upgraded.
    std::size_t disturbed = 0;  ///< Upgraded while the host had too little CPU time.

    std::size_t all() const { return entered + failed + disturbed; }
    /// What is left of a series may be of its quiet rounds by chance, or not.
    bool tooDisturbed() const { return disturbed * 5 > entered + disturbed; }
};
RoundCount countRounds(const Series& series);

/// What a metric was in the rounds that enter statistics; nothing but the count when that is 0.
struct MetricSummary {
    std::size_t count = 0;                    ///< Of VMs and rounds that have it.
    std::optional<double> median, low, high;  ///< Of rounds, as statistics.h has it; of fewer than 6 the smallest and greatest.
    std::optional<double> min, max;
    std::optional<double> p99;  ///< From 100 values on.
};

struct SeriesSummary {
    Design design = Design::Relayed;
    std::size_t rounds = 0, failed = 0, disturbed = 0;  ///< A RoundCount.
    bool tooDisturbed = false;
    std::map<std::string_view, MetricSummary> metrics;  ///< All of `metrics`, by name.
};

enum class Verdict { Smaller, Larger, NoDifference, TooFewRounds, TooBusy };
std::string_view name(Verdict verdict);
/// It says that two designs differ.
constexpr bool isClaim(Verdict verdict) {
    return verdict == Verdict::Smaller || verdict == Verdict::Larger;
}

/// Of one design to another, by pairs of the same round and VM.
struct Ratio {
    std::string_view metric;
    Design design = Design::Relayed;
    Design reference = Design::Relayed;
    std::size_t count = 0;
    std::optional<double> median, low, high;
    Verdict verdict = Verdict::TooFewRounds;
};

struct ConfigurationSummary {
    std::string id;
    std::vector<SeriesSummary> series;  ///< In the configuration's order.
    std::vector<Ratio> ratios;
};

using Summary = std::vector<ConfigurationSummary>;  ///< In the results' order.

/// Nothing in it is random: the same rounds make the same summary.
Summary summarize(const Results& results);

/// One value a round: the median of its VMs. What happens to VMs that are handed over at once is not independent, so that
/// intervals are made of these.
std::vector<double> roundValuesOf(const Series& series, const Metric& metric);

}  // namespace vh
