// The results of a comparison as values: what results.json holds. README.md says what each figure is, results_file.h makes JSON
// of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "config/compare_plan.h"
#include "manager/compare/brown_out.h"
#include "manager/compare/guest_clock.h"
#include "manager/compare/host_facts.h"
#include "manager/record/report.h"

namespace vh {

/// The end of a handover, as its report says it.
enum class Outcome { Upgraded, RolledBack, Refused, Lost, Silent };
inline constexpr std::array allOutcomes{Outcome::Upgraded, Outcome::RolledBack, Outcome::Refused, Outcome::Lost, Outcome::Silent};
inline std::string_view name(Outcome outcome) {
    return std::array{name(State::Upgraded), name(State::RolledBack), name(State::Refused), name(State::Lost), silentOutcome}.at(
        static_cast<std::size_t>(outcome));
}

/// Milliseconds of each phase of a handover; see README.md for the states that it is made of.
struct PhaseTimes {
    std::optional<double> prepare, launch, exchange, verify, pause, confirm, retire;
};

/// Intervals between heartbeats.
struct BeatIntervals {
    std::optional<double> medianMs, p99Ms, longestMs;
};

struct Beats {
    std::optional<BeatIntervals> before, during, after;
    std::optional<std::uint64_t> lost, repeated;
};

struct EchoRequests {
    std::optional<std::uint64_t> sent, lost;
    std::optional<double> longestGapMs;  ///< Gap between two answers.
    bool notBack = false;                ///< The gap had not ended when the window did.
    bool silentBefore = false;           ///< The guest had not answered before the handover began: the gap is another one's.
};

/// Page faults since the process began, its threads included; in a round, since the switch.
struct PageFaults {
    std::uint64_t minor = 0;
    std::uint64_t major = 0;
};

struct Patterns {
    std::optional<bool> intact;  ///< Absent when nothing was checked after the switch.
    std::optional<std::uint64_t> pagesChecked, mismatches;
};

/// Waits for a CPU, in parts of a window's time; none where this kernel does not count them.
struct CpuWait {
    std::optional<double> cpuPressurePercent;  ///< Waits of some task of the host.
    std::optional<double> vmmWaitPercent;      ///< Waits of the VMM's threads together, so that it may be more than 100.
    std::optional<double> managerWaitPercent;  ///< Waits of our threads, likewise.
};

/// Waits for CPUs before the handover, and from its beginning to the end of the window.
struct Disturbance {
    CpuWait before, since;
};

/// CPU time that a handover took, user and system, without what the guest's own CPUs did.
struct CpuUse {
    std::optional<double> manager, old, new_;
};

/// A handover of one VM. What was not measured is none.
struct Round {
    unsigned round = 0;
    unsigned vm = 0;
    unsigned order = 0;                    ///< Place among the designs of the round.
    std::optional<std::string> startedAt;  ///< UTC, with milliseconds: when the handover began.
    Outcome outcome = Outcome::Lost;
    std::string cause;
    std::optional<double> stealPercent;
    bool disturbed = false;
    std::string disturbedBy;  ///< Disturbance in words; also empty in files that are older than it.
    std::optional<Disturbance> disturbance;
    std::optional<PhaseTimes> phasesMs;
    std::optional<double> totalMs, preparationMs, noWayBackMs, stopToResumeMs, qemuDowntimeMs, guestPauseMs;
    std::optional<CpuUse> cpuMs;
    std::optional<Beats> beats;
    std::optional<BrownOut> writeRate;
    std::optional<EchoRequests> network;
    std::optional<std::uint64_t> bytesSent, ramCopiedBytes;
    std::optional<PageFaults> pageFaults;
    std::optional<Patterns> patterns;
    std::optional<GuestClock> guestClock;

    bool upgraded() const { return outcome == Outcome::Upgraded; }
    /// True when statistics are made of it.
    bool counts() const { return upgraded() && !disturbed; }
    /// True when the guest's memory, disk or beats were wrong, or its time went back.
    bool isBroken() const { return (patterns && patterns->intact == false) || (guestClock && guestClock->wentBack); }
};

/// A descriptor of the new VMM.
struct FoundDescriptor {
    std::string name;
    std::string createdBy;
    std::string passedBy;  ///< Empty when the new VMM made it.

