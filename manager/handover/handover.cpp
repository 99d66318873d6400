#include "manager/handover/handover.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <system_error>

#include "manager/process/held_by_process.h"
#include "manager/resources/memory_files.h"
#include "manager/resources/memory_room.h"
#include "manager/resources/passthrough.h"
#include "manager/vmm/strays.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds patience{
    10'000};  ///< For steps that no definition sets a deadline for: preflight, confirming, going back.
constexpr milliseconds tidyPatience{2'000};  ///< What is done for tidiness must not make a resumed guest a lost one.
// How long a guest's beat is waited for on the first connection to its port; twice as long on each further one. A port whose
// listener changes may stay silent for its next one, for ever (seen with QEMU 10.0 and 11.1; it is throttled by
// hw/char/virtio-console.c:flush_buf after the listener has gone), and is not for the one after that.
constexpr milliseconds beatPatienceBefore{150}, beatPatienceAfter{400};
constexpr unsigned connectionsBefore = 3, connectionsAfter = 4;
constexpr milliseconds silence = beatPatienceAfter * ((1 << connectionsAfter) - 1);
constexpr milliseconds recently{2'000};  ///< A guest that beats does so a thousand times a second; this is for a busy host.
constexpr std::uint64_t socketSpaceBytes = 256 * 1024;  ///< Enough for the directory, sockets and record of one more VMM.
constexpr std::uint64_t freshVmmBytes = 16 << 20;       ///< Anonymous, of a QEMU 10.0 or 11.1 that has built its machine: 15 MiB.
constexpr milliseconds defaultDowntime{300};            ///< migration/options.c:DEFAULT_MIGRATE_SET_DOWNTIME, 10.0.
constexpr std::uint64_t unlimitedBandwidth = std::uint64_t{1} << 40;

std::uint64_t freeBytes(const std::string& path) {
    struct statvfs status {};
    if (::statvfs(path.c_str(), &status) != 0) throw std::system_error(errno, std::generic_category(), "look at '" + path + "'");
    return std::uint64_t{status.f_bavail} * status.f_frsize;
}

std::string milliseconds_(milliseconds duration) {
    return std::to_string(duration.count()) + " ms";
}

/// QEMU 10.1 and later always append "CprState/vfio devices" to the CPR state, and 10.0 ends with "vmstate_load_state error -2"
/// on it (hw/vfio/cpr-iommufd.c:vmstate_cpr_vfio_devices has no `.needed`, 11.1).
bool sendsVfioSubsection(const std::string& version) {
    return !version.starts_with("10.0.");
}

FileStamp stampOf(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return {};
    return {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino), status.st_size,
            status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

bool isAtLeast(const std::string& version, int major, int minor) {
    int itsMajor = 0, itsMinor = 0;
    return std::sscanf(version.c_str(), "%d.%d", &itsMajor, &itsMinor) == 2 &&
           (itsMajor > major || (itsMajor == major && itsMinor >= minor));
}

json channel(const char* type, const std::string& path) {
    return {{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", path}}}};
}

}  // namespace

Handover::Handover(HandoverRequest request, VmDirectory directory, Observer observer, Done done)
    : request_(std::move(request)),
      directory_(std::move(directory)),
      observer_(std::move(observer)),
      done_(std::move(done)),
      design_(request_.design) {
    report_.vm = request_.definition.name;
    report_.warnings = request_.warnings;
    report_.design = design_;
    report_.old = {request_.record.vmm.binary, request_.record.vmm.kind, request_.record.vmm.version, request_.record.vmm.pid};
    report_.fresh.binary = request_.binary;
    report_.ramBytes = request_.definition.memory.sizeBytes;
    report_.passthrough = request_.record.passthrough;
    heartbeat_.onHeard(std::move(request_.heard));
}

void Handover::begin() {
    enter(State::Preflight);
}

// The engine: states, events, and what is bound to a state.

void Handover::enter(State state) {
    if (state == State::StandingBy && !request_.standby) return enter(next(state, Event::Done));
    const double now = sinceBeginMs();
    if (!report_.steps.empty()) report_.steps.back().durationMs = now - report_.steps.back().startMs;
    state_ = state;
    const unsigned epoch = ++epoch_;
    deadline_.reset();
    pollTimer_.reset();
    if (!isBeforePointOfNoReturn(state, passesThrough())) pauseBudget_.reset();
    if (!confirming_ && (state == State::Confirming || (state == State::Proving && passesThrough()))) spareNewVmm();
    confirming_ = confirming_ || state == State::Confirming || (state == State::Proving && passesThrough());
    if (!isFinal(state)) report_.steps.push_back({state, now});
    if (observer_)
        observer_({state, now, old_ ? old_->record().pid : 0, new_ ? new_->record().pid : 0, stoppedAt_.has_value(),
                   new_ ? &new_->resources() : nullptr});
    if (epoch != epoch_) return;  // The observer cancelled.
    if (isFinal(state)) return finish();
    // In preflight the new binary has a deadline of its own, and says itself that it was not met.
    const milliseconds more = state == State::Retiring    ? silence
                              : state == State::Preflight ? deadlineOf(State::Launching)
                                                          : milliseconds(0);
    const milliseconds deadline = deadlineOf(state) + more;
    deadline_ =
        EventSource::after(deadline, within([this, state, deadline] {
                               post(Event::TimedOut, std::string(name(state)) + " took longer than " + milliseconds_(deadline));
                           }));
    try {
        act(state);
    } catch (const std::exception& error) {
        post(Event::Failed, error.what());
    }
}

void Handover::act(State state) {
    switch (state) {
        case State::Preflight:
            return preflight();
        case State::Launching:
            return launch();
        case State::Exchanging:
            return exchange();
        case State::Verifying:
            return verify();
        case State::StandingBy:
            return standBy();
        case State::Switching:
            return switchOver();
        case State::Proving:
            return prove();
        case State::Confirming:
            return confirm();
        case State::Retiring:
            return retire();
        case State::Discarding:
            return discard();
        case State::Resuming:
            return resume();
        case State::Ending:
            return endOldVmm();
        case State::Refused:
        case State::RolledBack:
        case State::Upgraded:
        case State::Lost:
            return;
    }
}

void Handover::post(Event event, const std::string& cause) {
    if (isFinal(state_) || stopBeforeExec(event, cause)) return;
    const State following = next(state_, event, passesThrough());
    if (following == state_) return;
    if (event != Event::Done && report_.cause.empty()) report_.cause = cause;
    if (event == Event::Cancelled) report_.cancelled = true;
    if (following == State::Lost && report_.cause != cause) report_.cause += "; then " + cause;
    enter(following);
}

void Handover::send(VmmProcess& vmm, const std::string& command, json arguments, std::function<void(const QmpReply&)> then,
                    UniqueFd descriptor) {
    const auto answered = within([then = std::move(then)](const QmpReply& reply) {
        // A VMM that closes its monitor is ending, and how it ends is the better cause: its exit, or the deadline, comes next.
        if (reply.ok() || reply.error->errorClass != "Closed") then(reply);
    });
    vmm.monitor().execute(command, std::move(arguments), deadlineOf(state_), answered, std::move(descriptor));
}

void Handover::run(std::vector<Command> commands, std::function<void()> then) {
    if (commands.empty()) return then();
    const Command first = std::move(commands.front());
    commands.erase(commands.begin());
    send(*first.vmm, first.name, first.arguments,
         [this, first, rest = std::move(commands), then = std::move(then)](const QmpReply& reply) {
             if (!reply.ok()) return post(Event::Failed, errorText(*first.vmm, first.name, *reply.error));
             run(rest, then);
         });
}

milliseconds Handover::deadlineOf(State state) const {
    const Deadlines& deadlines = request_.definition.handover.deadlines;
    if (state == State::Launching) return deadlines.launch;
    if (state == State::Exchanging) return deadlines.exchange;
    if (state == State::Verifying) return deadlines.verify;
    if (state == State::StandingBy) return committed_ ? deadlines.exchange : deadlines.standby;
    if (state == State::Switching) return deadlines.switchOver;
    if (state == State::Retiring || state == State::Ending) return deadlines.retire;
    return patience;
}

double Handover::sinceBeginMs() const {
    return std::chrono::duration<double, std::milli>(Clock::now() - begun_).count();
}

std::string Handover::describe(const VmmProcess& vmm) const {
    return &vmm == old_.get() ? "the old VMM" : "the new VMM";
}

std::string Handover::withoutCpr() const {
    return request_.definition.memory.owner == MemoryOwner::Manager ? "manager-owned" : "copy";
}

std::string Handover::errorText(const VmmProcess& vmm, const std::string& command, const QmpError& error) const {
    return describe(vmm) + ": " + command + ": " + error.description;
}

// Preflight.

void Handover::preflight() {
    if (!request_.refusal.empty()) throw std::runtime_error(request_.refusal);
    old_ = std::make_unique<VmmProcess>(request_.record.vmm, directory_.generation(request_.record.vmm.generation));
    if (!old_->alive()) throw std::runtime_error("the VM is not running; start it with the new VMM instead");
    checkHost();
    old_->process().onExit([this] {
        if (state_ == State::Retiring) return done();
        if (state_ == State::Ending) return within([this] { oldGone(); })();
        if (hasExecuted()) return newExecuted();
        const std::string words = old_->lastWords();
        post(Event::OldDied, "the old VMM " + old_->process().howItEnded() + " by itself" + (words.empty() ? "" : ": " + words));
    });
    binaryStamp_ = stampOf(request_.binary);
    probe_ = std::make_unique<BinaryProbe>(
        BinaryProbe::Question{request_.binary, identity(),
                              request_.record.adopted ? request_.record.adopted->models : deviceModels(request_.definition),
                              deadlineOf(State::Launching)},
        within([this](const VmmBinary& binary, const std::string& cause) {
            if (!cause.empty()) throw std::runtime_error("the new VMM: " + cause);
            newBinary_ = binary;
            report_.fresh.kind = binary.kind;
            report_.fresh.version = binary.version;
            checkNewBinary();
            askOldVmm();
        }));
}

Identity Handover::identity() const {
    return request_.record.adopted ? Identity::ofProcess(request_.record.vmm.pid) : Identity::of(request_.definition.vmm.user);
}

void Handover::checkHost() const {
    const HandoverSettings& settings = request_.definition.handover;
    const std::uint64_t ramBytes = request_.definition.memory.sizeBytes;
    if (passesThrough()) checkPassthrough();
    const MemoryOwner owner = request_.definition.memory.owner;
    if ((design_ == Design::ManagerOwned && owner != MemoryOwner::Manager) ||
        ((design_ == Design::VmmOwned || executes()) && owner != MemoryOwner::Vmm))
        throw std::runtime_error("design '" + std::string(name(design_)) +
                                 "' does not fit a VM that was started with memory.owner '" + std::string(name(owner)) +
                                 "'; use 'relayed', or change the definition and power-cycle the VM");
    if (request_.standby && executes())
        throw std::runtime_error(
            "design 'vmm-exec' has nothing to hold: the new VMM takes the old one's process; stand by with 'relayed'");
    if (request_.standby && !sharesRam())
        throw std::runtime_error("design '" + std::string(name(design_)) +
                                 "' has nothing to prepare: it moves guest RAM when it switches; stand by with 'relayed'");
    if (const std::uint64_t free = freeBytes(directory_.runtime()); free < socketSpaceBytes)
        throw std::runtime_error("'" + directory_.runtime() + "' has " + std::to_string(free / 1024) +
                                 " KiB free, and the new VMM's sockets and record need " +
                                 std::to_string(socketSpaceBytes / 1024) + " KiB");
    if (design_ == Design::SaveRestore && freeBytes(settings.saveDirectory) < ramBytes)
        throw std::runtime_error("'" + settings.saveDirectory + "' has no room for " + formatSize(ramBytes) +
                                 " of guest RAM; set handover.save_directory to one that has");
    if ((design_ == Design::SaveRestore || design_ == Design::Copy) && availableMemoryBytes() < ramBytes)
        throw std::runtime_error("design '" + std::string(name(design_)) + "' needs " + formatSize(ramBytes) +
                                 " of memory for a second copy of guest RAM, and the host has not that much available");
    checkMemoryRoom();
    if (!request_.record.adopted) checkFiles();
    // Writing and reading at a gigabyte a second is more than most disks do, so below this the refusal is certain to be right.
    const milliseconds least{2 * ramBytes / (1024 * 1024)};
    if (design_ == Design::SaveRestore && settings.pauseBudget < least)
        throw std::runtime_error("design 'save-restore' would pause the guest for " + milliseconds_(least) +
                                 " or longer, and its pause budget is " + milliseconds_(settings.pauseBudget) +
                                 "; raise it (--pause-budget), or use another design");
}

/// What the two VMMs share is there already. Of its own a new VMM has at least as much as one that was just started, or as the
/// old one, when that is less; in the designs that move guest RAM, as much of that as the guest has touched.
void Handover::checkMemoryRoom() const {
    const pid_t old = request_.record.vmm.pid;
    const std::optional<MemoryRoom> least = leastMemoryRoom(request_.record.adopted ? old : ::getpid());
    if (!least) return;
    const ResidentMemory resident = residentMemoryOf(old);
    const std::uint64_t own = std::min(resident.ofItsOwn, freshVmmBytes);
    const std::uint64_t ram =
        sharesRam() ? 0 : std::min(request_.definition.memory.sizeBytes, resident.ofItsOwn + resident.shared);
    if (least->room >= own + ram) return;
    const auto mebibytes = [](std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; };
    throw std::runtime_error("the memory cgroup '" + least->cgroup + "' has room for " + mebibytes(least->room) +
                             " (its limit is " + mebibytes(least->limit) + ", in use are " + mebibytes(least->used) +
                             "), and the new VMM needs at least " + mebibytes(own + ram) +
                             " beside the old one; raise the limit, or free memory in it");
}

void Handover::checkPassthrough() const {
    const std::string devices = "passed-through devices ('" + request_.record.passthrough.front().id + "'" +
                                (request_.record.passthrough.size() > 1 ? ", ...)" : ")"),
                      refusal = "design '" + std::string(name(design_)) + "' cannot carry " + devices + ": ";
    if (design_ == Design::ManagerOwned)
        throw std::runtime_error(refusal +
                                 "the new VMM would configure the kernel a second time for one device (bind it to the iommufd, "
                                 "attach it, map guest RAM, reset it), which the kernel refuses while the old one has it; use "
                                 "'relayed', which tells the new VMM what the kernel knows already");
    if (design_ == Design::Copy || design_ == Design::SaveRestore)
        throw std::runtime_error(refusal + "the state inside a real device cannot be copied; use 'relayed'");
    if (design_ == Design::VmmExec)
        throw std::runtime_error(refusal + "it was never tried with them, and it cannot go back; use 'relayed'");
    if (request_.record.accelerator == Accelerator::Tcg)
        throw std::runtime_error(devices +
                                 " cannot be handed over from a VMM with accelerator 'tcg': QEMU crashes on MSI-X without KVM "
                                 "when it is told to (seen with 11.1.3)");
    if (const std::string obstacle = obstacleToPassthrough(request_.definition.vmm.arguments); !obstacle.empty())
        throw std::runtime_error(devices + " cannot be handed over with the argument " + obstacle);
    if (const std::string why = whyNotHandedOver(request_.record.passthrough, request_.record.vmm.pid); !why.empty())
        throw std::runtime_error(why);
}

void Handover::checkNewBinary() const {
    const VmDefinition& definition = request_.definition;
    const std::string subject = "the new VMM '" + newBinary_.path + "' (QEMU " + newBinary_.version + ")";
    if (!newBinary_.machines.contains(definition.machine))
        throw std::runtime_error(subject + " has no machine type '" + definition.machine +
                                 "', which this guest was started with; use a QEMU that still has it");
    if (!newBinary_.missingModels.empty()) {
        std::string models;
        for (const std::string& model : newBinary_.missingModels) models += (models.empty() ? "'" : ", '") + model + "'";
        throw std::runtime_error(subject + " lacks the device model " + models + "; install the package that has its module");
    }
    if (usesCpr() && newBinary_.majorVersion < 10)
        throw std::runtime_error(subject + " cannot take a VM over by CPR: that needs QEMU 10.0 or newer; use design '" +
                                 withoutCpr() + "'");
    if (passesThrough() && !isAtLeast(newBinary_.version, 10, 1))
        throw std::runtime_error(subject + " cannot take passed-through devices over: that needs QEMU 10.1 or newer");
    if (executes() && (newBinary_.kind != "QEMU" || !isAtLeast(newBinary_.version, 10, 2)))
        throw std::runtime_error(subject +
                                 " cannot be executed in the old one's place: that needs QEMU 10.2 or newer on both sides; "
                                 "use design 'relayed'");
}

void Handover::askOldVmm() {
    listenToOldVmm();
    send(*old_, "query-version", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok())
            throw std::runtime_error("the old VMM's monitor does not answer (is another client connected to it?): " +
                                     reply.error->description);
        report_.old.kind = vmmKind(reply.value);
        report_.old.version = qemuVersion(reply.value);
        if (usesCpr() && std::atoi(report_.old.version.c_str()) < 10)
            throw std::runtime_error("the old VMM, QEMU " + report_.old.version +
                                     ", cannot hand over by CPR: that needs QEMU 10.0 or newer; use design '" +
                                     (knowsChannels() ? withoutCpr() : "copy") + "'");
        if (design_ == Design::SaveRestore && !knowsChannels())
            throw std::runtime_error("the old VMM, QEMU " + report_.old.version +
                                     ", cannot save its guest to a file: that needs QEMU 8.2 or newer; use design 'copy'");
        if (design_ == Design::VmmOwned && sendsVfioSubsection(report_.old.version) && !sendsVfioSubsection(newBinary_.version))
            throw std::runtime_error("QEMU " + newBinary_.version + " cannot read the CPR state of QEMU " + report_.old.version +
                                     ", which has a part that 10.1 introduced; use design 'relayed', which leaves it out, or a "
                                     "new VMM of 10.1 or later");
        if (passesThrough() && !isAtLeast(report_.old.version, 10, 1))
            throw std::runtime_error("the old VMM, QEMU " + report_.old.version +
                                     ", cannot hand passed-through devices over: that needs QEMU 10.1 or newer; the VM has to be "
                                     "power-cycled");
        if (executes() && (report_.old.kind != "QEMU" || !isAtLeast(report_.old.version, 10, 2)))
            throw std::runtime_error(
                "the old VMM, " + report_.old.kind + " " + report_.old.version +
                ", cannot execute another one in its place: that needs QEMU 10.2 or newer on both sides; use "
                "design 'relayed'");
        if (copiesStopped())
            report_.warnings.push_back("the guest is stopped while its RAM is copied: under TCG, QEMU " + report_.old.version +
                                       " does not notice all that a running guest writes, and it would crash on the new VMM");
        const auto checkRest = [this] { checkGuest([this] { awaitFirstHeartbeat(); }); };
        executes() ? checkExec(checkRest) : checkRest();
    });
}

/// Asks the old VMM whether its guest is in a state that can be handed over.
void Handover::checkGuest(std::function<void()> then) {
    send(*old_, "query-status", nullptr, [this, then = std::move(then)](const QmpReply& status) {
        if (!status.ok()) throw std::runtime_error(errorText(*old_, "query-status", *status.error));
        // That of an adopted VM is where its own manager has put it, in a directory of the VMM's user.
        if (!old_->hasOwnAnswer())
            throw std::runtime_error("another process than the old VMM, pid " + std::to_string(old_->record().pid) +
                                     ", answers on its monitor");
        const std::string runState = status.text("status");
        wasRunning_ = runState == "running";
        if (!wasRunning_ && runState != "paused") throw std::runtime_error("the guest is in the state '" + runState + "'");
        send(*old_, "query-block-jobs", nullptr, [this, then](const QmpReply& jobs) {
            if (jobs.ok() && !jobs.value.empty()) throw std::runtime_error("a block job is running; wait for it or cancel it");
            checkWhatItHolds();
            checkBlockers([this, then] {
                checkFatalDevices({"/machine/peripheral", "/machine/peripheral-anon"}, {}, [this, then] { checkRam(then); });
            });
        });
    });
}

/// What a second VMM cannot have beside the old one: its start would take it away, or fail. All of it that a definition describes
/// is inherited, and so is what an adopted VM has.
void Handover::checkWhatItHolds() const {
    if (request_.record.adopted) return;
    const pid_t pid = request_.record.vmm.pid;
    const std::string remedy = "; remove that from the VM (by its monitor, or from vmm.arguments with a power-cycle)";
    for (const std::string& place : listenersOf(pid))
        if (!place.starts_with(old_->directory() + "/"))
            throw std::runtime_error("the old VMM listens on '" + place +
                                     "', where two VMMs cannot listen at a time, and which the old one's end would close" +
                                     remedy);
    // A tap with one queue refuses the second VMM (drivers/net/tun.c:tun_attach, 6.1), and one with many gives each of the two a
    // part of what comes for the guest.
    for (const std::string& tap : tapsHeldBy(pid))
        if (!isOwnTap(tap))
            throw std::runtime_error(
                "the old VMM has the tap '" + tap +
                "', which two VMMs cannot have at a time; let the definition have the network instead ('networks', "
                "of type tap)" +
                remedy);
    for (const std::string& file : deletedFilesOf(pid))
        if (file != request_.definition.console.log)
            throw std::runtime_error(
                "the old VMM writes to '" + file +
                "', which has no name any more, as a disk with snapshot=on does: the new VMM could not open it, "
                "and the guest would find its disk as it was before" +
                remedy);
}

/// What blocks a migration in mode `normal`, which the old VMM is in but during a handover, and in the design's own mode as well.
/// A passed-through device without migration in its kernel driver, or an image of format vmdk, blocks the first only
/// (migrate_add_blocker_normal() in hw/vfio/migration.c and block/vmdk.c, 10.0 and 11.1), and RAM that is not shared the second
/// only, which checkRam() has better words for. QEMU lists the blockers of the mode that is set: it is set for the question, and
/// back.
void Handover::checkBlockers(std::function<void()> then) {
    askForBlockers([this, then = std::move(then)](const std::vector<std::string>& reasons) {
        if (reasons.empty()) return then();
        if (!usesCpr() && !executes()) refuseFor(reasons.front());
        run({{old_.get(), "migrate-set-parameters", {{"mode", executes() ? "cpr-exec" : "cpr-transfer"}}}},
            [this, then, reasons] {
                askForBlockers([this, then, reasons](const std::vector<std::string>& inItsMode) {
                    run({{old_.get(), "migrate-set-parameters", {{"mode", "normal"}}}}, [then, reasons, inItsMode] {
                        for (const std::string& reason : reasons)
                            if (std::ranges::find(inItsMode, reason) != inItsMode.end()) refuseFor(reason);
                        then();
                    });
                });
            });
    });
}

/// QEMU 11.1, the first that saves NVMe controllers at all, ends by SIGSEGV on one whose own `drive` is not set, whatever
/// namespaces it has beside (seen with 11.1.3). Of those before, checkBlockers() has told. And every one does on a pci-serial-2x,
/// of which it saves four ports (hw/char/serial-pci-multi.c:vmstate_pci_multi_serial; seen with 10.0.2 and 11.1.3).
void Handover::checkFatalDevices(std::vector<std::string> places, std::vector<std::string> controllers,
                                 std::function<void()> then) {
    if (places.empty() && controllers.empty()) return then();
    if (!places.empty()) {
        const std::string place = places.back();
        places.pop_back();
        return send(*old_, "qom-list", {{"path", place}}, [this, place, places, controllers, then](const QmpReply& reply) {
            std::vector<std::string> found = controllers;
            for (const json& child : JsonReader(reply.value).list(""))
                if (const std::string type = JsonReader(child).text("/type"); type == "child<nvme>")
                    found.push_back(place + "/" + JsonReader(child).text("/name"));
                else if (type == "child<pci-serial-2x>")
                    refuseFor("it would crash, and the guest with it, when it saves a 'pci-serial-2x' ('" +
                              JsonReader(child).text("/name") + "')");
            checkFatalDevices(places, found, then);
        });
    }
    const std::string controller = controllers.back();
    controllers.pop_back();
    send(*old_, "qom-get", {{"path", controller}, {"property", "drive"}},
         [this, controller, controllers, then](const QmpReply& reply) {
             if (reply.ok() && reply.value == "")
                 refuseFor(
                     "it would crash, and the guest with it, when it saves an NVMe controller that has no drive of its own ('" +
                     controller + "', without 'drive=')");
             checkFatalDevices({}, controllers, then);
         });
}

void Handover::refuseFor(const std::string& blocker) {
    throw std::runtime_error("the old VMM cannot hand its guest over: " + blocker +
                             "; remove that from the VM, by hotplug or with a power-cycle");
}

/// Of the mode that the old VMM is in (migration/migration.c:fill_source_migration_info, 10.0 and 11.1).
void Handover::askForBlockers(std::function<void(const std::vector<std::string>&)> then) {
    send(*old_, "query-migrate", nullptr, [this, then = std::move(then)](const QmpReply& reply) {
        if (!reply.ok()) throw std::runtime_error(errorText(*old_, "query-migrate", *reply.error));
        std::vector<std::string> reasons;
        for (const json& blocked : JsonReader(reply.value).list("/blocked-reasons"))
            reasons.push_back(blocked.is_string() ? blocked.get<std::string>() : blocked.dump());
        then(reasons);
    });
}

void Handover::checkRam(std::function<void()> then) {
    if (executes()) return then();  // checkExec() has.
    gatherRam(*old_, [this, then = std::move(then)](const std::vector<RamBlock>& blocks) {
        const std::string lost = usesCpr() ? blockLostByExec(blocks) : std::string();
        if (!lost.empty())
            throw std::runtime_error("RAM block '" + lost + "' of the old VMM is private memory of its own, which design '" +
                                     std::string(name(design_)) + "' cannot hand over; use design '" + withoutCpr() +
                                     "', or power-cycle the VM (a memory backend in vmm.arguments needs share=on)");
        then();
    });
}

void Handover::awaitFirstHeartbeat() {
    if (!request_.definition.heartbeat || !wasRunning_) return passPreflight();
    heartbeat_.listen(connectUnix(old_->directory() + "/heartbeat.sock"));
    awaitBeats(*old_, beatPatienceBefore, connectionsBefore, [this](bool heard) {
        if (!heard) report_.warnings.push_back("no heartbeat from the guest; its pause is known by STOP to RESUME only");
        passPreflight();
    });
}

void Handover::passPreflight() {
    if (!request_.dryRun) return done();
    report_.dryRun = true;
    post(Event::Cancelled, {});
}

// Launching.

void Handover::launch() {
    // On disk before it exists, and again when it does: a manager that is killed from here on leaves a trail to the new process.
    request_.record.fresh = VmmRecord{.generation = request_.record.vmm.generation + 1, .binary = request_.binary};
    request_.record.guestWasRunning = wasRunning_;
    request_.record.memoryBefore = memoryFilesOf(request_.record.vmm.pid);
    request_.record.oomScore = oomScoreOf(request_.record.vmm.pid);
    AdoptedVm* adopted = request_.record.adopted ? &*request_.record.adopted : nullptr;
    if (adopted) readTapSettings(*adopted, request_.record.vmm.pid);
    directory_.write(request_.record);
    // Only when the old VMM's port is listened to as well: the guest is told of any change of connection, and should see none
    // (hw/char/virtio-serial-bus.c:virtio_serial_post_load_timer_cb, 10.0).
    const bool listensToGuest = request_.definition.heartbeat && wasRunning_ && !executes();
    UniqueFd ram;
    if (request_.definition.memory.owner == MemoryOwner::Manager)
        ram = sharesRam() ? reopenGuestRam(request_.record.vmm)
                          : createGuestRam(request_.definition, Identity::of(request_.definition.vmm.user));
    if (adopted) {
        taps_ = TapGuard(*adopted, request_.record.vmm.pid);
        guardTaps();
    }
    // Kept to the end: whatever becomes of the two VMMs, the kernel does not reset a device that is still open.
    devices_ = takeDevices(request_.record.vmm);
    new_ = VmmProcess::launch({.definition = request_.definition,
                               .directory = directory_,
                               .generation = request_.record.fresh->generation,
                               .binary = request_.binary,
                               .ram = std::move(ram),
                               .devices = takeDevices(request_.record.vmm),
                               .incoming = usesCpr() ? Incoming::Cpr : Incoming::Defer,
                               .shareImplicitRam = newBinary_.majorVersion >= 10,
                               .connectHeartbeat = listensToGuest,
                               .rehearsal = executes(),
                               .adopted = adopted,
                               .old = &request_.record.vmm});
    report_.fresh.pid = new_->record().pid;
    new_->process().onExit([this] { newExited(); });
    checkDisks();
    recordNewVmm();
    new_->monitor().onEvent([this](const QmpEvent& event) { newEvent(event); });
    if (listensToGuest) heartbeat_.listen(new_->takeHeartbeat());

    if (usesCpr()) return awaitCprListener();
    run({{new_.get(), "query-version", nullptr}}, [this] {
        new_->expectOwnAnswer();
        done();
    });
}

/// Looks once a millisecond: a new VMM that builds its machine gives no sign of when it has come to the taps.
void Handover::guardTaps() {
    if (taps_.empty() || state_ > State::StandingBy) return;
    try {
        taps_.restore();
    } catch (const std::exception& error) {
        return post(Event::Failed, error.what());
    }
    tapTimer_ = EventSource::after(milliseconds(1), [this] { guardTaps(); });
}

/// What the new VMM opens at its start by name, or has opened for it.
void Handover::checkFiles() const {
    const Boot& boot = request_.definition.boot;
    std::vector<std::string> files{boot.kernel, boot.initrd, boot.firmware};
    for (const Disk& disk : request_.definition.disks) files.push_back(disk.file);
    for (const std::string& file : files)
        if (struct stat status{}; !file.empty() && ::stat(file.c_str(), &status) != 0)
            throw std::runtime_error("'" + file + "', which the new VMM needs, cannot be opened: " + std::strerror(errno) +
                                     "; put it back where it was when the VM was started");
}

void Handover::checkDisks() const {
    if (request_.record.adopted) return;
    for (const Disk& disk : request_.definition.disks)
        if (new_->record().disks.at(disk.id) != request_.record.vmm.disks.at(disk.id))
            throw std::runtime_error("disk '" + disk.id + "': '" + disk.file +
                                     "' is another file than the one the VM was started with; put that one back");
}

void Handover::recordNewVmm() {
    request_.record.fresh = new_->record();
    request_.record.fresh->kind = newBinary_.kind;
    request_.record.fresh->version = newBinary_.version;
    directory_.write(request_.record);
}

void Handover::newExited() {
    if (state_ == State::Discarding) return newGone();
    if (std::exchange(rehearsalEnds_, false) && state_ == State::Verifying) return within([this] { prepareExec(); })();
    const std::string words = new_->lastWords();
    post(Event::NewDied, "the new VMM " + new_->process().howItEnded() + (words.empty() ? "" : ": " + words));
}

void Handover::awaitCprListener() {
    // A VMM that waits for CPR state has no monitor yet (system/vl.c:qemu_init, 10.0 and 11.1), and nothing tells that it
    // listens: ask.
    if (isListening(cprChannelPath(new_->directory()))) return done();
    pollTimer_ = EventSource::after(milliseconds(2), within([this] { awaitCprListener(); }));
}

// Exchanging.

json Handover::capabilities(bool on) const {
    const auto capability = [](const char* which, bool state) { return json{{"capability", which}, {"state", state}}; };
    return {{"capabilities", json::array({capability("events", on),
                                          capability("return-path", on && design_ != Design::SaveRestore && !executes()),
                                          capability("x-ignore-shared", on && design_ == Design::ManagerOwned),
                                          capability("pause-before-switchover", on && passesThrough())})}};
}

/// It does not announce the guest's addresses by itself, as it would once it has the guest's state, whether or not it is to run
/// it (migration/migration.c:process_incoming_migration_bh, hw/net/virtio-net.c:virtio_net_post_load_device, 11.1).
std::vector<Handover::Command> Handover::settingsOfNewVmm() const {
    return {{new_.get(), "migrate-set-capabilities", capabilities(true)},
            {new_.get(), "migrate-set-parameters", {{"announce-rounds", 0}}}};
}

void Handover::exchange() {
    // How long `copy` may stop the guest for what is left: QEMU's own default, and never the whole pause budget.
    const milliseconds downtime = std::min(defaultDowntime, request_.definition.handover.pauseBudget / 2);
    const json parameters{{"max-bandwidth", unlimitedBandwidth}, {"downtime-limit", downtime.count()}};
    configuredOld_ = true;
    run({{old_.get(), "migrate-set-capabilities", capabilities(true)}, {old_.get(), "migrate-set-parameters", parameters}},
        [this] {
            if (usesCpr()) return sendCprState([this] { readyNewVmm(); });
            if (executes()) return setCprMode("cpr-exec", [this] { done(); });
            std::vector<Command> commands = settingsOfNewVmm();
            if (design_ != Design::SaveRestore)
                commands.push_back({new_.get(),
                                    "migrate-incoming",
                                    {{"channels", json::array({channel("main", mainChannelPath(new_->directory()))})}}});
            run(commands, [this] { done(); });
        });
}

/// Has the old VMM send its CPR state: to the new VMM itself, or to the relay, which gives it to takeCprState(). `then` when it
/// is where it belongs.
void Handover::sendCprState(std::function<void()> then) {
    const auto migrate = [this, then](const std::string& cprPath) {
        migrateSent_ = true;
        oldMigration_.clear();
        if (passesThrough()) eventfdsBefore_ = eventfdsOf(request_.record.vmm.pid);
        // Always both channels and never `uri`: QEMU 10.0 and 11.1 crash on a lone cpr channel, and 11.1 aborts on uri.
        run({{old_.get(),
              "migrate",
              {{"channels", json::array({channel("main", mainChannelPath(new_->directory())), channel("cpr", cprPath)})}}}},
            [this, then] {
                if (!relay_) then();
            });
    };
    setCprMode("cpr-transfer", [this, migrate, then] {
        if (design_ == Design::VmmOwned) return migrate(cprChannelPath(new_->directory()));
        gatherRam(*old_, [this, migrate, then](const std::vector<RamBlock>& blocks) {
            const std::string path = relayPath(new_->directory());
            relay_ = std::make_unique<Relay>(
                path, Relay::Peer{identity(), request_.record.vmm.pid}, within([this, blocks, then](CprCapture capture) {
                    if (const std::string wrong = whatIsWrong(capture, blocks, expectedDevices()); !wrong.empty())
                        throw std::runtime_error(wrong);
                    takeCprState(std::move(capture), then);
                }),
                within([this](const std::string& cause) { failUnlessNewDies(cause); }));
            migrate(path);
        });
    });
}

CprPassthrough Handover::expectedDevices() const {
    std::map<std::string, int> kept;
    for (const NamedDescriptor& device : devices_) kept[device.name] = device.fd.get();
    return cprPassthrough(request_.record.passthrough, kept);
}

void Handover::setCprMode(const char* mode, std::function<void()> then) {
    run({{old_.get(), "migrate-set-parameters", {{"mode", mode}}}}, [this, then = std::move(then)] {
        askForBlockers([then](const std::vector<std::string>& reasons) {
            if (!reasons.empty()) throw std::runtime_error("the old VMM refuses: " + reasons.front());
            then();
        });
    });
}

void Handover::takeCprState(CprCapture capture, const std::function<void()>& then) {
    if (committed_) {
        // The second time, from an old VMM that was let go meanwhile: the new one has what came the first time.
        if (const std::string change = whatChanged(capture_, capture); !change.empty()) {
            report_.shouldStartOver = true;
            throw std::runtime_error("the old VMM has changed while the new one stood by: " + change);
        }
        return then();
    }
    capture_ = std::move(capture);
    if (!sendsVfioSubsection(newBinary_.version)) capture_.state.vfioDevices.reset();
    try {
        relay_->feed(capture_, cprChannelPath(new_->directory()), new_->record().pid, within([this, then] {
                         if (request_.standby) return letOldVmmGo(then);
                         then();
                     }));
    } catch (const std::exception& error) {
        failUnlessNewDies(error.what());
    }
}

/// Takes the old VMM out of the exchange without a hang-up that would make it go on.
void Handover::letOldVmmGo(std::function<void()> then) {
    run({{old_.get(), "migrate_cancel", nullptr}}, [this, then] {
        send(*old_, "query-migrate", nullptr, [this, then](const QmpReply& reply) {
            if (!reply.ok()) throw std::runtime_error(errorText(*old_, "query-migrate", *reply.error));
            if (const std::string status = reply.text("status"); status != "cancelled") {
                if (status == "failed" || status == "completed")
                    throw std::runtime_error("the old VMM's migration has " + status);
                pollTimer_ = EventSource::after(milliseconds(5), within([this, then] { letOldVmmGo(then); }));
                return;
            }
            oldMigration_ = "cancelled";
            relay_.reset();
            run({{old_.get(), "migrate-set-parameters", {{"mode", "normal"}}}}, then);
        });
    });
}

/// A new VMM that has its CPR state builds its machine, and answers on its monitor when that is done.
void Handover::readyNewVmm() {
    run(settingsOfNewVmm(), [this] {
        new_->expectOwnAnswer();
        done();
    });
}

// Verifying, standing by.

void Handover::gatherRam(VmmProcess& vmm, std::function<void(std::vector<RamBlock>)> then) {
    vmm.gatherRamBlocks(deadlineOf(state_),
                        within([this, &vmm, then = std::move(then)](std::vector<RamBlock> blocks, const std::string& problem) {
                            // As in send(): how a VMM ends is the better cause than that it has closed its monitor.
                            if (!problem.empty() && vmm.monitor().closed()) return;
                            if (!problem.empty()) throw std::runtime_error(describe(vmm) + ": RAM blocks: " + problem);
                            then(std::move(blocks));
                        }));
}

/// The operator asked for what is installed there, and it was proved when it was probed. Committing another, or one that is gone,
/// would leave the guest on what nobody has looked at, or nobody can start again.
void Handover::checkStillInstalled() const {
    const std::string again = "; prepare the upgrade again, so that what is there now is looked at";
    if (FileStamp stamp = stampOf(request_.binary); stamp != binaryStamp_)
        throw std::runtime_error("'" + request_.binary + "' was " + (stamp == FileStamp{} ? "deleted" : "replaced") +
                                 " after it was probed and the new VMM was started from it" + again);
    if (const std::string file = new_ ? replacedCodeOf(new_->record().pid) : std::string(); !file.empty())
        throw std::runtime_error("'" + file + "', which the new VMM runs, was deleted or replaced after its start" + again);
}

/// A device model that cannot be migrated (NVMe before 11.1) cannot be loaded either (migration/savevm.c:qemu_loadvm_state,
/// 10.0), and would say so when the guest has been stopped.
void Handover::checkNewCanLoad(std::function<void()> then) {
    send(*new_, "query-migrate", nullptr, [then = std::move(then)](const QmpReply& reply) {
        for (const json& blocked : JsonReader(reply.value).list("/blocked-reasons"))
            if (const std::string reason = JsonReader(blocked).text(""); reason.starts_with("non-migratable device"))
                throw std::runtime_error("the new VMM cannot take the guest's devices over: " + reason);
        then();
    });
}

void Handover::verify() {
    checkStillInstalled();
    if (executes()) return verifyRehearsal();
    gatherRam(*old_, [this](const std::vector<RamBlock>& old) {
        gatherRam(*new_, [this, old](const std::vector<RamBlock>& fresh) {
            compareRam(old, fresh);
            checkNewCanLoad([this] { request_.record.adopted ? placeThreads([this] { done(); }) : done(); });
        });
    });
}

/// Lets each vCPU's thread run where that of the old VMM does. What cannot be placed runs where the whole VMM may.
void Handover::placeThreads(std::function<void()> then) {
    send(*old_, "query-cpus-fast", nullptr, [this, then = std::move(then)](const QmpReply& old) {
        send(*new_, "query-cpus-fast", nullptr, [this, old, then](const QmpReply& fresh) {
            if (!old.ok() || !fresh.ok())
                throw std::runtime_error("query-cpus-fast: " + (old.ok() ? fresh : old).error->description);
            std::map<int, pid_t> models;
            for (const json& cpu : old.value) models[cpu.at("cpu-index")] = cpu.at("thread-id");
            for (const json& cpu : fresh.value) {
                const auto model = models.find(cpu.at("cpu-index"));
                if (model == models.end())
                    throw std::runtime_error("the new VMM has a vCPU " + cpu.at("cpu-index").dump() + ", the old one has not");
                try {
                    placeLike(cpu.at("thread-id"), model->second);
                } catch (const std::system_error& error) {
                    report_.warnings.push_back(error.what());
                }
            }
            then();
        });
    });
}

void Handover::compareRam(const std::vector<RamBlock>& old, const std::vector<RamBlock>& fresh) {
    const RamTransfer transfer = usesCpr() || executes()           ? RamTransfer::AllShared
                                 : design_ == Design::ManagerOwned ? RamTransfer::NamedFilesShared
                                                                   : RamTransfer::Copied;
    report_.ramBlocksCompared = old.size();
    report_.ramBlockDifferences = differences(old, fresh, transfer);
    const auto isFatal = [](const RamBlockDifference& difference) { return difference.severity == Severity::Fatal; };
    const auto first = std::ranges::find_if(report_.ramBlockDifferences, isFatal);
    if (first == report_.ramBlockDifferences.end()) return;
    const auto more = std::ranges::count_if(report_.ramBlockDifferences, isFatal) - 1;
    throw std::runtime_error("RAM block " + vh::describe(*first) + (more > 0 ? " (and " + std::to_string(more) + " more)" : ""));
}

void Handover::standBy() {
    const auto hold = [this] {
        request_.record.standingBy = true;
        directory_.write(request_.record);
        HandoverReport report = report_;
        report.outcome = State::StandingBy;
        report.old.alive = old_->alive();
        report.fresh.alive = new_->alive();
        report.totalMs = sinceBeginMs();
        if (standbyCallback_) callSoon([callback = std::move(standbyCallback_), report] { callback(report); });
    };
    if (design_ == Design::VmmOwned) return hold();
    run({{old_.get(), "migrate-set-capabilities", capabilities(false)}}, [this, hold] {
        oldLetGo_ = true;
        old_->closeMonitor();
        hold();
    });
}

void Handover::commit(Observer observer) {
    observer_ = std::move(observer);
    committed_ = true;
    const milliseconds deadline = deadlineOf(state_);
    deadline_ = EventSource::after(deadline, within([this, deadline] {
                                       post(Event::TimedOut,
                                            "the last check before the switch took longer than " + milliseconds_(deadline));
                                   }));
    try {
        recheck();
    } catch (const std::exception& error) {
        post(Event::Failed, error.what());
    }
}

/// What was prepared may be hours old: everything that may have changed is looked at again, while the guest still runs.
void Handover::recheck() {
    if (oldLetGo_) listenToOldVmm();
    checkGuest([this] {
        request_.record.standingBy = false;
        request_.record.guestWasRunning = wasRunning_;
        directory_.write(request_.record);
        if (!std::exchange(oldLetGo_, false)) return verify();
        run({{old_.get(), "migrate-set-capabilities", capabilities(true)}}, [this] {
            if (design_ != Design::Relayed) return verify();
            sendCprState([this] { verify(); });
        });
    });
}

// Switching.

void Handover::switchOver() {
    beatBefore_ = heartbeat_.hasBeatWithin(recently);
    network_.emplace(request_.definition, request_.record.vmm.pid, new_->resources());
    if (design_ != Design::Copy) holdNetwork();
    if (design_ == Design::SaveRestore) return run({{old_.get(), "stop", nullptr}}, [this] { saveToFile(); });
    if (executes()) return executeNew();
    const json main{{"channels", json::array({channel("main", mainChannelPath(new_->directory()))})}};
    // With CPR the new VMM hangs up on the CPR channel once it listens on the main one, and that makes the old one go ahead.
    // A relay has kept that from the old one, and passes it on.
    if (usesCpr())
        return run({{new_.get(), "migrate-incoming", main}}, [this] {
            if (relay_) relay_->hangUp();
        });
    migrateSent_ = true;
    std::vector<Command> commands{
        {old_.get(), "migrate", knowsChannels() ? main : json{{"uri", "unix:" + mainChannelPath(new_->directory())}}}};
    if (copiesStopped() && wasRunning_) commands.insert(commands.begin(), {old_.get(), "stop", nullptr});
    run(std::move(commands), [] {});
}

/// The old VMM's `migrate` has the argument `channels`, and can save to a file, since QEMU 8.2 (qapi/migration.json). From an
/// older one (7.2 was tried) nothing but `copy` has worked.
bool Handover::knowsChannels() const {
    return report_.old.kind != "QEMU" || isAtLeast(report_.old.version, 8, 2);
}

/// Under TCG, QEMU before 9.0 does not notice all that a running guest writes while its RAM is copied: a guest was seen to crash
/// on the new VMM after each of eight live copies from 7.2 (9.0 has "physmem: Fix migration dirty bitmap coherency with TCG
/// memory access").
bool Handover::copiesStopped() const {
    return design_ == Design::Copy && request_.record.accelerator == Accelerator::Tcg && report_.old.kind == "QEMU" &&
           !isAtLeast(report_.old.version, 9, 0);
}

/// The guest is about to be stopped, or has just been by a VMM that had to copy its RAM before.
void Handover::holdNetwork() {
    network_->hold();
    for (const std::string& problem : network_->problems())
        report_.warnings.push_back(problem + "; what comes for the guest while it is stopped is lost");
}

/// The guest has stopped and its state is not yet sent: what it has done to its devices' interrupts by now is all there is. QEMU
/// itself goes on without a vector that was enabled after it wrote its CPR state.
void Handover::checkInterrupts() {
    std::set<std::string> known = eventfdsBefore_;
    const std::set<std::string> now = eventfdsOf(request_.record.vmm.pid);
    bool changed = false;
    for (const UniqueFd& descriptor : capture_.descriptors) {
        const std::string number = eventfdId(descriptor.get());
        if (number.empty()) continue;
        changed = changed || !now.contains(number);
        known.insert(number);
    }
    if (changed || !std::ranges::includes(known, now)) {
        report_.shouldStartOver = true;
        throw std::runtime_error("the guest changed interrupts of a passed-through device after the new VMM was told of them");
    }
    run({{old_.get(), "migrate-continue", {{"state", "pre-switchover"}}}}, [] {});
}

void Handover::saveToFile() {
    const std::string& directory = request_.definition.handover.saveDirectory;
    savedState_ = UniqueFd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!savedState_) throw std::system_error(errno, std::generic_category(), "create a file in '" + directory + "'");
    migrateSent_ = true;
    send(
        *old_, "add-fd", {{"fdset-id", stateFdset}},
        [this](const QmpReply& reply) {
            if (!reply.ok()) return post(Event::Failed, errorText(*old_, "add-fd", *reply.error));
            run({{old_.get(), "migrate", fdsetChannel(stateFdset)}}, [] {});
        },
        reopen(savedState_.get(), O_WRONLY));
}

void Handover::restoreFromFile() {
    send(
        *new_, "add-fd", {{"fdset-id", stateFdset}},
        [this](const QmpReply& reply) {
            if (!reply.ok()) return post(Event::Failed, errorText(*new_, "add-fd", *reply.error));
            run({{new_.get(), "migrate-incoming", fdsetChannel(stateFdset)}}, [] {});
        },
        reopen(savedState_.get(), O_RDONLY));
    savedState_.reset();
}

void Handover::checkSwitched() {
    if (state_ != State::Switching) return;
    if (executes()) {
        if (executed_ && newMigration_ == "completed") done();
        return;
    }
    if (oldMigration_ != "completed") return;
    if (savedState_) return restoreFromFile();
    if (passesThrough()) return done();  // The old VMM cannot go back from here.
    if (newMigration_ == "completed") done();
}

// Proving, confirming, retiring.

/// Before the new VMM has all of it only with passed-through devices, or when the old one has died in Switching.
void Handover::prove() {
    if (newMigration_ != "completed" && !executes()) {
        if (newMigration_ == "failed")
            throw std::runtime_error(report_.cause.empty() ? "the new VMM could not take the guest over" : report_.cause);
        pollTimer_ = EventSource::after(milliseconds(1), within([this] { prove(); }));
        return;
    }
    send(*new_, "query-status", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok()) throw std::runtime_error(errorText(*new_, "query-status", *reply.error));
        const std::string runState = reply.text("status");
        if (runState != "paused")
            throw std::runtime_error("the new VMM is in the state '" + runState + "' instead of holding the guest");
        if (!executes()) return done();
        // Only now can it be seen whether it has the memory that the old one had.
        gatherRam(*new_, [this](const std::vector<RamBlock>& blocks) {
            compareRam(ramBeforeExec_, blocks);
            done();
        });
    });
}

