// The RAM blocks of a VMM, with the properties that nobody named on its command line.
//
// A VMM creates blocks by itself (firmware, option ROMs, video memory, ACPI tables). Their sizes follow the VMM's release and the
// ROM files installed beside it. max_length, alignment, flags and the file behind a block are on no wire of QEMU's, and
// used_length is compared only after the guest has been stopped (migration/ram.c:parse_ramblock, 10.0 and 11.1). So both sides
// are looked at here, while the guest still runs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vmm-shim/file_identity.h"

namespace vh {

/// QEMU_VMALLOC_ALIGN on x86 (include/qemu/osdep.h, 10.0 and 11.1): a huge page.
inline constexpr std::uint64_t hugeAlign = std::uint64_t{2} << 20;

/// The file that a block is a mapping of.
struct BackingFile {
    FileIdentity identity;
    std::uint64_t size = 0;  ///< Bytes.
    int fd = -1;             ///< A descriptor of it inside the VMM process; -1 when it keeps none.

    bool operator==(const BackingFile&) const = default;
};

/// A RAM block; names as in QEMU's struct RAMBlock (include/system/ramblock.h, 11.1).
struct RamBlock {
    std::string idstr;
    std::uint64_t used_length = 0;  ///< Bytes in use; what the migration stream carries.
    std::uint64_t max_length = 0;   ///< Bytes mapped; on no wire.
    std::uint64_t page_size = 4096;
    std::uint64_t align = 0;  ///< Alignment as mapped, but at most what QEMU asks for; 0 when unknown. See ram_blocks.cpp.
    // Flags (include/system/memory.h:RAM_*).
    bool shared = false;
    bool resizable = false;
    bool read_only = false;
    bool named_file = false;  ///< Made by memory-backend-file.
    bool guest_memfd = false;
    std::optional<BackingFile> file;  ///< Absent for anonymous memory.

    bool operator==(const RamBlock&) const = default;
};

struct RamBlockFlag {
    std::uint32_t bit;  ///< Bit in a record of ours (ram_block_section.h).
    const char* name;
    bool RamBlock::*member;
};
inline constexpr RamBlockFlag ramBlockFlags[] = {
    {0x01, "shared", &RamBlock::shared},           {0x02, "resizable", &RamBlock::resizable},
    {0x04, "read_only", &RamBlock::read_only},     {0x08, "named_file", &RamBlock::named_file},
    {0x10, "guest_memfd", &RamBlock::guest_memfd},
};

/// Sources of a VMM's RAM blocks, all of them read without stopping the guest.
struct RamBlockSources {
    std::string table;                               ///< The text of QMP's `x-query-ramblock`.
    std::map<std::string, std::string> objectTypes;  ///< QMP's `qom-list /objects`: id -> type, `child<memory-backend-file>`.
    pid_t pid = 0;                                   ///< The VMM, for its mappings and descriptors; 0 to leave them out.
    std::string procRoot = "/proc";
};

/// Reads the table (system/physmem.c:ram_block_format, 10.0 and 11.1):
///     Block Name    PSize              Offset               Used              Total                HVA  RO
/// and adds what /proc/PID/maps and /proc/PID/fd say of each block's mapping. Throws std::invalid_argument naming the line that
/// it does not understand, std::system_error when the process cannot be looked at.
std::vector<RamBlock> gatherRamBlocks(const RamBlockSources& sources);

}  // namespace vh
