// How much memory may still be used before the kernel ends a process for it, and which.
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
/// Sets it. Returns why it could not, or nothing; lowering it below what the process was started with asks for CAP_SYS_RESOURCE
/// (fs/proc/base.c:__set_oom_adj, Linux 6.18).
std::string setOomScore(pid_t pid, int score);

/// What the host can give without swapping (MemAvailable, proc(5)).
std::uint64_t availableMemoryBytes();

/// A memory cgroup with a limit.
struct MemoryRoom {
    std::string cgroup;       ///< Its directory.
    std::uint64_t limit = 0;  ///< Bytes.
    std::uint64_t used = 0;   ///< Without the cache of files, which the kernel gives up before it ends a process.
    std::uint64_t room = 0;   ///< What is left, swap included.
};

/// Of all cgroups that a process is in, one inside the other, the one with the least room; none where nothing is limited.
std::optional<MemoryRoom> leastMemoryRoom(pid_t pid, const std::string& procRoot = "/proc");

/// What a VMM has for itself and for its guest (/proc/PID/status). What is in huge pages is in none of them.
struct ResidentMemory {
    std::uint64_t ofItsOwn = 0;  ///< Anonymous.
    std::uint64_t shared = 0;    ///< In memfds and the like.
};
ResidentMemory residentMemoryOf(pid_t pid);

}  // namespace vh
