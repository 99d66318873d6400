// RAM blocks that QEMUs make for a machine and its devices: what a survey found, as values, as JSON, and what differs in it.
//
// A block's sizes have two sources: the program (and the machine type that it is asked for), and the ROM files that are installed
// beside it, which packages replace on their own. So each block that holds a ROM file has the file's name, and each QEMU has the
// sizes of its files: where those differ, the packages are to be compared and not the releases.
//
// What no QEMU tells, and no survey has: the alignment that was asked for (only what the mapping shows), RAM_* flags but those
// below, whether a block whose lengths are alike can be resized (ROM files' blocks are taken to be), and what is not migrated.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

struct SurveyedQemu {
    std::string name;     ///< Name in this survey.
    std::string version;  ///< `10.0.2`.
    std::string package;  ///< Builder, in its own words: `Debian 1:10.0.2+ds-2`.
    /// False when it does not tell where its blocks lie (7.2): neither alignment nor flags of the mapping are known then.
    bool tellsPlaces = true;
    std::map<std::string, std::uint64_t> romFiles;  ///< Bytes of each ROM file that a block is made of, where this QEMU finds it.

    bool operator==(const SurveyedQemu&) const = default;
};

/// A RAM block, with names as in RamBlock (vmm-shim/ram_blocks.h). What is not known is none.
struct SurveyedBlock {
    std::string idstr;
    std::uint64_t used_length = 0, max_length = 0, page_size = 0;
    std::optional<std::uint64_t> align;
    std::optional<bool> shared, read_only;
    bool resizable = false;
    bool isExplicit = false;  ///< True for a memory backend's: its size is what the command line says.
    std::string romFile;      ///< File that it is made of, if it is.

    auto operator<=>(const SurveyedBlock&) const = default;
};

/// The failure of a device that was left alone.
inline const std::string notTriedReason = "not tried: it would reach for the host";

/// A start of one QEMU.
struct SurveyedStart {
    std::string qemu;
    std::string machine;
    std::string device;                 ///< Value of `-device`, empty for the machine alone.
    std::string failure;                ///< Reason why it did not start; empty if it did.
    std::vector<SurveyedBlock> blocks;  ///< Blocks by name; with a device only those that the machine alone has not, or not so.

    bool operator==(const SurveyedStart&) const = default;
};

struct Survey {
    std::vector<SurveyedQemu> qemus;
    std::vector<SurveyedStart> starts;

    bool operator==(const Survey&) const = default;
};

/// A property that is not the same everywhere.
struct SurveyDifference {
    std::string device, idstr;
    std::string field;                          ///< Name as in SurveyedBlock, or `block` for one that some do not make.
    std::vector<std::string> machines;          ///< Machines on which these are the values.
    std::map<std::string, std::string> values;  ///< Values by the QEMU's name; without those that did not start, or do not tell.
    /// The file that the block is made of and that has not the same size everywhere, or the files; empty when the program must be
    /// the cause.
    std::string romFile;

    bool operator==(const SurveyDifference&) const = default;
};

std::vector<SurveyDifference> differences(const Survey& survey);

/// Starts that are alike are written once, with all QEMUs, machines and devices that they are alike for. Reading throws
/// nlohmann::json::exception or std::runtime_error for what is no survey.
nlohmann::json toJson(const Survey& survey);
Survey surveyFrom(const nlohmann::json& value);

/// Tables for people, in Markdown.
std::string describe(const Survey& survey);

}  // namespace vh
