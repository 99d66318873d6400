#include "manager/compare/host_facts.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>

#include <glib.h>

#include "manager/record/last_report.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

std::string unquoted(const std::string& text) {
    const bool quoted = text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front();
    return quoted ? text.substr(1, text.size() - 2) : text;
}

bool hasWord(const std::string& text, const std::string& word) {
    std::istringstream words(text);
    for (std::string one; words >> one;)
        if (one == word) return true;
    return false;
}

/// The same for the same machine, and nothing that its id could be found by.
std::string published(const std::string& machineId) {
    if (machineId.empty()) return {};
    gchar* sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, ("virt-handover compare " + machineId).c_str(), -1);
    const std::string text = std::string(sum).substr(0, 16);
    g_free(sum);
    return text;
}

double percent(std::uint64_t before, std::uint64_t after, const CpuTimes& first, const CpuTimes& last) {
    // Counters of single CPUs may go back by a tick (proc(5)), and CPUs may be taken away.
    if (after <= before || last.total() <= first.total()) return 0;
    return 100.0 * static_cast<double>(after - before) / static_cast<double>(last.total() - first.total());
}

}  // namespace

CpuTimes CpuTimes::now(const std::string& proc) {
    std::ifstream stat(proc + "/stat");
    std::string cpu;
    std::uint64_t user = 0, nice = 0, system = 0, idle = 0, wait = 0, interrupts = 0, softInterrupts = 0, steal = 0;
    if (!(stat >> cpu >> user >> nice >> system >> idle >> wait >> interrupts >> softInterrupts >> steal) || cpu != "cpu")
        return {};
    return {.busy = user + nice + system + interrupts + softInterrupts, .idle = idle + wait, .steal = steal};
}

double stealPercent(const CpuTimes& before, const CpuTimes& after) {
    return percent(before.steal, after.steal, before, after);
}

double busyPercent(const CpuTimes& before, const CpuTimes& after) {
    return percent(before.busy, after.busy, before, after);
}

unsigned runnable(const std::string& proc) {
    // All that run or wait for a CPU (fs/proc/stat.c:show_stat, nr_running()), us among them.
    const unsigned long running = std::strtoul(valueIn(readIfThere(proc + "/stat"), "procs_running").c_str(), nullptr, 10);
    return running > 0 ? static_cast<unsigned>(running - 1) : 0;
}

std::optional<std::string> tooBusy(const CpuTimes& before, const CpuTimes& after, std::vector<unsigned> runnableSamples,
                                   double stealLimitPercent, unsigned cpus) {
    if (cpus == 0) cpus = static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
    if (const double steal = stealPercent(before, after); steal > stealLimitPercent)
        return "its hypervisor took " + fixed(steal, 1) + " % of its CPU time away, more than " + fixed(stealLimitPercent, 1) +
               " %";
    if (const double busy = busyPercent(before, after); busy > 50)
        return "other processes used " + fixed(busy, 1) + " % of its CPU time, more than half";
    if (runnableSamples.empty()) return std::nullopt;
    const auto middle = runnableSamples.begin() + static_cast<std::ptrdiff_t>(runnableSamples.size() / 2);
    std::nth_element(runnableSamples.begin(), middle, runnableSamples.end());
    if (*middle > cpus)
        return std::to_string(*middle) + " other tasks wanted to run at a time (median), on " + std::to_string(cpus) +
               (cpus == 1 ? " CPU" : " CPUs");
    return std::nullopt;
}

std::string utcNow() {
    const auto now = std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
    const auto ms = now.time_since_epoch().count() % 1000;
    std::string text = utc(std::chrono::system_clock::to_time_t(now));
    return text.insert(text.size() - 1, "." + std::to_string(1000 + ms).substr(1));
}

HostFacts hostFacts(const std::string& proc, const std::string& osRelease, const std::string& machineId) {
    utsname kernel{};
    ::uname(&kernel);
    const std::string cpu = readIfThere(proc + "/cpuinfo");
    HostFacts facts;
    facts.cpu = valueIn(cpu, "model name\t:");
    facts.cpus = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
    std::istringstream(valueIn(readIfThere(proc + "/meminfo"), "MemTotal:")) >> facts.memoryBytes;
    facts.memoryBytes *= 1024;
    facts.kernel = kernel.release;
    facts.os = unquoted(valueIn(readIfThere(osRelease), "PRETTY_NAME="));
    facts.pageSizeBytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    // X86_FEATURE_HYPERVISOR: a hypervisor says by CPUID that it is there (arch/x86/include/asm/cpufeatures.h).
    facts.virtualized = hasWord(valueIn(cpu, "flags\t\t:"), "hypervisor");
    if (double average = 0; std::ifstream(proc + "/loadavg") >> average) facts.loadAverage1 = average;
    facts.stealPercent = stealPercent({}, CpuTimes::now(proc));
    facts.runQueue = static_cast<double>(runnable(proc)) / static_cast<double>(facts.cpus);
    facts.machineId = published(readIfThere(machineId));
    return facts;
}

std::string differenceOf(const HostFacts& before, const HostFacts& now) {
    std::string difference;
    for (const auto& [what, fact] : {std::pair("kernel", &HostFacts::kernel), std::pair("CPU", &HostFacts::cpu),
                                     std::pair("machine (by its id)", &HostFacts::machineId)}) {
        const std::string &was = before.*fact, &is = now.*fact;
        if (was != is && !was.empty() && !is.empty())
            append(difference, std::string(what) + " '" + was + "' there, '" + is + "' here", "; ");
    }
    return difference;
}

}  // namespace vh
