#include "manager/compare/answer.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
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

/// `95 % 0.90 - 0.95`; an end that is not known stays open. Of what is equivalent, the interval that decides it.
std::string intervalOf(const Ratio& ratio) {
    const bool isEquivalent = ratio.verdict == Verdict::Equivalent;
    const auto ends = isEquivalent ? std::pair(ratio.low90, ratio.high90) : std::pair(ratio.low, ratio.high);
    if (!ends.first && !ends.second) return "95 % open";
    const std::string low = ends.first ? figureText(*ends.first) : "", high = ends.second ? figureText(*ends.second) : "";
    if (ratio.minMax && ends.first && ends.second) return "few rounds: min " + low + ", max " + high;
    return (isEquivalent ? "90 % " : "95 % ") + (low.empty()    ? high + " or less"
                                                 : high.empty() ? low + " or more"
                                                                : low + " - " + high);
}

/// A claim that would not be made without one of its cells says so.
std::string restsOnText(const Ratio& ratio) {
    const std::size_t needed = ratio.restsOn ? ratio.restsOn->size() : 0;
    return needed == 0 ? ""
                       : ", not without " + std::string(needed == 1 ? "" : "each of ") + std::to_string(needed) + " of its " +
                             counted(ratio.cells, "cell");
}

/// `0.92 times under TCG (95 % 0.90 - 0.95, p = 0.014)`
std::string ratioText(const Ratio& ratio, const std::string& of) {
    const bool isTested = ratio.pHolm && ratio.verdict != Verdict::Equivalent;
    return (ratio.median ? figureText(*ratio.median) + " times" : "an unknown number of times") + of + " (" + intervalOf(ratio) +
           (isTested ? ", " + chanceText(*ratio.pHolm) : "") + restsOnText(ratio) + ")";
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

/// For how many tests the chances are corrected; nothing where none is told.
std::string correctionText(const Ratios& told) {
    const auto tested =
        std::ranges::find_if(told, [](const Ratio* ratio) { return ratio->pHolm && ratio->verdict != Verdict::Equivalent; });
    return tested == told.end() ? "" : ", p corrected for " + counted((*tested)->tests, "test");
}

/// What those verdicts say of who should own guest RAM, the manager being the first.
std::string leadOf(const Ratios& ratios, unsigned marginPercent, const HostFacts& host) {
    const bool smaller = has(ratios, Verdict::Smaller), larger = has(ratios, Verdict::Larger);
    const std::string who = "who should own guest RAM, the manager or the VMM";
    if (smaller && larger) return "Who should own guest RAM, the manager or the VMM, depends on what counts";
    if (smaller || larger) {
        std::vector<std::string> by;
        for (const std::string_view metric : valuesOf(ratios, &Ratio::metric)) {
            Ratios claims, all;
            for (const Ratio* ratio : ratios)
                if (ratio->metric == metric) {
                    all.push_back(ratio);
                    if (isClaim(ratio->verdict)) claims.push_back(ratio);
                }
            if (!claims.empty()) by.push_back(titleOf(metric) + underText(claims, all.size(), host));
        }
        return "By " + together(by) + " the guest loses less time when " + (smaller ? "the manager" : "the VMM") +
               " owns its RAM";
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
    const std::string afterwards = "its tests were chosen after the rounds";
    std::string text = isAfterwards && claims
                           ? "Nothing is claimed of who should own guest RAM, the manager or the VMM, as " + afterwards
                           : leadOf(ratios, marginOf(results), results.host);
    text += ": ";
    const std::string one = nameOf(first->design), other = nameOf(first->reference);
    if (std::ranges::all_of(ratios, [](const Ratio* ratio) { return ratio->rounds == 0; }))
        return text + one + " and " + other + " have no round in common.";
    // What the lead rests on; where that is nothing, the first of them.
    const auto isTold = [&](std::string_view metric) {
        if (isAfterwards || !claims) return metric == ratios.front()->metric || areAll(ratios, Verdict::Equivalent);
        return std::ranges::any_of(ratios,
                                   [&](const Ratio* ratio) { return ratio->metric == metric && isClaim(ratio->verdict); });
    };
    Ratios told;
    std::vector<std::string> byMetric;
    for (const std::string_view metric : valuesOf(ratios, &Ratio::metric)) {
        if (!isTold(metric)) continue;
        std::vector<std::string> figures;
        for (const Ratio* ratio : ratios) {
            if (ratio->metric != metric) continue;
            const std::string asLong = told.empty() ? " as long as " + other : "";
            figures.push_back(ratioText(*ratio, asLong + " under " + acceleratorTitle(ratio->accelerator, results.host)));
            told.push_back(ratio);
        }
        byMetric.push_back("by " + titleOf(metric) + (byMetric.empty() ? " " + one + " takes " : " ") + together(figures));
    }
    for (std::size_t i = 0; i < byMetric.size(); ++i) text += (i == 0 ? "" : "; ") + byMetric[i];
    return text + correctionText(told) + (isAfterwards && !claims ? "; " + afterwards + "." : ".");
}

/// Designs with one of those verdicts, by accelerator where it is not so under each.
std::string designsWith(const std::set<Verdict>& verdicts, const Ratios& ratios, const HostFacts& host) {
    std::vector<std::string> designs;
    for (const Design design : valuesOf(ratios, &Ratio::design)) {
        Ratios its;
        std::size_t all = 0;
        for (const Ratio* ratio : ratios) {
            if (ratio->design != design) continue;
            ++all;
            if (verdicts.contains(ratio->verdict)) its.push_back(ratio);
        }
        if (!its.empty()) designs.push_back(nameOf(design) + underText(its, all, host));
    }
    return together(designs);
}

/// What those verdicts say of the pause of all other designs against one.
std::string pauseLead(const Ratios& ratios, Design reference, unsigned marginPercent, const HostFacts& host) {
    const std::vector<Design> others = valuesOf(ratios, &Ratio::design);
    std::vector<std::string> claims;
    for (const auto& [verdict, words] : {std::pair(Verdict::Larger, "longer"), std::pair(Verdict::Smaller, "a shorter time")}) {
        const std::string designs = designsWith({verdict}, ratios, host);
        const bool one = designs.find(" and ") == std::string::npos;
        if (!designs.empty()) claims.push_back(designs + (one ? " pauses" : " pause") + " the guest for " + words);
    }
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

/// What guests see of it, where they beat evenly; else what QEMU says.
std::string_view pauseMetric(const Summary& summary, std::string_view accelerator, const HostFacts& host) {
    const bool isFelt = std::ranges::any_of(
        summary.pooled, [&](const Ratio& ratio) { return ratio.metric == "guestPauseMs" && ratio.accelerator == accelerator; });
    return isFelt && !isNested(accelerator, host) ? "guestPauseMs" : "stopToResumeMs";
}

std::string byText(std::string_view metric) {
    return metric == "guestPauseMs" ? "by heartbeats" : "by STOP to RESUME";
}

/// What nobody can choose: the tables compare with it, the answer does not.
bool isByHand(Design design) {
    return rowOf(design).byHandOf.has_value();
}

/// Where nothing is compared.
std::string mediansSentence(const Results& results, const Summary& summary) {
    const bool nested = std::ranges::any_of(results.configurations, [&](const Configuration& one) {
        return isNested(one.accelerator ? name(*one.accelerator) : std::string_view(results.host.accelerator), results.host);
    });
    const std::string_view metric = nested || mediansOf(summary, "guestPauseMs").empty() ? "stopToResumeMs" : "guestPauseMs";
    std::vector<std::string> medians;
    for (const auto& [design, range] : mediansOf(summary, metric))
        medians.push_back(rangeText(range, figureText) + " ms with " + nameOf(design));
    return medians.empty() ? "How long the guest pauses is not known."
                           : "The guest pauses for a median of " + together(medians) + ", " + byText(metric) + ".";
}

/// Those of which nothing is claimed, beside others of which something is.
std::string withoutClaimText(const Ratios& ratios, const HostFacts& host) {
    const std::string none = designsWith({Verdict::Equivalent, Verdict::NoDifference}, ratios, host),
                      busy = designsWith({Verdict::TooBusy}, ratios, host);
    return (none.empty() ? "" : "; no difference is shown with " + none) +
           (busy.empty() ? "" : "; the host was too busy to say with " + busy);
}

std::string pauseSentence(const Results& results, const Summary& summary) {
    std::vector<std::pair<Design, Ratios>> references;
    for (const Ratio& ratio : summary.pooled) {
        // What was said in the first sentence is not said again.
        if (ratio.metric != pauseMetric(summary, ratio.accelerator, results.host) || isByHand(ratio.design) ||
            isByHand(ratio.reference) || isOfOwners(ratio))
            continue;
        auto known = std::ranges::find(references, ratio.reference, &decltype(references)::value_type::first);
        if (known == references.end()) known = references.insert(references.end(), {ratio.reference, {}});
        known->second.push_back(&ratio);
    }
    if (references.empty()) return mediansSentence(results, summary);
    std::string text;
    std::vector<std::string> accelerators;
    for (const Ratio& ratio : summary.pooled) accelerators.push_back(ratio.accelerator);
    for (auto& [reference, ratios] : references) {
        std::ranges::stable_sort(ratios, {},
                                 [&](const Ratio* ratio) { return std::ranges::find(accelerators, ratio->accelerator); });
        // Of few rounds, as of baselines, no more is said than the tables do.
        if (!areAll(ratios, Verdict::TooFewRounds))
            std::erase_if(ratios, [](const Ratio* ratio) { return ratio->verdict == Verdict::TooFewRounds; });
        const bool claims = has(ratios, Verdict::Smaller) || has(ratios, Verdict::Larger);
        Ratios told;
        std::ranges::copy_if(ratios, std::back_inserter(told),
                             [claims](const Ratio* ratio) { return !claims || isClaim(ratio->verdict); });
        std::string under;
        for (const auto& [accelerator, its] : byAccelerator(told)) {
            std::vector<std::string> figures;
            for (const Ratio* ratio : its)
                figures.push_back(
                    ratioText(*ratio, (under.empty() && figures.empty() ? " as long" : "") + (" with " + nameOf(ratio->design))));
            append(under,
                   "under " + acceleratorTitle(accelerator, results.host) +
                       (isNested(accelerator, results.host) ? ", where beats come too unevenly," : "") + " " +
                       byText(its.front()->metric) + " " + together(figures),
                   "; ");
        }
        append(text,
               pauseLead(ratios, reference, marginOf(results), results.host) + ": " + under + correctionText(told) +
                   (claims ? withoutClaimText(ratios, results.host) : "") + ".",
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
        std::string& group = groups.emplace_back(before.empty() ? together(designs) : word);
        group += before.empty() ? after : before;
        group += before.empty() ? word : together(designs);
    }
    return together(groups);
}

std::string notRunText(const Results& results) {
    std::map<Design, std::size_t> without;
    for (const Configuration& one : results.configurations)
        for (const Series& series : one.series)
            if (!series.isRun()) ++without[series.design];
    std::vector<std::pair<Design, std::string>> said;
    std::ranges::transform(without, std::back_inserter(said),
                           [](const auto& one) { return std::pair(one.first, std::to_string(one.second)); });
    return said.empty() ? ""
                        : "; not run, or not to the end: " + grouped(said, "", " in ") + " of " +
                              counted(results.configurations.size(), "cell");
}

/// Where only some guests have a network.
std::string networkedText(const Results& results, const Summary& summary) {
    std::vector<std::string> with, all;
    for (std::size_t i = 0; i < results.configurations.size(); ++i) {
        const auto& own = results.configurations[i].accelerator;
        const std::string title = acceleratorTitle(own ? name(*own) : std::string_view(results.host.accelerator), results.host);
        const auto note = [&title](std::vector<std::string>& titles) {
            if (std::ranges::find(titles, title) == titles.end()) titles.push_back(title);
        };
        for (const SeriesSummary& series : summary.configurations[i].series) {
            if (series.rounds > 0) note(all);
            if (series.metrics.at("networkLost").median) note(with);
        }
    }
    return with.size() == all.size() ? "" : "Under " + together(with) + ", where alone the guest has a network, ";
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
        const std::string under = networkedText(results, summary);
        const std::string lead = losing.empty() ? (under.empty() ? "As" : "as") + std::string(" a rule no packet is lost")
                                 : losing.size() == lost.size()
                                     ? (under.empty() ? "Every" : "every") + std::string(" design loses packets")
                                     : together(losing) + (losing.size() == 1 ? " loses packets" : " lose packets");
        text = under + lead + ": of echo requests, a median in each handover of " +
               grouped(isOfSome ? those : medians, " with ", "") + (isOfSome ? ", and 0 with all others" : "");
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
