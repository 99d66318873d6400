// The answer of a comparison for somebody who reads nothing else: who should own guest RAM, what the other designs cost, and what
// all of them lose. Words are chosen by the verdicts of `summary.pooled`, so that they say no more than those do.
#pragma once

#include <string>
#include <vector>

#include "manager/compare/results.h"
#include "manager/compare/summary.h"

namespace vh {

/// Three sentences; fewer where nothing can be said. Designs are named as everywhere.
std::vector<std::string> answerOf(const Results& results, const Summary& summary);

}  // namespace vh
