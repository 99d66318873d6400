// One VMM process of a VM, whether this manager started it or an earlier one did: the process, its monitor, its files.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "manager/child_process.h"
#include "manager/qemu_command.h"
#include "manager/qmp_client.h"
#include "manager/resources.h"
#include "manager/vm_record.h"

namespace vh {

/// What it takes to start a VMM.
struct VmmLaunch {
    const VmDefinition& definition;  ///< Resolved.
    const VmDirectory& directory;
    unsigned generation = 1;
    std::string binary;
    UniqueFd ram;  ///< Guest RAM of the manager's; none when the VMM makes its own.
    Incoming incoming = Incoming::None;
    bool shareImplicitRam = false;
    bool connectHeartbeat = false;  ///< Listen to the guest probe's port from the start; see takeHeartbeat().
};

class VmmProcess {
 public:
    /// Makes the generation's directory, opens what the VMM inherits, starts it and connects to its monitor. Throws with the
    /// thing named; a program that ends at once is no exception but a process that has ended.
    static std::unique_ptr<VmmProcess> launch(VmmLaunch launch);

    /// Takes up a process that runs already; check alive().
    VmmProcess(VmmRecord record, std::string directory);

    const VmmRecord& record() const { return record_; }
    const std::string& directory() const { return directory_; }
    const Resources& resources() const { return resources_; }
    ChildProcess& process() { return process_; }
    bool alive() const { return process_.alive(); }

    /// The monitor; connects to that of a process taken up. Throws std::system_error.
    QmpClient& monitor();

    /// The last lines that the VMM wrote to its standard error, three at most and no warnings, as one; empty when there are none.
    /// QEMU tells a cause first and what came of it after that.
    std::string lastWords() const;

    /// The memfds that the process has mapped shared, by the name they were created with; from /proc/PID/maps.
    std::multimap<std::string, FileIdentity> mappedMemfds() const;

    /// A connection to the guest probe's port, made when the process was started; once.
    UniqueFd takeHeartbeat() { return std::move(heartbeat_); }

 private:
    VmmProcess() = default;

    VmmRecord record_;
    std::string directory_;
    ChildProcess process_;
    Resources resources_;
    std::unique_ptr<QmpClient> monitor_;
    UniqueFd heartbeat_;
};

/// Ends the VMMs of a VM that are on no record: a manager died between starting one and writing it down, or between handing over
/// and ending the old one. None of them runs the guest. They are known by their standard output, which is their generation's log.
/// `keep` are the pids on record.
void endStrayVmms(const VmDirectory& directory, const std::set<pid_t>& keep);

/// `10.0.13` from the answer to query-version or from a greeting's version.
std::string qemuVersion(const nlohmann::json& version);

}  // namespace vh
