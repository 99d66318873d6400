// A survey's tables.
#include <algorithm>
#include <set>

#include "vmm-shim/text.h"
#include "vmm-shim/tool/survey.h"

namespace vh {
namespace {

using Cells = std::vector<std::string>;

std::string row(const Cells& cells) {
    return "| " + joined(cells, " | ") + " |\n";
}

std::string heading(const Cells& cells) {
    return row(cells) + row(Cells(cells.size(), "---"));
}

/// `256 KiB`, where it is a number of bytes.
std::string shown(const std::string& value) {
    const auto bytes = wholeNumber<std::uint64_t>(value);
    return bytes ? exactSize(*bytes) : value;
}

std::string code(const std::string& text) {
    return "`" + text + "`";
}

std::string deviceText(const std::string& device) {
    return device.empty() ? "the machine" : code(device);
}

Cells qemuNames(const Survey& survey) {
    Cells names;
    for (const SurveyedQemu& qemu : survey.qemus) names.push_back(qemu.name);
    return names;
}

std::string qemuTable(const Survey& survey) {
    std::string text = heading({"QEMU", "release", "built by", "tells where blocks lie"});
    for (const SurveyedQemu& qemu : survey.qemus)
        text += row({qemu.name, qemu.version, qemu.package, qemu.tellsPlaces ? "yes" : "no"});
    return text;
}

/// All devices, machines and blocks that differ in the same way are one row.
std::string differenceTable(const Survey& survey) {
    struct Row {
        std::set<std::string> devices, blocks;
    };
    using Way = std::tuple<std::string, std::string, std::map<std::string, std::string>, std::vector<std::string>>;
    std::map<Way, Row> rows;
    for (const SurveyDifference& difference : differences(survey)) {
        Row& one = rows[{difference.romFile, difference.field, difference.values, difference.machines}];
        one.devices.insert(deviceText(difference.device));
        one.blocks.insert(code(difference.idstr));
    }
    if (rows.empty()) return "None: every block is the same on all QEMUs that have its machine and its device.\n";
    Cells head{"RAM block", "of", "on", "property", "because of"};
    for (const std::string& name : qemuNames(survey)) head.push_back(name);
    std::string text = heading(head);
    for (const auto& [way, one] : rows) {
        const auto& [romFile, field, values, machines] = way;
        Cells cells{joined(one.blocks), joined(one.devices), joined(machines), field,
                    romFile.empty() ? "the program" : "the ROM file " + code(romFile)};
        for (const std::string& name : qemuNames(survey)) {
            const auto value = values.find(name);
            cells.push_back(value == values.end() ? "-" : shown(value->second));
        }
        text += row(cells);
    }
    return text;
}

/// How many blocks differ between two QEMUs: by what the program does, and by their ROM files.
std::string pairTable(const Survey& survey) {
    const Cells names = qemuNames(survey);
    const std::vector<SurveyDifference> all = differences(survey);
    Cells head{"from / to"};
    head.insert(head.end(), names.begin(), names.end());
    std::string text = heading(head);
    for (const std::string& from : names) {
        Cells cells{from};
        for (const std::string& to : names) {
            std::set<std::string> byProgram, byFiles;
            for (const SurveyDifference& difference : all) {
                const auto old = difference.values.find(from), new_ = difference.values.find(to);
                if (old == difference.values.end() || new_ == difference.values.end() || old->second == new_->second) continue;
                (difference.romFile.empty() ? byProgram : byFiles).insert(difference.device + " " + difference.idstr);
            }
            cells.push_back(from == to ? "" : std::to_string(byProgram.size()) + " + " + std::to_string(byFiles.size()));
        }
        text += row(cells);
    }
    return text;
}

std::string romFileTable(const Survey& survey) {
    std::set<std::string> files;
    for (const SurveyedQemu& qemu : survey.qemus)
        for (const auto& [file, bytes] : qemu.romFiles) files.insert(file);
    Cells head{"ROM file"};
    for (const std::string& name : qemuNames(survey)) head.push_back(name);
    std::string text = heading(head);
    for (const std::string& file : files) {
        Cells cells{code(file)};
        for (const SurveyedQemu& qemu : survey.qemus) {
            const auto size = qemu.romFiles.find(file);
            cells.push_back(size == qemu.romFiles.end() ? "-" : std::to_string(size->second));
        }
        text += row(cells);
    }
    return text;
}

/// The name without the place of the device.
std::string nameOf(const std::string& idstr) {
    const std::size_t slash = idstr.rfind('/');
    return slash == std::string::npos || idstr.starts_with("/") ? idstr : idstr.substr(slash + 1);
}

std::string kindOf(const SurveyedBlock& block) {
    std::string kind = block.isExplicit ? "explicit" : "implicit";
    if (!block.romFile.empty()) kind += ", of " + code(block.romFile);
    return kind;
}

/// The machines on which a block has a flag, and on which it has not.
struct Flag {
    std::set<std::string> with, without;

