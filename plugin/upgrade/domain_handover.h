// A domain's part of an upgrade, while libvirt is locked out: from its files and its QEMU to the manager's order, and from a new
// QEMU that has the guest back to libvirt's files. Then how it ends: by the manager's report, by finding out, and in those files.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "manager/record/adopted_vm.h"
#include "plugin/host/host_paths.h"
#include "plugin/upgrade/manager_command.h"
#include "plugin/upgrade/upgrade_journal.h"

namespace vh {

/// Answers of libvirt, asked for while it was there.
struct DomainPlan {
    JournalDomain domain;
    std::string statusXml;            ///< Read before `native`: while it stays the same, `native` is right.
    std::vector<std::string> native;  ///< See machine_arguments.h.
};

/// Takes the space for all that is written after the point of no return, and keeps a copy of the status XML. Throws
/// std::system_error; nothing is left then.
void reserveFiles(const HostPaths& paths, const JournalDirectory& journal, const DomainPlan& plan);
/// Removes what reserveFiles() made, but for the copy of a lost domain.
void releaseFiles(const HostPaths& paths, const JournalDirectory& journal, const JournalDomain& domain);

/// The manager's order (manager/README.md: adopt), but for how long the handover may take. Throws a Refusal, or why it cannot
/// tell, and nothing was touched then. `oldVersion` is what the old QEMU says of itself.
AdoptOrder makeOrder(const HostPaths& paths, const DomainPlan& plan, std::string& oldVersion);

/// Makes libvirt's files speak of `domain.new_`: status XML, then pid file. May be done again at any time. Throws
/// std::runtime_error when libvirt would not accept them; they are as they were then.
void adoptInFiles(const HostPaths& paths, const JournalDomain& domain);

/// Hides a lost domain's status XML from libvirt, which would work with the old QEMU by it, while the new one may have the guest.
/// False when there was nothing to move.
bool setAside(const HostPaths& paths, const JournalDirectory& journal, const JournalDomain& domain);

/// Makes libvirt's files speak of the new QEMU: Committed becomes Adopted. There is no way back from here, so this is tried again
/// for a while whatever goes wrong. Else it becomes Ended, or Lost with its status XML set aside.
void finish(const HostPaths& paths, const JournalDirectory& journal, JournalDomain& domain);

/// Asks the manager which QEMU has the guest of a domain that is HandingOver, or Committed by a process that is dead, and ends it
/// accordingly.
void settle(const HostPaths& paths, const JournalDirectory& journal, const ManagerCommand& manager, JournalDomain& domain);

/// Makes Unchanged Ended when the domain's QEMU, which it would still have, is gone.
void noticeItsEnd(JournalDomain& domain);

/// The same when it had been handed over, and the new QEMU is gone.
void noticeNewEnded(JournalDomain& domain);

/// The text about an adopted domain whose old QEMU is still there.
std::string oldQemuLeftText(const JournalDomain& domain);

}  // namespace vh
