#include "vmm-shim/tool/survey.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "vmm-shim/json_text.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;

/// As short as can be: what is not known, or not so, is left out.
json toJson(const SurveyedBlock& block) {
    json value{{"idstr", block.idstr},
               {"used_length", block.used_length},
               {"max_length", block.max_length},
               {"page_size", block.page_size}};
    if (block.align) value["align"] = *block.align;
    if (block.shared) value["shared"] = *block.shared;
    if (block.read_only) value["read_only"] = *block.read_only;
    if (block.resizable) value["resizable"] = true;
    if (block.isExplicit) value["explicit"] = true;
    if (!block.romFile.empty()) value["romFile"] = block.romFile;
    return value;
}

SurveyedBlock blockFrom(const json& value) {
    SurveyedBlock block;
    value.at("idstr").get_to(block.idstr);
    value.at("used_length").get_to(block.used_length);
    value.at("max_length").get_to(block.max_length);
    value.at("page_size").get_to(block.page_size);
    block.align = value.value("align", json()).get<std::optional<std::uint64_t>>();
    block.shared = value.value("shared", json()).get<std::optional<bool>>();
    block.read_only = value.value("read_only", json()).get<std::optional<bool>>();
    block.resizable = value.value("resizable", false);
    block.isExplicit = value.value("explicit", false);
    block.romFile = value.value("romFile", "");
    return block;
}

using Names = std::set<std::string>;
/// By machine, the QEMUs.
using Places = std::map<std::string, Names>;

json toJson(const Places& places) {
    std::map<Names, Names> machinesOf;
    for (const auto& [machine, qemus] : places) machinesOf[qemus].insert(machine);
    json value = json::array();
    for (const auto& [qemus, machines] : machinesOf) value.push_back({{"machines", machines}, {"qemus", qemus}});
    return value;
}

struct Key {
    std::string machine, device, idstr;
    auto operator<=>(const Key&) const = default;
};

/// A block by QEMU; none where it was started and made none.
using Seen = std::map<std::string, const SurveyedBlock*>;

std::map<Key, Seen> blocksByPlace(const Survey& survey) {
    std::map<std::pair<std::string, std::string>, Names> started, blocks;
    for (const SurveyedStart& start : survey.starts) {
        if (!start.failure.empty()) continue;
        started[{start.machine, start.device}].insert(start.qemu);
        for (const SurveyedBlock& block : start.blocks) blocks[{start.machine, start.device}].insert(block.idstr);
    }
    std::map<Key, Seen> found;
    for (const auto& [place, names] : blocks)
        for (const std::string& idstr : names)
            for (const std::string& qemu : started[place]) found[{place.first, place.second, idstr}][qemu] = nullptr;
    for (const SurveyedStart& start : survey.starts)
        for (const SurveyedBlock& block : start.blocks) found[{start.machine, start.device, block.idstr}][start.qemu] = &block;
    return found;
}

std::string yesOrNo(bool value) {
    return value ? "yes" : "no";
}

struct Field {
    const char* name;
    std::optional<std::string> (*text)(const SurveyedBlock*);  ///< None when it is not known.
};

template <auto member>
std::optional<std::string> textOf(const SurveyedBlock* block) {
    if (!block) return std::nullopt;
    const auto& value = block->*member;
    using Value = std::decay_t<decltype(value)>;
    if constexpr (std::is_same_v<Value, bool>)
        return yesOrNo(value);
    else if constexpr (std::is_same_v<Value, std::optional<bool>>)
        return value ? std::optional(yesOrNo(*value)) : std::nullopt;
    else if constexpr (std::is_same_v<Value, std::optional<std::uint64_t>>)
        return value ? std::optional(std::to_string(*value)) : std::nullopt;
    else
        return std::to_string(value);
}

const Field fields[] = {
    {"block", [](const SurveyedBlock* block) { return std::optional<std::string>(block ? "made" : "absent"); }},
    {"used_length", textOf<&SurveyedBlock::used_length>},
    {"max_length", textOf<&SurveyedBlock::max_length>},
    {"page_size", textOf<&SurveyedBlock::page_size>},
    {"align", textOf<&SurveyedBlock::align>},
    {"shared", textOf<&SurveyedBlock::shared>},
    {"read_only", textOf<&SurveyedBlock::read_only>},
    {"resizable", textOf<&SurveyedBlock::resizable>},
    {"explicit", textOf<&SurveyedBlock::isExplicit>},
};

