#include "plugin/machine/machine_arguments.h"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "plugin/domain/live_domain.h"
#include "plugin/domain/qemu_option.h"
#include "plugin/domain/xml_tree.h"
#include "plugin/machine/block_nodes.h"

namespace vh {
namespace {

using nlohmann::ordered_json;

/// The chardev of the monitor that an earlier handover added.
constexpr std::string_view ownMonitor = "virt-handover";

/// Properties by which a device refers to what another option makes, with the prefix that libvirt puts before the device's alias
/// (src/qemu/qemu_alias.c, 11.3.0).
struct Reference {
    const char* property;
    const char* option;
    const char* prefix;
};
constexpr Reference references[]{
    {"chardev", "-chardev", "char"}, {"netdev", "-netdev", "host"}, {"rng", "-object", "obj"}, {"memdev", "-object", "mem"}};

[[noreturn]] void refuse(const std::string& what) {
    throw std::runtime_error(what);
}

std::string idOf(const QemuOption& option) {
    return OptionValue(option.name, option.value)["id"];
}

/// QEMU itself takes no two: what has them is not what it was started with. Options are found by these names from here on.
void refuseDoubledIds(const std::vector<QemuOption>& options, const char* whose) {
    static const std::set<std::string> named{"-device", "-object", "-netdev", "-chardev", "-blockdev"};
    std::set<std::pair<std::string, std::string>> seen;
    for (const QemuOption& option : options) {
        if (!named.contains(option.name)) continue;
        const std::string id = option.name == "-blockdev" ? OptionValue(option.name, option.value)["node-name"] : idOf(option);
        if (!id.empty() && !seen.insert({option.name, id}).second)
            refuse(std::string(whose) + " has '" + option.name + "' with the name '" + id + "' twice");
    }
}

class MachineBuilder {
 public:
    explicit MachineBuilder(const MachineSources& sources)
        : sources_(sources),
          live_(sources.statusXml),
          options_(optionsFromName(sources.running)),
          native_(optionsFromName(sources.native)),
          runningNodes_(options_),
          nativeNodes_(native_) {}

    AdoptOrder build() {
        refuseDoubledIds(options_, "the command line of its QEMU");
        refuseDoubledIds(native_, "libvirt's rendering of it");
        dropWhatBelongedToTheStart();
        dropDevicesThatHaveGone();
        updateImages();
        addIoThreads();
        addNewDevices();
        return finish(keepVncFromListening());
    }

 private:
    template <typename Condition>
    void drop(Condition&& condition) {
        options_.erase(std::remove_if(options_.begin(), options_.end(), condition), options_.end());
    }
    void dropById(const std::string& name, const std::string& id) {
        drop([&](const QemuOption& option) { return option.name == name && idOf(option) == id; });
    }
    QemuOption* find(std::vector<QemuOption>& options, const std::string& name, const std::string& id) {
        const auto found = std::find_if(options.begin(), options.end(),
                                        [&](const QemuOption& option) { return option.name == name && idOf(option) == id; });
        return found == options.end() ? nullptr : &*found;
    }

    QemuOption& need(const std::string& name, const std::string& id) {
        QemuOption* option = find(options_, name, id);
        if (!option) refuse("the command line of its QEMU has no '" + name + "' with the name '" + id + "' any more");
        return *option;
    }

    /// How the old QEMU got its state is not how the new one does; it is always started stopped.
    void dropWhatBelongedToTheStart() {
        drop([](const QemuOption& option) {
            if (option.name == "-incoming" || option.name == "-loadvm" || option.name == "-S") return true;
            if (option.name == "-mon") return OptionValue(option.name, option.value)["chardev"] == ownMonitor;
            return option.name == "-chardev" && idOf(option) == ownMonitor;
        });
        options_.insert(options_.begin() + 1, {"-S", "", false});
    }

    // ---- devices that went

    bool isThere(const OptionValue& device) const {
        const std::string id = device["id"];
        if (id.empty()) return true;  // A user's own -device; libvirt does not know it, and cannot have unplugged it.
        if (!live_.ids().contains(id)) return false;
        const LiveDevice* live = live_.find(id);
        const std::string place = placeOf(device);
        // Under one name, but elsewhere: it was unplugged, and another one plugged in.
        return !live || live->place.empty() || place.empty() || live->place == place;
    }

