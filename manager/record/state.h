// States of a handover, and events that may happen to it. The names are used in reports, in the record of a handover and on
// D-Bus.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace vh {

enum class State {
    Preflight,    ///< Touches nothing: the definition, the new binary, the old VMM's condition, space.
    Launching,    ///< Starts the new VMM, which waits.
    Exchanging,   ///< Sets both up for the design; with CPR the old VMM's state goes over and the new VMM builds its machine.
    Verifying,    ///< Compares the two VMMs' RAM blocks and mappings while the guest still runs.
    StandingBy,   ///< Waits for a commit, when one was asked for, and then makes sure that nothing has changed meanwhile.
    Switching,    ///< The old VMM stops the guest and sends device state.
    Withdrawing,  ///< The old VMM was about to execute the new one, and is asked not to: whether it does decides.
    Executing,    ///< The old VMM's process is the new VMM now, which takes the device state in.
    Proving,      ///< The new VMM answers and says that it holds a stopped guest.
    Confirming,   ///< `cont` on the new VMM: the point of no return.
    Retiring,     ///< Has the old VMM end by itself.
    Discarding,   ///< Ends the new VMM for certain.
    Resuming,     ///< The old VMM runs the guest again.
    Ending,       ///< Ends the old VMM for certain, whatever it said or did not say in Retiring.
    Refused,
    RolledBack,
    Upgraded,
    Lost,
};
constexpr std::size_t stateCount = 18;

enum class Event {
    Done,      ///< The state's work is complete.
    Failed,    ///< The work cannot be completed, for a known cause.
    TimedOut,  ///< The state's deadline or the pause budget has passed.
    NewDied,
    OldDied,
    Cancelled,  ///< A person or the manager's own end asks to stop.
    Executed,   ///< The old VMM has executed the new one in its own process.
};
constexpr std::size_t eventCount = 7;

constexpr bool isFinal(State state) {
    return state >= State::Refused;
}

std::string_view name(State state);
/// The work done in a state, for people; empty when it is final.
std::string_view explanation(State state);
std::string_view name(Event event);
std::optional<State> stateNamed(std::string_view text);

}  // namespace vh
