// From YAML text to a VmDefinition, or to every error in it.
#pragma once

#include <chrono>
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

/// The path of every key that a file may have, sorted: `memory.size`, `disks[].id`. Schema and README are tested against it.
std::vector<std::string> knownKeys();

}  // namespace vh
