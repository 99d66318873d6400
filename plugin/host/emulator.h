// Which QEMU a process really runs, and which one is installed: after a package upgrade these are two.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace vh {

struct EmulatorIdentity {
    std::string path;       ///< Where the file is, or was when the process began.
    std::string version;    ///< `10.0.2`; empty when it does not say.
    std::string buildId;    ///< Of its ELF note NT_GNU_BUILD_ID, in hex; empty when it has none (a script, a stripped build).
    bool replaced = false;  ///< The file that a process runs is no longer the one at its path.
};

/// The build id of an ELF file; empty for a file that is none or has none. Throws std::system_error when it cannot be read.
std::string buildIdOf(const std::string& file);

/// Asks a binary on disk with --version. Throws std::runtime_error when it does not answer as QEMU does.
EmulatorIdentity installedEmulator(const std::string& binary);

/// Looks at a process's program, not at what is at its path by now. A process that was started by way of a dynamic loader or a
/// script is looked through: the program is the qemu-system binary that it has mapped. Nothing is executed.
EmulatorIdentity runningEmulator(pid_t pid);

}  // namespace vh
