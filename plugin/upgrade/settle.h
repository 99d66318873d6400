// How a domain that was being handed over ends: by the manager's report, by finding out, and in libvirt's files.
#pragma once

#include <string>

#include "plugin/upgrade/domain_handover.h"

namespace vh {

/// Committed becomes Adopted: libvirt's files are made to speak of the new QEMU. There is no way back from here, so this is tried
/// again for a while whatever goes wrong. Else it becomes Ended, or Lost with its status XML set aside.
void finish(const HostPaths& paths, const JournalDirectory& journal, JournalDomain& domain);

/// HandingOver, or Committed by a process that is dead: asks the manager which QEMU has the guest, and ends it accordingly.
void settle(const HostPaths& paths, const JournalDirectory& journal, const ManagerCommand& manager, JournalDomain& domain);

/// Unchanged becomes Ended when the domain's QEMU, which it would still have, is gone.
void noticeItsEnd(JournalDomain& domain);

/// What to say of an adopted domain whose old QEMU is still there.
std::string oldQemuLeftText(const JournalDomain& domain);

}  // namespace vh
