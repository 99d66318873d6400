// The tool, but one that stands still (SIGSTOP) when its journal on disk says that a domain has come to the phase VH_STOP_AT: so
// a test can kill it there, however short that phase is. Linked with `--wrap`: nothing in the tool itself knows of this.
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "plugin/upgrade/upgrade_journal.h"

namespace {

/// Taken out of the environment: the guardian, which is this program, too, has work to do.
const std::string stopAt = [] {
    const char* given = std::getenv("VH_STOP_AT");
    std::string phase = given ? given : "";
    ::unsetenv("VH_STOP_AT");
    return phase;
}();

}  // namespace

// JournalDirectory::write, as the linker knows it.
extern "C" void __real__ZNK2vh16JournalDirectory5writeERKNS_14UpgradeJournalE(const vh::JournalDirectory*,
                                                                              const vh::UpgradeJournal&);
extern "C" void __wrap__ZNK2vh16JournalDirectory5writeERKNS_14UpgradeJournalE(const vh::JournalDirectory* directory,
                                                                              const vh::UpgradeJournal& journal) {
    __real__ZNK2vh16JournalDirectory5writeERKNS_14UpgradeJournalE(directory, journal);
    if (std::ranges::any_of(journal.domains, [](const vh::JournalDomain& domain) { return name(domain.phase) == stopAt; }))
        ::raise(SIGSTOP);
}
