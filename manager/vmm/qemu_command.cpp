#include "manager/vmm/qemu_command.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include <nlohmann/json.hpp>

#include "manager/record/vm_directory.h"
#include "manager/resources/passthrough.h"

namespace vh {
namespace {

using nlohmann::json;

/// A channel as `-incoming` takes it.
std::string incomingChannel(const char* type, const std::string& path) {
    return json{{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", path}}}}.dump();
}

std::string cprIncoming(const std::string& directory) {
    return incomingChannel("cpr", cprChannelPath(directory));
}

/// The files that a VMM has as sets of descriptors, in the order of their numbers, which begin with 1.
std::vector<std::string> filesOfFdsets(const VmDefinition& definition) {
    std::vector<std::string> files;
    if (definition.accelerator == Accelerator::Kvm) files.emplace_back("/dev/kvm");
    if (definition.console.enabled && !definition.console.log.empty()) files.push_back(definition.console.log);
    for (const Disk& disk : definition.disks) files.push_back(disk.file);
    return files;
}

/// Guest RAM is the machine's memory backend, or that of a NUMA node: QEMU takes it as one of them.
bool isMemoryOfANode(const VmDefinition& definition) {
    const std::vector<std::string>& arguments = definition.vmm.arguments;
    for (std::size_t i = 1; i < arguments.size(); ++i)
        if ((arguments[i - 1] == "-numa" || arguments[i - 1] == "--numa") && arguments[i].find("memdev") != std::string::npos)
            return true;
    return false;
}

class Command {
 public:
    explicit Command(const QemuLaunch& launch) : launch_(launch), definition_(launch.definition) {}

    std::vector<std::string> build() {
        argv_ = {launch_.binary};
        machine();
        memory();
        monitorAndPorts();
        boot();
        for (const Disk& disk : definition_.disks) addDisk(disk);
        for (const Network& network : definition_.networks) addNetwork(network);
        addPassthrough();
        argv_.insert(argv_.end(), definition_.vmm.arguments.begin(), definition_.vmm.arguments.end());
        incoming();
        return std::move(argv_);
    }

 private:
    void option(const std::string& name, const std::string& value) { argv_.insert(argv_.end(), {name, value}); }
    std::string number(const std::string& resource) const { return std::to_string(launch_.resources.numberOf(resource)); }

    void listeningChardev(const std::string& id, const std::string& resource, const std::string& more = {}) {
        option("-chardev", "socket,id=" + id + ",fd=" + number(resource) + ",server=on,wait=off" + more);
    }

    /// A set of descriptors that QEMU opens as the file `/dev/fdset/N`; it picks the one with the right access mode.
    std::string fdset(const std::vector<std::string>& resources) {
        const std::string set = std::to_string(++lastFdset_);
        for (const std::string& resource : resources)
            if (launch_.resources.has(resource))
                option("-add-fd", "fd=" + number(resource) + ",set=" + set + ",opaque=" + resource);
        return "/dev/fdset/" + set;
    }

    void machine() {
        argv_.insert(argv_.end(), {"-nodefaults", "-no-user-config", "-display", "none", "-S"});
        option("-name", "guest=" + definition_.name + ",debug-threads=on");
        option("-uuid", definition_.uuid);
        option("-machine", definition_.machine + (isMemoryOfANode(definition_) ? "" : ",memory-backend=ram0") +
                               (launch_.shareImplicitRam ? ",aux-ram-share=on" : ""));
        if (definition_.accelerator == Accelerator::Kvm)
            option("-accel", "kvm,device=" + fdset({"kvm"}));
        else
            option("-accel", "tcg");
        const Cpu& cpu = definition_.cpu;
        option("-cpu", cpu.model);
        option("-smp", "cpus=" + std::to_string(cpu.count()) + ",sockets=" + std::to_string(cpu.sockets) +
                           ",cores=" + std::to_string(cpu.cores) + ",threads=" + std::to_string(cpu.threads));
        // `spawn` is what keeps a QEMU from executing another one (system/qemu-seccomp.c, 11.1). A filter is for life: what the
        // first QEMU of a process was not allowed, none that it executes ever is.
        if (definition_.vmm.sandbox)
            option("-sandbox", std::string("on,obsolete=deny,elevateprivileges=deny,") +
                                   (rowOf(definition_.handover.design).state == StatePath::Exec ? "" : "spawn=deny,") +
                                   "resourcecontrol=deny");
    }

    void memory() {
        const Memory& memory = definition_.memory;
        const std::string size = std::to_string(memory.sizeBytes);
        option("-m", "size=" + size + "B");
        if (launch_.resources.has("ram0")) {
            // Opening /proc/self/fd/N again makes the block a "named file", the only kind that x-ignore-shared leaves in place
            // (migration/ram.c:migrate_ram_is_ignored, 10.0 and 11.1). Mapped where a huge page can begin, for QEMU itself
            // aligns a file to its page size only (util/mmap-alloc.c:qemu_ram_mmap), and then no page of it is ever huge.
            option("-object", "memory-backend-file,id=ram0,share=on,mem-path=/proc/self/fd/" + number("ram0") + ",size=" + size +
                                  (memory.pageSizeBytes == 4096 ? ",align=2097152" : ""));
        } else {
            option("-object",
                   "memory-backend-memfd,id=ram0,share=on,size=" + size +
                       (memory.pageSizeBytes > 4096 ? ",hugetlb=on,hugetlbsize=" + std::to_string(memory.pageSizeBytes) +
                                                          (launch_.rehearsal ? ",reserve=off" : "")
                                                    : ""));
        }
    }

    void monitorAndPorts() {
        listeningChardev("vh-qmp", "qmp");
        option("-mon", "chardev=vh-qmp,mode=control");
        if (definition_.console.enabled) {
            listeningChardev("vh-console", "console",
                             launch_.resources.has("console/log") ? ",logappend=on,logfile=" + fdset({"console/log"}) : "");
            option("-serial", "chardev:vh-console");
        }
        if (definition_.heartbeat) {
            listeningChardev("vh-heartbeat", "heartbeat");
            option("-device", "virtio-serial-pci,id=vh-serial");
            option("-device", "virtserialport,bus=vh-serial.0,chardev=vh-heartbeat,name=org.virt-handover.heartbeat.0");
        }
    }

    void boot() {
        const Boot& boot = definition_.boot;
        if (!boot.firmware.empty()) option("-bios", boot.firmware);
        if (!boot.kernel.empty()) option("-kernel", boot.kernel);
        if (!boot.initrd.empty()) option("-initrd", boot.initrd);
        if (!boot.cmdline.empty()) option("-append", boot.cmdline);
    }

    void addDisk(const Disk& disk) {
        const std::string resource = "disk/" + disk.id;
        const json file{{"driver", "file"},
                        {"node-name", disk.id + "-file"},
                        {"filename", fdset({resource + "/ro", resource + "/rw"})},
                        {"read-only", disk.readOnly},
                        {"cache", {{"direct", disk.cache == DiskCache::None}}}};
        json format{
            {"driver", name(disk.format)}, {"node-name", disk.id}, {"file", disk.id + "-file"}, {"read-only", disk.readOnly}};
        if (const auto backing = launch_.backing.find(disk.id); backing != launch_.backing.end())
            format["backing"] = {{"driver", backing->second.format},
                                 {"read-only", true},
                                 {"file", {{"driver", "file"}, {"filename", backing->second.file}, {"read-only", true}}}};
        option("-blockdev", file.dump());
        option("-blockdev", format.dump());
        option("-device", "virtio-blk-pci,id=" + disk.id + "-device,drive=" + disk.id +
                              (disk.serial.empty() ? "" : ",serial=" + disk.serial) +
                              (definition_.boot.disk == disk.id ? ",bootindex=1" : ""));
    }

    void addNetwork(const Network& network) {
        option("-netdev", network.type == NetworkType::Tap ? "tap,id=" + network.id + ",fd=" + number("tap/" + network.id)
                                                           : "user,id=" + network.id);
        option("-device",
               "virtio-net-pci,id=" + network.id + "-device,netdev=" + network.id + ",mac=" + macAddress(definition_, network));
    }

    /// A VMM that takes over by CPR ignores the numbers and finds both by their ids in the CPR state (migration/cpr.c:
    /// cpr_get_fd_param, 11.1). The option ROM stays out: QEMU would size it through the device's config space, which the old
    /// VMM's guest is using (hw/vfio/pci.c:vfio_pci_size_rom).
    void addPassthrough() {
        if (launch_.resources.has(iommufdName))
            option("-object", std::string("iommufd,id=") + iommufdName + ",fd=" + number(iommufdName));
        for (const VfioDevice& device : definition_.vfio) {
            const std::string resource = vfioResource(device.id);
            option("-device", "vfio-pci,id=" + device.id + ",rombar=0," +
                                  (launch_.resources.has(resource) ? "fd=" + number(resource) + ",iommufd=" + iommufdName
                                                                   : "host=" + device.address));
        }
    }

    void incoming() {
        if (launch_.incoming == Incoming::None) return;
        const bool waits = launch_.incoming != Incoming::CprAtOnce;
        option("-incoming", waits ? "defer" : incomingChannel("main", mainChannelPath(launch_.directory)));
        if (launch_.resources.has(execStateResource))
            option("-add-fd",
                   "fd=" + number(execStateResource) + ",set=" + std::to_string(stateFdset) + ",opaque=" + execStateResource);
        if (launch_.incoming != Incoming::Defer) option("-incoming", cprIncoming(launch_.directory));
    }

    const QemuLaunch& launch_;
    const VmDefinition& definition_;
    std::vector<std::string> argv_;
    int lastFdset_ = 0;
};

}  // namespace

std::vector<std::string> qemuCommand(const QemuLaunch& launch) {
    return Command(launch).build();
}

std::string withFileNames(const std::string& text, const VmDefinition& definition) {
    constexpr std::string_view set = "/dev/fdset/";
    const std::vector<std::string> files = filesOfFdsets(definition);
    std::string found;
    std::size_t at = 0;
    for (std::size_t next; (next = text.find(set, at)) != std::string::npos;) {
        const char* digits = text.data() + next + set.size();
        std::size_t number = 0;
        const char* end = std::from_chars(digits, text.data() + text.size(), number).ptr;
        const std::size_t length = static_cast<std::size_t>(end - text.data()) - next;
        found +=
            text.substr(at, next - at) + (number >= 1 && number <= files.size() ? files[number - 1] : text.substr(next, length));
        at = next + length;
    }
    return found + text.substr(at);
}

std::vector<std::string> adoptedCommand(const AdoptedVm& vm, const std::string& binary, const std::string& directory,
                                        int monitor) {
    std::vector<std::string> argv{binary};
    argv.insert(argv.end(), vm.arguments.begin(), vm.arguments.end());
    if (std::find(argv.begin(), argv.end(), "-S") == argv.end()) argv.emplace_back("-S");
    argv.insert(argv.end(), {"-chardev", "socket,id=virt-handover,fd=" + std::to_string(monitor) + ",server=on,wait=off", "-mon",
                             "chardev=virt-handover,id=virt-handover,mode=control", "-incoming", "defer", "-incoming",
                             cprIncoming(directory)});
    return argv;
}

std::vector<std::string> deviceModels(const VmDefinition& definition) {
    std::vector<std::string> models;
    if (definition.heartbeat) models.insert(models.end(), {"virtio-serial-pci", "virtserialport"});
    if (!definition.disks.empty()) models.emplace_back("virtio-blk-pci");
    if (!definition.networks.empty()) models.emplace_back("virtio-net-pci");
    if (!definition.vfio.empty()) models.emplace_back("vfio-pci");
    const std::vector<std::string>& arguments = definition.vmm.arguments;
    for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
        if (arguments[i] != "-device" && arguments[i] != "--device") continue;
        const json object = json::parse(arguments[i + 1], nullptr, false);
        if (object.is_object()) {
            if (object.contains("driver") && object.at("driver").is_string()) models.push_back(object.at("driver"));
            continue;
        }
        std::string model = arguments[i + 1].substr(0, arguments[i + 1].find(','));
        if (model.starts_with("driver=")) model.erase(0, 7);
        if (model != "help") models.push_back(model);
    }
    return models;
}

}  // namespace vh
