#include "manager/compare/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace vh {
namespace {

struct Mass {
    double value;
    double weight;
};

/// Logarithms, as factorials leave the range of double at 171.
class Factorials {
 public:
    explicit Factorials(std::size_t greatest) : logarithms_(greatest + 1) {
        for (std::size_t i = 2; i <= greatest; ++i) logarithms_[i] = logarithms_[i - 1] + std::log(static_cast<double>(i));
    }
    /// Of n over k.
    double logChoose(std::size_t n, std::size_t k) const { return logarithms_[n] - logarithms_[k] - logarithms_[n - k]; }

 private:
    std::vector<double> logarithms_;
};

void requireValues(const std::vector<double>& values) {
    if (values.empty()) throw std::invalid_argument("statistics of no values");
}

/// Half of what an interval of this confidence leaves outside.
double tailOf(double confidence) {
    if (!(confidence > 0 && confidence < 1)) throw std::invalid_argument("a confidence lies between 0 and 1");
    return (1 - confidence) / 2;
}

double middle(const std::vector<double>& sorted) {
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : sorted[half - 1] + (sorted[half] - sorted[half - 1]) / 2;
}

/// The chance that at least `least` of n draws succeed.
double binomialTail(const Factorials& factorials, std::size_t n, std::size_t least, double chance) {
    if (chance <= 0) return least == 0 ? 1 : 0;
    if (chance >= 1) return 1;
    double sum = 0;
    for (std::size_t k = least; k <= n; ++k)
        sum += std::exp(factorials.logChoose(n, k) + static_cast<double>(k) * std::log(chance) +
                        static_cast<double>(n - k) * std::log1p(-chance));
    return std::min(sum, 1.0);
}

/// The distribution of the median of n draws from these n values, by rising value.
std::vector<Mass> bootstrapMedians(const std::vector<double>& sorted) {
    const std::size_t n = sorted.size(), half = n / 2;
    const double size = static_cast<double>(n);
    const Factorials factorials(n);
    // The rank of a resample's median deviates from n/2 by sqrt(n)/2 on average; what is 16 times as far away does not occur.
    const auto reach = static_cast<std::size_t>(8 * std::sqrt(size)) + 1;
    const std::size_t first = half > reach ? half - reach : 0, last = std::min(n, half + reach + 1);
    constexpr double negligible = 1e-11;

    std::vector<Mass> medians;
    const auto add = [&medians](double value, double weight) {
        if (weight > negligible) medians.push_back({value, weight});
    };
    // Of n draws, number `lower` by size comes from rank i (from 0) or below when that many of them do.
    const std::size_t lower = n % 2 == 1 ? half + 1 : half;
    // Logarithm of the chance, but for a factor, that half of the draws come from `count` outermost ranks, the innermost of them
    // among.
    std::vector<double> outer(n + 1, -HUGE_VAL);
    for (std::size_t count = 1; count <= n; ++count) {
        const double all = static_cast<double>(count), exponent = static_cast<double>(half);
        outer[count] = exponent * std::log(all / size) + std::log1p(-std::pow((all - 1) / all, exponent));
    }
    double below = binomialTail(factorials, n, lower, static_cast<double>(first) / size);
    for (std::size_t i = first; i < last; ++i) {
        const double upTo = binomialTail(factorials, n, lower, static_cast<double>(i + 1) / size);
        double here = upTo - below;
        below = upTo;
        // Of an even number of draws the two in the middle may differ: half of the draws from i or below, half from j or above.
        for (std::size_t j = i + 1; n % 2 == 0 && j < n; ++j) {
            const double weight = std::exp(factorials.logChoose(n, half) + outer[i + 1] + outer[n - j]);
            if (weight < negligible / size) break;
            add(sorted[i] + (sorted[j] - sorted[i]) / 2, weight);
            here -= weight;
        }
        add(sorted[i], here);
    }
    std::ranges::sort(medians, {}, &Mass::value);
    const double sum =
        std::accumulate(medians.begin(), medians.end(), 0.0, [](double all, const Mass& m) { return all + m.weight; });
    std::vector<Mass> merged;
    for (const Mass& mass : medians) {
        if (merged.empty() || merged.back().value != mass.value) merged.push_back({mass.value, 0});
        merged.back().weight += mass.weight / sum;
    }
    return merged;
}

/// Sums of chances are exact to about this; an interval's end that hangs on less is put on the wider side.
constexpr double slack = 1e-12;

/// The distribution of operation(a, b) of two independent ones; the operation rises with a and has to be monotonous in b.
template <typename Operation>
class Combined {
 public:
    Combined(const std::vector<Mass>& first, const std::vector<Mass>& second, Operation operation)
        : second_(second), operation_(operation) {
        double sum = 0;
        sums_.push_back(0);
        for (const Mass& mass : first) {
            values_.push_back(mass.value);
            sums_.push_back(sum += mass.weight);
        }
        lowest_ = greatest_ = operation(values_.front(), second.front().value);
        for (const double a : {values_.front(), values_.back()})
            for (const double b : {second.front().value, second.back().value}) {
                lowest_ = std::min(lowest_, operation(a, b));
                greatest_ = std::max(greatest_, operation(a, b));
            }
    }

