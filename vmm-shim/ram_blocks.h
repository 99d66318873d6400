// The RAM blocks of a VMM, and what differs between those of two.
//
// A VMM creates blocks that nobody named on its command line (firmware, option ROMs, video memory, ACPI tables). Their sizes
// follow the VMM's release and the ROM files installed beside it, and QEMU compares them only after the guest has been stopped
// (migration/ram.c:parse_ramblock, 10.0 and 11.1). Comparing them here, while the guest still runs, is the point of this file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vh {

struct RamBlock {
    std::string idstr;
    std::uint64_t used_length = 0;  ///< Bytes in use; what the migration stream carries.
    std::uint64_t max_length = 0;   ///< Bytes mapped; on no wire.

    bool operator==(const RamBlock&) const = default;
};

/// Reads the table that QMP's `x-query-ramblock` returns (system/physmem.c:ram_block_format, 10.0 and 11.1):
///     Block Name    PSize              Offset               Used              Total                HVA  RO
/// Throws std::invalid_argument naming the line that it does not understand.
std::vector<RamBlock> parseRamBlockTable(std::string_view text);

/// What stands between two VMMs' RAM, in words, one block each; empty when the new VMM can take over the old one's.
/// `sharesImplicitBlocks` says that the new VMM maps the very blocks of the old one (CPR) instead of receiving a copy: then their
/// max_length is the size of one file and must be equal.
std::vector<std::string> fatalDifferences(const std::vector<RamBlock>& old, const std::vector<RamBlock>& fresh,
                                          bool sharesImplicitBlocks);

}  // namespace vh
