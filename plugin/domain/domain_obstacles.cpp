// What a handover cannot carry, device by device. A device is let pass by name or refused by name: what libvirt learns one day,
// and nobody tried with a handover, is refused.
#include <map>
#include <set>
#include <string_view>

#include "plugin/domain/domain_xml.h"
#include "plugin/domain/xml_tree.h"

namespace vh {
namespace {

using pugi::xml_node;

std::string quoted(const std::string& text) {
    return "'" + text + "'";
}

/// How a person finds the device: by its target where they gave it one, else by libvirt's alias.
std::string called(xml_node device) {
    for (const std::string& name :
         {childAttribute(device, "target", "dev"), aliasOf(device), childAttribute(device, "target", "dir")})
        if (!name.empty()) return " " + quoted(name);
    return "";
}

const char* const detachIt = "detach it from the running domain, or remove it and start the domain anew";
const char* const changeIt = "change it in the definition, and start the domain anew";

// ---- character devices

/// `kind` is `serial port 'serial0'`. Tried are those that libvirt passes to QEMU as descriptors, and terminals.
Obstacle ofBackend(xml_node device, const std::string& kind) {
    const std::string type = attribute(device, "type");
    const std::string mode = childAttribute(device, "source", "mode");
    if (type == "pty" || type == "file" || type == "null" || (type == "unix" && mode == "bind")) return {};
    const char* const instead = "use type='pty', 'file', or 'unix' with mode='bind', and start the domain anew";
    if (type == "spicevmc" || type == "spiceport")
        return {"the " + kind + " belongs to a SPICE session, which ends with its QEMU", instead};
    if (type == "tcp" || type == "unix" || type == "udp")
        return {mode == "bind" || mode == "listen" ? "the " + kind + " listens on a port that two QEMUs cannot share"
                                                   : "the " + kind + " is a connection that QEMU made, and which ends with it",
                instead};
    return {"the " + kind + " has a backend of type " + quoted(type) + ", which was not tried with a handover", instead};
}

Obstacle ofSerial(xml_node device) {
    return ofBackend(device, std::string(device.name()) + " port" + called(device));
}

/// The first console is the first serial port once more (src/conf/domain_conf.c:virDomainDefAddConsoleCompat, libvirt 11.3.0).
Obstacle ofConsole(xml_node device) {
    if (childAttribute(device, "target", "type") == "serial" && device.parent().child("serial")) return {};
    return ofBackend(device, "console" + called(device));
}

Obstacle ofChannel(xml_node device) {
    const std::string name = childAttribute(device, "target", "name");
    return ofBackend(device, "channel " + quoted(name.empty() ? aliasOf(device) : name));
}

Obstacle ofRng(xml_node device) {
    const xml_node backend = device.child("backend");
    const std::string model = attribute(backend, "model");
    if (model == "random" || model == "builtin") return {};
    return {"the random number generator" + called(device) + " has a backend " + quoted(model) +
                ", a connection that ends with its QEMU",
            "use <backend model='random'>/dev/urandom</backend>, or detach it"};
}

// ---- disks and networks

Obstacle ofDisk(xml_node disk) {
    const std::string name = "the disk" + called(disk);
    const std::string type = attribute(disk, "type");
    if (disk.child("mirror")) return {name + " is being copied or committed", "wait for the block job to end (virsh blockjob)"};
    if (type != "file" && type != "block" && type != "volume")
        return {name + " is of type " + quoted(type) + ", whose connection ends with its QEMU", "use a file or a block device"};
    if (disk.child("source").child("reservations"))
        return {name + " has persistent reservations, which belong to a process of their own", changeIt};
    if (disk.child("throttlefilters"))
        return {name + " has I/O limits by filters, which was not tried with a handover", changeIt};
    return {};
}

Obstacle ofInterface(xml_node interface) {
    const std::string type = attribute(interface, "type");
    const std::string name = "the network interface" + called(interface);
    const std::string backend = childAttribute(interface, "backend", "type");
    if (backend == "passt") return {name + " is served by passt, which has its own process", "use a network or a bridge"};
    if (type == "user")
        return {name + " is QEMU's own network (slirp), whose connections end with it", "use a network or a bridge"};
    if (type == "vhostuser") return {name + " is vhost-user, which has its own process", "use a network or a bridge"};
    if (type != "network" && type != "bridge" && type != "ethernet")
        return {name + " is of type " + quoted(type) + ", which was not tried with a handover", "use a network or a bridge"};
    return {};
}

// ---- other devices

Obstacle ofFilesystem(xml_node filesystem) {
    const std::string driver = childAttribute(filesystem, "driver", "type");
    if (driver.empty() || driver == "path") return {};  // 9p; QEMU itself refuses while the guest has it mounted.
    if (driver == "virtiofs")
        return {"the filesystem" + called(filesystem) + " is served by virtiofsd, which has its own process", detachIt};
    return {"the filesystem" + called(filesystem) + " has a driver " + quoted(driver) + ", which was not tried with a handover",
            detachIt};
}

Obstacle ofTpm(xml_node tpm) {
    const std::string backend = childAttribute(tpm, "backend", "type");
    if (backend == "emulator") return {"the TPM" + called(tpm) + " is emulated by swtpm, which has its own process", ""};
    return {"the TPM" + called(tpm) + " has a backend " + quoted(backend) + ", which was not tried with a handover", ""};
}

Obstacle ofGraphics(xml_node graphics) {
    const std::string type = attribute(graphics, "type");
    if (type == "spice") return {"the graphics are SPICE, whose sessions and ports end with their QEMU", changeIt};
    if (type == "vnc") {
        // The new QEMU gets the address after the old one's end, by display-update, and a password not at all.
        if (graphics.attribute("passwd")) return {"VNC has a password, which the new QEMU would not ask for", changeIt};
        if (graphics.attribute("websocket")) return {"VNC has a WebSocket, which the new QEMU would not have", changeIt};
        if (graphics.attribute("socket") || childAttribute(graphics, "listen", "type") == "socket")
            return {"VNC listens on a unix socket, which was not tried with a handover", changeIt};
        return {};
    }
    return {"the graphics are of type " + quoted(type) + ", which was not tried with a handover", changeIt};
}

Obstacle ofAudio(xml_node audio) {
    const std::string type = attribute(audio, "type");
    if (type == "none") return {};
    return {"the sound goes to " + quoted(type) + ", which was not tried with a handover", "use <audio type='none'/>"};
}

Obstacle ofInput(xml_node input) {
    const std::string type = attribute(input, "type");
    if (type == "mouse" || type == "keyboard" || type == "tablet") return {};
    return {"the input device" + called(input) + " is one of the host's (" + quoted(type) + ")", detachIt};
}

Obstacle ofVideo(xml_node video) {
    if (childAttribute(video, "driver", "name") != "vhostuser") return {};
    return {"the video device" + called(video) + " is vhost-user, which has its own process", changeIt};
}

Obstacle ofMemory(xml_node memory) {
    const std::string model = attribute(memory, "model");
    if (model == "dimm") return {};
    return {"the memory device" + called(memory) + " is of model " + quoted(model) + ", which was not tried with a handover",
            detachIt};
}

Obstacle ofHostDevice(xml_node device) {
    const std::string type = attribute(device, "type");
    return {"the host device" + called(device) + " is passed through (" +
                quoted(type.empty() ? attribute(device, "mode") : type) + ")",
            detachIt};
}

Obstacle ofCrypto(xml_node crypto) {
    if (childAttribute(crypto, "backend", "model") == "builtin") return {};
    return {"the crypto device" + called(crypto) + " has a backend that was not tried with a handover", changeIt};
}

Obstacle refused(xml_node device) {
    static const std::map<std::string_view, const char*> reasons{
        {"redirdev", "is a USB redirection, whose session ends with its QEMU"},
        {"redirfilter", ""},
        {"smartcard", "is connected to the host's"},
        {"shmem", "is memory that is shared with other processes"},
        {"lease", "is a lock that belongs to a process"},
        {"vsock", "is served by the kernel (vhost), which was not tried with a handover"},
    };
    const auto reason = reasons.find(device.name());
    if (reason != reasons.end() && !*reason->second) return {};
    return {"the device <" + std::string(device.name()) + ">" + called(device) + " " +
                (reason == reasons.end() ? "was not tried with a handover" : reason->second),
            detachIt};
}

using Check = Obstacle (*)(xml_node);  ///< Empty when the device is in the way of nothing.

Check checkFor(std::string_view element) {
    static const std::map<std::string_view, Check> checks{
        {"audio", ofAudio}, {"channel", ofChannel},       {"console", ofConsole},   {"crypto", ofCrypto},
        {"disk", ofDisk},   {"filesystem", ofFilesystem}, {"graphics", ofGraphics}, {"hostdev", ofHostDevice},
        {"input", ofInput}, {"interface", ofInterface},   {"memory", ofMemory},     {"parallel", ofSerial},
        {"rng", ofRng},     {"serial", ofSerial},         {"tpm", ofTpm},           {"video", ofVideo},
    };
    // Inside QEMU altogether, so that their state travels as any other.
    static const std::set<std::string_view> harmless{"emulator",   "controller", "hub",   "sound",      "watchdog",
                                                     "memballoon", "panic",      "iommu", "vmcoreinfo", "pstore"};
    if (const auto found = checks.find(element); found != checks.end()) return found->second;
    return harmless.contains(element) ? nullptr : refused;
}

/// libvirt plugs such a vCPU in by the monitor, also at the start of a domain (src/qemu/qemu_process.c, 11.3.0:
/// qemuProcessSetupHotpluggableVcpus), so no argument list has it.
void addVcpus(xml_node domain, std::vector<Obstacle>& found) {
    for (xml_node vcpu : domain.child("vcpus").children("vcpu"))
        if (attribute(vcpu, "enabled") == "yes" && attribute(vcpu, "hotpluggable") == "yes")
            found.push_back(
                {"the vCPU " + quoted(attribute(vcpu, "id")) + " was plugged in", "unplug it (virsh setvcpu --disable)"});
}

}  // namespace

std::vector<Obstacle> obstacles(const std::string& liveXml) {
    const pugi::xml_document document = parseXml(liveXml, "domain");
    const xml_node domain = document.document_element();
    std::vector<Obstacle> found = memoryObstacles(domain);
    if (domain.child("launchSecurity")) found.push_back({"guest memory is encrypted (<launchSecurity>)", ""});
    addVcpus(domain, found);
    for (xml_node device : domain.child("devices").children()) {
        if (device.type() != pugi::node_element) continue;
        const Check check = checkFor(device.name());
        if (!check) continue;
        if (const Obstacle obstacle = check(device); !obstacle.what.empty()) found.push_back(obstacle);
    }
    return found;
}

}  // namespace vh