void Handover::confirm() {
    recordToldToRun();
    network_->toNew();
    if (!wasRunning_) return done();
    send(*new_, "cont", nullptr, [this](const QmpReply& reply) {
        if (reply.ok()) return done();
        // Without an answer nobody knows; the new VMM's death or the deadline decides.
        if (reply.error->errorClass == "Timeout") return;
        const std::string refusal = errorText(*new_, "cont", *reply.error);
        send(*new_, "query-status", nullptr, [this, refusal](const QmpReply& status) {
            if (!status.ok()) return;
            if (JsonReader(status.value).at("/running") != false) return done();  // Whatever else it says, it may run.
            post(Event::Failed, refusal);
        });
    });
}

/// On disk before the new VMM is told, or it is not told: else whoever comes after this manager's death and the new VMM's would
/// let the old one go on with memory that the guest has changed since. Where an old VMM cannot go on, nothing depends on it, and
/// failing would be the guest's end.
void Handover::recordToldToRun() {
    const bool oldCouldGoOn = !isOneProcess() && !passesThrough() && old_->alive();
    request_.record.toldToRun = true;
    if (!oldCouldGoOn) return keepRecord();
    try {
        directory_.write(request_.record);
    } catch (...) {
        request_.record.toldToRun = false;
        throw;
    }
}

