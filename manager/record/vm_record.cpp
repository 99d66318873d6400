#include "manager/record/vm_record.h"

#include <algorithm>
#include <stdexcept>

#include "config/parse.h"
#include "config/scalars.h"
#include "manager/process/child_process.h"

namespace vh {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(FileIdentity, device, inode)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(KeptDescriptor, descriptor, file)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NodeOwner, uid, gid)

namespace {

using nlohmann::json;

constexpr int recordFormat = 1;

json toJson(const VmmRecord& vmm) {
    json value{{"generation", vmm.generation},
               {"pid", vmm.pid},
               {"startTime", vmm.startTime},
               {"binary", vmm.binary},
               {"kind", vmm.kind},
               {"version", vmm.version},
               {"disks", vmm.disks}};
    if (vmm.ramDescriptor) value["ram"] = KeptDescriptor{*vmm.ramDescriptor, vmm.ram};
    if (!vmm.vfio.empty()) value["vfio"] = vmm.vfio;
    if (vmm.inboxDescriptor) value["inbox"] = *vmm.inboxDescriptor;
    return value;
}

VmmRecord vmmFromJson(const json& value) {
    VmmRecord vmm;
    value.at("generation").get_to(vmm.generation);
    value.at("pid").get_to(vmm.pid);
    value.at("startTime").get_to(vmm.startTime);
    value.at("binary").get_to(vmm.binary);
    vmm.kind = value.value("kind", vmm.kind);
    value.at("version").get_to(vmm.version);
    if (value.contains("ram")) {
        const auto ram = value.at("ram").get<KeptDescriptor>();
        vmm.ramDescriptor = ram.descriptor;
        vmm.ram = ram.file;
    }
    if (value.contains("vfio")) value.at("vfio").get_to(vmm.vfio);
    if (value.contains("inbox")) vmm.inboxDescriptor = value.at("inbox").get<int>();
    value.at("disks").get_to(vmm.disks);
    return vmm;
}

PassedDevice passedDeviceFromJson(const json& value) {
    PassedDevice device;
    value.at("id").get_to(device.id);
    value.at("address").get_to(device.address);
    device.interface = value.at("interface") == name(VfioInterface::Group) ? VfioInterface::Group : VfioInterface::Cdev;
    value.at("group").get_to(device.group);
    value.at("node").get_to(device.node);
    value.at("bound").get_to(device.bound);
    if (value.contains("formerOwner")) device.formerOwner = value.at("formerOwner").get<NodeOwner>();
    return device;
}

}  // namespace

json toJson(const PassedDevice& device) {
    json value{{"id", device.id},       {"address", device.address}, {"interface", name(device.interface)},
               {"group", device.group}, {"node", device.node},       {"bound", device.bound}};
    if (device.formerOwner) value["formerOwner"] = *device.formerOwner;
    return value;
}

json toJson(const VmRecord& record) {
    json value{{"format", recordFormat},
               {"definitionFile", record.definitionFile},
               {"definitionText", record.definitionText},
               {"uuid", record.uuid},
               {"machine", record.machine},
               {"accelerator", name(record.accelerator)},
               {"vmm", toJson(record.vmm)},
               {"guestWasRunning", record.guestWasRunning}};
    if (record.starting) value["starting"] = true;
    if (record.new_) value["new"] = toJson(*record.new_);
    if (record.toldToRun) value["toldToRun"] = true;
    if (record.retiring) value["retiring"] = toJson(*record.retiring);
    for (const PassedDevice& device : record.passthrough) value["passthrough"].push_back(toJson(device));
    if (record.adopted) value["adopted"] = toJson(*record.adopted);
    if (record.standingBy) value["standingBy"] = true;
    if (record.oomScore) value["oomScore"] = *record.oomScore;
    if (!record.parametersBefore.empty()) value["parametersBefore"] = record.parametersBefore;
    for (const MemoryFile& kept : record.memoryBefore) {
        value["memoryBefore"].push_back(kept.identity);
        value["memoryBefore"].back()["size"] = kept.size;
    }
    return value;
}

VmRecord vmRecordFromJson(const json& value) {
    if (value.at("format") != recordFormat) throw std::runtime_error("its format is " + value.at("format").dump());
    VmRecord record;
    value.at("definitionFile").get_to(record.definitionFile);
    value.at("definitionText").get_to(record.definitionText);
    value.at("uuid").get_to(record.uuid);
    value.at("machine").get_to(record.machine);
    record.accelerator = value.at("accelerator") == name(Accelerator::Kvm) ? Accelerator::Kvm : Accelerator::Tcg;
    record.vmm = vmmFromJson(value.at("vmm"));
    record.starting = value.value("starting", false);
    for (const char* key : {"new", "fresh"})  // As earlier releases called it.
        if (value.contains(key)) record.new_ = vmmFromJson(value.at(key));
    record.toldToRun = value.value("toldToRun", false);
    if (value.contains("retiring")) record.retiring = vmmFromJson(value.at("retiring"));
    for (const json& device : value.value("passthrough", json::array()))
        record.passthrough.push_back(passedDeviceFromJson(device));
    if (value.contains("adopted")) record.adopted = adoptedVmFromJson(value.at("adopted"));
    record.standingBy = value.value("standingBy", false);
    value.at("guestWasRunning").get_to(record.guestWasRunning);
    if (value.contains("oomScore")) record.oomScore = value.at("oomScore").get<int>();
    if (value.contains("parametersBefore")) value.at("parametersBefore").get_to(record.parametersBefore);
    for (const json& kept : value.value("memoryBefore", json::array()))
        record.memoryBefore.push_back({kept.get<FileIdentity>(), kept.at("size").get<std::uint64_t>()});
    return record;
}

VmDefinition VmRecord::definition() const {
    if (adopted) {
        VmDefinition definition{.name = adopted->title, .uuid = uuid, .machine = machine, .accelerator = accelerator};
        definition.memory = {.sizeBytes = adopted->memoryBytes, .owner = MemoryOwner::Vmm};
        return definition;
    }
    VmDefinition definition = parseVmDefinition(definitionText, definitionFile);
    definition.uuid = uuid;
    definition.machine = machine;
    definition.accelerator = accelerator;
    for (std::size_t i = 0; i < std::min(definition.vfio.size(), passthrough.size()); ++i) {
        definition.vfio[i].address = passthrough[i].address;
        definition.vfio[i].interface = passthrough[i].interface;
    }
    return definition;
}

std::vector<VmmRecord> VmRecord::vmms() const {
    std::vector<VmmRecord> all{vmm};
    for (const std::optional<VmmRecord>& other : {new_, retiring})
        if (other) all.push_back(*other);
    return all;
}

void VmRecord::forgetHandover() {
    new_.reset();
    toldToRun = false;
    standingBy = false;
    oomScore.reset();
    parametersBefore.clear();
    memoryBefore.clear();
}

bool isAlive(const VmmRecord& vmm) {
    return ChildProcess::adopt(vmm.pid, vmm.startTime).alive();
}

bool isVmName(std::string_view name) {
    constexpr std::string_view characters = "abcdefghijklmnopqrstuvwxyz0123456789-";
    return !name.empty() && name.size() <= 64 && !name.starts_with('-') &&
           name.find_first_not_of(characters) == std::string_view::npos;
}

std::string noVmName(std::string_view name) {
    return "'" + std::string(name.substr(0, 100)) + (name.size() > 100 ? "...'" : "'") + " cannot be the name of a VM (1 to " +
           std::to_string(longestVmName) + " of a-z, 0-9 and '-', the first no '-')";
}

}  // namespace vh
