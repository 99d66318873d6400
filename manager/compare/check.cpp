#include "manager/compare/check.h"

#include <algorithm>
#include <array>
#include <map>
#include <stdexcept>
#include <utility>

#include "manager/compare/summary.h"
#include "manager/compare/text.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr double chanceOfFalseAlarm = 0.05;
/// Fewer than an interval of one run is made of: here both samples together must be able to tell (chanceOfSeparation()).
constexpr std::size_t valuesForCheck = 6;

enum class Kind {
    Time,      ///< By ratio; says nothing when the other host is faster.
    Amount,    ///< By ratio, or by difference where there was none of it.
    Absolute,  ///< By difference.
};

struct Figure {
    std::string_view metric;
    Kind kind;
};

constexpr std::array figures{
    Figure{"stopToResumeMs", Kind::Time}, Figure{"guestPauseMs", Kind::Time},     Figure{"workLostMs", Kind::Time},
    Figure{"brownOutMs", Kind::Time},     Figure{"networkGapMs", Kind::Time},     Figure{"totalMs", Kind::Time},
    Figure{"noWayBackMs", Kind::Time},    Figure{"ramCopiedBytes", Kind::Amount}, Figure{"networkLost", Kind::Absolute}};

/// Of one figure of one series.
struct FigureComparison {
    std::string configuration;
    std::string design;
    std::string title;  ///< Of configuration and design, for people.
    Figure figure;
    std::vector<double> before;
    std::vector<double> after;

    bool byRatio() const {
        return figure.kind != Kind::Absolute && std::ranges::all_of(before, [](double value) { return value > 0; });
    }
};

/// Failures among the rounds of a series that failed in both results.
struct FailureComparison {
    CheckFinding finding;
    double chance;  ///< Of as many failures as now, if nothing changed.
};

std::string valueText(std::string_view metric, double value) {
    if (metric.ends_with("Bytes")) return sizeText(value);
    return figureText(value) + (metric.ends_with("Ms") ? " ms" : "");
}

/// `99.98 %`: as many digits as tell it from 100.
std::string percentText(double share) {
    std::string text = fixed(share * 100, 5);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) text.pop_back();
    return text + " %";
}

/// By factors and by which of the configurations with equal ones it is, which is the binary pair's place in the plan.
using Factors = std::pair<decltype(std::declval<Configuration>().factors()), std::size_t>;
std::map<Factors, const Configuration*> byFactors(const Results& results) {
    std::map<Factors::first_type, std::size_t> seen;
    std::map<Factors, const Configuration*> all;
    for (const Configuration& one : results.configurations) all[{one.factors(), seen[one.factors()]++}] = &one;
    return all;
}

/// Of the same place in the plan; null when there is none.
const Configuration* counterpartOf(const Configuration& one, const std::map<Factors, const Configuration*>& own,
                                   const std::map<Factors, const Configuration*>& others) {
    const auto here = std::ranges::find(own, &one, [](const auto& entry) { return entry.second; });
    const auto there = others.find(here->first);
    return there == others.end() ? nullptr : there->second;
}

/// Rounds that ended with no VMM running the guest: what could not go back when it failed.
std::size_t guestsLost(const Series& series) {
    return static_cast<std::size_t>(std::ranges::count_if(
        series.rounds, [](const Round& round) { return round.outcome == Outcome::Lost || round.outcome == Outcome::Silent; }));
}

std::size_t brokenPatterns(const Series& series) {
    return static_cast<std::size_t>(std::ranges::count_if(series.rounds, &Round::isBroken));
}

std::string failuresText(const RoundCount& count) {
    return std::to_string(count.failed) + " of " + std::to_string(count.all());
}

/// The first round of a series that failed.
std::string causeIn(const Series& series) {
    const auto failed = std::ranges::find_if_not(series.rounds, &Round::upgraded);
    return failed == series.rounds.end() ? "" : printable(std::string(name(failed->outcome)) + ": " + failed->cause);
}

class Check {
 public:
    Check(const Results& baseline, const Results& now, double tolerance) : baseline_(baseline), now_(now) {
        result_.tolerance = tolerance;
    }

    CheckResult run() {
        compareHosts();
        const auto before = byFactors(baseline_), after = byFactors(now_);
        // In the order of the newer results, so that both read alike.
        for (const Configuration& one : now_.configurations) {
            if (const Configuration* older = counterpartOf(one, after, before))
                compareConfigurations(*older, one);
            else
                notCompared(one, "", "the baseline has no such cell");
        }
        for (const Configuration& one : baseline_.configurations)
            if (!counterpartOf(one, before, after)) notCompared(one, "", "only the baseline has this cell");
        judge();
        return std::move(result_);
    }

