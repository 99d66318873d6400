#include "manager/resources/memory_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <system_error>
#include <utility>

#include "vmm-shim/proc.h"

namespace vh {
namespace {

/// How far into each file a process maps it. tmpfs and hugetlbfs have the same device number there as in fstat().
std::map<FileIdentity, std::uint64_t> mappedLengths(pid_t pid) {
    std::map<FileIdentity, std::uint64_t> lengths;
    for (const MemoryMapping& mapping : Process(pid).mappings()) {
        if (mapping.file.inode == 0) continue;
        std::uint64_t& length = lengths[mapping.file];
        length = std::max(length, mapping.offset + (mapping.end - mapping.start));
    }
    return lengths;
}

/// A memfd of a process, with the rights that the process itself has to it.
struct Memfd {
    UniqueFd fd;
    MemoryFile file;
    std::string name;  ///< `/memfd:vga.vram`
};

/// Taken and not opened anew, which would make a writable descriptor of one that the process may only read. Nothing that has a
/// name in a file system is a memfd (mm/memfd.c), whatever it is called; seals are of tmpfs's and hugetlbfs's files only.
std::vector<Memfd> memfdsOf(pid_t pid) {
    std::vector<Memfd> found;
    const Process process(pid);
    for (const OpenFile& open : process.visibleFiles()) {
        if (!open.isMemfd()) continue;
        try {
            UniqueFd fd = process.take(open.number);
            struct stat status {};
            const bool isMemfd = ::fstat(fd.get(), &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0 &&
                                 ::fcntl(fd.get(), F_GET_SEALS) >= 0;
            if (!isMemfd || (::fcntl(fd.get(), F_GETFL) & O_ACCMODE) != O_RDWR) continue;
            const MemoryFile file{{status.st_dev, status.st_ino}, static_cast<std::uint64_t>(status.st_size)};
            if (std::ranges::find(found, file.identity, [](const Memfd& one) { return one.file.identity; }) == found.end())
                found.push_back({std::move(fd), file, withoutDeletedMark(open.target)});
        } catch (const std::system_error&) {
            // Closed meanwhile, or not ours to take.
        }
    }
    return found;
}

}  // namespace

std::vector<MemoryFile> memoryFilesOf(pid_t pid) {
    std::vector<MemoryFile> files;
    const auto lengths = mappedLengths(pid);
    for (const Memfd& memfd : memfdsOf(pid))
        if (lengths.contains(memfd.file.identity)) files.push_back(memfd.file);
    return files;
}

std::vector<std::string> cutBackMemoryFiles(pid_t pid, const std::vector<MemoryFile>& before) {
    std::vector<std::string> cut;
    const auto lengths = mappedLengths(pid);
    for (const Memfd& memfd : memfdsOf(pid)) {
        const auto known = std::ranges::find(before, memfd.file.identity, &MemoryFile::identity);
        const auto mapped = lengths.find(memfd.file.identity);
        if (known == before.end() || mapped == lengths.end() || mapped->second > known->size) continue;
        if (memfd.file.size <= known->size || ::ftruncate(memfd.fd.get(), static_cast<off_t>(known->size)) != 0) continue;
        cut.push_back(memfd.name);
    }
    return cut;
}

}  // namespace vh
