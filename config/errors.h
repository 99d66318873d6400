// The errors in a file that a person wrote, each at the place where it can be mended.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace vh {

/// An error in a definition, at the place where a person can mend it.
struct ConfigError {
    std::string file;
    int line = 0;         ///< Counted from 1; 0 when the error has no place in the text, as for a file that cannot be read.
    int column = 0;       ///< Counted from 1, as above.
    std::string message;  ///< Found and expected, in words.

    /// `web1.yaml:3:9: memory.size: found '-1', expected a size such as '512MiB' (...)`
    std::string text() const {
        const std::string place = line > 0 ? ":" + std::to_string(line) + ":" + std::to_string(column) : "";
        return file + place + ": " + message;
    }
    bool operator==(const ConfigError&) const = default;
};

/// All the errors of one file, in the order of the text; what() has one a line.
class ConfigErrors : public std::runtime_error {
 public:
    explicit ConfigErrors(std::vector<ConfigError> errors) : std::runtime_error(lines(errors)), errors_(std::move(errors)) {}
    const std::vector<ConfigError>& errors() const { return errors_; }

 private:
    static std::string lines(const std::vector<ConfigError>& errors) {
        std::string lines;
        for (const ConfigError& error : errors) lines += (lines.empty() ? "" : "\n") + error.text();
        return lines;
    }

    std::vector<ConfigError> errors_;
};

}  // namespace vh
