// Keeps libvirt away while the processes of its domains are exchanged.
//
// Theory of operation. libvirt's QEMU driver holds a POSIX lock on /run/libvirt/qemu/driver.pid as long as it lives, and does not
// come up when somebody else holds it (src/qemu/qemu_driver.c:qemuStateInitialize, src/util/virpidfile.c, 11.3.0). So whoever
// holds the lock is the daemon that must be stopped, however it was started; and once we hold it, no other one comes up, however
// it is started. Ours is an open file description lock (fcntl(2), F_OFD_SETLK), which conflicts with libvirt's and lives on in a
// child that has the descriptor: so a killed tool does not let libvirt in before recovery is done (recover.h).
//
// Everybody can read libvirt's file, and so have a lock for reading on it. Such a lock is nobody's whom we believe, end or start
// again: only one for writing is, of a process of root's whose program only root can exchange. Nor can it be in the way: we do
// not lock the file that is there, but one of our own, which nobody else can open, put in its place. It is removed before it is
// unlocked, as libvirt does: so no lock that waits for ours keeps the next daemon away.
//
// With systemd the units are masked and stopped besides, since else it would start the daemon again and again, at each client.
#pragma once

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {

struct LockOutSettings {
    std::string stateDirectory = "/run/libvirt/qemu";
    std::vector<std::string> daemons{"libvirtd", "virtqemud"};  ///< Names of their programs.
    std::string systemctl = "systemctl";
    bool systemd = false;
    /// Deadline of the daemon's orderly end; then it is killed. No guest is touched by either.
    std::chrono::milliseconds stopDeadline{5'000};
};

/// A daemon that was not started by systemd, and how to start it again as it was.
struct StoppedDaemon {
    std::string program;
    std::vector<std::string> argv;
    std::vector<std::string> environment;
    std::string directory;

    bool operator==(const StoppedDaemon&) const = default;
};

/// Steps to undo to let libvirt in again; known before anything is done, so that it can be journaled.
struct LockOutPlan {
    std::vector<std::string> maskedUnits;
    std::vector<std::string> startedUnits;  ///< Masked units that were active: sockets first.
    std::optional<StoppedDaemon> daemon;

    bool operator==(const LockOutPlan&) const = default;
};

/// Plans the lock-out, and does nothing. Throws LockedOutAlready; std::runtime_error when it cannot be found out.
LockOutPlan planLockOut(const LockOutSettings& settings);

/// Undoes a plan: unmasks and starts what was masked and started, and starts the daemon unless one runs. Returns what went wrong
/// on the way, empty when nothing did: each step is tried whatever became of the one before. `streams` (borrowed): the daemon's
/// standard streams.
std::string letLibvirtIn(const LockOutSettings& settings, const LockOutPlan& plan, const std::vector<UniqueFd>& streams = {});
/// Lets libvirt in for whoever has only the lock's descriptor from an earlier process, or none.
std::string letLibvirtIn(const LockOutSettings& settings, const LockOutPlan& plan, UniqueFd lock);

/// The settings for this host.
LockOutSettings lockOutSettings();

/// Another upgrade or recovery, or the guardian of one, keeps libvirt away: it has to come to its end.
struct LockedOutAlready : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class LockOut {
 public:
    /// Stops libvirt and locks it out. `inherited`: the lock's descriptor from an earlier process, if there is one. Throws
    /// std::runtime_error, when libvirt is let in again.
    LockOut(LockOutSettings settings, LockOutPlan plan, UniqueFd inherited = {});
    LockOut(const LockOut&) = delete;
    ~LockOut();

    /// Lets libvirt in, and starts it again if it ran before; see letLibvirtIn().
    std::string release();

    /// The lock's descriptor, borrowed: keeps the lock in whoever inherits it, until release() or the end of all of them.
    int descriptor() const { return lock_.get(); }

 private:
    void mask();
    void stopUnits();
    void takeLock();

    LockOutSettings settings_;
    LockOutPlan plan_;
    UniqueFd lock_;
    std::vector<UniqueFd> streams_;  ///< The stopped daemon's own standard streams.
    bool held_ = true;
};

}  // namespace vh
