#include "config/vm_definition.h"

#include <array>
#include <set>

namespace vh {

std::string_view name(Accelerator accelerator) {
    switch (accelerator) {
        case Accelerator::Kvm:
            return "kvm";
        case Accelerator::Tcg:
            return "tcg";
        case Accelerator::Auto:
            return "auto";
    }
    return "";
}

std::string_view name(DiskFormat format) {
    switch (format) {
        case DiskFormat::Raw:
            return "raw";
        case DiskFormat::Qcow2:
            return "qcow2";
    }
    return "";
}

std::string_view name(DiskCache cache) {
    switch (cache) {
        case DiskCache::Writeback:
            return "writeback";
        case DiskCache::None:
            return "none";
    }
    return "";
}

std::string_view name(NetworkType type) {
    switch (type) {
        case NetworkType::User:
            return "user";
        case NetworkType::Tap:
            return "tap";
    }
    return "";
}

std::string_view name(OnFailure reaction) {
    switch (reaction) {
        case OnFailure::Report:
            return "report";
        case OnFailure::Retry:
            return "retry";
    }
    return "";
}

std::string_view name(VfioInterface interface) {
    switch (interface) {
        case VfioInterface::Auto:
            return "auto";
        case VfioInterface::Cdev:
            return "cdev";
        case VfioInterface::Group:
            return "group";
    }
    return "";
}

namespace {

std::string formatBool(bool value) {
    return value ? "true" : "false";
}

std::string formatDuration(std::chrono::milliseconds duration) {
    const auto ms = duration.count();
    return ms % 1000 == 0 ? std::to_string(ms / 1000) + "s" : std::to_string(ms) + "ms";
}

std::string indexed(std::string_view list, std::size_t index) {
    return std::string(list) + "[" + std::to_string(index) + "]";
}

}  // namespace

// Structured bindings throughout: a struct that grows a member does not compile until the member has its key here.
std::map<std::string, std::string> flatten(const VmDefinition& definition) {
    const auto& [vmName, uuid, machine, accelerator, cpu, memory, boot, disks, networks, console, heartbeat, vfio, vmm,
                 handover] = definition;
    const auto& [model, sockets, cores, threads] = cpu;
    const auto& [sizeBytes, pageSizeBytes, owner] = memory;
    const auto& [kernel, initrd, cmdline, firmware, bootDisk] = boot;
    const auto& [consoleEnabled, log] = console;
    const auto& [binary, user, sandbox, arguments] = vmm;
    const auto& [design, pauseBudget, deadlines, onFailure, saveDirectory] = handover;
    const auto& [launch, exchange, verify, standby, switchOver, retire] = deadlines;

    std::map<std::string, std::string> keys{
        {"name", vmName},
        {"uuid", uuid},
        {"machine", machine},
        {"accelerator", std::string(name(accelerator))},
        {"cpu.model", model},
        {"cpu.sockets", std::to_string(sockets)},
        {"cpu.cores", std::to_string(cores)},
        {"cpu.threads", std::to_string(threads)},
        {"memory.size", formatSize(sizeBytes)},
        {"memory.page_size", formatSize(pageSizeBytes)},
        {"memory.owner", std::string(name(owner))},
        {"boot.kernel", kernel},
        {"boot.initrd", initrd},
        {"boot.cmdline", cmdline},
        {"boot.firmware", firmware},
        {"boot.disk", bootDisk},
        {"console.enabled", formatBool(consoleEnabled)},
        {"console.log", log},
        {"heartbeat", formatBool(heartbeat)},
        {"vmm.binary", binary},
        {"vmm.user", user},
        {"vmm.sandbox", formatBool(sandbox)},
        {"handover.design", std::string(name(design))},
        {"handover.pause_budget", formatDuration(pauseBudget)},
        {"handover.deadlines.launch", formatDuration(launch)},
        {"handover.deadlines.exchange", formatDuration(exchange)},
        {"handover.deadlines.verify", formatDuration(verify)},
        {"handover.deadlines.standby", formatDuration(standby)},
        {"handover.deadlines.switch", formatDuration(switchOver)},
        {"handover.deadlines.retire", formatDuration(retire)},
        {"handover.on_failure", std::string(name(onFailure))},
        {"handover.save_directory", saveDirectory},
    };
    for (std::size_t i = 0; i < disks.size(); ++i) {
        const auto& [id, file, format, cache, readOnly, serial] = disks[i];
        const std::string path = indexed("disks", i);
        keys[path + ".id"] = id;
        keys[path + ".file"] = file;
        keys[path + ".format"] = name(format);
        keys[path + ".cache"] = name(cache);
        keys[path + ".read_only"] = formatBool(readOnly);
        keys[path + ".serial"] = serial;
    }
    for (std::size_t i = 0; i < networks.size(); ++i) {
        const auto& [id, type, bridge, mac] = networks[i];
        const std::string path = indexed("networks", i);
        keys[path + ".id"] = id;
        keys[path + ".type"] = name(type);
        keys[path + ".bridge"] = bridge;
        keys[path + ".mac"] = mac;
    }
    for (std::size_t i = 0; i < vfio.size(); ++i) {
        const auto& [id, address, device, bind, interface] = vfio[i];
        const std::string path = indexed("vfio", i);
        keys[path + ".id"] = id;
        keys[path + ".address"] = address;
        keys[path + ".device"] = device;
        keys[path + ".bind"] = formatBool(bind);
        keys[path + ".interface"] = name(interface);
    }
    for (std::size_t i = 0; i < arguments.size(); ++i) keys[indexed("vmm.arguments", i)] = arguments[i];
    return keys;
}

std::vector<KeyDifference> differences(const VmDefinition& before, const VmDefinition& after) {
    const auto oldKeys = flatten(before);
    const auto newKeys = flatten(after);
    std::set<std::string> paths;
    for (const auto& [path, value] : oldKeys) paths.insert(path);
    for (const auto& [path, value] : newKeys) paths.insert(path);

    const auto valueIn = [](const auto& keys, const std::string& path) {
        const auto found = keys.find(path);
        return found == keys.end() ? std::string() : found->second;
    };
    std::vector<KeyDifference> result;
    for (const std::string& path : paths) {
        KeyDifference difference{path, valueIn(oldKeys, path), valueIn(newKeys, path)};
        if (difference.before != difference.after) result.push_back(std::move(difference));
    }
    return result;
}

std::string formatSize(std::uint64_t bytes) {
    constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < units.size()) {
        bytes /= 1024;
        ++unit;
    }
    return std::to_string(bytes) + units[unit];
}

std::string macAddress(const VmDefinition& definition, const Network& network) {
    if (!network.mac.empty()) return network.mac;
    std::uint32_t hash = 2166136261U;
    for (const char character : definition.uuid + "/" + network.id)
        hash = (hash ^ static_cast<unsigned char>(character)) * 16777619U;
    char text[18];
    std::snprintf(text, sizeof(text), "52:54:00:%02x:%02x:%02x", hash >> 16 & 0xff, hash >> 8 & 0xff, hash & 0xff);
    return text;
}

}  // namespace vh
