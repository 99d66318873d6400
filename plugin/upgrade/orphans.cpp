#include "plugin/upgrade/orphans.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>

#include "plugin/domain/qemu_option.h"
#include "plugin/domain/status_xml.h"
#include "plugin/host/emulator.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Status {
    DomainStatus status;
    std::string xml;
};

/// By UUID. What is no status XML is none of ours.
std::map<std::string, Status> statusesIn(const std::string& directory) {
    std::map<std::string, Status> found;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
        if (entry.path().extension() != ".xml") continue;
        try {
            Status one{.status = {}, .xml = readFile(entry.path())};
            one.status = readStatus(one.xml);
            found[one.status.uuid] = std::move(one);
        } catch (const std::exception&) {
            continue;
        }
    }
    return found;
}

/// A process that says that it is the QEMU of a domain of libvirt's.
struct Qemu {
    pid_t pid = 0;
    std::string name;  ///< Of the domain.
};

std::string wordAfter(const std::vector<std::string>& words, const char* option) {
    const auto at = std::ranges::find(words, option);
    return at == words.end() || at + 1 == words.end() ? std::string() : *(at + 1);
}

/// By UUID. libvirt's QEMUs are root's or the user's whose domains' directories are in there: others may call themselves what
/// they like, but for those that libvirt's files or the manager's records name.
std::multimap<std::string, Qemu> qemusOf(const HostPaths& paths, const std::set<pid_t>& named) {
    struct stat directory {};
    const bool known = ::stat(paths.domainDirectories.c_str(), &directory) == 0;
    std::multimap<std::string, Qemu> found;
    for (const pid_t pid : allProcesses()) {
        struct stat process {};
        if (::stat(Process(pid).path("").c_str(), &process) != 0) continue;
        if (process.st_uid != 0 && !(known && process.st_uid == directory.st_uid) && !named.contains(pid)) continue;
        try {
            const std::vector<std::string> words = Process(pid).commandLine();
            const std::string uuid = wordAfter(words, "-uuid");
            // `guest=two,, words,debug-threads=on` (src/qemu/qemu_command.c:qemuBuildNameCommandLine, 11.3.0).
            const std::string name = OptionValue("-name", wordAfter(words, "-name"))["guest"];
            if (!uuid.empty() && !name.empty() && ProcessIdentity::of(pid).pid != 0) found.insert({uuid, {pid, name}});
        } catch (const std::exception&) {
            continue;
        }
    }
    return found;
}

class Search {
 public:
    Search(const HostPaths& paths, const ManagerCommand& manager) : paths_(paths), statuses_(statusesIn(paths.stateDirectory)) {
        std::set<pid_t> named;
        for (ManagerRecord& record : manager.records()) {
            named.insert(record.pid);
            records_[record.uuid] = std::move(record);
        }
        for (const auto& [uuid, one] : statuses_) named.insert(one.status.pid);
        qemus_ = qemusOf(paths, named);
    }

    std::vector<Orphan> found() const {
        std::set<std::string> uuids;
        for (const auto& [uuid, record] : records_) uuids.insert(uuid);
        for (const auto& [uuid, qemu] : qemus_) uuids.insert(uuid);
        std::vector<Orphan> orphans;
        for (const std::string& uuid : uuids)
            if (std::optional<Orphan> orphan = look(uuid)) orphans.push_back(std::move(*orphan));
        return orphans;
    }

