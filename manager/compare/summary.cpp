#include "manager/compare/summary.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <iterator>
#include <tuple>
#include <utility>

#include "config/design.h"
#include "manager/compare/statistics.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

/// Named beforehand, as are the contrasts: each is a test that the claims of its family are corrected for.
constexpr std::array<std::string_view, 6> compared{"stopToResumeMs", "guestPauseMs", "workLostMs",
                                                   "brownOutMs",     "networkGapMs", "totalMs"};
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

/// Of each round the median of its VMs, by both ends.
std::vector<Range> rangeOfEachRound(const Values& values) {
    std::vector<Range> ranges;
    for (auto value = values.begin(); value != values.end();) {
        std::vector<double> least, most;
        const unsigned round = value->first.first;
        for (; value != values.end() && value->first.first == round; ++value) {
            least.push_back(value->second.least);
            most.push_back(value->second.most);
        }
        ranges.push_back({median(std::move(least)), median(std::move(most))});
    }
    return ranges;
}

std::vector<double> endsOf(const std::vector<Range>& ranges, End end) {
    std::vector<double> ends;
    std::ranges::transform(ranges, std::back_inserter(ends), end);
    return ends;
}

/// Of few rounds the smallest and the greatest.
Interval intervalOf(const std::vector<Range>& rounds, End end, double confidence = 0.95) {
    const std::vector<double> ends = endsOf(rounds, end);
    if (ends.size() >= valuesForInterval) return medianInterval(ends, confidence);
    return {median(ends), std::ranges::min(ends), std::ranges::max(ends)};
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
        if (open != bound) result.atLeast.push_back(name);
    };
    const std::vector<Range> rounds = rangeOfEachRound(values);
    const Interval bounds = intervalOf(rounds, &Range::least), open = intervalOf(rounds, &Range::most);
    result.minMax = rounds.size() < valuesForInterval;
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

/// What a ratio is made of: of one cell, or of several.
struct Pairs {
    std::string_view metric;
    Design design, reference;
    std::string accelerator;
    std::size_t cells = 0, count = 0;
    std::vector<Range> rounds;
    bool isReferenceOpen = false;
    RoundCount ofDesign, ofReference;

    auto contrast() const { return std::tuple(metric, design, reference); }
    void add(const Pairs& other) {
        ++cells;
        count += other.count;
        rounds.insert(rounds.end(), other.rounds.begin(), other.rounds.end());
        isReferenceOpen = isReferenceOpen || other.isReferenceOpen;
        ofDesign += other.ofDesign;
        ofReference += other.ofReference;
    }
};

/// Of what can be none, or less (a guest that did more than before), a ratio says only which is more: one without an end, or 0.
Range ratioOfRanges(const Range& value, const Range& reference) {
    if (value.least > 0 && reference.least > 0)
        return {isOpen(reference.most) ? 0 : value.least / reference.most,
                isOpen(value.most) ? noEnd : value.most / reference.least};
    if (value.least > reference.most) return {noEnd, noEnd};
    if (value.most < reference.least) return {0, 0};
    if (value.least == value.most && reference.least == reference.most) return {1, 1};
    return {0, noEnd};
}

/// Nothing when neither of the two was measured by it.
std::optional<Pairs> pairsOf(std::string_view metric, const Sample& sample, const Sample& reference,
                             const std::string& accelerator) {
    const Values &values = sample.metrics.at(metric), &references = reference.metrics.at(metric);
    if (values.empty() && references.empty()) return std::nullopt;
    Values ratios;
    Pairs pairs{.metric = metric, .design = sample.design, .reference = reference.design, .accelerator = accelerator};
    for (const auto& [round, value] : values) {
        const auto other = references.find(round);
        if (other == references.end()) continue;
        pairs.isReferenceOpen = pairs.isReferenceOpen || isOpen(other->second.most);
        ratios[round] = ratioOfRanges(value, other->second);
    }
    pairs.count = ratios.size();
    pairs.rounds = rangeOfEachRound(ratios);
    pairs.ofDesign = sample.rounds;
    pairs.ofReference = reference.rounds;
    return pairs;
}

Signs signsOf(const std::vector<Range>& rounds) {
    Signs signs;
    for (const Range& round : rounds) ++(round.least > 1 ? signs.greater : round.most < 1 ? signs.smaller : signs.tied);
    return signs;
}

