#include "manager/compare/results_file.h"

#include <algorithm>
#include <array>
#include <set>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "manager/compare/answer.h"
#include "vmm-shim/file.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;

// The format: the members of each object, read and written by one list. The file has them by the names that they have here, but
// for those that keyOf() knows.

template <typename Class>
struct Members {};

#define VH_MEMBER(member) visit(#member, object.member);
#define VH_MEMBERS(Class, ...)                                                                                                  \
    template <>                                                                                                                 \
    struct Members<Class> {                                                                                                     \
        static void each(auto& object, const auto& visit) { NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(VH_MEMBER, __VA_ARGS__)) } \
    };

VH_MEMBERS(PhaseTimes, prepare, launch, exchange, verify, pause, confirm, retire)
VH_MEMBERS(BeatIntervals, medianMs, p99Ms, longestMs)
VH_MEMBERS(Beats, before, during, after, lost, repeated)
VH_MEMBERS(BrownOut, beforePagesPerSecond, brownOutMs, workLostMs, binMs, firstBinMs, curvePercent)
VH_MEMBERS(EchoRequests, sent, lost, longestGapMs, notBack, silentBefore)
VH_MEMBERS(PageFaults, minor, major)
VH_MEMBERS(Patterns, intact, pagesChecked, mismatches)
VH_MEMBERS(GuestClock, hostGapMs, tscGapMs, clockGapMs, wentBack)
VH_MEMBERS(CpuWait, cpuPressurePercent, vmmWaitPercent, managerWaitPercent)
VH_MEMBERS(Disturbance, before, since)
VH_MEMBERS(CpuUse, manager, old, new_)
VH_MEMBERS(Round, round, vm, order, startedAt, outcome, cause, stealPercent, disturbed, disturbedBy, disturbance, phasesMs,
           totalMs, preparationMs, noWayBackMs, stopToResumeMs, qemuDowntimeMs, guestPauseMs, cpuMs, beats, writeRate, network,
           bytesSent, ramCopiedBytes, pageFaults, patterns, guestClock)
VH_MEMBERS(FoundDescriptor, name, createdBy, passedBy)
VH_MEMBERS(Inspection, memoryOldBytes, memoryBothBytes, memoryPeakBytes, memorySamples, extraMemoryBytes, descriptors, ioctls,
           memfds, untraced)
VH_MEMBERS(Series, design, notRun, rounds, inspection)
VH_MEMBERS(Configuration, id, title, old, new_, ramBytes, touchedBytes, pageSizeBytes, transparentHuge, hotSetBytes, vcpus,
           devices, load, vms, accelerator, guest, series)
VH_MEMBERS(MeasuredVmm, binary, version, buildId)
VH_MEMBERS(MeasurementSettings, plan, definition, bootWaitMs, rounds, baselineRounds, warmUpRounds, beforeMs, afterMs,
           stealLimitPercent, cpuPressureLimitPercent, runQueueLimitPercent, beatLimitMs, equivalenceMarginPercent,
           primaryMetrics)
VH_MEMBERS(HostFacts, cpu, cpus, memoryBytes, kernel, os, pageSizeBytes, accelerator, virtualized, loadAverage1, stealPercent,
           runQueue, machineId)
VH_MEMBERS(Sitting, startedAt, finishedAt, command, evenIfBusy, commit)
VH_MEMBERS(Results, version, command, startedAt, finishedAt, sittings, seed, settings, host, vmms, configurations,
           scratchDirectory, notes)
VH_MEMBERS(MetricSummary, count, median, low, high, minMax, min, max, p99, longer, atLeast)
VH_MEMBERS(SeriesSummary, design, rounds, failed, disturbed, tooDisturbed, metrics)
VH_MEMBERS(Ratio, metric, design, reference, accelerator, cells, primary, count, rounds, median, low, high, minMax, low90, high90,
           greater, smaller, tied, p, pHolm, tests, verdict, restsOn)
VH_MEMBERS(ConfigurationSummary, id, series, ratios)
VH_MEMBERS(Summary, configurations, pooled)

