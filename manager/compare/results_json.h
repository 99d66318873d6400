// The results of a comparison as JSON: the file's form, and the only reader of it.
#pragma once

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

/// Every member that README.md names has to be there and of its type, or std::runtime_error says which one is not:
/// `cells[3].series[0].rounds[2].vm: found "one", expected a whole number`. Members that it does not name are left out.
Results resultsOf(const nlohmann::json& file);

}  // namespace vh
