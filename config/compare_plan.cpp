#include "config/compare_plan.h"

#include <charconv>
#include <limits>

#include "config/parse.h"
#include "config/scalars.h"
#include "config/section.h"

namespace vh {
namespace {

constexpr std::array allDeviceSets{DeviceSet{}, DeviceSet{true, false}, DeviceSet{false, true}, DeviceSet{true, true}};

/// What the guest's kernel and the writer of the load `memory` need besides.
constexpr std::uint64_t untouchedBytes = 128ULL << 20;

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
    section.list("ram", plan.ram, [](Section& ram, GuestRam& target) {
        if (ram.required("size", target.sizeBytes, readMemorySize)) target.touchedBytes = touchedByDefault(target.sizeBytes);
        if (ram.optional("touched", target.touchedBytes, readMemorySize) && target.sizeBytes != 0 &&
            target.touchedBytes + untouchedBytes > target.sizeBytes)
            ram.error("touched", "found '" + formatSize(target.touchedBytes) + "', expected at least " +
                                     formatSize(untouchedBytes) + " less than the size: the guest needs some for itself");
        ram.optional("baselines", target.baselines, Baselines());
    });
    needEntries(section, "ram", plan.ram);
    factor(section, "page_sizes", plan.pageSizes, readPageSize);
    factor(section, "vcpus", plan.vcpus, readCount);
    factor(section, "devices", plan.devices, parseDeviceSet);
    factor(section, "loads", plan.loads, oneOf<Load>());
    factor(section, "vms", plan.vms, From{1, 100});
    section.optional("machine", plan.machine, readMachine);
    section.optional("accelerator", plan.accelerator, oneOf<Accelerator>());
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
    if (devices.disk && devices.network) return "disk+network";
    return devices.disk ? "disk" : devices.network ? "network" : "none";
}

DeviceSet parseDeviceSet(std::string_view text) {
    for (const DeviceSet& devices : allDeviceSets)
        if (name(devices) == text) return devices;
    throw std::invalid_argument("one of 'none', 'disk', 'network', 'disk+network'");
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
