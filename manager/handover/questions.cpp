#include "manager/handover/questions.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "manager/handover/in_place.h"
#include "manager/process/held_by_process.h"
#include "manager/resources/passthrough.h"
#include "manager/vmm/strays.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/qmp/vmm_state.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using nlohmann::json;

std::uint64_t freeBytes(const std::string& path) {
    struct statvfs status {};
    if (::statvfs(path.c_str(), &status) != 0) throwErrno("look at '" + path + "'");
    return std::uint64_t{status.f_bavail} * status.f_frsize;
}

FileStamp stampOf(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return {};
    return {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino), status.st_size,
            status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

/// What the new VMM opens at its start by name, or has opened for it.
std::vector<HandoverFacts::MissingFile> missingFilesOf(const VmDefinition& definition) {
    const Boot& boot = definition.boot;
    std::vector<std::string> files{boot.kernel, boot.initrd, boot.firmware};
    for (const Disk& disk : definition.disks) files.push_back(disk.file);
    std::vector<HandoverFacts::MissingFile> missing;
    for (const std::string& file : files)
        if (struct stat status{}; !file.empty() && ::stat(file.c_str(), &status) != 0)
            missing.push_back({file, std::strerror(errno)});
    return missing;
}

}  // namespace

Questions::Questions(Course& course, Steps& steps) : course_(course), steps_(steps) {
    const HandoverRequest& request = course.request;
    facts_.design = request.design;
    facts_.standby = request.standby;
    facts_.definition = request.definition;
    facts_.devices = request.record.passthrough;
    facts_.oldPid = request.record.vmm.pid;
}

void Questions::judge() const {
    if (const std::optional<Obstacle> obstacle = obstacleTo(facts_)) throw Refusal(*obstacle);
}

void Questions::judgeRequest() {
    facts_.oldLives = course_.oldVmm->alive();
    judge();
}

void Questions::ask(std::function<void()> then) {
    askHost();
    judge();
    const HandoverRequest& request = course_.request;
    binaryStamp_ = stampOf(request.binary);
    const BinaryProbe::Question question{
        request.binary, course_.identity(),
        request.record.adopted ? request.record.adopted->models : deviceModels(request.definition),
        course_.deadlineOf(State::Launching)};
    const auto answered = [this, then = std::move(then)](const VmmBinary& binary, const std::optional<Obstacle>& problem) {
        facts_.newBinaryProblem = problem;
        judge();
        course_.newBinary = binary;
        course_.report.new_.kind = binary.kind;
        course_.report.new_.version = binary.version;
        facts_.newBinary = binary;
        judge();
        askOldVmm(then);
    };
    probe_ = std::make_unique<BinaryProbe>(question, course_.within(answered));
}

void Questions::askHost() {
    const pid_t old = course_.record().vmm.pid;
    const bool isAdopted = course_.record().adopted.has_value();
    facts_.runtimeDirectory = course_.directory.runtime();
    facts_.runtimeFreeBytes = freeBytes(facts_.runtimeDirectory);
    if (course_.design.state == StatePath::File) facts_.saveFreeBytes = freeBytes(course_.definition().handover.saveDirectory);
    facts_.availableBytes = availableMemoryBytes();
    facts_.room = leastMemoryRoom(isAdopted ? old : ::getpid());
    facts_.resident = residentMemoryOf(old);
    if (!isAdopted) facts_.missingFiles = missingFilesOf(course_.definition());
    if (!facts_.devices.empty()) facts_.devicesProblem = obstacleToDevices(facts_.devices, old);
}

void Questions::askOldVmm(std::function<void()> then) {
    course_.send(*course_.oldVmm, "query-version", nullptr, [this, then = std::move(then)](const QmpReply& reply) {
        if (!reply.ok()) facts_.monitorProblem = reply.error->description;
        judge();
        facts_.old = {vmmKind(reply.value), qemuVersion(reply.value)};
        course_.report.old.kind = facts_.old.kind;
        course_.report.old.version = facts_.old.version;
        judge();
        steps_.addFacts(facts_, [this, then] {
            judge();
            askGuest(then);
        });
    });
}

void Questions::askGuestAgain(std::function<void()> then) {
    facts_.guest = {};
    askGuest(std::move(then));
}

void Questions::askGuest(std::function<void()> then) {
    VmmProcess& old = *course_.oldVmm;
    course_.send(old, "query-status", nullptr, [this, &old, then = std::move(then)](const QmpReply& status) {
        if (!status.ok()) throw std::runtime_error(course_.errorText(old, "query-status", *status.error));
        facts_.guest.isOwnAnswer = old.hasOwnAnswer();
        facts_.guest.runState = status.text("status");
        course_.wasRunning = runStateOf(facts_.guest.runState) == RunState::Running;
        judge();
        course_.send(old, "query-block-jobs", nullptr, [this, then](const QmpReply& jobs) {
            facts_.guest.hasBlockJobs = jobs.ok() && !jobs.value.empty();
            askWhatItHolds();
            judge();
            askBlockers([this, then] {
                judge();
                askFatalDevices({"/machine/peripheral", "/machine/peripheral-anon"}, {}, [this, then] {
                    judge();
                    askRam(then);
                });
            });
        });
    });
}

