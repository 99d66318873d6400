#include "manager/compare/huge_pages.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include "config/vm_definition.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

constexpr int collapse = 25;  ///< MADV_COLLAPSE, which Debian 12's headers lack.
constexpr std::uint64_t hugeBytes = 2ULL << 20;
constexpr unsigned hugePercent = 90;  ///< At the ends of a block there may be less than a huge page.

/// `7f0000000000-7f0020000000 rw-s ... /memfd:ram0 (deleted)`; none of another line, or of memory that is no memory file.
std::optional<SharedMapping> mappingIn(std::string_view line) {
    const std::size_t dash = line.find('-'), space = line.find(' ');
    if (dash == line.npos || space == line.npos || dash > space || line.find(" /memfd:") == line.npos) return std::nullopt;
    const auto start = wholeNumber<std::uint64_t>(line.substr(0, dash), 16);
    const auto end = wholeNumber<std::uint64_t>(line.substr(dash + 1, space - dash - 1), 16);
    return start && end && *end > *start ? std::optional(SharedMapping{*start, *end - *start, 0, 0}) : std::nullopt;
}

/// Of `Size:    4 kB`, in bytes; none of a line with another key.
std::optional<std::uint64_t> kilobytesIn(std::string_view line, std::string_view key) {
    if (!line.starts_with(key)) return std::nullopt;
    line.remove_prefix(std::min(line.find_first_not_of(' ', key.size()), line.size()));
    const auto kilobytes = wholeNumber<std::uint64_t>(line.substr(0, line.find(' ')));
    return kilobytes ? std::optional(*kilobytes * 1024) : std::nullopt;
}

/// Empty, or the kernel's reason for the last part that it did not do. Page by page: at one that the guest has never touched the
/// kernel gives up all that follows (mm/khugepaged.c:madvise_collapse).
std::string askForHugePages(int process, const SharedMapping& ram) {
    std::string problem;
    for (std::uint64_t done = 0; done + hugeBytes <= ram.sizeBytes; done += hugeBytes) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in another process.
        const iovec part{reinterpret_cast<void*>(ram.start + done), static_cast<std::size_t>(hugeBytes)};
        if (::syscall(SYS_process_madvise, process, &part, 1, collapse, 0) < 0) problem = std::strerror(errno);
    }
    return problem;
}

}  // namespace

std::optional<SharedMapping> greatestSharedMapping(std::string_view smaps) {
    std::optional<SharedMapping> greatest, current;
    for (const std::string& line : split(smaps, '\n')) {
        // Keys begin with a capital letter, and addresses do not.
        if (!line.empty() && (line[0] < 'A' || line[0] > 'Z')) current = mappingIn(line);
        if (const auto bytes = kilobytesIn(line, "Rss:"); bytes && current) current->residentBytes = *bytes;
        if (const auto bytes = kilobytesIn(line, "ShmemPmdMapped:"); bytes && current) {
            current->hugeBytes = *bytes;
            if (!greatest || current->sizeBytes > greatest->sizeBytes) greatest = current;
        }
    }
    return greatest;
}

SharedMapping guestRamOf(pid_t vmm) {
    const auto ram = greatestSharedMapping(readIfThere(Process(vmm).path("smaps")));
    if (!ram) throw std::runtime_error("the VMM has no memory file mapped that could be guest RAM");
    return *ram;
}

bool isHuge(const SharedMapping& ram) {
    return ram.hugeBytes > 0 && ram.hugeBytes >= ram.residentBytes / 100 * hugePercent;
}

void makeHuge(pid_t vmm) {
    const SharedMapping before = guestRamOf(vmm);
    if (isHuge(before)) return;
    if (before.start % hugeBytes != 0)
        throw std::runtime_error(
            "guest RAM that the VMM makes itself cannot be in transparent huge pages: QEMU maps it where no huge "
            "page can begin");
    const UniqueFd process = openPidfd(vmm);
    std::string problem = process ? "" : std::strerror(errno);
    // A page that somebody uses just now is left out, and for the next time.
    for (int tries = 0; tries < 3 && process; ++tries) {
        problem = askForHugePages(process.get(), guestRamOf(vmm));
        if (isHuge(guestRamOf(vmm))) return;
    }
    const SharedMapping ram = guestRamOf(vmm);
    throw std::runtime_error("guest RAM is not in transparent huge pages: " + formatSize(ram.hugeBytes) + " of " +
                             formatSize(ram.residentBytes) + " are" + (problem.empty() ? "" : " (" + problem + ")") +
                             "; run it as root on Linux 6.1 or newer, or write 'advise' to "
                             "'/sys/kernel/mm/transparent_hugepage/shmem_enabled'");
}

}  // namespace vh
