// Walks the handover table, first through what must fail, and keeps its picture in manager/README.md true.
#include "manager/record/handover_table.h"

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/manager/golden.h"

namespace vh {
namespace {

using testing::AnyOf;
using testing::Each;
using testing::UnorderedElementsAre;

std::vector<State> allStates() {
    std::vector<State> states;
    for (std::size_t i = 0; i < stateCount; ++i) states.push_back(static_cast<State>(i));
    return states;
}

std::vector<Event> allEvents() {
    std::vector<Event> events;
    for (std::size_t i = 0; i < eventCount; ++i) events.push_back(static_cast<Event>(i));
    return events;
}

constexpr Event misfortunes[] = {Event::Failed, Event::TimedOut, Event::NewDied, Event::OldDied, Event::Cancelled};

/// Every state that can follow, the given one among them.
std::set<State> reachableFrom(State state) {
    std::set<State> seen{state};
    std::vector<State> open{state};
    while (!open.empty()) {
        const State here = open.back();
        open.pop_back();
        if (isFinal(here)) continue;
        for (const Event event : allEvents())
            if (seen.insert(next(here, event)).second) open.push_back(next(here, event));
    }
    return seen;
}

/// Where a handover ends to which nothing happens any more but that its work is done.
State endOf(State state) {
    while (!isFinal(state)) state = next(state, Event::Done);
    return state;
}

/// Whether a state has other answers with passed-through devices.
bool isOtherwise(State state) {
    for (const Event event : allEvents())
        if (next(state, event, true) != next(state, event)) return true;
    return false;
}

TEST(HandoverTable, refusesWhatGoesWrongBeforeAnythingIsTouched) {
    for (const Event event : {Event::Failed, Event::TimedOut, Event::NewDied, Event::Cancelled})
        EXPECT_EQ(next(State::Preflight, event), State::Refused) << name(event);
    EXPECT_EQ(next(State::Preflight, Event::OldDied), State::Lost);
}

TEST(HandoverTable, rollsBackWhateverGoesWrongBeforeThePointOfNoReturn) {
    for (const State state :
         {State::Launching, State::Exchanging, State::Verifying, State::StandingBy, State::Switching, State::Proving})
        for (const Event event : {Event::Failed, Event::TimedOut, Event::NewDied, Event::Cancelled}) {
            EXPECT_EQ(next(state, event), State::Discarding) << name(state) << ": " << name(event);
            EXPECT_EQ(endOf(next(state, event)), State::RolledBack) << name(state) << ": " << name(event);
        }
}

TEST(HandoverTable, isLostWhenTheOldVmmDiesBeforeItHandedEverythingOver) {
    for (const State state :
         {State::Launching, State::Exchanging, State::Verifying, State::StandingBy, State::Discarding, State::Resuming})
        EXPECT_EQ(next(state, Event::OldDied), State::Lost) << name(state);
}

TEST(HandoverTable, goesOnWithTheNewVmmWhenTheOldOneDiesAfterThat) {
    EXPECT_EQ(next(State::Switching, Event::OldDied), State::Proving);
    EXPECT_EQ(endOf(next(State::Proving, Event::OldDied)), State::Upgraded);
    EXPECT_EQ(endOf(next(State::Confirming, Event::OldDied)), State::Upgraded);
    for (const State state : {State::Retiring, State::Ending})
        EXPECT_EQ(endOf(next(state, Event::OldDied)), State::Upgraded) << name(state);
}

TEST(HandoverTable, neverGivesTheGuestBackWhenTheNewVmmMayHaveRunIt) {
    for (const Event event : {Event::TimedOut, Event::NewDied})
        EXPECT_EQ(next(State::Confirming, event), State::Lost) << name(event);
    for (const Event event : misfortunes)
        EXPECT_THAT(reachableFrom(next(State::Retiring, event)),
                    Each(AnyOf(State::Retiring, State::Ending, State::Upgraded, State::Lost)))
            << name(event);
}

TEST(HandoverTable, givesTheGuestBackWhenTheNewVmmSaysThatItDidNotRunIt) {
    EXPECT_EQ(endOf(next(State::Confirming, Event::Failed)), State::RolledBack);
}

TEST(HandoverTable, isNotStoppedByAPersonPastThePointOfNoReturn) {
    for (const State state : {State::Confirming, State::Retiring, State::Discarding, State::Resuming, State::Ending})
        EXPECT_EQ(next(state, Event::Cancelled), state) << name(state);
}

TEST(HandoverTable, isLostWhenTheOldVmmDoesNotTakeTheGuestBack) {
    for (const Event event : {Event::Failed, Event::TimedOut})
        EXPECT_EQ(next(State::Resuming, event), State::Lost) << name(event);
}

TEST(HandoverTable, letsTheOldVmmRunOnlyWhenTheNewOneIsDiscarded) {
    for (const State state : allStates()) {
        if (isFinal(state) || state == State::Discarding || state == State::Resuming) continue;
        for (const Event event : allEvents())
            EXPECT_NE(next(state, event), State::Resuming) << name(state) << ": " << name(event);
    }
}

TEST(HandoverTable, upgradesWhenNothingGoesWrong) {
    std::vector<State> path{State::Preflight};
    while (!isFinal(path.back())) path.push_back(next(path.back(), Event::Done));
    EXPECT_EQ(path, (std::vector{State::Preflight, State::Launching, State::Exchanging, State::Verifying, State::StandingBy,
                                 State::Switching, State::Proving, State::Confirming, State::Retiring, State::Ending,
                                 State::Upgraded}));
}

TEST(HandoverTable, reachesEveryStateAndEveryEnd) {
    EXPECT_EQ(reachableFrom(State::Preflight).size(), stateCount);
    std::set<State> ends;
    for (const State state : reachableFrom(State::Preflight))
        if (isFinal(state)) ends.insert(state);
    EXPECT_THAT(ends, UnorderedElementsAre(State::Refused, State::RolledBack, State::Upgraded, State::Lost));
}

TEST(HandoverTable, canAlwaysEnd) {
    for (const State state : allStates()) {
        std::set<State> ends;
        for (const State reached : reachableFrom(state))
            if (isFinal(reached)) ends.insert(reached);
        EXPECT_FALSE(ends.empty()) << name(state);
        EXPECT_TRUE(state == State::Lost || ends != std::set{State::Lost}) << name(state) << " can only be lost";
    }
}

TEST(HandoverTable, refusesOnlyWhileNothingWasTouched) {
    for (const State state : reachableFrom(State::Launching)) EXPECT_NE(state, State::Refused);
}

TEST(HandoverTable, knowsWhenTheGuestIsStopped) {
    std::set<State> stopped;
    for (const State state : allStates())
        if (guestIsStopped(state)) stopped.insert(state);
    EXPECT_THAT(stopped, UnorderedElementsAre(State::Switching, State::Proving, State::Confirming));
}

TEST(HandoverTable, hasANameForEverything) {
    std::set<std::string_view> names;
    for (const State state : allStates()) names.insert(name(state));
    EXPECT_EQ(names.size(), stateCount);
    names.clear();
    for (const Event event : allEvents()) names.insert(name(event));
    EXPECT_EQ(names.size(), eventCount);
}

TEST(HandoverTable, neverGivesTheGuestBackToAVmmThatHasGivenItsDevicesAway) {
    EXPECT_FALSE(isBeforePointOfNoReturn(State::Proving, true));
    EXPECT_TRUE(isBeforePointOfNoReturn(State::Switching, true));
    for (const Event event : {Event::Failed, Event::TimedOut, Event::NewDied})
        EXPECT_EQ(next(State::Proving, event, true), State::Lost) << name(event);
    EXPECT_EQ(next(State::Proving, Event::Cancelled, true), State::Proving);
    EXPECT_EQ(next(State::Proving, Event::OldDied, true), State::Confirming);
    EXPECT_EQ(next(State::Confirming, Event::Failed, true), State::Lost);
    for (const State state : allStates()) EXPECT_FALSE(isBeforePointOfNoReturn(state, true) && isOtherwise(state)) << name(state);
}

// The picture.

/// With passed-through devices only the rows that are otherwise.
std::string markdownTable(bool passthrough = false) {
    std::string text = "| state | guest |";
    for (const Event event : allEvents()) text += " " + std::string(name(event)) + " |";
    text += "\n|---|---|";
    for (std::size_t i = 0; i < eventCount; ++i) text += "---|";
    text += "\n";
    for (const State state : allStates()) {
        if (isFinal(state) || (passthrough && !isOtherwise(state))) continue;
        const auto before = static_cast<State>(static_cast<int>(state) - 1);
        const bool noReturn = !isBeforePointOfNoReturn(state, passthrough) && isBeforePointOfNoReturn(before, passthrough);
        text += "| " + std::string(name(state)) + (noReturn ? " (point of no return)" : "") + " | " +
                (guestIsStopped(state) ? "stopped" : "") + " |";
        for (const Event event : allEvents()) {
            const State following = next(state, event, passthrough);
            const std::string cell(following == state ? "(noted)" : name(following));
            text += " " + (isFinal(following) ? "**" + cell + "**" : cell) + " |";
        }
        text += "\n";
    }
    return text;
}

TEST(HandoverTable, isTheOneInTheReadme) {
    const std::string path = inSourceTree("manager/README.md");
    const std::string begin = "<!-- handover-table -->\n", end = "<!-- /handover-table -->";
    std::string readme = fileText(path);
    const std::size_t from = readme.find(begin), to = readme.find(end);
    ASSERT_NE(from, std::string::npos) << "no line '<!-- handover-table -->' in '" << path << "'";
    ASSERT_NE(to, std::string::npos) << "no line '" << end << "' in '" << path << "'";
    ASSERT_LT(from, to);
    const std::size_t start = from + begin.size();
    const std::string made =
        "\n" + markdownTable() + "\nWith passed-through devices these rows are otherwise:\n\n" + markdownTable(true) + "\n";
    if (acceptsGoldens()) {
        std::ofstream(path) << readme.replace(start, to - start, made);
        GTEST_SKIP() << "wrote the table into '" << path << "' (VH_ACCEPT=1): look at the difference, and run again without";
    }
    EXPECT_EQ(made, readme.substr(start, to - start)) << "if the table is right: run again with VH_ACCEPT=1";
}

}  // namespace
}  // namespace vh
