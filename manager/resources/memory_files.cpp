#include "manager/resources/memory_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>
#include <utility>

#include "manager/process/descriptors.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

using Key = std::pair<std::uint64_t, std::uint64_t>;

Key keyOf(const FileIdentity& file) {
    return {file.device, file.inode};
}

/// How far into each file a process maps it, by /proc/PID/maps (fs/proc/task_mmu.c:show_map_vma, Linux 6.1). tmpfs and hugetlbfs
/// have the same device number there as in fstat().
std::map<Key, std::uint64_t> mappedLengths(pid_t pid) {
    std::map<Key, std::uint64_t> lengths;
    std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
    for (std::string line; std::getline(maps, line);) {
        std::istringstream columns(line);
        std::uint64_t start = 0, end = 0, offset = 0, inode = 0;
        unsigned major = 0, minor = 0;
        std::string rights;
        char dash = 0, colon = 0;
        columns >> std::hex >> start >> dash >> end >> rights >> offset >> major >> colon >> minor >> std::dec >> inode;
        if (!columns || inode == 0) continue;
        std::uint64_t& length = lengths[{makedev(major, minor), inode}];
        length = std::max(length, offset + (end - start));
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
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ignored)) {
        const std::string target = fs::read_symlink(entry.path(), ignored);
        if (!target.starts_with("/memfd:")) continue;
        try {
            UniqueFd fd = takeDescriptor(pid, std::atoi(entry.path().filename().c_str()));
            struct stat status {};
            const bool isMemfd = ::fstat(fd.get(), &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0 &&
                                 ::fcntl(fd.get(), F_GET_SEALS) >= 0;
            if (!isMemfd || (::fcntl(fd.get(), F_GETFL) & O_ACCMODE) != O_RDWR) continue;
            const MemoryFile file{{status.st_dev, status.st_ino}, static_cast<std::uint64_t>(status.st_size)};
            if (std::ranges::find(found, file.identity, [](const Memfd& one) { return one.file.identity; }) == found.end())
                found.push_back({std::move(fd), file, target.substr(0, target.find(" (deleted)"))});
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
        if (lengths.contains(keyOf(memfd.file.identity))) files.push_back(memfd.file);
    return files;
}

std::vector<std::string> cutBackMemoryFiles(pid_t pid, const std::vector<MemoryFile>& before) {
    std::vector<std::string> cut;
    const auto lengths = mappedLengths(pid);
    for (const Memfd& memfd : memfdsOf(pid)) {
        const auto known = std::ranges::find(before, memfd.file.identity, &MemoryFile::identity);
        const auto mapped = lengths.find(keyOf(memfd.file.identity));
        if (known == before.end() || mapped == lengths.end() || mapped->second > known->size) continue;
        if (memfd.file.size <= known->size || ::ftruncate(memfd.fd.get(), static_cast<off_t>(known->size)) != 0) continue;
        cut.push_back(memfd.name);
    }
    return cut;
}

}  // namespace vh
