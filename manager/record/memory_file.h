// A file that a VMM has guest RAM or an implicit block in: which one, and how long.
#pragma once

#include <cstdint>

#include "vmm-shim/file_identity.h"

namespace vh {

struct MemoryFile {
    FileIdentity identity;
    std::uint64_t size = 0;  ///< Bytes.

    bool operator==(const MemoryFile&) const = default;
};

}  // namespace vh
