// The answers of `list`, `show` and the verbs that only say a state, for people. What a daemon has said may be anything.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace vh {

std::string listText(const nlohmann::json& value);
std::string showText(const nlohmann::json& value);
std::string stateText(const nlohmann::json& value);

}  // namespace vh