/// Where a failure must not stop what is being done: only a manager that comes after this one's death goes by the record, and one
/// that is out of date makes it ask more.
void Handover::keepRecord() {
    try {
        directory_.write(request_.record);
    } catch (const std::exception& error) {
        report_.warnings.push_back(error.what());
    }
}

void Handover::spareNewVmm() {
    if (isOneProcess() || !request_.record.oomScore) return;
    if (const std::string problem = setOomScore(new_->record().pid, *request_.record.oomScore); !problem.empty())
        report_.warnings.push_back(problem + "; when memory runs out, the kernel ends the new VMM first");
}

void Handover::retire() {
    // By now it is the old VMM that is to go.
    if (!isOneProcess()) setOomScore(old_->record().pid, firstToBeEnded);
    relay_.reset();
    network_.reset();
    // As often as QEMU does by itself. The bridge has been told already; this is for whoever else has to know.
    new_->monitor().execute("announce-self", announcements(), patience, nullptr);
    // The file has no name, and is there as long as somebody has it open: a manager that comes after the record would not know of
    // it.
    if (design_ != Design::SaveRestore && !executes()) return retireOld();
    new_->monitor().execute("remove-fd", {{"fdset-id", stateFdset}}, tidyPatience,
                            within([this](const QmpReply&) { retireOld(); }));
}

