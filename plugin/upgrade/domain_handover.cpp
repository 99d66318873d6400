#include "plugin/upgrade/domain_handover.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>

#include "config/obstacle.h"
#include "plugin/domain/status_xml.h"
#include "plugin/machine/machine_arguments.h"
#include "vmm-shim/file.h"
#include "vmm-shim/qmp/monitor.h"
#include "vmm-shim/qmp/vmm_state.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::steady_clock;
namespace fs = std::filesystem;

constexpr milliseconds monitorDeadline{5'000};
// libvirt's own entries for a few more vCPU threads and longer pids; the file is a few tens of KiB.
constexpr std::size_t spareBytes = 64 * 1024;

/// What QEMU itself says against a handover at this moment.
void askQemu(Monitor& monitor) {
    const std::string state = monitor.execute("query-status").value("status", "");
    if (const RunState its = runStateOf(state); its != RunState::Running && its != RunState::Paused)
        throw Refusal({"its QEMU is in state '" + state + "'", "wait until it runs or is paused"});
    if (!monitor.execute("query-block-jobs").empty())
        throw Refusal({"a block job is under way", "wait for it, or end it with 'virsh blockjob'"});
    if (!monitor.execute("query-jobs").empty()) throw Refusal({"a job of QEMU's is under way", "wait for it"});
}

std::uint64_t memoryBytes(Monitor& monitor) {
    const json summary = monitor.execute("query-memory-size-summary");
    return summary.value("base-memory", std::uint64_t{0}) + summary.value("plugged-memory", std::uint64_t{0});
}

/// What libvirt has set by the monitor since the start, and what no argument and no migration state carries: the commands that
/// set it again (qapi/block-core.json: BlockDeviceInfo, BlockIOThrottle; qapi/misc.json: IOThreadInfo; QEMU 10.0).
std::vector<AdoptedVm::Command> settingsToRepeat(Monitor& monitor) {
    std::vector<AdoptedVm::Command> commands;
    for (const json& disk : monitor.execute("query-block")) {
        const json inserted = disk.value("inserted", json::object());
        // QEMU names a group, be it of one disk, exactly when there are limits.
        if (!inserted.contains("group") || !disk.contains("qdev")) continue;
        json limits{{"id", disk.at("qdev")}};
        for (const auto& [key, value] : inserted.items())
            if (key == "group" || key.starts_with("bps") || key.starts_with("iops")) limits[key] = value;
        commands.push_back({"block_set_io_throttle", std::move(limits)});
    }
    for (const json& thread : monitor.execute("query-iothreads"))
        for (const char* setting : {"poll-max-ns", "poll-grow", "poll-shrink"})
            commands.push_back({"qom-set",
                                {{"path", "/objects/" + thread.at("id").get<std::string>()},
                                 {"property", setting},
                                 {"value", thread.at(setting)}}});
    for (const json& device : monitor.execute("qom-list", {{"path", "/machine/peripheral"}})) {
        if (!device.value("type", "").starts_with("child<virtio-balloon")) continue;
        const std::string path = "/machine/peripheral/" + device.at("name").get<std::string>();
        constexpr const char* interval = "guest-stats-polling-interval";
        const json seconds = monitor.execute("qom-get", {{"path", path}, {"property", interval}});
        if (seconds != 0) commands.push_back({"qom-set", {{"path", path}, {"property", interval}, {"value", seconds}}});
    }
    return commands;
}

std::vector<pid_t> vcpuThreads(Monitor& monitor) {
    std::vector<std::pair<int, pid_t>> threads;
    for (const json& cpu : monitor.execute("query-cpus-fast"))
        threads.emplace_back(cpu.at("cpu-index").get<int>(), cpu.at("thread-id").get<pid_t>());
    std::ranges::sort(threads);
    std::vector<pid_t> ids;
    for (const auto& [index, thread] : threads) ids.push_back(thread);
    return ids;
}

/// `charserial0` -> `/dev/pts/3`.
std::map<std::string, std::string> terminals(Monitor& monitor) {
    constexpr std::string_view prefix = "pty:";
    std::map<std::string, std::string> found;
    for (const json& chardev : monitor.execute("query-chardev"))
        if (const std::string file = chardev.at("filename"); file.starts_with(prefix))
            found[chardev.at("label")] = file.substr(prefix.size());
    return found;
}

/// libvirt ends a running domain whose files it does not believe: so believe nothing here.
void checkNew(const JournalDomain& domain, const DomainStatus& status) {
    const std::string pid = std::to_string(domain.new_.pid);
    if (!domain.new_.isAlive()) throw std::runtime_error("its new QEMU, pid " + pid + ", has ended");
    const std::vector<std::string> words = Process(domain.new_.pid).commandLine();
    const auto uuid = std::ranges::find(words, "-uuid");
    if (uuid == words.end() || uuid + 1 == words.end() || *(uuid + 1) != domain.uuid)
        throw std::runtime_error("pid " + pid + " is not a QEMU of this domain: its command line has another -uuid");
    if (!isListening(status.monitorPath)) throw std::runtime_error("nobody listens on its monitor '" + status.monitorPath + "'");
    if (domain.capabilityFlags.empty()) throw std::runtime_error("the new QEMU's capabilities are not known");
}

// Space under /run may be freed, and a monitor's socket is listened on again a moment after its last client went.
constexpr milliseconds finishTimeout{10'000};
constexpr milliseconds finishPause{100};

/// A person must look. libvirt is let in nevertheless, for the sake of all other domains; but not to a status XML that may name
/// the wrong QEMU, since `virsh resume` or `destroy` would then go to that one.
void lose(const HostPaths& paths, const JournalDirectory& journal, JournalDomain& domain, const std::string& cause) {
    domain.phase = DomainPhase::Lost;
    domain.cause = cause;
    const bool onlyOld = domain.old.isAlive() && !domain.new_.isAlive() && domain.new_.pid != 0;
    if (onlyOld) return;
    try {
        if (setAside(paths, journal, domain))
            domain.cause += "; libvirt does not know this domain now: its status XML is '" + journal.asideFile(domain.uuid) +
                            "'. Do not start it before its QEMU has been looked at";
    } catch (const std::exception& error) {
        domain.cause += std::string("; ") + error.what();
    }
}

/// Before the manager is asked: a child that has not begun yet must not begin when that has been answered.
void takeBackOrder(const JournalDirectory& journal, const JournalDomain& domain) {
    const std::string file = journal.specFile(domain);
    if (::unlink(file.c_str()) != 0 && errno != ENOENT) throwErrno("take back the order '" + file + "'");
}

}  // namespace

void reserveFiles(const HostPaths& paths, const JournalDirectory& journal, const DomainPlan& plan) {
    replaceFile(journal.statusCopy(plan.domain.uuid), plan.statusXml);
    try {
        reserveFile(paths.reservedStatusFile(plan.domain.title), plan.statusXml.size() + spareBytes);
        // What the order does not need is left for the journal.
        reserveFile(journal.reservedSpecFile(plan.domain.uuid), spareBytes);
    } catch (const std::system_error&) {
        ::unlink(paths.reservedStatusFile(plan.domain.title).c_str());
        ::unlink(journal.statusCopy(plan.domain.uuid).c_str());
        throw;
    }
}

void releaseFiles(const HostPaths& paths, const JournalDirectory& journal, const JournalDomain& domain) {
    ::unlink(paths.reservedStatusFile(domain.title).c_str());
    ::unlink(journal.specFile(domain).c_str());
    ::unlink(journal.reservedSpecFile(domain.uuid).c_str());
    if (domain.phase == DomainPhase::Lost) return;
    ::unlink(journal.statusCopy(domain.uuid).c_str());
    // What a new QEMU that was given up has left.
    if (domain.phase == DomainPhase::Unchanged) ::unlink(paths.newPidFile(domain.title).c_str());
}

AdoptOrder makeOrder(const HostPaths& paths, const DomainPlan& plan, std::string& oldVersion) {
    const JournalDomain& domain = plan.domain;
    const std::string statusXml = readFile(paths.statusFile(domain.title));
    const DomainStatus status = readStatus(statusXml);
    if (status.pid != domain.old.pid || !domain.old.isAlive())
        throw Refusal({"it was restarted, or ended, in the meantime", "try again"});
    if (definitionIn(statusXml) != definitionIn(plan.statusXml))
        throw Refusal({"it was changed in the meantime (a hotplug?)", "try again"});
    if (status.hasBlockJob || status.hasJob) throw Refusal({"a job was begun in the meantime", "wait for it and try again"});

    Monitor monitor(status.monitorPath, monitorDeadline);
    oldVersion = monitor.version();
    askQemu(monitor);
    const ProcessDescriptors descriptors = descriptorsOf(status.pid);
    AdoptOrder order = rebuildArguments({.running = Process(status.pid).commandLine(),
                                         .native = plan.native,
                                         .statusXml = statusXml,
                                         .fdsets = monitor.execute("query-fdsets"),
                                         .descriptors = descriptors});
    std::ranges::move(settingsToRepeat(monitor), std::back_inserter(order.afterwards));
    order.vm = nameOfDomain(domain.uuid);
    order.title = domain.title;
    order.uuid = domain.uuid;
    order.pid = domain.old.pid;
    order.startTime = domain.old.startTime;
    order.monitor = status.monitorPath;
    order.binary = domain.emulator;
    order.memoryBytes = memoryBytes(monitor);
    order.pidFile = paths.newPidFile(domain.title);
    order.logFile = paths.logFile(domain.title);
    order.socketDirectory = fs::path(status.monitorPath).parent_path();
    return order;
}

void adoptInFiles(const HostPaths& paths, const JournalDomain& domain) {
    const std::string file = paths.statusFile(domain.title);
    const std::string before = readFile(file);
    const DomainStatus status = readStatus(before);
    if (status.uuid != domain.uuid) throw std::runtime_error("'" + file + "' is about domain " + status.uuid);
    if (status.pid != domain.old.pid && status.pid != domain.new_.pid)
        throw std::runtime_error("'" + file + "' is about pid " + std::to_string(status.pid) +
                                 ", neither the old QEMU nor the new one");
    checkNew(domain, status);
    if (status.pid != domain.new_.pid) {
        Monitor monitor(status.monitorPath, monitorDeadline);
        const std::string after = rewriteStatus(before, {.pid = domain.new_.pid,
                                                         .vcpuThreads = vcpuThreads(monitor),
                                                         .emulator = domain.emulator,
                                                         .capabilityFlags = domain.capabilityFlags,
                                                         .terminals = terminals(monitor)});
        const DomainStatus rewritten = readStatus(after);
        if (rewritten.pid != domain.new_.pid || rewritten.uuid != domain.uuid || rewritten.monitorPath != status.monitorPath)
            throw std::runtime_error("the rewritten status XML does not say what it should");
        replaceFromReserved(paths.reservedStatusFile(domain.title), file, after);
    }
    const std::string pidFile = paths.newPidFile(domain.title);
    if (::rename(pidFile.c_str(), paths.pidFile(domain.title).c_str()) != 0 && errno != ENOENT)
        throwErrno("rename '" + pidFile + "'");
}

bool setAside(const HostPaths& paths, const JournalDirectory& journal, const JournalDomain& domain) {
    const std::string file = paths.statusFile(domain.title), aside = journal.asideFile(domain.uuid);
    // A rename needs no space; on another file system there is the copy from before.
    if (::rename(file.c_str(), aside.c_str()) == 0) return true;
    if (errno == ENOENT) return false;
    if (errno != EXDEV) throwErrno("move '" + file + "' aside");
    if (::unlink(file.c_str()) != 0) throwErrno("remove '" + file + "'");
    return true;
}

void finish(const HostPaths& paths, const JournalDirectory& journal, JournalDomain& domain) {
    const auto deadline = steady_clock::now() + finishTimeout;
    std::string why;
    while (domain.new_.isAlive()) {
        try {
            adoptInFiles(paths, domain);
            domain.phase = DomainPhase::Adopted;
            return;
        } catch (const std::exception& error) {
            why = error.what();
        }
        if (steady_clock::now() >= deadline)
            return lose(
                paths, journal, domain,
                "its new QEMU, pid " + std::to_string(domain.new_.pid) + ", has the guest, but libvirt cannot be told: " + why);
        std::this_thread::sleep_for(finishPause);
    }
    noticeNewEnded(domain);
}

void noticeNewEnded(JournalDomain& domain) {
    if (domain.new_.isAlive()) return;
    domain.phase = DomainPhase::Ended;
    domain.cause =
        "its new QEMU, pid " + std::to_string(domain.new_.pid) +
        ", had the guest and ended during the upgrade: the guest powered off, or that QEMU failed, as the domain's log " +
        "says; nothing to recover, 'virsh start' starts it anew";
}

void noticeItsEnd(JournalDomain& domain) {
    if (domain.phase != DomainPhase::Unchanged || domain.old.isAlive()) return;
    domain.phase = DomainPhase::Ended;
    domain.cause = "it ended by itself during the upgrade; nothing to recover, 'virsh start' starts it anew";
}

void settle(const HostPaths& paths, const JournalDirectory& journal, const ManagerCommand& manager, JournalDomain& domain) {
    try {
        takeBackOrder(journal, domain);
        const Settled settled = manager.settle(domain.uuid);
        switch (settled.state) {
            case Settled::State::Unknown:
                if (domain.phase == DomainPhase::Committed && domain.new_.isAlive()) return finish(paths, journal, domain);
                if (!domain.old.isAlive()) break;
                domain.phase = DomainPhase::Unchanged;
                return;
            case Settled::State::Running:
                domain.phase = settled.process == domain.old ? DomainPhase::Unchanged : DomainPhase::Committed;
                if (domain.phase == DomainPhase::Unchanged) {
                    domain.cause = settled.left;
                    return;
                }
                domain.new_ = settled.process;
                return finish(paths, journal, domain);
            case Settled::State::Dead:
                manager.forget(domain.uuid);
                break;
        }
        domain.phase = DomainPhase::Unchanged;
        noticeItsEnd(domain);
    } catch (const std::exception& error) {
        lose(paths, journal, domain, error.what());
    }
}

std::string oldQemuLeftText(const JournalDomain& domain) {
    const std::string pid = std::to_string(domain.old.pid);
    return "its old QEMU, pid " + pid +
           ", has not ended, so the kernel holds it (a disk or a device that does not answer? '/proc/" + pid +
           "/stack' says what it waits for). The guest runs on the new one, but the old one still has its memory and files open";
}

}  // namespace vh
