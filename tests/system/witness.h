// What is true of a VM, found out without its manager: from /proc, from each VMM's own monitor, and from the guest.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "manager/record/vm_directory.h"

namespace vh::test {

/// A process that has a VM's RAM mapped, or that its manager started as a VMM of it.
struct SeenVmm {
    pid_t pid = 0;
    std::string directory;  ///< Its generation's; empty when that was removed.
    /// As its monitor says: `running`, `paused`, ...; `silent` when it does not answer.
    std::string runState;
};

/// All of them that live. `ram` is what ramFileOf() says of the one that had the guest; may be empty.
std::vector<SeenVmm> seenVmms(const VmDirectory& vm, const std::string& ram);

/// The file behind the largest shared memory that a process has mapped, as the kernel numbers it: device and inode.
std::string ramFileOf(pid_t pid);

/// `query-status`, asked at the monitor in a generation's directory.
std::string runStateOf(const std::string& directory);

/// What a process has open, counted by kind: numbers of sockets and generations left out.
std::map<std::string, int> openFilesOf(pid_t pid);

/// A directory's entries, and theirs.
std::set<std::string> entriesOf(const std::string& directory);

/// Interfaces of this network namespace whose names begin so.
std::set<std::string> interfacesNamed(const std::string& start);

struct Pulse {
    std::optional<std::uint64_t> beat;  ///< The latest; none when the guest is silent.
    std::map<std::string, std::uint64_t> status;
    std::vector<std::string> errors;  ///< What the guest found wrong with its memory or disk.
};

/// Listens to the guest until it has beaten, and said how it is if it is one that does.
Pulse pulseOf(const std::string& directory, bool tellsStatus);

}  // namespace vh::test
