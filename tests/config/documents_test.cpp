// The JSON Schema and the README say the same as the parser: the same keys, enums and defaults, in both directions. Whoever else
// lists the designs says the same as their rows.
#include <cstdio>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "config/parse.h"
#include "config/vm_definition.h"
#include "tests/support/golden.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

const std::string schemaFile = inSourceTree("config/vm-definition.schema.json"), readmeFile = inSourceTree("config/README.md");

void collectLeaves(const json& node, const std::string& path, std::map<std::string, json>& leaves) {
    const std::string type = node.at("type");
    if (type == "object") {
        EXPECT_EQ(node.value("additionalProperties", json()), json(false)) << path << " allows unknown keys";
        for (const auto& [key, child] : node.at("properties").items())
            collectLeaves(child, path.empty() ? key : path + "." + key, leaves);
    } else if (type == "array") {
        collectLeaves(node.at("items"), path + "[]", leaves);
    } else {
        leaves[path] = node;
    }
}

/// Every key of the schema by its path, as knownKeys() has them.
std::map<std::string, json> schemaKeys() {
    std::map<std::string, json> leaves;
    collectLeaves(json::parse(fileText(schemaFile)), "", leaves);
    return leaves;
}

/// A definition as JSON, which is YAML: only what is required, and one entry of each list.
json smallest() {
    return json::parse(R"({"name": "a", "machine": "q35", "memory": {"size": "1GiB"}, "boot": {"kernel": "/k"},
                           "disks": [{"id": "d", "file": "/d"}], "networks": [{"id": "n", "type": "user"}],
                           "vfio": [{"id": "v", "address": "0000:00:00.0"}], "vmm": {"arguments": ["x"]}})");
}

/// The path of every key that the parser reads: `memory.size`, `disks[].id`. It writes what it reads.
std::vector<std::string> knownKeys() {
    std::set<std::string> keys;
    for (const auto& [key, value] : flatten(parseVmDefinition(smallest().dump(), "smallest")))
        keys.insert(std::regex_replace(key, std::regex("\\[[0-9]+\\]"), "[]"));
    return {keys.begin(), keys.end()};
}

/// Where a key of knownKeys() is in a definition.
json::json_pointer pointerTo(const std::string& key) {
    const std::string dotted = std::regex_replace(key, std::regex("\\[\\]"), ".0");
    return json::json_pointer("/" + std::regex_replace(dotted, std::regex("\\."), "/"));
}

/// What the parser says about the smallest definition with one more key; empty when it is content.
std::string complaintAbout(const std::string& key, const json& value) {
    json definition = smallest();
    definition[pointerTo(key)] = value;
    if (value == "vmm-owned" || value == "vmm-exec") definition["memory"]["owner"] = "vmm";
    if (key == "networks[].type" && value == "tap") definition["networks"][0]["bridge"] = "br0";
    if (key == "networks[].bridge") definition["networks"][0]["type"] = "tap";
    if (key == "vfio[].device") definition["vfio"][0].erase("address");
    if (key == "boot.disk" || key == "boot.firmware") {
        definition["boot"].erase("kernel");
        definition["boot"]["disk"] = "d";
        definition[pointerTo(key)] = value;
        if (key == "boot.disk") definition["disks"][0]["id"] = value;
    }
    try {
        parseVmDefinition(definition.dump(), "schema");
        return "";
    } catch (const ConfigErrors& errors) {
        return errors.what();
    }
}

std::string asText(const json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
}

TEST(Schema, hasExactlyTheKeysOfTheParser) {
    std::vector<std::string> keys;
    for (const auto& [key, node] : schemaKeys()) keys.push_back(key);
    EXPECT_EQ(keys, knownKeys());
}

TEST(Schema, describesEachKey) {
    for (const auto& [key, node] : schemaKeys()) EXPECT_NE(node.value("description", ""), "") << key;
}

