// The results of a comparison as one HTML file that needs nothing else: no network, no other file.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace vh {

/// `results` is what README.md describes, complete or not. Text in it may be anything: it cannot become markup or script.
std::string reportPage(const nlohmann::json& results);

}  // namespace vh
