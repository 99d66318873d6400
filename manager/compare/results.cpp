#include "manager/compare/results.h"

#include <algorithm>

#include "manager/record/report.h"

namespace vh {

std::string_view name(Outcome outcome) {
    switch (outcome) {
        case Outcome::Upgraded:
            return outcomeName(State::Upgraded);
        case Outcome::RolledBack:
            return outcomeName(State::RolledBack);
        case Outcome::Refused:
            return outcomeName(State::Refused);
        case Outcome::Lost:
            return outcomeName(State::Lost);
        case Outcome::Silent:
            return silentOutcome;
    }
    return "";
}

bool Series::has(unsigned round) const {
    return std::ranges::find(rounds, round, &Round::round) != rounds.end();
}

const Series* Configuration::of(Design design) const {
    const auto found = std::ranges::find(series, design, &Series::design);
    return found == series.end() ? nullptr : &*found;
}

}  // namespace vh