    /// The smallest value up to which at least `chance` lies.
    double quantile(double chance) const {
        double low = lowest_, high = greatest_;
        if (upTo(low) >= chance) return low;
        // Halving finds where it is but not exactly; which values there are tells the rest.
        for (int i = 0; i < 60; ++i) {
            const double between = low + (high - low) / 2;
            if (between <= low || between >= high) break;
            (upTo(between) >= chance ? high : low) = between;
        }
        double next = greatest_;
        for (const Mass& mass : second_) {
            const std::size_t count = notAbove(low, mass.value);
            if (count < values_.size()) next = std::min(next, operation_(values_[count], mass.value));
        }
        return next;
    }

 private:
    std::size_t notAbove(double limit, double b) const {
        const auto end = std::ranges::partition_point(values_, [&](double a) { return operation_(a, b) <= limit; });
        return static_cast<std::size_t>(end - values_.begin());
    }
    double upTo(double limit) const {
        double chance = 0;
        for (const Mass& mass : second_) chance += mass.weight * sums_[notAbove(limit, mass.value)];
        return chance;
    }

    std::vector<double> values_;
    std::vector<double> sums_;  ///< Of the weights of as many values.
    const std::vector<Mass>& second_;
    Operation operation_;
    double lowest_ = 0;
    double greatest_ = 0;
};

template <typename Operation>
Interval combine(std::vector<double> values, std::vector<double> reference, double confidence, Operation operation) {
    requireValues(values);
    requireValues(reference);
    const double tail = tailOf(confidence);
    std::ranges::sort(values);
    std::ranges::sort(reference);
    const std::vector<Mass> first = bootstrapMedians(values), second = bootstrapMedians(reference);
    const Combined combined(first, second, operation);
    return {operation(middle(values), middle(reference)), combined.quantile(tail - slack),
            combined.quantile(std::min(1 - tail + slack, 1 - slack))};
}

}  // namespace

double median(std::vector<double> values) {
    requireValues(values);
    std::ranges::sort(values);
    return middle(values);
}

double percentile(std::vector<double> values, double percent) {
    requireValues(values);
    if (!(percent >= 0 && percent <= 100)) throw std::invalid_argument("a percentile lies between 0 and 100");
    // 99 % of 100 values are 99 of them, also where 0.99 * 100 is a little more.
    const double rank = std::ceil(percent * static_cast<double>(values.size()) / 100 - 1e-9);
    const auto index = rank < 1 ? 0 : static_cast<std::ptrdiff_t>(rank) - 1;
    std::ranges::nth_element(values, values.begin() + index);
    return values[static_cast<std::size_t>(index)];
}

Interval medianInterval(std::vector<double> values, double confidence) {
    requireValues(values);
    const double tail = tailOf(confidence);
    std::ranges::sort(values);
    const std::vector<Mass> medians = bootstrapMedians(values);
    Interval interval{middle(values), values.front(), values.back()};
    double sum = 0;
    for (const Mass& mass : medians) {
        interval.low = mass.value;
        if ((sum += mass.weight) >= tail - slack) break;
    }
    sum = 0;
    for (auto mass = medians.rbegin(); mass != medians.rend(); ++mass) {
        interval.high = mass->value;
        if ((sum += mass->weight) >= tail - slack) break;
    }
    return interval;
}

double signTest(const Signs& signs) {
    const std::size_t behind = std::min(signs.greater, signs.smaller) + (signs.tied + 1) / 2, all = signs.all();
    if (all == 0) return 1;
    const Factorials factorials(all);
    // The chance of as few or fewer, which is that of as many or more of the others.
    return std::min(1.0, 2 * binomialTail(factorials, all, all - std::min(behind, all), 0.5));
}

std::vector<double> holm(const std::vector<double>& chances) {
    std::vector<std::size_t> order(chances.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, {}, [&chances](std::size_t i) { return chances[i]; });
    std::vector<double> corrected(chances.size());
    double least = 0;
    for (std::size_t place = 0; place < order.size(); ++place) {
        least = std::max(least, std::min(1.0, static_cast<double>(order.size() - place) * chances[order[place]]));
        corrected[order[place]] = least;
    }
    return corrected;
}

Interval ratioOfMedians(std::vector<double> values, std::vector<double> reference, double confidence) {
    if (std::ranges::any_of(reference, [](double value) { return !(value > 0); }))
        throw std::invalid_argument("a ratio to what is not above 0");
    return combine(std::move(values), std::move(reference), confidence, [](double a, double b) { return a / b; });
}

Interval differenceOfMedians(std::vector<double> values, std::vector<double> reference, double confidence) {
    return combine(std::move(values), std::move(reference), confidence, [](double a, double b) { return a - b; });
}

double chanceOfSeparation(std::size_t first, std::size_t second) {
    return std::exp(-Factorials(first + second).logChoose(first + second, first));
}

double chanceOfFailures(std::size_t failed, std::size_t tried, std::size_t referenceFailed, std::size_t referenceTried) {
    if (failed > tried || referenceFailed > referenceTried) throw std::invalid_argument("more failures than tries");
    const std::size_t all = tried + referenceTried, allFailed = failed + referenceFailed;
    const Factorials factorials(all);
    double chance = 0;
    for (std::size_t k = failed; k <= std::min(tried, allFailed); ++k)
        if (allFailed - k <= referenceTried)
            chance += std::exp(factorials.logChoose(tried, k) + factorials.logChoose(referenceTried, allFailed - k) -
                               factorials.logChoose(all, allFailed));
    return std::min(chance, 1.0);
}

}  // namespace vh
