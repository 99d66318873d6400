// The RAM blocks that a handover has found in a VMM, kept beside what else there is of it: the section that the two VMMs were
// compared by (vmm-shim/ram_block_section.h), for `show`, and for `vmm-shim dump` and `vmm-shim diff`. Nothing is decided by it.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "manager/record/vm_directory.h"

namespace vh {

/// Where a generation's section is.
std::string ramSectionPath(const VmDirectory& directory, unsigned generation);

/// In place of the one before, at once. Throws std::system_error.
void keepRamSection(const VmDirectory& directory, unsigned generation, std::string_view section);

/// `{"file": PATH, "blocks": [...]}` of what is kept; `error` in place of the blocks when it cannot be understood. Null when
/// nothing is.
nlohmann::json keptRamBlocks(const VmDirectory& directory, unsigned generation);

/// What there is to say of a JSON value of keptRamBlocks().
std::string keptRamBlocksText(const nlohmann::json& value);

}  // namespace vh
