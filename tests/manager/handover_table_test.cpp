// Walks the handover table, first through what must fail, and keeps its picture in manager/README.md true.
#include "manager/handover/handover_table.h"

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"

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

constexpr WayBack allWays[] = {WayBack::UntilConfirmed, WayBack::UntilHandedOver, WayBack::UntilExecuted};

/// What can happen at all: an exec is only where the old VMM was told to.
bool canHappen(State state, Event event, WayBack way) {
    return event != Event::Executed ||
           (way == WayBack::UntilExecuted && (state == State::Switching || state == State::Withdrawing));
}

/// Every state that can follow, the given one among them.
std::set<State> reachableFrom(State state, WayBack way = WayBack::UntilConfirmed) {
    std::set<State> seen{state};
    std::vector<State> open{state};
    while (!open.empty()) {
        const State here = open.back();
        open.pop_back();
        if (isFinal(here)) continue;
        for (const Event event : allEvents())
            if (canHappen(here, event, way) && seen.insert(next(here, event, way)).second) open.push_back(next(here, event, way));
    }
    return seen;
}

/// Where a handover ends to which nothing happens any more but that its work is done.
State endOf(State state, WayBack way = WayBack::UntilConfirmed) {
    while (!isFinal(state)) state = next(state, Event::Done, way);
    return state;
}

/// Whether a state has other answers, or is there only, with less of a way back.
bool isOtherwise(State state, WayBack way) {
    if (!reachableFrom(State::Preflight).contains(state)) return true;
    for (const Event event : allEvents())
        if (next(state, event, way) != next(state, event)) return true;
    return false;
}

TEST(HandoverTable, knowsHowFarEachDesignCanGoBack) {
    EXPECT_EQ(wayBackOf(rowOf(Design::Relayed), false), WayBack::UntilConfirmed);
    EXPECT_EQ(wayBackOf(rowOf(Design::Relayed), true), WayBack::UntilHandedOver);
    EXPECT_EQ(wayBackOf(rowOf(Design::VmmExec), false), WayBack::UntilExecuted);
    EXPECT_EQ(wayBackOf(rowOf(Design::SaveRestore), false), WayBack::UntilConfirmed);
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
        if (isFinal(state) || state == State::Discarding || state == State::Resuming || state == State::Withdrawing) continue;
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
    EXPECT_EQ(reachableFrom(State::Preflight, WayBack::UntilExecuted).size(), stateCount);
    for (const WayBack way : allWays) {
        std::set<State> ends;
        for (const State state : reachableFrom(State::Preflight, way))
            if (isFinal(state)) ends.insert(state);
        EXPECT_THAT(ends, UnorderedElementsAre(State::Refused, State::RolledBack, State::Upgraded, State::Lost));
    }
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
    EXPECT_THAT(stopped,
                UnorderedElementsAre(State::Switching, State::Withdrawing, State::Executing, State::Proving, State::Confirming));
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
    constexpr WayBack way = WayBack::UntilHandedOver;
    EXPECT_FALSE(isBeforePointOfNoReturn(State::Proving, way));
    EXPECT_TRUE(isBeforePointOfNoReturn(State::Switching, way));
    for (const Event event : {Event::Failed, Event::TimedOut, Event::NewDied})
        EXPECT_EQ(next(State::Proving, event, way), State::Lost) << name(event);
    EXPECT_EQ(next(State::Proving, Event::Cancelled, way), State::Proving);
    EXPECT_EQ(next(State::Proving, Event::OldDied, way), State::Confirming);
    EXPECT_EQ(next(State::Confirming, Event::Failed, way), State::Lost);
    for (const State state : reachableFrom(State::Preflight, way))
        EXPECT_FALSE(isBeforePointOfNoReturn(state, way) && isOtherwise(state, way)) << name(state);
}

TEST(HandoverTable, letsTheExecDecideWhetherItIsTooLateToStop) {
    constexpr WayBack way = WayBack::UntilExecuted;
    for (const Event event : {Event::Failed, Event::TimedOut, Event::Cancelled})
        EXPECT_EQ(next(State::Switching, event, way), State::Withdrawing) << name(event);
    EXPECT_EQ(endOf(State::Withdrawing, way), State::RolledBack);
    EXPECT_EQ(endOf(next(State::Withdrawing, Event::Executed, way), way), State::Upgraded);
    EXPECT_EQ(endOf(next(State::Switching, Event::Executed, way), way), State::Upgraded);
    EXPECT_EQ(next(State::Withdrawing, Event::Cancelled, way), State::Withdrawing) << "it has been asked for already";
}

TEST(HandoverTable, hasNoWayBackFromAnExec) {
    constexpr WayBack way = WayBack::UntilExecuted;
    EXPECT_TRUE(isBeforePointOfNoReturn(State::Withdrawing, way));
    EXPECT_FALSE(isBeforePointOfNoReturn(State::Executing, way));
    for (const State state : {State::Executing, State::Proving, State::Confirming}) {
        for (const Event event : {Event::Failed, Event::TimedOut, Event::NewDied, Event::OldDied})
            EXPECT_EQ(next(state, event, way), State::Lost) << name(state) << ": " << name(event);
        EXPECT_EQ(next(state, Event::Cancelled, way), state) << name(state);
    }
    for (const Event event : {Event::NewDied, Event::OldDied})
        for (const State state : {State::Switching, State::Withdrawing})
            EXPECT_EQ(next(state, event, way), State::Lost) << "it is the guest's own process";
}

// The picture.

/// With less of a way back, only the rows that are otherwise.
std::string markdownTable(WayBack way) {
    const bool all = way == WayBack::UntilConfirmed;
    std::vector<Event> events = allEvents();
    if (way != WayBack::UntilExecuted) events.pop_back();
    std::string text = "| state | guest |";
    for (const Event event : events) text += " " + std::string(name(event)) + " |";
    text += "\n|---|---|";
    for (std::size_t i = 0; i < events.size(); ++i) text += "---|";
    text += "\n";
    for (const State state : reachableFrom(State::Preflight, way)) {
        if (isFinal(state) || (!all && !isOtherwise(state, way))) continue;
        const auto before = static_cast<State>(static_cast<int>(state) - 1);
        const bool noReturn = !isBeforePointOfNoReturn(state, way) && isBeforePointOfNoReturn(before, way);
        text += "| " + std::string(name(state)) + (noReturn ? " (point of no return)" : "") + " | " +
                (guestIsStopped(state) ? "stopped" : "") + " |";
        for (const Event event : events) {
            const State following = next(state, event, way);
            const std::string cell(following == state ? "(noted)" : name(following));
            text += !canHappen(state, event, way) ? " |" : " " + (isFinal(following) ? "**" + cell + "**" : cell) + " |";
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
    const std::string made = "\n" + markdownTable(WayBack::UntilConfirmed) +
                             "\nWith passed-through devices these rows are otherwise:\n\n" +
                             markdownTable(WayBack::UntilHandedOver) +
                             "\nWhere the old VMM executes the new one in its own process (`vmm-exec`), these:\n\n" +
                             markdownTable(WayBack::UntilExecuted) + "\n";
    if (acceptsGoldens()) {
        std::ofstream(path) << readme.replace(start, to - start, made);
        GTEST_SKIP() << "wrote the table into '" << path << "' (VH_ACCEPT=1): look at the difference, and run again without";
    }
    EXPECT_EQ(made, readme.substr(start, to - start)) << "if the table is right: run again with VH_ACCEPT=1";
}

}  // namespace
}  // namespace vh
