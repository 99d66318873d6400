#include "manager/compare/round_order.h"

#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vh {
namespace {

using testing::Each;
using testing::SizeIs;

/// How often each is at each place, and comes next after each other.
struct Balance {
    std::map<std::pair<std::size_t, std::size_t>, int> places, neighbours;

    explicit Balance(const std::vector<std::vector<std::size_t>>& rows) {
        for (const auto& row : rows)
            for (std::size_t place = 0; place < row.size(); ++place) {
                ++places[{row[place], place}];
                if (place > 0) ++neighbours[{row[place - 1], row[place]}];
            }
    }
    bool isEven(std::size_t designs) const {
        const auto alike = [](const auto& counts) {
            std::set<int> found;
            for (const auto& [what, count] : counts) found.insert(count);
            return found.size() <= 1;
        };
        return places.size() == designs * designs && neighbours.size() == designs * (designs - 1) && alike(places) &&
               alike(neighbours);
    }
};

std::vector<std::vector<std::size_t>> rounds(std::size_t count, std::size_t designs, std::uint64_t seed) {
    std::vector<std::vector<std::size_t>> orders;
    for (std::size_t round = 0; round < count; ++round) orders.push_back(orderOf(round, designs, seed, 3));
    return orders;
}

TEST(RoundOrder, givesEachDesignEachPlaceAndEachPredecessorEquallyOften) {
    for (const std::size_t designs : {1u, 2u, 3u, 4u, 5u, 6u}) {
        const auto rows = williamsRows(designs);
        EXPECT_THAT(rows, SizeIs(designs % 2 == 1 && designs > 1 ? 2 * designs : designs));
        EXPECT_TRUE(Balance(rows).isEven(designs)) << designs;
        EXPECT_TRUE(Balance(rounds(3 * rows.size(), designs, 7)).isEven(designs)) << designs;
    }
    EXPECT_THAT(williamsRows(0), SizeIs(0));
    EXPECT_THAT(orderOf(0, 0, 1, 1), SizeIs(0));
}

TEST(RoundOrder, isDrawnFromTheSeedAndTheSameForTheSameOne) {
    EXPECT_EQ(rounds(20, 5, 7), rounds(20, 5, 7));
    EXPECT_NE(rounds(20, 5, 7), rounds(20, 5, 8));
    EXPECT_NE(orderOf(0, 6, 7, 1), orderOf(0, 6, 7, 2));
    // No fixed rows: each design has a first turn somewhere among the seeds.
    std::set<std::size_t> firsts;
    for (std::uint64_t seed = 0; seed < 50; ++seed) firsts.insert(orderOf(0, 6, seed, 0).front());
    EXPECT_THAT(firsts, SizeIs(6));
}

/// Series of designs that run, the last of which has only two rounds.
struct Planned {
    std::vector<Series> all{{.design = Design::Relayed, .notRun = {}, .rounds = {}, .inspection = {}},
                            {.design = Design::VmmOwned, .notRun = {}, .rounds = {}, .inspection = {}},
                            {.design = Design::Copy, .notRun = {}, .rounds = {}, .inspection = {}}};

    std::vector<std::vector<Design>> orders(unsigned rounds) const {
        std::vector<const Series*> pointers;
        for (const Series& one : all) pointers.push_back(&one);
        std::vector<std::vector<Design>> found;
        for (unsigned round = 1; round <= rounds; ++round) {
            std::vector<Design>& order = found.emplace_back();
            for (const Series* one : seriesInOrder(
                     pointers, round, [](Design design) { return design == Design::Copy ? 6u : 10u; }, 42, 0))
                order.push_back(one->design);
        }
        return found;
    }
};

TEST(RoundOrder, isBalancedWithAndWithoutTheDesignsThatHaveFewerRounds) {
    std::map<Design, std::map<std::size_t, int>> with, without;
    const auto orders = Planned().orders(10);
    for (std::size_t round = 0; round < orders.size(); ++round) {
        ASSERT_THAT(orders[round], SizeIs(round < 6 ? 3 : 2));
        for (std::size_t place = 0; place < orders[round].size(); ++place)
            ++(round < 6 ? with : without)[orders[round][place]][place];
    }
    for (const auto& [design, places] : with) EXPECT_EQ(places, (std::map<std::size_t, int>{{0, 2}, {1, 2}, {2, 2}}));
    for (const auto& [design, places] : without) EXPECT_EQ(places, (std::map<std::size_t, int>{{0, 2}, {1, 2}}));
}

TEST(RoundOrder, keepsThePlaceOfWhatWasGivenUpButOfNothingThatNeverRan) {
    Planned planned;
    const auto whole = planned.orders(10);
    planned.all[1].rounds.push_back({});
    planned.all[1].notRun = "given up";
    EXPECT_EQ(planned.orders(10), whole);
    planned.all[1].rounds.clear();
    for (const auto& order : planned.orders(6)) EXPECT_THAT(order, SizeIs(2));
}

Series seriesOf(const std::vector<std::pair<unsigned, Outcome>>& rounds) {
    Series series;
    unsigned vm = 0;
    for (const auto& [number, outcome] : rounds) {
        Round& round = series.rounds.emplace_back();
        round.round = number;
        round.vm = ++vm;
        round.outcome = outcome;
    }
    return series;
}

TEST(RoundOrder, countsRoundsThatFailedAndNotTheirVms) {
    using enum Outcome;
    EXPECT_EQ(failedRoundsInARow(seriesOf({})), 0u);
    EXPECT_EQ(failedRoundsInARow(seriesOf({{1, RolledBack}, {1, RolledBack}, {1, RolledBack}})), 1u) << "one round of three VMs";
    EXPECT_EQ(failedRoundsInARow(seriesOf({{1, Upgraded}, {2, Lost}, {3, RolledBack}, {4, Silent}})), 3u);
    EXPECT_EQ(failedRoundsInARow(seriesOf({{1, Lost}, {2, Upgraded}})), 0u);
    EXPECT_EQ(failedRoundsInARow(seriesOf({{1, Lost}, {1, Lost}, {2, Upgraded}, {2, Lost}})), 0u) << "one VM was upgraded";
    EXPECT_EQ(failedRoundsInARow(seriesOf({{1, Upgraded}, {1, Upgraded}, {2, Lost}, {2, Lost}})), 1u);
}

}  // namespace
}  // namespace vh
