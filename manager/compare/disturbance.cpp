#include "manager/compare/disturbance.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "manager/compare/guest_watch.h"
#include "manager/compare/host_facts.h"
#include "manager/process/event_loop.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

/// Of a window's time, in percent; none when one of the counters is.
std::optional<double> percentOf(double windowMs, const std::optional<double>& waitedMs) {
    if (!waitedMs || windowMs <= 0) return std::nullopt;
    return 100 * std::max(0.0, *waitedMs) / windowMs;
}

std::optional<double> waitedMs(const std::optional<ThreadWaits>& first, const std::optional<ThreadWaits>& last) {
    if (!first || !last) return std::nullopt;
    double sum = 0;
    for (const auto& [thread, waited] : *last) {
        const auto before = first->find(thread);
        sum += before == first->end() ? waited : std::max(0.0, waited - before->second);
    }
    return sum;
}

}  // namespace

std::optional<double> cpuPressureMs(const std::string& proc) {
    // some avg10=0.00 avg60=0.00 avg300=0.00 total=5817 (kernel/sched/psi.c:psi_show); the total is of this moment.
    const std::string line = valueIn(readIfThere(proc + "/pressure/cpu"), "some");
    const std::size_t total = line.find("total=");
    const auto microseconds =
        total == line.npos ? std::nullopt : wholeNumber<std::uint64_t>(std::string_view(line).substr(total + 6));
    return microseconds ? std::optional(static_cast<double>(*microseconds) / 1e3) : std::nullopt;
}

std::optional<ThreadWaits> threadWaits(pid_t process, const std::string& proc) {
    ThreadWaits waits;
    std::error_code gone;
    std::filesystem::directory_iterator threads(proc + "/" + std::to_string(process) + "/task", gone);
    for (; !gone && threads != std::filesystem::directory_iterator(); threads.increment(gone)) {
        const auto thread = wholeNumber<pid_t>(threads->path().filename().string());
        double ranNs = 0, waitedNs = 0;
        if (thread && std::istringstream(readIfThere(threads->path() / "schedstat")) >> ranNs >> waitedNs)
            waits[*thread] = waitedNs / 1e6;
    }
    return waits.empty() ? std::nullopt : std::optional(std::move(waits));
}

CpuWaitCounters CpuWaitCounters::now(const std::vector<pid_t>& vmms, const std::string& proc) {
    CpuWaitCounters counters{
        .atMs = steadyMs(), .pressureMs = cpuPressureMs(proc), .manager = threadWaits(::getpid(), proc), .vmms = {}};
    for (const pid_t vmm : vmms) counters.vmms.push_back(threadWaits(vmm, proc));
    return counters;
}

CpuWait waitBetween(const CpuWaitCounters& first, const CpuWaitCounters& last, std::size_t vm) {
    const double windowMs = last.atMs - first.atMs;
    const bool hasPressure = first.pressureMs && last.pressureMs;
    // The kernel adds to its total a little later (kernel/sched/psi.c:psi_avgs_work), which may be in this window.
    return {.cpuPressurePercent = percentOf(
                windowMs, hasPressure ? std::optional(std::min(windowMs, *last.pressureMs - *first.pressureMs)) : std::nullopt),
            .vmmWaitPercent = percentOf(windowMs, waitedMs(first.vmms.at(vm), last.vmms.at(vm))),
            .managerWaitPercent = percentOf(windowMs, waitedMs(first.manager, last.manager))};
}

bool fillCpus(const Configuration& configuration, std::uint64_t cpus) {
    if (configuration.load == Load::Idle) return false;
    // A VMM's main loop is as busy as a CPU of the guest when it passes a thousand packets a second on.
    const unsigned threads = configuration.vcpus + (configuration.load == Load::Network ? 1 : 0);
    return std::uint64_t{configuration.vms} * threads >= cpus;
}

void requireIdleHost(double stealLimitPercent) {
    std::vector<unsigned> runnableSamples;
    const CpuTimes before = CpuTimes::now();
    while (runnableSamples.size() < 20) {
        bool over = false;
        const EventSource timer = EventSource::after(std::chrono::milliseconds(100), [&over] { over = true; });
        turnUntil([&over] { return over; });
        runnableSamples.push_back(runnable());
    }
    if (const auto why = tooBusy(before, CpuTimes::now(), runnableSamples, stealLimitPercent))
        throw std::runtime_error("this host is too busy to measure: " + *why +
                                 "; wait, or measure all the same with --even-if-busy");
}

std::string whyDisturbed(const ComparePlan& plan, double stealPercent, const CpuWait& before,
                         const std::optional<BeatIntervals>& beatsBefore, bool ownWorkFillsCpus) {
    std::string why;
    const auto judge = [&why](const std::string& what, const std::optional<double>& found, double limit, const std::string& unit,
                              const std::string& rest = {}) {
        if (found && *found > limit)
            append(why, what + " " + fixed(*found, 1) + unit + rest + ", more than " + fixed(limit, 0) + unit, "; ");
    };
    const std::string when = "before the handover ", waited = " waited for a CPU for", part = " of the time";
    judge("steal:", stealPercent, plan.stealLimitPercent, " %");
    if (ownWorkFillsCpus) return why;
    judge(when + "some task" + waited, before.cpuPressurePercent, plan.cpuPressureLimitPercent, " %", part);
    judge(when + "the VMM" + waited, before.vmmWaitPercent, plan.runQueueLimitPercent, " %", part);
    judge(when + "the manager" + waited, before.managerWaitPercent, plan.runQueueLimitPercent, " %", part);
    judge(when + "the guest did not beat for", beatsBefore ? beatsBefore->longestMs : std::nullopt,
          static_cast<double>(plan.beatLimit.count()), " ms");
    return why;
}

}  // namespace vh