bool isAlike(const std::map<std::string, std::string>& values) {
    return std::ranges::all_of(values, [&](const auto& value) { return value.second == values.begin()->second; });
}

/// The ROM files that a block is made of, when they are not the same, or not as long, for all of those that have the block.
std::string differingRomFile(const Survey& survey, const Seen& seen) {
    std::set<std::string> files;
    std::set<std::uint64_t> sizes;
    for (const auto& [qemu, block] : seen) {
        if (!block || block->romFile.empty()) continue;
        files.insert(block->romFile);
        const auto of = std::ranges::find(survey.qemus, qemu, &SurveyedQemu::name);
        if (of == survey.qemus.end()) continue;
        if (const auto size = of->romFiles.find(block->romFile); size != of->romFiles.end()) sizes.insert(size->second);
    }
    return files.size() > 1 || sizes.size() > 1 ? joined(files) : std::string();
}

}  // namespace

std::vector<SurveyDifference> differences(const Survey& survey) {
    std::map<std::tuple<std::string, std::string, std::size_t, std::map<std::string, std::string>, std::string>, Names> found;
    for (const auto& [key, seen] : blocksByPlace(survey)) {
        const std::string romFile = differingRomFile(survey, seen);
        for (std::size_t field = 0; field < std::size(fields); ++field) {
            std::map<std::string, std::string> values;
            for (const auto& [qemu, block] : seen)
                if (const auto text = fields[field].text(block)) values[qemu] = *text;
            if (!isAlike(values)) found[{key.device, key.idstr, field, values, field == 0 ? "" : romFile}].insert(key.machine);
        }
    }
    std::vector<SurveyDifference> list;
    for (const auto& [difference, machines] : found) {
        const auto& [device, idstr, field, values, romFile] = difference;
        list.push_back({device, idstr, fields[field].name, {machines.begin(), machines.end()}, values, romFile});
    }
    return list;
}

json toJson(const Survey& survey) {
    json value{{"format", 1}, {"qemus", json::array()}, {"starts", json::array()}, {"differences", json::array()}};
    for (const SurveyedQemu& qemu : survey.qemus)
        value["qemus"].push_back({{"name", qemu.name},
                                  {"version", qemu.version},
                                  {"package", qemu.package},
                                  {"tellsPlaces", qemu.tellsPlaces},
                                  {"romFiles", qemu.romFiles}});
    using Outcome = std::pair<std::string, std::vector<SurveyedBlock>>;
    std::map<std::pair<std::string, Outcome>, Places> placesOf;
    for (const SurveyedStart& start : survey.starts)
        placesOf[{start.device, {start.failure, start.blocks}}][start.machine].insert(start.qemu);
    std::map<std::pair<Outcome, Places>, Names> devicesOf;
    for (const auto& [what, places] : placesOf) devicesOf[{what.second, places}].insert(what.first);
    for (const auto& [what, devices] : devicesOf) {
        const auto& [outcome, places] = what;
        json start{{"devices", devices}, {"on", toJson(places)}};
        if (!outcome.first.empty()) start["failure"] = outcome.first;
        if (!outcome.second.empty()) start["blocks"] = json::array();
        for (const SurveyedBlock& block : outcome.second) start["blocks"].push_back(toJson(block));
        value["starts"].push_back(start);
    }
    for (const SurveyDifference& difference : differences(survey))
        value["differences"].push_back({{"device", difference.device},
                                        {"idstr", difference.idstr},
                                        {"field", difference.field},
                                        {"machines", difference.machines},
                                        {"values", difference.values},
                                        {"romFile", difference.romFile}});
    return value;
}

Survey surveyFrom(const json& value) {
    if (value.at("format") != 1) throw std::runtime_error("it is a survey of another format than 1");
    Survey survey;
    for (const json& one : value.at("qemus"))
        survey.qemus.push_back({one.at("name"), one.at("version"), one.at("package"), one.at("tellsPlaces"), one.at("romFiles")});
    for (const json& start : value.at("starts")) {
        SurveyedStart outcome;
        outcome.failure = start.value("failure", "");
        for (const json& block : start.value("blocks", json::array())) outcome.blocks.push_back(blockFrom(block));
        for (const json& device : start.at("devices"))
            for (const json& place : start.at("on"))
                for (const json& machine : place.at("machines"))
                    for (const json& qemu : place.at("qemus")) {
                        survey.starts.push_back(outcome);
                        survey.starts.back().device = device;
                        survey.starts.back().machine = machine;
                        survey.starts.back().qemu = qemu;
                    }
    }
    return survey;
}

}  // namespace vh
