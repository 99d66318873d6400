// Statistics of a few dozen values that are not normally distributed: medians, and how far off they may be.
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

/// An interval of few values holds the true median less often than it says: of 7 in 88 of 100 cases, of 12 and of 20 in some 93
/// (simulated). What decides is the sign test: of 12 values it can find a chance of 2/2^12, which stands the correction for 100
/// tests, and of 6 one of 2/2^6, which stands none.
inline constexpr std::size_t valuesForInterval = 12;

// All of these throw std::invalid_argument for no values, of which there is nothing to say, and for a confidence that is not
// within 0 and 1.

double median(std::vector<double> values);

/// The percentile by nearest rank: the smallest value that at least `percent` of 100 values do not exceed. It is one of the
/// values.
double percentile(std::vector<double> values, double percent);

Interval medianInterval(std::vector<double> values, double confidence = 0.95);

/// Counts of pairs: in how many of them the one, and in how many the other was greater. What is neither, or is not known, is
/// tied.
struct Signs {
    std::size_t greater = 0;
    std::size_t smaller = 0;
    std::size_t tied = 0;

    std::size_t all() const { return greater + smaller + tied; }
    bool operator==(const Signs&) const = default;
};

/// The exact sign test, two-sided: the chance that a fair coin would be as uneven. Ties count for both sides alike, the odd
/// one for the side that is behind: of what is not known nothing may follow. Of no pairs it is 1.
double signTest(const Signs& signs);

/// Holm's step-down procedure (S. Holm, Scandinavian Journal of Statistics 6, 1979): the chances of all tests of a family, so
/// corrected that with those below a level the chance of even one wrong claim is below that level. In the same order.
std::vector<double> holm(const std::vector<double>& chances);

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
