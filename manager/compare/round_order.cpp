#include "manager/compare/round_order.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace vh {
namespace {

/// std::shuffle() and distributions draw differently from one standard library to the next.
std::vector<std::size_t> drawnOrder(std::size_t count, std::mt19937_64& random) {
    std::vector<std::uint64_t> numbers(count);
    std::ranges::generate(numbers, std::ref(random));
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, {}, [&numbers](std::size_t i) { return numbers[i]; });
    return order;
}

std::mt19937_64 randomOf(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
    std::seed_seq sequence{seed & 0xffffffff, seed >> 32, stream & 0xffffffff, stream >> 32, block};
    return std::mt19937_64(sequence);
}

}  // namespace

std::vector<std::vector<std::size_t>> williamsRows(std::size_t designs) {
    // 0, 1, n-1, 2, n-2, ...: each difference between neighbours comes once, or in odd numbers once in the row or its reverse.
    std::vector<std::size_t> first;
    for (std::size_t place = 0; place < designs; ++place)
        first.push_back(place % 2 == 1 ? (place + 1) / 2 : (designs - place / 2) % designs);
    std::vector<std::vector<std::size_t>> rows;
    for (std::size_t shift = 0; shift < designs; ++shift) {
        std::vector<std::size_t>& row = rows.emplace_back(first);
        for (std::size_t& design : row) design = (design + shift) % designs;
    }
    for (std::size_t row = 0; designs % 2 == 1 && designs > 1 && row < designs; ++row)
        rows.emplace_back(rows[row].rbegin(), rows[row].rend());
    return rows;
}

std::vector<std::size_t> orderOf(std::size_t round, std::size_t designs, std::uint64_t seed, std::uint64_t stream) {
    if (designs == 0) return {};
    const auto rows = williamsRows(designs);
    std::mt19937_64 random = randomOf(seed, stream, round / rows.size());
    const std::vector<std::size_t> rowOrder = drawnOrder(rows.size(), random), labels = drawnOrder(designs, random);
    std::vector<std::size_t> order = rows[rowOrder[round % rows.size()]];
    for (std::size_t& design : order) design = labels[design];
    return order;
}

std::vector<const Series*> seriesInOrder(const std::vector<const Series*>& series, unsigned round,
                                         const std::function<unsigned(Design)>& roundsOf, std::uint64_t seed,
                                         std::uint64_t stream) {
    const auto presentIn = [&](unsigned number) {
        std::vector<const Series*> present;
        for (const Series* one : series)
            if ((one->isRun() || !one->rounds.empty()) && number <= roundsOf(one->design)) present.push_back(one);
        return present;
    };
    const std::vector<const Series*> present = presentIn(round);
    unsigned first = round;
    while (first > 1 && presentIn(first - 1) == present) --first;
    std::vector<const Series*> ordered;
    for (const std::size_t i : orderOf(round - first, present.size(), seed, stream)) ordered.push_back(present[i]);
    return ordered;
}

unsigned failedRoundsInARow(const Series& series) {
    unsigned failed = 0, counted = 0;
    for (auto last = series.rounds.rbegin(); last != series.rounds.rend(); ++last) {
        if (last->upgraded()) {
            // Of a round with several VMs an earlier one may have been counted as failed already.
            return last->round == counted ? failed - 1 : failed;
        }
        if (last->round != counted) ++failed;
        counted = last->round;
    }
    return failed;
}

}  // namespace vh