void Handover::retireOld() {
    recordOnlyNewVmm();
    afterFirstBeatsOnNew([this] {
        if (isOneProcess()) return measureState();
        if (!old_->alive()) return done();
        old_->monitor().execute("query-migrate", nullptr, tidyPatience, within([this](const QmpReply& reply) {
                                    if (!reply.ok()) return done();
                                    const JsonReader migration(reply.value);
                                    report_.bytesSent = migration.count("/ram/transferred");
                                    if (!sharesRam()) report_.ramCopiedBytes = migration.count("/ram/normal-bytes");
                                    askOldToEnd();
                                }));
    });
}

/// From here on the record says that the guest has gone over, and whoever finds the old VMM alive may end it.
void Handover::recordOnlyNewVmm() {
    if (!request_.record.fresh) return;
    if (!isOneProcess()) request_.record.retiring = request_.record.vmm;
    request_.record.vmm = *request_.record.fresh;
    request_.record.forgetHandover();
    keepRecord();
}

void Handover::askOldToEnd() {
    // At its exit QEMU removes the sockets that it listens on, which are the new VMM's as well.
    if (request_.record.adopted) return done();
    companions_ = companionsOf(old_->record().pid);
    old_->monitor().execute("quit", nullptr, deadlineOf(State::Retiring), nullptr);
    pollTimer_ = EventSource::after(deadlineOf(State::Retiring) / 2, within([this] { done(); }));
}