TEST(Schema, requiresTheKeysThatTheParserRequires) {
    const json schema = json::parse(fileText(schemaFile));
    const std::function<void(const json&, const std::string&)> check = [&](const json& node, const std::string& path) {
        if (node.at("type") == "array") check(node.at("items"), path + "[]");
        if (node.at("type") != "object") return;
        for (const auto& [key, child] : node.at("properties").items()) {
            const std::string childPath = path.empty() ? key : path + "." + key;
            json definition = smallest();
            const auto parent = pointerTo(childPath).parent_pointer();
            if (definition.contains(parent)) {
                definition[parent].erase(key);
                if (key == "kernel" || key == "address") continue;  // Either this or another one: oneOf.
                std::string complaint;
                try {
                    parseVmDefinition(definition.dump(), "schema");
                } catch (const ConfigErrors& errors) {
                    complaint = errors.what();
                }
                const json required = node.value("required", json::array());
                const bool isRequired = std::find(required.begin(), required.end(), json(key)) != required.end();
                EXPECT_EQ(isRequired, complaint.find("the required key '" + key + "' is missing") != std::string::npos)
                    << childPath << "\n"
                    << complaint;
            }
            check(child, childPath);
        }
    };
    check(schema, "");
}

TEST(Schema, hasExactlyTheEnumValuesOfTheParser) {
    const std::regex oneOf("expected one of ('[^,]*'(?:, '[^,]*')*)");
    for (const auto& [key, node] : schemaKeys()) {
        const std::string complaint = complaintAbout(key, "no such value");
        std::string names;
        for (const json& value : node.value("enum", json::array())) {
            names += (names.empty() ? "'" : ", '") + value.get<std::string>() + "'";
            EXPECT_EQ(complaintAbout(key, value), "") << key;
        }
        std::smatch match;
        EXPECT_EQ(std::regex_search(complaint, match, oneOf) ? match.str(1) : "", names) << key << ": " << complaint;
    }
}

TEST(Schema, hasTheDefaultsOfTheParser) {
    const auto values = flatten(parseVmDefinition(smallest().dump(), "smallest"));
    std::size_t defaults = 0;
    for (const auto& [key, node] : schemaKeys()) {
        if (!node.contains("default")) continue;
        ++defaults;
        EXPECT_EQ(values.at(std::regex_replace(key, std::regex("\\[\\]"), "[0]")), asText(node.at("default"))) << key;
        EXPECT_EQ(complaintAbout(key, node.at("default")), "") << key;
    }
    EXPECT_GT(defaults, 15u);
}

TEST(Schema, hasPatternsAndRangesThatAgreeWithTheParser) {
    const std::vector<std::string> words{
        "a",
        "a-b",
        "-a",
        "1a",
        "A",
        "a_b",
        "a b",
        "a,b=c",
        "a/b",
        "/a",
        "/a,b c",
        "/a\nb",
        "",
        "_x",
        "br0:1",
        "max.1",
        "10s",
        "1.5s",
        "1s5",
        "5",
        "1GiB",
        "1GB",
        "512 mib",
        std::string(15, 'a'),
        std::string(16, 'a'),
        std::string(20, 'a'),
        std::string(21, 'a'),
        std::string(31, 'a'),
        std::string(32, 'a'),
        std::string(33, 'a'),
        "52:54:00:12:34:56",
        "53:54:00:12:34:56",
        "0000:01:00.0",
        "0000:01:20.0",
        "0000:01:1f.8",
        "0F5A1C52-6A7E-4D53-9A0E-3C1F2B4D5E6F",
        "0f5a1c526a7e4d539a0e3c1f2b4d5e6f",
    };
    for (const auto& [key, node] : schemaKeys()) {
        if (node.contains("pattern")) {
            const std::regex pattern(node.at("pattern").get<std::string>());
            for (const std::string& word : words) {
                const std::string complaint = complaintAbout(key, word);
                EXPECT_EQ(std::regex_search(word, pattern), complaint.empty()) << key << " '" << word << "': " << complaint;
            }
        } else if (node.at("type") == "integer") {
            for (const int number : {-1, 0, 1, 1024, 1025}) {
                const bool isInRange = number >= node.at("minimum").get<int>() && number <= node.at("maximum").get<int>();
                EXPECT_EQ(isInRange, complaintAbout(key, number).empty()) << key << " " << number;
            }
        }
    }
}