/// A tap with one queue refuses the second VMM (drivers/net/tun.c:tun_attach, 6.1), and one with many gives each of the two a
/// part of what comes for the guest.
void Questions::askWhatItHolds() {
    if (course_.record().adopted) return;
    const pid_t pid = course_.record().vmm.pid;
    for (const std::string& place : listenersOf(pid))
        if (!place.starts_with(course_.oldVmm->directory() + "/")) facts_.guest.listeners.push_back(place);
    for (const std::string& tap : tapsHeldBy(pid))
        if (!isOwnTap(tap)) facts_.guest.taps.push_back(tap);
    for (const std::string& file : deletedFilesOf(pid))
        if (file != course_.definition().console.log) facts_.guest.deletedFiles.push_back(file);
}

/// What blocks a migration in mode `normal`, which the old VMM is in but during a handover, and in the design's own mode as well.
/// A passed-through device without migration in its kernel driver, or an image of format vmdk, blocks the first only
/// (migrate_add_blocker_normal() in hw/vfio/migration.c and block/vmdk.c, 10.0 and 11.1), and RAM that is not shared the second
/// only, which has better words of its own. QEMU lists the blockers of the mode that is set: it is set for the question, and
/// back.
void Questions::askBlockers(std::function<void()> then) {
    const char* mode = migrationMode(course_.design);
    const auto setMode = [this](const char* which, std::function<void()> next) {
        course_.run({{course_.oldVmm.get(), "migrate-set-parameters", {{"mode", which}}}}, std::move(next));
    };
    course_.askForBlockers([this, mode, setMode, then = std::move(then)](const std::vector<std::string>& reasons) {
        facts_.guest.blockers = reasons;
        if (reasons.empty() || !mode) return then();
        setMode(mode, [this, setMode, then] {
            course_.askForBlockers([this, setMode, then](const std::vector<std::string>& inItsMode) {
                setMode("normal", [this, inItsMode, then] {
                    std::erase_if(facts_.guest.blockers, [&inItsMode](const std::string& reason) {
                        return std::ranges::find(inItsMode, reason) == inItsMode.end();
                    });
                    then();
                });
            });
        });
    });
}

/// QEMU 11.1, the first that saves NVMe controllers at all, ends by SIGSEGV on one whose own `drive` is not set, whatever
/// namespaces it has beside (seen with 11.1.3); before, they are blockers. And every one does on a pci-serial-2x, of which it
/// saves four ports (hw/char/serial-pci-multi.c:vmstate_pci_multi_serial; seen with 10.0.2 and 11.1.3).
void Questions::askFatalDevices(std::vector<std::string> places, std::vector<std::string> controllers,
                                std::function<void()> then) {
    VmmProcess& old = *course_.oldVmm;
    if (places.empty() && controllers.empty()) return then();
    if (!places.empty()) {
        const std::string place = places.back();
        places.pop_back();
        return course_.send(old, "qom-list", {{"path", place}}, [this, place, places, controllers, then](const QmpReply& reply) {
            std::vector<std::string> found = controllers;
            for (const json& child : JsonReader(reply.value).list("")) {
                const JsonReader device(child);
                if (device.text("/type") == "child<nvme>") found.push_back(place + "/" + device.text("/name"));
                if (device.text("/type") == "child<pci-serial-2x>") facts_.guest.serials.push_back(device.text("/name"));
            }
            askFatalDevices(places, found, then);
        });
    }
    const std::string controller = controllers.back();
    controllers.pop_back();
    course_.send(old, "qom-get", {{"path", controller}, {"property", "drive"}},
                 [this, controller, controllers, then](const QmpReply& reply) {
                     if (reply.ok() && reply.value == "") facts_.guest.drivelessNvmes.push_back(controller);
                     askFatalDevices({}, controllers, then);
                 });
}

void Questions::askRam(std::function<void()> then) {
    if (course_.design.state != StatePath::Cpr) return then();  // With an exec it is known already.
    course_.gatherRam(*course_.oldVmm, [this, then = std::move(then)](const std::vector<RamBlock>& blocks) {
        facts_.guest.privateRamBlock = blockLostByExec(blocks);
        judge();
        then();
    });
}

void Questions::checkStillInstalled() const {
    const std::string& binary = course_.request.binary;
    const std::string replaced = course_.newVmm ? replacedCodeOf(course_.newVmm->record().pid) : std::string();
    if (const auto obstacle = changeOfInstalled(binary, binaryStamp_, stampOf(binary), replaced)) throw Refusal(*obstacle);
}

}  // namespace vh
