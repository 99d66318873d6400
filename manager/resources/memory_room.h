// Memory that may still be used before the kernel ends a process for it, and the process that it ends.
//
// In the middle of a handover there are two VMMs, and the kernel ends the larger one when memory runs out (mm/oom_kill.c:
// oom_badness): that is the old one, which has the guest. So the new VMM, and all else that is started beside a VMM that has a
// guest, is started as the one to be ended first (LaunchSpec::expendable), until it is told to run the guest; and where it can be
// seen before that there is no room, nothing is started.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace vh {

/// The oom_score_adj of what is to be ended first (include/uapi/linux/oom.h:OOM_SCORE_ADJ_MAX).
constexpr int firstToBeEnded = 1000;

/// A process's oom_score_adj; none when it is gone.
std::optional<int> oomScoreOf(pid_t pid);
/// Sets a process's oom_score_adj. Returns why it could not, or nothing; lowering it below what the process was started with asks
/// for CAP_SYS_RESOURCE (fs/proc/base.c:__set_oom_adj, Linux 6.18).
std::string setOomScore(pid_t pid, int score);

/// Memory that the host can give without swapping (MemAvailable, proc(5)).
std::uint64_t availableMemoryBytes();

/// A memory cgroup with a limit.
struct MemoryRoom {
    std::string cgroup;       ///< Directory of the cgroup.
    std::uint64_t limit = 0;  ///< Bytes.
    std::uint64_t used = 0;   ///< Bytes without the cache of files, which the kernel gives up before it ends a process.
    std::uint64_t room = 0;   ///< Bytes left, swap included.
};

/// The cgroup with the least room of all that a process is in, one inside the other; none where nothing is limited.
std::optional<MemoryRoom> leastMemoryRoom(pid_t pid, const std::string& procRoot = "/proc");

/// Memory that a VMM has for itself and for its guest (/proc/PID/status), huge pages left out.
struct ResidentMemory {
    std::uint64_t ofItsOwn = 0;  ///< Anonymous.
    std::uint64_t shared = 0;    ///< Memory in memfds and the like.
};
ResidentMemory residentMemoryOf(pid_t pid);

}  // namespace vh