/// All but what depends on the other tests.
Ratio ratioOf(const Pairs& pairs) {
    Ratio result{.metric = pairs.metric,
                 .design = pairs.design,
                 .reference = pairs.reference,
                 .accelerator = pairs.accelerator,
                 .cells = pairs.cells,
                 .count = pairs.count,
                 .rounds = pairs.rounds.size()};
    const bool few = pairs.rounds.size() < valuesForInterval;
    if (!pairs.rounds.empty()) {
        // Each end by what speaks against it, so that no verdict rests on a bound.
        const auto low = [&](const Interval& least) {
            const bool isKnown = !isOpen(least.low) && (least.low != 0 || !pairs.isReferenceOpen);
            return isKnown ? std::optional(least.low) : std::nullopt;
        };
        const auto high = [](const Interval& most) { return isOpen(most.high) ? std::nullopt : std::optional(most.high); };
        const Interval least = intervalOf(pairs.rounds, &Range::least), most = intervalOf(pairs.rounds, &Range::most);
        result.low = low(least);
        result.high = high(most);
        if (least.median == most.median && !isOpen(least.median)) result.median = least.median;
        result.minMax = few;
        if (!few) {
            result.low90 = low(intervalOf(pairs.rounds, &Range::least, 0.90));
            result.high90 = high(intervalOf(pairs.rounds, &Range::most, 0.90));
        }
        const Signs signs = signsOf(pairs.rounds);
        std::tie(result.greater, result.smaller, result.tied) = std::tie(signs.greater, signs.smaller, signs.tied);
        if (!few) result.p = signTest(signs);
    }
    if (few) result.verdict = Verdict::TooFewRounds;
    if (pairs.ofDesign.tooDisturbed() || pairs.ofReference.tooDisturbed()) {
        result.verdict = Verdict::TooBusy;
        result.p.reset();
    }
    return result;
}

Verdict verdictOn(const Ratio& ratio, double margin) {
    if (*ratio.pHolm < claimLevel) return ratio.greater > ratio.smaller ? Verdict::Larger : Verdict::Smaller;
    // Two one-sided tests at 5 % each.
    const bool within = ratio.low90 && ratio.high90 && *ratio.low90 > 1 / (1 + margin) && *ratio.high90 < 1 + margin;
    return within ? Verdict::Equivalent : Verdict::NoDifference;
}

/// Corrects the tests of one family for each other, and says what they show.
void judge(const std::vector<Ratio*>& ratios, double margin) {
    std::vector<Ratio*> tested;
    std::ranges::copy_if(ratios, std::back_inserter(tested), [](const Ratio* ratio) { return ratio->p.has_value(); });
    std::vector<double> chances;
    for (const Ratio* ratio : tested) chances.push_back(*ratio->p);
    const std::vector<double> corrected = holm(chances);
    for (std::size_t i = 0; i < tested.size(); ++i) {
        tested[i]->pHolm = corrected[i];
        tested[i]->verdict = verdictOn(*tested[i], margin);
    }
}

/// Of designs that can stand by: what cannot, or is driven by hand, differs in more than that.
bool ownsGuestRam(Design design, MemoryOwner owner) {
    return rowOf(design).owner == owner && rowOf(design).standsBy;
}

/// Which designs are compared, the first with the second: first those in which the manager and the VMM own guest RAM, which
/// is what the comparison is for, then each of ours with what it rests on when that is driven by hand, which is what our part
/// costs, and then all others with the one that takes every VM.
std::vector<std::pair<const Sample*, const Sample*>> contrastsOf(const std::vector<Sample>& samples) {
    std::vector<std::pair<const Sample*, const Sample*>> contrasts;
    for (const Sample& one : samples)
        for (const Sample& other : samples)
            if (ownsGuestRam(one.design, MemoryOwner::Manager) && ownsGuestRam(other.design, MemoryOwner::Vmm))
                contrasts.emplace_back(&one, &other);
    for (const Sample& one : samples)
        for (const Sample& other : samples)
            if (rowOf(other.design).byHandOf == one.design) contrasts.emplace_back(&one, &other);
    if (samples.empty()) return contrasts;
    const auto usual = std::ranges::find(samples, defaultDesign, &Sample::design);
    const Sample& reference = usual == samples.end() ? samples.front() : *usual;
    for (const Sample& one : samples) {
        const bool isThere = std::ranges::any_of(contrasts, [&](const auto& pair) {
            return pair == std::pair(&one, &reference) || pair == std::pair(&reference, &one);
        });
        if (&one != &reference && !isThere) contrasts.emplace_back(&one, &reference);
    }
    return contrasts;
}

