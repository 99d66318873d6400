#include "plugin/machine/inherited_descriptors.h"

#include <algorithm>
#include <stdexcept>

#include "plugin/domain/xml_tree.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr const char* vhostNet = "/dev/vhost-net";

[[noreturn]] void refuse(const QemuOption& option, const std::string& why) {
    throw std::runtime_error("the option '" + option.name + " " + option.value + "': " + why);
}

std::optional<int> numberIn(std::string_view text) {
    const std::optional<int> number = wholeNumber<int>(text);
    return number && *number >= 0 && *number <= 1 << 20 ? number : std::nullopt;
}

int descriptorIn(const QemuOption& option, std::string_view text) {
    const std::optional<int> number = numberIn(text);
    // 0 to 2 are passed by whoever starts the new QEMU.
    if (!number || *number < 3) refuse(option, "'" + std::string(text) + "' is no descriptor that could be passed");
    return *number;
}

bool namesDescriptor(std::string_view key) {
    return key.ends_with("fd") || key.ends_with("fds");
}

/// The key or file name by which a value means a descriptor; empty when it means none.
std::string descriptorMeantBy(const nlohmann::ordered_json& value, unsigned depth = 0) {
    if (depth > 32) return "structures in structures";
    if (value.is_string()) {
        const std::string& text = value.get_ref<const std::string&>();
        for (const char* prefix : {"/proc/self/fd/", "/dev/fd/"})
            if (text.starts_with(prefix)) return text;
    }
    if (!value.is_structured()) return "";
    for (const auto& [key, inner] : value.items()) {
        if (value.is_object() && namesDescriptor(key)) return key;
        if (value.is_object() && (key == "type" || key.ends_with(".type")) && inner == "fd") return key;
        if (const std::string found = descriptorMeantBy(inner, depth + 1); !found.empty()) return found;
    }
    return "";
}

/// Text for the guest or for people, in which a comma means nothing.
bool isPlainText(const std::string& option) {
    static const std::set<std::string> texts{"-name", "-append", "-kernel", "-initrd", "-dtb", "-uuid", "-bios", "-D", "-L"};
    return texts.contains(option);
}

/// query-fdsets's list, whether or not it is still wrapped as the monitor has it.
json setsIn(const json& answer) {
    const json& list = answer.is_object() && answer.contains("return") ? answer["return"] : answer;
    return list.is_array() ? list : json::array();
}

std::string textOf(const json& object, const char* key) {
    if (!object.is_object() || !object.contains(key)) return "";
    const json& value = object[key];
    return value.is_string() ? value.get<std::string>() : value.is_number_integer() ? value.dump() : "";
}

json membersOf(const json& set) {
    return set.is_object() && set.contains("fds") && set["fds"].is_array() ? set["fds"] : json::array();
}

}  // namespace

ProcessDescriptors descriptorsOf(pid_t pid) {
    const Process process(pid);
    std::map<std::string, std::string> listening;
    for (const UnixSocket& socket : unixSockets(process.path("net/unix")))
        if (socket.kind == SocketKind::Listening) listening["socket:[" + std::to_string(socket.inode) + "]"] = socket.path;
    ProcessDescriptors found;
    for (const OpenFile& file : process.files()) {
        if (const auto socket = listening.find(file.target); socket != listening.end())
            found.listeners[socket->second] = file.number;
        else if (file.target == "/dev/net/tun") {
            const std::string interface = process.field("fdinfo/" + std::to_string(file.number), "iff:");
            if (!interface.empty()) found.tapFds[interface] = file.number;
        } else if (file.target == "/dev/vhost-net") {
            found.vhost = true;
        }
    }
    return found;
}

InheritedDescriptors::InheritedDescriptors(const json& fdsets, const ProcessDescriptors& old, const LiveDomain& live,
                                           const std::vector<QemuOption>& options)
    : old_(old), live_(live), sets_(setsIn(fdsets)) {
    for (const QemuOption& option : options) {
        if (option.name != "-add-fd" && option.name != "-chardev" && option.name != "-netdev") continue;
        const OptionValue value(option.name, option.value);
        for (const char* key : {"fd", "fds", "vhostfd", "vhostfds"})
            for (const std::string& number : split(value[key], ':'))
                lastNumber_ = std::max(lastNumber_, numberIn(number).value_or(0));
    }
}

int InheritedDescriptors::pass(AdoptedVm::Descriptor descriptor) {
    const int number = descriptor.number;
    const auto taken = [&](const AdoptedVm::Descriptor& other) { return other.number == number; };
    if (std::any_of(passed_.begin(), passed_.end(), taken))
        throw std::runtime_error("the descriptor " + std::to_string(number) + " is named twice in the arguments");
    passed_.push_back(std::move(descriptor));
    return number;
}

std::vector<QemuOption> InheritedDescriptors::adapt(QemuOption& option, const std::set<std::string>& fresh) {
    if (!option.hasValue || isPlainText(option.name)) return {};
    if (option.name == "-add-fd") return adaptSet(option), std::vector<QemuOption>{};
    const OptionValue value(option.name, option.value);
    const bool isFresh = fresh.contains(value["id"]);
    if (option.name == "-chardev") return adaptChardev(option, isFresh);
    if (option.name == "-netdev" && value["type"] == "tap") {
        adaptNetdev(option, isFresh);
        return {};
    }
    if (const std::string meant = descriptorMeantBy(value.properties()); !meant.empty())
        refuse(option, "a descriptor ('" + meant + "') that was not tried with a handover");
    return {};
}

