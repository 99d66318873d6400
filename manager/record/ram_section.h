// The RAM blocks that a handover has found in a VMM, kept beside what else there is of it: the section that the two VMMs were
// compared by (vmm-shim/ram_block_section.h), for `show`, and for `vmm-shim dump` and `vmm-shim diff`. Nothing is decided by it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/record/vm_directory.h"
#include "vmm-shim/ram_blocks.h"

namespace vh {

struct KeptRamBlocks {
    std::string file;
    std::vector<RamBlock> blocks;
    std::string error;  ///< Why they cannot be told; empty when they can.
};

/// The file of a generation's section.
std::string ramSectionPath(const VmDirectory& directory, unsigned generation);

/// Replaces the kept section, at once. Throws std::system_error.
void keepRamSection(const VmDirectory& directory, unsigned generation, std::string_view section);

/// None when nothing is kept.
std::optional<KeptRamBlocks> keptRamBlocks(const VmDirectory& directory, unsigned generation);

/// `{"file": PATH, "blocks": [...]}`, or `error` in place of the blocks.
nlohmann::json toJson(const KeptRamBlocks& kept);
/// Also of what a manager of another version has said: blocks that are not as this one knows them have an `error`.
KeptRamBlocks keptRamBlocksFromJson(const nlohmann::json& value);

std::string keptRamBlocksText(const KeptRamBlocks& kept);

}  // namespace vh
