#include "plugin/upgrade/settle.h"

#include <unistd.h>

#include <cerrno>
#include <exception>
#include <thread>

#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using std::chrono::milliseconds, std::chrono::steady_clock;

// Space under /run may be freed, and a monitor's socket is listened on again a moment after its last client went.
constexpr milliseconds finishPatience{10'000};
constexpr milliseconds finishPause{100};

/// A person must look. libvirt is let in nevertheless, for the sake of all other domains; but not to a status XML that may name
/// the wrong QEMU, since `virsh resume` or `destroy` would then go to that one.
void lose(const HostPaths& paths, const JournalDirectory& journal, JournalDomain& domain, const std::string& cause) {
    domain.phase = DomainPhase::Lost;
    domain.cause = cause;
    const bool onlyOld = domain.old.isAlive() && !domain.fresh.isAlive() && domain.fresh.pid != 0;
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

void finish(const HostPaths& paths, const JournalDirectory& journal, JournalDomain& domain) {
    const auto deadline = steady_clock::now() + finishPatience;
    std::string why;
    while (domain.fresh.isAlive()) {
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
                "its new QEMU, pid " + std::to_string(domain.fresh.pid) + ", has the guest, but libvirt cannot be told: " + why);
        std::this_thread::sleep_for(finishPause);
    }
    domain.phase = DomainPhase::Ended;
    domain.cause =
        "its new QEMU, pid " + std::to_string(domain.fresh.pid) +
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
                if (domain.phase == DomainPhase::Committed && domain.fresh.isAlive()) return finish(paths, journal, domain);
                if (!domain.old.isAlive()) break;
                domain.phase = DomainPhase::Unchanged;
                return;
            case Settled::State::Running:
                domain.phase = settled.process == domain.old ? DomainPhase::Unchanged : DomainPhase::Committed;
                if (domain.phase == DomainPhase::Unchanged) {
                    domain.cause = settled.left;
                    return;
                }
                domain.fresh = settled.process;
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
