#include "manager/compare/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "manager/compare/metrics.h"
#include "manager/compare/summary.h"
#include "manager/record/report.h"
#include "manager/service/terminal.h"
#include "vmm-shim/terminal_text.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr std::size_t tableColumns = 118;  ///< They are indented by two.

std::string formatted(const char* format, int decimals, double value) {
    char text[400];  // The greatest double has 309 digits.
    std::snprintf(text, sizeof(text), format, decimals, value);
    return text;
}

int decimalsOf(double value) {
    const double size = std::abs(value);
    return size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
}

/// `12.3 [11.9 - 14.0]`: an interval with as many decimals as its median has.
std::string intervalText(const json& metric) {
    if (!metric.at("median").is_number()) return "-";
    const double median = metric["median"];
    const int decimals = decimalsOf(median);
    return formatted("%.*f", decimals, median) + " [" + formatted("%.*f", decimals, metric.at("low").get<double>()) + " - " +
           formatted("%.*f", decimals, metric.at("high").get<double>()) + "]";
}

std::string figureOr(const json& value) {
    return value.is_number() ? figureText(value) : "-";
}

std::string sizeOr(const json& value) {
    return value.is_number() ? sizeText(value) : "-";
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
        Table table(row([](const Column& column) { return column.title; }));
        for (std::size_t i = 0; i < columns.front().cells.size(); ++i)
            table.add(row([i](const Column& column) { return column.cells[i]; }));
        text += (text.empty() ? "" : "\n") + table.text();
    }
    return text;
}

/// Of all answers that were missing in the rounds that count, and the median of each round's longest gap.
std::string networkText(const json& series, const json& summary) {
    double sent = 0, lost = 0;
    bool measured = false;
    for (const auto& [pointer, sum] : {std::pair{"/network/sent", &sent}, {"/network/lost", &lost}})
        for (const double value : valuesOf(series, {"", pointer, "", ""})) {
            *sum += value;
            measured = true;
        }
    if (!measured) return "-";
    return formatted("%.*f", 0, lost) + " of " + formatted("%.*f", 0, sent) + " / " +
           figureOr(summary.at("metrics").at("networkGapMs").at("median"));
}

/// Every round that was looked at counts here: a guest's memory must not break on a busy host or in a failed handover either.
std::string patternsText(const json& series) {
    std::size_t looked = 0, broken = 0;
    for (const json& round : series.at("rounds")) {
        if (!round.at("patterns").is_object() || !round["patterns"].at("intact").is_boolean()) continue;
        ++looked;
        if (!round["patterns"]["intact"].get<bool>()) ++broken;
    }
    return looked == 0 ? "-" : broken == 0 ? "intact" : "WRONG in " + std::to_string(broken);
}

std::string tableOf(const json& cell, const json& summary) {
    std::vector<Column> columns{{"design", {}},      {"rounds", {}},     {"STOP to RESUME", {}}, {"p99", {}},
                                {"guest pause", {}}, {"p99", {}},        {"brown-out", {}},      {"net lost / gap", {}},
                                {"sent", {}},        {"RAM copied", {}}, {"extra memory", {}},   {"patterns", {}}};
    for (std::size_t i = 0; i < cell.at("series").size(); ++i) {
        const json &series = cell["series"][i], &figures = summary.at("series").at(i), &metric = figures.at("metrics");
        if (series.at("rounds").empty()) continue;
        const json& inspection = series.at("inspection");
        const std::array row{
            series.at("design").get<std::string>(),
            figures.at("rounds").dump() + "/" + figures.at("failed").dump() + "/" + figures.at("disturbed").dump(),
            intervalText(metric.at("stopToResumeMs")),
            figureOr(metric["stopToResumeMs"].at("p99")),
            intervalText(metric.at("guestPauseMs")),
            figureOr(metric["guestPauseMs"].at("p99")),
            intervalText(metric.at("brownOutMs")),
            networkText(series, figures),
            sizeOr(metric.at("bytesSent").at("median")),
            sizeOr(metric.at("ramCopiedBytes").at("median")),
            inspection.is_object() ? sizeOr(inspection.at("extraMemoryBytes")) : "-",
            patternsText(series)};
        for (std::size_t column = 0; column < row.size(); ++column) columns[column].cells.push_back(row[column]);
    }
    if (columns.front().cells.empty()) return {};
    // What no design was measured by in this cell would only take the width; of the main figures it is worth seeing.
    std::erase_if(columns, [](const Column& column) {
        return column.isEmpty() && (column.title == "p99" || column.title == "brown-out" || column.title == "net lost / gap");
    });
    return tables(columns);
}

