// The results of a comparison as JSON and on disk: the file's form, and the only way in and out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "manager/compare/results.h"
#include "manager/compare/summary.h"

namespace vh {

inline constexpr std::string_view resultsFormat = "virt-handover-compare/1";

/// `summary` is null in the file while there is none.
nlohmann::json toJson(const Results& results, const Summary* summary = nullptr);
nlohmann::json toJson(const Round& round);
nlohmann::json toJson(const Summary& summary);

/// Reads results. Every member that README.md names has to be there and of its type, or std::runtime_error says which one is not:
/// `cells[3].series[0].rounds[2].vm: found "one", expected a whole number`. Members that it does not name are left out.
Results resultsOf(const nlohmann::json& file);

inline constexpr std::size_t greatestResultsBytes = 256ULL << 20;

/// Reads a file. Throws std::system_error when it cannot be read, and std::runtime_error when it is none of ours or damaged, as
/// resultsOf() does. What it has for a summary is not looked at.
Results readResults(const std::string& path);

/// Reads text that is there already, likewise; `file` is only for messages.
Results parseResults(std::string_view text, const std::string& file);

/// `summary` is null in the file while there is none.
void writeResults(const std::string& path, const Results& results, const Summary* summary = nullptr);

}  // namespace vh
