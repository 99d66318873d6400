#include "manager/compare/summary.h"

#include <algorithm>
#include <array>
#include <utility>

#include "manager/compare/statistics.h"

namespace vh {
namespace {

constexpr std::array compared{"stopToResumeMs", "guestPauseMs", "workLostMs", "brownOutMs", "networkGapMs", "totalMs"};
constexpr std::size_t valuesForP99 = 100;
/// In place of what has no upper end: statistics add and halve, and what is made of it is above isOpen()'s limit.
constexpr double noEnd = 1e300;
constexpr bool isOpen(double value) {
    return value > 1e200;
}

/// What one round and VM had.
using VmRound = std::pair<unsigned, unsigned>;
/// The true figure lies between the two.
struct Range {
    double least = 0;
    double most = 0;
};
using Values = std::map<VmRound, Range>;
/// Which end of the ranges.
using End = double Range::*;

Values valuesByRound(const Series& series, const Metric& metric) {
    Values values;
    for (const Round& round : series.rounds)
        if (const std::optional<Shown> shown = round.counts() ? metric.of(round) : std::nullopt)
            values[{round.round, round.vm}] = {shown->value, shown->isAtLeast ? noEnd : shown->value};
    return values;
}

std::vector<double> medianOfEachRound(const Values& values, End end) {
    std::vector<double> medians;
    for (auto value = values.begin(); value != values.end();) {
        std::vector<double> ofOne;
        const unsigned round = value->first.first;
        for (; value != values.end() && value->first.first == round; ++value) ofOne.push_back(value->second.*end);
        medians.push_back(median(std::move(ofOne)));
    }
    return medians;
}

/// Of one value a round; of few of them the smallest and the greatest.
Interval intervalOf(const Values& values, End end) {
    const std::vector<double> rounds = medianOfEachRound(values, end);
    const Interval interval = medianInterval(rounds);
    if (rounds.size() >= valuesForInterval) return interval;
    return {interval.median, std::ranges::min(rounds), std::ranges::max(rounds)};
}

/// Every statistic twice: of the bounds, and as if what is bounded had no end. Where the two differ the first is a bound itself.
MetricSummary metricOf(const Values& values) {
    MetricSummary result;
    result.count = values.size();
    if (values.empty()) return result;
    std::vector<double> least, most;
    for (const auto& [round, range] : values) {
        least.push_back(range.least);
        most.push_back(range.most);
        result.longer += isOpen(range.most) ? 1 : 0;
    }
    const auto set = [&result](std::string_view name, std::optional<double> MetricSummary::*member, double bound, double open) {
        result.*member = bound;
        if (isOpen(open) && !isOpen(bound)) result.atLeast.push_back(name);
    };
    const Interval bounds = intervalOf(values, &Range::least), open = intervalOf(values, &Range::most);
    set("median", &MetricSummary::median, bounds.median, open.median);
    set("low", &MetricSummary::low, bounds.low, open.low);
    set("high", &MetricSummary::high, bounds.high, open.high);
    set("min", &MetricSummary::min, std::ranges::min(least), std::ranges::min(most));
    set("max", &MetricSummary::max, std::ranges::max(least), std::ranges::max(most));
    if (values.size() >= valuesForP99) set("p99", &MetricSummary::p99, percentile(least, 99), percentile(most, 99));
    return result;
}

/// A series with the values of its metrics, for it is compared with every other one.
struct Sample {
    Design design;
    RoundCount rounds;
    std::map<std::string_view, Values> metrics;
};

Sample sampleOf(const Series& series) {
    Sample sample{series.design, countRounds(series), {}};
    for (const Metric& metric : metrics) sample.metrics[metric.name] = valuesByRound(series, metric);
    return sample;
}

SeriesSummary seriesSummary(const Sample& sample) {
    const RoundCount& count = sample.rounds;
    SeriesSummary summary{sample.design, count.entered, count.failed, count.disturbed, count.tooDisturbed(), {}};
    for (const auto& [name, values] : sample.metrics) summary.metrics[name] = metricOf(values);
    return summary;
}

Verdict verdictOn(const Ratio& ratio, std::size_t rounds, bool tooDisturbed) {
    if (tooDisturbed) return Verdict::TooBusy;
    if (rounds < valuesForInterval) return Verdict::TooFewRounds;
    if (ratio.high && *ratio.high < 1) return Verdict::Smaller;
    return ratio.low && *ratio.low > 1 ? Verdict::Larger : Verdict::NoDifference;
}

/// Nothing when neither of the two was measured by it.
std::optional<Ratio> ratioOf(std::string_view metric, const Sample& sample, const Sample& reference) {
    const Values &values = sample.metrics.at(metric), &references = reference.metrics.at(metric);
    if (values.empty() && references.empty()) return std::nullopt;
    Values ratios;
    bool isReferenceOpen = false;
    for (const auto& [round, value] : values) {
        const auto other = references.find(round);
        if (other == references.end() || other->second.least <= 0) continue;
        isReferenceOpen = isReferenceOpen || isOpen(other->second.most);
        ratios[round] = {isOpen(other->second.most) ? 0 : value.least / other->second.most,
                         isOpen(value.most) ? noEnd : value.most / other->second.least};
    }
    Ratio result{.metric = metric, .design = sample.design, .reference = reference.design, .count = ratios.size()};
    std::size_t rounds = 0;
    if (!ratios.empty()) {
        // Each end by what speaks against it, so that no verdict rests on a bound.
        const Interval least = intervalOf(ratios, &Range::least), most = intervalOf(ratios, &Range::most);
        rounds = medianOfEachRound(ratios, &Range::least).size();
        if (least.low != 0 || !isReferenceOpen) result.low = least.low;
        if (!isOpen(most.high)) result.high = most.high;
        if (least.median == most.median) result.median = least.median;
    }
    result.verdict = verdictOn(result, rounds, sample.rounds.tooDisturbed() || reference.rounds.tooDisturbed());
    return result;
}

ConfigurationSummary summaryOf(const Configuration& configuration) {
    std::vector<Sample> samples;
    for (const Series& series : configuration.series) samples.push_back(sampleOf(series));
    ConfigurationSummary result{configuration.id, {}, {}};
    for (const Sample& sample : samples) result.series.push_back(seriesSummary(sample));
    for (const char* metric : compared)
        for (std::size_t i = 0; i < samples.size(); ++i)
            for (std::size_t j = i + 1; j < samples.size(); ++j) {
                if (samples[i].rounds.all() == 0 || samples[j].rounds.all() == 0) continue;
                // What works with the fewest conditions on the host is what the others are measured by.
                const bool turned = samples[i].design == Design::Relayed;
                if (const auto ratio = ratioOf(metric, samples[turned ? j : i], samples[turned ? i : j]))
                    result.ratios.push_back(*ratio);
            }
    return result;
}

}  // namespace

std::string_view name(Verdict verdict) {
    static constexpr std::array<std::string_view, 5> names{"smaller", "larger", "no difference shown", "too few rounds to say",
                                                           "host too busy to say"};
    return names.at(static_cast<std::size_t>(verdict));
}

RoundCount countRounds(const Series& series) {
    RoundCount count;
    for (const Round& round : series.rounds)
        ++(round.counts() ? count.entered : round.upgraded() ? count.disturbed : count.failed);
    return count;
}

std::optional<Shown> brownOutOf(const Round& round) {
    if (!round.writeRate || !round.writeRate->beforePagesPerSecond) return std::nullopt;
    const BrownOut& its = *round.writeRate;
    if (its.brownOutMs) return Shown{*its.brownOutMs};
    const double seenMs = its.firstBinMs + its.binMs * static_cast<double>(its.curvePercent.size());
    return seenMs > 0 ? std::optional(Shown{seenMs, true}) : std::nullopt;
}

std::optional<Shown> networkGapOf(const Round& round) {
    if (!round.network || !round.network->longestGapMs) return std::nullopt;
    return Shown{*round.network->longestGapMs, round.network->notBack};
}

std::vector<double> roundValuesOf(const Series& series, const Metric& metric) {
    return medianOfEachRound(valuesByRound(series, metric), &Range::least);
}

Summary summarize(const Results& results) {
    Summary summary;
    for (const Configuration& configuration : results.configurations) summary.push_back(summaryOf(configuration));
    return summary;
}

}  // namespace vh
