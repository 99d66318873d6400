#include "config/errors.h"

#include <utility>

namespace vh {
namespace {

std::string joined(const std::vector<ConfigError>& errors) {
    std::string lines;
    for (const ConfigError& error : errors) lines += (lines.empty() ? "" : "\n") + error.text();
    return lines;
}

}  // namespace

std::string ConfigError::text() const {
    const std::string place = line > 0 ? ":" + std::to_string(line) + ":" + std::to_string(column) : "";
    return file + place + ": " + message;
}

ConfigErrors::ConfigErrors(std::vector<ConfigError> errors) : std::runtime_error(joined(errors)), errors_(std::move(errors)) {}

}  // namespace vh
