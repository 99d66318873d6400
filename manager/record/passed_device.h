// A host's PCI device that is passed through to a guest, as it is known of a running VM: a value. manager/resources/passthrough.h
// finds and opens them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "config/vm_definition.h"

namespace vh {

/// A device of a running VM, as it was found at the first start.
struct PassedDevice {
    std::string id;
    std::string address;
    VfioInterface interface = VfioInterface::Cdev;  ///< Never Auto.
    unsigned group = 0;                             ///< Its IOMMU group.
    std::string node;                               ///< `/dev/vfio/devices/vfio0`, or `/dev/vfio/12`.
    bool bound = false;                             ///< By us, to vfio-pci.
    struct Owner {
        uid_t uid = 0;
        gid_t gid = 0;
        bool operator==(const Owner&) const = default;
    };
    std::optional<Owner> formerOwner;  ///< Of the node, when the VMM's user was made its owner.

    bool operator==(const PassedDevice&) const = default;
};

nlohmann::json toJson(const PassedDevice& device);
PassedDevice passedDeviceFromJson(const nlohmann::json& value);

}  // namespace vh
