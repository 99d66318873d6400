// The first start of a VM: resolves what the definition leaves open, makes guest RAM, launches the VMM and lets the guest run.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/obstacle.h"
#include "manager/record/vm_directory.h"
#include "manager/vmm/binary_probe.h"
#include "manager/vmm/heartbeat.h"
#include "manager/vmm/vmm_process.h"

namespace vh {

struct StartRequest {
    VmDefinition definition;
    std::string definitionFile;
    std::string definitionText;
    /// Wait until the guest probe ticks and has filled its RAM; no wait when absent.
    std::optional<std::chrono::milliseconds> waitHeartbeat;
};

class Start {
 public:
    /// There is no `problem` when the guest runs. Otherwise nothing of the attempt is left, but for `guestRuns`: only the wait
    /// failed.
    struct Result {
        VmRecord record;
        std::optional<Obstacle> problem;
        bool guestRuns = false;
        std::vector<std::string> warnings;
    };
    using Done = std::function<void(Result)>;

    /// Starts the VM of `directory`, which is locked and has no record. Calls `done` from the main loop, once.
    Start(StartRequest request, VmDirectory directory, Done done);

 private:
    void begin();
    void chooseAccelerator();
    void resolve(const VmmBinary& binary);
    void launch();
    void letRun();
    void awaitHeartbeat();
    void fail(const std::string& what) { fail(Obstacle{what, ""}); }
    void fail(const Obstacle& problem);
    void finish(std::optional<Obstacle> problem, bool guestRuns);
    /// Runs a step; what it throws is the start's failure.
    void guarded(const std::function<void()>& step);

    StartRequest request_;
    VmDirectory directory_;
    Done done_;
    VmRecord record_;
    std::vector<std::string> warnings_;
    std::vector<UniqueFd> deviceLocks_;
    bool shareImplicitRam_ = false;
    std::unique_ptr<BinaryProbe> probe_;
    std::unique_ptr<VmmProcess> vmm_;
    HeartbeatMonitor heartbeat_;
    EventSource timer_, answer_;
};

}  // namespace vh
