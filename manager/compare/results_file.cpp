#include "manager/compare/results_file.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "manager/compare/summary.h"
#include "manager/record/report.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

using nlohmann::json;

std::string inQuotes(std::string_view text) {
    return "'" + std::string(text) + "'";
}

/// A value of the file and the way to it. Each check throws with both.
class Node {
 public:
    Node(const json& value, std::string path) : value_(&value), path_(std::move(path)) {}

    bool isNull() const { return value_->is_null(); }
    const json& value() const { return *value_; }

    Node operator[](const char* member) const {
        object();
        const auto found = value_->find(member);
        static const json nothing = json::value_t::discarded;
        return {found == value_->end() ? nothing : *found, path_.empty() ? member : path_ + "." + member};
    }
    std::vector<Node> list() const {
        require(value_->is_array(), "a list");
        std::vector<Node> nodes;
        for (std::size_t i = 0; i < value_->size(); ++i) nodes.emplace_back((*value_)[i], path_ + "[" + std::to_string(i) + "]");
        return nodes;
    }

    void object() const { require(value_->is_object(), "an object"); }
    std::string text() const {
        require(value_->is_string(), "text");
        return value_->get<std::string>();
    }
    void textOrNull() const { require(value_->is_string() || isNull(), "text or null"); }
    void boolean() const { require(value_->is_boolean(), "true or false"); }
    void booleanOrNull() const { require(value_->is_boolean() || isNull(), "true, false or null"); }
    void number() const { require(value_->is_number(), "a number"); }
    void numberOrNull() const { require(value_->is_number() || isNull(), "a number or null"); }
    std::int64_t count(std::int64_t least = 0) const {
        require(isCount() && value_->get<std::int64_t>() >= least, least == 0 ? "a whole number" : "a whole number from 1");
        return value_->get<std::int64_t>();
    }
    void wholeNumber() const { require(value_->is_number_integer() || value_->is_number_unsigned(), "a whole number"); }
    void countOrNull() const { require(isCount() || isNull(), "a whole number or null"); }
    void index(const json& list, const char* of) const {
        require(isCount() && value_->get<std::size_t>() < list.size(), std::string("the place of one of ") + of + ", from 0");
    }
    void oneOf(std::initializer_list<std::string_view> known) const {
        const std::string mine = text();
        std::string expected;
        for (const std::string_view name : known) {
            if (name == mine) return;
            expected += (expected.empty() ? "" : ", ") + inQuotes(name);
        }
        unexpected("one of " + expected);
    }
    [[noreturn]] void unexpected(const std::string& expected) const {
        throw std::runtime_error((path_.empty() ? "" : path_ + ": ") + "found " + found() + ", expected " + expected);
    }

 private:
    /// What a signed 64-bit number holds, and not below 0.
    bool isCount() const {
        if (value_->is_number_unsigned()) return value_->get<std::uint64_t>() <= INT64_MAX;
        return value_->is_number_integer() && value_->get<std::int64_t>() >= 0;
    }
    void require(bool is, const std::string& expected) const {
        if (!is) unexpected(expected);
    }
    std::string found() const {
        if (value_->is_discarded()) return "nothing";
        if (value_->is_object()) return "an object";
        if (value_->is_array()) return "a list";
        const std::string text = jsonText(*value_);
        constexpr std::size_t shown = 40;
        return text.size() <= shown ? text : value_->is_string() ? "other text" : "a longer number";
    }

    const json* value_;
    std::string path_;
};

void checkBeats(const Node& beats) {
    if (beats.isNull()) return;
    for (const char* window : {"before", "after"}) {
        const Node intervals = beats[window];
        if (intervals.isNull()) continue;
        for (const char* figure : {"medianMs", "p99Ms", "longestMs"}) intervals[figure].numberOrNull();
    }
    for (const char* figure : {"lost", "repeated"}) beats[figure].countOrNull();
}

void checkWriteRate(const Node& rate) {
    if (rate.isNull()) return;
    for (const char* figure : {"beforePagesPerSecond", "brownOutMs", "binMs", "firstBinMs"}) rate[figure].numberOrNull();
    for (const Node& bin : rate["curvePercent"].list()) bin.numberOrNull();
}

void checkFigures(const Node& round) {
    const Node phases = round["phasesMs"];
    for (const char* phase : {"prepare", "launch", "exchange", "verify", "pause", "confirm", "retire"})
        if (!phases.isNull()) phases[phase].numberOrNull();
    for (const char* figure : {"stealPercent", "totalMs", "stopToResumeMs", "guestPauseMs"}) round[figure].numberOrNull();
    for (const char* figure : {"bytesSent", "ramCopiedBytes"}) round[figure].countOrNull();
    checkBeats(round["beats"]);
    checkWriteRate(round["writeRate"]);
    if (const Node network = round["network"]; !network.isNull()) {
        for (const char* figure : {"sent", "lost"}) network[figure].countOrNull();
        network["longestGapMs"].numberOrNull();
    }
    if (const Node faults = round["pageFaults"]; !faults.isNull())
        for (const char* figure : {"minor", "major"}) faults[figure].countOrNull();
    if (const Node patterns = round["patterns"]; !patterns.isNull()) {
        patterns["intact"].booleanOrNull();
        for (const char* figure : {"pagesChecked", "mismatches"}) patterns[figure].countOrNull();
    }
}

