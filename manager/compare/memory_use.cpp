#include "manager/compare/memory_use.h"

#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <utility>

#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

std::uint64_t privateBytes(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/smaps_rollup";
    std::ifstream rollup(path);
    std::uint64_t all = 0, shared = 0;
    std::string word;
    while (rollup >> word) {
        if (word == "Pss:") rollup >> all;
        if (word == "Pss_Shmem:") rollup >> shared;
    }
    if (all == 0) throwErrno("read '" + path + "'", ESRCH);
    return (all - shared) * 1024;
}

}  // namespace

std::uint64_t memoryInUse(const std::set<pid_t>& pids) {
    std::uint64_t bytes = 0;
    std::set<std::pair<dev_t, ino_t>> counted;
    for (const pid_t pid : pids) {
        bytes += privateBytes(pid);
        for (const OpenFile& file : Process(pid).visibleFiles()) {
            const auto status = file.isMemfd() ? file.status() : std::nullopt;
            if (!status || !counted.emplace(status->st_dev, status->st_ino).second) continue;
            bytes += static_cast<std::uint64_t>(status->st_blocks) * 512;
        }
    }
    return bytes;
}

}  // namespace vh
