// The order in which a round runs its designs.
//
// Within a round a design may be the better or the worse for its place, and for the one that ran before it. So the rows of a
// Williams design are used (E. J. Williams, Experimental designs balanced for the estimation of residual effects of treatments,
// Australian Journal of Scientific Research A 2, 1949): over all rows each design has each place equally often, and comes next
// after each other one equally often. Of n designs these are n rows, or 2n when n is odd. Rows are drawn from the seed, each once
// before any comes again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "manager/compare/results.h"

namespace vh {

/// Rows of numbers of designs from 0. Balanced for as many rounds as there are rows, or a multiple of it.
std::vector<std::vector<std::size_t>> williamsRows(std::size_t designs);

/// The order of `round` (from 0) of those that have as many designs. The same for the same seed; `stream` tells apart what is to
/// be drawn independently.
std::vector<std::size_t> orderOf(std::size_t round, std::size_t designs, std::uint64_t seed, std::uint64_t stream);

/// Series that have `round` (from 1), of all that a configuration's batch runs, in the order of that round. Baselines may have
/// fewer rounds than the others: the rounds with them are balanced for themselves, and so are those without. What was given up
/// after some rounds keeps its place, so that an interrupted run has the order of one that was not.
std::vector<const Series*> seriesInOrder(const std::vector<const Series*>& series, unsigned round,
                                         const std::function<unsigned(Design)>& roundsOf, std::uint64_t seed,
                                         std::uint64_t stream);

/// The number of last rounds in which no VM was upgraded.
unsigned failedRoundsInARow(const Series& series);

}  // namespace vh
