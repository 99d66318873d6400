#include "manager/record/state.h"

#include <algorithm>
#include <array>

namespace vh {
namespace {

struct StateText {
    std::string_view name;
    std::string_view explanation{};
};
constexpr std::array<StateText, stateCount> stateTexts = {{
    {"preflight", "checking the definition, the new VMM and the old one"},
    {"launching", "starting the new VMM; the guest runs on"},
    {"exchanging", "setting both VMMs up; the guest runs on"},
    {"verifying", "comparing both VMMs' memory; the guest runs on"},
    {"standing by", "everything is ready; waiting for a commit, the guest runs on"},
    {"switching", "stopping the guest on the old VMM, moving its devices' state"},
    {"withdrawing", "asking the old VMM not to execute the new one"},
    {"executing", "the old VMM has executed the new one, which takes the devices' state"},
    {"proving", "asking the new VMM whether it holds the guest"},
    {"confirming", "letting the guest run on the new VMM"},
    {"retiring", "ending the old VMM"},
    {"discarding", "something is wrong: ending the new VMM"},
    {"resuming", "making sure that the guest runs on the old VMM"},
    {"ending", "making sure that it has ended"},
    {"refused"},
    {"rolled back"},
    {"upgraded"},
    {"lost"},
}};
constexpr std::array<std::string_view, eventCount> eventNames = {"done",     "failed",    "timed out", "new died",
                                                                 "old died", "cancelled", "executed"};

}  // namespace

std::string_view name(State state) {
    return stateTexts.at(static_cast<std::size_t>(state)).name;
}

std::string_view explanation(State state) {
    return stateTexts.at(static_cast<std::size_t>(state)).explanation;
}

std::string_view name(Event event) {
    return eventNames.at(static_cast<std::size_t>(event));
}

std::optional<State> stateNamed(std::string_view text) {
    const auto* const found = std::ranges::find(stateTexts, text, &StateText::name);
    return found == stateTexts.end() ? std::nullopt : std::optional(static_cast<State>(found - stateTexts.begin()));
}

}  // namespace vh
