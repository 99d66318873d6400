// Results of comparisons that never ran: whole by manager/compare/README.md, and the same on every machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

/// std::mt19937_64 is the same everywhere, what the standard library makes of its numbers is not.
class Draws {
 public:
    explicit Draws(std::uint64_t seed) : engine_(seed) {}

    double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
    /// All of 0 to bound - 1 alike: what would make the first ones more likely is drawn again.
    std::size_t below(std::size_t bound) {
        const std::uint64_t fair = UINT64_MAX - UINT64_MAX % bound;
        std::uint64_t drawn = engine_();
        while (drawn >= fair) drawn = engine_();
        return static_cast<std::size_t>(drawn % bound);
    }
    double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * std::numbers::pi * uniform()); }
    /// Like times are: never below 0, and some much longer than most. The true median is `median`.
    double logNormal(double median, double sigma) { return median * std::exp(sigma * normal()); }

 private:
    std::mt19937_64 engine_;
};

inline nlohmann::json sampleRound(int round, int vm, double stopToResumeMs) {
    return {{"round", round},
            {"vm", vm},
            {"order", 1},
            {"startedAt", "2026-01-02T03:05:06.789Z"},
            {"outcome", "upgraded"},
            {"cause", ""},
            {"stealPercent", 0.5},
            {"disturbed", false},
            {"disturbance",
             {{"before", {{"cpuPressurePercent", 1.5}, {"vmmWaitPercent", 0.5}, {"managerWaitPercent", nullptr}}},
              {"since", {{"cpuPressurePercent", 12.5}, {"vmmWaitPercent", 4.5}, {"managerWaitPercent", nullptr}}}}},
            {"phasesMs",
             {{"prepare", 40.0},
              {"launch", 300.0},
              {"exchange", 120.0},
              {"verify", 2.0},
              {"pause", stopToResumeMs + 3},
              {"confirm", 1.0},
              {"retire", 30.0}}},
            {"totalMs", 500 + stopToResumeMs},
            {"preparationMs", 462.0},
            {"noWayBackMs", 1.0},
            {"stopToResumeMs", stopToResumeMs},
            {"qemuDowntimeMs", 3.0},
            {"cpuMs", {{"manager", 21.0}, {"old", 14.0}, {"new", 180.0}}},
            {"guestPauseMs", stopToResumeMs + 1.5},
            {"beats",
             {{"before", {{"medianMs", 1.0}, {"p99Ms", 1.2}, {"longestMs", 2.0}}},
              {"during", {{"medianMs", 1.0}, {"p99Ms", 1.3}, {"longestMs", 2.5}}},
              {"after", {{"medianMs", 1.0}, {"p99Ms", 1.4}, {"longestMs", 3.0}}},
              {"lost", 0},
              {"repeated", 0}}},
            {"writeRate", nullptr},
            {"network", nullptr},
            {"bytesSent", 1'250'000},
            {"ramCopiedBytes", 0},
            {"pageFaults", {{"minor", 5000}, {"major", 0}}},
            {"patterns", {{"intact", true}, {"pagesChecked", 65536}, {"mismatches", 0}}}};
}

/// A round whose handover was rolled back: little was measured in it.
inline nlohmann::json failedRound(int round, int vm, const std::string& cause) {
    nlohmann::json value = sampleRound(round, vm, 1);
    value["outcome"] = "rolled back";
    value["cause"] = cause;
    for (const char* later : {"preparationMs", "noWayBackMs", "qemuDowntimeMs", "cpuMs"}) value.erase(later);
    for (const char* figure :
         {"totalMs", "stopToResumeMs", "guestPauseMs", "beats", "bytesSent", "ramCopiedBytes", "pageFaults", "patterns"})
        value[figure] = nullptr;
    return value;
}

inline nlohmann::json sampleSeries(const std::string& design, const std::vector<double>& stopToResumeMs) {
    nlohmann::json series{{"design", design}, {"notRun", ""}, {"rounds", nlohmann::json::array()}, {"inspection", nullptr}};
    for (std::size_t i = 0; i < stopToResumeMs.size(); ++i)
        series["rounds"].push_back(sampleRound(static_cast<int>(i) + 1, 1, stopToResumeMs[i]));
    return series;
}

inline nlohmann::json sampleCell(const std::string& id, const std::vector<nlohmann::json>& series) {
    return {{"id", id},
            {"title", "512 MiB of RAM, 1 CPU, idle"},
            {"old", 0},
            {"new", 1},
            {"ramBytes", 512 << 20},
            {"touchedBytes", 256 << 20},
            {"pageSizeBytes", 4096},
            {"vcpus", 1},
            {"devices", {"disk"}},
            {"load", "idle"},
            {"vms", 1},
            {"series", series}};
}

inline nlohmann::json sampleResults(const std::vector<nlohmann::json>& cells) {
    return {{"format", "virt-handover-compare/1"},
            {"version", "0.1.0"},
            {"command", {"virt-handover", "compare", "--rounds", "10"}},
            {"startedAt", "2026-01-02T03:04:05Z"},
            {"finishedAt", "2026-01-02T03:14:05Z"},
            {"seed", 42},
            {"settings",
             {{"plan", ""},
              {"definition", nullptr},
              {"bootWaitMs", 0},
              {"rounds", 10},
              {"baselineRounds", 10},
              {"warmUpRounds", 1},
              {"beforeMs", 1000},
              {"afterMs", 1500},
              {"stealLimitPercent", 5},
              {"cpuPressureLimitPercent", 25},
              {"runQueueLimitPercent", 10},
              {"beatLimitMs", 50},
              {"equivalenceMarginPercent", 10},
              {"primaryMetrics", {"stopToResumeMs", "guestPauseMs", "workLostMs"}}}},
            {"host",
             {{"cpu", "Some CPU @ 2.50GHz"},
              {"cpus", 2},
              {"memoryBytes", 8ULL << 30},
              {"kernel", "6.1.0"},
              {"os", "Debian GNU/Linux 12"},
              {"pageSizeBytes", 4096},
              {"accelerator", "kvm"},
              {"virtualized", true},
              {"loadAverage1", 0.1},
              {"stealPercent", nullptr},
              {"runQueue", 0.0}}},
            {"vmms",
             {{{"binary", "/opt/old/qemu-system-x86_64"}, {"version", "10.0.2"}, {"buildId", "0123ab"}},
              {{"binary", "/opt/new/qemu-system-x86_64"}, {"version", "10.1.0"}, {"buildId", ""}}}},
            {"cells", cells},
            {"summary", nullptr},
            {"workplace", nullptr},
            {"notes", nlohmann::json::array()}};
}

/// As many times around `median` as there are to be rounds.
inline std::vector<double> times(double median, std::size_t rounds, std::uint64_t seed, double sigma = 0.1) {
    Draws draws(seed);
    std::vector<double> values(rounds);
    for (double& value : values) value = draws.logNormal(median, sigma);
    return values;
}

}  // namespace vh
