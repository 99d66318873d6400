// A round of one design: every VM of a set is handed over once, at the same time, and looked at before, meanwhile and after.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "manager/compare/vm_set.h"

namespace vh {

/// The round to run.
struct Trial {
    const Configuration& configuration;
    Series& series;
    VmSet& set;
    std::string newBinary;
    unsigned round = 0;  ///< 0 is a warm-up, of which nothing is kept.
    unsigned order = 0;
    bool network = false;  ///< The guests answer echo requests.
};

/// The end of a round, for each VM of the set.
struct RoundEnd {
    std::vector<Round> rounds;
    std::vector<HandoverReport> reports;  ///< Answers to the VMs' upgrades.
    std::optional<std::size_t> lostVm;    ///< Place of the lost VM in its set, which has to be started anew.
};

/// Runs a round; `note` is told what could not be measured. Throws GuestLost or VmControl::Interrupted.
RoundEnd runRound(VmControl& control, const Trial& trial, const ComparePlan& plan,
                  const std::function<void(const std::string&)>& note);

}  // namespace vh
