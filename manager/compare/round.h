// One round of one design: every VM of a set is handed over once, at the same time, and looked at before, meanwhile and after.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "manager/compare/vm_set.h"

namespace vh {

/// What is run.
struct Trial {
    const Configuration& configuration;
    Series& series;
    VmSet& set;
    std::string newBinary;
    unsigned round = 0;  ///< 0 is a warm-up, of which nothing is kept.
    unsigned order = 0;
    bool network = false;  ///< The guests answer echo requests.
};

/// What became of it, of each VM of the set.
struct RoundEnd {
    std::vector<Round> rounds;
    std::vector<HandoverReport> reports;  ///< What the VMs' upgrades answered.
    std::optional<std::size_t> lostVm;    ///< Its place in the set, which has to be started anew.
};

/// `note` is told what could not be measured. Throws GuestLost or VmControl::Interrupted.
RoundEnd runRound(VmControl& control, const Trial& trial, const ComparePlan& plan,
                  const std::function<void(const std::string&)>& note);

}  // namespace vh
