// The manager, as a program that is run: `virt-handover --embed adopt` does what touches a guest.
#pragma once

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "manager/record/report.h"
#include "vmm-shim/proc.h"

namespace vh {

/// The manager's exit code 4: no program may decide.
struct PersonNeeded : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The end of a domain's VMM, when whoever handed it over cannot say any more.
struct Settled {
    enum class State { Unknown, Running, Dead };
    State state = State::Unknown;  ///< Unknown: the manager never began with it.
    ProcessIdentity process;       ///< Process that has the guest, when Running.
    std::string left{};            ///< Text about another process that SIGKILL does not end, when Running.
};

/// The manager's record of a domain.
struct ManagerRecord {
    std::string uuid;
    pid_t pid = 0;
    std::string binary;
    bool interrupted = false;  ///< A handover was interrupted, or is under way.
};

class ManagerCommand {
 public:
    /// The program is VH_CLI in the environment, else beside this one, else where it is installed.
    explicit ManagerCommand(std::string runtimeDirectory);

    /// The report of the handover, or nothing when the manager ended without one: then settle() finds out. `stop` (borrowed) asks
    /// it to roll back what still can be when it becomes readable. Throws std::runtime_error when the manager does not end at
    /// all.
    std::optional<HandoverReport> adopt(const std::string& specFile, std::chrono::milliseconds deadline, int stop) const;

    /// Finds out which VMM a domain has; waits for a manager that is still at it. Throws PersonNeeded; std::runtime_error when it
    /// cannot be found out.
    Settled settle(const std::string& uuid) const;

    /// The records of all domains. Throws std::runtime_error.
    std::vector<ManagerRecord> records() const;

    /// Drops the record of a domain whose VMM is dead.
    void forget(const std::string& uuid) const;

 private:
    std::vector<std::string> command(std::vector<std::string> words) const;

    std::string program_;
    std::string runtimeDirectory_;
};

}  // namespace vh
