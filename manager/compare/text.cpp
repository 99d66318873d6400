#include "manager/compare/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "manager/compare/answer.h"
#include "manager/compare/results_file.h"
#include "manager/record/report.h"
#include "vmm-shim/terminal_text.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr std::size_t tableColumns = 118;  ///< They are indented by two.

/// In front of a bound: the true figure is that or more.
std::string sign(const MetricSummary& metric, std::string_view member) {
    return std::ranges::find(metric.atLeast, member) == metric.atLeast.end() ? "" : ">";
}

/// `12.3 [11.9 - 14.0]`: an interval with as many decimals as its median has; `12.3 (min 11.9, max 14.0)` of too few rounds for
/// one. `(2 longer)` when the window ended before two values were known.
std::string intervalText(const MetricSummary& metric) {
    if (!metric.median) return "-";
    const int decimals = decimalsOf(*metric.median);
    const std::string low = sign(metric, "low") + fixed(*metric.low, decimals),
                      high = sign(metric, "high") + fixed(*metric.high, decimals);
    return sign(metric, "median") + fixed(*metric.median, decimals) +
           (metric.minMax ? " (min " + low + ", max " + high + ")" : " [" + low + " - " + high + "]") +
           (metric.longer > 0 ? " (" + std::to_string(metric.longer) + " longer)" : "");
}

std::string figureOr(const std::optional<double>& value) {
    return value ? figureText(*value) : "-";
}

std::string sizeOr(const auto& value) {
    return value ? sizeText(static_cast<double>(*value)) : "-";
}

struct Column {
    std::string title;
    std::vector<std::string> cells;

    bool isEmpty() const {
        return std::ranges::all_of(cells, [](const std::string& cell) { return cell == "-"; });
    }
    std::size_t width() const {
        std::size_t widest = title.size();
        for (const std::string& cell : cells) widest = std::max(widest, cell.size());
        return widest;
    }
};

/// As many tables below each other as it takes to stay on the screen; each has the first column.
std::string tables(const std::vector<Column>& columns) {
    std::string text;
    for (std::size_t next = 1; next < columns.size();) {
        std::vector<const Column*> shown{&columns.front()};
        std::size_t width = columns.front().width();
        do {
            width += 3 + columns[next].width();
            shown.push_back(&columns[next++]);
        } while (next < columns.size() && width + 3 + columns[next].width() <= tableColumns);

        const auto row = [&shown](const auto& cellOf) {
            std::vector<std::string> cells;
            for (const Column* column : shown) cells.push_back(cellOf(*column));
            return cells;
        };
        Table table(row([](const Column& column) { return column.title; }), 3);
        for (std::size_t i = 0; i < columns.front().cells.size(); ++i)
            table.add(row([i](const Column& column) { return column.cells[i]; }));
        text += (text.empty() ? "" : "\n") + table.text();
    }
    return text;
}

/// Of all answers that were missing in the rounds that count, and the median of each round's longest gap.
std::string networkText(const Series& series, const SeriesSummary& summary) {
    std::uint64_t sent = 0, lost = 0;
    bool measured = false;
    for (const Round& round : series.rounds) {
        if (!round.counts() || !round.network) continue;
        measured = measured || round.network->sent || round.network->lost;
        sent += round.network->sent.value_or(0);
        lost += round.network->lost.value_or(0);
    }
    if (!measured) return "-";
    const MetricSummary& gap = summary.metrics.at("networkGapMs");
    return std::to_string(lost) + " of " + std::to_string(sent) + " / " + sign(gap, "median") + figureOr(gap.median);
}

/// Every round that was looked at counts here: a guest's memory must not break on a busy host or in a failed handover either.
std::string patternsText(const Series& series) {
    const auto looked =
        std::ranges::count_if(series.rounds, [](const Round& round) { return round.patterns && round.patterns->intact; });
    const auto broken = std::ranges::count_if(series.rounds, &Round::isBroken);
    const auto all = std::ranges::count_if(series.rounds, [](const Round& round) { return round.upgraded() || round.patterns; });
    if (looked == 0) return "-";
    if (broken > 0) return "WRONG in " + std::to_string(broken);
    return looked == all ? "intact" : "intact in " + std::to_string(looked) + " of " + std::to_string(all);
}