 private:
    std::optional<Orphan> look(const std::string& uuid) const {
        const auto status = statuses_.find(uuid);
        const auto record = records_.find(uuid);
        Orphan orphan;
        orphan.domain.uuid = uuid;
        orphan.domain.title = uuid;
        std::set<pid_t> living;
        for (auto [qemu, end] = qemus_.equal_range(uuid); qemu != end; ++qemu) {
            living.insert(qemu->second.pid);
            orphan.domain.title = qemu->second.name;
        }
        pid_t known = 0;
        if (status != statuses_.end()) {
            orphan.domain.title = status->second.status.name;
            orphan.statusXml = status->second.xml;
            known = status->second.status.pid;
            if (isQemu(known)) living.insert(known);
        }
        const bool interrupted = record != records_.end() && record->second.interrupted;
        orphan.domain.old = {known, living.contains(known) ? ProcessIdentity::of(known).startTime : 0};
        if (living.empty() || (living.size() == 1 && living.contains(known) && !interrupted)) return std::nullopt;
        orphan.domain.phase = DomainPhase::HandingOver;
        if (interrupted && status != statuses_.end()) {
            orphan.what = "a handover of it was interrupted, and there is no journal of it";
        } else if (living.size() > 1) {
            orphan.what = "two QEMUs say that they are this domain: " + list(living);
            orphan.remedy =
                "find out which one has the guest ('query-status' on its monitor) before anything else is done with it";
            return orphan;
        } else {
            orphan.qemu = *living.begin();
            const std::string runs = "QEMU " + list(living) + " runs it";
            orphan.what = status == statuses_.end()
                              ? "libvirt says that it is off, and " + runs
                              : "libvirt says that its QEMU is " + list({known}) + ", which is gone, and " + runs;
        }
        if (status == statuses_.end()) {
            orphan.remedy =
                "libvirt has no status XML of it any more, and cannot be given it back. Do not start it: power its guest off "
                "from within, or by QEMU's own monitor below the directory of '" +
                nameOfDomain(uuid) + "', and then start it";
            return orphan;
        }
        prepare(orphan, record == records_.end() ? nullptr : &record->second);
        return orphan;
    }

    /// What an upgrade would have known.
    void prepare(Orphan& orphan, const ManagerRecord* record) const {
        try {
            if (orphan.qemu != 0 && !record) {
                // Only the kernel's word will do, then: libvirt, as the manager, has it lock the domain's pid file.
                if (!holdsPidFile(orphan))
                    throw std::runtime_error("no record is there of it, and it does not have the lock of '" +
                                             paths_.pidFile(orphan.domain.title) + "'");
                orphan.domain.phase = DomainPhase::Committed;
                orphan.domain.new_ = ProcessIdentity::of(orphan.qemu);
            }
            const pid_t one = orphan.qemu != 0 ? orphan.qemu : orphan.domain.old.pid;
            orphan.domain.emulator = record && !record->binary.empty() ? record->binary : runningEmulator(one).path;
            orphan.domain.capabilityFlags = capabilityFlags(paths_.capabilitiesDirectory, orphan.domain.emulator);
        } catch (const std::exception& error) {
            orphan.remedy = error.what();
        }
    }

    /// Whatever its command line says: that is the process's own.
    static bool isQemu(pid_t pid) {
        try {
            return fs::path(runningEmulator(pid).path).filename().string().starts_with("qemu-");
        } catch (const std::exception&) {
            return false;
        }
    }

    bool holdsPidFile(const Orphan& orphan) const {
        const auto isHeld = [&](const std::string& file) { return lockHolder(file) == orphan.qemu; };
        return isHeld(paths_.pidFile(orphan.domain.title)) || isHeld(paths_.newPidFile(orphan.domain.title));
    }

    static std::string list(const std::set<pid_t>& pids) {
        std::string text;
        for (const pid_t pid : pids) append(text, "pid " + std::to_string(pid));
        return text;
    }

    const HostPaths& paths_;
    const std::map<std::string, Status> statuses_;
    std::multimap<std::string, Qemu> qemus_;
    std::map<std::string, ManagerRecord> records_;
};

std::string whatHelps(const Orphan& orphan) {
    return orphan.remedy.empty() ? "'virt-handover libvirt recover' puts it right" : orphan.remedy;
}

}  // namespace

std::vector<Orphan> findOrphans(const HostPaths& paths, const ManagerCommand& manager) {
    return Search(paths, manager).found();
}

json toJson(const Orphan& orphan) {
    return {{"domain", orphan.domain.title},        {"uuid", orphan.domain.uuid}, {"pid", orphan.qemu},
            {"libvirtsPid", orphan.domain.old.pid}, {"what", orphan.what},        {"remedy", whatHelps(orphan)}};
}

std::string orphanText(const Orphan& orphan) {
    return "domain '" + orphan.domain.title + "': " + orphan.what + "\n    " + whatHelps(orphan) + "\n";
}

}  // namespace vh
