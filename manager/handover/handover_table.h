// The handover as a table: in which state, what may happen, and what follows. Every design goes through the same table; a design
// only changes what a state does (steps.h), and how far there is a way back.
//
//   Preflight -> Launching -> Exchanging -> Verifying -> StandingBy -> Switching -> Proving -> Confirming -> Retiring -> Ending
//   -> Upgraded
//       |            |            |             |             |            |           |           |
//    Refused         +------------+-------------+--------- Discarding -----+-----------+-----------+ (the new VMM said no)
//                                                             |
//                                                          Resuming -> RolledBack
//
// Up to StandingBy, which is passed over unless it was asked for, the guest runs on the old VMM. From Switching on it is stopped;
// Confirming, where the new VMM is told to run it, is the point of no return. Lost is for what no program may decide: both VMMs
// are left as they are.
//
// Where the old VMM executes the new one in its own process, there is nothing to discard once the guest is stopped, and no way
// back once it has been executed:
//
//   ... -> Switching --executed--> Executing -> Proving -> Confirming -> Retiring -> Ending -> Upgraded
//              |                       ^  |         |            |
//              +----> Withdrawing -----+  +---------+------------+---> Lost
//                         |  (it was too late)
//                      Resuming -> RolledBack
#pragma once

#include <array>
#include <cstddef>

#include "config/design.h"
#include "manager/record/state.h"

namespace vh {

/// The last point from which a handover can go back to the old VMM.
enum class WayBack {
    UntilConfirmed,
    /// Limit with passed-through devices: an old VMM whose migration has completed has given their interrupts away for good
    /// (hw/vfio/cpr.c:vfio_cpr_kvm_close_notifier and vfio_cpr_pci_notifier, QEMU 11.1). On it the guest would run and wait for
    /// its devices for ever.
    UntilHandedOver,
    /// Limit where the old VMM's process becomes the new one.
    UntilExecuted,
};

constexpr WayBack wayBackOf(const DesignRow& design, bool passesThrough) {
    return !design.wayBack ? WayBack::UntilExecuted : passesThrough ? WayBack::UntilHandedOver : WayBack::UntilConfirmed;
}

/// True while the guest cannot have run on the new VMM, and the old one can have it back.
constexpr bool isBeforePointOfNoReturn(State state, WayBack way = WayBack::UntilConfirmed) {
    return state < (way == WayBack::UntilConfirmed    ? State::Confirming
                    : way == WayBack::UntilHandedOver ? State::Proving
                                                      : State::Executing);
}

/// True when the guest is, or may be, stopped for the handover's sake.
constexpr bool guestIsStopped(State state) {
    return state >= State::Switching && state <= State::Confirming;
}

/// The states that follow a state, by event. The same state: noted, nothing changes.
struct Row {
    State state;
    State done, failed, timedOut, newDied, oldDied, cancelled;
    State executed = State::Lost;  ///< Beyond what a program may decide where nobody has waited for it.

