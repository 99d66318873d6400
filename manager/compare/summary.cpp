#include "manager/compare/summary.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
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
/// In place of ratios of which no more is known than that they are below 1, or above it.
constexpr double below = 1 - 1e-9, above = 1 + 1e-9;

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
    RoundCount ofDesign, ofReference;

    auto contrast() const { return std::tuple(metric, design, reference); }
    bool isOf(const Ratio& ratio) const {
        return contrast() == std::tuple(ratio.metric, ratio.design, ratio.reference) && accelerator == ratio.accelerator;
    }
    void add(const Pairs& other) {
        ++cells;
        count += other.count;
        rounds.insert(rounds.end(), other.rounds.begin(), other.rounds.end());
        ofDesign += other.ofDesign;
        ofReference += other.ofReference;
    }
};

/// Of what can be none, or less (a guest that did more than before), no more is known than which is more, and of two that are
/// none not even that.
Range ratioOfRanges(const Range& value, const Range& reference) {
    if (value.least > 0 && reference.least > 0)
        return {isOpen(reference.most) ? 0 : value.least / reference.most,
                isOpen(value.most) ? noEnd : value.most / reference.least};
    if (value.least > reference.most) return {above, noEnd};
    if (value.most < reference.least) return {0, below};
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

/// Which of the two is how often more, and by what chance, before other tests are looked at.
Ratio testOf(const Pairs& pairs) {
    Ratio result{.metric = pairs.metric,
                 .design = pairs.design,
                 .reference = pairs.reference,
                 .accelerator = pairs.accelerator,
                 .cells = pairs.cells,
                 .count = pairs.count,
                 .rounds = pairs.rounds.size()};
    const Signs signs = signsOf(pairs.rounds);
    std::tie(result.greater, result.smaller, result.tied) = std::tie(signs.greater, signs.smaller, signs.tied);
    if (pairs.ofDesign.tooDisturbed() || pairs.ofReference.tooDisturbed())
        result.verdict = Verdict::TooBusy;
    else if (pairs.rounds.size() >= valuesForInterval)
        result.p = signTest(signs);
    return result;
}

/// All but what depends on the other tests.
Ratio ratioOf(const Pairs& pairs) {
    Ratio result = testOf(pairs);
    if (pairs.rounds.empty()) return result;
    // Each end by what speaks against it, so that no verdict rests on a bound.
    const auto low = [](const Interval& least) { return least.low > 0 ? std::optional(least.low) : std::nullopt; };
    const auto high = [](const Interval& most) { return isOpen(most.high) ? std::nullopt : std::optional(most.high); };
    const Interval least = intervalOf(pairs.rounds, &Range::least), most = intervalOf(pairs.rounds, &Range::most);
    result.low = low(least);
    result.high = high(most);
    if (least.median == most.median) result.median = least.median;
    result.minMax = pairs.rounds.size() < valuesForInterval;
    if (!result.minMax) {
        result.low90 = low(intervalOf(pairs.rounds, &Range::least, 0.90));
        result.high90 = high(intervalOf(pairs.rounds, &Range::most, 0.90));
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
        tested[i]->tests = tested.size();
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

/// Of each accelerator the rounds of all cells, or of all but one; those of a contrast stand beside each other.
std::vector<Pairs> pooledOf(const std::vector<std::vector<Pairs>>& cells, std::size_t without = SIZE_MAX) {
    std::vector<Pairs> pooled;
    for (std::size_t cell = 0; cell < cells.size(); ++cell) {
        if (cell == without) continue;
        for (const Pairs& pairs : cells[cell]) {
            const auto isAlike = [&pairs](const Pairs& one) { return one.contrast() == pairs.contrast(); };
            auto all = std::ranges::find_if(
                pooled, [&](const Pairs& one) { return isAlike(one) && one.accelerator == pairs.accelerator; });
            if (all == pooled.end()) {
                const auto last = std::find_if(pooled.rbegin(), pooled.rend(), isAlike);
                all = pooled.insert(last == pooled.rend() ? pooled.end() : last.base(), {.metric = pairs.metric,
                                                                                         .design = pairs.design,
                                                                                         .reference = pairs.reference,
                                                                                         .accelerator = pairs.accelerator});
            }
            all->add(pairs);
        }
    }
    std::ranges::stable_sort(pooled, {}, [](const Pairs& pairs) { return std::ranges::find(compared, pairs.metric); });
    return pooled;
}

ConfigurationSummary summaryOf(const Configuration& configuration, const std::string& accelerator,
                               std::vector<Pairs>& pairsOfCell) {
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
            pairsOfCell.push_back(*pairs);
        }
    return result;
}

/// Judges the two families of pooled ratios.
void judgePooled(std::vector<Ratio>& pooled, const std::vector<std::string>& primary, double margin) {
    std::vector<Ratio*> first, rest;
    for (Ratio& ratio : pooled) {
        ratio.primary = isOfOwners(ratio) && std::ranges::find(primary, ratio.metric) != primary.end();
        (ratio.primary ? first : rest).push_back(&ratio);
    }
    judge(first, margin);
    judge(rest, margin);
}

/// What would be claimed if any one cell had not been measured: the others have to say it, too.
void findWhatClaimsRestOn(Summary& summary, const std::vector<std::vector<Pairs>>& cells,
                          const std::vector<std::string>& primary) {
    for (Ratio& ratio : summary.pooled)
        if (isClaim(ratio.verdict) && ratio.cells > 1) ratio.restsOn.emplace();
    for (std::size_t cell = 0; cell < cells.size(); ++cell) {
        std::vector<Ratio> others;
        std::ranges::transform(pooledOf(cells, cell), std::back_inserter(others), testOf);
        judgePooled(others, primary, 0);
        for (Ratio& ratio : summary.pooled) {
            if (!ratio.restsOn || std::ranges::none_of(cells[cell], [&](const Pairs& one) { return one.isOf(ratio); })) continue;
            const auto again = std::ranges::find_if(others, [&ratio](const Ratio& other) {
                return other.metric == ratio.metric && other.design == ratio.design && other.reference == ratio.reference &&
                       other.accelerator == ratio.accelerator;
            });
            if (again == others.end() || again->verdict != ratio.verdict)
                ratio.restsOn->push_back(summary.configurations[cell].id);
        }
    }
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

std::string chanceText(double p) {
    return p < 0.0001 ? "p < 0.0001" : "p = " + fixed(p, p < 0.01 ? 4 : p < 0.1 ? 3 : 2);
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
    const auto last =
        std::find_if(its.curvePercent.rbegin(), its.curvePercent.rend(), [](const auto& bin) { return bin.has_value(); });
    const double heardMs = its.firstBinMs + its.binMs * static_cast<double>(its.curvePercent.rend() - last);
    // The guest may have been back from a moment on for which it was not heard for long enough.
    return heardMs > 0 ? std::optional(Shown{std::max(0.0, heardMs - BrownOutWindow{}.spanMs), true}) : std::nullopt;
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

bool isNested(std::string_view accelerator, const HostFacts& host) {
    return accelerator == name(Accelerator::Kvm) && host.virtualized.value_or(false);
}

std::string acceleratorTitle(std::string_view accelerator, const HostFacts& host) {
    if (accelerator.empty()) return "an unknown accelerator";
    if (const std::size_t comma = accelerator.find(", "); comma != std::string_view::npos)
        return acceleratorTitle(accelerator.substr(0, comma), host) + ", " +
               acceleratorTitle(accelerator.substr(comma + 2), host);
    std::string title(accelerator);
    std::ranges::transform(title, title.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return isNested(accelerator, host) ? title + " (nested)" : title;
}

Summary summarize(const Results& results) {
    const double margin = results.settings.equivalenceMarginPercent.value_or(usualMarginPercent) / 100.0;
    const std::vector<std::string> primary = results.settings.primaryMetrics.empty()
                                                 ? usualPrimaryMetrics(results.settings.beforeMs)
                                                 : results.settings.primaryMetrics;
    Summary summary;
    std::vector<std::vector<Pairs>> cells;
    for (const Configuration& configuration : results.configurations) {
        const auto& own = configuration.accelerator;
        summary.configurations.push_back(
            summaryOf(configuration, own ? std::string(name(*own)) : results.host.accelerator, cells.emplace_back()));
    }
    std::vector<Ratio*> ofCells;
    for (ConfigurationSummary& configuration : summary.configurations)
        for (Ratio& ratio : configuration.ratios) ofCells.push_back(&ratio);
    judge(ofCells, margin);
    std::ranges::transform(pooledOf(cells), std::back_inserter(summary.pooled), ratioOf);
    judgePooled(summary.pooled, primary, margin);
    findWhatClaimsRestOn(summary, cells, primary);
    return summary;
}

}  // namespace vh
