// The file that a descriptor or a mapping stands for, in whatever process it is seen.
#pragma once

#include <sys/stat.h>

#include <compare>
#include <cstdint>

#include "vmm-shim/throw_errno.h"

namespace vh {

/// Device and inode number as fstat() gives them: for a memfd they are unique while any process has it.
struct FileIdentity {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;

    /// Throws std::system_error.
    static FileIdentity of(int fd) {
        struct stat status {};
        if (::fstat(fd, &status) != 0) throwErrno("fstat");
        return {status.st_dev, status.st_ino};
    }
    auto operator<=>(const FileIdentity&) const = default;
};

}  // namespace vh
