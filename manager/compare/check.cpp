#include "manager/compare/check.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <utility>

#include "manager/compare/summary.h"
#include "manager/compare/text.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr double chanceOfFalseAlarm = 0.05;

enum class Kind {
    Time,      ///< By ratio; says nothing when the other host is faster.
    Amount,    ///< By ratio, or by difference where there was none of it.
    Absolute,  ///< By difference.
};

struct Figure {
    std::string_view metric;
    Kind kind;
};

constexpr std::array figures{Figure{"stopToResumeMs", Kind::Time}, Figure{"guestPauseMs", Kind::Time},
                             Figure{"brownOutMs", Kind::Time},     Figure{"networkGapMs", Kind::Time},
                             Figure{"totalMs", Kind::Time},        Figure{"ramCopiedBytes", Kind::Amount},
                             Figure{"networkLost", Kind::Absolute}};

struct Comparison {
    std::string cell;
    std::string design;
    std::string title;  ///< Of cell and design, for people.
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

std::string formatted(const char* format, double value) {
    char text[400];
    std::snprintf(text, sizeof(text), format, value);
    return text;
}

std::string valueText(std::string_view metric, double value) {
    if (metric.ends_with("Bytes")) return sizeText(value);
    return figureText(value) + (metric.ends_with("Ms") ? " ms" : "");
}

/// `99.98 %`: as many digits as tell it from 100.
std::string percentText(double share) {
    std::string text = formatted("%.5f", share * 100);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) text.pop_back();
    return text + " %";
}

/// Factors of a cell as text; equal for cells that are to be compared.
std::string factorsOf(const json& cell) {
    std::vector<std::string> devices = cell.at("devices");
    std::ranges::sort(devices);
    json factors = json::array();
    factors.push_back(devices);
    for (const char* factor : {"ramBytes", "touchedBytes", "pageSizeBytes", "vcpus", "load", "vms"})
        factors.push_back(cell.at(factor));
    return factors.dump();
}

/// By factors and by which of the cells with equal ones it is, which is the pair's place in the plan.
std::map<std::pair<std::string, std::size_t>, const json*> cellsByFactors(const json& results) {
    std::map<std::string, std::size_t> seen;
    std::map<std::pair<std::string, std::size_t>, const json*> cells;
    for (const json& cell : results.at("cells")) {
        const std::string factors = factorsOf(cell);
        cells[{factors, seen[factors]++}] = &cell;
    }
    return cells;
}

const json* seriesOf(const json& cell, const std::string& design) {
    for (const json& series : cell.at("series"))
        if (series.at("design") == design) return &series;
    return nullptr;
}

std::size_t brokenPatterns(const json& series) {
    return static_cast<std::size_t>(std::ranges::count_if(series.at("rounds"), [](const json& round) {
        return round.at("patterns").is_object() && round["patterns"].at("intact") == false;
    }));
}

std::string failuresText(const RoundCount& count) {
    return std::to_string(count.failed) + " of " + std::to_string(count.all());
}

/// The first round of a series that failed.
std::string causeIn(const json& series) {
    for (const json& round : series.at("rounds"))
        if (round.at("outcome") != "upgraded")
            return printable(round["outcome"].get<std::string>() + ": " + round.at("cause").get<std::string>());
    return {};
}

class Check {
 public:
    Check(const json& baseline, const json& now, double tolerance) : baseline_(baseline), now_(now) {
        result_.tolerance = tolerance;
    }

    CheckResult run() {
        compareHosts();
        const auto before = cellsByFactors(baseline_), after = cellsByFactors(now_);
        // In the order of the newer results, so that both read alike.
        for (const json& cell : now_.at("cells")) {
            const auto here = std::ranges::find(after, &cell, [](const auto& entry) { return entry.second; });
            const auto there = before.find(here->first);
            if (there == before.end())
                notCompared(cell, "", "the baseline has no such cell");
            else
                compareCells(*there->second, cell);
        }
        for (const json& cell : baseline_.at("cells")) {
            const auto here = std::ranges::find(before, &cell, [](const auto& entry) { return entry.second; });
            if (!after.contains(here->first)) notCompared(cell, "", "only the baseline has this cell");
        }
        judge();
        return std::move(result_);
    }