/// The guest has been confirmed on the new VMM: whatever the old one says, or does not say, it has the guest no more, and would
/// be the second VMM for one guest's memory, disks and network.
void Handover::endOldVmm() {
    recordOnlyNewVmm();  // Unless it was, before Retiring took too long.
    if (isOneProcess() || !old_->alive()) return oldGone();
    old_->process().killAll();  // Its exit is met by oldGone().
}

void Handover::oldGone() {
    for (const ChildProcess& companion : companions_) companion.kill(SIGKILL);
    directory_.removeGeneration(old_->record().generation);
    doAfterwards(0);
}

void Handover::doAfterwards(std::size_t next) {
    const std::vector<AdoptedVm::Command> commands =
        request_.record.adopted ? request_.record.adopted->afterwards : std::vector<AdoptedVm::Command>{};
    if (next == commands.size()) {
        if (std::exchange(request_.record.retiring, std::nullopt)) keepRecord();
        return done();
    }
    send(*new_, commands[next].name, commands[next].arguments, [this, next, name = commands[next].name](const QmpReply& reply) {
        if (!reply.ok()) report_.warnings.push_back(errorText(*new_, name, *reply.error));
        doAfterwards(next + 1);
    });
}

// Going back.

void Handover::discard() {
    pauseBudget_.reset();
    tapTimer_.reset();
    if (std::exchange(request_.record.toldToRun, false)) keepRecord();  // It answered that it does not run the guest.
    if (!new_) return done();
    newDiedByItself_ = !new_->alive();
    // It has all of the guest, and nobody else has: recovery.h has the next look at it.
    if (!old_->alive() && !newDiedByItself_ && newMigration_ == "completed")
        return post(Event::OldDied, "the old VMM has ended, and the new one does not prove that it holds the guest");
    if (executed_) return done();
    const bool underWay =
        migrateSent_ && oldMigration_ != "completed" && oldMigration_ != "failed" && oldMigration_ != "cancelled";
    if (isOneProcess()) {  // The process is the guest's: only what it has been told to do is taken back.
        if (!underWay) return done();
        old_->monitor().execute("migrate_cancel", nullptr, tidyPatience, within([this](const QmpReply&) { done(); }));
        return;
    }
    if (!underWay) return endNewVmm();
    // Cancelled before the new VMM goes: its end would be the hang-up that makes the old one go ahead.
    old_->monitor().execute("migrate_cancel", nullptr, tidyPatience, within([this](const QmpReply&) { endNewVmm(); }));
}

