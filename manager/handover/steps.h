// The steps that designs take differently in a handover: one family a file (cpr_steps, stream_steps, exec_steps). The handover
// (handover.h) calls them in their states; each says that it is done through the course.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/handover/course.h"
#include "manager/handover/preflight.h"

namespace vh {

class Steps {
 public:
    using Then = std::function<void()>;

    explicit Steps(Course& course) : course_(course) {}
    Steps(const Steps&) = delete;
    virtual ~Steps() = default;

    /// Preflight: finds out what is of interest to this family only.
    virtual void addFacts(HandoverFacts&, Then then) { then(); }
    /// Mode in which the new VMM is started.
    virtual Incoming incoming() const { return Incoming::Defer; }
    /// Launching: the new VMM runs; `then` when its monitor can answer.
    virtual void awaitStart(Then then);
    /// Exchanging, when both VMMs have their capabilities.
    virtual void exchange() = 0;
    /// True when the new VMM of Launching is only to be looked at, next to the one that runs the guest.
    virtual bool rehearses() const { return false; }
    /// Verifying: compares the two VMMs' RAM blocks. Throws what does not fit.
    virtual void compare(const std::vector<RamBlock>& old, const std::vector<RamBlock>& newBlocks);
    /// Verifying: all is as it should be.
    virtual void verified(Then then) { then(); }
    /// StandingBy: lets the old VMM run as if there were no handover.
    virtual void hold(Then then);
    /// A commit, when everything has been looked at again: makes what hold() let go ready anew.
    virtual void resumeExchange(Then then);
    /// Switching: stops the guest and moves the devices' state.
    virtual void switchOver() = 0;
    /// Switching: the guest has stopped, and the old VMM waits before it sends its state (`pre-switchover`).
    virtual void aboutToSwitch() {}
    /// Switching, Executing: one of the VMMs has told how its migration is.
    virtual void migrated() = 0;
    /// Switching: the guest has stopped.
    virtual void guestStopped() {}
    virtual void withdraw() { course_.done(); }
    virtual void execute() { course_.done(); }
    /// Proving: the new VMM holds a stopped guest; `then` when it can have it.
    virtual void proved(Then then) { then(); }
    /// Retiring, Resuming: lets go of the old VMM, before all else.
    virtual void letGo() {}
    /// Retiring: the guest runs on the new VMM.
    virtual void retire(Then then) { then(); }
    /// Resuming: takes back what the old VMM was told, when its guest runs.
    virtual void undo(Then then) { then(); }
    /// Called when the process of a VMM has ended; true when that was dealt with.
    virtual bool newEnded() { return false; }
    virtual bool oldEnded() { return false; }
    /// Called for an event that changes nothing.
    virtual void unheeded(Event, const std::string&) {}
    /// The remark to add about a handover that is lost.
    virtual std::string whenLost() const { return {}; }

 protected:
    /// A migration through a socket in the new VMM's directory, as `migrate` and `migrate-incoming` take it.
    nlohmann::json mainChannel() const;
    std::vector<Course::Command> settingsOfNewVmm() const;
    /// Sets the old VMM's migration mode, the design's own. Throws what it refuses in that mode.
    void setMode(Then then);
    void holdNetwork();

    Course& course_;
};

/// The steps of a design; each family makes its own.
std::unique_ptr<Steps> stepsOf(Course& course);
std::unique_ptr<Steps> cprSteps(Course& course);
std::unique_ptr<Steps> streamSteps(Course& course);
std::unique_ptr<Steps> fileSteps(Course& course);
std::unique_ptr<Steps> execSteps(Course& course);

/// QEMU's migration mode for a design; null where that is `normal`.
const char* migrationMode(const DesignRow& design);

/// Value of `channels` in `migrate` and `migrate-incoming`.
nlohmann::json channel(const char* type, const std::string& path);

/// Capabilities of both VMMs' migrations in this handover; of the old one without it.
nlohmann::json migrationCapabilities(const Course& course);
nlohmann::json noMigrationCapabilities();

/// Parameters of the old VMM's migration in this handover.
nlohmann::json migrationParameters(const Course& course);

/// The commands that set both in the old VMM, or (not `on`) leave it as it was found.
std::vector<Course::Command> settingsOfOldVmm(const Course& course, bool on);

}  // namespace vh