// ---- sets of descriptors

void InheritedDescriptors::adaptSet(const QemuOption& option) {
    const OptionValue value(option.name, option.value);
    const int number = descriptorIn(option, value["fd"]);
    std::vector<json> candidates;
    for (const json& set : sets_)
        if (textOf(set, "fdset-id") == value["set"])
            for (const json& member : membersOf(set))
                if (textOf(member, "opaque") == value["opaque"]) candidates.push_back(member);
    if (candidates.size() != 1)
        refuse(option, "the old QEMU has " + std::to_string(candidates.size()) + " such descriptors in set " + value["set"] +
                           ", expected one");
    pass({number, descriptorIn(option, textOf(candidates.front(), "fd"))});
}

QemuOption InheritedDescriptors::passSetOf(const std::string& opaque, std::string& set) {
    for (const json& candidate : sets_)
        for (const json& member : membersOf(candidate)) {
            const std::optional<int> of = numberIn(textOf(member, "fd"));
            if (textOf(member, "opaque") != opaque || !of) continue;
            set = textOf(candidate, "fdset-id");
            const int number = pass({freshNumber(), *of});
            return {"-add-fd", "set=" + set + ",fd=" + std::to_string(number) + ",opaque=" + opaque, true};
        }
    throw std::runtime_error("the old QEMU has no descriptor '" + opaque + "' (query-fdsets)");
}

// ---- character devices

int InheritedDescriptors::listenerOf(const std::string& chardevId, int otherwise) const {
    const std::string path = live_.chardevPath(chardevId);
    const auto found = old_.listeners.find(path);
    if (found != old_.listeners.end()) return found->second;
    if (otherwise >= 0 && (old_.listeners.empty() || path.empty())) return otherwise;
    throw std::runtime_error("the chardev '" + chardevId + "': the old QEMU does not listen on '" + path + "'");
}

std::vector<QemuOption> InheritedDescriptors::adaptChardev(QemuOption& option, bool isFresh) {
    OptionValue value(option.name, option.value);
    const std::string id = value["id"];
    const std::string backend = value["backend"];
    std::vector<QemuOption> before;
    if (backend == "socket") {
        if (value["server"] != "on") refuse(option, "a connection that QEMU made, and which ends with it");
        if (!isFresh && !value.has("fd")) refuse(option, "a socket that QEMU made, which two QEMUs cannot share");
        const int number = isFresh ? freshNumber() : descriptorIn(option, value["fd"]);
        pass({number, listenerOf(id, isFresh ? -1 : number)});
        if (isFresh) value.erase("path");
        value.set("fd", std::to_string(number));
    } else if (backend == "file" && isFresh) {
        std::string set;
        before.push_back(passSetOf(id.substr(4) + "-source", set));
        value.set("path", "/dev/fdset/" + set);
        value.set("append", "on");
    } else if (const std::string meant = descriptorMeantBy(value.properties()); !meant.empty()) {
        refuse(option, "a descriptor ('" + meant + "') that was not tried with a handover");
    }
    if (isFresh && value.has("logfile")) {
        std::string set;
        before.push_back(passSetOf(id.substr(4) + "-log", set));
        value.set("logfile", "/dev/fdset/" + set);
    }
    if (isFresh || !before.empty()) option.value = value.text();
    return before;
}

// ---- networks

void InheritedDescriptors::adaptNetdev(QemuOption& option, bool isFresh) {
    OptionValue value(option.name, option.value);
    // The kernel serves one process by one open file: the old QEMU's is not to be had twice.
    for (const char* key : {"vhostfd", "vhostfds"})
        if (value.has(key))
            for (const std::string& number : split(value[key], ':'))
                pass({.number = descriptorIn(option, number), .path = vhostNet});
    if (!isFresh && value["vhost"] == "on" && !value.has("vhostfd") && !value.has("vhostfds"))
        refuse(option, "QEMU would open '" + std::string(vhostNet) + "' itself, for which it has no right");
    if (value.has("fds")) {
        for (const std::string& number : split(value["fds"], ':')) {
            const int same = descriptorIn(option, number);
            pass({same, same, true});
        }
        return;
    }
    if (!value.has("fd") && !isFresh) refuse(option, "a tap that QEMU opens itself, which two QEMUs cannot");
    const LiveDevice* device = value["id"].starts_with("host") ? live_.find(value["id"].substr(4)) : nullptr;
    const std::string name = device ? childAttribute(device->element, "target", "dev") : "";
    const auto tap = old_.tapFds.find(name);
    const int number = isFresh ? freshNumber() : descriptorIn(option, value["fd"]);
    if (tap == old_.tapFds.end() && (isFresh || (!old_.tapFds.empty() && !name.empty())))
        throw std::runtime_error("the netdev '" + value["id"] + "': the old QEMU does not have the tap '" + name + "' open");
    pass({number, tap == old_.tapFds.end() ? number : tap->second, true});
    if (!isFresh) return;
    value.set("fd", std::to_string(number));
    if (value["vhost"] == "on") value.set("vhostfd", std::to_string(pass({.number = freshNumber(), .path = vhostNet})));
    option.value = value.text();
}

}  // namespace vh
