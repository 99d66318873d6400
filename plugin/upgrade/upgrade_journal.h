// The journal of an upgrade of libvirt domains, on disk: all that another process needs to finish or undo it.
//
//     RUNTIME_DIRECTORY/libvirt.d/    a name that no VM can have
//         lock                 held (flock) by the one upgrade or recovery that is under way; never removed
//         journal.json         the UpgradeJournal below, replaced by rename; not there when nothing is unfinished
//         UUID.status.xml      the domain's status XML as it was before
//         UUID.aside.xml       a status XML that libvirt must not see; see lost domains in plugin/README.md
//         UUID.PID-STARTTIME.spec.json    what the manager was told to do, and which process told it; see recover.h
//
// Names of domains are in no file name of ours.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "config/enum_names.h"
#include "plugin/upgrade/lock_out.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Somebody else is at it, or has left something to be recovered first.
struct UpgradeRefused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Phases of a domain; all from Adopted on are ends.
enum class DomainPhase {
    Prepared,     ///< Nothing was done to it.
    HandingOver,  ///< The manager was told to begin: either QEMU may turn out to hold the guest.
    Committed,    ///< The new QEMU has the guest, and libvirt's files still speak of the old one.
    Adopted,      ///< libvirt's files speak of the new QEMU.
    Unchanged,    ///< The old QEMU has the guest, as before.
    Ended,        ///< No QEMU has the guest any more; libvirt finds that out by itself.
    Lost,         ///< A person is needed.
};
template <>
inline constexpr auto namesOf<DomainPhase> = namesFor(DomainPhase::Lost, "prepared", "handing over", "committed", "adopted",
                                                      "unchanged", "ended", "lost");

struct JournalDomain {
    std::string uuid;
    std::string title;  ///< Name of the domain.
    DomainPhase phase = DomainPhase::Prepared;
    ProcessIdentity old;
    ProcessIdentity new_;  ///< Known from Committed on.
    std::string emulator;  ///< Path of the new one.
    std::vector<std::string> capabilityFlags;
    std::string cause;        ///< Reason for Unchanged, Ended and Lost.
    ProcessIdentity upgrade;  ///< The process that tells the manager to hand it over.

    bool unfinished() const { return phase == DomainPhase::HandingOver || phase == DomainPhase::Committed; }
    /// The pid of its QEMU, the new one first; 0 when there is none.
    pid_t living() const { return new_.isAlive() ? new_.pid : old.isAlive() ? old.pid : 0; }
    bool operator==(const JournalDomain&) const = default;
};

struct UpgradeJournal {
    LockOutPlan lockOut;
    std::vector<JournalDomain> domains;

    /// Drops all but lost domains when an upgrade, or a recovery, is over; those stay for a person and for recover.
    void keepLost();
    bool operator==(const UpgradeJournal&) const = default;
};

class JournalDirectory {
 public:
    /// Makes the directory.
    explicit JournalDirectory(const std::string& runtimeDirectory);

    const std::string& path() const { return path_; }
    std::string journalFile() const { return path_ + "/journal.json"; }
    std::string statusCopy(const std::string& uuid) const { return path_ + "/" + uuid + ".status.xml"; }
    std::string asideFile(const std::string& uuid) const { return path_ + "/" + uuid + ".aside.xml"; }
    std::string specFile(const JournalDomain& domain) const;
    std::string reservedSpecFile(const std::string& uuid) const { return path_ + "/" + uuid + ".spec.json.reserved"; }

    /// The journal, if there is one. Throws std::runtime_error that names the file when it cannot be understood.
    std::optional<UpgradeJournal> read() const;
    /// Writes the journal. Throws std::system_error.
    void write(const UpgradeJournal& journal) const;
    void remove() const;
    /// Writes a journal, or removes it when there is no domain in it any more.
    void keep(const UpgradeJournal& journal) const { journal.domains.empty() ? remove() : write(journal); }

    /// The lock, or nothing when somebody else holds it. It lasts as long as the descriptor.
    UniqueFd tryLock() const;
    /// Waits for it, however long another process works.
    UniqueFd waitForLock() const;

 private:
    UniqueFd openLock() const;

    std::string path_;
};

}  // namespace vh
