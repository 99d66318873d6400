#include "config/parse.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "config/scalars.h"
#include "config/section.h"
#include "config/yaml_tree.h"

namespace vh {

namespace {

/// Values that no two entries may share, wherever they are.
class Unique {
 public:
    void claim(Section& section, std::string_view key, const std::string& value) {
        const auto [first, isNew] = firstUse_.emplace(value, section.pathOf(key));
        if (isNew) return;
        section.error(key, "found " + quote(value) + ", which '" + first->second + "' has too, expected a unique one");
    }

 private:
    std::map<std::string, std::string> firstUse_;
};

void readCpu(Section& section, Cpu& cpu) {
    section.optional("model", cpu.model, readCpuModel);
    section.optional("sockets", cpu.sockets, readCount);
    section.optional("cores", cpu.cores, readCount);
    section.optional("threads", cpu.threads, readCount);
    if (cpu.count() > 4096)
        section.error("found " + std::to_string(cpu.count()) + " CPUs (sockets * cores * threads), expected at most 4096");
}

/// Whether the owner can be relied on: it is what the file says, or what a file means that says nothing.
bool readMemory(Section& section, Memory& memory) {
    const bool hasSize = section.required("size", memory.sizeBytes, readMemorySize);
    section.optional("page_size", memory.pageSizeBytes, readPageSize);
    const bool setsOwner = section.optional("owner", memory.owner, oneOf<MemoryOwner>());
    if (hasSize && memory.sizeBytes % memory.pageSizeBytes != 0)
        section.error("size", "found '" + formatSize(memory.sizeBytes) + "', expected a multiple of the page_size '" +
                                  formatSize(memory.pageSizeBytes) + "'");
    return setsOwner || !section.has("owner");
}

void readBoot(Section& section, Boot& boot, const std::vector<Disk>& disks) {
    section.optional("kernel", boot.kernel, readPath);
    section.optional("initrd", boot.initrd, readPath);
    section.optional("cmdline", boot.cmdline, readCmdline);
    section.optional("firmware", boot.firmware, readPath);
    if (section.optional("disk", boot.disk, readId)) {
        // A disk whose own id was refused may be the one that is meant.
        const bool mayExist =
            std::any_of(disks.begin(), disks.end(), [&](const Disk& d) { return d.id.empty() || d.id == boot.disk; });
        if (!mayExist) section.error("disk", "found " + quote(boot.disk) + ", expected the id of an entry of 'disks'");
    }

    const bool hasKernel = section.has("kernel");
    const bool hasDisk = section.has("disk");
    if (hasKernel && hasDisk) section.error("disk", "found next to 'kernel', expected only one of them");
    if (!hasKernel && !hasDisk) section.error("found neither 'kernel' nor 'disk', expected one of them");
    for (const char* key : {"initrd", "cmdline"})
        if (section.has(key) && !hasKernel) section.error(key, "found without 'kernel', expected only with it");
}

void readNetwork(Section& section, Network& network) {
    const bool hasType = section.required("type", network.type, oneOf<NetworkType>());
    section.optional("bridge", network.bridge, readInterface);
    section.optional("mac", network.mac, readMac);

    const bool isTap = network.type == NetworkType::Tap;
    if (!hasType || isTap == section.has("bridge")) return;
    if (isTap) {
        section.error("the key 'bridge' is missing, which type 'tap' requires");
    } else {
        section.error("bridge", "found with type 'user', expected only with type 'tap'");
    }
}

void readDeadlines(Section& section, Deadlines& deadlines) {
    section.optional("launch", deadlines.launch, parseDuration);
    section.optional("exchange", deadlines.exchange, parseDuration);
    section.optional("verify", deadlines.verify, parseDuration);
    section.optional("standby", deadlines.standby, parseDuration);
    section.optional("switch", deadlines.switchOver, parseDuration);
    section.optional("retire", deadlines.retire, parseDuration);
}

/// QEMU wants the memory of each NUMA node that has some to be named, and the VM's is `ram0`: what is in any other would be lost
/// in a handover.
void checkNodes(Section& section, const std::vector<std::string>& arguments) {
    constexpr std::string_view key = "memdev=";
    bool hasNodes = false, hasMemory = false;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        if ((arguments[i - 1] != "-numa" && arguments[i - 1] != "--numa") || !arguments[i].starts_with("node")) continue;
        hasNodes = true;
        const std::size_t at = arguments[i].find(key);
        if (at == std::string::npos) continue;
        const std::size_t name = at + key.size();
        const std::string memory = arguments[i].substr(name, arguments[i].find(',', name) - name);
        hasMemory = hasMemory || memory == "ram0";
        if (memory != "ram0")
            section.error("arguments",
                          "found '-numa " + arguments[i] +
                              "', expected 'memdev=ram0' (the VM's memory, which is one piece: other nodes can have CPUs)");
    }
    if (hasNodes && !hasMemory)
        section.error("arguments", "found '-numa' without the VM's memory, expected 'memdev=ram0' at one of the nodes");
}

void readVmm(Section& section, Vmm& vmm) {
    section.optional("binary", vmm.binary, readPath);
    section.optional("user", vmm.user, readUser);
    section.optional("sandbox", vmm.sandbox, readBool);
    section.scalars("arguments", vmm.arguments, readVmmArgument);
    checkNodes(section, vmm.arguments);
}

void readHandover(Section& section, HandoverSettings& handover, const Memory& memory, bool ownerIsKnown) {
    const bool hasDesign = section.optional("design", handover.design, oneOf(designsOfUpgrades()));
    section.optional("pause_budget", handover.pauseBudget, parseDuration);
    section.block("deadlines", handover.deadlines, readDeadlines);
    section.optional("on_failure", handover.onFailure, oneOf<OnFailure>());
    section.optional("save_directory", handover.saveDirectory, readPath);

    if (!hasDesign || !ownerIsKnown) return;
    const DesignRow& row = rowOf(handover.design);
    if (row.owner && *row.owner != memory.owner)
        section.error("design", "found '" + std::string(row.name) + "' while memory.owner is '" +
                                    std::string(name(memory.owner)) + "', expected 'memory.owner: " +
                                    std::string(name(*row.owner)) + "' (" + std::string(row.ownerReason) + ")");
}

void readVm(Section& section, VmDefinition& vm) {
    section.required("name", vm.name, readVmName);
    section.optional("uuid", vm.uuid, readUuid);
    section.required("machine", vm.machine, readMachine);
    section.optional("accelerator", vm.accelerator, oneOf<Accelerator>());
    section.block("cpu", vm.cpu, readCpu);
    bool ownerIsKnown = false;
    section.requiredBlock("memory", vm.memory,
                          [&](Section& memory, Memory& target) { ownerIsKnown = readMemory(memory, target); });

    Unique ids;
    section.list("disks", vm.disks, [&](Section& disk, Disk& target) {
        if (disk.required("id", target.id, readId)) ids.claim(disk, "id", target.id);
        disk.required("file", target.file, readPath);
        disk.optional("format", target.format, oneOf<DiskFormat>());
        disk.optional("cache", target.cache, oneOf<DiskCache>());
        disk.optional("read_only", target.readOnly, readBool);
        disk.optional("serial", target.serial, readSerial);
    });
    section.list("networks", vm.networks, [&](Section& network, Network& target) {
        if (network.required("id", target.id, readId)) ids.claim(network, "id", target.id);
        readNetwork(network, target);
    });
    Unique addresses;
    section.list("vfio", vm.vfio, [&](Section& device, VfioDevice& target) {
        if (device.required("id", target.id, readId)) ids.claim(device, "id", target.id);
        if (device.optional("address", target.address, readPciAddress)) addresses.claim(device, "address", target.address);
        device.optional("device", target.device, readPciDevice);
        device.optional("bind", target.bind, readBool);
        device.optional("interface", target.interface, oneOf<VfioInterface>());
        if (device.has("address") && device.has("device"))
            device.error("device", "found next to 'address', expected only one of them");
        if (!device.has("address") && !device.has("device"))
            device.error("found neither 'address' nor 'device', expected one of them");
    });
    section.requiredBlock("boot", vm.boot, [&](Section& boot, Boot& target) { readBoot(boot, target, vm.disks); });

    section.block("console", vm.console, [](Section& console, Console& target) {
        console.optional("enabled", target.enabled, readBool);
        console.optional("log", target.log, readPath);
    });
    section.optional("heartbeat", vm.heartbeat, readBool);
    section.block("vmm", vm.vmm, readVmm);
    section.block("handover", vm.handover,
                  [&](Section& handover, HandoverSettings& target) { readHandover(handover, target, vm.memory, ownerIsKnown); });
}

struct OpenFile {
    explicit OpenFile(int opened) : fd(opened) {}
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;
    ~OpenFile() {
        if (fd >= 0) close(fd);
    }