 private:
    void compareHosts() {
        const json &before = baseline_.at("host"), &after = now_.at("host");
        const auto differs = [&](const char* what, const char* title) {
            if (before.at(what) == after.at(what)) return false;
            result_.remarks.push_back(std::string("the hosts differ: ") + title + " '" +
                                      printable(before[what].get<std::string>()) + "' before, '" +
                                      printable(after[what].get<std::string>()) + "' now");
            return true;
        };
        const bool otherCpu = differs("cpu", "CPU"), otherAccelerator = differs("accelerator", "accelerator");
        differs("kernel", "kernel");
        timesComparable_ = !otherCpu && !otherAccelerator;
        if (!timesComparable_)
            result_.notCompared.emplace_back("times: another " + std::string(otherCpu ? "CPU" : "accelerator") +
                                             " takes another time for the same work");
    }

    void compareCells(const json& before, const json& after) {
        for (const json& series : before.at("series")) {
            const std::string design = series.at("design");
            const json* other = seriesOf(after, design);
            if (other)
                compareSeries(after, series, *other);
            else if (countRounds(series).all() > 0)
                // Upgraded before or not: a plan without it is a question that was not asked.
                notCompared(after, design, "the newer results do not have this design");
        }
        for (const json& series : after.at("series"))
            if (!seriesOf(before, series.at("design")))
                notCompared(after, series["design"], "the baseline does not have this design");
    }

    void compareSeries(const json& cell, const json& before, const json& after) {
        const std::string design = before.at("design");
        const RoundCount was = countRounds(before), is = countRounds(after);
        if (was.all() == 0 && is.all() == 0) return;
        if (was.all() == 0) return notCompared(cell, design, "it was not run in the baseline");
        comparePatterns(cell, before, after);
        if (is.all() == 0) {
            const std::string reason = printable(after.at("notRun"));
            if (was.failed == was.all() || reason.empty())
                notCompared(cell, design, "it was not run now" + (reason.empty() ? "" : ": " + reason));
            else
                add(result_.regressions, cell, design, "failures", "it upgraded before and is not run now: " + reason);
            return;
        }
        compareFailures(cell, design, was, is, after);
        if (was.tooDisturbed() || is.tooDisturbed())
            return notCompared(cell, design,
                               std::string("the host was too busy ") + (is.tooDisturbed() ? "now" : "in the baseline"));
        for (const Figure& figure : figures) {
            if (figure.kind == Kind::Time && !timesComparable_) continue;
            const Metric& metric = *std::ranges::find(metrics, figure.metric, &Metric::name);
            Comparison comparison{cell.at("id"),
                                  design,
                                  titleOfSeries(cell, design),
                                  figure,
                                  roundValuesOf(before, metric),
                                  roundValuesOf(after, metric)};
            if (comparison.before.empty() && comparison.after.empty()) continue;
            const std::size_t least = std::min(comparison.before.size(), comparison.after.size());
            if (least == 0)
                notCompared(cell, design,
                            std::string(metric.title) + ": not measured " + (comparison.after.empty() ? "now" : "before"));
            else if (least < valuesForInterval)
                notCompared(cell, design, tooFew(comparison));
            else
                comparisons_.push_back(std::move(comparison));
        }
    }

    void comparePatterns(const json& cell, const json& before, const json& after) {
        const std::size_t was = brokenPatterns(before), is = brokenPatterns(after);
        const std::string design = after.at("design");
        // Also when it was broken before: there is no number of wrong pages that is fine.
        if (is > 0)
            add(result_.regressions, cell, design, "patterns",
                "the guest's memory, disk or beats were wrong in " + std::to_string(is) + " rounds (before: in " +
                    std::to_string(was) + ")");
        else if (was > 0 && countRounds(after).all() > 0)
            add(result_.improvements, cell, design, "patterns",
                "the guest's memory, disk and beats are intact (before: wrong in " + std::to_string(was) + " rounds)");
    }

