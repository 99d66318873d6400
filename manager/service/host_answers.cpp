#include "manager/service/host_answers.h"

namespace vh {

using nlohmann::json;

namespace {

/// What can be said of a VM without asking its VMM; nothing when it has to be asked.
std::string stateOnRecord(const VmRecord& record, const VmDirectory& directory) {
    const bool lives = isAlive(record.vmm);
    const bool isBusy = !directory.tryLock();
    if (record.starting) return isBusy ? "starting" : "start interrupted";
    if (record.fresh && (!lives || !isBusy)) return "handover interrupted";
    if (record.fresh) return record.standingBy ? "standing by" : "handover";
    if (!lives) return "dead";
    // A VMM serves one monitor client at a time, and whoever is at work on this VM may be it.
    if (isBusy) return "busy";
    // At first an adopted VM has no monitor but its own manager's.
    return record.adopted && record.vmm.generation == 1 ? "running" : "";
}

}  // namespace

VerbResult failure(ExitCode code, const std::string& error) {
    return {code, {{"error", error}}};
}

VerbResult noSuchVm(const std::string& vm) {
    return failure(ExitCode::Usage, "vm '" + vm + "' is not running here; 'virt-handover list' shows those that are");
}

json summary(const std::string& vm, const VmRecord& record, const VmDirectory& directory) {
    json devices = json::array();
    for (const PassedDevice& device : record.passthrough) devices.push_back(toJson(device));
    return {{"vm", vm},
            {"state", stateOnRecord(record, directory)},
            {"pid", record.vmm.pid},
            {"vmm", record.vmm.kind},
            {"version", record.vmm.version},
            {"binary", record.vmm.binary},
            {"machine", record.machine},
            {"accelerator", name(record.accelerator)},
            {"uuid", record.uuid},
            {"passthrough", devices}};
}

std::string leftText(const VmRecord& record) {
    const std::string pid = std::to_string(record.retiring->pid);
    return "a VMM of an earlier upgrade of vm '" + record.definition().name + "', pid " + pid +
           ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not answer? '/proc/" + pid +
           "/stack' says what it waits for). The guest runs on pid " + std::to_string(record.vmm.pid) +
           " and that one can never run it again, but it still has the guest's memory and files open; every further command on "
           "this "
           "VM tries to end it first";
}

}  // namespace vh
