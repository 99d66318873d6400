#include "manager/compare/summary.h"

#include <algorithm>
#include <array>
#include <utility>

#include "manager/compare/statistics.h"

namespace vh {
namespace {

constexpr std::array compared{"stopToResumeMs", "guestPauseMs", "brownOutMs", "networkGapMs", "totalMs"};
constexpr std::size_t valuesForP99 = 100;

/// What one round and VM had.
using VmRound = std::pair<unsigned, unsigned>;
using Values = std::map<VmRound, double>;

Values valuesByRound(const Series& series, const Metric& metric) {
    Values values;
    for (const Round& round : series.rounds)
        if (const std::optional<double> value = round.counts() ? metric.of(round) : std::nullopt)
            values[{round.round, round.vm}] = *value;
    return values;
}

std::vector<double> medianOfEachRound(const Values& values) {
    std::vector<double> medians;
    for (auto value = values.begin(); value != values.end();) {
        std::vector<double> ofOne;
        const unsigned round = value->first.first;
        for (; value != values.end() && value->first.first == round; ++value) ofOne.push_back(value->second);
        medians.push_back(median(std::move(ofOne)));
    }
    return medians;
}

/// Of one value a round.
void setInterval(auto& summary, const std::vector<double>& rounds) {
    if (rounds.empty()) return;
    const Interval interval = medianInterval(rounds);
    const bool isInterval = rounds.size() >= valuesForInterval;
    summary.median = interval.median;
    summary.low = isInterval ? interval.low : std::ranges::min(rounds);
    summary.high = isInterval ? interval.high : std::ranges::max(rounds);
}

MetricSummary metricOf(const Values& values) {
    MetricSummary result;
    result.count = values.size();
    if (values.empty()) return result;
    setInterval(result, medianOfEachRound(values));
    std::vector<double> all;
    for (const auto& [round, value] : values) all.push_back(value);
    result.min = std::ranges::min(all);
    result.max = std::ranges::max(all);
    if (all.size() >= valuesForP99) result.p99 = percentile(all, 99);
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
    if (*ratio.high < 1) return Verdict::Smaller;
    return *ratio.low > 1 ? Verdict::Larger : Verdict::NoDifference;
}

/// Nothing when neither of the two was measured by it.
std::optional<Ratio> ratioOf(std::string_view metric, const Sample& sample, const Sample& reference) {
    const Values &values = sample.metrics.at(metric), &references = reference.metrics.at(metric);
    if (values.empty() && references.empty()) return std::nullopt;
    Values ratios;
    for (const auto& [round, value] : values) {
        const auto other = references.find(round);
        if (other == references.end()) continue;
        const std::pair<double, double> pair{value, other->second};
        for (const double ratio : pairedRatios({&pair, 1})) ratios[round] = ratio;
    }
    const std::vector<double> ofRounds = medianOfEachRound(ratios);
    Ratio result{.metric = metric, .design = sample.design, .reference = reference.design, .count = ratios.size()};
    setInterval(result, ofRounds);
    result.verdict = verdictOn(result, ofRounds.size(), sample.rounds.tooDisturbed() || reference.rounds.tooDisturbed());
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

std::vector<double> roundValuesOf(const Series& series, const Metric& metric) {
    return medianOfEachRound(valuesByRound(series, metric));
}

Summary summarize(const Results& results) {
    Summary summary;
    for (const Configuration& configuration : results.configurations) summary.push_back(summaryOf(configuration));
    return summary;
}

}  // namespace vh
