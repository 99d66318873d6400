// The plan of `virt-handover compare`: a plain value, from a YAML file or from its defaults. Every list is a factor, and every
// combination of their entries a cell.
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

/// Work that the guest does meanwhile.
enum class Load {
    Idle,     ///< Beats, and checks its RAM slowly.
    Memory,   ///< Writes memory as fast as it can.
    Disk,     ///< Writes and reads its disk all the time.
    Network,  ///< Answers a thousand large echo requests a second.
};
template <>
inline constexpr auto namesOf<Load> = namesFor(Load::Network, "idle", "memory", "disk", "network");

/// The memory that the load `memory` writes again and again.
struct HotSet {
    std::uint64_t bytes = 16ULL << 20;
    unsigned percent = 0;  ///< Percentage of the touched RAM; 0: `bytes` counts.

    bool operator==(const HotSet&) const = default;
};

/// The pages that back guest RAM on the host.
struct Pages {
    std::uint64_t sizeBytes = 4096;
    /// The file's pages are 4 KiB, and the kernel has made 2 MiB pages of many (Linux,
    /// Documentation/admin-guide/mm/transhuge.rst).
    bool transparentHuge = false;

    bool operator==(const Pages&) const = default;
};

/// The guest in the VMs that are measured.
enum class Guest {
    Auto,   ///< Linux where the accelerator runs it, else the bare one.
    Linux,  ///< The probe guest (tests/guest).
    Bare,   ///< A guest without operating system and network (tests/bare-guest).
};
template <>
inline constexpr auto namesOf<Guest> = namesFor(Guest::Bare, "auto", "linux", "bare");

/// The combinations of the factors that are cells.
enum class Combine {
    All,
    /// The first entries of all lists, and each other entry with the first ones of the others; with each accelerator and guest.
    OneAtATime,
};
template <>
inline constexpr auto namesOf<Combine> = namesFor(Combine::OneAtATime, "all", "one-at-a-time");

/// The old and the new VMM of a handover.
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
    bool network = false;  ///< A network on a bridge of its own, which is pinged.
    bool many = false;     ///< Eight of each, and as many devices behind root ports of their own.

    bool operator==(const DeviceSet&) const = default;
};

/// The guest that tells (tests/guest): its kernel and its initramfs.
struct ProbeGuest {
    std::string kernel;
    std::string initrd;

    bool operator==(const ProbeGuest&) const = default;
};

/// The guest without an operating system (tests/bare-guest), and the firmware that starts it.
struct BareGuest {
    std::string kernel;
    std::string firmware;

    bool operator==(const BareGuest&) const = default;
};

struct ComparePlan {
    std::vector<BinaryPair> pairs;
    std::vector<Design> designs = allDesigns();
    unsigned rounds = 12;  ///< The fewest that an interval is made of.
    /// Rounds of the designs that copy RAM, which take longer the more there is; 0: as many as `rounds`.
    unsigned baselineRounds = 0;
    unsigned warmUpRounds = 1;
    ProbeGuest guest;
    BareGuest bareGuest;
    std::vector<Guest> guests{Guest::Auto};
    std::vector<Accelerator> accelerators{Accelerator::Auto};
    std::vector<GuestRam> ram{{512ULL << 20, 256ULL << 20}};
    std::vector<Pages> pages{Pages{}};
    std::vector<unsigned> vcpus{1};
    std::vector<DeviceSet> devices{{true, true}};
    std::vector<Load> loads{Load::Memory};
    std::vector<HotSet> hotSets{HotSet{}};  ///< Hot sets of the load `memory`.
    std::vector<unsigned> vms{1};           ///< Numbers of VMs handed over at once.
    Combine combine = Combine::All;
    std::string machine = "q35";
    std::string user = "nobody";              ///< User that the VMMs run as when root runs the command.
    std::chrono::milliseconds before{1'000};  ///< Time that the guest is watched before a handover,
    std::chrono::milliseconds after{1'500};   ///< and from the switch on.
    // A round is disturbed when this host lost more CPU time than that, or when before its handover a task had to wait for a CPU
    // for more of the time, the VMM or the manager itself had, or the guest did not beat for longer. On a quiet host of 2 CPUs
    // the longest of all waits for a beat in 654 rounds was 32 ms (tests/results).
    unsigned stealLimitPercent = 5;
    unsigned cpuPressureLimitPercent = 25;
    unsigned runQueueLimitPercent = 10;
    std::chrono::milliseconds beatLimit{50};
    unsigned equivalenceMarginPercent = 10;  ///< Designs that differ by less are as good as each other.
    std::string saveDirectory = "/var/tmp";  ///< Directory in which save-restore keeps guest RAM.
    std::optional<std::uint64_t> seed;       ///< Seed of the order of rounds.

    bool operator==(const ComparePlan&) const = default;
};

/// Parses the text of a plan; `file` is only for messages. Throws ConfigErrors.
ComparePlan parseComparePlan(std::string_view yaml, const std::string& file);

/// Text that parses to an equal plan.
std::string toYaml(const ComparePlan& plan);

inline std::optional<Load> loadNamed(std::string_view text) {
    return valueNamed<Load>(text);
}

/// `disk+network`, `disk`, `network`, `none`; `many` and `many-disks`.
std::string name(const DeviceSet& devices);
/// `4KiB`, `thp`, `2MiB`
std::string name(const Pages& pages);
/// Throws std::invalid_argument with what was expected, as does the next one.
DeviceSet parseDeviceSet(std::string_view text);

/// `16MiB`, `25%`, `all`
HotSet parseHotSet(std::string_view text);
/// Bytes of the touched RAM that the guest writes again and again; it checks the rest, which is never nothing.
std::uint64_t hotBytes(const HotSet& hotSet, std::uint64_t touchedBytes);

/// `640MiB` or `640MiB/512MiB` (size, touched), as on the command line.
GuestRam parseGuestRam(std::string_view text);

}  // namespace vh
