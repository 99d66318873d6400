// Facts of this host and its load, from /proc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vh {

/// CPU time since boot of all CPUs together, in clock ticks: the first line of /proc/stat (proc(5)).
struct CpuTimes {
    std::uint64_t busy = 0;  ///< Time of the host's own tasks and interrupts; guests' is counted in `user` and `nice` already.
    std::uint64_t idle = 0;  ///< Includes the wait for disks.
    std::uint64_t steal = 0;

    /// The times at this moment; all 0 when they cannot be read.
    static CpuTimes now(const std::string& proc = "/proc");
    std::uint64_t total() const { return busy + idle + steal; }
};

/// Percentages of all CPU time between two snapshots: what the hypervisor took, and what tasks used. 0 when no time has passed.
double stealPercent(const CpuTimes& before, const CpuTimes& after);
double busyPercent(const CpuTimes& before, const CpuTimes& after);

/// Tasks that run or wait for a CPU just now, but for the one that asks.
unsigned runnable(const std::string& proc = "/proc");

/// The reason why the host is too busy to measure on, in words; none when it is not. `runnableSamples` were taken between both
/// snapshots by a process that did nothing else.
std::optional<std::string> tooBusy(const CpuTimes& before, const CpuTimes& after, std::vector<unsigned> runnableSamples,
                                   double stealLimitPercent = 5, unsigned cpus = 0);

/// UTC with milliseconds, to put beside a host's log: `2026-01-02T03:04:05.678Z`.
std::string utcNow();

struct HostFacts {
    std::string cpu;
    std::uint64_t cpus = 0;
    std::uint64_t memoryBytes = 0;
    std::string kernel;
    std::string os;
    std::uint64_t pageSizeBytes = 0;
    std::string accelerator;
    std::optional<bool> virtualized;
    std::optional<double> loadAverage1;
    std::optional<double> stealPercent;  ///< Steal since boot.
    std::optional<double> runQueue;      ///< Tasks that could run, per CPU.
    std::string machineId;  ///< Made of the machine's own, which is nobody else's business (machine-id(5)); or empty.
};

/// Gathers all facts but the accelerator.
HostFacts hostFacts(const std::string& proc = "/proc", const std::string& osRelease = "/etc/os-release",
                    const std::string& machineId = "/etc/machine-id");

/// The differences of two hosts that a comparison must not mix: kernel, CPU, machine. In words, empty when there is none; what
/// one of both does not say is no difference.
std::string differenceOf(const HostFacts& before, const HostFacts& now);

}  // namespace vh
