// What the rounds of a comparison say: the `summary` member of results.json. README.md has its shape, and how each figure is
// made.
//
// Which designs are compared by which metrics is fixed before anything is measured: these are the contrasts. Each is tested by
// the exact sign test of rounds, which needs to know of two values only which is the greater, so that also those count of which
// no more is known than that they are longer than the window. Rounds of several cells are pooled by accelerator, for what is
// under TCG and what is under KVM are not one quantity. That a figure is smaller or larger is claimed where the test stands
// Holm's correction for all tests of its family: the primary ones, all other pooled ones, and those of single cells.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manager/compare/results.h"
#include "manager/compare/statistics.h"

namespace vh {

/// A value that a round shows. It is a bound where the window ended first: the true figure is that or more.
struct Shown {
    double value = 0;
    bool isAtLeast = false;
};

/// A figure of a round that statistics are made of.
struct Metric {
    std::string_view name;     ///< Key in `summary`.
    std::string_view pointer;  ///< JSON pointer to it in a round of results.json, for the page and the CSV; see README.md.
    std::string_view title;
    std::string_view unit;
    std::optional<Shown> (*of)(const Round& round);
};

/// The figure that these members lead to; none when one of them is.
template <auto Member, auto... Further>
std::optional<Shown> figure(const auto& from) {
    const auto& value = from.*Member;
    if constexpr (requires { *value; }) {
        if (!value) return std::nullopt;
        if constexpr (sizeof...(Further) > 0)
            return figure<Further...>(*value);
        else
            return Shown{static_cast<double>(*value)};
    } else {
        return Shown{static_cast<double>(value)};
    }
}
/// A guest that was not back at speed when the window ended went on to lose.
std::optional<Shown> workLostOf(const Round& round);
std::optional<Shown> brownOutOf(const Round& round);
std::optional<Shown> networkGapOf(const Round& round);

/// The metrics; of all of them less is better.
inline constexpr std::array metrics{
    Metric{"stopToResumeMs", "/stopToResumeMs", "STOP to RESUME", "ms", figure<&Round::stopToResumeMs>},
    Metric{"qemuDowntimeMs", "/qemuDowntimeMs", "QEMU's own downtime", "ms", figure<&Round::qemuDowntimeMs>},
    Metric{"guestPauseMs", "/guestPauseMs", "guest pause (heartbeats)", "ms", figure<&Round::guestPauseMs>},
    Metric{"workLostMs", "/writeRate/workLostMs", "guest work lost", "ms", workLostOf},
    Metric{"brownOutMs", "/writeRate/brownOutMs", "brown-out", "ms", brownOutOf},
    Metric{"networkGapMs", "/network/longestGapMs", "longest network gap", "ms", networkGapOf},
    Metric{"networkLost", "/network/lost", "echo requests lost", "", figure<&Round::network, &EchoRequests::lost>},
    Metric{"totalMs", "/totalMs", "whole handover", "ms", figure<&Round::totalMs>},
    Metric{"preparationMs", "/preparationMs", "time to prepare", "ms", figure<&Round::preparationMs>},
    Metric{"noWayBackMs", "/noWayBackMs", "time without a way back", "ms", figure<&Round::noWayBackMs>},
    Metric{"cpuManagerMs", "/cpuMs/manager", "CPU time of the manager", "ms", figure<&Round::cpuMs, &CpuUse::manager>},
    Metric{"cpuOldMs", "/cpuMs/old", "CPU time of the old VMM", "ms", figure<&Round::cpuMs, &CpuUse::old>},
    Metric{"cpuNewMs", "/cpuMs/new", "CPU time of the new VMM", "ms", figure<&Round::cpuMs, &CpuUse::new_>},
    Metric{"prepareMs", "/phasesMs/prepare", "prepare", "ms", figure<&Round::phasesMs, &PhaseTimes::prepare>},
    Metric{"launchMs", "/phasesMs/launch", "launch", "ms", figure<&Round::phasesMs, &PhaseTimes::launch>},
    Metric{"exchangeMs", "/phasesMs/exchange", "exchange", "ms", figure<&Round::phasesMs, &PhaseTimes::exchange>},
    Metric{"verifyMs", "/phasesMs/verify", "verify", "ms", figure<&Round::phasesMs, &PhaseTimes::verify>},
    Metric{"pausePhaseMs", "/phasesMs/pause", "pause", "ms", figure<&Round::phasesMs, &PhaseTimes::pause>},
    Metric{"confirmMs", "/phasesMs/confirm", "confirm", "ms", figure<&Round::phasesMs, &PhaseTimes::confirm>},
    Metric{"retireMs", "/phasesMs/retire", "retire", "ms", figure<&Round::phasesMs, &PhaseTimes::retire>},
    Metric{"beatP99BeforeMs", "/beats/before/p99Ms", "99th of 100 heartbeat intervals before", "ms",
           figure<&Round::beats, &Beats::before, &BeatIntervals::p99Ms>},
    Metric{"beatP99DuringMs", "/beats/during/p99Ms", "99th of 100 heartbeat intervals during the preparation", "ms",
           figure<&Round::beats, &Beats::during, &BeatIntervals::p99Ms>},
    Metric{"beatP99AfterMs", "/beats/after/p99Ms", "99th of 100 heartbeat intervals after", "ms",
           figure<&Round::beats, &Beats::after, &BeatIntervals::p99Ms>},
    Metric{"bytesSent", "/bytesSent", "sent", "bytes", figure<&Round::bytesSent>},
    Metric{"ramCopiedBytes", "/ramCopiedBytes", "RAM copied", "bytes", figure<&Round::ramCopiedBytes>},
    Metric{"minorFaults", "/pageFaults/minor", "page faults after the switch", "",
           figure<&Round::pageFaults, &PageFaults::minor>},
};

/// The title of a metric, from its key in `summary`.
std::string titleOf(std::string_view metric);

/// Decimals that make three digits: `1234`, `123`, `12.3`, `1.23`.
int decimalsOf(double value);
std::string figureText(double value);
/// `p = 0.014`, `p < 0.0001`
std::string chanceText(double p);

/// Counts of a series' rounds, each of which is one of these.
struct RoundCount {
    std::size_t entered = 0;    ///< Rounds that statistics are made of.
    std::size_t failed = 0;     ///< Rounds that were not upgraded.
    std::size_t disturbed = 0;  ///< Rounds upgraded while the host had too little CPU time.