constexpr const char* keyOf(std::string_view member) {
    return member == "new_"               ? "new"
           : member == "configurations"   ? "cells"
           : member == "scratchDirectory" ? "workplace"
                                          : member.data();
}

/// Members that earlier files do not have. They are written when they say something.
template <typename Class>
constexpr bool isLater(std::string_view member) {
    constexpr std::array later{"workLostMs",
                               "notBack",
                               "silentBefore",
                               "disturbedBy",
                               "disturbance",
                               "cpuPressureLimitPercent",
                               "runQueueLimitPercent",
                               "beatLimitMs",
                               "equivalenceMarginPercent",
                               "primaryMetrics",
                               "sittings",
                               "machineId",
                               "commit",
                               "preparationMs",
                               "noWayBackMs",
                               "qemuDowntimeMs",
                               "cpuMs",
                               "memoryPeakBytes",
                               "memorySamples",
                               "guestClock",
                               "transparentHuge",
                               "hotSetBytes",
                               "accelerator",
                               "guest"};
    if (std::is_same_v<Class, HostFacts> && member == "accelerator") return false;  // All files have that.
    return std::ranges::find(later, member) != later.end() || (std::is_same_v<Class, Round> && member == "startedAt");
}

bool saysSomething(const json& value) {
    return !value.empty() && value != false && value != "";
}

/// Whether there are files without that member.
template <typename Class>
constexpr bool mayBeAbsent(std::string_view member) {
    return std::is_same_v<Class, MeasurementSettings> || member == "during" || member == "scratchDirectory" ||
           isLater<Class>(member);
}

template <typename Value>
auto allOf() {
    if constexpr (std::is_same_v<Value, Design>)
        return allDesigns();
    else if constexpr (std::is_same_v<Value, Outcome>)
        return allOutcomes;
    else {
        std::array<Value, namesOf<Value>.size()> all{};
        for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<Value>(i);
        return all;
    }
}

template <typename Value>
concept Optional = requires(Value value) {
    value.has_value();
};
template <typename Value>
concept Map = requires {
    typename Value::mapped_type;
};
template <typename Value>
concept List = requires(Value value) {
    value.push_back(value.front());
}
&&!std::is_same_v<Value, std::string>;

template <typename Value>
json written(const Value& value) {
    if constexpr (Optional<Value>) {
        return value ? written(*value) : json();
    } else if constexpr (List<Value>) {
        json list = json::array();
        for (const auto& entry : value) list.push_back(written(entry));
        return list;
    } else if constexpr (Map<Value>) {
        json object = json::object();
        for (const auto& [key, entry] : value) object[std::string(key)] = written(entry);
        return object;
    } else if constexpr (std::is_enum_v<Value>) {
        return name(value);
    } else if constexpr (std::is_same_v<Value, DeviceSet>) {
        json devices = json::array();
        if (value.disk) devices.push_back("disk");
        if (value.network) devices.push_back("network");
        if (value.many) devices.push_back("many");
        return devices;
    } else if constexpr (std::is_class_v<Value> && !std::is_convertible_v<Value, std::string_view>) {
        json object;
        Members<Value>::each(value, [&](const char* member, const auto& entry) {
            const json one = written(entry);
            if (!isLater<Value>(member) || saysSomething(one)) object[keyOf(member)] = one;
        });
        return object;
    } else {
        return value;
    }
}

std::string inQuotes(std::string_view text) {
    return "'" + std::string(text) + "'";
}

/// A value of the file and the way to it: what refuses it names both.
class Node {
 public:
    explicit Node(const json& value, std::string path = {}, bool orNull = false)
        : value_(value), path_(std::move(path)), orNull_(orNull) {}

    const json& value() const { return value_; }
    bool isAbsent() const { return value_.is_discarded(); }
    /// Null is right here, too: what is expected says so.
    Node orNull() const { return Node(value_, path_, true); }

