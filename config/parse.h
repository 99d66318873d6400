// Parsers of YAML text to a VmDefinition, or to every error in it, and the way back.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "config/errors.h"
#include "config/vm_definition.h"

namespace vh {

/// Parses the text of a file; `file` is only for messages. Throws ConfigErrors.
VmDefinition parseVmDefinition(std::string_view yaml, const std::string& file);

/// Reads and parses a file of at most 1 MiB. Throws ConfigErrors.
VmDefinition loadVmDefinition(const std::string& file);

/// The text of a definition file, for a caller that keeps it. Throws ConfigErrors.
std::string readDefinitionFile(const std::string& file);

/// `500ms`, `10s`, `2min`: what pause budgets and deadlines are written in. Throws std::invalid_argument with what was expected.
std::chrono::milliseconds parseDuration(std::string_view text);

/// Every key with its value as a file would have it, by path: `memory.size` -> `512MiB`, `disks[0].file` -> `/x.img`.
std::map<std::string, std::string> flatten(const VmDefinition& definition);

/// Text that parses to an equal definition: every key that has a value, in blocks.
std::string toYaml(const VmDefinition& definition);

/// One key whose value two definitions do not share; an absent list entry has an empty value.
struct KeyDifference {
    std::string key;
    std::string before;
    std::string after;

    bool operator==(const KeyDifference&) const = default;
};

std::vector<KeyDifference> differences(const VmDefinition& before, const VmDefinition& after);

}  // namespace vh
