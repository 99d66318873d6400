// What is wrong with a file that a person wrote, each thing at the place where it can be mended.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

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

}  // namespace vh