/// The rows of README's table: the key, and what is between the other bars.
std::map<std::string, std::vector<std::string>> readmeKeys() {
    std::istringstream stream(fileText(readmeFile));
    std::map<std::string, std::vector<std::string>> rows;
    for (std::string line; std::getline(stream, line) && line != "## Plans";) {
        if (!line.starts_with("| `")) continue;
        std::vector<std::string> cells;
        for (std::size_t begin = 1; begin < line.size();) {
            const std::size_t end = line.find('|', begin);
            const std::string cell = line.substr(begin, end - begin);
            const std::size_t first = cell.find_first_not_of(' ');
            cells.push_back(first == cell.npos ? "" : cell.substr(first, cell.find_last_not_of(' ') + 1 - first));
            begin = end + 1;
        }
        const std::string key = cells.at(0).substr(1, cells.at(0).size() - 2);
        EXPECT_FALSE(rows.contains(key)) << key << " is documented twice";
        rows[key] = cells;
    }
    return rows;
}

TEST(Readme, hasExactlyTheKeysOfTheParser) {
    std::vector<std::string> keys;
    for (const auto& [key, cells] : readmeKeys()) keys.push_back(key);
    EXPECT_EQ(keys, knownKeys());
}

TEST(Readme, hasTheDefaultsAndTheRequiredKeysOfTheSchema) {
    const auto rows = readmeKeys();
    for (const auto& [key, node] : schemaKeys()) {
        const auto row = rows.find(key);
        ASSERT_NE(row, rows.end()) << key;
        ASSERT_EQ(row->second.size(), 5u) << key;
        const std::string& documented = row->second[2];
        if (node.contains("default")) {
            EXPECT_EQ(documented, "`" + asText(node.at("default")) + "`") << key;
        } else {
            EXPECT_TRUE(documented.empty() || documented == "required") << key << " has no default, documented: " << documented;
        }
    }
}

TEST(Readme, hasExactlyTheEnumValuesOfTheSchema) {
    const auto rows = readmeKeys();
    for (const auto& [key, node] : schemaKeys()) {
        std::string values;
        for (const json& value : node.value("enum", json::array())) append(values, "`" + value.get<std::string>() + "`");
        if (values.empty()) continue;
        EXPECT_EQ(rows.at(key).at(1), values) << key;
    }
}

/// The names of the designs for which this holds, as a document has them.
template <class Holds>
std::vector<std::string> designsThat(Holds holds) {
    std::vector<std::string> names;
    for (const Design design : designsOfUpgrades())
        if (holds(rowOf(design))) names.push_back("`" + std::string(name(design)) + "`");
    return names;
}

TEST(Documents, sayWhichDesignNeedsWhichOwner) {
    const auto neededBy = [](MemoryOwner owner) {
        return joined(designsThat([&](const DesignRow& row) { return row.owner == owner; }), " and ");
    };
    const std::string owners = "`manager` for design " + neededBy(MemoryOwner::Manager) + ", `vmm` for " +
                               neededBy(MemoryOwner::Vmm) + "; the other designs take either";
    EXPECT_EQ(readmeKeys().at("memory.owner").at(4), owners);
    EXPECT_EQ(schemaKeys().at("memory.owner").at("description"),
              "Who makes the memory file: " + std::regex_replace(owners, std::regex("`"), "") + ".");
}

TEST(Documents, sayWhichDesignsTakeDevices) {
    const std::string designs = joined(designsThat([](const DesignRow& row) { return row.noDevices.empty(); }), " or ");
    EXPECT_THAT(readmeKeys().at("vfio[].address").at(4),
                HasSubstr(designs + ", KVM and QEMU " + text(firstWithDevices) + " or newer on both sides"));
}

