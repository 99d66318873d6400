// The check whether a newer comparison is worse than an older one, for a script that hunts for a regression.
//
// Configurations are matched by their factors, not by their VMMs, for those are what differs. A figure is a regression when the
// whole interval of the ratio of both medians lies above the tolerance. All intervals together are right in 95 of 100 checks
// (Bonferroni), so a check of many figures does not cry wolf for that reason alone. Counts are judged without a tolerance: of
// echo requests lost and of RAM copied where there was none, the difference is.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/compare/results.h"
#include "manager/compare/statistics.h"

namespace vh {

struct CheckFinding {
    std::string configuration;  ///< `id` in the newer results, or in the older where there is none.
    std::string design;
    std::string figure;                ///< A metric's name, `failures`, `patterns` or `wayBack`.
    std::optional<Interval> interval;  ///< Interval of the ratio newer / older, or of the difference newer - older.
    std::string text;                  ///< The whole finding in a line.
};

struct CheckResult {
    double tolerance = 0;
    double confidence = 0;        ///< Confidence of each interval.
    std::size_t comparisons = 0;  ///< Number of figures. A check that could compare nothing has passed nothing.
    std::vector<CheckFinding> regressions;
    std::vector<CheckFinding> improvements;
    std::vector<std::string> notCompared;
    std::vector<std::string> remarks;  ///< Differences between both that may be the reason.
};

/// A tolerance of 1.10 lets a median grow by a tenth. Throws std::invalid_argument when it is below 1.
CheckResult check(const Results& baseline, const Results& now, double tolerance = 1.10);

nlohmann::json toJson(const CheckResult& result);
std::string checkText(const CheckResult& result);

}  // namespace vh