std::string tableOf(const Configuration& configuration, const ConfigurationSummary& summary) {
    std::vector<Column> columns{{"design", {}},         {"rounds", {}}, {"STOP to RESUME", {}}, {"p99", {}},
                                {"guest pause", {}},    {"p99", {}},    {"work lost", {}},      {"brown-out", {}},
                                {"net lost / gap", {}}, {"sent", {}},   {"RAM copied", {}},     {"extra memory", {}},
                                {"patterns", {}}};
    for (std::size_t i = 0; i < configuration.series.size(); ++i) {
        const Series& series = configuration.series[i];
        if (series.rounds.empty()) continue;
        const SeriesSummary& figures = summary.series[i];
        const auto& metric = figures.metrics;
        const std::array row{
            std::string(name(series.design)),
            std::to_string(figures.rounds) + "/" + std::to_string(figures.failed) + "/" + std::to_string(figures.disturbed),
            intervalText(metric.at("stopToResumeMs")),
            figureOr(metric.at("stopToResumeMs").p99),
            intervalText(metric.at("guestPauseMs")),
            figureOr(metric.at("guestPauseMs").p99),
            intervalText(metric.at("workLostMs")),
            intervalText(metric.at("brownOutMs")),
            networkText(series, figures),
            sizeOr(metric.at("bytesSent").median),
            sizeOr(metric.at("ramCopiedBytes").median),
            series.inspection ? sizeOr(series.inspection->extraMemoryBytes) : "-",
            patternsText(series)};
        for (std::size_t column = 0; column < row.size(); ++column) columns[column].cells.push_back(row[column]);
    }
    if (columns.front().cells.empty()) return {};
    // What no design was measured by in this configuration would only take the width; of the main figures it is worth seeing.
    std::erase_if(columns, [](const Column& column) {
        return column.isEmpty() && (column.title == "p99" || column.title == "work lost" || column.title == "brown-out" ||
                                    column.title == "net lost / gap");
    });
    return tables(columns);
}

/// Why there are fewer figures than were asked for.
std::string remarksOn(const Configuration& configuration) {
    std::string text;
    for (const Series& series : configuration.series) {
        const std::string design = std::string(name(series.design)) + ": ";
        if (!series.isRun())
            text += design + (series.rounds.empty() ? "not run: " : "not run any more: ") + printable(series.notRun) + "\n";
        else if (series.rounds.empty())
            text += design + "not run yet\n";
        std::map<std::string, std::size_t> causes;
        for (const Round& round : series.rounds)
            if (!round.upgraded()) ++causes[std::string(name(round.outcome)) + ": " + round.cause];
        for (const auto& [cause, count] : causes)
            text += design + std::to_string(count) + " of " + std::to_string(series.rounds.size()) +
                    " failed: " + printable(cause) + "\n";
        if (countRounds(series).tooDisturbed())
            text += design + "more than a fifth of its rounds were disturbed: the host was too busy to compare it\n";
    }
    return text;
}

/// Whether rounds were left out for that is worth knowing also when none was.
std::string disturbedText(const Results& results) {
    std::size_t out = 0, all = 0;
    std::string example;
    for (const Configuration& one : results.configurations)
        for (const Series& series : one.series)
            for (const Round& round : series.rounds) {
                ++all;
                if (!round.upgraded() || !round.disturbed) continue;
                ++out;
                if (example.empty()) example = round.disturbedBy;
            }
    return "Left out because of a disturbed host: " + std::to_string(out) + " of " + std::to_string(all) + " handovers" +
           (example.empty() ? "" : ", such as for " + printable(example)) + ".\n";
}

/// Of whichever host and accelerator: what figures are of.
std::string hostText(const HostFacts& host) {
    return "Accelerator: " + (host.accelerator.empty() ? "not known yet" : printable(acceleratorTitle(host.accelerator, host))) +
           ". Host: " + printable(host.cpu) + ", " + std::to_string(host.cpus) + (host.cpus == 1 ? " CPU, " : " CPUs, ") +
           sizeText(static_cast<double>(host.memoryBytes)) +
           (host.virtualized.value_or(false) ? ", itself a virtual machine" : "") + ", Linux " + printable(host.kernel) + ".\n";
}