/// Why there are fewer figures than were asked for.
std::string remarksOn(const json& cell, const json& summary) {
    std::string text;
    for (std::size_t i = 0; i < cell.at("series").size(); ++i) {
        const json& series = cell["series"][i];
        const std::string design = printable(series.at("design"));
        if (const std::string why = printable(series.at("notRun")); !why.empty())
            text += design + ": " + (series.at("rounds").empty() ? "not run: " : "not run any more: ") + why + "\n";
        else if (series.at("rounds").empty())
            text += design + ": not run yet\n";
        std::map<std::string, std::size_t> causes;
        for (const json& round : series.at("rounds"))
            if (round.at("outcome") != "upgraded")
                ++causes[round["outcome"].get<std::string>() + ": " + round.at("cause").get<std::string>()];
        for (const auto& [cause, count] : causes)
            text += design + ": " + std::to_string(count) + " of " + std::to_string(series["rounds"].size()) +
                    " failed: " + printable(cause) + "\n";
        if (summary.at("series").at(i).value("tooDisturbed", false))
            text += design + ": more than a fifth of its rounds were disturbed: the host was too busy to compare it\n";
    }
    return text;
}

std::string sentenceOn(const json& ratio) {
    std::string text = ratio.at("design").get<std::string>() + " / " + ratio.at("reference").get<std::string>() + ": " +
                       titleOf(ratio.at("metric")) + " ";
    if (ratio.at("median").is_number()) {
        const std::string verdict = ratio.at("verdict");
        // A small difference that was shown is not to read as 1.00.
        const bool close = (verdict == "smaller" || verdict == "larger") && std::abs(ratio["median"].get<double>() - 1) < 0.05;
        const auto figure = [&](const char* name) { return formatted("%.*f", close ? 3 : 2, ratio.at(name).get<double>()); };
        text += figure("median") + "x ";
        // Of fewer rounds it is their smallest and greatest ratio, which claims nothing.
        text += (verdict == "too few rounds to say" ? "(" : "(95 % ") + figure("low") + " - " + figure("high") + ")";
    } else {
        text += "-";
    }
    return text + ": " + ratio.at("verdict").get<std::string>() + "\n";
}

std::string ratiosOf(const json& summary) {
    const json& ratios = summary.at("ratios");
    const auto isAgainstRelayed = [](const json& ratio) { return ratio.at("reference") == "relayed"; };
    const bool relayed = std::ranges::any_of(ratios, isAgainstRelayed);
    std::string text;
    for (const json& ratio : ratios)
        if (!relayed || isAgainstRelayed(ratio)) text += sentenceOn(ratio);
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

/// Columns of a round that no statistics are made of.
constexpr std::array<std::pair<const char*, const char*>, 12> furtherFigures{{
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
}};

json valueAt(const json& round, const std::string& where) {
    const json::json_pointer pointer(where);
    return round.contains(pointer) ? round.at(pointer) : json();
}

}  // namespace

std::string figureText(double value) {
    return formatted("%.*f", decimalsOf(value), value);
}

std::string sizeText(double bytes) {
    static constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    // What would be shown as 1024 is one of the next unit.
    while (unit + 1 < units.size() && std::abs(bytes) >= 1023.5) {
        bytes /= 1024;
        ++unit;
    }
    const bool whole = unit == 0 && bytes == std::floor(bytes);
    return (whole ? formatted("%.*f", 0, bytes) : figureText(bytes)) + " " + units[unit];
}

