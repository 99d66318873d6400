// CPU time that a process has had, user and system.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <string>

namespace vh {

/// CPU times at one moment, in milliseconds.
struct CpuTime {
    double totalMs = 0;                 ///< Time of all threads, also of those that have ended (clock_getcpuclockid(3)).
    std::map<pid_t, double> threadsMs;  ///< Times of those that live (/proc/PID/task/TID/schedstat).

    /// The times of a process; nothing when there is no such process.
    static CpuTime of(pid_t pid);
    /// The calling thread's time.
    static double ofThisThreadMs();

    /// Time of the process but for some of its threads: those of a guest's CPUs, which are the guest's time and not the VMM's.
    double withoutMs(const std::set<pid_t>& threads) const;
};

}  // namespace vh
