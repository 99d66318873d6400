#include "manager/record/ram_section.h"

#include <sys/stat.h>

#include <exception>

#include "vmm-shim/file.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/ram_block_json.h"
#include "vmm-shim/ram_block_section.h"
#include "vmm-shim/text.h"

namespace vh {

using nlohmann::json;

std::string ramSectionPath(const VmDirectory& directory, unsigned generation) {
    return directory.generation(generation) + "/ram-blocks";
}

void keepRamSection(const VmDirectory& directory, unsigned generation, std::string_view section) {
    // A VMM that another manager started has no directory of ours yet.
    makeDirectories(directory.generation(generation), 0711);
    replaceFile(ramSectionPath(directory, generation), section, 0600, Outlives::Writer);
}

json keptRamBlocks(const VmDirectory& directory, unsigned generation) {
    const std::string path = ramSectionPath(directory, generation);
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return {};
    json value{{"file", path}};
    try {
        json blocks = json::array();
        for (const RamBlock& block : decodeRamBlocks(readFile(path, maxRamBlockSectionBytes))) blocks.push_back(toJson(block));
        value["blocks"] = blocks;
    } catch (const std::exception& error) {
        value["error"] = std::string("cannot be understood: ") + error.what();
    }
    return value;
}

std::string keptRamBlocksText(const json& value) {
    const JsonReader kept(value);
    const std::string file = "'" + kept.text("/file") + "'";
    if (!value.is_object()) return {};
    if (const std::string error = kept.text("/error"); !error.empty()) return "RAM blocks: " + file + " " + error + "\n";
    std::string text = "RAM blocks, as the last handover found them ('vmm-shim dump " + kept.text("/file") + "' has the rest):\n";
    for (const json& one : kept.list("/blocks")) {
        const JsonReader block(one);
        const std::uint64_t used = block.count("/used_length"), most = block.count("/max_length");
        text += "  " + block.shown("/idstr") + ": " + exactSize(used) + (used == most ? "" : " of " + exactSize(most)) +
                (block.isTrue("/shared") ? ", shared" : "") + (block.isTrue("/resizable") ? ", resizable" : "") + "\n";
    }
    return text;
}

}  // namespace vh
