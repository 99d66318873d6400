// The results of a comparison on disk: the only way in and out, so that the rest may rely on the shape that README.md describes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace vh {

inline constexpr std::string_view resultsFormat = "virt-handover-compare/1";
inline constexpr std::size_t greatestResultsBytes = 256ULL << 20;

/// Results with every member that README.md names, of the type it says; members that it does not name stay. `summary` is made
/// anew, so it is this version's and agrees with the rounds. Throws std::system_error when the file cannot be read, and
/// std::runtime_error when it is none of ours or damaged: `'x.json': cells[3].series[0].rounds[2].vm: found "one", expected a
/// whole number`.
nlohmann::json readResults(const std::string& path);

/// The same for text that is there already; `name` is only for messages.
nlohmann::json parseResults(std::string_view text, const std::string& name);

void writeResults(const std::string& path, const nlohmann::json& results);

}  // namespace vh
