// Results of a comparison for a terminal and for a spreadsheet.
#pragma once

#include <string>

#include "manager/compare/results.h"
#include "manager/compare/summary.h"

namespace vh {

/// A table of designs for each configuration, and a sentence for each ratio. Lines are of at most 120 columns but for names and
/// reasons.
std::string comparisonText(const Results& results, const Summary& summary);

/// CSV of one line a round and VM, also of rounds that enter no statistics; RFC 4180. What was not measured is empty.
std::string comparisonCsv(const Results& results);

/// `1.50 GiB`, `64.0 MiB`, `512 B`.
std::string sizeText(double bytes);

/// Text in one line and without what a terminal would obey; for text that somebody else wrote.
std::string printable(const std::string& text);

}  // namespace vh
