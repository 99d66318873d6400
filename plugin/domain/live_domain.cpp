#include "plugin/domain/live_domain.h"

#include <cstdio>
#include <stdexcept>

#include "plugin/domain/xml_tree.h"

namespace vh {
namespace {

using pugi::xml_node;

std::string hex(unsigned long value) {
    char text[20];
    std::snprintf(text, sizeof(text), "0x%lx", value);
    return text;
}

std::string decimal(xml_node address, const char* key) {
    return std::to_string(address.attribute(key).as_uint());
}

/// The alias of the controller that an address means; libvirt builds the names of buses from it
/// (src/qemu/qemu_command.c:qemuBuildDeviceAddressProps, 11.3.0).
std::string controllerOf(xml_node device, const std::string& type, const std::string& index) {
    for (xml_node controller : device.parent().children("controller"))
        if (attribute(controller, "type") == type && decimal(controller, "index") == index) return aliasOf(controller);
    return "";
}

nlohmann::ordered_json pciAddressOf(xml_node device) {
    const xml_node address = device.child("address");
    const std::string bus = controllerOf(device, "pci", decimal(address, "bus"));
    if (attribute(address, "type") != "pci" || bus.empty()) return nullptr;
    const unsigned function = address.attribute("function").as_uint();
    nlohmann::ordered_json properties{{"bus", bus},
                                      {"addr", hex(address.attribute("slot").as_uint()) + (function ? "." + hex(function) : "")}};
    if (attribute(address, "multifunction") == "on") properties["multifunction"] = true;
    return properties;
}

std::string placeInXml(xml_node device) {
    const xml_node address = device.child("address");
    const std::string type = attribute(address, "type");
    if (type == "pci") {
        const auto properties = pciAddressOf(device);
        return properties.is_null() ? "" : placeOf(OptionValue::fromJson(properties));
    }
    if (type == "virtio-serial")
        return controllerOf(device, "virtio-serial", decimal(address, "controller")) + ".0/" + decimal(address, "port");
    if (type == "usb") return controllerOf(device, "usb", decimal(address, "bus")) + ".0/" + attribute(address, "port");
    if (type == "dimm") return "dimm/" + decimal(address, "slot");
    if (type == "drive" && childAttribute(device, "target", "bus") == "scsi")
        return controllerOf(device, "scsi", decimal(address, "controller")) + ".0/" + decimal(address, "bus") + "/" +
               decimal(address, "target") + "/" + decimal(address, "unit");
    return "";
}

std::string nodeName(xml_node source, const char* type) {
    for (xml_node name : source.child("privateData").child("nodenames").children("nodename"))
        if (attribute(name, "type") == type) return attribute(name, "name");
    return "";
}

std::vector<LiveImage> chainOf(xml_node disk) {
    std::vector<LiveImage> chain;
    for (xml_node image = disk; image; image = image.child("backingStore")) {
        const xml_node source = image.child("source");
        LiveImage names{nodeName(source, "format"), nodeName(source, "storage")};
        if (names.top().empty()) break;
        chain.push_back(std::move(names));
    }
    return chain;
}

}  // namespace

LiveDomain::LiveDomain(const std::string& statusXml) : document_(parseXml(statusXml, "domstatus")) {
    const xml_node status = document_.document_element();
    monitorPath_ = childAttribute(status, "monitor", "path");
    for (xml_node device : status.child("devices").children("device")) ids_.insert(attribute(device, "alias"));
    if (ids_.empty()) throw std::runtime_error("the status XML has no list of devices");
    for (xml_node element : status.child("domain").child("devices").children()) {
        const std::string alias = aliasOf(element);
        // The first console has the alias of the serial port that it is.
        if (element.type() != pugi::node_element || alias.empty() || devices_.contains(alias)) continue;
        devices_[alias] = {element, alias, placeInXml(element), pciAddressOf(element), chainOf(element)};
    }
}

const LiveDevice* LiveDomain::find(const std::string& alias) const {
    const auto found = devices_.find(alias);
    return found == devices_.end() ? nullptr : &found->second;
}

std::string LiveDomain::chardevPath(const std::string& chardevId) const {
    if (chardevId == "charmonitor") return monitorPath_;
    const LiveDevice* device = chardevId.starts_with("char") ? find(chardevId.substr(4)) : nullptr;
    return device ? childAttribute(device->element, "source", "path") : "";
}

nlohmann::json LiveDomain::vncAddress() const {
    for (const pugi::xml_node graphics : document_.child("domstatus").child("domain").child("devices").children("graphics")) {
        const std::string host = childAttribute(graphics, "listen", "address"), port = attribute(graphics, "port");
        if (attribute(graphics, "type") != "vnc" || host.empty() || port.empty() || port == "-1") continue;
        return {{"type", "inet"}, {"host", host}, {"port", port}};
    }
    return nullptr;
}

std::string placeOf(const OptionValue& device) {
    const std::string bus = device["bus"];
    if (device.has("memdev") && device.has("slot")) return "dimm/" + device["slot"];
    if (bus.empty()) return "";
    if (const std::string addr = device["addr"]; !addr.empty()) {
        // `0x1`, `1`, `0x1.0x0` and `0x1.0` are one place.
        const std::size_t dot = addr.find('.');
        const auto number = [](const std::string& text) { return std::strtoul(text.c_str(), nullptr, 16); };
        return bus + "/" + hex(number(addr)) + "." + std::to_string(dot == std::string::npos ? 0 : number(addr.substr(dot + 1)));
    }
    if (device.has("scsi-id"))
        return bus + "/" + (device.has("channel") ? device["channel"] : "0") + "/" + device["scsi-id"] + "/" + device["lun"];
    for (const char* key : {"nr", "port", "unit"})
        if (device.has(key)) return bus + "/" + device[key];
    return bus;
}

}  // namespace vh
