#include "manager/compare/cpu_time.h"

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <system_error>

#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

double millisecondsOn(clockid_t clock) {
    timespec time{};
    return ::clock_gettime(clock, &time) == 0 ? static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6
                                              : 0;
}

}  // namespace

CpuTime CpuTime::of(pid_t pid) {
    CpuTime time;
    if (pid <= 0) return time;  // Of whom 0 is the caller.
    clockid_t clock{};
    if (::clock_getcpuclockid(pid, &clock) == 0) time.totalMs = millisecondsOn(clock);
    std::error_code gone;
    const std::string tasks = Process(pid).path("task");
    for (std::filesystem::directory_iterator task(tasks, gone), end; !gone && task != end; task.increment(gone)) {
        const auto thread = wholeNumber<pid_t>(task->path().filename().native());
        // The first of three numbers: nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
        const std::string spent = readIfThere(task->path().native() + "/schedstat");
        if (thread && !spent.empty()) time.threadsMs[*thread] = std::strtod(spent.c_str(), nullptr) / 1e6;
    }
    return time;
}

double CpuTime::ofThisThreadMs() {
    return millisecondsOn(CLOCK_THREAD_CPUTIME_ID);
}

double CpuTime::withoutMs(const std::set<pid_t>& threads) const {
    double rest = totalMs;
    for (const auto& [thread, spent] : threadsMs)
        if (threads.contains(thread)) rest -= spent;
    return rest;
}

}  // namespace vh
