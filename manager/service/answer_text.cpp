#include "manager/service/answer_text.h"

#include "manager/record/last_report.h"
#include "manager/service/terminal.h"
#include "vmm-shim/json_text.h"

namespace vh {

using nlohmann::json;

std::string listText(const json& value) {
    const json& vms = JsonReader(value).list("/vms");
    if (vms.empty()) return "no VMs are running here; 'virt-handover start FILE.yaml' starts one\n";
    Table table({"VM", "STATE", "PID", "VMM", "MACHINE", "ACCELERATOR"});
    std::string errors;
    for (const json& entry : vms) {
        const JsonReader vm(entry);
        table.add({vm.shown("/vm"), vm.shown("/state"), vm.shown("/pid"), vm.text("/vmm") + " " + vm.text("/version"),
                   vm.text("/machine"), vm.text("/accelerator")});
        if (const std::string error = vm.text("/error"); !error.empty()) errors += error + "\n";
        if (vm.text("/state") == "handover interrupted")
            errors += "vm '" + vm.text("/vm") +
                      "': a manager died in the middle of a handover, and its guest may stand still; "
                      "'virt-handover upgrade " +
                      vm.text("/vm") + " --dry-run' finishes or undoes that\n";
    }
    return table.text() + errors;
}

std::string showText(const json& value) {
    const JsonReader vm(value);
    std::string text;
    for (const std::string key :
         {"vm", "state", "pid", "vmm", "version", "binary", "machine", "accelerator", "uuid", "definitionFile", "directory"})
        text += key + ": " + vm.shown("/" + key) + "\n";
    for (const json& entry : vm.list("/passthrough")) {
        const JsonReader device(entry);
        text += "passed through: " + device.shown("/id") + ", " + device.shown("/address") + ", by its " +
                device.shown("/interface") + " ('" + device.shown("/node") + "')\n";
    }
    text += lastReportText(vm.at("/lastHandover"));
    text += "started with:\n";
    if (const json& definition = vm.at("/definition"); definition.is_object())
        for (const auto& [key, entry] : definition.items()) text += "  " + key + ": " + JsonReader(entry).shown("") + "\n";
    return text;
}

std::string stateText(const json& value) {
    const JsonReader vm(value);
    std::string text = vm.shown("/vm") + ": " + vm.shown("/state") + "\n";
    for (const json& entry : vm.list("/ended")) {
        const JsonReader process(entry);
        text +=
            "  ended " + process.shown("/process") + (process.isTrue("/onRecord") ? "" : ", which was on no record of it") + "\n";
    }
    for (const json& warning : vm.list("/warnings")) text += "  warning: " + JsonReader(warning).shown("") + "\n";
    return text;
}

}  // namespace vh
