#include "config/compare_plan.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <yaml-cpp/yaml.h>

#include "config/parse.h"
#include "config/scalars.h"
#include "config/section.h"
#include "config/yaml_tree.h"

namespace vh {
namespace {

constexpr std::array allDeviceSets{DeviceSet{}, DeviceSet{true, false}, DeviceSet{false, true}, DeviceSet{true, true}};

/// What the guest's kernel and the writer of the load `memory` need besides.
constexpr std::uint64_t untouchedBytes = 128ULL << 20;

std::uint64_t readSeed(std::string_view text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) throw std::invalid_argument("a whole number");
    return value;
}

unsigned readNumber(std::string_view text, unsigned least, unsigned most) {
    const std::string range = "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
        throw std::invalid_argument(range);
    return value;
}

std::uint64_t touchedByDefault(std::uint64_t sizeBytes) {
    return sizeBytes / 2;
}

template <typename T, typename Read>
void factor(Section& section, std::string_view key, std::vector<T>& target, Read read) {
    if (!section.has(key)) return;
    target.clear();
    section.scalars(key, target, read);
    if (target.empty()) section.error(key, "found an empty list, expected at least one entry");
}

void readPlan(Section& section, ComparePlan& plan) {
    section.list("pairs", plan.pairs, [](Section& pair, BinaryPair& target) {
        pair.required("old", target.old, readPath);
        pair.required("new", target.fresh, readPath);
    });
    factor(section, "designs", plan.designs, oneOf(allDesigns()));
    section.optional("rounds", plan.rounds, [](std::string_view text) { return readNumber(text, 1, 10'000); });
    section.optional("baseline_rounds", plan.baselineRounds, [](std::string_view text) { return readNumber(text, 1, 10'000); });
    section.optional("warm_up_rounds", plan.warmUpRounds, [](std::string_view text) { return readNumber(text, 0, 100); });
    section.block("guest", plan.guest, [](Section& guest, ProbeGuest& target) {
        guest.required("kernel", target.kernel, readPath);
        guest.required("initrd", target.initrd, readPath);
    });
    if (section.has("ram")) {
        plan.ram.clear();
        section.list("ram", plan.ram, [](Section& ram, GuestRam& target) {
            if (ram.required("size", target.sizeBytes, readMemorySize)) target.touchedBytes = touchedByDefault(target.sizeBytes);
            if (ram.optional("touched", target.touchedBytes, readMemorySize) && target.sizeBytes != 0 &&
                target.touchedBytes + untouchedBytes > target.sizeBytes)
                ram.error("touched", "found '" + formatSize(target.touchedBytes) + "', expected at least " +
                                         formatSize(untouchedBytes) + " less than the size: the guest needs some for itself");
            ram.optional("baselines", target.baselines, readBool);
        });
        if (plan.ram.empty()) section.error("ram", "found an empty list, expected at least one entry");
    }
    factor(section, "page_sizes", plan.pageSizes, readPageSize);
    factor(section, "vcpus", plan.vcpus, readCount);
    factor(section, "devices", plan.devices, parseDeviceSet);
    factor(section, "loads", plan.loads, oneOf(std::vector<Load>(allLoads.begin(), allLoads.end())));
    factor(section, "vms", plan.vms, [](std::string_view text) { return readNumber(text, 1, 100); });
    section.optional("machine", plan.machine, readMachine);
    section.optional("accelerator", plan.accelerator, oneOf({Accelerator::Kvm, Accelerator::Tcg, Accelerator::Auto}));
    section.optional("user", plan.user, readUser);
    section.optional("before", plan.before, parseDuration);
    section.optional("after", plan.after, parseDuration);
    section.optional("steal_limit_percent", plan.stealLimitPercent,
                     [](std::string_view text) { return readNumber(text, 0, 100); });
    section.optional("save_directory", plan.saveDirectory, readPath);
    std::uint64_t seed = 0;
    if (section.optional("seed", seed, readSeed)) plan.seed = seed;
    section.reportUnknownKeys();
}

std::string duration(std::chrono::milliseconds value) {
    return std::to_string(value.count()) + "ms";
}

}  // namespace

ComparePlan parseComparePlan(std::string_view yaml, const std::string& file) {
    Findings findings(file);
    const YamlNode root = readYaml(yaml, findings);
    if (root.kind != YamlNode::Kind::Map)
        findings.fail(root.position, "found " + describe(root) + ", expected a mapping such as 'rounds: 30'");
    ComparePlan plan;
    Section section(root, "", findings);
    readPlan(section, plan);
    findings.throwIfAny();
    return plan;
}

std::string toYaml(const ComparePlan& plan) {
    const auto& [pairs, designs, rounds, baselineRounds, warmUpRounds, guest, ram, pageSizes, vcpus, devices, loads, vms, machine,
                 accelerator, user, before, after, stealLimitPercent, saveDirectory, seed] = plan;
    YAML::Node root(YAML::NodeType::Map);
    for (const BinaryPair& pair : pairs) {
        YAML::Node entry(YAML::NodeType::Map);
        entry["old"] = pair.old;
        entry["new"] = pair.fresh;
        root["pairs"].push_back(entry);
    }
    for (const Design design : designs) root["designs"].push_back(std::string(name(design)));
    root["rounds"] = rounds;
    if (baselineRounds != 0) root["baseline_rounds"] = baselineRounds;
    root["warm_up_rounds"] = warmUpRounds;
    if (!guest.kernel.empty()) {
        root["guest"]["kernel"] = guest.kernel;
        root["guest"]["initrd"] = guest.initrd;
    }
    for (const GuestRam& one : ram) {
        YAML::Node entry(YAML::NodeType::Map);
        entry["size"] = formatSize(one.sizeBytes);
        entry["touched"] = formatSize(one.touchedBytes);
        if (!one.baselines) entry["baselines"] = "false";
        root["ram"].push_back(entry);
    }
    for (const std::uint64_t size : pageSizes) root["page_sizes"].push_back(formatSize(size));
    for (const unsigned count : vcpus) root["vcpus"].push_back(count);
    for (const DeviceSet& set : devices) root["devices"].push_back(name(set));
    for (const Load load : loads) root["loads"].push_back(std::string(name(load)));
    for (const unsigned count : vms) root["vms"].push_back(count);
    root["machine"] = machine;
    root["accelerator"] = std::string(name(accelerator));
    root["user"] = user;
    root["before"] = duration(before);
    root["after"] = duration(after);
    root["steal_limit_percent"] = stealLimitPercent;
    root["save_directory"] = saveDirectory;
    if (seed) root["seed"] = *seed;
    YAML::Emitter emitter;
    emitter << root;
    return std::string(emitter.c_str()) + "\n";
}

std::string_view name(Load load) {
    switch (load) {
        case Load::Idle:
            return "idle";
        case Load::Memory:
            return "memory";
        case Load::Disk:
            return "disk";
        case Load::Network:
            return "network";
    }
    return "";
}

std::optional<Load> loadNamed(std::string_view text) {
    for (const Load load : allLoads)
        if (name(load) == text) return load;
    return std::nullopt;
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
