#include "vmm-shim/ram_block_section.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>

#include "vmm-shim/bytes.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds, std::chrono::steady_clock;

const std::string magic = "QEVM", sectionName = "virt-handover/ram-blocks";
constexpr std::uint32_t streamVersion = 3, sectionId = 0, instanceId = 0, sectionVersion = 1;
constexpr std::uint8_t sectionFull = 0x04, sectionFooter = 0x7e, endOfStream = 0x00, elementFollows = 0x01, endOfList = 0x00,
                       serviceByte = 0x20;
constexpr std::uint32_t noDescriptor = 0xffffffff;

bool carriesDescriptor(const RamBlock& block) {
    return block.file && block.file->fd >= 0;
}

struct Encoded {
    std::string bytes;
    std::vector<std::size_t> serviceBytes;  ///< Offsets, in the order of the blocks that carry a descriptor.
};

Encoded encode(const std::vector<RamBlock>& blocks) {
    if (blocks.size() > maxRamBlocks) throw std::length_error("more than " + std::to_string(maxRamBlocks) + " RAM blocks");
    ByteWriter writer;
    std::vector<std::size_t> serviceBytes;
    writer.append(magic);
    writer.be32(streamVersion);
    writer.u8(sectionFull);
    writer.be32(sectionId);
    writer.shortString(sectionName);
    writer.be32(instanceId);
    writer.be32(sectionVersion);
    for (const RamBlock& block : blocks) {
        writer.u8(elementFollows);
        writer.shortString(block.idstr);
        writer.be64(block.used_length);
        writer.be64(block.max_length);
        writer.be64(block.page_size);
        writer.be64(block.align);
        std::uint32_t bits = 0;
        for (const auto& [bit, name, member] : ramBlockFlags)
            if (block.*member) bits |= bit;
        writer.be32(bits);
        writer.u8(block.file ? 1 : 0);
        if (!block.file) continue;
        writer.be64(block.file->identity.device);
        writer.be64(block.file->identity.inode);
        writer.be64(block.file->size);
        writer.be32(block.file->fd < 0 ? noDescriptor : static_cast<std::uint32_t>(block.file->fd));
        if (!carriesDescriptor(block)) continue;
        serviceBytes.push_back(writer.offset());
        writer.u8(serviceByte);
    }
    writer.u8(endOfList);
    writer.u8(sectionFooter);
    writer.be32(sectionId);
    writer.u8(endOfStream);
    return {writer.take(), std::move(serviceBytes)};
}

void expect32(ByteReader& reader, std::uint32_t expected, const char* what) {
    const std::size_t offset = reader.offset();
    const std::uint32_t value = reader.be32(what);
    if (value != expected)
        throw DecodeError(offset, std::string(what) + " is " + std::to_string(value) + ", expected " + std::to_string(expected));
}

RamBlock decodeBlock(ByteReader& reader) {
    RamBlock block;
    const std::size_t nameOffset = reader.offset();
    block.idstr = reader.shortString("the RAM block's idstr");
    const auto isControl = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
    if (block.idstr.empty() || std::ranges::any_of(block.idstr, isControl))
        throw DecodeError(nameOffset, "a RAM block's idstr is empty or has control characters");
    block.used_length = reader.be64("used_length");
    block.max_length = reader.be64("max_length");
    if (block.used_length > block.max_length)
        reader.fail("RAM block '" + block.idstr + "' has a used_length above its max_length");
    block.page_size = reader.be64("page_size");
    block.align = reader.be64("align");
    std::uint32_t bits = reader.be32("the RAM block's flags");
    for (const auto& [bit, name, member] : ramBlockFlags) {
        block.*member = (bits & bit) != 0;
        bits &= ~bit;
    }
    if (bits != 0) reader.fail("RAM block '" + block.idstr + "' has unknown flags");
    const std::uint8_t hasFile = reader.u8("has_file");
    if (hasFile > 1) reader.fail("has_file of RAM block '" + block.idstr + "' is neither 0 nor 1");
    if (hasFile == 0) return block;
    BackingFile file;
    file.identity.device = reader.be64("st_dev");
    file.identity.inode = reader.be64("st_ino");
    file.size = reader.be64("st_size");
    const std::uint32_t fd = reader.be32("fd");
    if (fd != noDescriptor) {
        if (fd > static_cast<std::uint32_t>(std::numeric_limits<int>::max()))
            reader.fail("the descriptor's number of RAM block '" + block.idstr + "' is out of range");
        file.fd = static_cast<int>(fd);
        reader.expect(serviceByte, "the byte that carries the descriptor");
    }
    block.file = file;
    return block;
}

/// Waits until the socket is readable or writable. Throws ETIMEDOUT.
void await(int socket, short events, steady_clock::time_point end) {
    pollfd entry{socket, events, 0};
    // A peer that always has something to say does not keep us.
    if (steady_clock::now() >= end || !pollUntil({&entry, 1}, end)) throwErrno("exchange of the RAM blocks", ETIMEDOUT);
}

