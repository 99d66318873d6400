// What `virt-handover compare` is to measure: a plain value, from a YAML file or from its defaults. Every list is a factor, and
// every combination of their entries a cell.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/vm_definition.h"

namespace vh {

/// What the guest does meanwhile.
enum class Load {
    Idle,     ///< Beats, and checks its RAM slowly.
    Memory,   ///< Writes memory as fast as it can.
    Disk,     ///< Writes and reads its disk all the time.
    Network,  ///< Answers a thousand large echo requests a second.
};
template <>
inline constexpr auto namesOf<Load> = namesFor(Load::Network, "idle", "memory", "disk", "network");
inline constexpr std::array allLoads{Load::Idle, Load::Memory, Load::Disk, Load::Network};

/// Which VMM hands over to which.
struct BinaryPair {
    std::string old;
    std::string new_;

    bool operator==(const BinaryPair&) const = default;
};

struct GuestRam {
    std::uint64_t sizeBytes = 0;
    std::uint64_t touchedBytes = 0;  ///< Filled with a pattern before the first round; at most what the guest can spare.
    bool baselines = true;           ///< Run the designs that copy RAM at this size, too.

    bool operator==(const GuestRam&) const = default;
};

struct DeviceSet {
    bool disk = false;
    bool network = false;  ///< On a bridge of its own, and pinged.

    bool operator==(const DeviceSet&) const = default;
};

/// The guest that tells (tests/guest): its kernel and its initramfs.
struct ProbeGuest {
    std::string kernel;
    std::string initrd;

    bool operator==(const ProbeGuest&) const = default;
};

struct ComparePlan {
    std::vector<BinaryPair> pairs;
    std::vector<Design> designs = allDesigns();
    unsigned rounds = 12;  ///< The fewest that an interval is made of.
    unsigned baselineRounds =
        0;  ///< Of the designs that copy RAM, which take the longer the more there is; 0: as many as of all.
    unsigned warmUpRounds = 1;
    ProbeGuest guest;
    std::vector<GuestRam> ram{{512ULL << 20, 256ULL << 20}};
    std::vector<std::uint64_t> pageSizes{4096};
    std::vector<unsigned> vcpus{1};
    std::vector<DeviceSet> devices{{true, true}};
    std::vector<Load> loads{Load::Memory};
    std::vector<unsigned> vms{1};  ///< Handed over at once.
    std::string machine = "q35";
    Accelerator accelerator = Accelerator::Auto;
    std::string user = "nobody";              ///< Whom the VMMs run as when the command is root's.
    std::chrono::milliseconds before{1'000};  ///< How long the guest is watched before a handover begins,
    std::chrono::milliseconds after{1'500};   ///< and from the switch on.
    // A round is disturbed when this host lost more CPU time than that, or when before its handover a task had to wait for a CPU
    // for more of the time, the VMM or the manager itself had, or the guest did not beat for longer. On a quiet host of 2 CPUs
    // the longest of all waits for a beat in 654 rounds was 32 ms (tests/results).
    unsigned stealLimitPercent = 5;
    unsigned cpuPressureLimitPercent = 25;
    unsigned runQueueLimitPercent = 10;
    std::chrono::milliseconds beatLimit{50};
    unsigned equivalenceMarginPercent = 10;  ///< Designs that differ by less are as good as each other.
    std::string saveDirectory = "/var/tmp";  ///< Where save-restore keeps guest RAM.
    std::optional<std::uint64_t> seed;       ///< Of the order of rounds.

    bool operator==(const ComparePlan&) const = default;
};

/// Parses the text of a plan; `file` is only for messages. Throws ConfigErrors.
ComparePlan parseComparePlan(std::string_view yaml, const std::string& file);

/// Text that parses to an equal plan.
std::string toYaml(const ComparePlan& plan);

inline std::optional<Load> loadNamed(std::string_view text) {
    return valueNamed<Load>(text);
}

/// `disk+network`, `disk`, `network`, `none`.
std::string name(const DeviceSet& devices);
/// Throws std::invalid_argument with what was expected, as does the next one.
DeviceSet parseDeviceSet(std::string_view text);

/// `640MiB` or `640MiB/512MiB` (size, touched), as on the command line.
GuestRam parseGuestRam(std::string_view text);

}  // namespace vh
