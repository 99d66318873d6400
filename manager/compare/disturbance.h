// Disturbance of a round by other work of the host: waits for a CPU, and whether the guest beat evenly.
//
// A round is judged by the time before its handover. The handover runs a second VMM, and designs differ in how much work both do:
// if a round were called disturbed for what its own handover makes, the designs with the most work would lose their slowest
// rounds. What is waited for meanwhile is recorded all the same. Steal alone is judged from the handover on, for no work of this
// host is in it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/compare_plan.h"
#include "manager/compare/results.h"

namespace vh {

/// Milliseconds since boot in which some task of the host waited for a CPU (Documentation/accounting/psi.rst, Linux 6.1); none
/// where the kernel does not count them.
std::optional<double> cpuPressureMs(const std::string& proc = "/proc");

/// Milliseconds that each thread of a process has waited for a CPU (Documentation/scheduler/sched-stats.rst, Linux 6.1:
/// schedstat); none of a process that is gone, and where the kernel does not count it.
using ThreadWaits = std::map<pid_t, double>;
std::optional<ThreadWaits> threadWaits(pid_t process, const std::string& proc = "/proc");

/// Counters of waits at one moment.
struct CpuWaitCounters {
    double atMs = 0;
    std::optional<double> pressureMs;
    std::optional<ThreadWaits> manager;
    std::vector<std::optional<ThreadWaits>> vmms;  ///< Waits in the order of the VMs.

    static CpuWaitCounters now(const std::vector<pid_t>& vmms, const std::string& proc = "/proc");
};

/// The waits of a VM between two moments. Threads that are new count with all that they have waited, a new VMM's too.
CpuWait waitBetween(const CpuWaitCounters& first, const CpuWaitCounters& last, std::size_t vm);

/// Looks for two seconds, while the main loop runs. Throws std::runtime_error with what makes this host too busy to measure on.
void requireIdleHost(double stealLimitPercent);

/// True when the VMs that are measured keep all CPUs busy: that somebody waits for one says nothing of other work then.
bool fillCpus(const Configuration& configuration, std::uint64_t cpus);

/// The disturbance of a round, in words; empty when there was none. With `ownWorkFillsCpus` only steal can show other work.
std::string whyDisturbed(const ComparePlan& plan, double stealPercent, const CpuWait& before,
                         const std::optional<BeatIntervals>& beatsBefore, bool ownWorkFillsCpus);

}  // namespace vh