 private:
    void compareHosts() {
        const auto differs = [&](std::string HostFacts::*what, const std::string& title) {
            const std::string &before = baseline_.host.*what, &after = now_.host.*what;
            if (before == after) return false;
            result_.remarks.push_back("the hosts differ: " + title + " '" + printable(before) + "' before, '" + printable(after) +
                                      "' now");
            return true;
        };
        const bool otherCpu = differs(&HostFacts::cpu, "CPU"), otherAccelerator = differs(&HostFacts::accelerator, "accelerator");
        differs(&HostFacts::kernel, "kernel");
        timesComparable_ = !otherCpu && !otherAccelerator;
        if (!timesComparable_)
            result_.notCompared.emplace_back("times: another " + std::string(otherCpu ? "CPU" : "accelerator") +
                                             " takes another time for the same work");
    }

    void compareConfigurations(const Configuration& before, const Configuration& after) {
        for (const Series& series : before.series) {
            if (const Series* other = after.of(series.design))
                compareSeries(after, series, *other);
            else if (countRounds(series).all() > 0)
                // Upgraded before or not: a plan without it is a question that was not asked.
                notCompared(after, name(series.design), "the newer results do not have this design");
        }
        for (const Series& series : after.series)
            if (!before.of(series.design)) notCompared(after, name(series.design), "the baseline does not have this design");
    }

    void compareSeries(const Configuration& configuration, const Series& before, const Series& after) {
        const std::string design(name(before.design));
        const RoundCount was = countRounds(before), is = countRounds(after);
        if (was.all() == 0 && is.all() == 0) return;
        if (was.all() == 0) return notCompared(configuration, design, "it was not run in the baseline");
        comparePatterns(configuration, before, after);
        compareWayBack(configuration, before, after);
        if (is.all() == 0) {
            const std::string reason = printable(after.notRun);
            if (was.failed == was.all() || reason.empty())
                notCompared(configuration, design, "it was not run now" + (reason.empty() ? "" : ": " + reason));
            else
                add(result_.regressions, configuration, design, "failures", "it upgraded before and is not run now: " + reason);
            return;
        }
        compareFailures(configuration, design, was, is, after);
        if (was.tooDisturbed() || is.tooDisturbed())
            return notCompared(configuration, design,
                               std::string("the host was too busy ") + (is.tooDisturbed() ? "now" : "in the baseline"));
        for (const Figure& figure : figures) {
            if (figure.kind == Kind::Time && !timesComparable_) continue;
            const Metric& metric = *std::ranges::find(metrics, figure.metric, &Metric::name);
            FigureComparison comparison{configuration.id,
                                        design,
                                        titleOfSeries(configuration, design),
                                        figure,
                                        roundValuesOf(before, metric),
                                        roundValuesOf(after, metric)};
            if (comparison.before.empty() && comparison.after.empty()) continue;
            const std::size_t least = std::min(comparison.before.size(), comparison.after.size());
            if (least == 0)
                notCompared(configuration, design,
                            std::string(metric.title) + ": not measured " + (comparison.after.empty() ? "now" : "before"));
            else if (least < valuesForCheck)
                notCompared(configuration, design, tooFew(comparison));
            else
                comparisons_.push_back(std::move(comparison));
        }
    }

    void comparePatterns(const Configuration& configuration, const Series& before, const Series& after) {
        const std::size_t was = brokenPatterns(before), is = brokenPatterns(after);
        const std::string design(name(after.design));
        // Also when it was broken before: there is no number of wrong pages that is fine.
        if (is > 0)
            add(result_.regressions, configuration, design, "patterns",
                "the guest's memory, disk or beats were wrong in " + std::to_string(is) + " rounds (before: in " +
                    std::to_string(was) + ")");
        else if (was > 0 && countRounds(after).all() > 0)
            add(result_.improvements, configuration, design, "patterns",
                "the guest's memory, disk and beats are intact (before: wrong in " + std::to_string(was) + " rounds)");
    }

    /// As with patterns, no number of lost guests is fine.
    void compareWayBack(const Configuration& configuration, const Series& before, const Series& after) {
        const std::size_t was = guestsLost(before), is = guestsLost(after);
        if (is > 0)
            add(result_.regressions, configuration, std::string(name(after.design)), "wayBack",
                "the guest was lost, or not heard again, in " + std::to_string(is) +
                    " of the rounds that failed, and did not go on in the old VMM (before: in " + std::to_string(was) + ")");
    }

    void compareFailures(const Configuration& configuration, const std::string& design, const RoundCount& was,
                         const RoundCount& is, const Series& after) {
        const std::string counts = failuresText(is) + " rounds failed now, " + failuresText(was) + " before";
        if (is.failed > 0 && was.failed == 0) {
            add(result_.regressions, configuration, design, "failures", counts + ": " + causeIn(after));
        } else if (is.failed == 0 && was.failed > 0) {
            add(result_.improvements, configuration, design, "failures", counts);
        } else if (is.failed > 0) {
            FailureComparison comparison{{configuration.id, design, "failures", std::nullopt,
                                          titleOfSeries(configuration, design) + ": " + counts + ": " + causeIn(after)},
                                         chanceOfFailures(is.failed, is.all(), was.failed, was.all())};
            failureComparisons_.push_back(std::move(comparison));
        }
    }

