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

#include "manager/record/state.h"

namespace vh {

struct Transition {
    State state;
    Event event;
    State next;  ///< The same state: noted, nothing changes.
};

/// How far a handover can go back to the old VMM.
enum class WayBack {
    UntilConfirmed,
    /// With passed-through devices: an old VMM whose migration has completed has given their interrupts away for good
    /// (hw/vfio/cpr.c:vfio_cpr_kvm_close_notifier and vfio_cpr_pci_notifier, QEMU 11.1). On it the guest would run and wait for
    /// its devices for ever.
    UntilHandedOver,
    /// The old VMM's process becomes the new one.
    UntilExecuted,
};

/// Before this the guest cannot have run on the new VMM, and the old one can have it back.
constexpr bool isBeforePointOfNoReturn(State state, WayBack way = WayBack::UntilConfirmed) {
    return state < (way == WayBack::UntilConfirmed    ? State::Confirming
                    : way == WayBack::UntilHandedOver ? State::Proving
                                                      : State::Executing);
}

/// The guest is, or may be, stopped for the handover's sake.
constexpr bool guestIsStopped(State state) {
    return state >= State::Switching && state <= State::Confirming;
}

constexpr std::array handoverTable = {
    Transition{State::Preflight, Event::Done, State::Launching},
    Transition{State::Preflight, Event::Failed, State::Refused},
    Transition{State::Preflight, Event::TimedOut, State::Refused},
    Transition{State::Preflight, Event::NewDied, State::Refused},
    Transition{State::Preflight, Event::OldDied, State::Lost},
    Transition{State::Preflight, Event::Cancelled, State::Refused},

    Transition{State::Launching, Event::Done, State::Exchanging},
    Transition{State::Launching, Event::Failed, State::Discarding},
    Transition{State::Launching, Event::TimedOut, State::Discarding},
    Transition{State::Launching, Event::NewDied, State::Discarding},
    Transition{State::Launching, Event::OldDied, State::Lost},
    Transition{State::Launching, Event::Cancelled, State::Discarding},

    Transition{State::Exchanging, Event::Done, State::Verifying},
    Transition{State::Exchanging, Event::Failed, State::Discarding},
    Transition{State::Exchanging, Event::TimedOut, State::Discarding},
    Transition{State::Exchanging, Event::NewDied, State::Discarding},
    Transition{State::Exchanging, Event::OldDied, State::Lost},
    Transition{State::Exchanging, Event::Cancelled, State::Discarding},

    Transition{State::Verifying, Event::Done, State::StandingBy},
    Transition{State::Verifying, Event::Failed, State::Discarding},
    Transition{State::Verifying, Event::TimedOut, State::Discarding},
    Transition{State::Verifying, Event::NewDied, State::Discarding},
    Transition{State::Verifying, Event::OldDied, State::Lost},
    Transition{State::Verifying, Event::Cancelled, State::Discarding},

    Transition{State::StandingBy, Event::Done, State::Switching},
    Transition{State::StandingBy, Event::Failed, State::Discarding},
    Transition{State::StandingBy, Event::TimedOut, State::Discarding},
    Transition{State::StandingBy, Event::NewDied, State::Discarding},
    Transition{State::StandingBy, Event::OldDied, State::Lost},
    Transition{State::StandingBy, Event::Cancelled, State::Discarding},

    Transition{State::Switching, Event::Done, State::Proving},
    Transition{State::Switching, Event::Failed, State::Discarding},
    Transition{State::Switching, Event::TimedOut, State::Discarding},
    Transition{State::Switching, Event::NewDied, State::Discarding},
    // It may have sent all there is: then the new VMM has a complete guest, and is its only chance. If not, Proving finds that
    // out.
    Transition{State::Switching, Event::OldDied, State::Proving},
    Transition{State::Switching, Event::Cancelled, State::Discarding},

    // Where the process is the new VMM's or is about to be: of WayBack::UntilExecuted only.
    Transition{State::Withdrawing, Event::Done, State::Resuming},
    Transition{State::Withdrawing, Event::Failed, State::Resuming},
    Transition{State::Withdrawing, Event::TimedOut, State::Resuming},
    Transition{State::Withdrawing, Event::NewDied, State::Lost},
    Transition{State::Withdrawing, Event::OldDied, State::Lost},
    Transition{State::Withdrawing, Event::Cancelled, State::Withdrawing},

    Transition{State::Executing, Event::Done, State::Proving},
    Transition{State::Executing, Event::Failed, State::Lost},
    Transition{State::Executing, Event::TimedOut, State::Lost},
    Transition{State::Executing, Event::NewDied, State::Lost},
    Transition{State::Executing, Event::OldDied, State::Lost},
    Transition{State::Executing, Event::Cancelled, State::Executing},

    Transition{State::Proving, Event::Done, State::Confirming},
    Transition{State::Proving, Event::Failed, State::Discarding},
    Transition{State::Proving, Event::TimedOut, State::Discarding},
    Transition{State::Proving, Event::NewDied, State::Discarding},
    // The old VMM has handed everything over; with it gone the new one is the guest's only chance, and loses nothing.
    Transition{State::Proving, Event::OldDied, State::Confirming},
    Transition{State::Proving, Event::Cancelled, State::Discarding},

    Transition{State::Confirming, Event::Done, State::Retiring},
    // The new VMM answered that it did not start the guest: then it did not run there, and the old VMM may have it back.
    Transition{State::Confirming, Event::Failed, State::Discarding},
    // No answer: it may have run. Starting the old VMM on the same memory could be the second VMM for one guest.
    Transition{State::Confirming, Event::TimedOut, State::Lost},
    Transition{State::Confirming, Event::NewDied, State::Lost},
    Transition{State::Confirming, Event::OldDied, State::Confirming},
    Transition{State::Confirming, Event::Cancelled, State::Confirming},

    // The guest runs on the new VMM; whatever the old one does now is housekeeping.
    Transition{State::Retiring, Event::Done, State::Ending},
    Transition{State::Retiring, Event::Failed, State::Ending},
    Transition{State::Retiring, Event::TimedOut, State::Ending},
    Transition{State::Retiring, Event::NewDied, State::Lost},
    Transition{State::Retiring, Event::OldDied, State::Retiring},
    Transition{State::Retiring, Event::Cancelled, State::Retiring},

    Transition{State::Discarding, Event::Done, State::Resuming},
    // A process that SIGKILL does not end at once (a disk in an endless wait) never executes user code again, and was never told
    // to run the guest: the old VMM may.
    Transition{State::Discarding, Event::Failed, State::Resuming},
    Transition{State::Discarding, Event::TimedOut, State::Resuming},
    Transition{State::Discarding, Event::NewDied, State::Discarding},
    Transition{State::Discarding, Event::OldDied, State::Lost},
    Transition{State::Discarding, Event::Cancelled, State::Discarding},

    Transition{State::Ending, Event::Done, State::Upgraded},
    Transition{State::Ending, Event::Failed, State::Upgraded},
    // A process that SIGKILL does not end never executes user code again, so there are not two VMMs; but a person has to know.
    Transition{State::Ending, Event::TimedOut, State::Upgraded},
    Transition{State::Ending, Event::NewDied, State::Lost},
    Transition{State::Ending, Event::OldDied, State::Ending},
    Transition{State::Ending, Event::Cancelled, State::Ending},

    Transition{State::Resuming, Event::Done, State::RolledBack},
    Transition{State::Resuming, Event::Failed, State::Lost},
    Transition{State::Resuming, Event::TimedOut, State::Lost},
    Transition{State::Resuming, Event::NewDied, State::Resuming},
    Transition{State::Resuming, Event::OldDied, State::Lost},
    Transition{State::Resuming, Event::Cancelled, State::Resuming},
};

/// What is otherwise with passed-through devices: the old VMM does not get the guest back once it has handed over. A later look
/// may still find the new VMM well (recovery.h).
constexpr std::array passthroughTable = {
    Transition{State::Proving, Event::Failed, State::Lost},    Transition{State::Proving, Event::TimedOut, State::Lost},
    Transition{State::Proving, Event::NewDied, State::Lost},   Transition{State::Proving, Event::Cancelled, State::Proving},
    Transition{State::Confirming, Event::Failed, State::Lost},
};

/// What is otherwise where the old VMM executes the new one: until it does, whoever wants to stop has it withdraw and waits for
/// what comes of it, since the exec may win; after it there is no way but on.
constexpr std::array execTable = {
    Transition{State::Switching, Event::Executed, State::Executing},
    Transition{State::Switching, Event::Failed, State::Withdrawing},
    Transition{State::Switching, Event::TimedOut, State::Withdrawing},
    Transition{State::Switching, Event::NewDied, State::Lost},
    Transition{State::Switching, Event::OldDied, State::Lost},
    Transition{State::Switching, Event::Cancelled, State::Withdrawing},
    Transition{State::Withdrawing, Event::Executed, State::Executing},
    Transition{State::Proving, Event::Failed, State::Lost},
    Transition{State::Proving, Event::TimedOut, State::Lost},
    Transition{State::Proving, Event::NewDied, State::Lost},
    Transition{State::Proving, Event::OldDied, State::Lost},
    Transition{State::Proving, Event::Cancelled, State::Proving},
    Transition{State::Confirming, Event::Failed, State::Lost},
    Transition{State::Confirming, Event::OldDied, State::Lost},
};

namespace rows {

template <std::size_t size>
constexpr const Transition* find(const std::array<Transition, size>& table, State state, Event event) {
    for (const Transition& row : table)
        if (row.state == state && row.event == event) return &row;
    return nullptr;
}

}  // namespace rows

/// What follows. Every state that is not final has an answer to every event, which the assertions below prove. An exec that
/// nobody has waited for is beyond what a program may decide.
constexpr State next(State state, Event event, WayBack way = WayBack::UntilConfirmed) {
    const Transition* row = way == WayBack::UntilHandedOver ? rows::find(passthroughTable, state, event)
                            : way == WayBack::UntilExecuted ? rows::find(execTable, state, event)
                                                            : nullptr;
    if (!row) row = rows::find(handoverTable, state, event);
    return row ? row->next : State::Lost;
}

namespace proofs {

constexpr bool everyQuestionHasOneAnswer() {
    for (std::size_t state = 0; state < stateCount; ++state)
        for (std::size_t event = 0; event < static_cast<std::size_t>(Event::Executed); ++event) {
            int answers = 0;
            for (const Transition& row : handoverTable)
                answers += static_cast<std::size_t>(row.state) == state && static_cast<std::size_t>(row.event) == event;
            if (answers != (isFinal(static_cast<State>(state)) ? 0 : 1)) return false;
        }
    return true;
}

constexpr bool movesOn(const Transition& row) {
    const bool mustMove = row.event == Event::Done || row.event == Event::Failed || row.event == Event::TimedOut;
    return row.next > row.state || (row.next == row.state && !mustMove);
}

/// Rows that move, always move down the enumeration, so nothing goes round; and what a state waits for can always end it.
constexpr bool everyWaitEnds() {
    for (const Transition& row : handoverTable)
        if (!movesOn(row)) return false;
    for (const Transition& row : passthroughTable)
        if (!movesOn(row)) return false;
    for (const Transition& row : execTable)
        if (!movesOn(row)) return false;
    return true;
}

constexpr bool leadsToOldVmm(State state) {
    return state == State::Refused || state == State::Discarding || state == State::Resuming || state == State::RolledBack;
}

/// Whatever goes wrong before the point of no return while the old VMM lives gives the guest back to it.
constexpr bool failuresBeforeNoReturnRollBack() {
    for (const Transition& row : handoverTable)
        if (isBeforePointOfNoReturn(row.state) && row.state != State::Withdrawing && row.state != State::Executing &&
            row.event != Event::Done && row.event != Event::OldDied && !leadsToOldVmm(row.next))
            return false;
    return leadsToOldVmm(next(State::Discarding, Event::Done)) && leadsToOldVmm(next(State::Resuming, Event::Done));
}

/// An old VMM that has given its devices away never gets the guest back, and every wait still ends.
constexpr bool devicesNeverComeBack() {
    for (const Transition& row : handoverTable)
        if (!isBeforePointOfNoReturn(row.state, WayBack::UntilHandedOver) && row.state <= State::Retiring &&
            leadsToOldVmm(next(row.state, row.event, WayBack::UntilHandedOver)))
            return false;
    return true;
}

/// Once the new VMM has been executed there is no old one. Before that, whatever goes wrong while the process lives either gives
/// the guest back or, when the exec was first, goes on with it; and nothing is discarded that is the guest's own process.
constexpr bool nothingComesBackFromAnExec() {
    constexpr WayBack way = WayBack::UntilExecuted;
    for (std::size_t s = 0; s < stateCount; ++s)
        for (std::size_t e = 0; e < eventCount; ++e) {
            const auto state = static_cast<State>(s);
            const auto event = static_cast<Event>(e);
            if (isFinal(state)) continue;
            const State following = next(state, event, way);
            if (state >= State::Executing && state <= State::Retiring && leadsToOldVmm(following)) return false;
            if (guestIsStopped(state) && following == State::Discarding) return false;
            const bool dies = event == Event::NewDied || event == Event::OldDied;
            if ((state == State::Switching || state == State::Withdrawing) && !dies && following == State::Lost) return false;
            if (following == State::Executing && event != Event::Executed && state != State::Executing) return false;
        }
    return true;
}

/// A new VMM that may have run the guest is never left for the old one, and nothing is upgraded that was not confirmed.
constexpr bool neverTwoVmms() {
    if (leadsToOldVmm(next(State::Confirming, Event::TimedOut)) || leadsToOldVmm(next(State::Confirming, Event::NewDied)))
        return false;
    for (const Transition& row : handoverTable) {
        if (row.next == State::Retiring && row.state != State::Confirming && row.state != State::Retiring) return false;
        // No answer of the old VMM, and no silence, leads past its certain end.
        if (row.next == State::Upgraded && row.state != State::Ending) return false;
        if (row.next == State::Ending && row.state != State::Retiring && row.state != State::Ending) return false;
        if ((row.state == State::Retiring || row.state == State::Ending) && leadsToOldVmm(row.next)) return false;
        if (row.next == State::Resuming && row.state != State::Discarding && row.state != State::Resuming &&
            row.state != State::Withdrawing)
            return false;
    }
    return true;
}

static_assert(everyQuestionHasOneAnswer());
static_assert(everyWaitEnds());
static_assert(failuresBeforeNoReturnRollBack());
static_assert(devicesNeverComeBack());
static_assert(nothingComesBackFromAnExec());
static_assert(neverTwoVmms());

}  // namespace proofs

}  // namespace vh
