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

namespace {

std::string notUnderstood(const std::exception& error) {
    return std::string("cannot be understood: ") + error.what();
}

}  // namespace

std::string ramSectionPath(const VmDirectory& directory, unsigned generation) {
    return directory.generation(generation) + "/ram-blocks";
}

void keepRamSection(const VmDirectory& directory, unsigned generation, std::string_view section) {
    // A VMM that another manager started has no directory of ours yet.
    makeDirectories(directory.generation(generation), 0711);
    replaceFile(ramSectionPath(directory, generation), section, 0600, Outlives::Writer);
}

std::optional<KeptRamBlocks> keptRamBlocks(const VmDirectory& directory, unsigned generation) {
    KeptRamBlocks kept{ramSectionPath(directory, generation), {}, {}};
    struct stat status {};
    if (::stat(kept.file.c_str(), &status) != 0) return std::nullopt;
    try {
        kept.blocks = decodeRamBlocks(readFile(kept.file, maxRamBlockSectionBytes));
    } catch (const std::exception& error) {
        kept.error = notUnderstood(error);
    }
    return kept;
}

json toJson(const KeptRamBlocks& kept) {
    if (!kept.error.empty()) return {{"file", kept.file}, {"error", kept.error}};
    json blocks = json::array();
    for (const RamBlock& block : kept.blocks) blocks.push_back(toJson(block));
    return {{"file", kept.file}, {"blocks", blocks}};
}

KeptRamBlocks keptRamBlocksFromJson(const json& value) {
    const JsonReader reader(value);
    KeptRamBlocks kept{reader.text("/file"), {}, reader.text("/error")};
    try {
        for (const json& block : reader.list("/blocks")) kept.blocks.push_back(ramBlockFromJson(block));
    } catch (const std::exception& error) {
        kept.error = notUnderstood(error);
    }
    return kept;
}

std::string keptRamBlocksText(const KeptRamBlocks& kept) {
    if (!kept.error.empty()) return "RAM blocks: '" + kept.file + "' " + kept.error + "\n";
    std::string text = "RAM blocks, as the last handover found them ('vmm-shim dump " + kept.file + "' has the rest):\n";
    for (const RamBlock& block : kept.blocks)
        text += "  " + block.idstr + ": " + exactSize(block.used_length) +
                (block.used_length == block.max_length ? "" : " of " + exactSize(block.max_length)) +
                (block.shared ? ", shared" : "") + (block.resizable ? ", resizable" : "") + "\n";
    return text;
}

}  // namespace vh
