#include "manager/compare/brown_out.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "manager/compare/statistics.h"

namespace vh {
namespace {

/// The counter as a function of time: straight between samples; with a seam where it went back, over which nothing can be said.
class Counter {
 public:
    explicit Counter(std::vector<WriteSample> samples) {
        std::ranges::stable_sort(samples, {}, &WriteSample::atMs);
        int part = 0;
        for (const WriteSample& sample : samples) {
            if (!points_.empty() && static_cast<double>(sample.pages) < points_.back().pages) ++part;
            points_.push_back({sample.atMs, static_cast<double>(sample.pages), part});
        }
    }

    /// Pages written between two moments; none when a sample is missing at either side or the counter went back in between.
    std::optional<double> written(double from, double until) const {
        const std::optional<Point> first = at(from), last = at(until);
        if (!first || !last || first->part != last->part) return std::nullopt;
        return last->pages - first->pages;
    }

    /// At the switch the guest comes out of a pause. A line over the whole of it would say that the guest wrote in the pause what
    /// it wrote between the switch and the next sample; so that little time is taken to have been at full speed.
    void resumeAt(double atMs, double pagesPerMs, double longestMs) {
        const auto next = std::ranges::lower_bound(points_, atMs, {}, &Point::atMs);
        if (next == points_.begin() || next == points_.end() || std::prev(next)->part != next->part) return;
        const double after = next->atMs - atMs;
        if (after > longestMs || after <= 0) return;
        const double pages = std::max(std::prev(next)->pages, next->pages - pagesPerMs * after);
        points_.insert(next, {atMs, pages, next->part});
    }

    std::vector<double> times() const {
        std::vector<double> all;
        for (const Point& point : points_) all.push_back(point.atMs);
        return all;
    }

 private:
    struct Point {
        double atMs;
        double pages;
        int part;
    };

    std::optional<Point> at(double atMs) const {
        const auto next = std::ranges::lower_bound(points_, atMs, {}, &Point::atMs);
        if (next == points_.end()) return std::nullopt;
        if (next->atMs == atMs) return *next;
        if (next == points_.begin()) return std::nullopt;
        const Point& previous = *std::prev(next);
        if (previous.part != next->part) return std::nullopt;
        const double part = (atMs - previous.atMs) / (next->atMs - previous.atMs);
        return Point{atMs, std::lerp(previous.pages, next->pages, part), next->part};
    }

    std::vector<Point> points_;
};

std::optional<double> medianRate(const Counter& counter, double beganAtMs, const BrownOutWindow& window) {
    std::vector<double> rates;  // Pages per millisecond.
    for (double until = beganAtMs; until - window.spanMs >= beganAtMs - window.beforeMs; until -= window.spanMs)
        if (const auto pages = counter.written(until - window.spanMs, until)) rates.push_back(*pages / window.spanMs);
    if (rates.empty()) return std::nullopt;
    return median(std::move(rates));
}

/// The first moment from which on the mean over a span is enough.
std::optional<double> recovery(const Counter& counter, double switchedAtMs, double last, double enoughPages,
                               const BrownOutWindow& window) {
    // What is written over a span is, as a function of when that begins, straight between these moments.
    std::vector<double> moments{switchedAtMs};
    for (const double time : counter.times())
        for (const double moment : {time, time - window.spanMs})
            if (moment > switchedAtMs && moment <= last) moments.push_back(moment);
    std::ranges::sort(moments);
    // Counters are whole numbers and times are not: what misses by less than a page does not miss.
    constexpr double slack = 1e-6;
    double previous = switchedAtMs, previousMissing = 0;  // Of the moment before, when it was known and not enough: above 0.
    for (const double moment : moments) {
        const auto pages = counter.written(moment, moment + window.spanMs);
        if (!pages) {
            previousMissing = 0;
            continue;
        }
        const double missing = enoughPages * (1 - slack) - *pages;
        if (missing <= 0) {
            if (previousMissing <= 0) return moment - switchedAtMs;
            return std::lerp(previous, moment, previousMissing / (previousMissing - missing)) - switchedAtMs;
        }
        previousMissing = missing;
        previous = moment;
    }
    return std::nullopt;
}

/// What was not written between two moments, as far as samples reach, in the time that it would have taken.
std::optional<double> workLost(const Counter& counter, double beganAtMs, double endMs, double pagesPerMs) {
    std::optional<double> from, until;
    for (const double time : counter.times()) {
        if (time >= beganAtMs && !from) from = time;
        if (time <= endMs) until = time;
    }
    if (!from || !until || *until <= *from) return std::nullopt;
    const std::optional<double> pages = counter.written(*from, *until);
    return pages ? std::optional(*until - *from - *pages / pagesPerMs) : std::nullopt;
}

/// The samples say no more than tenths.
std::optional<double> rounded(const std::optional<double>& number) {
    return number ? std::optional(std::round(*number * 10) / 10) : std::nullopt;
}

}  // namespace

BrownOut brownOut(std::vector<WriteSample> samples, double beganAtMs, double switchedAtMs, const BrownOutWindow& window) {
    Counter counter(std::move(samples));
    BrownOut result;
    result.binMs = window.binMs;
    result.firstBinMs = window.firstBinMs;
    const std::optional<double> before = medianRate(counter, beganAtMs, window);
    if (before) result.beforePagesPerSecond = rounded(*before * 1000);
    const bool known = before && *before > 0;
    if (known) {
        // A great working set takes longer to come back than a curve is drawn for.
        const double end = std::max(switchedAtMs + window.endMs, counter.times().back());
        result.workLostMs = rounded(workLost(counter, beganAtMs, end, *before));
        counter.resumeAt(switchedAtMs, *before, window.binMs);
        result.brownOutMs = rounded(recovery(counter, switchedAtMs, end, *before * window.spanMs * window.enoughPart, window));
    }
    const auto bins = static_cast<int>(std::lround((window.endMs - window.firstBinMs) / window.binMs));
    for (int bin = 0; bin < bins; ++bin) {
        const double from = switchedAtMs + window.firstBinMs + bin * window.binMs;
        const auto pages = counter.written(from, from + window.binMs);
        result.curvePercent.push_back(known && pages ? rounded(100 * *pages / (*before * window.binMs)) : std::nullopt);
    }
    return result;
}

}  // namespace vh