std::string sittingsText(const std::vector<Sitting>& sittings) {
    if (sittings.size() < 2) return {};
    std::string text;
    for (const Sitting& sitting : sittings)
        append(text,
               printable(sitting.startedAt) + (sitting.finishedAt ? " to " + printable(*sitting.finishedAt) : " (cut short)") +
                   (sitting.evenIfBusy ? " (--even-if-busy)" : ""),
               "; ");
    return "Measured in " + std::to_string(sittings.size()) + " sittings: " + text + ".\n";
}

std::string contrastText(const Ratio& ratio) {
    return std::string(name(ratio.design)) + " / " + std::string(name(ratio.reference));
}

std::string verdictText(const Ratio& ratio, unsigned marginPercent) {
    const std::string text(name(ratio.verdict)), margin = std::to_string(marginPercent) + " %";
    if (ratio.verdict == Verdict::Equivalent) return text + " (within " + margin + ")";
    const double most = 1 + marginPercent / 100.0;
    const bool isSmall = ratio.low90 && ratio.high90 && *ratio.low90 > 1 / most && *ratio.high90 < most;
    return isClaim(ratio.verdict) && isSmall ? text + ", by less than " + margin : text;
}

std::string sentenceOn(const Ratio& ratio, unsigned marginPercent) {
    std::string text = contrastText(ratio) + ": " + titleOf(ratio.metric) + " ";
    if (!ratio.low && !ratio.high) return text + "-: " + std::string(name(ratio.verdict)) + "\n";
    // A small difference that was shown is not to read as 1.00.
    const int decimals = isClaim(ratio.verdict) && ratio.median && std::abs(*ratio.median - 1) < 0.05 ? 3 : 2;
    if (ratio.median) text += fixed(*ratio.median, decimals) + "x ";
    // Of what is equivalent the interval that decides it; of too few rounds their smallest and greatest, which claim nothing.
    const bool isEquivalent = ratio.verdict == Verdict::Equivalent;
    const auto low = isEquivalent ? ratio.low90 : ratio.low, high = isEquivalent ? ratio.high90 : ratio.high;
    text += ratio.minMax ? "(min - max " : isEquivalent ? "(90 % " : "(95 % ";
    text += low && high ? fixed(*low, decimals) + " - " + fixed(*high, decimals)
            : low       ? fixed(*low, decimals) + " or more"
                        : fixed(*high, decimals) + " or less";
    if (ratio.pHolm) text += ", " + chanceText(*ratio.pHolm) + (ratio.primary ? ", primary" : "");
    return text + "): " + verdictText(ratio, marginPercent) + "\n";
}

/// A sentence for each but those of which there is only one thing to say.
std::string ratiosOf(const std::vector<Ratio>& ratios, unsigned marginPercent) {
    std::map<std::string, bool> isTooFew;  // By contrast: of all its metrics.
    for (const Ratio& ratio : ratios) {
        const auto [known, isNew] = isTooFew.emplace(contrastText(ratio), true);
        known->second = known->second && ratio.verdict == Verdict::TooFewRounds;
    }
    std::string text, few;
    for (const Ratio& ratio : ratios) {
        const auto known = isTooFew.find(contrastText(ratio));
        if (known == isTooFew.end()) continue;
        if (!known->second) {
            text += sentenceOn(ratio, marginPercent);
            continue;
        }
        append(few, known->first);
        isTooFew.erase(known);
    }
    if (!few.empty())
        text += "too few rounds to say (fewer than " + std::to_string(valuesForInterval) + " in common): " + few + "\n";
    return text;
}

std::string indented(const std::string& text) {
    std::string result;
    for (std::size_t from = 0; from < text.size();) {
        const std::size_t end = std::min(text.find('\n', from), text.size() - 1) + 1;
        if (text[from] != '\n') result += "  ";
        result += text.substr(from, end - from);
        from = end;
    }
    return result;
}

/// A sentence in lines of two columns' indent.
std::string wrapped(const std::string& sentence) {
    std::istringstream words(sentence);
    std::string text, line = " ", word;
    while (words >> word) {
        if (line.size() + 1 + word.size() > tableColumns + 2) {
            text += line + "\n";
            line = " ";
        }
        line += " " + word;
    }
    return text + line + "\n";
}