    void dropDevicesThatHaveGone() {
        std::vector<OptionValue> gone;
        for (const QemuOption& option : options_) {
            if (option.name != "-device") continue;
            OptionValue device(option.name, option.value);
            if (isThere(device))
                kept_.insert(device["id"]);
            else
                gone.push_back(std::move(device));
        }
        for (const OptionValue& device : gone) {
            dropById("-device", device["id"]);
            for (const Reference& reference : references)
                if (const std::string id = device[reference.property]; !id.empty()) dropById(reference.option, id);
            dropNodes(runningNodes_.chainFrom(device["drive"]));
        }
    }

    void dropNodes(const BlockChain& chain) {
        drop([&](const QemuOption& option) {
            return option.name == "-blockdev" &&
                   std::find(chain.nodes.begin(), chain.nodes.end(), OptionValue(option.name, option.value)["node-name"]) !=
                       chain.nodes.end();
        });
    }

    // ---- devices from the start

    /// libvirt's rendering of the device at a place; networks have none that could be used.
    const QemuOption* nativeAt(const std::string& place) const {
        if (place.empty()) return nullptr;
        for (const QemuOption& option : native_) {
            if (option.name != "-device") continue;
            const OptionValue device(option.name, option.value);
            if (!device.has("netdev") && placeOf(device) == place) return &option;
        }
        return nullptr;
    }

    /// A device that was replaced by another one of the same name and place would look as if it had been there from the start.
    void requireTheSame(const OptionValue& running, const OptionValue& live) const {
        static const std::set<std::string> mayDiffer{"id",        "drive",     "chardev", "netdev", "rng",          "memdev",
                                                     "bootindex", "cryptodev", "bus",     "addr",   "multifunction"};
        static const std::set<std::string> identity{"serial", "wwn", "vendor", "product", "name"};
        std::set<std::string> keys;
        for (const auto& [key, value] : running.properties().items()) keys.insert(key);
        for (const auto& [key, value] : live.properties().items()) keys.insert(key);
        for (const std::string& key : keys) {
            const bool mayBeOnOneSide = !identity.contains(key) && !(running.has(key) && live.has(key));
            if (mayDiffer.contains(key) || mayBeOnOneSide || running[key] == live[key]) continue;
            refuse("the device '" + running["id"] + "' is not the one that it was at the start: its '" + key + "' was '" +
                   running[key] + "' and is '" + live[key] + "'");
        }
    }

    void requireTheSameNetwork(const OptionValue& device, const LiveDevice& live) const {
        const std::string mac = childAttribute(live.element, "mac", "address");
        if (device["mac"] != mac)
            refuse("the network device '" + live.alias + "' is not the one that it was at the start: its MAC address was '" +
                   device["mac"] + "' and is '" + mac + "'");
    }

    void updateImages() {
        // By id, since options come and go on the way.
        for (const std::string& id : kept_) {
            const LiveDevice* live = live_.find(id);
            if (id.empty() || !live) continue;
            OptionValue device("-device", need("-device", id).value);
            if (device.has("netdev")) {
                requireTheSameNetwork(device, *live);
                continue;
            }
            const QemuOption* native = nativeAt(placeOf(device));
            if (native) requireTheSame(device, OptionValue(native->name, native->value));
            if (std::string_view(live->element.name()) == "disk") updateImagesOf(device, *live, native);
        }
    }

    void updateImagesOf(OptionValue device, const LiveDevice& live, const QemuOption* native) {
        const BlockChain before = runningNodes_.chainFrom(device["drive"]);
        if (before.images == live.chain) return;
        const std::string name = childAttribute(live.element, "target", "dev");
        if (before.isFiltered) refuse("the images of disk '" + name + "' changed while the domain ran, and it has block filters");
        if (!native) refuse("libvirt's rendering has no disk '" + name + "' where QEMU has it");
        dropNodes(before);
        if (live.chain.empty())
            device.erase("drive");
        else
            device.set("drive", live.chain.front().top());
        const auto nodes = nativeNodes_.renamed(OptionValue(native->name, native->value)["drive"], live.chain, name);
        QemuOption& option = need("-device", live.alias);
        option.value = device.text();
        options_.insert(options_.begin() + (&option - options_.data()), nodes.begin(), nodes.end());
    }

    // ---- new devices