    void add(const std::optional<bool>& value, const std::string& machine) {
        if (value) (*value ? with : without).insert(code(machine));
    }
    std::string text() const {
        if (with.empty()) return without.empty() ? "not told" : "no";
        if (without.empty()) return "yes";
        const bool differs = std::ranges::any_of(with, [this](const auto& machine) { return without.contains(machine); });
        return differs ? "yes or no" : "yes on " + joined(with) + ", no on others";
    }
};

/// Every value that a property of a block has anywhere.
struct Values {
    std::set<std::uint64_t> used, max, align;
    std::set<std::string> kinds;
    Flag shared, readOnly, resizable;
};

std::string sizes(const std::set<std::uint64_t>& values) {
    Cells list;
    for (const std::uint64_t value : values) list.push_back(exactSize(value));
    return list.empty() ? "not told" : joined(list);
}

/// Blocks of which all is alike are one row.
std::string blockTable(const Survey& survey) {
    std::map<std::pair<std::string, std::string>, Values> blocks;
    for (const SurveyedStart& start : survey.starts)
        for (const SurveyedBlock& block : start.blocks) {
            Values& values = blocks[{start.device, nameOf(block.idstr)}];
            values.used.insert(block.used_length);
            values.max.insert(block.max_length);
            if (block.align) values.align.insert(*block.align);
            values.kinds.insert(kindOf(block));
            values.shared.add(block.shared, start.machine);
            values.readOnly.add(block.read_only, start.machine);
            values.resizable.add(block.resizable, start.machine);
        }
    std::map<Cells, std::pair<std::set<std::string>, std::set<std::string>>> rows;
    for (const auto& [what, values] : blocks) {
        auto& [names, devices] = rows[{joined(values.kinds, " or "), sizes(values.used), sizes(values.max), sizes(values.align),
                                       values.shared.text(), values.readOnly.text(), values.resizable.text()}];
        names.insert(code(what.second));
        devices.insert(deviceText(what.first));
    }
    std::string text =
        heading({"RAM block", "of", "kind", "used_length", "max_length", "alignment seen", "shared", "read_only", "resizable"});
    for (const auto& [cells, what] : rows) {
        Cells all{joined(what.first), joined(what.second)};
        all.insert(all.end(), cells.begin(), cells.end());
        text += row(all);
    }
    return text;
}

std::string devicesText(const Survey& survey) {
    constexpr const char* whatBecame[] = {"Made no block", "Not tried, since they would reach for the host",
                                          "Did not start; the data have the reasons"};
    std::map<std::string, std::size_t> least;  ///< The first of these that is true of a device anywhere; none of one with blocks.
    std::set<std::string> making;
    for (const SurveyedStart& start : survey.starts) {
        if (start.device.empty()) continue;
        if (!start.blocks.empty()) making.insert(start.device);
        const std::size_t became = start.failure.empty() ? 0 : start.failure == notTriedReason ? 1 : 2;
        const auto [known, isNew] = least.emplace(start.device, became);
        if (!isNew) known->second = std::min(known->second, became);
    }
    std::string text;
    for (std::size_t i = 0; i < std::size(whatBecame); ++i) {
        Cells devices;
        for (const auto& [device, became] : least)
            if (became == i && !making.contains(device)) devices.push_back(code(device));
        if (!devices.empty()) text += std::string(whatBecame[i]) + ": " + joined(devices) + ".\n\n";
    }
    return text;
}

}  // namespace

std::string describe(const Survey& survey) {
    return "## The QEMUs\n\n" + qemuTable(survey) + "\n## What differs\n\n" + differenceTable(survey) +
           "\n## Blocks that differ between two QEMUs\n\nBecause of the program + because of ROM files.\n\n" + pairTable(survey) +
           "\n## ROM files, bytes\n\n" + romFileTable(survey) +
           "\n## All blocks\n\nWith every value that was seen anywhere.\n\n" + blockTable(survey) +
           "\n## Devices without blocks\n\n" + devicesText(survey);
}

}  // namespace vh
