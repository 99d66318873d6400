// From YAML text to a VmDefinition, or to every error in it.
#pragma once

#include <chrono>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "config/vm_definition.h"

namespace vh {

/// One thing wrong with a definition, at the place where a person can mend it.
struct ConfigError {
    std::string file;
    int line = 0;         ///< From 1; 0 when the error has no place in the text, as for a file that cannot be read.
    int column = 0;       ///< From 1, as above.
    std::string message;  ///< What was found and what was expected.

    /// `web1.yaml:3:9: memory.size: found '-1', expected a size such as '512MiB' (...)`
    std::string text() const;
    bool operator==(const ConfigError&) const = default;
};

/// All the errors of one file, in the order of the text; what() has one a line.
class ConfigErrors : public std::runtime_error {
 public:
    explicit ConfigErrors(std::vector<ConfigError> errors);
    const std::vector<ConfigError>& errors() const { return errors_; }

 private:
    std::vector<ConfigError> errors_;
};

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