    /// Objects that are no part of a device: only threads come and go while a domain runs.
    void addIoThreads() {
        static const std::set<std::string> comeWithDevices{"rng-random", "rng-builtin", "secret", "memory-backend-memfd"};
        for (const QemuOption& option : native_) {
            if (option.name != "-object") continue;
            const OptionValue object(option.name, option.value);
            const std::string type = object["qom-type"];
            if (find(options_, "-object", object["id"]) || comeWithDevices.contains(type)) continue;
            if (type != "iothread")
                refuse("the object '" + object["id"] + "' of type '" + type +
                       "' is new since the start, which is not understood");
            options_.push_back(option);
        }
        drop([&](const QemuOption& option) {
            return option.name == "-object" && OptionValue(option.name, option.value)["qom-type"] == "iothread" &&
                   !find(native_, option.name, idOf(option));
        });
    }

    void addNewDevices() {
        std::vector<std::pair<std::size_t, const LiveDevice*>> fresh;  // In libvirt's order, which has controllers first.
        for (const std::string& id : live_.ids()) {
            if (kept_.contains(id)) continue;
            const LiveDevice* live = live_.find(id);
            if (!live)
                refuse("the device '" + id + "' was added while the domain ran, and libvirt's status XML does not describe it");
            const QemuOption* native = nativeAt(live->place);
            const bool isNetwork = std::string_view(live->element.name()) == "interface";
            if (!native && !isNetwork)
                refuse("the device '" + id + "' was added while the domain ran, and libvirt's rendering has none at '" +
                       live->place + "'");
            fresh.emplace_back(isNetwork ? native_.size() : static_cast<std::size_t>(native - native_.data()), live);
        }
        std::sort(fresh.begin(), fresh.end(), [](const auto& a, const auto& b) {
            return std::pair(a.first, a.second->alias) < std::pair(b.first, b.second->alias);
        });
        for (const auto& [at, live] : fresh)
            if (at < native_.size())
                addDevice(*live, OptionValue("-device", native_[at].value));
            else
                addNetwork(*live);
    }

    void add(const std::string& name, const OptionValue& value) {
        std::string text = value.text();
        // The directories of a domain that is yet to start (virDomainDefGetShortName with id -1, libvirt 11.3.0).
        if (text.find("/domain--1-") != std::string::npos || text.find("/-1-") != std::string::npos)
            refuse("the option '" + name + " " + text + "' is new since the start, and its directory is not known");
        options_.push_back({name, std::move(text), true});
    }

    void addDevice(const LiveDevice& live, OptionValue device) {
        const std::string nativeId = device["id"];
        device.set("id", live.alias);
        for (const Reference& reference : references) {
            if (!device.has(reference.property)) continue;
            const std::string wanted = reference.prefix + nativeId;
            const QemuOption* backend = find(native_, reference.option, wanted);
            if (device[reference.property] != wanted || !backend)
                refuse("the device '" + live.alias + "' was added while the domain ran, and its " + reference.property +
                       " is not understood");
            OptionValue value(backend->name, backend->value);
            value.set("id", reference.prefix + live.alias);
            device.set(reference.property, reference.prefix + live.alias);
            freshBackends_.insert(reference.prefix + live.alias);
            add(reference.option, value);
        }
        if (std::string_view(live.element.name()) == "disk") {
            const auto nodes = nativeNodes_.renamed(device["drive"], live.chain, childAttribute(live.element, "target", "dev"));
            options_.insert(options_.end(), nodes.begin(), nodes.end());
            if (!live.chain.empty()) device.set("drive", live.chain.front().top());
        }
        add("-device", device);
    }