void Handover::endNewVmm() {
    if (!new_->alive()) return newGone();
    endedNew_ = true;
    new_->process().killAll();
}

void Handover::newGone() {
    try {
        taps_.restore();
    } catch (const std::exception& error) {
        report_.warnings.push_back(std::string(error.what()) + ": the guest's network may be dead");
    }
    const std::string words = newDiedByItself_ ? new_->lastWords() : std::string();
    // It may have said more since the cause was noted; the beginning is what tells.
    if (!words.empty() && report_.cause.find(words.substr(0, words.find(';'))) == std::string::npos)
        report_.cause += "; the new VMM said: " + words;
    done();
}

void Handover::resume() {
    relay_.reset();
    if (executed_) return post(Event::Failed, noWayBack());
    if (!old_->alive()) return post(Event::OldDied, report_.cause);
    if (old_->monitor().closed()) {  // It may have had a bad moment: nothing but its monitor can say that it runs the guest.
        old_->closeMonitor();
        listenToOldVmm();
    }
    if (!executes()) removeNewGeneration();
    if (oldLetGo_) return done();
    send(*old_, "query-migrate", nullptr, [this](const QmpReply& reply) {
        if (!reply.ok()) return post(Event::Failed, errorText(*old_, "query-migrate", *reply.error));
        const auto again = [this](milliseconds delay) { pollTimer_ = EventSource::after(delay, within([this] { resume(); })); };
        const std::string migration = reply.text("status");
        if (!migration.empty() && migration != "none" && migration != "completed" && migration != "failed" &&
            migration != "cancelled")
            return again(milliseconds(5));
        send(*old_, "query-status", nullptr, [this, again](const QmpReply& status) {
            if (!status.ok()) return post(Event::Failed, errorText(*old_, "query-status", *status.error));
            gaveDevicesAway_ = passesThrough() && status.text("status") == "postmigrate";
            if (gaveDevicesAway_)
                return post(Event::Failed, "the old VMM has given the guest's devices away and cannot run it any more");
            if (!wasRunning_ || status.flag("running")) return resumed();
            send(*old_, "cont", nullptr, [this, again](const QmpReply& answer) {
                if (answer.ok()) return resumed();
                again(milliseconds(50));  // The new VMM's image locks may outlive it by a moment.
            });
        });
    });
}

