// Descriptors by name, and what another process has open.
#pragma once

#include <sys/types.h>

#include <string>

#include "vmm-shim/unique_fd.h"

namespace vh {

struct NamedDescriptor {
    std::string name;
    UniqueFd fd;
};

/// A descriptor of another process: the same open file (pidfd_getfd(2)). Throws std::system_error.
UniqueFd takeDescriptor(pid_t pid, int number);

}  // namespace vh
