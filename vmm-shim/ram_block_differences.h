// Differences between the RAM blocks of two VMMs, and what follows from each for a handover from one to the other.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vmm-shim/ram_blocks.h"

namespace vh {

/// The way of a block's content to the new VMM.
enum class RamTransfer {
    Copied,            ///< Every block is sent in the stream, into memory of the new VMM's own.
    NamedFilesShared,  ///< Named files are mapped by both; the rest is copied (x-ignore-shared).
    AllShared,         ///< The new VMM maps every block's file (CPR).
};

enum class Severity {
    Harmless,   ///< Has no consequence.
    Adaptable,  ///< The new VMM, or we, make up for it.
    Fatal,      ///< The handover would fail, or lose memory.
};

/// A property of a block in which an old and a new VMM differ.
struct RamBlockDifference {
    std::string idstr;
    std::string field;  ///< Name as in RamBlock; `block` for one that exists on one side only.
    std::string old;    ///< Text for people: `16 MiB`, `yes`, `absent`.
    std::string new_;
    Severity severity = Severity::Fatal;
    std::string why;  ///< Consequence, in words.

    bool operator==(const RamBlockDifference&) const = default;
};

/// Differences in the order of the old VMM's blocks, then of those that only the new one has.
std::vector<RamBlockDifference> differences(const std::vector<RamBlock>& old, const std::vector<RamBlock>& new_,
                                            RamTransfer transfer);

/// A line for people: `vga.vram: max_length 16 MiB on the old VMM, 32 MiB on the new one: ...`.
std::string describe(const RamBlockDifference& difference);

std::string_view name(Severity);

}  // namespace vh