    Node operator[](const char* key) const {
        require(value_.is_object(), "an object");
        static const json nothing = json::value_t::discarded;
        const auto found = value_.find(key);
        return Node(found == value_.end() ? nothing : *found, path_.empty() ? key : path_ + "." + key);
    }
    std::size_t size() const {
        require(value_.is_array(), "a list");
        return value_.size();
    }
    Node operator[](std::size_t index) const { return Node(value_.at(index), path_ + "[" + std::to_string(index) + "]"); }

    void require(bool is, const std::string& expected) const {
        if (!is) unexpected(orNull_ ? expected + " or null" : expected);
    }
    [[noreturn]] void unexpected(const std::string& expected) const {
        throw std::runtime_error((path_.empty() ? "" : path_ + ": ") + "found " + found() + ", expected " + expected);
    }

 private:
    std::string found() const {
        if (isAbsent()) return "nothing";
        if (value_.is_object()) return "an object";
        if (value_.is_array()) return "a list";
        const std::string text = jsonText(value_);
        constexpr std::size_t shown = 40;
        return text.size() <= shown ? text : value_.is_string() ? "other text" : "a longer number";
    }

    const json& value_;
    std::string path_;
    bool orNull_;
};

/// What no type says of a value.
template <typename Value>
void validate(const Node&, const Value&) {}

void validate(const Node& node, const Series& series) {
    std::set<std::pair<unsigned, unsigned>> seen;
    for (std::size_t i = 0; i < series.rounds.size(); ++i)
        // Pairs are made by these.
        if (!seen.emplace(series.rounds[i].round, series.rounds[i].vm).second)
            node["rounds"][i]["round"].unexpected("no second entry for this round and VM");
}

void validate(const Node& node, const Configuration& configuration) {
    std::set<Design> designs;
    for (std::size_t i = 0; i < configuration.series.size(); ++i)
        if (!designs.insert(configuration.series[i].design).second) node["series"][i]["design"].unexpected("each design once");
}

void validate(const Node& node, const Results& results) {
    std::set<std::string> ids;
    for (std::size_t i = 0; i < results.configurations.size(); ++i) {
        const Configuration& configuration = results.configurations[i];
        if (!ids.insert(configuration.id).second) node["cells"][i]["id"].unexpected("an id that no other cell has");
        for (const auto& [key, index] : {std::pair("old", configuration.old), std::pair("new", configuration.new_)})
            if (index >= results.vmms.size()) node["cells"][i][key].unexpected("the place of one of vmms, from 0");
    }
}

void validate(const Node& node, const Round& round) {
    for (const auto& [key, number] :
         {std::pair("round", round.round), std::pair("vm", round.vm), std::pair("order", round.order)})
        if (number == 0) node[key].unexpected("a whole number from 1");
}

template <typename Value>
Value read(const Node& node);

/// A whole number that `Value` holds.
template <typename Value>
Value readCount(const Node& node) {
    const json& value = node.value();
    const bool isCount = value.is_number_unsigned() || (value.is_number_integer() && value.get<std::int64_t>() >= 0);
    node.require(isCount && std::in_range<Value>(value.get<std::uint64_t>()), "a whole number");
    return value.get<Value>();
}

template <typename Value>
Value readNamed(const Node& node) {
    const std::string text = read<std::string>(node);
    std::string expected;
    for (const Value value : allOf<Value>()) {
        if (name(value) == text) return value;
        append(expected, inQuotes(name(value)));
    }
    node.unexpected("one of " + expected);
}

DeviceSet readDevices(const Node& node) {
    DeviceSet devices;
    for (std::size_t i = 0; i < node.size(); ++i) {
        const std::string device = read<std::string>(node[i]);
        if (device != "disk" && device != "network" && device != "many") node[i].unexpected("one of 'disk', 'network', 'many'");
        (device == "disk" ? devices.disk : device == "network" ? devices.network : devices.many) = true;
    }
    if (devices.many && !devices.disk) node.unexpected("'many' with 'disk'");
    return devices;
}

