#include "manager/compare/answer.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "config/design.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

std::string nameOf(Design design) {
    return std::string(name(design));
}

/// `a, b and c`
std::string together(const std::vector<std::string>& items) {
    std::string text;
    for (std::size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
    return text;
}

std::string counted(std::size_t count, const std::string& what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

/// A count, or the middle of two.
std::string countText(double value) {
    return fixed(value, value == static_cast<double>(static_cast<long long>(value)) ? 0 : 1);
}

std::string percentText(unsigned percent) {
    return std::to_string(percent) + " %";
}

unsigned marginOf(const Results& results) {
    return results.settings.equivalenceMarginPercent.value_or(usualMarginPercent);
}

/// However large the difference is that was shown: not beyond the margin.
bool isWithin(const Ratio& ratio, unsigned marginPercent) {
    const double most = 1 + marginPercent / 100.0;
    return ratio.low90 && ratio.high90 && *ratio.low90 > 1 / most && *ratio.high90 < most;
}

/// `95 % 0.90 - 0.95`; an end that is not known stays open.
std::string intervalOf(const Ratio& ratio) {
    if (!ratio.low && !ratio.high) return "95 % open";
    const std::string low = ratio.low ? figureText(*ratio.low) : "", high = ratio.high ? figureText(*ratio.high) : "";
    if (ratio.minMax && ratio.low && ratio.high) return "few rounds: min " + low + ", max " + high;
    return "95 % " + (low.empty() ? high + " or less" : high.empty() ? low + " or more" : low + " - " + high);
}

std::string verdictOf(const Ratio& ratio, unsigned marginPercent) {
    const std::string text(name(ratio.verdict)), margin = percentText(marginPercent);
    if (ratio.verdict == Verdict::Equivalent) return text + " within " + margin;
    // Its interval alone says otherwise: that is of this comparison, and p of all of them.
    const bool needsP = ratio.verdict == Verdict::NoDifference && ratio.pHolm &&
                        ((ratio.low && *ratio.low > 1) || (ratio.high && *ratio.high < 1));
    if (needsP) return text + ", p = " + fixed(*ratio.pHolm, 3);
    return isClaim(ratio.verdict) && isWithin(ratio, marginPercent) ? text + " by less than " + margin : text;
}

/// In brackets how sure a figure is; of few rounds that says all.
std::string inBrackets(const Ratio& ratio, bool withVerdict, unsigned marginPercent) {
    const bool said = !withVerdict || (ratio.verdict == Verdict::TooFewRounds && ratio.minMax);
    return " (" + intervalOf(ratio) + (said ? "" : ", " + verdictOf(ratio, marginPercent)) + ")";
}

/// `0.92 by STOP to RESUME (95 % 0.90 - 0.95, smaller)`
std::string ratioText(const Ratio& ratio, unsigned marginPercent) {
    return (ratio.median ? figureText(*ratio.median) : "not known") + " by " + titleOf(ratio.metric) +
           inBrackets(ratio, true, marginPercent);
}

using Ratios = std::vector<const Ratio*>;

bool has(const Ratios& ratios, Verdict verdict) {
    return std::ranges::any_of(ratios, [verdict](const Ratio* ratio) { return ratio->verdict == verdict; });
}

bool areAll(const Ratios& ratios, Verdict verdict) {
    return std::ranges::all_of(ratios, [verdict](const Ratio* ratio) { return ratio->verdict == verdict; });
}

/// By accelerator, in the order in which they were measured.
std::vector<std::pair<std::string, Ratios>> byAccelerator(const Ratios& ratios) {
    std::vector<std::pair<std::string, Ratios>> groups;
    for (const Ratio* ratio : ratios) {
        auto known = std::ranges::find(groups, ratio->accelerator, &std::pair<std::string, Ratios>::first);
        if (known == groups.end()) known = groups.insert(groups.end(), {ratio->accelerator, {}});
        known->second.push_back(ratio);
    }
    return groups;
}

/// Each value of a member that is there, once, in the order in which they come.
template <class Value>
std::vector<Value> valuesOf(const Ratios& ratios, Value Ratio::*member) {
    std::vector<Value> found;
    for (const Ratio* ratio : ratios)
        if (std::ranges::find(found, ratio->*member) == found.end()) found.push_back(ratio->*member);
    return found;
}

/// ` under TCG`, or nothing of what holds under each accelerator that there is.
std::string underText(const Ratios& claims, std::size_t all, const HostFacts& host) {
    if (claims.size() == all) return "";
    std::vector<std::string> titles;
    for (const Ratio* ratio : claims) titles.push_back(acceleratorTitle(ratio->accelerator, host));
    return " under " + together(titles);
}

/// What those verdicts say of who should own guest RAM, the manager being the first.
std::string leadOf(const Ratios& ratios, unsigned marginPercent, const HostFacts& host) {
    const bool smaller = has(ratios, Verdict::Smaller), larger = has(ratios, Verdict::Larger);
    const std::string who = "who should own guest RAM, the manager or the VMM";
    if (smaller && larger) return "Who should own guest RAM, the manager or the VMM, depends on what counts";
    if (smaller || larger) {
        std::vector<std::string> by;
        bool little = true;
        for (const std::string_view metric : valuesOf(ratios, &Ratio::metric)) {
            Ratios claims, all;
            for (const Ratio* ratio : ratios)
                if (ratio->metric == metric) {
                    all.push_back(ratio);
                    if (isClaim(ratio->verdict)) claims.push_back(ratio);
                }
            if (claims.empty()) continue;
            by.push_back(titleOf(metric) + underText(claims, all.size(), host));
            little = little && std::ranges::all_of(claims, [&](const Ratio* ratio) { return isWithin(*ratio, marginPercent); });
        }
        return "By " + together(by) + " the guest loses " + (little ? "a little " : "") + "less time when " +
               (smaller ? "the manager" : "the VMM") + " owns its RAM";
    }
    if (areAll(ratios, Verdict::Equivalent))
        return "To the guest it makes no difference beyond " + percentText(marginPercent) +
               " who owns its RAM, the manager or the VMM";
    if (has(ratios, Verdict::Equivalent) || has(ratios, Verdict::NoDifference))
        return "No difference is shown between guest RAM that the manager owns and guest RAM that the VMM owns";
    return (has(ratios, Verdict::TooBusy) ? "The host was too busy to say " : "Too few rounds to say ") + who;
}

std::set<Design> designsWithRounds(const Results& results) {
    std::set<Design> designs;
    for (const Configuration& one : results.configurations)
        for (const Series& series : one.series)
            if (countRounds(series).entered > 0) designs.insert(series.design);
    return designs;
}

std::string ownerSentence(const Results& results, const Summary& summary) {
    const auto first = std::ranges::find_if(summary.pooled, isOfOwners);
    if (first == summary.pooled.end())
        return "Who should own guest RAM, the manager or the VMM, is not answered here: no two designs that differ in it were "
               "measured.";
    Ratios ratios;
    for (const Ratio& ratio : summary.pooled)
        if (ratio.primary) ratios.push_back(&ratio);
    if (ratios.empty()) ratios.push_back(&*first);
    const bool isAfterwards = results.settings.primaryMetrics.empty();
    const bool claims = has(ratios, Verdict::Smaller) || has(ratios, Verdict::Larger);
    std::string text = (isAfterwards && claims ? "Nothing is claimed of who should own guest RAM, the manager or the VMM"
                                               : leadOf(ratios, marginOf(results), results.host)) +
                       ": " + nameOf(first->design) + " / " + nameOf(first->reference);
    if (std::ranges::all_of(ratios, [](const Ratio* ratio) { return ratio->rounds == 0; }))
        return text + " have no round in common.";
    std::string under;
    for (const auto& [accelerator, its] : byAccelerator(ratios)) {
        std::vector<std::string> figures;
        std::size_t rounds = 0;
        for (const Ratio* ratio : its) {
            figures.push_back(ratioText(*ratio, marginOf(results)));
            rounds = std::max(rounds, ratio->rounds);
        }
        append(under,
               "under " + acceleratorTitle(accelerator, results.host) + " " + together(figures) + ", over " +
                   counted(rounds, "round") + " of " + counted(its.front()->cells, "cell"),
               "; ");
    }
    return text + " is " + under + (isAfterwards ? "; its tests were chosen after the rounds." : ".");
}

/// What those verdicts say of the pause of all other designs against one.
std::string pauseLead(const Ratios& ratios, Design reference, unsigned marginPercent, const HostFacts& host) {
    const std::vector<Design> others = valuesOf(ratios, &Ratio::design);
    std::vector<std::string> claims;
    const auto add = [&](Verdict verdict, bool little, const std::string& words) {
        std::vector<std::string> designs;
        for (const Design design : others) {
            Ratios its;
            std::size_t all = 0;
            for (const Ratio* ratio : ratios) {
                if (ratio->design != design) continue;
                ++all;
                if (ratio->verdict == verdict && isWithin(*ratio, marginPercent) == little) its.push_back(ratio);
            }
            if (!its.empty()) designs.push_back(nameOf(design) + underText(its, all, host));
        }
        if (!designs.empty())
            claims.push_back(together(designs) + (designs.size() == 1 ? " pauses the guest for " : " pause the guest for ") +
                             words);
    };
    add(Verdict::Larger, false, "longer");
    add(Verdict::Larger, true, "a little longer");
    add(Verdict::Smaller, false, "a shorter time");
    add(Verdict::Smaller, true, "a slightly shorter time");
    const std::string other = nameOf(reference);
    if (!claims.empty()) return together(claims) + " than " + other;
    const std::string only = others.size() == 1 ? nameOf(others.front()) : "";
    if (!only.empty() && areAll(ratios, Verdict::Equivalent))
        return only + " pauses the guest for as long as " + other + " does, within " + percentText(marginPercent);
    if (!only.empty() && (has(ratios, Verdict::Equivalent) || has(ratios, Verdict::NoDifference)))
        return only + " is not shown to pause the guest for another time than " + other;
    if (areAll(ratios, Verdict::Equivalent))
        return "No design pauses the guest for longer or for a shorter time than " + other + ", by more than " +
               percentText(marginPercent);
    if (has(ratios, Verdict::Equivalent) || has(ratios, Verdict::NoDifference))
        return "No design is shown to pause the guest for longer or for a shorter time than " + other;
    return (has(ratios, Verdict::TooBusy) ? "The host was too busy to say which design pauses the guest for longer than "
                                          : "Too few rounds to say which design pauses the guest for longer than ") +
           other;
}

/// The medians of a metric over all cells of each design, least and most.
using Ranges = std::map<Design, std::pair<double, double>>;
Ranges mediansOf(const Summary& summary, std::string_view metric) {
    Ranges ranges;
    for (const ConfigurationSummary& one : summary.configurations)
        for (const SeriesSummary& series : one.series)
            if (const std::optional<double>& median = series.metrics.at(metric).median) {
                const auto [known, isNew] = ranges.emplace(series.design, std::pair(*median, *median));
                known->second = {std::min(known->second.first, *median), std::max(known->second.second, *median)};
            }
    return ranges;
}

std::string rangeText(const std::pair<double, double>& range, std::string (*text)(double)) {
    const std::string least = text(range.first), most = text(range.second);
    return least == most ? least : least + " - " + most;
}

/// What guests see of it first; of a guest that does not tell, what QEMU says.
std::string_view pauseMetric(const Summary& summary) {
    const bool beats = !mediansOf(summary, "guestPauseMs").empty();
    return beats ? "guestPauseMs" : "stopToResumeMs";
}

/// What nobody can choose: the tables compare with it, the answer does not.
bool isByHand(Design design) {
    return rowOf(design).byHandOf.has_value();
}

std::string pauseSentence(const Results& results, const Summary& summary) {
    const std::string_view metric = pauseMetric(summary);
    const std::string by = metric == "guestPauseMs" ? "by heartbeats" : "by STOP to RESUME";
    std::vector<std::pair<Design, Ratios>> references;
    for (const Ratio& ratio : summary.pooled) {
        // What was said in the first sentence is not said again.
        if (ratio.metric != metric || isByHand(ratio.design) || isByHand(ratio.reference) || isOfOwners(ratio)) continue;
        auto known = std::ranges::find(references, ratio.reference, &decltype(references)::value_type::first);
        if (known == references.end()) known = references.insert(references.end(), {ratio.reference, {}});
        known->second.push_back(&ratio);
    }
    if (references.empty()) {
        std::vector<std::string> medians;
        for (const auto& [design, range] : mediansOf(summary, metric))
            medians.push_back(rangeText(range, figureText) + " ms with " + nameOf(design));
        return medians.empty() ? "How long the guest pauses is not known."
                               : "The guest pauses for a median of " + together(medians) + ", " + by + ".";
    }
    std::string text;
    for (auto& [reference, ratios] : references) {
        // Of few rounds, as of baselines, no more is said than the tables do.
        if (!areAll(ratios, Verdict::TooFewRounds))
            std::erase_if(ratios, [](const Ratio* ratio) { return ratio->verdict == Verdict::TooFewRounds; });
        std::string under;
        for (const auto& [accelerator, its] : byAccelerator(ratios)) {
            std::vector<std::string> figures;
            for (const Ratio* ratio : its)
                figures.push_back(
                    (ratio->median ? figureText(*ratio->median) + (under.empty() && figures.empty() ? " times as long" : "")
                                   : "not known how much longer") +
                    " with " + nameOf(ratio->design) + inBrackets(*ratio, !isClaim(ratio->verdict), marginOf(results)));
            append(under, "under " + acceleratorTitle(accelerator, results.host) + " " + together(figures), "; ");
        }
        append(text, pauseLead(ratios, reference, marginOf(results), results.host) + ": " + by + " its pause is " + under + ".",
               " ");
    }
    return text;
}

/// Every handover is one of these, or is well.
struct Exceptions {
    std::size_t all = 0, failed = 0, disturbed = 0, broken = 0, outlasting = 0;
};

Exceptions exceptionsOf(const Results& results) {
    Exceptions found;
    for (const Configuration& one : results.configurations)
        for (const Series& series : one.series) {
            const RoundCount count = countRounds(series);
            found.all += count.all();
            found.failed += count.failed;
            found.disturbed += count.disturbed;
            for (const Round& round : series.rounds) {
                found.broken += round.isBroken() ? 1 : 0;
                if (!round.counts()) continue;
                const std::optional<Shown> brownOut = brownOutOf(round), gap = networkGapOf(round);
                found.outlasting += (brownOut && brownOut->isAtLeast) || (gap && gap->isAtLeast) ? 1 : 0;
            }
        }
    return found;
}

/// Designs of which the same is said, together: `0 with relayed and vmm-owned, 2 with copy`.
std::string grouped(const std::vector<std::pair<Design, std::string>>& said, const std::string& before,
                    const std::string& after) {
    std::vector<std::string> words, groups;
    for (const auto& [design, word] : said)
        if (std::ranges::find(words, word) == words.end()) words.push_back(word);
    for (const std::string& word : words) {
        std::vector<std::string> designs;
        for (const auto& [design, other] : said)
            if (other == word) designs.push_back(nameOf(design));
        groups.push_back(before.empty() ? together(designs) + after + word : word + before + together(designs));
    }
    return together(groups);
}

std::string notRunText(const Results& results) {
    std::map<Design, std::size_t> without;
    for (const Configuration& one : results.configurations)
        for (const Series& series : one.series)
            if (!series.isRun()) ++without[series.design];
    std::vector<std::pair<Design, std::string>> said;
    for (const auto& [design, cells] : without) said.emplace_back(design, std::to_string(cells));
    return said.empty() ? ""
                        : "; not run, or not to the end: " + grouped(said, "", " in ") + " of " +
                              counted(results.configurations.size(), "cell");
}

std::string lossSentence(const Results& results, const Summary& summary) {
    const Ranges lost = mediansOf(summary, "networkLost");
    std::string text;
    if (lost.empty()) {
        text = "What the network lost was not measured";
    } else {
        std::vector<std::string> losing;
        std::vector<std::pair<Design, std::string>> medians, those;
        for (const auto& [design, range] : lost) {
            medians.emplace_back(design, rangeText(range, countText));
            if (range.second <= 0) continue;
            losing.push_back(nameOf(design));
            those.push_back(medians.back());
        }
        const bool isOfSome = !losing.empty() && losing.size() < lost.size();
        const std::string lead = losing.empty() ? "As a rule no packet is lost"
                                 : losing.size() == lost.size()
                                     ? "Every design loses packets"
                                     : together(losing) + (losing.size() == 1 ? " loses packets" : " lose packets");
        text = lead + ": of echo requests, a median in each handover of " + grouped(isOfSome ? those : medians, " with ", "") +
               (isOfSome ? ", and 0 with all others" : "");
    }
    const Exceptions found = exceptionsOf(results);
    text += "; of " + counted(found.all, "handover") + " " + std::to_string(found.failed) + " failed, " +
            std::to_string(found.disturbed) + (found.disturbed == 1 ? " is" : " are") +
            " left out since the host was disturbed, and after " + std::to_string(found.outlasting) +
            " the guest or its network was not back at speed when the window ended";
    const std::string broken =
        found.broken > 0 ? "THE GUEST'S DATA OR TIME WAS WRONG after " + counted(found.broken, "handover") + ". " : "";
    return broken + text + notRunText(results) + ".";
}

}  // namespace

std::vector<std::string> answerOf(const Results& results, const Summary& summary) {
    const Exceptions found = exceptionsOf(results);
    if (found.all == 0) return {"There is no handover yet, so nothing can be said of the designs."};
    const std::set<Design> designs = designsWithRounds(results);
    if (designs.empty())
        return {"Of " + counted(found.all, "handover") + " none can be counted, so nothing can be said of what a design costs.",
                lossSentence(results, summary)};
    return {designs.size() == 1 ? "Only " + nameOf(*designs.begin()) + " has handovers that count, so no designs are compared."
                                : ownerSentence(results, summary),
            pauseSentence(results, summary), lossSentence(results, summary)};
}

}  // namespace vh