/// What becomes of claims when a cell is left out.
std::string restsOnText(const std::vector<Ratio>& ratios) {
    std::size_t claims = 0;
    std::string resting;
    for (const Ratio& ratio : ratios) {
        if (!ratio.restsOn) continue;
        ++claims;
        if (!ratio.restsOn->empty())
            append(resting, contrastText(ratio) + " by " + titleOf(ratio.metric) + " (in " +
                                std::to_string(ratio.cells - ratio.restsOn->size()) + " of " + std::to_string(ratio.cells) + ")");
    }
    if (claims == 0) return {};
    return "\n" + wrapped("Smaller and larger stand when any one cell is left out" +
                          (resting.empty() ? "." : ", but for: " + resting + "."));
}

std::string csvField(const json& value) {
    if (value.is_null()) return {};
    const std::string text = value.is_string() ? value.get<std::string>() : jsonText(value);
    if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char character : text) quoted += character == '"' ? std::string("\"\"") : std::string(1, character);
    return quoted + "\"";
}

void addLine(std::string& csv, const std::vector<json>& fields) {
    for (std::size_t i = 0; i < fields.size(); ++i) csv += (i == 0 ? "" : ",") + csvField(fields[i]);
    csv += "\r\n";
}

/// Columns that say which round it is, and what became of it.
constexpr std::array firstMembers{"round", "vm",           "order",     "startedAt",  "outcome",
                                  "cause", "stealPercent", "disturbed", "disturbedBy"};

/// Columns of a round that no statistics are made of.
constexpr std::array<std::pair<const char*, const char*>, 22> furtherFigures{{
    {"beatMedianBeforeMs", "/beats/before/medianMs"},
    {"beatMedianAfterMs", "/beats/after/medianMs"},
    {"beatLongestBeforeMs", "/beats/before/longestMs"},
    {"beatLongestAfterMs", "/beats/after/longestMs"},
    {"beatsLost", "/beats/lost"},
    {"beatsRepeated", "/beats/repeated"},
    {"writeRateBeforePagesPerSecond", "/writeRate/beforePagesPerSecond"},
    {"networkSent", "/network/sent"},
    {"majorFaults", "/pageFaults/major"},
    {"patternsIntact", "/patterns/intact"},
    {"pagesChecked", "/patterns/pagesChecked"},
    {"mismatches", "/patterns/mismatches"},
    {"cpuPressureBeforePercent", "/disturbance/before/cpuPressurePercent"},
    {"vmmWaitBeforePercent", "/disturbance/before/vmmWaitPercent"},
    {"managerWaitBeforePercent", "/disturbance/before/managerWaitPercent"},
    {"cpuPressureSincePercent", "/disturbance/since/cpuPressurePercent"},
    {"vmmWaitSincePercent", "/disturbance/since/vmmWaitPercent"},
    {"managerWaitSincePercent", "/disturbance/since/managerWaitPercent"},
    {"clockHostGapMs", "/guestClock/hostGapMs"},
    {"clockTscGapMs", "/guestClock/tscGapMs"},
    {"clockKvmGapMs", "/guestClock/clockGapMs"},
    {"clockWentBack", "/guestClock/wentBack"},
}};

json valueAt(const json& round, const std::string& where) {
    const json::json_pointer pointer(where);
    return round.contains(pointer) ? round.at(pointer) : json();
}

}  // namespace

std::string sizeText(double bytes) {
    static constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    // What would be shown as 1024 is one of the next unit.
    while (unit + 1 < units.size() && std::abs(bytes) >= 1023.5) {
        bytes /= 1024;
        ++unit;
    }
    const bool whole = unit == 0 && bytes == std::floor(bytes);
    return (whole ? fixed(bytes, 0) : figureText(bytes)) + " " + units[unit];
}

std::string printable(const std::string& text) {
    std::string line = text;
    std::ranges::replace_if(
        line, [](char character) { return character == '\n' || character == '\t'; }, ' ');
    return forTerminal(line);
}

