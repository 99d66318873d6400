// A RAM block as JSON; for programs that have nlohmann::json, which the library of this room does without.
#pragma once

#include <nlohmann/json.hpp>

#include "vmm-shim/ram_blocks.h"

namespace vh {

inline nlohmann::json toJson(const FileIdentity& identity, std::uint64_t size) {
    return {{"st_dev", identity.device}, {"st_ino", identity.inode}, {"st_size", size}};
}

inline nlohmann::json toJson(const RamBlock& block) {
    nlohmann::json file;
    if (block.file) {
        file = toJson(block.file->identity, block.file->size);
        file["fd"] = block.file->fd;
    }
    nlohmann::json value{{"idstr", block.idstr},           {"used_length", block.used_length},
                         {"max_length", block.max_length}, {"page_size", block.page_size},
                         {"align", block.align},           {"file", file}};
    for (const auto& [bit, name, member] : ramBlockFlags) value[name] = block.*member;
    return value;
}

}  // namespace vh