std::string printable(const std::string& text) {
    std::string line = text;
    std::ranges::replace_if(
        line, [](char character) { return character == '\n' || character == '\t'; }, ' ');
    return forTerminal(line);
}

std::string titleOf(const std::string& metric) {
    const auto known = std::ranges::find(metrics, metric, &Metric::name);
    return known == metrics.end() ? metric : std::string(known->title);
}

std::string comparisonText(const json& results) {
    const json summary = summarize(results);
    std::string text =
        "Times are in ms: the median and, in brackets, its 95 % interval; of fewer than 6 rounds the smallest and the greatest.\n"
        "Rounds: in the figures/failed/disturbed. Net: echo requests lost of all / longest gap. -: not measured.\n";
    if (results.at("finishedAt").is_null()) text += "The comparison is not finished: rounds are missing.\n";
    for (std::size_t i = 0; i < results.at("cells").size(); ++i) {
        const json &cell = results["cells"][i], &ofCell = summary.at("cells").at(i);
        text += "\n" + printable(cell.at("title")) + "\n";
        for (const std::string& part : {tableOf(cell, ofCell), remarksOn(cell, ofCell), ratiosOf(ofCell)})
            if (!part.empty()) text += "\n" + indented(part);
    }
    const bool sayHowOften = std::ranges::any_of(summary.at("cells"), [](const json& cell) {
        return std::ranges::any_of(cell.at("ratios"),
                                   [](const json& r) { return r["verdict"] == "smaller" || r["verdict"] == "larger"; });
    });
    if (sayHowOften)
        text +=
            "\nEach verdict stands for itself: of 20 comparisons of what does not differ, one shows a difference by chance.\n";
    if (!results.at("notes").empty()) text += "\nNotes\n";
    for (const json& note : results["notes"]) text += "  " + printable(note) + "\n";
    return text;
}

std::string comparisonCsv(const json& results) {
    std::vector<json> header{"cell",     "title",        "oldBinary",     "oldVersion", "newBinary", "newVersion",
                             "ramBytes", "touchedBytes", "pageSizeBytes", "vcpus",      "devices",   "load",
                             "vms",      "design",       "round",         "vm",         "order",     "outcome",
                             "cause",    "stealPercent", "disturbed"};
    for (const Metric& metric : metrics) header.emplace_back(metric.name);
    for (const auto& [name, pointer] : furtherFigures) header.emplace_back(name);
    std::string csv;
    addLine(csv, header);
    for (const json& cell : results.at("cells")) {
        const json &old = results.at("vmms").at(cell.at("old").get<std::size_t>()),
                   &fresh = results["vmms"].at(cell.at("new").get<std::size_t>());
        std::string devices;
        for (const json& device : cell.at("devices")) devices += (devices.empty() ? "" : "+") + device.get<std::string>();
        for (const json& series : cell.at("series"))
            for (const json& round : series.at("rounds")) {
                std::vector<json> line{cell.at("id"),     cell.at("title"),   old.at("binary"),
                                       old.at("version"), fresh.at("binary"), fresh.at("version")};
                for (const char* factor : {"ramBytes", "touchedBytes", "pageSizeBytes", "vcpus"}) line.push_back(cell.at(factor));
                line.insert(line.end(), {devices, cell.at("load"), cell.at("vms"), series.at("design")});
                for (const char* name : {"round", "vm", "order", "outcome", "cause", "stealPercent", "disturbed"})
                    line.push_back(round.at(name));
                for (const Metric& metric : metrics) line.push_back(valueAt(round, std::string(metric.pointer)));
                for (const auto& [name, pointer] : furtherFigures) line.push_back(valueAt(round, pointer));
                addLine(csv, line);
            }
    }
    return csv;
}

}  // namespace vh
