#include "manager/resources/memory_room.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <sstream>

#include "manager/process/cgroups.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

std::string scoreFile(pid_t pid) {
    return Process(pid).path("oom_score_adj");
}

/// The number in a file of a cgroup; `max`, or what version 1 has for it (PAGE_COUNTER_MAX in bytes), is unlimited. None where
/// there is no such file: without that controller, or without swap.
std::optional<std::uint64_t> numberIn(const std::string& path) {
    std::string text;
    if (!(std::ifstream(path) >> text)) return std::nullopt;
    if (text == "max") return unlimited;
    std::uint64_t number = 0;
    if (!(std::istringstream(text) >> number)) return std::nullopt;
    return number >= std::uint64_t{1} << 62 ? unlimited : number;
}

/// The sum of some lines `KEY NUMBER` or `KEY: NUMBER` of a file.
std::uint64_t sumOf(const std::string& path, std::initializer_list<std::string_view> keys) {
    std::ifstream file(path);
    std::uint64_t sum = 0;
    for (std::string line; std::getline(file, line);) {
        std::istringstream columns(line);
        std::string key;
        std::uint64_t number = 0;
        if (columns >> key >> number && std::ranges::find(keys, key) != keys.end()) sum += number;
    }
    return sum;
}

std::uint64_t differenceOr0(std::uint64_t more, std::uint64_t less) {
    return more == unlimited ? unlimited : more > less ? more - less : 0;
}

std::uint64_t sum(std::uint64_t one, std::uint64_t other) {
    return one > unlimited - other ? unlimited : one + other;
}

std::optional<MemoryRoom> roomOf(const std::string& directory, bool isVersion2, std::uint64_t freeSwap) {
    const auto limit = numberIn(directory + (isVersion2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto usage = numberIn(directory + (isVersion2 ? "/memory.current" : "/memory.usage_in_bytes"));
    if (!limit || !usage) return std::nullopt;
    // Of those below it as well, which is `total_` in version 1.
    const std::uint64_t cache = isVersion2 ? sumOf(directory + "/memory.stat", {"inactive_file", "active_file"})
                                           : sumOf(directory + "/memory.stat", {"total_inactive_file", "total_active_file"});
    MemoryRoom found{.cgroup = directory, .limit = *limit, .used = differenceOr0(*usage, cache)};
    const std::uint64_t withoutSwap = differenceOr0(*limit, found.used);
    if (isVersion2) {
        const std::uint64_t swapMax = numberIn(directory + "/memory.swap.max").value_or(unlimited);
        const std::uint64_t swapUsed = numberIn(directory + "/memory.swap.current").value_or(0);
        found.room = sum(withoutSwap, std::min(freeSwap, differenceOr0(swapMax, swapUsed)));
    } else {
        // One limit for both (memory.memsw), beside that of memory.
        const std::uint64_t bothLimit = numberIn(directory + "/memory.memsw.limit_in_bytes").value_or(unlimited);
        const std::uint64_t bothUsed = numberIn(directory + "/memory.memsw.usage_in_bytes").value_or(0);
        found.room = std::min(sum(withoutSwap, freeSwap), differenceOr0(bothLimit, differenceOr0(bothUsed, cache)));
    }
    return found;
}

}  // namespace

std::optional<int> oomScoreOf(pid_t pid) {
    int score = 0;
    if (!(std::ifstream(scoreFile(pid)) >> score)) return std::nullopt;
    return score;
}

std::string setOomScore(pid_t pid, int score) {
    const std::string text = std::to_string(score);
    const UniqueFd file(::open(scoreFile(pid).c_str(), O_WRONLY | O_CLOEXEC));
    if (file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
    return "set '" + scoreFile(pid) + "' to " + text + ": " + std::strerror(errno);
}

std::uint64_t availableMemoryBytes() {
    return sumOf("/proc/meminfo", {"MemAvailable:"}) * 1024;
}

std::optional<MemoryRoom> leastMemoryRoom(pid_t pid, const std::string& procRoot) {
    std::optional<MemoryRoom> least;
    const std::uint64_t freeSwap = sumOf(procRoot + "/meminfo", {"SwapFree:"}) * 1024;
    for (const CgroupPlace& place : cgroupsOf(pid, procRoot)) {
        if (!place.isVersion2() && !place.controls("memory")) continue;
        std::string directory = directoryOf(place, procRoot);
        while (directory.ends_with("/")) directory.pop_back();
        // Up to where the hierarchy is mounted.
        for (; !directory.empty() && fs::exists(directory + "/cgroup.procs"); directory = fs::path(directory).parent_path()) {
            const std::optional<MemoryRoom> found = roomOf(directory, place.isVersion2(), freeSwap);
            if (found && found->room != unlimited && (!least || found->room < least->room)) least = found;
        }
    }
    return least;
}

ResidentMemory residentMemoryOf(pid_t pid) {
    const std::string status = Process(pid).path("status");
    return {sumOf(status, {"RssAnon:"}) * 1024, sumOf(status, {"RssShmem:"}) * 1024};
}

}  // namespace vh
