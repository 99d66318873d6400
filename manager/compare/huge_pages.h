// Guest RAM in transparent huge pages: what of it is in them, and how it gets there.
//
// A kernel gives shared memory such pages by itself only where '/sys/kernel/mm/transparent_hugepage/shmem_enabled' says so
// ('never' by default). Where it does not, they can be asked for once, of the pages that are there: MADV_COLLAPSE heeds no such
// setting but 'deny' (madvise(2), Linux 6.1, mm/shmem.c:shmem_huge_global_enabled). It is the file that gets them, so that every
// VMM that maps the file has them; RAM that a design copies has not.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace vh {

/// A mapping of shared memory.
struct SharedMapping {
    std::uint64_t start = 0;
    std::uint64_t sizeBytes = 0;
    std::uint64_t residentBytes = 0;
    std::uint64_t hugeBytes = 0;  ///< Bytes that the process has mapped as huge pages.

    bool operator==(const SharedMapping&) const = default;
};

/// The greatest mapping of a memory file that /proc/PID/smaps tells of; none when there is none.
std::optional<SharedMapping> greatestSharedMapping(std::string_view smaps);

/// Guest RAM of a VMM. Throws std::runtime_error when it is gone or has none.
SharedMapping guestRamOf(pid_t vmm);

/// True when so much of it is in huge pages that it can be called that.
bool isHuge(const SharedMapping& ram);

/// Has the kernel put guest RAM into huge pages; it may take seconds. Throws std::runtime_error when it did not, with the reason.
void makeHuge(pid_t vmm);

}  // namespace vh
