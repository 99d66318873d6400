// The RAM blocks of a VMM, with the properties that nobody named on its command line, and what differs between those of two.
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
#include <string_view>
#include <vector>

#include "vmm-shim/file_identity.h"

namespace vh {

/// The file that a block is a mapping of.
struct BackingFile {
    FileIdentity identity;
    std::uint64_t size = 0;  ///< Bytes.
    int fd = -1;             ///< A descriptor of it inside the VMM process; -1 when it keeps none.

    bool operator==(const BackingFile&) const = default;
};

/// One block; names as in QEMU's struct RAMBlock (include/system/ramblock.h, 11.1).
struct RamBlock {
    std::string idstr;
    std::uint64_t used_length = 0;  ///< Bytes in use; what the migration stream carries.
    std::uint64_t max_length = 0;   ///< Bytes mapped; on no wire.
    std::uint64_t page_size = 4096;
    std::uint64_t align = 0;  ///< Of the mapping, as seen, but at most what QEMU asks for; 0 when unknown. See ram_blocks.cpp.
    // Flags (include/system/memory.h:RAM_*).
    bool shared = false;
    bool resizable = false;
    bool read_only = false;
    bool named_file = false;  ///< From memory-backend-file.
    bool guest_memfd = false;
    std::optional<BackingFile> file;  ///< None for anonymous memory.

    bool operator==(const RamBlock&) const = default;
};

/// What there is to learn a VMM's RAM blocks from, all of it without stopping the guest.
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

/// How a handover gets the content of a block to the new VMM.
enum class RamTransfer {
    Copied,            ///< Every block through the stream, into memory of the new VMM's own.
    NamedFilesShared,  ///< Named files are mapped by both; the rest is copied (x-ignore-shared).
    AllShared,         ///< The new VMM maps every block's file (CPR).
};

enum class Severity {
    Harmless,   ///< Nothing follows from it.
    Adaptable,  ///< The new VMM, or we, make up for it.
    Fatal,      ///< The handover would fail, or lose memory.
};

/// One property of one block in which an old and a new VMM differ.
struct RamBlockDifference {
    std::string idstr;
    std::string field;  ///< As in RamBlock; `block` for one that exists on one side only.
    std::string old;    ///< For people: `16 MiB`, `yes`, `absent`.
    std::string fresh;
    Severity severity = Severity::Fatal;
    std::string why;  ///< What follows from it, in words.

    bool operator==(const RamBlockDifference&) const = default;
};

/// Block by block, in the order of the old VMM's, then those that only the new one has.
std::vector<RamBlockDifference> differences(const std::vector<RamBlock>& old, const std::vector<RamBlock>& fresh,
                                            RamTransfer transfer);

/// One line for people: `vga.vram: max_length 16 MiB on the old VMM, 32 MiB on the new one: ...`.
std::string describe(const RamBlockDifference& difference);

std::string_view name(Severity);

}  // namespace vh
