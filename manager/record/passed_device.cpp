#include "manager/record/passed_device.h"

namespace vh {

using nlohmann::json;

json toJson(const PassedDevice& device) {
    json value{{"id", device.id},       {"address", device.address}, {"interface", name(device.interface)},
               {"group", device.group}, {"node", device.node},       {"bound", device.bound}};
    if (device.formerOwner) value["formerOwner"] = {{"uid", device.formerOwner->uid}, {"gid", device.formerOwner->gid}};
    return value;
}

PassedDevice passedDeviceFromJson(const json& value) {
    PassedDevice device;
    value.at("id").get_to(device.id);
    value.at("address").get_to(device.address);
    device.interface = value.at("interface") == name(VfioInterface::Group) ? VfioInterface::Group : VfioInterface::Cdev;
    value.at("group").get_to(device.group);
    value.at("node").get_to(device.node);
    value.at("bound").get_to(device.bound);
    if (value.contains("formerOwner")) {
        const json& owner = value.at("formerOwner");
        device.formerOwner = PassedDevice::Owner{owner.at("uid").get<uid_t>(), owner.at("gid").get<gid_t>()};
    }
    return device;
}

}  // namespace vh
