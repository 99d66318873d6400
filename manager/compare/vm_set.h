// The VMs that a comparison measures, and what it has the manager do with them, one thing after the other.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "manager/compare/by_hand.h"
#include "manager/compare/guest_watch.h"
#include "manager/compare/results.h"
#include "manager/service/host.h"

namespace vh {

/// The directory that the VMs live in: disks, definitions, sockets and records.
class ComparisonDirectory {
 public:
    /// Makes one in /tmp. Throws std::system_error.
    ComparisonDirectory();
    ComparisonDirectory(const ComparisonDirectory&) = delete;
    ~ComparisonDirectory() { remove(path_); }

    const std::string& path() const { return path_; }

    /// Ends the VMs that live in a comparison's scratch directory, and removes it. Nothing is done to any other directory, nor to
    /// another user's: the name may come from a results file, which may say anything.
    static void remove(const std::string& directory);

 private:
    std::string path_;
};

struct MeasuredVm {
    unsigned number = 0;
    VmDefinition definition;
    bool transparentHuge = false;  ///< RAM is to be in such pages.
    std::string directory;         ///< Directory of its present VMM process.
    std::string binary;            ///< Program of the same.
    pid_t pid = 0;
    bool running = false;
    GuestWatch watch;
    // The round that it was handed over in last; 0: none that is kept.
    Design lastDesign = defaultDesign;
    unsigned lastRound = 0;
};

/// Makes a VM's disks before it is started: copies of those of `own`, or empty ones. Throws std::runtime_error.
void makeDisks(const VmDefinition& vm, const std::optional<VmDefinition>& own);

/// VMs that differ in nothing: as many as a configuration hands over at once, for the designs that need guest RAM of one owner.
struct VmSet {
    MemoryOwner owner = MemoryOwner::Manager;
    std::vector<Series*> series;
    std::vector<MeasuredVm> vms;
};

/// A VM is not what it should be any more; its set is started anew.
struct GuestLost : std::runtime_error {
    explicit GuestLost(unsigned number) : std::runtime_error("a VM does not answer any more"), vm(number) {}
    unsigned vm;  ///< Number of the VM.
};

/// Has the manager do one thing after the other; the main loop runs meanwhile.
class VmControl {
 public:
    /// Thrown out of whatever waits when it was interrupted.
    struct Interrupted {};

    /// The VMs' runtime directory is `directory`/run.
    explicit VmControl(std::string directory);

    /// Ends waiting at the next moment that leaves no guest in between: a handover goes back by itself.
    void interrupt();
    void throwIfInterrupted() const;

    void waitUntil(const std::function<bool()>& happened);
    void runFor(std::chrono::milliseconds time);

    /// Starts a VM, waits until its guest beats or for as long as it is said to boot, and stops it. Throws
    /// std::runtime_error with the reason when it does not start, or has not the pages that it is to have.
    void start(MeasuredVm& vm, std::chrono::milliseconds bootWait);
    void destroy(MeasuredVm& vm);
    /// Upgrades a VM; answers with a report. The VM is located when it has a VMM. A design that is driven by hand is not the
    /// manager's (by_hand.h); a dry run asks whether the design could that rests on it.
    HandoverReport upgrade(MeasuredVm& vm, const UpgradeOptions& options, Handover::Observer observer = nullptr);
    /// Begins an upgrade, without waiting; `done` is told when the VM is located. Nothing is said of VMs that are lost.
    void beginUpgrade(MeasuredVm& vm, const UpgradeOptions& options, Handover::Observer observer, Verbs::Done done);

    // These throw GuestLost.
    void setRunning(MeasuredVm& vm, bool running);
    void listen(MeasuredVm& vm, GuestWatch::Session session);

    /// Told every line that a guest says while its VM is handed over, as Host::onGuestHeard() tells it.
    void onGuestHeard(Host::GuestListener listener);

 private:
    /// A VM that is handed over by hand, and its lock.
    struct AtHand {
        UniqueFd lock;
        std::unique_ptr<ByHand> work;
    };
    void beginByHand(const MeasuredVm& vm, const UpgradeOptions& options, Handover::Observer observer,
                     std::function<void(HandoverReport)> done);
    bool handoverUnderWay() const { return host_.handoverUnderWay() || !atHand_.empty(); }
    VerbResult wait(const std::function<void(Verbs::Done)>& verb);
    /// Finds a VM by its record: which process it has, and where.
    void locate(MeasuredVm& vm) const;

    std::string directory_;
    Host host_;
    Host::GuestListener guestListener_;
    std::map<std::string, AtHand> atHand_;         ///< Handovers by the VM's name.
    std::map<std::string, EventSource> refusals_;  ///< Answers to come, by the VM's name.
    bool interrupted_ = false;
};

}  // namespace vh