/// Empty when the descriptor is the file; else what it is instead.
std::string whatIsWrong(int fd, const BackingFile& file) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) throwErrno("fstat");
    if (FileIdentity{status.st_dev, status.st_ino} != file.identity) return "is another file";
    if (static_cast<std::uint64_t>(status.st_size) != file.size)
        return "has " + std::to_string(status.st_size) + " bytes instead of " + std::to_string(file.size);
    return {};
}

}  // namespace

std::string encodeRamBlocks(const std::vector<RamBlock>& blocks) {
    return encode(blocks).bytes;
}

std::vector<RamBlock> decodeRamBlocks(std::string_view bytes) {
    ByteReader reader(bytes);
    if (reader.take(magic.size(), "magic") != magic) throw DecodeError(0, "this is no record of RAM blocks: magic is not 'QEVM'");
    expect32(reader, streamVersion, "the stream's version");
    reader.expect(sectionFull, "the section's type");
    expect32(reader, sectionId, "section_id");
    const std::size_t nameOffset = reader.offset();
    if (const std::string section = reader.shortString("the section's idstr"); section != sectionName)
        throw DecodeError(nameOffset, "this is no record of RAM blocks: the section is not '" + sectionName + "'");
    expect32(reader, instanceId, "instance_id");
    expect32(reader, sectionVersion, "version_id");
    std::vector<RamBlock> blocks;
    std::set<std::string> names;
    for (;;) {
        const std::size_t offset = reader.offset();
        const std::uint8_t follows = reader.u8("the list's next byte");
        if (follows == endOfList) break;
        if (follows != elementFollows) throw DecodeError(offset, "neither a RAM block nor the end of the list");
        if (blocks.size() == maxRamBlocks) throw DecodeError(offset, "more than " + std::to_string(maxRamBlocks) + " RAM blocks");
        blocks.push_back(decodeBlock(reader));
        if (!names.insert(blocks.back().idstr).second)
            throw DecodeError(offset, "RAM block '" + blocks.back().idstr + "' is there twice");
    }
    reader.expect(sectionFooter, "the section's footer");
    expect32(reader, sectionId, "the footer's section_id");
    reader.expect(endOfStream, "the end");
    if (!reader.atEnd()) reader.fail("there are bytes after the end");
    return blocks;
}

void sendRamBlocks(int socket, const RamBlockExchange& exchange, milliseconds deadline) {
    if (exchange.descriptors.size() != exchange.blocks.size())
        throw std::invalid_argument("there must be one descriptor, or an empty one, for each RAM block");
    std::vector<int> descriptors;
    for (std::size_t i = 0; i < exchange.blocks.size(); ++i) {
        const RamBlock& block = exchange.blocks[i];
        if (carriesDescriptor(block) != static_cast<bool>(exchange.descriptors[i]))
            throw std::invalid_argument("RAM block '" + block.idstr + "' is without its descriptor, or has one too many");
        if (!carriesDescriptor(block)) continue;
        if (const std::string wrong = whatIsWrong(exchange.descriptors[i].get(), *block.file); !wrong.empty())
            throw std::invalid_argument("the descriptor of RAM block '" + block.idstr + "' " + wrong);
        descriptors.push_back(exchange.descriptors[i].get());
    }
    const auto end = steady_clock::now() + deadline;
    Encoded encoded = encode(exchange.blocks);
    CarryingSender sender(std::move(encoded.bytes), std::move(encoded.serviceBytes), std::move(descriptors));
    do await(socket, POLLOUT, end);
    while (!sender.sendSome(socket));
    if (::shutdown(socket, SHUT_WR) != 0) throwErrno("end the RAM block record");
}

RamBlockExchange receiveRamBlocks(int socket, milliseconds deadline) {
    const auto end = steady_clock::now() + deadline;
    std::string bytes;
    std::vector<UniqueFd> descriptors;
    for (;;) {
        await(socket, POLLIN, end);
        const auto count = receiveSome(socket, bytes, descriptors);
        if (count == std::size_t{0}) break;
        if (bytes.size() > maxRamBlockSectionBytes || descriptors.size() > maxRamBlocks)
            throw DecodeError(bytes.size(), "what comes is longer than any record of RAM blocks");
    }
    RamBlockExchange exchange{decodeRamBlocks(bytes), {}};
    const std::size_t announced = static_cast<std::size_t>(std::ranges::count_if(exchange.blocks, carriesDescriptor));
    if (announced != descriptors.size())
        throw DecodeError(bytes.size(), "the record names " + std::to_string(announced) + " descriptors, and " +
                                            std::to_string(descriptors.size()) + " came with it");
    std::size_t next = 0;
    for (const RamBlock& block : exchange.blocks) {
        exchange.descriptors.push_back(carriesDescriptor(block) ? std::move(descriptors[next++]) : UniqueFd());
        if (!carriesDescriptor(block)) continue;
        if (const std::string wrong = whatIsWrong(exchange.descriptors.back().get(), *block.file); !wrong.empty())
            throw std::runtime_error("the descriptor of RAM block '" + block.idstr + "' " + wrong);
    }
    return exchange;
}

}  // namespace vh
