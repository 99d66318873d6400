// The main migration stream: devices, and what memory is copied. All numbers are big-endian.
//
//     "QEVM" be32 version=3
//     07  be32 length  machine type                              CONFIGURATION, then any of its subsections, in this order
//         05 1c "configuration/target-page-bits"  be32 1  be32 bits
//         05 1a "configuration/capabilities"      be32 1  be32 count  per capability: u8 length  name
//         05 12 "configuration/uuid"              be32 1  16 bytes
//     then any of
//     08  be16 command  be16 length  data                                                             COMMAND
//     01  be32 section_id  u8 length  idstr  be32 instance_id  be32 version_id  RAM records  footer    START, of "ram" alone
//     02  be32 section_id                                                       RAM records  footer    PART
//     03  be32 section_id                                                       RAM records  footer    END
//     04  be32 section_id  u8 length  idstr  be32 instance_id  be32 version_id  state        footer    FULL, of a device
//     with the footer
//     7e  be32 section_id
//     and after the last
//     00
//     06  be32 length  JSON                                      VMDESCRIPTION, unless the machine suppresses it
//
// A RAM record begins with a be64 that is an address and, below the page size, flags. The last of a section is EOS (10).
//     04 MEM_SIZE       the address is the sum of the used_lengths of the blocks that follow, each:
//                       u8 length  idstr  be64 used_length  [be64 page_size]  [be64 mr_addr]
//     02 ZERO           [u8 length  idstr]  u8 fill              the idstr is left out with 20 CONTINUE: the block before
//     08 PAGE           [u8 length  idstr]  one page             likewise
//     200 MULTIFD_FLUSH
//
// A device's state has no length and no tags: it is described by the JSON that comes last. The tool's vm_description.h reads
// that. Sources: migration/savevm.c, migration/savevm.h:QEMU_VM_*, migration/ram.c:ram_save_setup, parse_ramblock,
// ram_load_precopy; QEMU 10.0.2 and 11.1.1, tried on streams of 10.0.2 and 11.1.3.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace vh {

struct StreamConfiguration {
    std::string machine;
    std::optional<std::uint32_t> target_page_bits;         ///< Absent: 12 bits, the only ones of x86 (target/i386/cpu-param.h).
    std::optional<std::vector<std::string>> capabilities;  ///< Capabilities that both sides must have: x-ignore-shared is one.
    std::optional<std::array<std::uint8_t, 16>> uuid;      ///< Set with the capability validate-uuid.

    bool operator==(const StreamConfiguration&) const = default;
};

/// Commands of a stream that is no postcopy and no COLO (migration/savevm.c:enum qemu_vm_cmd).
enum class StreamCommand : std::uint16_t {
    OPEN_RETURN_PATH = 1,
    PING = 2,
    POSTCOPY_ADVISE = 3,
    SWITCHOVER_START = 11,
};

struct CommandPart {
    StreamCommand command{};
    std::string data;

    bool operator==(const CommandPart&) const = default;
};

/// A block as the set-up of the RAM section names it.
struct StreamRamBlock {
    std::string idstr;
    std::uint64_t used_length = 0;
    std::optional<std::uint64_t> page_size;  ///< Set with postcopy-ram, for blocks of huge pages.
    std::optional<std::uint64_t> mr_addr;    ///< Set with x-ignore-shared: place of the region in the guest. Not a host address.

    bool operator==(const StreamRamBlock&) const = default;
};

struct RamSetup {
    std::vector<StreamRamBlock> blocks;

    bool operator==(const RamSetup&) const = default;
};

struct RamPage {
    std::uint64_t addr = 0;                           ///< Offset in its block.
    std::optional<std::string> idstr;                 ///< Absent (CONTINUE): the block of the page before.
    std::variant<std::uint8_t, std::string> content;  ///< The byte that fills it (ZERO), or all of its bytes (PAGE).

    bool operator==(const RamPage&) const = default;
};

struct RamFlush {  ///< MULTIFD_FLUSH
    bool operator==(const RamFlush&) const = default;
};

using RamRecord = std::variant<RamSetup, RamPage, RamFlush>;

struct RamPart {
    enum class Kind : std::uint8_t { START = 1, PART = 2, END = 3 };

    Kind kind = Kind::PART;
    std::uint32_t section_id = 0;
    std::vector<RamRecord> records;  ///< EOS, which ends them, is not among them.

    bool operator==(const RamPart&) const = default;
};

/// A FULL section.
struct DevicePart {
    std::uint32_t section_id = 0;
    std::string idstr;
    std::uint32_t instance_id = 0;
    std::uint32_t version_id = 0;
    std::string state;

    bool operator==(const DevicePart&) const = default;
};

using StreamPart = std::variant<CommandPart, RamPart, DevicePart>;

struct MainStream {
    StreamConfiguration configuration;
    std::vector<StreamPart> parts;           ///< Parts in the order of the wire.
    std::optional<std::string> description;  ///< The JSON text.

    bool operator==(const MainStream&) const = default;
};

/// Bytes of state of each device: (idstr, instance_id) -> length.
using DeviceLengths = std::map<std::pair<std::string, std::uint32_t>, std::uint64_t>;

/// The JSON text at the end of a whole stream; none when the stream does not end with one.
std::optional<std::string_view> findDescription(std::string_view stream);

/// Reads a whole stream. `blocksWithPageSize` are those that a postcopy-ram stream tells a page size of, which nothing in the
/// stream says: those of huge pages. Throws DecodeError on anything that is not as above, on a device that `lengths` does not
/// know or whose footer is not where it says, on a page outside of its block, on bytes after the end.
MainStream decodeMainStream(std::string_view bytes, const DeviceLengths& lengths,
                            const std::set<std::string>& blocksWithPageSize = {});

/// `SWITCHOVER_START`
std::string_view name(StreamCommand command);

}  // namespace vh
