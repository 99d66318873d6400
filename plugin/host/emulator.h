// The QEMU that a process really runs, and the one that is installed: after a package upgrade these are two.
#pragma once

#include <sys/types.h>

#include <string>

namespace vh {

struct EmulatorIdentity {
    std::string path;       ///< Path of the file now, or when the process began.
    std::string version;    ///< `10.0.2`; empty when it does not say.
    std::string buildId;    ///< ELF note NT_GNU_BUILD_ID, in hex; empty when it has none (a script, a stripped build).
    bool replaced = false;  ///< The file that a process runs is no longer the one at its path.
};

/// Asks a binary on disk with --version. Throws std::runtime_error when it does not answer as QEMU does.
EmulatorIdentity installedEmulator(const std::string& binary);

/// Looks at a process's program, not at what is at its path by now; see Process::program(). Nothing is executed. Throws
/// std::runtime_error when it cannot be told.
EmulatorIdentity runningEmulator(pid_t pid);

}  // namespace vh
