// One round of one design: every VM of a set is handed over once, at the same time, and looked at before, meanwhile and after.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "manager/compare/host_facts.h"
#include "manager/compare/own_network.h"
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

/// Its steps are called in their order. What it throws is GuestLost or VmControl::Interrupted.
class RoundWatch {
 public:
    RoundWatch(VmControl& control, const Trial& trial, const ComparePlan& plan);

    void lookBefore();
    void handOver();
    void lookAfter();
    std::vector<Round> rounds();

    /// What the VMs' upgrades answered.
    const HandoverReport& report(std::size_t vm) const { return *attempts_[vm].report; }
    /// Why no echo requests were sent; empty when they were, or were not to be.
    const std::string& echoProblem() const { return echoProblem_; }
    /// Whether the set has to be started anew after these rounds.
    bool hasLostGuest(const std::vector<Round>& rounds) const;

 private:
    /// What becomes of one VM.
    struct Attempt {
        std::optional<HandoverReport> report;
        std::unique_ptr<Pinger> pinger;
        std::optional<PageFaults> faultsAtSwitch;
        bool guestLost = false;
    };

    void sendEchoRequests(std::size_t vm);
    void beginHandover(MeasuredVm& vm, Attempt& attempt);
    Round roundOf(MeasuredVm& vm, Attempt& attempt) const;

    VmControl& control_;
    const Trial& trial_;
    const ComparePlan& plan_;
    std::vector<Attempt> attempts_;
    std::string echoProblem_;
    CpuTimes cpuBefore_;
    double beganAtMs_ = 0;
    double stealPercent_ = 0;
};

}  // namespace vh