TEST(Documents, listTheDesignsThatResultsMayHave) {
    std::string designs;
    for (const DesignRow& row : designRows) append(designs, "`" + std::string(row.name) + "`");
    EXPECT_THAT(fileText(inSourceTree("manager/compare/README.md")), HasSubstr("\n| `design` | " + designs + " |\n"));
}

TEST(Scripts, readTheDesignsOutOfTheirRows) {
    const auto orNothing = [](std::string_view word) { return std::string(word.empty() ? "-" : word) + "\n"; };
    const auto oldest = [](Release release) { return release == Release() ? "any " : text(release) + " "; };
    std::string rows, said;
    for (const DesignRow& row : designRows)
        rows += std::string(row.name) + " " + std::string(row.owner ? name(*row.owner) : "either") + " " +
                (row.byHandOf   ? "by-hand "
                 : row.baseline ? "baseline "
                                : "upgrade ") +
                oldest(row.oldestOld) + oldest(row.oldestNew) + (row.noDevices.empty() ? "devices " : "- ") +
                orNothing(row.byHandOf ? name(*row.byHandOf) : "");
    FILE* script = ::popen(("'" + inSourceTree("scripts/designs") + "'").c_str(), "r");
    ASSERT_NE(script, nullptr);
    for (int character; (character = std::fgetc(script)) != EOF;) said += static_cast<char>(character);
    EXPECT_EQ(::pclose(script), 0);
    EXPECT_EQ(said, rows);
}

std::string cellOf(Release oldest) {
    return oldest == Release{} ? "any" : text(oldest);
}

/// The table of designs in the README, from their rows.
std::string renderedDesigns() {
    std::string table =
        "| `--design` | guest RAM | firmware, ROMs, video memory | device state | who checks, before the guest stops | "
        "`memory.owner` | old QEMU | new QEMU | prepared beforehand | way back | passed-through devices |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n";
    for (const Design design : designsOfUpgrades()) {  // What is driven by hand nobody can choose here.
        const DesignRow& row = rowOf(design);
        const auto yes = [](bool is) { return std::string(is ? "yes" : "no"); };
        for (const std::string& cell :
             {"`" + std::string(row.name) + "`" + (row.baseline ? " (baseline)" : ""), std::string(row.guestRam),
              std::string(row.implicitRam), std::string(row.deviceState), std::string(row.checkedBy),
              row.owner ? "`" + std::string(name(*row.owner)) + "`" : "either", cellOf(row.oldestOld), cellOf(row.oldestNew),
              yes(row.standsBy), yes(row.wayBack), std::string(row.noDevices.empty() ? "yes" : "no")})
            table += "| " + cell + " ";
        table += "|\n";
    }
    return table;
}

TEST(Readme, hasTheTableOfDesignsThatTheRowsMake) {
    const std::string text = fileText(inSourceTree("README.md")), begin = "<!-- designs -->\n", end = "<!-- /designs -->";
    const std::size_t from = text.find(begin), to = text.find(end);
    ASSERT_TRUE(from != std::string::npos && to != std::string::npos) << "README.md has no place for the table of designs";
    EXPECT_EQ(text.substr(from + begin.size(), to - from - begin.size()), renderedDesigns())
        << "put this between the two marks:\n"
        << renderedDesigns();
}

TEST(Readme, listsTheArgumentsThatTheParserRefuses) {
    const std::string text = fileText(readmeFile);
    const std::size_t begin = text.find("Options refused in `vmm.arguments`");
    ASSERT_NE(begin, std::string::npos);
    const std::string paragraph = text.substr(begin, text.find("\n\n", begin) - begin);
    const std::regex option("`(-[A-Za-z-]+)`");
    std::size_t options = 0;
    for (auto match = std::sregex_iterator(paragraph.begin(), paragraph.end(), option); match != std::sregex_iterator();
         ++match) {
        EXPECT_THAT(complaintAbout("vmm.arguments[]", match->str(1)), HasSubstr("expected only options that the manager"))
            << match->str(1);
        ++options;
    }
    EXPECT_EQ(options, 25u);
}

}  // namespace
}  // namespace vh