    /// As src/qemu/qemu_command.c:qemuBuildNicDevProps and qemuBuildHostNetProps (libvirt 11.3.0) do it, for what was tried.
    void addNetwork(const LiveDevice& live) {
        const pugi::xml_node element = live.element;
        const std::string start = "the network device '" + live.alias + "' was added while the domain ran, and ";
        // What changes the host's side of the tap only.
        static const std::set<std::string> understood{"mac",         "source",    "target", "model",     "alias", "address",
                                                      "actual",      "link",      "mtu",    "bandwidth", "guest", "vlan",
                                                      "virtualport", "filterref", "driver", "boot"};
        for (pugi::xml_node child : element.children())
            if (child.type() == pugi::node_element && !understood.contains(child.name()))
                refuse(start + "its <" + child.name() + "> is not understood");
        const pugi::xml_node driver = element.child("driver");
        for (pugi::xml_attribute option : driver.attributes())
            if (std::string_view(option.name()) != "name")
                refuse(start + "its driver option " + option.name() + "='" + option.value() + "' is not understood");
        if (driver.first_child()) refuse(start + "its driver options are not understood");
        if (live.pciAddress.is_null()) refuse(start + "it has no PCI address");
        const std::string model = childAttribute(element, "model", "type");
        if (model != "virtio" && model != "e1000" && model != "e1000e" && model != "rtl8139")
            refuse(start + "its model '" + model + "' is not understood");

        // Where the kernel can serve a network, libvirt has it do so, unless told otherwise (src/qemu/qemu_interface.c,
        // qemuInterfaceOpenVhostNet, 11.3.0).
        const std::string wanted = driver.attribute("name").as_string();
        const bool isVhost = wanted == "vhost" || (wanted.empty() && sources_.descriptors.vhost && model == "virtio");
        ordered_json netdev{{"type", "tap"}, {"id", "host" + live.alias}};
        if (isVhost) netdev["vhost"] = true;
        add("-netdev", OptionValue::fromJson(std::move(netdev)));
        freshBackends_.insert("host" + live.alias);
        ordered_json device{{"driver", model == "virtio" ? "virtio-net-pci" : model}};
        if (const unsigned mtu = element.child("mtu").attribute("size").as_uint(); mtu && model == "virtio")
            device["host_mtu"] = mtu;
        device["netdev"] = "host" + live.alias;
        device["id"] = live.alias;
        device["mac"] = childAttribute(element, "mac", "address");
        if (const unsigned order = element.child("boot").attribute("order").as_uint()) device["bootindex"] = order;
        device.update(live.pciAddress);
        add("-device", OptionValue::fromJson(std::move(device)));
    }

    // ---- the result

    /// Two QEMUs cannot have one port: the new one gets it by display-update (QEMU 7.1), when the old one has gone. Returns that
    /// command, or none.
    std::vector<AdoptedVm::Command> keepVncFromListening() {
        std::vector<AdoptedVm::Command> afterwards;
        for (QemuOption& option : options_) {
            if (option.name != "-vnc") continue;
            option.value = "none" + option.value.substr(std::min(option.value.find(','), option.value.size()));
            if (const nlohmann::json address = live_.vncAddress(); !address.is_null())
                afterwards.push_back({"display-update", {{"type", "vnc"}, {"addresses", nlohmann::json::array({address})}}});
        }
        return afterwards;
    }

    AdoptOrder finish(std::vector<AdoptedVm::Command> afterwards) {
        AdoptOrder made;
        made.afterwards = std::move(afterwards);
        InheritedDescriptors descriptors(sources_.fdsets, sources_.descriptors, live_, options_);
        for (QemuOption& option : options_) {
            for (const QemuOption& passed : descriptors.adapt(option, freshBackends_)) append(made, passed);
            append(made, option);
        }
        made.descriptors = descriptors.take();
        if (made.machine.empty()) refuse("the arguments name no machine type");
        return made;
    }

    static void append(AdoptOrder& made, const QemuOption& option) {
        made.arguments.push_back(option.name);
        if (option.hasValue) made.arguments.push_back(option.value);
        if (option.name == "-machine" || option.name == "-M") {
            if (const std::string type = OptionValue("-machine", option.value)["type"]; !type.empty()) made.machine = type;
        } else if (option.name == "-device") {
            const std::string model = OptionValue(option.name, option.value)["driver"];
            if (std::find(made.models.begin(), made.models.end(), model) == made.models.end()) made.models.push_back(model);
        }
    }

    const MachineSources& sources_;
    const LiveDomain live_;
    std::vector<QemuOption> options_;
    std::vector<QemuOption> native_;
    const BlockNodes runningNodes_;
    const BlockNodes nativeNodes_;
    std::set<std::string> kept_;           ///< Ids of devices whose arguments are still right.
    std::set<std::string> freshBackends_;  ///< Ids of chardevs and netdevs that were added while the domain ran.
};

}  // namespace

AdoptOrder rebuildArguments(const MachineSources& sources) {
    return MachineBuilder(sources).build();
}

}  // namespace vh
