// A JSON document that is damaged in one place after the other.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

/// Where every value of a document is, and every part of one; the first is the whole.
inline std::vector<nlohmann::json::json_pointer> places(
    const nlohmann::json& value, const nlohmann::json::json_pointer& here = nlohmann::json::json_pointer()) {
    std::vector<nlohmann::json::json_pointer> found{here};
    const auto add = [&found](const std::vector<nlohmann::json::json_pointer>& more) {
        found.insert(found.end(), more.begin(), more.end());
    };
    if (value.is_object())
        for (const auto& [key, member] : value.items()) add(places(member, here / key));
    for (std::size_t i = 0; value.is_array() && i < value.size(); ++i) add(places(value[i], here / i));
    return found;
}

/// The document without what is at a place other than the whole.
inline nlohmann::json without(nlohmann::json whole, const nlohmann::json::json_pointer& place) {
    nlohmann::json& parent = whole[place.parent_pointer()];
    if (parent.is_array())
        parent.erase(std::stoul(place.back()));
    else
        parent.erase(place.back());
    return whole;
}

}  // namespace vh
