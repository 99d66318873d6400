// A VMM process of a VM, whether this manager started it or an earlier one did: the process, its monitor, its files.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "manager/process/child_process.h"
#include "manager/record/vm_directory.h"
#include "manager/resources/resources.h"
#include "manager/vmm/qemu_command.h"
#include "manager/vmm/qmp_client.h"
#include "vmm-shim/ram_blocks.h"

namespace vh {

/// Everything needed to start a VMM.
struct VmmLaunch {
    const VmDefinition& definition;  ///< Resolved.
    const VmDirectory& directory;
    unsigned generation = 1;
    std::string binary;
    UniqueFd ram;                          ///< Guest RAM of the manager's; none when the VMM makes its own.
    std::vector<NamedDescriptor> devices;  ///< Passed through: see openDevices(), takeDevices().
    Incoming incoming = Incoming::None;
    bool shareImplicitRam = false;
    bool connectHeartbeat = false;       ///< Listen to the guest probe's port from the start; see takeHeartbeat().
    bool rehearsal = false;              ///< See QemuLaunch.
    const AdoptedVm* adopted = nullptr;  ///< Replaces the definition and what it says of descriptors, user and RAM.
    const VmmRecord* old = nullptr;      ///< VMM whose descriptors and traits the new one gets, with `adopted`.
};

class VmmProcess {
 public:
    /// Makes the generation's directory, opens what the VMM inherits, starts it and connects to its monitor. Throws with the
    /// thing named; a program that ends at once is no exception but a process that has ended.
    static std::unique_ptr<VmmProcess> launch(VmmLaunch launch);

    /// Prepares all of a launch but the process, for a VMM that `process` is going to execute in its own place: the generation's
    /// directory and log, and everything that the VMM inherits, from `firstDescriptor` on. Its monitor is connected to and
    /// answers once the VMM is there.
    static std::unique_ptr<VmmProcess> prepare(VmmLaunch launch, const VmmRecord& process, int firstDescriptor, UniqueFd state);

    /// The command line that a prepared VMM is to be executed with; and its log and resources, borrowed.
    const std::vector<std::string>& command() const { return command_; }
    std::vector<int> parcel() const;
    /// Lets go of log and resources: somebody else has them now.
    void release();

    /// Takes up a process that runs already; check alive().
    VmmProcess(VmmRecord record, std::string directory);

    const VmmRecord& record() const { return record_; }
    const std::string& directory() const { return directory_; }
    const Resources& resources() const { return resources_; }
    ChildProcess& process() { return process_; }
    bool alive() const { return process_.alive(); }

    /// The monitor; connects to that of a process taken up. Throws std::system_error.
    QmpClient& monitor();
    /// Lets others in: a VMM serves one monitor client at a time. The next monitor() connects again.
    void closeMonitor() { monitor_.reset(); }

    /// True when this process (or our own) sent the latest answer on the monitor, and no other that listens there, too: the
    /// kernel says so, whatever the socket's name leads to.
    bool hasOwnAnswer() const;
    /// Throws std::runtime_error when another process answers: a wrapper script that starts the VMM instead of executing it.
    /// Every signal, and every look at its descriptors, would meet the wrong process then.
    void expectOwnAnswer() const;

    /// The end of its stderr, see stderrTailOf(); what is in the log from before this VMM does not count.
    std::string stderrTail() const;

    /// The VMM's RAM blocks, by its monitor and /proc. `then` is called once, from the main loop; `problem` is empty when all is
    /// known.
    using RamBlocksHandler = std::function<void(std::vector<RamBlock> blocks, std::string problem)>;
    void gatherRamBlocks(std::chrono::milliseconds deadline, RamBlocksHandler then);

    /// A connection to the guest probe's port, made when the process was started; once.
    UniqueFd takeHeartbeat() { return std::move(heartbeat_); }

 private:
    VmmProcess() = default;
    /// A directory, log, resources and command line; no process.
    static std::unique_ptr<VmmProcess> furnish(VmmLaunch& launch, int firstDescriptor, UniqueFd state);
    static std::unique_ptr<VmmProcess> launchAdopted(const VmmLaunch& launch);
    void connect(bool heartbeat);

    VmmRecord record_;
    std::string directory_;
    ChildProcess process_;
    Resources resources_;
    std::vector<std::string> command_;
    UniqueFd log_;
    std::uintmax_t logStart_ = 0;  ///< Offset of this VMM's output in the log; before it is another VMM's.
    std::unique_ptr<QmpClient> monitor_;
    UniqueFd heartbeat_;
};

/// The last lines of what a program wrote to its standard error, three at most and no warnings, as one; empty when there are
/// none. QEMU tells a cause first and what came of it after that. However much there is, only the end of it is read, and only the
/// beginning of a line is told.
std::string stderrTailOf(int log, std::uintmax_t from = 0);

/// The main migration channel as `migrate` and `migrate-incoming` take it: the file in a set of the VMM's.
nlohmann::json fdsetChannel(int fdset);

/// Arguments of `announce-self`: as QEMU does it by itself after a migration (migration/options.c, 11.1).
nlohmann::json announcements();

/// `10.0.13` from the answer to query-version.
std::string qemuVersion(const nlohmann::json& version);
/// The VMM that answered query-version: `QEMU`, or `reference VMM`.
std::string vmmKind(const nlohmann::json& version);

}  // namespace vh
