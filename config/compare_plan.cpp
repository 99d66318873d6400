#include "config/compare_plan.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

#include "config/parse.h"
#include "config/scalars.h"
#include "config/section.h"

namespace vh {
namespace {

/// In the order of how they are told; the last one is of guests without a network.
constexpr std::array deviceSets{std::pair{DeviceSet{}, "none"},
                                std::pair{DeviceSet{true, false}, "disk"},
                                std::pair{DeviceSet{false, true}, "network"},
                                std::pair{DeviceSet{true, true}, "disk+network"},
                                std::pair{DeviceSet{true, true, true}, "many"},
                                std::pair{DeviceSet{true, false, true}, "many-disks"}};

/// What the guest's kernel needs besides.
constexpr std::uint64_t untouchedBytes = 128ULL << 20;
constexpr std::uint64_t leastCheckedBytes = 16ULL << 20;
constexpr unsigned allOfIt = 100;

/// A reader of whole numbers. What is out of its range is not written.
template <typename Number>
struct WholeNumber {
    Number least = 0, most = std::numeric_limits<Number>::max();

    Number operator()(std::string_view text) const {
        Number value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc() && end == text.data() + text.size() && least <= value && value <= most) return value;
        throw std::invalid_argument(most == std::numeric_limits<Number>::max()
                                        ? "a whole number"
                                        : "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    std::string write(const std::optional<Number>& value) const {
        return value && least <= *value ? std::to_string(*value) : std::string();
    }
};
using From = WholeNumber<unsigned>;

struct Duration {
    std::chrono::milliseconds operator()(std::string_view text) const { return parseDuration(text); }
    std::string write(std::chrono::milliseconds value) const { return std::to_string(value.count()) + "ms"; }
};

struct HotSets {
    HotSet operator()(std::string_view text) const { return parseHotSet(text); }
    std::string write(const HotSet& value) const {
        if (value.percent == 0) return formatSize(value.bytes);
        return value.percent == allOfIt ? "all" : std::to_string(value.percent) + "%";
    }
};

Pages readPages(std::string_view text) {
    if (text == "thp") return {.transparentHuge = true};
    try {
        return {.sizeBytes = readPageSize(text)};
    } catch (const std::invalid_argument& expected) {
        throw std::invalid_argument("'thp' or " + std::string(expected.what()));
    }
}

struct Baselines {
    bool operator()(const Scalar& scalar) const { return readBool(scalar); }
    std::string write(bool value) const { return value ? "" : "false"; }
};

std::uint64_t touchedByDefault(std::uint64_t sizeBytes) {
    return sizeBytes / 2;
}

template <typename T>
void needEntries(Section& section, std::string_view key, const std::vector<T>& found) {
    if (section.has(key) && found.empty()) section.error(key, "found an empty list, expected at least one entry");
}

template <typename T, typename Read>
void factor(Section& section, std::string_view key, std::vector<T>& target, Read read) {
    section.scalars(key, target, read);
    needEntries(section, key, target);
}

void readPlan(Section& section, ComparePlan& plan) {
    section.list("pairs", plan.pairs, [](Section& pair, BinaryPair& target) {
        pair.required("old", target.old, readPath);
        pair.required("new", target.new_, readPath);
    });
    factor(section, "designs", plan.designs, oneOf<Design>());
    section.optional("rounds", plan.rounds, From{1, 10'000});
    section.optional("baseline_rounds", plan.baselineRounds, From{1, 10'000});
    section.optional("warm_up_rounds", plan.warmUpRounds, From{0, 100});
    section.block("guest", plan.guest, [](Section& guest, ProbeGuest& target) {
        guest.required("kernel", target.kernel, readPath);
        guest.required("initrd", target.initrd, readPath);
    });
    section.block("bare_guest", plan.bareGuest, [](Section& guest, BareGuest& target) {
        guest.required("kernel", target.kernel, readPath);
        guest.required("firmware", target.firmware, readPath);
    });
    factor(section, "guests", plan.guests, oneOf<Guest>());
    factor(section, "accelerators", plan.accelerators, oneOf<Accelerator>());
    // What plans of earlier releases have, and the results that were made with them.
    Accelerator one{};
    if (section.has("accelerator") && section.optional("accelerator", one, oneOf<Accelerator>())) plan.accelerators = {one};
    section.list("ram", plan.ram, [](Section& ram, GuestRam& target) {
        if (ram.required("size", target.sizeBytes, readMemorySize)) target.touchedBytes = touchedByDefault(target.sizeBytes);
        if (ram.optional("touched", target.touchedBytes, readMemorySize) && target.sizeBytes != 0 &&
            target.touchedBytes + untouchedBytes > target.sizeBytes)
            ram.error("touched", "found '" + formatSize(target.touchedBytes) + "', expected at least " +
                                     formatSize(untouchedBytes) + " less than the size: the guest needs some for itself");
        ram.optional("baselines", target.baselines, Baselines());
    });
    needEntries(section, "ram", plan.ram);
    factor(section, "page_sizes", plan.pages, readPages);
    factor(section, "vcpus", plan.vcpus, readCount);
    factor(section, "devices", plan.devices, parseDeviceSet);
    factor(section, "loads", plan.loads, oneOf<Load>());
    factor(section, "hot_set", plan.hotSets, HotSets());
    factor(section, "vms", plan.vms, From{1, 100});
    section.optional("combine", plan.combine, oneOf<Combine>());
    section.optional("machine", plan.machine, readMachine);
    section.optional("user", plan.user, readUser);
    section.optional("before", plan.before, Duration());
    section.optional("after", plan.after, Duration());
    section.optional("steal_limit_percent", plan.stealLimitPercent, From{0, 100});
    section.optional("cpu_pressure_limit_percent", plan.cpuPressureLimitPercent, From{0, 100});
    // Threads that wait at the same time count each.
    section.optional("run_queue_limit_percent", plan.runQueueLimitPercent, From{0, 100'000});
    section.optional("beat_limit", plan.beatLimit, Duration());
    section.optional("equivalence_margin_percent", plan.equivalenceMarginPercent, From{1, 100});
    section.optional("save_directory", plan.saveDirectory, readPath);
    section.optional("seed", plan.seed, WholeNumber<std::uint64_t>());
}

}  // namespace

ComparePlan parseComparePlan(std::string_view yaml, const std::string& file) {
    return readWhole(yaml, file, "such as 'rounds: 30'", readPlan);
}

std::string toYaml(const ComparePlan& plan) {
    return yamlOf(writeWhole(plan, readPlan));
}

std::string name(const DeviceSet& devices) {
    return std::ranges::find(deviceSets, devices, &decltype(deviceSets)::value_type::first)->second;
}

DeviceSet parseDeviceSet(std::string_view text) {
    for (const auto& [devices, name] : deviceSets)
        if (name == text) return devices;
    throw std::invalid_argument("one of 'none', 'disk', 'network', 'disk+network', 'many', 'many-disks'");
}

std::string name(const Pages& pages) {
    return pages.transparentHuge ? "thp" : formatSize(pages.sizeBytes);
}

HotSet parseHotSet(std::string_view text) {
    if (text == "all") return {.percent = allOfIt};
    try {
        if (text.ends_with('%')) return {.percent = WholeNumber<unsigned>{1, allOfIt}(text.substr(0, text.size() - 1))};
        return {.bytes = readMemorySize(text)};
    } catch (const std::invalid_argument&) {
        throw std::invalid_argument("a size such as '16MiB', a part of the RAM that is touched such as '25%', or 'all'");
    }
}

std::uint64_t hotBytes(const HotSet& hotSet, std::uint64_t touchedBytes) {
    constexpr std::uint64_t mib = 1ULL << 20;
    const std::uint64_t checked = std::min(leastCheckedBytes, touchedBytes / 2);
    const std::uint64_t wanted = hotSet.percent == 0 ? hotSet.bytes : touchedBytes / mib * hotSet.percent / 100 * mib;
    return std::min(wanted, touchedBytes - checked) / mib * mib;
}

GuestRam parseGuestRam(std::string_view text) {
    const std::size_t slash = text.find('/');
    GuestRam ram{.sizeBytes = readMemorySize(text.substr(0, slash))};
    ram.touchedBytes = slash == text.npos ? touchedByDefault(ram.sizeBytes) : readMemorySize(text.substr(slash + 1));
    if (ram.touchedBytes + untouchedBytes > ram.sizeBytes)
        throw std::invalid_argument("at least " + formatSize(untouchedBytes) +
                                    " more RAM than is touched, such as '640MiB/512MiB'");
    return ram;
}

}  // namespace vh
