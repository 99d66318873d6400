#include "manager/compare/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include <gtest/gtest.h>

#include "tests/support/sample_results.h"

namespace vh {
namespace {

std::vector<double> upTo(std::size_t n) {
    std::vector<double> values(n);
    std::iota(values.begin(), values.end(), 1.0);
    return values;
}

/// The interval as everybody makes it, for comparison.
Interval byResampling(const std::vector<double>& values, double confidence, std::size_t resamples, std::uint64_t seed) {
    Draws draws(seed);
    std::vector<double> medians, resample(values.size());
    for (std::size_t i = 0; i < resamples; ++i) {
        for (double& value : resample) value = values[draws.below(values.size())];
        medians.push_back(median(resample));
    }
    const double tail = 100 * (1 - confidence) / 2;
    return {median(values), percentile(medians, tail), percentile(medians, 100 - tail)};
}

TEST(Statistics, knowsTheMiddleOfOddAndEvenNumbersOfValues) {
    EXPECT_EQ(median({3}), 3);
    EXPECT_EQ(median({9, 1, 5}), 5);
    EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
    EXPECT_EQ(median({-1, -3}), -2);
}

TEST(Statistics, takesPercentilesByNearestRank) {
    // The textbook's example of that method.
    EXPECT_EQ(percentile({15, 20, 35, 40, 50}, 5), 15);
    EXPECT_EQ(percentile({15, 20, 35, 40, 50}, 30), 20);
    EXPECT_EQ(percentile({15, 20, 35, 40, 50}, 40), 20);
    EXPECT_EQ(percentile({50, 15, 40, 20, 35}, 50), 35);
    EXPECT_EQ(percentile({15, 20, 35, 40, 50}, 100), 50);
    EXPECT_EQ(percentile({15, 20, 35, 40, 50}, 0), 15);
    EXPECT_EQ(percentile(upTo(100), 99), 99);
    EXPECT_EQ(percentile(upTo(200), 99), 198);
    EXPECT_EQ(percentile(upTo(101), 99), 100);
}

TEST(Statistics, saysNothingOfNoValues) {
    EXPECT_THROW(median({}), std::invalid_argument);
    EXPECT_THROW(percentile({}, 99), std::invalid_argument);
    EXPECT_THROW(medianInterval({}), std::invalid_argument);
    EXPECT_THROW(ratioOfMedians({}, {1}, 0.95), std::invalid_argument);
    EXPECT_THROW(ratioOfMedians({1}, {}, 0.95), std::invalid_argument);
    EXPECT_THROW(differenceOfMedians({1}, {}, 0.95), std::invalid_argument);
}

TEST(Statistics, refusesWhatIsNoConfidence) {
    EXPECT_THROW(medianInterval({1, 2}, 1), std::invalid_argument);
    EXPECT_THROW(medianInterval({1, 2}, 95), std::invalid_argument);
    EXPECT_THROW(medianInterval({1, 2}, 0), std::invalid_argument);
    EXPECT_THROW(percentile({1, 2}, 101), std::invalid_argument);
}

TEST(Statistics, refusesARatioToNothing) {
    EXPECT_THROW(ratioOfMedians({1, 2}, {0, 1}, 0.95), std::invalid_argument);
    EXPECT_THROW(ratioOfMedians({1, 2}, {-1, 1}, 0.95), std::invalid_argument);
}

TEST(Statistics, knowsTheIntervalOfThreeValuesByHeart) {
    // Of 27 resamples 7 have the smallest as their median, 13 the middle one and 7 the greatest.
    EXPECT_EQ(medianInterval({3, 1, 2}, 0.95), (Interval{2, 1, 3}));
    EXPECT_EQ(medianInterval({3, 1, 2}, 1 - 2 * 6.9 / 27), (Interval{2, 1, 3}));
    EXPECT_EQ(medianInterval({3, 1, 2}, 1 - 2 * 7.1 / 27), (Interval{2, 2, 2}));
}

TEST(Statistics, knowsTheIntervalOfTwoValuesByHeart) {
    // Both draws are the first, or both the second, with a chance of a quarter each.
    EXPECT_EQ(medianInterval({1, 2}, 0.55), (Interval{1.5, 1, 2}));
    EXPECT_EQ(medianInterval({1, 2}, 0.45), (Interval{1.5, 1.5, 1.5}));
}

TEST(Statistics, isWhatResamplingConvergesTo) {
    for (const std::size_t n : {5u, 6u, 10u, 29u, 30u, 101u}) {
        const std::vector<double> values = times(20, n, n, 0.4);
        const Interval exact = medianInterval(values), drawn = byResampling(values, 0.95, 10'000, 7);
        EXPECT_EQ(exact.median, drawn.median);
        EXPECT_NEAR(exact.low, drawn.low, 0.02 * exact.median) << n;
        EXPECT_NEAR(exact.high, drawn.high, 0.02 * exact.median) << n;
    }
}

TEST(Statistics, hasOneIntervalForValuesThatAreAlike) {
    EXPECT_EQ(medianInterval(std::vector<double>(30, 4.5)), (Interval{4.5, 4.5, 4.5}));
    EXPECT_EQ(ratioOfMedians(std::vector<double>(7, 3), std::vector<double>(8, 2), 0.999), (Interval{1.5, 1.5, 1.5}));
    EXPECT_EQ(differenceOfMedians(std::vector<double>(7, 0), std::vector<double>(8, 0), 0.999), (Interval{0, 0, 0}));
}

TEST(Statistics, doesNotDependOnTheOrderOfValues) {
    std::vector<double> values = times(20, 30, 1), other = times(22, 30, 2);
    const Interval interval = medianInterval(values), ratio = ratioOfMedians(values, other, 0.999);
    std::ranges::reverse(values);
    EXPECT_EQ(medianInterval(values), interval);
    EXPECT_EQ(ratioOfMedians(values, other, 0.999), ratio);
}

TEST(Statistics, hasTheSameIntervalOnBothSidesOfTheMedian) {
    for (const std::size_t n : {6u, 7u, 30u, 31u}) {
        const Interval interval = medianInterval(upTo(n));
        EXPECT_DOUBLE_EQ(interval.median - interval.low, interval.high - interval.median) << n;
    }
}

TEST(Statistics, copesWithManyValues) {
    const Interval even = medianInterval(upTo(10'000)), odd = medianInterval(upTo(10'001));
    // The normal approximation of the median's rank: 1.96 * sqrt(n) / 2.
    EXPECT_NEAR(even.median - even.low, 98, 2);
    EXPECT_NEAR(odd.high - odd.median, 98, 2);
}

TEST(Statistics, holdsTheTrueMedianAsOftenAsItClaims) {
    Draws draws(20260102);
    for (const std::size_t n : {10u, 30u, 31u}) {
        int held = 0;
        constexpr int samples = 2000;
        for (int i = 0; i < samples; ++i) {
            std::vector<double> values(n);
            for (double& value : values) value = draws.logNormal(20, 0.5);
            const Interval interval = medianInterval(values);
            held += interval.low <= 20 && 20 <= interval.high;
        }
        EXPECT_GT(held, samples * 0.92) << n;
        EXPECT_LT(held, samples * 0.98) << n;
    }
}

TEST(Statistics, comparesMediansOfTwoSamplesLikeResamplingDoes) {
    const std::vector<double> values = times(30, 20, 3, 0.3), reference = times(20, 25, 4, 0.3);
    Draws draws(5);
    std::vector<double> ratios, differences, one(values.size()), other(reference.size());
    for (int i = 0; i < 10'000; ++i) {
        for (double& value : one) value = values[draws.below(values.size())];
        for (double& value : other) value = reference[draws.below(reference.size())];
        ratios.push_back(median(one) / median(other));
        differences.push_back(median(one) - median(other));
    }
    const Interval ratio = ratioOfMedians(values, reference, 0.95), difference = differenceOfMedians(values, reference, 0.95);
    EXPECT_EQ(ratio.median, median(values) / median(reference));
    EXPECT_NEAR(ratio.low, percentile(ratios, 2.5), 0.02);
    EXPECT_NEAR(ratio.high, percentile(ratios, 97.5), 0.02);
    EXPECT_NEAR(difference.low, percentile(differences, 2.5), 0.4);
    EXPECT_NEAR(difference.high, percentile(differences, 97.5), 0.4);
}

TEST(Statistics, hasEndsOfAnIntervalThatValuesCanMake) {
    // No rounding may make a little more than nothing of nothing.
    const Interval difference = differenceOfMedians({0, 0, 0, 0, 0, 0, 0, 0, 1, 3}, {0, 0, 0, 0, 0, 0, 0, 0, 2, 1}, 0.5);
    EXPECT_EQ(difference.low, 0);
    const Interval ratio = ratioOfMedians({3, 3, 3, 3, 3, 3, 3, 3, 7, 1}, {3, 3, 3, 3, 3, 3, 3, 3, 5, 2}, 0.5);
    EXPECT_EQ(ratio, (Interval{1, 1, 1}));
}

TEST(Statistics, knowsTheSignTestOfTheTextbook) {
    EXPECT_EQ(signTest({}), 1);
    EXPECT_NEAR(signTest({.greater = 5, .smaller = 0}), 2.0 / 32, 1e-12);
    EXPECT_NEAR(signTest({.greater = 1, .smaller = 9}), 2 * 11.0 / 1024, 1e-12);
    EXPECT_NEAR(signTest({.greater = 9, .smaller = 1}), 2 * 11.0 / 1024, 1e-12);
    EXPECT_EQ(signTest({.greater = 4, .smaller = 4}), 1);
    EXPECT_NEAR(signTest({.greater = 180}), 2 * std::pow(0.5, 180), 1e-60);
}

TEST(Statistics, hasTiesSpeakAgainstWhatASignTestWouldShow) {
    // Nine of ten with one tie are as eight of ten and one half on each side, rounded to the side behind.
    EXPECT_EQ(signTest({.greater = 9, .smaller = 0, .tied = 1}), signTest({.greater = 9, .smaller = 1}));
    EXPECT_EQ(signTest({.greater = 8, .smaller = 0, .tied = 2}), signTest({.greater = 9, .smaller = 1}));
    EXPECT_EQ(signTest({.tied = 30}), 1);
    EXPECT_EQ(signTest({.greater = 1, .tied = 1}), 1);
}

TEST(Statistics, correctsForManyTestsAsHolmDid) {
    EXPECT_EQ(holm({}), std::vector<double>{});
    EXPECT_EQ(holm({0.03}), std::vector<double>{0.03});
    const std::vector<double> corrected = holm({0.01, 0.04, 0.03, 0.005});
    const std::vector<double> expected{0.03, 0.06, 0.06, 0.02};
    ASSERT_EQ(corrected.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(corrected[i], expected[i], 1e-12);
    EXPECT_EQ(holm({0.5, 0.9, 1}), (std::vector<double>{1, 1, 1}));
}

/// So many tests of what does not differ, and how often one of them shows a difference.
TEST(Statistics, claimsSomethingWrongInFewFamiliesOnly) {
    Draws draws(20260301);
    int wrong = 0;
    constexpr int families = 400;
    for (int family = 0; family < families; ++family) {
        std::vector<double> chances;
        for (int test = 0; test < 36; ++test) {
            Signs signs;
            for (int round = 0; round < 30; ++round) ++(draws.uniform() < 0.5 ? signs.greater : signs.smaller);
            chances.push_back(signTest(signs));
        }
        wrong += std::ranges::min(holm(chances)) < 0.05;
    }
    EXPECT_LT(wrong, families * 0.06);
}

TEST(Statistics, isWiderTheSurerItIsToBe) {
    const std::vector<double> values = times(30, 20, 3, 0.3), reference = times(20, 25, 4, 0.3);
    const Interval sure = ratioOfMedians(values, reference, 0.9999), less = ratioOfMedians(values, reference, 0.9);
    EXPECT_LT(sure.low, less.low);
    EXPECT_GT(sure.high, less.high);
}

TEST(Statistics, knowsHowOftenChanceSeparatesTwoSamples) {
    EXPECT_NEAR(chanceOfSeparation(1, 1), 1.0 / 2, 1e-12);
    EXPECT_NEAR(chanceOfSeparation(2, 2), 1.0 / 6, 1e-12);
    EXPECT_NEAR(chanceOfSeparation(10, 10), 1.0 / 184756, 1e-15);
}

TEST(Statistics, knowsFishersExactTest) {
    // His tea: all four cups of one kind found, and three of them.
    EXPECT_NEAR(chanceOfFailures(4, 4, 0, 4), 1.0 / 70, 1e-12);
    EXPECT_NEAR(chanceOfFailures(3, 4, 1, 4), 17.0 / 70, 1e-12);
    EXPECT_EQ(chanceOfFailures(0, 10, 3, 10), 1);
    EXPECT_THROW(chanceOfFailures(2, 1, 0, 1), std::invalid_argument);
}

}  // namespace
}  // namespace vh
