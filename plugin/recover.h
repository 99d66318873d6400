// The verb `recover`: what an upgrade left that was killed is finished or undone. May be done at any time, and again.
//
// Each upgrade starts a guardian besides, a process of its own that has the lock on libvirt (lock_out.h) and waits for the
// upgrade's end. When it ended well there is no journal, and the guardian ends; when it was killed, the guardian recovers, and
// libvirt was never let in. When both were killed, recovery is up to virt-handover-recover.service or a person.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "plugin/host_paths.h"
#include "plugin/lock_out.h"
#include "plugin/upgrade.h"

namespace vh {

struct RecoverSurroundings {
    std::string runtimeDirectory;
    HostPaths paths;
    LockOutSettings lockOut;
    UniqueFd inheritedLock;  ///< The guardian's.
    bool wait = false;       ///< For the end of an upgrade that is under way, instead of refusing.
};

struct RecoveredDomain {
    std::string domain;
    std::string uuid;
    std::string outcome;  ///< `upgraded`, `rolled back`, `ended`, `lost`.
    std::string cause;
    pid_t pid = 0;
};

struct RecoverSummary {
    bool nothing = false;  ///< There was nothing to recover.
    std::vector<RecoveredDomain> domains;
    std::vector<std::string> warnings;

    Exit exitCode() const;
};

nlohmann::json toJson(const RecoverSummary& summary);
std::string recoverText(const nlohmann::json& summary);

/// Throws UpgradeRefused when an upgrade is under way; std::runtime_error when the journal cannot be understood, or libvirt
/// cannot be kept away.
RecoverSummary recover(RecoverSurroundings surroundings);

/// Drops a lost domain, by UUID or name, that a person has put in order. Throws UpgradeRefused when there is none.
void forgetLost(const RecoverSurroundings& surroundings, const std::string& domain);

/// Starts the guardian. Throws std::system_error.
void startGuardian(const std::string& runtimeDirectory, int lock);

}  // namespace vh
