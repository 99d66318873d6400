#include <algorithm>
#include <cctype>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string_view>

#include "plugin/domain/domain_xml.h"
#include "plugin/domain/xml_tree.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using pugi::xml_node;

std::string lowered(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

bool consistsOf(std::string_view text, std::string_view others) {
    return std::all_of(text.begin(), text.end(), [&](unsigned char c) {
        return (c < 0x80 && std::isalnum(c)) || others.find(static_cast<char>(c)) != others.npos;
    });
}

/// Lower case, with every other character a dash; empty when nothing is left that an id may begin with.
std::string idFrom(const std::string& text, std::size_t most) {
    std::string id = lowered(text);
    for (char& c : id)
        if (!consistsOf(std::string_view(&c, 1), "-")) c = '-';
    id.erase(0, id.find_first_not_of('-'));
    return id.substr(0, most);
}

std::uint64_t number(xml_node element) {
    return wholeNumber<std::uint64_t>(element.text().get()).value_or(0);
}

/// libvirt's units, src/util/virutil.c:virScaleInteger; it prints KiB, and KiB is what no unit means.
std::uint64_t bytesOf(std::uint64_t count, const std::string& given) {
    const std::string unit = given.empty() ? "k" : lowered(given);
    if (unit == "b" || unit == "bytes") return count;
    // `k` and `kib` are 1024, and `kb` is 1000.
    const std::size_t power = std::string_view("kmgt").find(unit[0]);
    const std::string kind = unit.substr(1);
    if (power == std::string_view::npos || (kind != "" && kind != "ib" && kind != "b")) return 0;
    std::uint64_t factor = 1;
    for (std::size_t i = 0; i <= power; ++i) factor *= kind == "b" ? 1000 : 1024;
    return count <= UINT64_MAX / factor ? count * factor : 0;
}

class Importer {
 public:
    explicit Importer(xml_node domain) : domain_(domain) {}

    ImportedDomain import() {
        machine();
        cpu();
        memory();
        for (xml_node device : domain_.child("devices").children())
            if (device.type() == pugi::node_element) addDevice(device);
        boot();
        for (xml_node element : domain_.children()) addLost(element);
        return std::move(imported_);
    }

 private:
    void lose(const std::string& what) { imported_.lost.push_back(what); }
    bool hasId(const std::string& id) const {
        const auto is = [&](const auto& entry) { return entry.id == id; };
        return std::any_of(vm_.disks.begin(), vm_.disks.end(), is) || std::any_of(vm_.networks.begin(), vm_.networks.end(), is) ||
               std::any_of(vm_.vfio.begin(), vm_.vfio.end(), is);
    }
    std::string freshId(const std::string& wish, const std::string& kind) {
        std::string id = idFrom(wish, 31);
        if (id.empty() || std::isdigit(static_cast<unsigned char>(id[0])) || hasId(id))
            for (unsigned n = 0; hasId(id = kind + std::to_string(n)); ++n) {
            }
        return id;
    }

    void machine() {
        const std::string name = domain_.child("name").text().get();
        vm_.name = idFrom(name, 32);
        if (vm_.name.empty()) vm_.name = "vm";
        if (vm_.name != name) lose("name '" + name + "' became '" + vm_.name + "'");
        vm_.uuid = lowered(domain_.child("uuid").text().get());
        const xml_node type = domain_.child("os").child("type");
        vm_.machine = attribute(type, "machine");
        if (vm_.machine.empty()) {
            vm_.machine = "q35";
            lose("os/type names no machine type: 'q35' was taken");
        }
        if (const std::string arch = attribute(type, "arch"); !arch.empty() && arch != "x86_64")
            lose("os/type arch='" + arch + "': virt-handover was tried with x86_64 only");
        const std::string accelerator = attribute(domain_, "type");
        vm_.accelerator = accelerator == "kvm" ? Accelerator::Kvm : accelerator == "qemu" ? Accelerator::Tcg : Accelerator::Auto;
    }

    void cpu() {
        const xml_node cpu = domain_.child("cpu");
        const std::string mode = attribute(cpu, "mode");
        const std::string model = cpu.child("model").text().get();
        if (mode == "host-passthrough") {
            vm_.cpu.model = "host";
        } else if (mode == "maximum" || (model.empty() && mode != "host-model" && !cpu)) {
            vm_.cpu.model = mode == "maximum" ? "max" : "qemu64";  // libvirt's own for x86, when the domain says nothing.
        } else if (!model.empty() && consistsOf(model, "._-")) {
            vm_.cpu.model = model;
        } else {
            vm_.cpu.model = "max";
            lose("cpu mode='" + mode + "' names no model: 'max' was taken");
        }
        for (xml_node feature : cpu.children("feature")) addFeature(attribute(feature, "name"), attribute(feature, "policy"));
        if (cpu.child("numa")) lose("cpu/numa: all memory is in one node");

        const auto count = static_cast<unsigned>(std::min<std::uint64_t>(number(domain_.child("vcpu")), 4096));
        const xml_node topology = cpu.child("topology");
        Cpu wanted = vm_.cpu;
        wanted.sockets = topology.attribute("sockets").as_uint(1);
        wanted.cores = topology.attribute("cores").as_uint(1);
        wanted.threads = topology.attribute("threads").as_uint(1);
        if (topology && wanted.count() == count && topology.attribute("dies").as_uint(1) == 1 &&
            topology.attribute("clusters").as_uint(1) == 1) {
            vm_.cpu = wanted;
        } else {
            if (topology) lose("cpu/topology: each CPU is a socket");
            vm_.cpu.sockets = std::max(count, 1U);
        }
        const std::string current = attribute(domain_.child("vcpu"), "current");
        if (!current.empty() && current != std::to_string(count))
            lose("vcpu current='" + current + "': all " + std::to_string(count) + " are there from the start");
    }

    /// libvirt spells features with `_` where QEMU has `-`; QEMU takes both for the names that have both
    /// (target/i386/cpu.c, 10.0).
    void addFeature(const std::string& name, const std::string& policy) {
        if (name.empty() || !consistsOf(name, "._-")) return lose("cpu/feature '" + name + "'");
        if (policy == "require" || policy == "force" || policy.empty()) {
            vm_.cpu.model += "," + name + "=on";
        } else if (policy == "disable" || policy == "forbid") {
            vm_.cpu.model += "," + name + "=off";
        } else {
            lose("cpu/feature '" + name + "' with policy '" + policy + "'");
        }
    }

    void memory() {
        const xml_node memory = domain_.child("memory");
        const std::uint64_t wanted = bytesOf(number(memory), attribute(memory, "unit"));
        if (wanted == 0) throw std::runtime_error("the domain has no <memory> that could be read");
        const xml_node page = domain_.child("memoryBacking").child("hugepages").child("page");
        if (domain_.child("memoryBacking").child("hugepages")) {
            const std::uint64_t size = page ? bytesOf(page.attribute("size").as_ullong(), attribute(page, "unit")) : 2ULL << 20;
            if (size == 2ULL << 20 || size == 1ULL << 30)
                vm_.memory.pageSizeBytes = size;
            else
                lose("memoryBacking/hugepages: pages of 4KiB");
        }
        const std::uint64_t step = std::max<std::uint64_t>(vm_.memory.pageSizeBytes, 1 << 20);
        vm_.memory.sizeBytes = (wanted + step - 1) / step * step;
        if (vm_.memory.sizeBytes != wanted) lose("memory: rounded up to " + formatSize(vm_.memory.sizeBytes));
    }

    void addDevice(xml_node device) {
        const std::string_view kind = device.name();
        if (kind == "emulator") {
            vm_.vmm.binary = device.text().get();
        } else if (kind == "disk") {
            addDisk(device);
        } else if (kind == "interface") {
            addInterface(device);
        } else if (kind == "hostdev" && attribute(device, "type") == "pci") {
            addHostDevice(device);
        } else if (kind == "serial" && !hasSerial_) {
            hasSerial_ = true;
            vm_.console.log = childAttribute(device, "log", "file");
            if (vm_.console.log.empty() && attribute(device, "type") == "file")
                vm_.console.log = childAttribute(device, "source", "path");
        } else if (kind == "channel" && childAttribute(device, "target", "name") == "org.virt-handover.heartbeat.0") {
            vm_.heartbeat = true;
        } else if (kind == "controller" || kind == "console" || kind == "memballoon" ||
                   (kind == "input" && attribute(device, "bus") == "ps2")) {
            // Controllers follow from the devices on them, the first console is the serial port, and each PC has PS/2.
            if (kind == "memballoon" && attribute(device, "model") != "none") lose("memballoon");
            if (kind == "console" && childAttribute(device, "target", "type") == "virtio") lose("console of type virtio");
        } else {
            loseDevice(device, "");
        }
    }

    void loseDevice(xml_node device, const std::string& why) {
        std::string name;
        for (const std::string& known : {childAttribute(device, "target", "dev"), childAttribute(device, "target", "name"),
                                         attribute(device, "model"), attribute(device, "type")})
            if (name.empty()) name = known;
        lose("device " + std::string(device.name()) + (name.empty() ? "" : " '" + name + "'") + why);
    }

    void addDisk(xml_node disk) {
        const xml_node source = disk.child("source");
        const std::string type = attribute(disk, "type");
        const std::string file = attribute(source, type == "block" ? "dev" : "file");
        if (type != "file" && type != "block") return loseDevice(disk, ": of type '" + type + "'");
        if (file.empty() || file[0] != '/') return loseDevice(disk, ": without a file");
        Disk made;
        const std::string format = childAttribute(disk, "driver", "type");
        const std::optional<DiskFormat> known = valueNamed<DiskFormat>(format.empty() ? "raw" : format);
        if (!known) return loseDevice(disk, ": of format '" + format + "'");
        made.format = *known;
        const std::string target = childAttribute(disk, "target", "dev");
        made.id = freshId(target, "disk");
        made.file = file;
        const std::string cache = childAttribute(disk, "driver", "cache");
        made.cache = cache == "none" || cache == "directsync" ? DiskCache::None : DiskCache::Writeback;
        const std::string device = attribute(disk, "device");
        made.readOnly = disk.child("readonly") || device == "cdrom";
        const std::string serial = disk.child("serial").text().get();
        if (serial.size() <= 20 && consistsOf(serial, "._-"))
            made.serial = serial;
        else
            lose("disk '" + target + "': serial '" + serial + "'");
        const std::string bus = childAttribute(disk, "target", "bus");
        if (bus != "virtio" || device == "cdrom" || device == "floppy" || device == "lun")
            lose("disk '" + target + "': becomes a virtio disk");
        if (cache == "writethrough" || cache == "unsafe" || cache == "directsync")
            lose("disk '" + target + "': cache='" + cache + "'");
        if (disk.child("boot")) bootOrder_.emplace_back(disk.child("boot").attribute("order").as_uint(~0U), made.id);
        vm_.disks.push_back(std::move(made));
    }

    void addInterface(xml_node interface) {
        const std::string type = attribute(interface, "type");
        Network made;
        made.mac = lowered(childAttribute(interface, "mac", "address"));
        made.bridge = childAttribute(interface, "source", "bridge");
        if (type == "user") {
            made.bridge.clear();
        } else if ((type == "bridge" || type == "network") && !made.bridge.empty()) {
            made.type = NetworkType::Tap;
        } else {
            return loseDevice(interface, ": of type '" + type + "'" +
                                             (type == "network" ? ", whose bridge is known while the domain runs only" : ""));
        }
        made.id = freshId("", "net");
        if (const std::string model = childAttribute(interface, "model", "type"); !model.empty() && !model.starts_with("virtio"))
            lose("interface '" + made.id + "': model '" + model + "' becomes virtio");
        vm_.networks.push_back(std::move(made));
    }

    void addHostDevice(xml_node device) {
        const xml_node at = device.child("source").child("address");
        char text[32];
        const auto part = [&](const char* name) { return at.attribute(name).as_uint(); };
        std::snprintf(text, sizeof(text), "%04x:%02x:%02x.%x", part("domain") & 0xffff, part("bus") & 0xff, part("slot") & 0x1f,
                      part("function") & 7);
        vm_.vfio.push_back({freshId("", "host"), text});
    }

    void boot() {
        const xml_node os = domain_.child("os");
        vm_.console.enabled = hasSerial_;
        vm_.boot.kernel = os.child("kernel").text().get();
        if (!vm_.boot.kernel.empty()) {
            vm_.boot.initrd = os.child("initrd").text().get();
            vm_.boot.cmdline = os.child("cmdline").text().get();
        } else {
            const auto first = std::min_element(bootOrder_.begin(), bootOrder_.end());
            if (first != bootOrder_.end())
                vm_.boot.disk = first->second;
            else if (!vm_.disks.empty())
                vm_.boot.disk = vm_.disks.front().id;
            else
                lose("boot: neither a kernel nor a disk was found to boot from");
        }
        const xml_node loader = os.child("loader");
        if (attribute(loader, "type") == "rom" && vm_.boot.kernel.empty() && !vm_.boot.disk.empty())
            vm_.boot.firmware = loader.text().get();
        else if (loader || attribute(os, "firmware") == "efi")
            lose("os/loader: UEFI firmware with variables of its own");
    }

    /// What a definition has, in whatever words, or what only libvirt needs; all other elements change the machine or its host.
    void addLost(xml_node element) {
        static const std::set<std::string_view> known{"name",      "uuid",     "memory",        "currentMemory", "vcpu",
                                                      "os",        "cpu",      "memoryBacking", "devices",       "on_poweroff",
                                                      "on_reboot", "on_crash", "metadata",      "title",         "description",
                                                      "resource",  "vcpus"};
        if (element.type() != pugi::node_element || known.contains(element.name())) return;
        lose("<" + std::string(element.name()) + ">");
    }

    const xml_node domain_;
    ImportedDomain imported_;
    VmDefinition& vm_ = imported_.definition;
    bool hasSerial_ = false;
    std::vector<std::pair<unsigned, std::string>> bootOrder_;
};

}  // namespace

ImportedDomain importDomain(const std::string& xml) {
    const pugi::xml_document document = parseXml(xml, "domain");
    return Importer(document.document_element()).import();
}

}  // namespace vh