void Handover::removeNewGeneration() {
    if (request_.record.fresh) directory_.removeGeneration(request_.record.fresh->generation);
}

void Handover::resumed() {
    if (network_) network_->toOld();
    network_.reset();
    if (executes()) removeNewGeneration();  // Not before it is certain that no VMM will look for its sockets there.
    undoGrowth();
    const auto last = [this] { afterNextBeatsOnOld([this] { done(); }); };
    if (!configuredOld_) return last();
    // As found, for whoever migrates this VM next. Without effect on the guest, so a refusal does not matter; but awaited, since
    // QEMU drops what it has not begun with when a monitor hangs up (monitor/qmp.c:monitor_qmp_event, 11.1).
    const auto next = [this, last] {
        if (executes()) return undoExecSettings(last);
        if (design_ != Design::SaveRestore) return last();
        // The file has no name, and all of the guest's RAM in it, as long as somebody has it open.
        old_->monitor().execute("remove-fd", {{"fdset-id", stateFdset}}, tidyPatience,
                                within([last](const QmpReply&) { last(); }));
    };
    old_->monitor().execute("migrate-set-capabilities", capabilities(false), tidyPatience, within([this, next](const QmpReply&) {
                                if (!usesCpr() && !executes()) return next();
                                old_->monitor().execute("migrate-set-parameters", {{"mode", "normal"}}, tidyPatience,
                                                        within([next](const QmpReply&) { next(); }));
                            }));
}