void checkInspection(const Node& inspection) {
    if (inspection.isNull()) return;
    for (const char* figure : {"memoryOldBytes", "memoryBothBytes", "extraMemoryBytes"}) inspection[figure].numberOrNull();
    for (const Node& descriptor : inspection["descriptors"].list())
        for (const char* member : {"name", "createdBy", "passedBy"}) descriptor[member].text();
    if (const Node ioctls = inspection["ioctls"]; !ioctls.isNull()) {
        ioctls.object();
        for (const auto& [name, ignored] : ioctls.value().items()) ioctls[name.c_str()].count();
    }
    inspection["memfds"].countOrNull();
    inspection["untraced"].text();
}

void checkSeries(const Node& series) {
    series["design"].oneOf({"relayed", "manager-owned", "vmm-owned", "vmm-exec", "copy", "save-restore"});
    series["notRun"].text();
    std::set<std::pair<std::int64_t, std::int64_t>> seen;
    for (const Node& round : series["rounds"].list()) {
        // Pairs are made by these.
        if (!seen.emplace(round["round"].count(1), round["vm"].count(1)).second)
            round["round"].unexpected("no second entry for this round and VM");
        round["order"].count(1);
        round["outcome"].oneOf({"upgraded", "rolled back", "refused", "lost", "silent"});
        round["cause"].text();
        round["disturbed"].boolean();
        checkFigures(round);
    }
    checkInspection(series["inspection"]);
}

void checkCell(const Node& cell, const json& vmms) {
    cell["title"].text();
    cell["old"].index(vmms, "vmms");
    cell["new"].index(vmms, "vmms");
    for (const char* factor : {"ramBytes", "touchedBytes", "pageSizeBytes", "vcpus", "vms"}) cell[factor].count();
    for (const Node& device : cell["devices"].list()) device.text();
    cell["load"].oneOf({"idle", "memory", "disk", "network"});
    std::set<std::string> designs;
    for (const Node& series : cell["series"].list()) {
        checkSeries(series);
        if (!designs.insert(series["design"].text()).second) series["design"].unexpected("each design once");
    }
}

void checkHost(const Node& host) {
    for (const char* member : {"cpu", "kernel", "os", "accelerator"}) host[member].text();
    for (const char* member : {"cpus", "memoryBytes", "pageSizeBytes"}) host[member].count();
    host["virtualized"].booleanOrNull();
    for (const char* member : {"loadAverage1", "stealPercent", "runQueue"}) host[member].numberOrNull();
}

void checkResults(const Node& results) {
    if (results["format"].text() != resultsFormat) results["format"].unexpected(inQuotes(resultsFormat));
    for (const char* member : {"version", "startedAt"}) results[member].text();
    // As one text, or by words.
    if (const Node command = results["command"]; command.value().is_array())
        for (const Node& word : command.list()) word.text();
    else
        command.text();
    results["finishedAt"].textOrNull();
    results["seed"].wholeNumber();
    results["settings"].object();
    checkHost(results["host"]);
    for (const Node& vmm : results["vmms"].list())
        for (const char* member : {"binary", "version", "buildId"}) vmm[member].text();
    std::set<std::string> ids;
    for (const Node& cell : results["cells"].list()) {
        if (!ids.insert(cell["id"].text()).second) cell["id"].unexpected("an id that no other cell has");
        checkCell(cell, results["vmms"].value());
    }
    for (const Node& note : results["notes"].list()) note.text();
}

/// nlohmann's messages begin with a name and number of theirs in brackets.
std::string withoutPrefix(const std::string& message) {
    const std::size_t end = message.starts_with('[') ? message.find("] ") : std::string::npos;
    return end == std::string::npos ? message : message.substr(end + 2);
}

std::string textOf(const std::string& path) {
    std::string text = readFile(path, greatestResultsBytes + 1);
    if (text.size() > greatestResultsBytes)
        throw std::runtime_error(inQuotes(path) + ": more than " + std::to_string(greatestResultsBytes >> 20) +
                                 " MiB are no results of a comparison");
    return text;
}

}  // namespace

json parseResults(std::string_view text, const std::string& name) {
    json results;
    try {
        results = json::parse(text);
    } catch (const json::exception& error) {
        throw std::runtime_error(inQuotes(name) + ": this is no JSON: " + withoutPrefix(error.what()));
    }
    try {
        checkResults({results, ""});
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(inQuotes(name) + ": " + error.what());
    }
    results["summary"] = summarize(results);
    return results;
}

json readResults(const std::string& path) {
    return parseResults(textOf(path), path);
}

void writeResults(const std::string& path, const json& results) {
    replaceFile(path, jsonText(results, 1) + "\n", 0666);
}

}  // namespace vh