    void judge() {
        result_.comparisons = comparisons_.size() + failureComparisons_.size();
        const double share = chanceOfFalseAlarm / static_cast<double>(std::max<std::size_t>(result_.comparisons, 1));
        result_.confidence = 1 - share;
        for (FailureComparison& comparison : failureComparisons_)
            if (comparison.chance < share / 2) result_.regressions.push_back(std::move(comparison.finding));
        for (const FigureComparison& comparison : comparisons_) {
            // Each has the chance of half of its share to be wrong on the side that matters.
            if (chanceOfSeparation(comparison.before.size(), comparison.after.size()) > share / 2) {
                --result_.comparisons;
                result_.notCompared.push_back(comparison.title + ": " + tooFew(comparison) + ", for as many comparisons");
                continue;
            }
            judge(comparison);
        }
    }

    void judge(const FigureComparison& comparison) {
        const bool byRatio = comparison.byRatio();
        const Interval interval =
            (byRatio ? ratioOfMedians : differenceOfMedians)(comparison.after, comparison.before, result_.confidence);
        const bool worse = byRatio ? interval.low > result_.tolerance : interval.low > 0;
        const bool better = byRatio ? interval.high < 1 / result_.tolerance : interval.high < 0;
        if (!worse && !better) return;

        const std::string_view metric = comparison.figure.metric;
        const auto show = [&](double value) { return byRatio ? fixed(value, 2) : valueText(metric, value); };
        const std::string text = comparison.title + ": " + titleOf(metric) + " " + valueText(metric, median(comparison.before)) +
                                 " -> " + valueText(metric, median(comparison.after)) + ": " +
                                 (byRatio || interval.median < 0 ? "" : "+") + show(interval.median) + (byRatio ? "x" : "") +
                                 " (" + percentText(result_.confidence) + " " + show(interval.low) + " - " + show(interval.high) +
                                 ")";
        (worse ? result_.regressions : result_.improvements)
            .push_back({comparison.configuration, comparison.design, std::string(metric), interval, text});
    }

    static std::string titleOfSeries(const Configuration& configuration, const std::string& design) {
        return printable(configuration.title) + ": " + design;
    }
    static std::string tooFew(const FigureComparison& comparison) {
        return titleOf(comparison.figure.metric) + ": too few rounds to say: " + std::to_string(comparison.before.size()) +
               " before, " + std::to_string(comparison.after.size()) + " now";
    }
    static void add(std::vector<CheckFinding>& findings, const Configuration& configuration, const std::string& design,
                    const char* figure, const std::string& text) {
        findings.push_back({configuration.id, design, figure, std::nullopt, titleOfSeries(configuration, design) + ": " + text});
    }
    void notCompared(const Configuration& configuration, std::string_view design, const std::string& why) {
        const std::string title = printable(configuration.title);
        result_.notCompared.push_back((design.empty() ? title : title + ": " + std::string(design)) + ": " + why);
    }

    const Results& baseline_;
    const Results& now_;
    bool timesComparable_ = true;
    std::vector<FigureComparison> comparisons_;
    std::vector<FailureComparison> failureComparisons_;
    CheckResult result_;
};

json toJson(const std::vector<CheckFinding>& findings) {
    json list = json::array();
    for (const CheckFinding& finding : findings) {
        json value{
            {"cell", finding.configuration}, {"design", finding.design}, {"figure", finding.figure}, {"text", finding.text}};
        for (const char* member : {"median", "low", "high"}) value[member] = nullptr;
        if (finding.interval)
            value.update(
                {{"median", finding.interval->median}, {"low", finding.interval->low}, {"high", finding.interval->high}});
        list.push_back(std::move(value));
    }
    return list;
}

}  // namespace

CheckResult check(const Results& baseline, const Results& now, double tolerance) {
    if (!(tolerance >= 1)) throw std::invalid_argument("a tolerance is 1 or more: 1.10 lets a median grow by a tenth");
    return Check(baseline, now, tolerance).run();
}

json toJson(const CheckResult& result) {
    return {{"tolerance", result.tolerance},
            {"confidence", result.confidence},
            {"comparisons", result.comparisons},
            {"regressions", result.regressions.size()},
            {"found", {{"regressions", toJson(result.regressions)}, {"improvements", toJson(result.improvements)}}},
            {"notCompared", result.notCompared},
            {"remarks", result.remarks}};
}

std::string checkText(const CheckResult& result) {
    std::string text;
    for (const std::string& remark : result.remarks) text += "remark: " + remark + "\n";
    for (const CheckFinding& finding : result.regressions) text += "regression: " + finding.text + "\n";
    for (const CheckFinding& finding : result.improvements) text += "improvement: " + finding.text + "\n";
    for (const std::string& line : result.notCompared) text += "not compared: " + line + "\n";
    const auto counted = [](std::size_t count, const std::string& what) {
        return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
    };
    return text + counted(result.regressions.size(), "regression") + " and " +
           counted(result.improvements.size(), "improvement") + " in " + counted(result.comparisons, "comparison") +
           " of figures; tolerance " + fixed(result.tolerance, 2) + "\n";
}

}  // namespace vh
