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

/// What toJson() made. Throws nlohmann::json::exception for what is none.
inline RamBlock ramBlockFromJson(const nlohmann::json& value) {
    RamBlock block;
    value.at("idstr").get_to(block.idstr);
    value.at("used_length").get_to(block.used_length);
    value.at("max_length").get_to(block.max_length);
    value.at("page_size").get_to(block.page_size);
    value.at("align").get_to(block.align);
    if (const nlohmann::json& file = value.at("file"); !file.is_null())
        block.file = BackingFile{{file.at("st_dev"), file.at("st_ino")}, file.at("st_size"), file.at("fd")};
    for (const auto& [bit, name, member] : ramBlockFlags) value.at(name).get_to(block.*member);
    return block;
}

}  // namespace vh