    bool operator==(const FoundDescriptor&) const = default;
};

/// Findings of a handover that is not timed.
struct Inspection {
    std::optional<std::uint64_t> memoryOldBytes, memoryBothBytes, memoryPeakBytes, extraMemoryBytes;
    std::optional<std::uint64_t> memorySamples;  ///< Number of looks for the peak.
    std::vector<FoundDescriptor> descriptors;
    std::optional<std::map<std::string, std::uint64_t>> ioctls;
    std::optional<std::uint64_t> memfds;
    std::string untraced;  ///< Reason why there is no trace; empty when there is one.
};

/// Rounds of one design in one configuration.
struct Series {
    Design design = defaultDesign;
    std::string notRun;  ///< Reason why it is not run, or not any more when there are rounds; empty while it is.
    std::vector<Round> rounds;
    std::optional<Inspection> inspection;

    bool isRun() const { return notRun.empty(); }
    bool has(unsigned round) const { return std::ranges::find(rounds, round, &Round::round) != rounds.end(); }
};

/// A combination of what is varied (`cells` in the file), with all that was measured in it.
struct Configuration {
    std::string id;
    std::string title;
    std::size_t old = 0;  ///< The VMMs of its binary pair, as places in `vmms`.
    std::size_t new_ = 0;
    std::uint64_t ramBytes = 0;
    std::uint64_t touchedBytes = 0;
    std::uint64_t pageSizeBytes = 4096;
    bool transparentHuge = false;
    std::optional<std::uint64_t> hotSetBytes;  ///< Absent where the guest writes none, and in earlier files (16 MiB there).
    unsigned vcpus = 1;
    DeviceSet devices;
    Load load = Load::Memory;
    unsigned vms = 1;                        ///< Number of VMs handed over at once.
    std::optional<Accelerator> accelerator;  ///< Absent in earlier files: the host's.
    std::optional<Guest> guest;              ///< Absent for a VM of the user's own, and in earlier files.
    std::vector<Series> series;

    /// Factors that are varied, without the VMMs: equal for configurations that are to be compared.
    auto factors() const {
        return std::tuple(ramBytes, touchedBytes, pageSizeBytes, transparentHuge, hotSetBytes, vcpus, devices.disk,
                          devices.network, devices.many, load, vms, accelerator, guest);
    }
    /// The series of a design; null when there is none.
    const Series* of(Design design) const {
        const auto found = std::ranges::find(series, design, &Series::design);
        return found == series.end() ? nullptr : &*found;
    }
};

struct MeasuredVmm {
    std::string binary;
    std::string version;
    std::string buildId;
};

/// Settings of the measurement: all that --resume needs, and of the plan once more what a reader asks for first.
struct MeasurementSettings {
    std::string plan;  ///< YAML, as is the definition.
    std::optional<std::string> definition;
    std::int64_t bootWaitMs = 0;
    unsigned rounds = 0, baselineRounds = 0, warmUpRounds = 0;
    std::int64_t beforeMs = 0, afterMs = 0;
    unsigned stealLimitPercent = 0;
    // Absent in files of the time when nothing was judged by them.
    std::optional<unsigned> cpuPressureLimitPercent, runQueueLimitPercent;
    std::optional<std::int64_t> beatLimitMs;
    std::optional<unsigned> equivalenceMarginPercent;
    std::vector<std::string>
        primaryMetrics;  ///< The primary family of summary.h; empty in files that were measured before it was named.
};

/// A run of the command that measured into these results.
struct Sitting {
    std::string startedAt;
    std::optional<std::string> finishedAt;  ///< Absent while it runs, and of one that was killed.
    std::vector<std::string> command;
    bool evenIfBusy = false;  ///< Nobody looked whether the host was idle enough.
    std::string commit{};  ///< Commit of the code that measured, as `git describe` says it; empty where it was built without git.
};

struct Results {
    std::string version;  ///< Version of virt-handover.
    std::vector<std::string> command;
    std::string startedAt;
    std::optional<std::string> finishedAt;  ///< Absent while rounds are missing.
    std::vector<Sitting> sittings;          ///< Absent in files that are older than them.
    std::uint64_t seed = 0;
    MeasurementSettings settings;
    HostFacts host;
    std::vector<MeasuredVmm> vmms;
    std::vector<Configuration> configurations;
    std::optional<std::string> scratchDirectory;  ///< Directory of an unfinished run.
    std::vector<std::string> notes;
};

}  // namespace vh
