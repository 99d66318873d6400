// Output of the tool: tables for people, JSON for programs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "vmm-shim/cpr_channel.h"
#include "vmm-shim/ram_block_differences.h"

namespace vh {

/// A value for both kinds of readers.
struct Dump {
    std::string text;
    nlohmann::json value;
};

/// Dumps saved bytes: a CPR state, a main stream, or a record of RAM blocks, told apart by their first bytes. Throws DecodeError.
Dump dump(std::string_view bytes);

Dump dump(const std::vector<RamBlock>& blocks);

/// Dumps a capture with the files behind its entries, and the RAM block that each belongs to.
Dump dump(const CprCapture& capture, const std::vector<RamBlock>& blocks);

Dump dump(const std::vector<RamBlockDifference>& differences);

}  // namespace vh
