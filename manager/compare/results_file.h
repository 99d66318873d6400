// The results of a comparison on disk: the only way in and out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "manager/compare/results_json.h"

namespace vh {

inline constexpr std::size_t greatestResultsBytes = 256ULL << 20;

/// Throws std::system_error when the file cannot be read, and std::runtime_error when it is none of ours or damaged, as
/// resultsOf() does. What it has for a summary is not looked at.
Results readResults(const std::string& path);

/// The same for text that is there already; `name` is only for messages.
Results parseResults(std::string_view text, const std::string& name);

/// `summary` is null in the file while there is none.
void writeResults(const std::string& path, const Results& results, const Summary* summary = nullptr);

}  // namespace vh