template <typename Value>
Value readObject(const Node& node) {
    Value object;
    node.require(node.value().is_object(), "an object");
    Members<Value>::each(object, [&](const char* member, auto& target) {
        const Node entry = node[keyOf(member)];
        if (!entry.isAbsent() || !mayBeAbsent<Value>(member)) target = read<std::remove_reference_t<decltype(target)>>(entry);
    });
    validate(node, object);
    return object;
}

template <typename Value>
Value read(const Node& node) {
    const json& value = node.value();
    if constexpr (Optional<Value>) {
        if (value.is_null()) return std::nullopt;
        return read<typename Value::value_type>(node.orNull());
    } else if constexpr (std::is_same_v<Value, std::string>) {
        node.require(value.is_string(), "text");
        return value.get<std::string>();
    } else if constexpr (std::is_same_v<Value, bool>) {
        node.require(value.is_boolean(), "true or false");
        return value.get<bool>();
    } else if constexpr (std::is_floating_point_v<Value>) {
        node.require(value.is_number(), "a number");
        return value.get<Value>();
    } else if constexpr (std::is_integral_v<Value>) {
        return readCount<Value>(node);
    } else if constexpr (std::is_enum_v<Value>) {
        return readNamed<Value>(node);
    } else if constexpr (std::is_same_v<Value, DeviceSet>) {
        return readDevices(node);
    } else if constexpr (Map<Value>) {
        Value entries;
        node.require(value.is_object(), "an object");
        for (const auto& [key, entry] : value.items()) entries[key] = read<typename Value::mapped_type>(node[key.c_str()]);
        return entries;
    } else if constexpr (List<Value>) {
        Value list;
        for (std::size_t i = 0; i < node.size(); ++i) list.push_back(read<typename Value::value_type>(node[i]));
        return list;
    } else {
        return readObject<Value>(node);
    }
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

json toJson(const Results& results, const Summary* summary) {
    json file = written(results);
    file["format"] = resultsFormat;
    file["summary"] = summary ? toJson(*summary) : json();
    if (summary) file["summary"]["answer"] = answerOf(results, *summary);
    return file;
}

json toJson(const Round& round) {
    return written(round);
}

json toJson(const Summary& summary) {
    const auto unlessFalse = [](json& object, const char* member) {
        if (!saysSomething(object.at(member))) object.erase(member);
    };
    json all = written(summary);
    const auto unlessTested = [](json& ratio) {
        if (ratio.at("pHolm").is_null()) ratio.erase("tests");
        if (ratio.at("restsOn").is_null()) ratio.erase("restsOn");
    };
    for (json& ratio : all.at("pooled")) {
        for (const char* member : {"minMax", "primary"}) unlessFalse(ratio, member);
        unlessTested(ratio);
    }
    for (json& cell : all.at("cells")) {
        for (json& ratio : cell.at("ratios")) {
            for (const char* member : {"accelerator", "cells", "primary"}) ratio.erase(member);
            unlessFalse(ratio, "minMax");
            unlessTested(ratio);
        }
        for (json& series : cell.at("series")) {
            unlessFalse(series, "tooDisturbed");
            for (json& metric : series.at("metrics")) {
                unlessFalse(metric, "minMax");
                if (metric.at("longer") != 0) continue;
                metric.erase("longer");
                metric.erase("atLeast");
            }
        }
    }
    return all;
}

Results resultsOf(const json& file) {
    const Node root(file);
    if (read<std::string>(root["format"]) != resultsFormat) root["format"].unexpected(inQuotes(resultsFormat));
    return read<Results>(root);
}

Results parseResults(std::string_view text, const std::string& file) {
    try {
        return resultsOf(json::parse(text));
    } catch (const json::exception& error) {
        throw std::runtime_error(inQuotes(file) + ": this is no JSON: " + withoutPrefix(error.what()));
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(inQuotes(file) + ": " + error.what());
    }
}

Results readResults(const std::string& path) {
    return parseResults(textOf(path), path);
}

void writeResults(const std::string& path, const Results& results, const Summary* summary) {
    replaceFile(path, jsonText(toJson(results, summary), 1) + "\n", 0666);
}

}  // namespace vh
