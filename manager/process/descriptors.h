// Descriptors by name.
#pragma once

#include <string>

#include "vmm-shim/unique_fd.h"

namespace vh {

struct NamedDescriptor {
    std::string name;
    UniqueFd fd;
};

}  // namespace vh
