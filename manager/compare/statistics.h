// What can be said of a few dozen values that are not normally distributed: medians, and how far off they may be.
//
// The intervals are percentile intervals of the bootstrap. Its distribution is not approximated by resampling: a resample's
// median is an order statistic of the values (or the mean of two), and the chance of each follows from the binomial distribution.
// That is what ever more resamples converge to, so there is no seed, and the same values give the same interval everywhere.
#pragma once

#include <cstddef>
#include <vector>

namespace vh {

struct Interval {
    double median = 0;
    double low = 0;
    double high = 0;

    bool operator==(const Interval&) const = default;
};

/// With n values the true median lies outside of their smallest and greatest with a chance of 2/2^n: with fewer than these no
/// interval within the values holds it in 95 of 100 cases.
inline constexpr std::size_t valuesForInterval = 6;

// Of no values there is nothing to say: all of these throw std::invalid_argument then, and for a confidence that is not within 0
// and 1.

double median(std::vector<double> values);

/// By nearest rank: the smallest value that at least `percent` of 100 values do not exceed. It is one of the values.
double percentile(std::vector<double> values, double percent);

Interval medianInterval(std::vector<double> values, double confidence = 0.95);

/// median(values) / median(reference), of two samples that have nothing to do with each other. All of `reference` has to be above
/// 0.
Interval ratioOfMedians(std::vector<double> values, std::vector<double> reference, double confidence);

/// median(values) - median(reference), likewise.
Interval differenceOfMedians(std::vector<double> values, std::vector<double> reference, double confidence);

/// The chance that all of `first` values lie above all of `second` others of the same distribution. An interval that is to be
/// wrong less often than that cannot be had from so few.
double chanceOfSeparation(std::size_t first, std::size_t second);

/// Fisher's exact test, one-sided: the chance of `failed` or more failures among `tried` when these and the reference's fail
/// alike.
double chanceOfFailures(std::size_t failed, std::size_t tried, std::size_t referenceFailed, std::size_t referenceTried);

}  // namespace vh
