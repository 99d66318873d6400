#include "manager/record/state.h"

#include <algorithm>
#include <array>

namespace vh {
namespace {

constexpr std::array<std::string_view, stateCount> stateNames = {
    "preflight",  "launching", "exchanging", "verifying", "standing by", "switching", "withdrawing", "executing", "proving",
    "confirming", "retiring",  "discarding", "resuming",  "ending",      "refused",   "rolled back", "upgraded",  "lost"};
constexpr std::array<std::string_view, eventCount> eventNames = {"done",     "failed",    "timed out", "new died",
                                                                 "old died", "cancelled", "executed"};

}  // namespace

std::string_view name(State state) {
    return stateNames.at(static_cast<std::size_t>(state));
}

std::string_view name(Event event) {
    return eventNames.at(static_cast<std::size_t>(event));
}

std::optional<State> stateNamed(std::string_view text) {
    const auto* const found = std::ranges::find(stateNames, text);
    return found == stateNames.end() ? std::nullopt : std::optional(static_cast<State>(found - stateNames.begin()));
}

}  // namespace vh
