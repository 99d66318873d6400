#include "manager/service/vm_summary.h"

#include "vmm-shim/json_text.h"

namespace vh {

using nlohmann::json;

json toJson(const VmSummary& vm) {
    if (!vm.error.empty()) return {{"vm", vm.vm}, {"state", vm.state}, {"error", vm.error}};
    json devices = json::array();
    for (const PassedDevice& device : vm.passthrough) devices.push_back(toJson(device));
    return {{"vm", vm.vm},           {"state", vm.state},     {"pid", vm.pid},         {"vmm", vm.kind},
            {"version", vm.version}, {"binary", vm.binary},   {"machine", vm.machine}, {"accelerator", vm.accelerator},
            {"uuid", vm.uuid},       {"passthrough", devices}};
}

json toJson(const VmDetails& vm) {
    json value = toJson(vm.summary);
    value["definitionFile"] = vm.definitionFile;
    value["definition"] = vm.definition;
    value["directory"] = vm.directory;
    if (vm.lastHandover) value["lastHandover"] = toJson(*vm.lastHandover);
    if (vm.ramBlocks) value["ramBlocks"] = toJson(*vm.ramBlocks);
    if (vm.handoverTo) value["handoverTo"] = {{"pid", vm.handoverTo->pid}, {"binary", vm.handoverTo->binary}};
    return value;
}

VmSummary vmSummaryFromJson(const json& value) {
    const JsonReader reader(value);
    VmSummary vm{.vm = reader.shown("/vm"),
                 .state = reader.shown("/state"),
                 .pid = static_cast<pid_t>(reader.count("/pid")),
                 .kind = reader.text("/vmm"),
                 .version = reader.text("/version"),
                 .binary = reader.text("/binary"),
                 .machine = reader.text("/machine"),
                 .accelerator = reader.text("/accelerator"),
                 .uuid = reader.text("/uuid"),
                 .error = reader.text("/error")};
    for (const json& entry : reader.list("/passthrough")) {
        const JsonReader device(entry);
        const bool byGroup = device.text("/interface") == name(VfioInterface::Group);
        vm.passthrough.push_back({.id = device.shown("/id"),
                                  .address = device.shown("/address"),
                                  .interface = byGroup ? VfioInterface::Group : VfioInterface::Cdev,
                                  .node = device.shown("/node")});
    }
    return vm;
}

VmDetails vmDetailsFromJson(const json& value) {
    const JsonReader reader(value);
    VmDetails vm{.summary = vmSummaryFromJson(value),
                 .definitionFile = reader.text("/definitionFile"),
                 .directory = reader.text("/directory")};
    if (const json& last = reader.at("/lastHandover"); last.is_object()) vm.lastHandover = lastReportFromJson(last);
    if (const json& kept = reader.at("/ramBlocks"); kept.is_object()) vm.ramBlocks = keptRamBlocksFromJson(kept);
    if (const json& definition = reader.at("/definition"); definition.is_object())
        for (const auto& [key, entry] : definition.items()) vm.definition[key] = JsonReader(entry).shown("");
    return vm;
}

}  // namespace vh
