#include "vmm-shim/tool/dump.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <map>
#include <variant>

#include "vmm-shim/bytes.h"
#include "vmm-shim/cpr_state.h"
#include "vmm-shim/main_stream.h"
#include "vmm-shim/ram_block_json.h"
#include "vmm-shim/ram_block_section.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/tool/vm_description.h"

namespace vh {
namespace {

using nlohmann::json;

std::string counted(std::size_t count, const std::string& thing) {
    return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

std::string identityText(const FileIdentity& identity) {
    return std::to_string(major(identity.device)) + ":" + std::to_string(minor(identity.device)) + ":" +
           std::to_string(identity.inode);
}

std::string flagsText(const RamBlock& block) {
    std::string text;
    for (const auto& [bit, name, member] : ramBlockFlags)
        if (block.*member) append(text, name, ",");
    return text.empty() ? "-" : text;
}

/// The vfio devices of a CPR state, when it can have any.
void addVfioDevices(const CprState& state, Dump& dump) {
    if (!state.vfioDevices) return;
    dump.value["vfioDevices"] = json::array();
    Table table({"VFIO DEVICE", "DEVID", "IOAS", "HWPT"});
    for (const CprVfioDevice& device : *state.vfioDevices) {
        dump.value["vfioDevices"].push_back(
            {{"name", device.name}, {"devid", device.devid}, {"ioas_id", device.ioas_id}, {"hwpt_id", device.hwpt_id}});
        table.add({device.name, std::to_string(device.devid), std::to_string(device.ioas_id), std::to_string(device.hwpt_id)});
    }
    if (!state.vfioDevices->empty()) dump.text += "\n" + table.text();
}

Dump dumpCprState(std::string_view bytes) {
    const CprState state = decodeCprState(bytes);
    Dump dump{
        "CPR state, " + counted(bytes.size(), "byte") + ", " + counted(state.fds.size(), "descriptor") + ", " +
            (state.vfioDevices ? counted(state.vfioDevices->size(), "vfio device") : "no list of vfio devices (QEMU 10.0)") +
            "\n",
        {{"kind", "cpr-state"}, {"bytes", bytes.size()}, {"fds", json::array()}}};
    Table table({"NAME", "ID"});
    for (const CprFd& entry : state.fds) {
        dump.value["fds"].push_back({{"name", entry.name}, {"id", entry.id}});
        table.add({entry.name, std::to_string(entry.id)});
    }
    dump.text += table.text();
    addVfioDevices(state, dump);
    return dump;
}

/// Rows and JSON of a main stream's parts, one after the other.
class PartPrinter {
 public:
    json parts = json::array();

    std::string text() const { return rows_.text(); }

    void operator()(const CommandPart& part) {
        const std::string command(name(part.command));
        parts.push_back({{"kind", "COMMAND"}, {"command", command}, {"bytes", part.data.size()}});
        rows_.add({"COMMAND", "", command, counted(part.data.size(), "byte")});
    }
    void operator()(const RamPart& part) {
        const char* kind = part.kind == RamPart::Kind::START ? "START" : part.kind == RamPart::Kind::PART ? "PART" : "END";
        json blocks = json::array();
        std::map<std::string, std::size_t> zeroPages, copiedPages;
        for (const RamRecord& record : part.records) {
            if (const auto* setup = std::get_if<RamSetup>(&record)) {
                for (const StreamRamBlock& block : setup->blocks) blocks.push_back(toJson(block));
            } else if (const auto* page = std::get_if<RamPage>(&record)) {
                if (page->idstr) block_ = *page->idstr;
                ++(std::holds_alternative<std::string>(page->content) ? copiedPages : zeroPages)[block_];
            }
        }
        parts.push_back({{"kind", kind},
                         {"section_id", part.section_id},
                         {"idstr", "ram"},
                         {"blocks", blocks},
                         {"zeroPages", zeroPages},
                         {"copiedPages", copiedPages}});
        std::size_t zero = 0, copied = 0;
        for (const auto& [block, count] : zeroPages) zero += count;
        for (const auto& [block, count] : copiedPages) copied += count;
        rows_.add({kind, std::to_string(part.section_id), "ram",
                   (blocks.empty() ? "" : counted(blocks.size(), "block") + ", ") + counted(copied, "page") + " copied, " +
                       std::to_string(zero) + " of zeroes"});
        for (const json& block : blocks)
            rows_.add({"", "", "  " + block["idstr"].get<std::string>(), block["used_length"].dump() + " bytes"});
    }
    void operator()(const DevicePart& part) {
        parts.push_back({{"kind", "FULL"},
                         {"section_id", part.section_id},
                         {"idstr", part.idstr},
                         {"instance_id", part.instance_id},
                         {"version_id", part.version_id},
                         {"bytes", part.state.size()}});
        rows_.add({"FULL", std::to_string(part.section_id), part.idstr,
                   "instance " + std::to_string(part.instance_id) + ", version " + std::to_string(part.version_id) + ", " +
                       counted(part.state.size(), "byte")});
    }

 private:
    static json toJson(const StreamRamBlock& block) {
        json value{{"idstr", block.idstr}, {"used_length", block.used_length}};
        if (block.page_size) value["page_size"] = *block.page_size;
        if (block.mr_addr) value["mr_addr"] = *block.mr_addr;
        return value;
    }

    Table rows_{{"PART", "SECTION", "IDSTR", "WHAT"}};
    std::string block_;  ///< That of the page before.
};

Dump dumpMainStream(std::string_view bytes) {
    const MainStream stream = decodeDescribedStream(bytes);
    const StreamConfiguration& configuration = stream.configuration;
    Dump dump{"main stream, " + counted(bytes.size(), "byte") + ", machine " + configuration.machine + "\n",
              {{"kind", "main-stream"}, {"bytes", bytes.size()}, {"machine", configuration.machine}}};
    if (configuration.target_page_bits) dump.value["target_page_bits"] = *configuration.target_page_bits;
    if (configuration.capabilities) {
        dump.value["capabilities"] = *configuration.capabilities;
        std::string names;
        for (const std::string& capability : *configuration.capabilities) names += " " + capability;
        dump.text += "capabilities:" + names + "\n";
    }
    PartPrinter printer;
    for (const StreamPart& part : stream.parts) std::visit(printer, part);
    dump.value["parts"] = printer.parts;
    dump.text += printer.text();
    return dump;
}

}  // namespace

Dump dump(std::string_view bytes) {
    if (bytes.starts_with("QCPR")) return dumpCprState(bytes);
    // Both are "QEVM" version 3; QEMU's own begins with the configuration (migration/savevm.c:qemu_savevm_state_header).
    if (constexpr std::string_view mainStream("QEVM\0\0\0\3\7", 9); bytes.starts_with(mainStream)) return dumpMainStream(bytes);
    if (!bytes.starts_with("QEVM"))
        throw DecodeError(0, "this is no CPR state ('QCPR'), and no main stream or record of RAM blocks ('QEVM')");
    const Dump blocks = dump(decodeRamBlocks(bytes));
    return {"record of RAM blocks, " + counted(bytes.size(), "byte") + "\n" + blocks.text,
            {{"kind", "ram-blocks"}, {"ramBlocks", blocks.value}}};
}

Dump dump(const std::vector<RamBlock>& blocks) {
    Dump dump{"", json::array()};
    Table table({"RAM BLOCK", "USED", "MAX", "PAGE", "ALIGN", "FLAGS", "FILE", "SIZE", "FD"});
    for (const RamBlock& block : blocks) {
        dump.value.push_back(toJson(block));
        table.add({block.idstr, std::to_string(block.used_length), std::to_string(block.max_length),
                   std::to_string(block.page_size), std::to_string(block.align), flagsText(block),
                   block.file ? identityText(block.file->identity) : "-", block.file ? std::to_string(block.file->size) : "-",
                   block.file && block.file->fd >= 0 ? std::to_string(block.file->fd) : "-"});
    }
    dump.text = table.text();
    return dump;
}

Dump dump(const CprCapture& capture, const std::vector<RamBlock>& blocks) {
    Dump dump{"", {{"fds", json::array()}}};
    Table table({"NAME", "ID", "FILE", "SIZE", "RAM BLOCK"});
    for (std::size_t i = 0; i < capture.state.fds.size(); ++i) {
        const CprFd& entry = capture.state.fds[i];
        struct stat status {};
        if (::fstat(capture.descriptors[i].get(), &status) != 0) throwErrno("fstat of '" + entry.name + "'");
        const FileIdentity identity{status.st_dev, status.st_ino};
        const auto size = static_cast<std::uint64_t>(status.st_size);
        const auto block = std::ranges::find_if(
            blocks, [&](const RamBlock& candidate) { return candidate.file && candidate.file->identity == identity; });
        json value{{"name", entry.name}, {"id", entry.id}, {"file", toJson(identity, size)}, {"ramBlock", nullptr}};
        if (block != blocks.end()) value["ramBlock"] = block->idstr;
        dump.value["fds"].push_back(value);
        table.add({entry.name, std::to_string(entry.id), identityText(identity), std::to_string(size),
                   block == blocks.end() ? "-" : block->idstr});
    }
    dump.text = table.text();
    addVfioDevices(capture.state, dump);
    return dump;
}

Dump dump(const std::vector<RamBlockDifference>& differences) {
    Dump dump{"", json::array()};
    for (const RamBlockDifference& difference : differences) {
        dump.value.push_back({{"severity", name(difference.severity)},
                              {"idstr", difference.idstr},
                              {"field", difference.field},
                              {"old", difference.old},
                              {"new", difference.new_},
                              {"why", difference.why}});
        dump.text += std::string(name(difference.severity)) + ": " + describe(difference) + "\n";
    }
    return dump;
}

}  // namespace vh
