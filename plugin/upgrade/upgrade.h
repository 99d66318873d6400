// The verb `upgrade`: other QEMUs under running libvirt domains, in one absence of libvirt.
//
// Theory of operation. libvirt believes of a running domain what is in its status XML, reads that when it starts, and checks it
// against the QEMU that it finds. So:
//
//   1. while libvirt runs, everything that only it can answer is asked, and everything that can be refused is refused;
//   2. the space for all that is to be written is taken, and what is about to be done is written down (upgrade_journal.h);
//   3. libvirt is stopped and locked out (lock_out.h), and a second process stands by to recover if this one is killed
//      (startGuardian());
//   4. for each domain the manager exchanges the QEMU (manager/), and libvirt's files are made to speak of the new one
//      (domain_handover.h);
//   5. libvirt is let in again, and is asked whether it found each domain as it was.
//
// A domain that fails fails alone; step 5 is done whatever becomes of step 4.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "config/exit_code.h"
#include "manager/record/report.h"
#include "plugin/host/host_paths.h"
#include "plugin/upgrade/lock_out.h"
#include "plugin/upgrade/upgrade_journal.h"

namespace vh {

struct UpgradeRequest {
    std::vector<std::string> domains;  ///< Names or UUIDs.
    bool all = false;                  ///< Takes each that runs, is ready, and does not run the new QEMU yet, instead.
    std::string emulator;              ///< Absolute; empty for the one in each domain's XML.
    unsigned parallel = 4;             ///< Number of domains at once.
    bool dryRun = false;
    bool force = false;  ///< Allows untested versions.
    std::chrono::milliseconds pauseBudget{1'000};
    std::chrono::milliseconds stepDeadline{30'000};  ///< For each step that waits for a QEMU while the guest runs.
};

struct DomainOutcome {
    std::string domain;
    std::string uuid;
    std::string outcome;  ///< `upgraded`, `refused`, `rolled back`, `ended`, `lost`; `skipped` (--all), `ready` (--dry-run).
    std::string cause;
    std::string remedy;
    std::string oldVersion;
    std::string newVersion;
    pid_t pid = 0;  ///< Pid of the QEMU that has the guest, where that is known.
    std::optional<double> stopToResumeMs;
    std::vector<std::string> notes;
    bool oldQemuLeft = false;  ///< Upgraded, but the old QEMU has not ended, not even by SIGKILL.
};

/// Takes over what the manager's report says of a domain. Whatever is no clear end leaves the phase, and it is found out.
void takeReport(const HandoverReport& report, JournalDomain& domain, DomainOutcome& outcome);

struct UpgradeSummary {
    std::vector<DomainOutcome> domains;
    std::optional<double> libvirtAwayMs;  ///< Time from before it was stopped until it answered again.
    std::vector<std::string> warnings;
    bool libvirtUnreachable = false;  ///< Set when libvirt did not come back.

    ExitCode exitCode() const;
};

nlohmann::json toJson(const UpgradeSummary& summary);
std::string upgradeText(const UpgradeSummary& summary);

struct UpgradeEnvironment {
    std::string uri;
    std::string runtimeDirectory;
    HostPaths paths;
    LockOutSettings lockOut;
    int interrupts = -1;  ///< Borrowed: readable when the user wants us to stop. What has begun is rolled back or finished then.
    std::function<void(const std::string&)> say;  ///< Told what is being done.
};

/// Upgrades domains. Throws UpgradeRefused, LibvirtUnreachable; nothing was touched then.
UpgradeSummary upgrade(const UpgradeRequest& request, const UpgradeEnvironment& environment);

}  // namespace vh