    const int fd;
};

}  // namespace

VmDefinition parseVmDefinition(std::string_view yaml, const std::string& file) {
    return readWhole(yaml, file, "with at least 'name', 'machine', 'memory' and 'boot'", readVm);
}

VmDefinition loadVmDefinition(const std::string& file) {
    return parseVmDefinition(readDefinitionFile(file), file);
}

std::string readDefinitionFile(const std::string& file) {
    Findings findings(file);
    const auto failWithErrno = [&](const std::string& what) {
        findings.fail({}, what + ": " + std::generic_category().message(errno));
    };

    // Non-blocking, because opening a FIFO would wait for somebody to write into it.
    const OpenFile opened(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (opened.fd < 0) failWithErrno("cannot be opened");
    struct stat status {};
    if (fstat(opened.fd, &status) != 0) failWithErrno("cannot be examined");
    if (S_ISDIR(status.st_mode)) findings.fail({}, "is a directory, expected a regular file");
    if (!S_ISREG(status.st_mode)) findings.fail({}, "is not a regular file, expected one");
    if (static_cast<std::uint64_t>(status.st_size) > maximumFileBytes) findings.fail({}, tooLarge);

    // One byte more than allowed, to notice a file that grew, or one of those in /proc whose size is 0.
    std::string text(maximumFileBytes + 1, '\0');
    std::size_t length = 0;
    while (length < text.size()) {
        const ssize_t count = read(opened.fd, text.data() + length, text.size() - length);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) failWithErrno("cannot be read");
        if (count == 0) break;
        length += static_cast<std::size_t>(count);
    }
    if (length > maximumFileBytes) findings.fail({}, tooLarge);
    text.resize(length);
    return text;
}

std::map<std::string, std::string> flatten(const VmDefinition& definition) {
    const WrittenKeys keys = writeWhole(definition, readVm);
    return {keys.begin(), keys.end()};
}

std::string toYaml(const VmDefinition& definition) {
    // In the order in which they are read, and not by name: entry 10 of a list comes after entry 9.
    return yamlOf(writeWhole(definition, readVm));
}

std::vector<KeyDifference> differences(const VmDefinition& before, const VmDefinition& after) {
    std::map<std::string, std::pair<std::string, std::string>> values;
    for (const auto& [path, value] : flatten(before)) values[path].first = value;
    for (const auto& [path, value] : flatten(after)) values[path].second = value;
    std::vector<KeyDifference> found;
    for (const auto& [path, both] : values)
        if (both.first != both.second) found.push_back({path, both.first, both.second});
    return found;
}

}  // namespace vh