void Handover::undoGrowth() {
    for (const std::string& file : cutBackMemoryFiles(old_->record().pid, request_.record.memoryBefore))
        report_.warnings.push_back("the new VMM had grown the memory '" + file + "'; it was cut back to what the old VMM has");
}

void Handover::finish() {
    if (state_ == State::RolledBack) {
        request_.record.forgetHandover();
        if (endedNew_ && new_->alive()) {
            request_.record.retiring = new_->record();
            report_.warnings.push_back(
                "the new VMM, pid " + std::to_string(new_->record().pid) +
                ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not "
                "answer?). It never had the guest and never will; every further command on this VM tries to "
                "end it first");
        }
        keepRecord();
    }
    report_.old.alive = old_ && old_->alive();
    report_.fresh.alive = new_ && new_->alive() && !endedNew_;
    // The old VMM died before it had handed everything over: nothing is left that the new one could be for.
    if (state_ == State::Lost && new_ && !confirming_ && !isOneProcess() && newMigration_ != "completed") {
        new_->process().killAll();
        report_.fresh.alive = false;
    }
    // And the other way about: the new VMM, which had been confirmed, has died, and the guest with it.
    if (state_ == State::Lost && request_.record.retiring && !report_.fresh.alive) {
        old_->process().killAll();
        report_.old.alive = false;
    }
    // As a recovery sees it, which comes before any further command.
    const bool isOutOfDate = request_.record.toldToRun || gaveDevicesAway_ || (passesThrough() && confirming_);
    report_.guestIsGone = state_ == State::Lost && !report_.fresh.alive && (!report_.old.alive || isOutOfDate);
    if (state_ == State::Upgraded && report_.old.alive && !isOneProcess()) {
        report_.oldVmmLeft = true;
        report_.warnings.push_back(
            "the old VMM, pid " + std::to_string(old_->record().pid) +
            ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not "
            "answer?). The guest runs on the new VMM and the old one can never run it again, but it still has "
            "the guest's memory and files open; every further command on this VM tries to end it first");
    }
    report_.cause = withFileNames(report_.cause, request_.definition);
    for (std::string& warning : report_.warnings) warning = withFileNames(warning, request_.definition);
    report_.outcome = state_;
    report_.totalMs = sinceBeginMs();
    if (heartbeat_.summary().beats > 0) report_.guest = heartbeat_.summary();
    callSoon([done = std::move(done_), report = report_] { done(report); });
}

// What the VMMs say.

void Handover::listenToOldVmm() {
    old_->monitor().onEvent([this](const QmpEvent& event) { oldEvent(event); });
}

void Handover::oldEvent(const QmpEvent& event) {
    if (event.name == "STOP") guestStopped(event.at);
    if (event.name == "RESUME") guestResumed(event.at);
    if (event.name != "MIGRATION") return;
    oldMigration_ = JsonReader(event.data).text("/status");
    if (stopAsked_ && state_ == State::Switching && (oldMigration_ == "cancelled" || oldMigration_ == "failed"))
        return post(stopAsked_->first, stopAsked_->second);
    if (oldMigration_ == "pre-switchover" && state_ == State::Switching) return within([this] { checkInterrupts(); })();
    if (oldMigration_ == "failed" && isBeforePointOfNoReturn(state_)) explainOldFailure();
    within([this] { checkSwitched(); })();
}

void Handover::newEvent(const QmpEvent& event) {
    if (event.name == "RESUME") guestResumed(event.at);
    if (event.name != "MIGRATION") return;
    newMigration_ = JsonReader(event.data).text("/status");
    within([this] { checkSwitched(); })();
}

void Handover::guestStopped(Clock::time_point at) {
    stoppedAt_ = at;
    if (design_ == Design::Copy && state_ == State::Switching) holdNetwork();
    const milliseconds budget = request_.definition.handover.pauseBudget;
    if (isBeforePointOfNoReturn(state_, passesThrough()))
        pauseBudget_ = EventSource::after(budget, [this, budget] {
            if (isBeforePointOfNoReturn(state_, passesThrough()))
                post(Event::TimedOut, "the guest had been stopped for " + milliseconds_(budget) + ", its pause budget");
        });
}

void Handover::guestResumed(Clock::time_point at) {
    // Not below zero, whatever two VMMs say.
    if (stoppedAt_) report_.stopToResumeMs = std::max(0.0, std::chrono::duration<double, std::milli>(at - *stoppedAt_).count());
    stoppedAt_.reset();
    pauseBudget_.reset();
}

void Handover::explainOldFailure() {
    send(*old_, "query-migrate", nullptr, [this](const QmpReply& reply) {
        std::string cause = "the old VMM could not hand over";
        if (const std::string why = reply.text("error-desc"); !why.empty()) cause += ": " + why;
        failUnlessNewDies(cause);
    });
}

void Handover::failUnlessNewDies(const std::string& cause) {
    pollTimer_ = EventSource::after(milliseconds(100), within([this, cause] { post(Event::Failed, cause); }));
}

void Handover::awaitBeats(const VmmProcess& vmm, milliseconds longest, unsigned connections, std::function<void(bool)> then) {
    const std::size_t port = &vmm == old_.get() ? 0 : heartbeat_.ports() - 1;
    const auto settle = [this, port, then] {
        pollTimer_.reset();
        heartbeat_.onLine(nullptr);
        then(heartbeat_.goesOn(port));
    };
    heartbeat_.onLine(within([this, port, settle] {
        if (heartbeat_.goesOn(port)) settle();
    }));
    pollTimer_ = EventSource::after(longest, within([this, &vmm, port, settle, longest, connections, then] {
                                        heartbeat_.onLine(nullptr);
                                        heartbeat_.catchUp(port);
                                        if (heartbeat_.goesOn(port) || connections <= 1) return settle();
                                        try {
                                            heartbeat_.listenAgain(port, connectUnix(vmm.directory() + "/heartbeat.sock"));
                                        } catch (const std::system_error&) {
                                            // Nobody listens there just now: what is connected may still speak.
                                        }
                                        awaitBeats(vmm, longest * 2, connections - 1, then);
                                    }));
}

void Handover::afterFirstBeatsOnNew(std::function<void()> then) {
    if (!wasRunning_ || heartbeat_.summary().beats == 0) return then();
    if (!beatBefore_) {
        report_.warnings.push_back("no heartbeat from the guest just before the switch: nothing tells how it is on the new VMM");
        return then();
    }
    if (heartbeat_.goesOn(heartbeat_.ports() - 1)) return then();
    awaitBeats(*new_, beatPatienceAfter, connectionsAfter,
               [this, then = std::move(then)](bool heard) { heard ? then() : reportSilence(then); });
}

/// No reason to end anything: the guest may only be slow, or its port broken. But nothing says that it lives.
void Handover::reportSilence(std::function<void()> then) {
    report_.silent = true;
    report_.cause = "the guest beat on the old VMM and has not been heard on the new one for " + milliseconds_(silence);
    new_->monitor().execute("query-status", nullptr, tidyPatience, within([this, then = std::move(then)](const QmpReply& reply) {
                                report_.cause += reply.ok() ? ", which says of it: '" + reply.text("status") + "'"
                                                            : ", which does not say how it is: " + reply.error->description;
                                then();
                            }));
}

void Handover::afterNextBeatsOnOld(std::function<void()> then) {
    if (heartbeat_.summary().beats == 0 || !wasRunning_) return then();
    heartbeat_.watchAfresh(0);
    awaitBeats(*old_, beatPatienceBefore, connectionsBefore, [this, then = std::move(then)](bool heard) {
        if (!heard)
            report_.warnings.push_back(
                "the old VMM says that it runs the guest, and no heartbeat has come from there yet; look at it");
        then();
    });
}

}  // namespace vh