    constexpr State after(Event event) const {
        return std::array{done, failed, timedOut, newDied, oldDied, cancelled, executed}.at(static_cast<std::size_t>(event));
    }
};

namespace rows {

using enum State;

// clang-format off
constexpr std::array handover = {
    //  state        done         failed       timed out    new died     old died     cancelled
    Row{Preflight,   Launching,   Refused,     Refused,     Refused,     Lost,        Refused},
    Row{Launching,   Exchanging,  Discarding,  Discarding,  Discarding,  Lost,        Discarding},
    Row{Exchanging,  Verifying,   Discarding,  Discarding,  Discarding,  Lost,        Discarding},
    Row{Verifying,   StandingBy,  Discarding,  Discarding,  Discarding,  Lost,        Discarding},
    Row{StandingBy,  Switching,   Discarding,  Discarding,  Discarding,  Lost,        Discarding},
    // An old VMM that died may have sent all there is: then the new one has a complete guest, and is its only chance. If not,
    // Proving finds that out.
    Row{Switching,   Proving,     Discarding,  Discarding,  Discarding,  Proving,     Discarding},
    // Rows where the process is the new VMM's or is about to be: of WayBack::UntilExecuted only.
    Row{Withdrawing, Resuming,    Resuming,    Resuming,    Lost,        Lost,        Withdrawing},
    Row{Executing,   Proving,     Lost,        Lost,        Lost,        Lost,        Executing},
    // The old VMM has handed everything over; with it gone the new one is the guest's only chance, and loses nothing.
    Row{Proving,     Confirming,  Discarding,  Discarding,  Discarding,  Confirming,  Discarding},
    // Failed: the new VMM answered that it did not start the guest. Then it did not run there, and the old VMM may have it back.
    // Timed out: it may have run. Starting the old VMM on the same memory could be the second VMM for one guest.
    Row{Confirming,  Retiring,    Discarding,  Lost,        Lost,        Confirming,  Confirming},
    // The guest runs on the new VMM; whatever the old one does now is housekeeping.
    Row{Retiring,    Ending,      Ending,      Ending,      Lost,        Retiring,    Retiring},
    // A process that SIGKILL does not end at once (a disk in an endless wait) never executes user code again, and was never told
    // to run the guest: the old VMM may.
    Row{Discarding,  Resuming,    Resuming,    Resuming,    Discarding,  Lost,        Discarding},
    Row{Resuming,    RolledBack,  Lost,        Lost,        Resuming,    Lost,        Resuming},
    // The same holds for the old VMM, so there are not two; but a person has to know.
    Row{Ending,      Upgraded,    Upgraded,    Upgraded,    Lost,        Ending,      Ending},
};

/// Rows that differ with passed-through devices: the old VMM does not get the guest back once it has handed over. A later look
/// may still find the new VMM well (recovery.h).
constexpr std::array passthrough = {
    Row{Proving,     Confirming,  Lost,        Lost,        Lost,        Confirming,  Proving},
    Row{Confirming,  Retiring,    Lost,        Lost,        Lost,        Confirming,  Confirming},
};

/// Rows that differ where the old VMM executes the new one: until it does, whoever wants to stop has it withdraw and waits for
/// what comes of it, since the exec may win; after it there is no way but on.
constexpr std::array exec = {
    //                                                                                            executed
    Row{Switching,   Proving,     Withdrawing, Withdrawing, Lost,        Lost,        Withdrawing, Executing},
    Row{Withdrawing, Resuming,    Resuming,    Resuming,    Lost,        Lost,        Withdrawing, Executing},
    Row{Proving,     Confirming,  Lost,        Lost,        Lost,        Lost,        Proving},
    Row{Confirming,  Retiring,    Lost,        Lost,        Lost,        Lost,        Confirming},
};
// clang-format on

constexpr const Row* find(const auto& table, State state) {
    for (const Row& row : table)
        if (row.state == state) return &row;
    return nullptr;
}

}  // namespace rows

/// The state that follows an event. Every state that is not final has an answer to every event.
constexpr State next(State state, Event event, WayBack way = WayBack::UntilConfirmed) {
    const Row* row = way == WayBack::UntilHandedOver ? rows::find(rows::passthrough, state)
                     : way == WayBack::UntilExecuted ? rows::find(rows::exec, state)
                                                     : nullptr;
    if (!row) row = rows::find(rows::handover, state);
    return row ? row->after(event) : State::Lost;
}

namespace proofs {

constexpr bool everyStateHasOneRow() {
    for (std::size_t i = 0; i < rows::handover.size(); ++i)
        if (rows::handover[i].state != static_cast<State>(i)) return false;
    return rows::handover.size() == static_cast<std::size_t>(State::Refused);
}

/// True when something holds for what follows on every event, in all states that are not final.
constexpr bool always(WayBack way, const auto& holds) {
    for (std::size_t state = 0; state < static_cast<std::size_t>(State::Refused); ++state)
        for (std::size_t event = 0; event < eventCount; ++event) {
            const auto here = static_cast<State>(state);
            const auto what = static_cast<Event>(event);
            if (!holds(here, what, next(here, what, way))) return false;
        }
    return true;
}

/// Rows that move, always move down the enumeration, so nothing goes round; and what a state waits for can always end it.
constexpr bool everyWaitEnds(WayBack way) {
    return always(way, [](State state, Event event, State following) {
        const bool mustMove = event == Event::Done || event == Event::Failed || event == Event::TimedOut;
        return following > state || (following == state && !mustMove);
    });
}

constexpr bool leadsToOldVmm(State state) {
    return state == State::Refused || state == State::Discarding || state == State::Resuming || state == State::RolledBack;
}

/// Failures before the point of no return give the guest back to the old VMM while that lives.
constexpr bool failuresBeforeNoReturnRollBack() {
    return always(WayBack::UntilConfirmed,
                  [](State state, Event event, State following) {
                      const bool isOfAnExec =
                          state == State::Withdrawing || state == State::Executing || event == Event::Executed;
                      return !isBeforePointOfNoReturn(state) || isOfAnExec || event == Event::Done || event == Event::OldDied ||
                             leadsToOldVmm(following);
                  }) &&
           leadsToOldVmm(next(State::Discarding, Event::Done)) && leadsToOldVmm(next(State::Resuming, Event::Done));
}

/// An old VMM that has given its devices away never gets the guest back, and every wait still ends.
constexpr bool devicesNeverComeBack() {
    constexpr WayBack way = WayBack::UntilHandedOver;
    return always(way, [](State state, Event, State following) {
        return isBeforePointOfNoReturn(state, way) || state > State::Retiring || !leadsToOldVmm(following);
    });
}

/// An executed new VMM leaves no old one. Before that, whatever goes wrong while the process lives either gives the guest back
/// or, when the exec was first, goes on with it; and nothing is discarded that is the guest's own process.
constexpr bool nothingComesBackFromAnExec() {
    return always(WayBack::UntilExecuted, [](State state, Event event, State following) {
        if (state >= State::Executing && state <= State::Retiring && leadsToOldVmm(following)) return false;
        if (guestIsStopped(state) && following == State::Discarding) return false;
        const bool dies = event == Event::NewDied || event == Event::OldDied;
        if ((state == State::Switching || state == State::Withdrawing) && !dies && following == State::Lost) return false;
        return following != State::Executing || event == Event::Executed || state == State::Executing;
    });
}

/// A new VMM that may have run the guest is never left for the old one, and nothing is upgraded that was not confirmed.
constexpr bool neverTwoVmms() {
    if (leadsToOldVmm(next(State::Confirming, Event::TimedOut)) || leadsToOldVmm(next(State::Confirming, Event::NewDied)))
        return false;
    return always(WayBack::UntilConfirmed, [](State state, Event, State following) {
        if (following == State::Retiring && state != State::Confirming && state != State::Retiring) return false;
        // No answer of the old VMM, and no silence, leads past its certain end.
        if (following == State::Upgraded && state != State::Ending) return false;
        if (following == State::Ending && state != State::Retiring && state != State::Ending) return false;
        if ((state == State::Retiring || state == State::Ending) && leadsToOldVmm(following)) return false;
        return following != State::Resuming || state == State::Discarding || state == State::Resuming ||
               state == State::Withdrawing;
    });
}

static_assert(everyStateHasOneRow());
static_assert(everyWaitEnds(WayBack::UntilConfirmed));
static_assert(everyWaitEnds(WayBack::UntilHandedOver));
static_assert(everyWaitEnds(WayBack::UntilExecuted));
static_assert(failuresBeforeNoReturnRollBack());
static_assert(devicesNeverComeBack());
static_assert(nothingComesBackFromAnExec());
static_assert(neverTwoVmms());

}  // namespace proofs

}  // namespace vh
