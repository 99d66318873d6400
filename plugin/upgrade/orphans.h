// Domains that run on a QEMU which libvirt does not know: its files name another process, which is dead, or it has no files of
// the domain any more. An upgrade that is interrupted and recovered leaves none. One whose journal was removed may, and so did
// those of earlier versions.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "plugin/host/host_paths.h"
#include "plugin/upgrade/domain_handover.h"
#include "plugin/upgrade/manager_command.h"

namespace vh {

struct Orphan {
    JournalDomain domain;   ///< As an interrupted upgrade would have left it: settle() puts it right. `old` is libvirt's process.
    std::string statusXml;  ///< Empty when libvirt has none.
    pid_t qemu = 0;         ///< Process that runs it, as far as that is certain.
    std::string what;       ///< Description in a sentence's words, after the domain's name.
    std::string remedy;     ///< Remedy of one that only a person can put right; empty for the others.
};

/// Compares libvirt's files, the manager's records and the processes that there are; changes nothing. Only while no upgrade is
/// under way. Throws std::runtime_error.
std::vector<Orphan> findOrphans(const HostPaths& paths, const ManagerCommand& manager);

nlohmann::json toJson(const Orphan& orphan);

/// What it is, and below that what helps.
std::string orphanText(const Orphan& orphan);

}  // namespace vh
