#include "manager/compare/brown_out.h"

#include <cmath>
#include <functional>

#include <gtest/gtest.h>

#include "manager/compare/results_file.h"

namespace vh {
namespace {

constexpr double began = 10'000;
constexpr double switched = 10'400;

/// Samples every 10 ms of a guest that writes at `rate` (pages per millisecond, by time), but for those in the hole.
std::vector<WriteSample> samplesOf(const std::function<double(double atMs)>& rate, double holeFrom = 0, double holeUntil = 0,
                                   double until = switched + 1700) {
    std::vector<WriteSample> samples;
    double pages = 5'000;
    for (double at = began - 1100; at <= until; ++at) {
        pages += rate(at);
        if (std::fmod(at, 10) == 3 && (at < holeFrom || at >= holeUntil))
            samples.push_back({at, static_cast<std::uint64_t>(std::llround(pages))});
    }
    return samples;
}

/// Stopped for 100 ms before the switch, and at `part` of its rate for `forMs` after it.
std::function<double(double)> dip(double part, double forMs) {
    return [=](double at) {
        if (at > switched - 100 && at <= switched) return 0.0;
        return at > switched && at <= switched + forMs ? 50 * part : 50;
    };
}

TEST(BrownOut, isNothingForAGuestThatNeverSlowsDown) {
    const BrownOut result = brownOut(samplesOf([](double) { return 50; }), began, switched);
    EXPECT_NEAR(result.beforePagesPerSecond.value(), 50'000, 50);
    EXPECT_NEAR(result.brownOutMs.value(), 0, 0.01);
    EXPECT_EQ(result.binMs, 25);
    EXPECT_EQ(result.firstBinMs, -500);
    ASSERT_EQ(result.curvePercent.size(), 80U);
    for (const auto& percent : result.curvePercent) EXPECT_NEAR(percent.value(), 100, 1);
}

TEST(BrownOut, tellsTheWorkThatWasLostWithThePause) {
    EXPECT_NEAR(brownOut(samplesOf([](double) { return 50; }), began, switched).workLostMs.value(), 0, 1);
    // 100 ms of nothing, and 400 ms at 30 %.
    EXPECT_NEAR(brownOut(samplesOf(dip(0.3, 400), switched - 100, switched), began, switched).workLostMs.value(), 380, 2);
    // Not back when the window ends: as much as can be seen.
    EXPECT_NEAR(brownOut(samplesOf(dip(0.5, 9'000)), began, switched).workLostMs.value(), 100 + 850, 10);
    // Nothing can be said over a counter that went back.
    auto anew = samplesOf(dip(1, 0));
    for (WriteSample& sample : anew)
        if (sample.atMs > switched) sample.pages -= 5'000;
    EXPECT_FALSE(brownOut(anew, began, switched).workLostMs.has_value());
}

TEST(BrownOut, doesNotCountThePauseItself) {
    const BrownOut result = brownOut(samplesOf(dip(1, 0), switched - 100, switched), began, switched);
    EXPECT_NEAR(result.brownOutMs.value(), 0, 1);
    EXPECT_NEAR(result.curvePercent.at(20).value(), 100, 15) << "the first bin after the switch";
    EXPECT_LT(result.curvePercent.at(18).value(), 15) << "in the pause";
}

TEST(BrownOut, lastsUntilTheGuestWritesAsFastAsBefore) {
    const BrownOut result = brownOut(samplesOf(dip(0.3, 400), switched - 100, switched), began, switched);
    // A span of 100 ms with 7.1 ms at 30 % in it is at 95 %.
    EXPECT_NEAR(result.brownOutMs.value(), 400 - 7.1, 3);
    EXPECT_NEAR(result.curvePercent.at(24).value(), 30, 2);
    EXPECT_NEAR(result.curvePercent.at(40).value(), 100, 2);
}

TEST(BrownOut, isFollowedForAsLongAsTheGuestIsHeard) {
    // As of a working set that takes 4 s to be mapped again.
    const BrownOut result = brownOut(samplesOf(dip(0.5, 4'000), switched - 100, switched, switched + 8'000), began, switched);
    EXPECT_NEAR(result.brownOutMs.value(), 4'000 - 10, 3);
    EXPECT_NEAR(result.workLostMs.value(), 100 + 2'000, 10);
    EXPECT_EQ(result.curvePercent.size(), 80U) << "the curve is as long as those of all";
}

TEST(BrownOut, isUnknownWhenTheGuestDoesNotRecoverWithinTheWindow) {
    const BrownOut result = brownOut(samplesOf(dip(0.9, 5'000), switched - 100, switched), began, switched);
    EXPECT_FALSE(result.brownOutMs.has_value());
    EXPECT_NEAR(result.curvePercent.back().value(), 90, 2);
}

TEST(BrownOut, isUnknownWhenTheSamplesEndTooEarly) {
    const BrownOut result = brownOut(samplesOf(dip(0.3, 400), switched - 100, switched, switched + 200), began, switched);
    EXPECT_FALSE(result.brownOutMs.has_value());
    EXPECT_TRUE(result.curvePercent.at(26).has_value());
    EXPECT_FALSE(result.curvePercent.at(28).has_value());
}

TEST(BrownOut, takesTheRateBeforeFromTheMedianOfSpans) {
    const auto hiccup = [](double at) { return at > began - 500 && at <= began - 400 ? 0.0 : 50.0; };
    EXPECT_NEAR(brownOut(samplesOf(hiccup), began, switched).beforePagesPerSecond.value(), 50'000, 50);
}

TEST(BrownOut, goesStraightOverAHoleBetweenSamples) {
    const BrownOut result = brownOut(samplesOf([](double) { return 50; }, switched + 300, switched + 600), began, switched);
    for (const auto& percent : result.curvePercent) EXPECT_NEAR(percent.value(), 100, 1);
}

TEST(BrownOut, saysNothingAcrossACounterThatGoesBack) {
    std::vector<WriteSample> samples = samplesOf([](double) { return 50; });
    for (WriteSample& sample : samples)
        if (sample.atMs > switched) sample.pages -= 80'000;
    const BrownOut result = brownOut(samples, began, switched);
    EXPECT_TRUE(result.curvePercent.at(18).has_value());
    EXPECT_FALSE(result.curvePercent.at(20).has_value()) << "the switch";
    EXPECT_NEAR(result.curvePercent.at(22).value(), 100, 1);
    EXPECT_NEAR(result.brownOutMs.value(), 3, 0.01) << "from the first sample after it";
}

TEST(BrownOut, saysNothingOfAGuestThatDoesNotWrite) {
    const BrownOut result = brownOut(samplesOf([](double) { return 0; }), began, switched);
    EXPECT_EQ(result.beforePagesPerSecond, 0);
    EXPECT_FALSE(result.brownOutMs.has_value());
    for (const auto& percent : result.curvePercent) EXPECT_FALSE(percent.has_value());
}

TEST(BrownOut, saysNothingWithoutSamples) {
    const BrownOut result = brownOut({}, began, switched);
    EXPECT_FALSE(result.beforePagesPerSecond.has_value());
    EXPECT_FALSE(result.brownOutMs.has_value());
    EXPECT_EQ(result.curvePercent.size(), 80U);
}

TEST(BrownOut, isNullInJsonWhereItIsUnknown) {
    Round round;
    round.writeRate = brownOut({}, began, switched, {1000, 100, 0.95, 25, -25, 25});
    EXPECT_EQ(toJson(round).at("writeRate").dump(),
              R"({"beforePagesPerSecond":null,"binMs":25.0,"brownOutMs":null,"curvePercent":[null,null],"firstBinMs":-25.0})");
}

}  // namespace
}  // namespace vh
