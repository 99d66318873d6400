// The course of a recovery, which its parts share: its two VMMs, how they are asked, and how it ends. No design is known here.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "manager/record/vm_directory.h"
#include "manager/vmm/vmm_process.h"

namespace vh {

/// Deadline of an answer that nothing in the guest's way delays.
constexpr std::chrono::milliseconds answerTimeout{3'000};
/// Deadline of a command that lets a guest run: on a host with too much to do it takes its time, and there is nothing that a
/// stopped guest would be better served by.
constexpr std::chrono::milliseconds contTimeout{30'000};

class RecoveryCourse {
 public:
    using Done = std::function<void(std::optional<VmRecord>, std::string problem)>;

    RecoveryCourse(VmRecord record, VmDirectory directory, Done done);
    RecoveryCourse(const RecoveryCourse&) = delete;

    /// Asks a VMM. A monitor that cannot be connected to answers with an error, as one that does not answer within `timeout`.
    void ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, std::chrono::milliseconds timeout,
             QmpClient::ReplyHandler done);
    /// Runs a step; what it throws is the recovery's failure.
    void guarded(const std::function<void()>& step);
    /// Runs a step later; a further call takes its place.
    void after(std::chrono::milliseconds delay, std::function<void()> step);

    /// Lets the new VMM run the guest, if that ran. `who` is what is said of it should it not do so.
    void letNewRun(const std::string& who, std::function<void()> then);
    /// Has a new VMM that runs the guest announce it, in place of the manager that had told it not to do so by itself. Once: a
    /// handover does it before it writes down that only the new VMM is left.
    void announce(std::function<void()> then);

    /// Writes down that only `kept` is left, and ends the recovery.
    void settle(const VmmRecord& kept, unsigned goneGeneration);
    /// Gives `kept` its oom_score_adj back: while a handover lasts, the kernel is to end the new VMM first when memory runs out.
    void spare(const VmmRecord& kept);
    /// Removes sockets of the manager that died: a relay's, and the one on which a command that held an upgrade was told to
    /// commit it.
    void removeSockets(const VmmRecord& kept) const;
    void finish(std::string problem);

    VmRecord record;
    VmDirectory directory;
    VmmProcess oldVmm;
    VmmProcess newVmm;
    EventSource timer;
    std::optional<VmmRecord> left;  ///< The new VMM, which was to end and has not.
    bool startUndone = false;

 private:
    Done done_;
    EventSource answer_;
    int callsLeft_ = 50;  ///< Calls until the right one of two VMMs takes one, 20 ms apart.
    bool announced_ = false;
};

/// `pid 4711`
std::string pidOf(const VmmProcess& vmm);

}  // namespace vh
