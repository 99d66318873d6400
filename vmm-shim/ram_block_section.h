// The RAM blocks of a VMM as bytes: a section of ours, versioned and framed as QEMU frames its own (migration/savevm.c and
// migration/vmstate-types.c:save_qlist, 10.0 and 11.1), so that it could travel in a main stream. QEMU itself knows no such
// section.
//
//     "QEVM" be32 3
//     04  be32 section_id=0  18 "virt-handover/ram-blocks"  be32 instance_id=0  be32 version_id=1
//     per block   01  u8 length  idstr
//                 be64 used_length  be64 max_length  be64 page_size  be64 align  be32 flags  u8 has_file
//       has_file  be64 st_dev  be64 st_ino  be64 st_size  be32 fd  (20 unless fd is ffffffff)
//     00
//     7e  be32 section_id=0
//     00
//
// flags: 1 shared, 2 resizable, 4 read_only, 8 named_file, 10 guest_memfd. `fd` is the number inside the VMM, ffffffff for a file
// that it keeps no descriptor of. On a unix socket the byte 20 carries a descriptor of the file (SCM_RIGHTS), as in a CPR state;
// in a saved record it stands alone.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "vmm-shim/ram_blocks.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

constexpr std::size_t maxRamBlocks = 4096;
constexpr std::size_t maxRamBlockSectionBytes = std::size_t{2} << 20;

/// Throws std::length_error for a name, or a number of blocks, that the format does not hold.
std::string encodeRamBlocks(const std::vector<RamBlock>& blocks);

/// Throws DecodeError on anything that is not as above: another version, an unknown flag, a block twice, one whose used_length
/// exceeds its max_length, bytes after the end.
std::vector<RamBlock> decodeRamBlocks(std::string_view bytes);

/// Blocks, and for each a descriptor of its file; none for a block without a file, or whose file the VMM keeps no descriptor of.
struct RamBlockExchange {
    std::vector<RamBlock> blocks;
    std::vector<UniqueFd> descriptors;
};

/// Sending and receiving take a non-blocking socket.
///
/// Sends all, and ends the sending. Any descriptor that stands for the file will do, also one opened with O_PATH, which proves
/// the file's identity and gives no right to the guest's memory. Throws std::invalid_argument when descriptors and blocks do not
/// belong together, std::system_error (ETIMEDOUT) when the peer takes too long.
void sendRamBlocks(int socket, const RamBlockExchange& exchange, std::chrono::milliseconds deadline);

/// Receives until the peer has ended its sending. Throws DecodeError as above, std::runtime_error naming the block when its
/// descriptor is not the file (device, inode, size) that its record says, std::system_error when the connection breaks or the
/// deadline has passed.
RamBlockExchange receiveRamBlocks(int socket, std::chrono::milliseconds deadline);

}  // namespace vh