/// Adds to the one of its contrast and accelerator, which stands beside those of other accelerators.
void pool(const Pairs& pairs, std::vector<Pairs>& pooled) {
    const auto isAlike = [&pairs](const Pairs& one) { return one.contrast() == pairs.contrast(); };
    auto all =
        std::ranges::find_if(pooled, [&](const Pairs& one) { return isAlike(one) && one.accelerator == pairs.accelerator; });
    if (all == pooled.end()) {
        const auto last = std::find_if(pooled.rbegin(), pooled.rend(), isAlike);
        all = pooled.insert(
            last == pooled.rend() ? pooled.end() : last.base(),
            {.metric = pairs.metric, .design = pairs.design, .reference = pairs.reference, .accelerator = pairs.accelerator});
    }
    all->add(pairs);
}

ConfigurationSummary summaryOf(const Configuration& configuration, const std::string& accelerator, std::vector<Pairs>& pooled) {
    std::vector<Sample> samples;
    for (const Series& series : configuration.series) samples.push_back(sampleOf(series));
    ConfigurationSummary result{configuration.id, {}, {}};
    for (const Sample& sample : samples) result.series.push_back(seriesSummary(sample));
    std::erase_if(samples, [](const Sample& sample) { return sample.rounds.all() == 0; });
    const auto contrasts = contrastsOf(samples);
    for (const std::string_view metric : compared)
        for (const auto& [design, reference] : contrasts) {
            const std::optional<Pairs> pairs = pairsOf(metric, *design, *reference, accelerator);
            if (!pairs) continue;
            result.ratios.push_back(ratioOf(*pairs));
            pool(*pairs, pooled);
        }
    return result;
}

}  // namespace

std::string_view name(Verdict verdict) {
    static constexpr std::array<std::string_view, 6> names{
        "smaller", "larger", "equivalent", "no difference shown", "too few rounds to say", "host too busy to say"};
    return names.at(static_cast<std::size_t>(verdict));
}

std::string titleOf(std::string_view metric) {
    const auto known = std::ranges::find(metrics, metric, &Metric::name);
    return std::string(known == metrics.end() ? metric : known->title);
}

int decimalsOf(double value) {
    const double size = std::abs(value);
    return size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
}

std::string figureText(double value) {
    return fixed(value, decimalsOf(value));
}

RoundCount countRounds(const Series& series) {
    RoundCount count;
    for (const Round& round : series.rounds)
        ++(round.counts() ? count.entered : round.upgraded() ? count.disturbed : count.failed);
    return count;
}

std::optional<Shown> workLostOf(const Round& round) {
    if (!round.writeRate || !round.writeRate->workLostMs) return std::nullopt;
    return Shown{*round.writeRate->workLostMs, !round.writeRate->brownOutMs};
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
    return endsOf(rangeOfEachRound(valuesByRound(series, metric)), &Range::least);
}

bool isOfOwners(const Ratio& ratio) {
    return ownsGuestRam(ratio.design, MemoryOwner::Manager) && ownsGuestRam(ratio.reference, MemoryOwner::Vmm);
}

std::string acceleratorTitle(std::string_view accelerator, const HostFacts& host) {
    if (accelerator.empty()) return "an unknown accelerator";
    std::string title(accelerator);
    std::ranges::transform(title, title.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return accelerator == name(Accelerator::Kvm) && host.virtualized.value_or(false) ? title + " (nested)" : title;
}

Summary summarize(const Results& results) {
    const double margin = results.settings.equivalenceMarginPercent.value_or(usualMarginPercent) / 100.0;
    Summary summary;
    std::vector<Pairs> pooled;
    for (const Configuration& configuration : results.configurations) {
        const auto& own = configuration.accelerator;
        summary.configurations.push_back(
            summaryOf(configuration, own ? std::string(name(*own)) : results.host.accelerator, pooled));
    }
    std::ranges::stable_sort(pooled, {}, [](const Pairs& pairs) { return std::ranges::find(compared, pairs.metric); });
    std::ranges::transform(pooled, std::back_inserter(summary.pooled), ratioOf);
    std::vector<std::string> primary = results.settings.primaryMetrics;
    if (primary.empty()) primary.assign(usualPrimaryMetrics.begin(), usualPrimaryMetrics.end());
    std::vector<Ratio*> ofCells, first, rest;
    for (ConfigurationSummary& configuration : summary.configurations)
        for (Ratio& ratio : configuration.ratios) ofCells.push_back(&ratio);
    for (Ratio& ratio : summary.pooled) {
        ratio.primary = isOfOwners(ratio) && std::ranges::find(primary, ratio.metric) != primary.end();
        (ratio.primary ? first : rest).push_back(&ratio);
    }
    judge(ofCells, margin);
    judge(first, margin);
    judge(rest, margin);
    return summary;
}

}  // namespace vh
