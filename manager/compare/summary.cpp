#include "manager/compare/summary.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "manager/compare/statistics.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr std::array compared{"stopToResumeMs", "guestPauseMs", "brownOutMs", "networkGapMs", "totalMs"};
constexpr std::size_t valuesForP99 = 100;

bool isUpgraded(const json& round) {
    return round.at("outcome") == "upgraded";
}

bool enters(const json& round) {
    return isUpgraded(round) && !round.at("disturbed").get<bool>();
}

/// What one round and VM had.
using VmRound = std::pair<std::int64_t, std::int64_t>;
using Values = std::map<VmRound, double>;

Values valuesByRound(const json& series, const Metric& metric) {
    const json::json_pointer pointer{std::string(metric.pointer)};
    Values values;
    for (const json& round : series.at("rounds")) {
        if (!enters(round) || !round.contains(pointer)) continue;
        const json& value = round.at(pointer);
        if (value.is_number()) values[{round.at("round").get<std::int64_t>(), round.at("vm").get<std::int64_t>()}] = value;
    }
    return values;
}

std::vector<double> flat(const Values& values) {
    std::vector<double> all;
    for (const auto& [round, value] : values) all.push_back(value);
    return all;
}

std::vector<double> medianOfEachRound(const Values& values) {
    std::vector<double> medians;
    for (auto value = values.begin(); value != values.end();) {
        std::vector<double> ofOne;
        const std::int64_t round = value->first.first;
        for (; value != values.end() && value->first.first == round; ++value) ofOne.push_back(value->second);
        medians.push_back(median(std::move(ofOne)));
    }
    return medians;
}

/// `median`, `low` and `high` of one value a round.
json intervalOf(const std::vector<double>& rounds) {
    if (rounds.empty()) return {{"median", nullptr}, {"low", nullptr}, {"high", nullptr}};
    Interval interval = medianInterval(rounds);
    if (rounds.size() < valuesForInterval) {
        const auto [least, greatest] = std::ranges::minmax(rounds);
        interval.low = least;
        interval.high = greatest;
    }
    return {{"median", interval.median}, {"low", interval.low}, {"high", interval.high}};
}

json metricOf(const Values& values) {
    json result = intervalOf(medianOfEachRound(values));
    const std::vector<double> all = flat(values);
    result["count"] = all.size();
    result["min"] = all.empty() ? json() : json(std::ranges::min(all));
    result["max"] = all.empty() ? json() : json(std::ranges::max(all));
    result["p99"] = all.size() < valuesForP99 ? json() : json(percentile(all, 99));
    return result;
}

/// A series with its values taken out of JSON once, for it is compared with every other one.
struct Sample {
    std::string design;
    RoundCount rounds;
    std::map<std::string_view, Values> metrics;
};

Sample sampleOf(const json& series) {
    Sample sample{series.at("design"), countRounds(series), {}};
    for (const Metric& metric : metrics) sample.metrics[metric.name] = valuesByRound(series, metric);
    return sample;
}

json seriesSummary(const Sample& sample) {
    json values = json::object();
    for (const auto& [name, ofMetric] : sample.metrics) values[std::string(name)] = metricOf(ofMetric);
    json result{{"design", sample.design},
                {"rounds", sample.rounds.entered},
                {"failed", sample.rounds.failed},
                {"disturbed", sample.rounds.disturbed},
                {"metrics", values}};
    if (sample.rounds.tooDisturbed()) result["tooDisturbed"] = true;
    return result;
}

std::string verdictOn(const json& ratio, std::size_t rounds, bool tooDisturbed) {
    if (tooDisturbed) return "host too busy to say";
    if (rounds < valuesForInterval) return "too few rounds to say";
    if (ratio["high"] < 1) return "smaller";
    return ratio["low"] > 1 ? "larger" : "no difference shown";
}

/// Nothing when neither of the two was measured by it.
std::optional<json> ratioOf(std::string_view metric, const Sample& sample, const Sample& reference) {
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
    json result = intervalOf(ofRounds);
    result["verdict"] = verdictOn(result, ofRounds.size(), sample.rounds.tooDisturbed() || reference.rounds.tooDisturbed());
    result["metric"] = metric;
    result["design"] = sample.design;
    result["reference"] = reference.design;
    result["count"] = ratios.size();
    return result;
}

json cellSummary(const json& cell) {
    std::vector<Sample> samples;
    for (const json& series : cell.at("series")) samples.push_back(sampleOf(series));
    json result{{"id", cell.at("id")}, {"series", json::array()}, {"ratios", json::array()}};
    for (const Sample& sample : samples) result["series"].push_back(seriesSummary(sample));
    for (const char* metric : compared)
        for (std::size_t i = 0; i < samples.size(); ++i)
            for (std::size_t j = i + 1; j < samples.size(); ++j) {
                if (samples[i].rounds.all() == 0 || samples[j].rounds.all() == 0) continue;
                // What works with the fewest conditions on the host is what the others are measured by.
                const bool turned = samples[i].design == "relayed";
                const auto ratio = ratioOf(metric, samples[turned ? j : i], samples[turned ? i : j]);
                if (ratio) result["ratios"].push_back(*ratio);
            }
    return result;
}

}  // namespace

RoundCount countRounds(const json& series) {
    RoundCount count;
    for (const json& round : series.at("rounds"))
        ++(enters(round) ? count.entered : isUpgraded(round) ? count.disturbed : count.failed);
    return count;
}

std::vector<double> valuesOf(const json& series, const Metric& metric) {
    return flat(valuesByRound(series, metric));
}

std::vector<double> roundValuesOf(const json& series, const Metric& metric) {
    return medianOfEachRound(valuesByRound(series, metric));
}

json summarize(const json& results) {
    json cells = json::array();
    for (const json& cell : results.at("cells")) cells.push_back(cellSummary(cell));
    return {{"cells", cells}};
}

}  // namespace vh