    void compareFailures(const json& cell, const std::string& design, const RoundCount& was, const RoundCount& is,
                         const json& after) {
        const std::string counts = failuresText(is) + " rounds failed now, " + failuresText(was) + " before";
        if (is.failed > 0 && was.failed == 0) {
            add(result_.regressions, cell, design, "failures", counts + ": " + causeIn(after));
        } else if (is.failed == 0 && was.failed > 0) {
            add(result_.improvements, cell, design, "failures", counts);
        } else if (is.failed > 0) {
            FailureComparison comparison{{cell.at("id"), design, "failures", std::nullopt,
                                          titleOfSeries(cell, design) + ": " + counts + ": " + causeIn(after)},
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
        for (const Comparison& comparison : comparisons_) {
            // Each has the chance of half of its share to be wrong on the side that matters.
            if (chanceOfSeparation(comparison.before.size(), comparison.after.size()) > share / 2) {
                --result_.comparisons;
                result_.notCompared.push_back(comparison.title + ": " + tooFew(comparison) + ", for as many comparisons");
                continue;
            }
            judge(comparison);
        }
    }

    void judge(const Comparison& comparison) {
        const bool byRatio = comparison.byRatio();
        const Interval interval =
            (byRatio ? ratioOfMedians : differenceOfMedians)(comparison.after, comparison.before, result_.confidence);
        const bool worse = byRatio ? interval.low > result_.tolerance : interval.low > 0;
        const bool better = byRatio ? interval.high < 1 / result_.tolerance : interval.high < 0;
        if (!worse && !better) return;

        const std::string_view metric = comparison.figure.metric;
        const auto show = [&](double value) { return byRatio ? formatted("%.2f", value) : valueText(metric, value); };
        const std::string text =
            comparison.title + ": " + titleOf(std::string(metric)) + " " + valueText(metric, median(comparison.before)) + " -> " +
            valueText(metric, median(comparison.after)) + ": " + (byRatio || interval.median < 0 ? "" : "+") +
            show(interval.median) + (byRatio ? "x" : "") + " (" + percentText(result_.confidence) + " " + show(interval.low) +
            " - " + show(interval.high) + ")";
        (worse ? result_.regressions : result_.improvements)
            .push_back({comparison.cell, comparison.design, std::string(metric), interval, text});
    }

    static std::string titleOfSeries(const json& cell, const std::string& design) {
        return printable(cell.at("title")) + ": " + design;
    }
    static std::string tooFew(const Comparison& comparison) {
        return titleOf(std::string(comparison.figure.metric)) +
               ": too few rounds to say: " + std::to_string(comparison.before.size()) + " before, " +
               std::to_string(comparison.after.size()) + " now";
    }
    static void add(std::vector<CheckFinding>& findings, const json& cell, const std::string& design, const char* figure,
                    const std::string& text) {
        findings.push_back({cell.at("id"), design, figure, std::nullopt, titleOfSeries(cell, design) + ": " + text});
    }
    void notCompared(const json& cell, const std::string& design, const std::string& why) {
        result_.notCompared.push_back((design.empty() ? printable(cell.at("title")) : titleOfSeries(cell, design)) + ": " + why);
    }

    const json& baseline_;
    const json& now_;
    bool timesComparable_ = true;
    std::vector<Comparison> comparisons_;
    std::vector<FailureComparison> failureComparisons_;
    CheckResult result_;
};

json toJson(const std::vector<CheckFinding>& findings) {
    json list = json::array();
    for (const CheckFinding& finding : findings) {
        json value{{"cell", finding.cell}, {"design", finding.design}, {"figure", finding.figure}, {"text", finding.text}};
        for (const char* member : {"median", "low", "high"}) value[member] = nullptr;
        if (finding.interval)
            value.update(
                {{"median", finding.interval->median}, {"low", finding.interval->low}, {"high", finding.interval->high}});
        list.push_back(std::move(value));
    }
    return list;
}

}  // namespace

CheckResult check(const json& baseline, const json& now, double tolerance) {
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
           " of figures; tolerance " + formatted("%.2f", result.tolerance) + "\n";
}

}  // namespace vh