std::string comparisonText(const Results& results, const Summary& summary) {
    std::string text =
        hostText(results.host) + "Times are in ms: the median and, in brackets, its 95 % interval; of fewer than " +
        std::to_string(valuesForInterval) +
        " rounds the smallest and the greatest.\n"
        "Rounds: in the figures/failed/disturbed. Net: echo requests lost of all / longest gap. -: not measured.\n";
    if (!results.finishedAt) text += "The comparison is not finished: rounds are missing.\n";
    text += sittingsText(results.sittings) + disturbedText(results);
    text += "\nIn short\n";
    for (const std::string& sentence : answerOf(results, summary)) text += "\n" + wrapped(sentence);
    const unsigned margin = results.settings.equivalenceMarginPercent.value_or(usualMarginPercent);
    std::vector<std::pair<std::string, std::vector<Ratio>>> pooled;
    for (const Ratio& ratio : summary.pooled) {
        if (ratio.cells < 2) continue;
        auto of = std::ranges::find(pooled, ratio.accelerator, &decltype(pooled)::value_type::first);
        if (of == pooled.end()) of = pooled.insert(pooled.end(), {ratio.accelerator, {}});
        of->second.push_back(ratio);
    }
    for (const auto& [accelerator, ratios] : pooled)
        text += "\nAll cells under " + printable(acceleratorTitle(accelerator, results.host)) + " together\n\n" +
                indented(ratiosOf(ratios, margin)) + restsOnText(ratios);
    std::size_t tests = 0;
    for (std::size_t i = 0; i < summary.configurations.size(); ++i) {
        const Configuration& configuration = results.configurations[i];
        const ConfigurationSummary& of = summary.configurations[i];
        text += "\n" + printable(configuration.title) + "\n";
        for (const std::string& part : {tableOf(configuration, of), remarksOn(configuration), ratiosOf(of.ratios, margin)})
            if (!part.empty()) text += "\n" + indented(part);
        tests +=
            static_cast<std::size_t>(std::ranges::count_if(of.ratios, [](const Ratio& one) { return one.pHolm.has_value(); }));
    }
    if (tests > 0)
        text +=
            "\nSmaller and larger are said where the sign test of paired rounds has p < 0.05, corrected by Holm's method for "
            "all " +
            std::to_string(tests) +
            " comparisons\nof cells (all cells together: for the primary ones, and for all others); equivalent, where the 90 % "
            "interval is\nwithin " +
            std::to_string(margin) + " %." +
            (results.settings.primaryMetrics.empty() ? " Which are primary was named after this was measured.\n" : "\n");
    if (!results.notes.empty()) text += "\nNotes\n";
    for (const std::string& note : results.notes) text += "  " + printable(note) + "\n";
    return text;
}

std::string comparisonCsv(const Results& results) {
    std::vector<json> header{"cell",     "title",        "oldBinary",     "oldVersion",      "newBinary",   "newVersion",
                             "ramBytes", "touchedBytes", "pageSizeBytes", "transparentHuge", "hotSetBytes", "vcpus",
                             "devices",  "load",         "vms",           "accelerator",     "guest",       "design"};
    for (const char* member : firstMembers) header.emplace_back(member);
    for (const Metric& metric : metrics) header.emplace_back(metric.name);
    for (const auto& [name, pointer] : furtherFigures) header.emplace_back(name);
    std::string csv;
    addLine(csv, header);
    for (const Configuration& one : results.configurations) {
        const MeasuredVmm &old = results.vmms[one.old], &newVmm = results.vmms[one.new_];
        const std::string devices = one.devices == DeviceSet{} ? "" : name(one.devices);
        for (const Series& series : one.series)
            for (const Round& round : series.rounds) {
                const json figures = toJson(round);  // As the file has them.
                std::vector<json> line{one.id,
                                       one.title,
                                       old.binary,
                                       old.version,
                                       newVmm.binary,
                                       newVmm.version,
                                       one.ramBytes,
                                       one.touchedBytes,
                                       one.pageSizeBytes,
                                       one.transparentHuge,
                                       one.hotSetBytes ? json(*one.hotSetBytes) : json(),
                                       one.vcpus,
                                       devices,
                                       name(one.load),
                                       one.vms,
                                       one.accelerator ? name(*one.accelerator) : "",
                                       one.guest ? name(*one.guest) : "",
                                       name(series.design)};
                for (const char* member : firstMembers) line.push_back(figures.value(member, json()));
                for (const Metric& metric : metrics) line.push_back(valueAt(figures, std::string(metric.pointer)));
                for (const auto& [title, pointer] : furtherFigures) line.push_back(valueAt(figures, pointer));
                addLine(csv, line);
            }
    }
    return csv;
}

}  // namespace vh
