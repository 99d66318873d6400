// The devices that a running domain has now, by libvirt's status XML: names, places, block nodes.
#pragma once

#include <map>
#include <pugixml.hpp>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "plugin/domain/qemu_option.h"

namespace vh {

/// An image of a disk's chain, by the names of its block nodes.
struct LiveImage {
    std::string format;  ///< Empty for a raw image without a layer of its own (libvirt 11.3).
    std::string storage;

    const std::string& top() const { return format.empty() ? storage : format; }
    bool operator==(const LiveImage&) const = default;
};

struct LiveDevice {
    pugi::xml_node element;
    std::string alias;
    std::string place;                  ///< See placeOf(); empty when it has no address that says where it is.
    nlohmann::ordered_json pciAddress;  ///< `bus`, `addr` and perhaps `multifunction`, as -device has them; null without.
    std::vector<LiveImage> chain;       ///< Images of a disk, top first.
};

class LiveDomain {
 public:
    /// Reads status XML. Throws std::runtime_error when it is none, or one from which devices cannot be told.
    explicit LiveDomain(const std::string& statusXml);

    /// The ids of all devices in QEMU, those that have no element of their own included.
    const std::set<std::string>& ids() const { return ids_; }
    const LiveDevice* find(const std::string& alias) const;
    /// The `<source path=...>` of the character device with this QEMU id: `/dev/pts/3` or a socket's path; empty without.
    std::string chardevPath(const std::string& chardevId) const;
    /// Address of VNC, as QMP's SocketAddress; null without VNC, or when it listens nowhere.
    nlohmann::json vncAddress() const;

 private:
    pugi::xml_document document_;
    std::set<std::string> ids_;
    std::string monitorPath_;
    std::map<std::string, LiveDevice> devices_;
};

/// The place of a device, by its bus and the address there: `pci.5/0x0.0`, `scsi0.0/0/0/1`. Empty when it does not say.
std::string placeOf(const OptionValue& device);

}  // namespace vh
