#include "manager/handover/start.h"

#include <utility>

#include "manager/resources/passthrough.h"
#include "manager/vmm/kvm_probe.h"
#include "manager/vmm/qemu_command.h"

namespace vh {

Start::Start(StartRequest request, VmDirectory directory, Done done)
    : request_(std::move(request)), directory_(std::move(directory)), done_(std::move(done)) {
    timer_ = EventSource::after(std::chrono::milliseconds(0), [this] { guarded([this] { begin(); }); });
}

void Start::guarded(const std::function<void()>& step) {
    try {
        step();
    } catch (const std::exception& error) {
        fail(obstacleOf(error));
    }
}

void Start::begin() {
    const VmDefinition& definition = request_.definition;
    if (!definition.vfio.empty()) checkMemoryLock(definition.memory.sizeBytes);
    if (request_.waitHeartbeat && !definition.heartbeat)
        throw Refusal({"there is no heartbeat to wait for: the definition says 'heartbeat: false'",
                       "leave --wait-heartbeat out, or set 'heartbeat: true'"});
    record_.definitionFile = request_.definitionFile;
    record_.definitionText = request_.definitionText;
    record_.uuid = definition.uuid;
    if (record_.uuid.empty()) {
        char* made = g_uuid_string_random();
        record_.uuid = made;
        g_free(made);
    }
    chooseAccelerator();
    probe_ = std::make_unique<BinaryProbe>(
        BinaryProbe::Question{definition.vmm.binary, Identity::of(definition.vmm.user), deviceModels(definition)},
        [this](const VmmBinary& binary, const std::optional<Obstacle>& problem) {
            guarded([&] {
                if (problem) throw Refusal(*problem);
                resolve(binary);
                launch();
            });
        });
}

/// Who asks for KVM by name may have a guest that runs where others do not.
void Start::chooseAccelerator() {
    record_.accelerator = request_.definition.accelerator;
    if (record_.accelerator == Accelerator::Tcg) return;
    const KvmAbility kvm = probeKvm();
    if (record_.accelerator == Accelerator::Auto) {
        record_.accelerator = kvm.guests == KvmAbility::Guests::All ? Accelerator::Kvm : Accelerator::Tcg;
        return;
    }
    if (kvm.guests == KvmAbility::Guests::None)
        throw Refusal({"accelerator 'kvm': " + kvm.why, "use 'auto' or 'tcg' on this host"});
    if (kvm.guests == KvmAbility::Guests::Plain)
        warnings_.push_back("accelerator 'kvm': " + kvm.why +
                            "; Linux and ordinary firmware do not run under KVM on this host: use 'auto' or 'tcg' for them");
}

void Start::resolve(const VmmBinary& binary) {
    const std::string& machine = request_.definition.machine;
    const auto alias = binary.aliases.find(machine);
    record_.machine = alias == binary.aliases.end() ? machine : alias->second;
    if (!binary.machines.contains(record_.machine))
        throw Refusal({"QEMU " + binary.version + " ('" + binary.path + "') has no machine type '" + machine + "'",
                       "name one that it has: '" + binary.path + " -machine help' lists them"});
    if (!binary.missingModels.empty())
        throw Refusal(
            {"QEMU " + binary.version + " ('" + binary.path + "') lacks the device model '" + *binary.missingModels.begin() + "'",
             "install the package that has its module"});
    record_.vmm.kind = binary.kind;
    record_.vmm.version = binary.version;
    shareImplicitRam_ = binary.majorVersion >= 10;
}

void Start::launch() {
    VmDefinition definition = record_.definition();
    ClaimedDevices claimed = claimDevices(definition, Identity::of(definition.vmm.user));
    record_.passthrough = std::move(claimed.devices);
    warnings_.insert(warnings_.end(), claimed.warnings.begin(), claimed.warnings.end());
    deviceLocks_ = std::move(claimed.locks);
    definition = record_.definition();
    UniqueFd ram;
    if (definition.memory.owner == MemoryOwner::Manager) ram = createGuestRam(definition, Identity::of(definition.vmm.user));
    // On disk before it exists: a manager that is killed from here on leaves a trail to the process, and to the devices.
    const Identity identity = Identity::of(definition.vmm.user);
    directory_.makeGeneration(1, identity.uid, identity.gid);
    record_.vmm.generation = 1;
    record_.vmm.binary = definition.vmm.binary;
    record_.starting = true;
    directory_.write(record_);
    vmm_ = VmmProcess::launch({.definition = definition,
                               .directory = directory_,
                               .generation = 1,
                               .binary = definition.vmm.binary,
                               .ram = std::move(ram),
                               .devices = openDevices(record_.passthrough),
                               .shareImplicitRam = shareImplicitRam_,
                               .connectHeartbeat = request_.waitHeartbeat.has_value()});
    vmm_->process().onExit([this] {
        const std::string words = vmm_->stderrTail();
        fail("the VMM " + vmm_->process().howItEnded() + (words.empty() ? "" : ": " + words));
    });
    const std::chrono::milliseconds deadline = definition.handover.deadlines.launch;
    timer_ = EventSource::after(deadline, [this] { fail("the VMM did not come up within its launch deadline"); });
    // Any answer will do: it says that the VMM has come up.
    vmm_->monitor().execute("query-status", nullptr, deadline, [this](const QmpReply& reply) {
        if (reply.ok()) guarded([this] { letRun(); });  // Else its exit or the deadline says why.
    });
}

void Start::letRun() {
    vmm_->expectOwnAnswer();
    const VmDefinition definition = record_.definition();
    const VmmRecord probed = std::exchange(record_.vmm, vmm_->record());
    record_.vmm.kind = probed.kind;
    record_.vmm.version = probed.version;
    directory_.write(record_);
    joinBridges(definition, vmm_->resources());
    deviceLocks_.clear();
    vmm_->monitor().execute("cont", nullptr, definition.handover.deadlines.launch, [this](const QmpReply& reply) {
        if (!reply.ok()) return fail("the VMM does not run the guest: " + reply.error->description);
        vmm_->process().ignoreExit();
        timer_.reset();
        record_.starting = false;
        try {
            directory_.write(record_);
        } catch (const std::exception& error) {
            warnings_.push_back(error.what());  // The next command finds that the guest runs.
        }
        guarded([this] { awaitHeartbeat(); });
    });
}

void Start::awaitHeartbeat() {
    if (!request_.waitHeartbeat) return finish({}, true);
    vmm_->process().onExit(
        [this] { fail("the VMM " + vmm_->process().howItEnded() + " while the guest was starting: " + vmm_->stderrTail()); });
    timer_ = EventSource::after(*request_.waitHeartbeat, [this] {
        const std::string& vm = request_.definition.name;
        finish(
            Obstacle{"no heartbeat from the guest's probe, with its RAM filled, within " +
                         std::to_string(request_.waitHeartbeat->count()) + " ms; the VM was started and runs on, as pid " +
                         std::to_string(record_.vmm.pid),
                     "'virt-handover console " + vm + "' shows what its guest says, 'virt-handover destroy " + vm + "' ends it"},
            true);
    });
    heartbeat_.listen(vmm_->takeHeartbeat());
    heartbeat_.onLine([this] {
        const auto& status = heartbeat_.summary().status;
        const auto filled = status.find("ram_filled");
        if (heartbeat_.summary().beats > 0 && filled != status.end() && filled->second == 1) finish({}, true);
    });
}

void Start::fail(const Obstacle& problem) {
    const auto undo = [this, problem] {
        std::string what = withFileNames(problem.what, request_.definition);
        for (const std::string& more : releaseDevices(record_.passthrough)) what += "; " + more;
        try {
            directory_.remove();
        } catch (const std::exception& error) {
            what += std::string("; ") + error.what();
        }
        finish(Obstacle{what, problem.remedy}, false);
    };
    if (!vmm_ || !vmm_->alive()) return undo();
    timer_ = EventSource::after(std::chrono::milliseconds(2'000), undo);  // SIGKILL waits for a disk at most.
    vmm_->process().onExit(undo);
    vmm_->process().killAll();
}

void Start::finish(std::optional<Obstacle> problem, bool guestRuns) {
    if (!done_) return;
    timer_.reset();
    heartbeat_.onLine(nullptr);
    if (vmm_) vmm_->process().ignoreExit();
    answer_ = EventSource::soon([done = std::exchange(done_, nullptr),
                                 result = Result{record_, std::move(problem), guestRuns, warnings_}] { done(result); });
}

}  // namespace vh