    std::size_t all() const { return entered + failed + disturbed; }
    RoundCount& operator+=(const RoundCount& other) {
        entered += other.entered;
        failed += other.failed;
        disturbed += other.disturbed;
        return *this;
    }
    /// True when too many rounds were disturbed: those that are left may be the quiet ones by chance, or not.
    bool tooDisturbed() const { return disturbed * 5 > entered + disturbed; }
};
RoundCount countRounds(const Series& series);

/// A metric in the rounds that enter statistics; nothing but the count when that is 0.
struct MetricSummary {
    std::size_t count = 0;                    ///< Number of VMs and rounds that have it.
    std::optional<double> median, low, high;  ///< Interval of rounds, as statistics.h has it.
    bool minMax = false;  ///< Fewer rounds than valuesForInterval: `low` and `high` are the smallest and greatest.
    std::optional<double> min, max;
    std::optional<double> p99;              ///< Present from 100 values on.
    std::size_t longer = 0;                 ///< Number of values that are bounds: the window ended first.
    std::vector<std::string_view> atLeast;  ///< Members above that are bounds for that: the true figure is that or more.
};

struct SeriesSummary {
    Design design = defaultDesign;
    std::size_t rounds = 0, failed = 0, disturbed = 0;  ///< A RoundCount.
    bool tooDisturbed = false;
    std::map<std::string_view, MetricSummary> metrics;  ///< Summaries of all `metrics`, by name.
};

enum class Verdict { Smaller, Larger, Equivalent, NoDifference, TooFewRounds, TooBusy };
std::string_view name(Verdict verdict);
/// True when it says that two designs differ.
constexpr bool isClaim(Verdict verdict) {
    return verdict == Verdict::Smaller || verdict == Verdict::Larger;
}

/// The primary family, which the comparison is for: those in which the manager and the VMM own guest RAM, by how much time the
/// guest loses, pooled under each accelerator. By what QEMU says, by what a thread of the guest that goes before all others
/// shows, and by what an ordinary one does; that is known as well as its speed before is, so only where the guest was looked at
/// for long enough before. Written into results before anything is measured.
inline std::vector<std::string> usualPrimaryMetrics(std::int64_t beforeMs) {
    std::vector<std::string> primary{"stopToResumeMs", "guestPauseMs"};
    if (beforeMs >= 1000) primary.emplace_back("workLostMs");
    return primary;
}

/// With how much chance of one wrong claim among all of a family.
inline constexpr double claimLevel = 0.05;
/// The margin of results that do not name their own.
inline constexpr unsigned usualMarginPercent = 10;

/// The ratio of one design to another, by pairs of the same round and VM.
struct Ratio {
    std::string_view metric;
    Design design = defaultDesign;
    Design reference = defaultDesign;
    std::string accelerator{};                       ///< Of those that are pooled.
    std::size_t cells = 0;                           ///< Number of cells that are pooled; 0 of a single one's.
    bool primary = false;                            ///< It is of that family.
    std::size_t count = 0;                           ///< Number of pairs.
    std::size_t rounds = 0;                          ///< Number of rounds that the rest is made of.
    std::optional<double> median, low, high;         ///< Absent where bounds leave it open.
    bool minMax = false;                             ///< See MetricSummary.
    std::optional<double> low90, high90;             ///< Within the margin on both sides: equivalent. Absent of too few rounds.
    std::size_t greater = 0, smaller = 0, tied = 0;  ///< Rounds in which the design's figure was that.
    std::optional<double> p;                         ///< Chance by the sign test; none where nothing is tested.
    std::optional<double> pHolm;                     ///< Corrected for all tests of its family,
    std::size_t tests = 0;                           ///< which are so many; 0 where nothing is tested.
    Verdict verdict = Verdict::TooFewRounds;
    /// Ids of the cells without any one of which nothing is claimed; of claims that are pooled of several cells.
    std::optional<std::vector<std::string>> restsOn;
};

struct ConfigurationSummary {
    std::string id;
    std::vector<SeriesSummary> series;  ///< Series in the configuration's order.
    std::vector<Ratio> ratios;
};

struct Summary {
    std::vector<ConfigurationSummary> configurations;  ///< Configurations in the results' order.
    std::vector<Ratio> pooled;  ///< Of all configurations under an accelerator that have both designs, together.
};

/// A contrast of a design in which the manager owns guest RAM with one in which the VMM does.
bool isOfOwners(const Ratio& ratio);

/// True where the host is a virtual machine itself: the guest's CPUs wait for two schedulers, so its beats come unevenly.
bool isNested(std::string_view accelerator, const HostFacts& host);
/// `TCG`, `KVM`, `KVM (nested)`, and of several `KVM (nested), TCG`.
std::string acceleratorTitle(std::string_view accelerator, const HostFacts& host);

/// Makes the summary. Nothing in it is random: the same rounds make the same summary.
Summary summarize(const Results& results);

/// A value for each round: the median of its VMs. What happens to VMs that are handed over at once is not independent, so that
/// intervals are made of these.
std::vector<double> roundValuesOf(const Series& series, const Metric& metric);

}  // namespace vh
