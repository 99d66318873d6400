#include "vmm-shim/main_stream.h"

#include <algorithm>
#include <charconv>

#include "vmm-shim/bytes.h"

namespace vh {
namespace {

constexpr std::uint32_t magic = 0x5145564d;  // "QEVM"
constexpr std::uint32_t version = 3;
constexpr std::uint32_t ramVersion = 4;

// migration/savevm.h:QEMU_VM_*
constexpr std::uint8_t endOfFile = 0x00, sectionFull = 0x04, subsection = 0x05, vmDescription = 0x06, configuration = 0x07,
                       command = 0x08, sectionFooter = 0x7e;

// migration/ram.h:RAM_SAVE_FLAG_*
constexpr std::uint64_t flagZero = 0x02, flagMemSize = 0x04, flagPage = 0x08, flagEos = 0x10, flagContinue = 0x20,
                        flagMultifdFlush = 0x200;

const char* const ignoreShared = "x-ignore-shared";

constexpr std::size_t maxMachineName = 255;
constexpr std::uint32_t maxCapabilities = 64;
constexpr std::size_t maxParts = 65536;
constexpr std::size_t maxBlocks = 4096;
constexpr std::uint64_t maxDeviceBytes = std::uint64_t{256} << 20;
constexpr std::size_t maxDescriptionBytes = std::size_t{16} << 20;

std::string hexadecimal(std::uint64_t value) {
    char digits[16];
    return "0x" + std::string(digits, std::to_chars(digits, digits + sizeof(digits), value, 16).ptr);
}

/// Of the configuration, in the order in which they come.
enum class Subsection { TargetPageBits, Capabilities, Uuid, Unknown };
constexpr std::array<std::string_view, 3> subsections{"configuration/target-page-bits", "configuration/capabilities",
                                                      "configuration/uuid"};

std::string readName(ByteReader& reader, const char* what) {
    const std::size_t at = reader.offset();
    std::string text = reader.shortString(what);
    checkName(at, text, what);
    return text;
}

class Decoder {
 public:
    Decoder(std::string_view bytes, const DeviceLengths& lengths, const std::set<std::string>& blocksWithPageSize)
        : reader_(bytes), lengths_(lengths), blocksWithPageSize_(blocksWithPageSize) {}

    MainStream decode() {
        if (reader_.be32("magic") != magic) throw DecodeError(0, "not a migration stream: it does not begin with 'QEVM'");
        if (const std::uint32_t found = reader_.be32("version"); found != version)
            throw DecodeError(4, "migration stream version " + std::to_string(found) + "; 3 is known");
        MainStream stream;
        readConfiguration(stream.configuration);
        for (std::uint8_t type; (type = reader_.u8("type of a section")) != endOfFile;) {
            const std::size_t at = reader_.offset() - 1;
            if (stream.parts.size() == maxParts) throw DecodeError(at, "more than " + std::to_string(maxParts) + " sections");
            switch (type) {
                case command:
                    stream.parts.emplace_back(readCommand());
                    break;
                case static_cast<std::uint8_t>(RamPart::Kind::START):
                case static_cast<std::uint8_t>(RamPart::Kind::PART):
                case static_cast<std::uint8_t>(RamPart::Kind::END):
                    stream.parts.push_back(readRam(static_cast<RamPart::Kind>(type)));
                    break;
                case sectionFull:
                    stream.parts.emplace_back(readDevice());
                    break;
                default:
                    throw DecodeError(at, "unknown type of a section: " + hexadecimal(type));
            }
        }
        if (ramId_) reader_.fail("the stream ends, and its section 'ram' has not");
        if (reader_.atEnd()) return stream;
        reader_.expect(vmDescription, "byte after the end of the sections");
        const std::size_t at = reader_.offset();
        const std::uint32_t length = reader_.be32("length of the description");
        if (length > maxDescriptionBytes) throw DecodeError(at, "a description of " + std::to_string(length) + " bytes");
        stream.description = reader_.take(length, "description");
        if (!reader_.atEnd()) reader_.fail(std::to_string(reader_.left()) + " bytes after the end of the stream");
        return stream;
    }

 private:
    void readConfiguration(StreamConfiguration& found) {
        reader_.expect(configuration, "byte after the header");
        const std::size_t at = reader_.offset();
        const std::uint32_t length = reader_.be32("length of the machine type");
        if (length > maxMachineName) throw DecodeError(at, "a machine type of " + std::to_string(length) + " characters");
        found.machine = reader_.take(length, "machine type");
        checkName(at, found.machine, "machine type");
        // A subsection begins with the byte that no section begins with.
        for (std::optional<Subsection> last; reader_.peek() == subsection;) {
            const std::size_t begin = reader_.offset();
            reader_.u8("mark of a subsection");
            const std::string name = readName(reader_, "name of a subsection");
            const auto kind = static_cast<Subsection>(std::ranges::find(subsections, name) - subsections.begin());
            if (kind == Subsection::Unknown) throw DecodeError(begin, "unknown subsection '" + name + "'");
            if (last && kind <= *last) throw DecodeError(begin, "subsection '" + name + "' comes twice or too late");
            last = kind;
            if (const std::uint32_t given = reader_.be32("version of a subsection"); given != 1)
                throw DecodeError(begin, "version " + std::to_string(given) + " of '" + name + "'; 1 is known");
            if (kind == Subsection::TargetPageBits) {
                found.target_page_bits = reader_.be32("target page bits");
                // Below 10 bits there is no room for the flags of RAM records; QEMU's largest target page is 64 KiB.
                if (*found.target_page_bits < 10 || *found.target_page_bits > 16)
                    throw DecodeError(begin, "target pages of " + std::to_string(*found.target_page_bits) + " bits");
                pageSize_ = std::uint64_t{1} << *found.target_page_bits;
            } else if (kind == Subsection::Capabilities) {
                readCapabilities(begin, found.capabilities.emplace());
            } else {
                const std::string_view raw = reader_.take(16, "uuid");
                std::ranges::copy(raw, found.uuid.emplace().begin());
            }
        }
    }

    void readCapabilities(std::size_t at, std::vector<std::string>& found) {
        const std::uint32_t count = reader_.be32("number of capabilities");
        if (count > maxCapabilities) throw DecodeError(at, std::to_string(count) + " capabilities");
        for (std::uint32_t i = 0; i < count; ++i) {
            const std::size_t begin = reader_.offset();
            found.push_back(readName(reader_, "name of a capability"));
            if (found.back() == ignoreShared)
                hasAddresses_ = true;
            else  // mapped-ram, the other one that is sent, makes a file of another layout (docs/devel/migration/mapped-ram.rst).
                throw DecodeError(begin, "streams with the capability '" + found.back() + "' cannot be read");
        }
    }

    CommandPart readCommand() {
        const std::size_t at = reader_.offset();
        const auto number = static_cast<StreamCommand>(reader_.be16("command"));
        if (name(number).empty())
            throw DecodeError(at, "command " + std::to_string(static_cast<unsigned>(number)) +
                                      " is none of a stream without postcopy and COLO");
        const std::uint16_t length = reader_.be16("length of a command");
        return {number, std::string(reader_.take(length, "data of a command"))};
    }

    void readFooter(std::uint32_t section_id, const std::string& idstr) {
        const std::size_t at = reader_.offset();
        const std::string what = "footer of '" + idstr + "'";
        reader_.expect(sectionFooter, what.c_str());
        if (const std::uint32_t found = reader_.be32(what.c_str()); found != section_id)
            throw DecodeError(at,
                              what + " is that of section " + std::to_string(found) + ", not of " + std::to_string(section_id));
    }

    DevicePart readDevice() {
        DevicePart device;
        device.section_id = reader_.be32("section_id");
        const std::size_t at = reader_.offset();
        device.idstr = readName(reader_, "idstr of a section");
        device.instance_id = reader_.be32("instance_id");
        device.version_id = reader_.be32("version_id");
        const std::string full = "'" + device.idstr + "' instance " + std::to_string(device.instance_id);
        const auto length = lengths_.find({device.idstr, device.instance_id});
        if (length == lengths_.end()) throw DecodeError(at, "the description does not know the device " + full);
        if (length->second > maxDeviceBytes)
            throw DecodeError(at, "a state of " + std::to_string(length->second) + " bytes of the device " + full);
        device.state = reader_.take(static_cast<std::size_t>(length->second), ("state of " + full).c_str());
        readFooter(device.section_id, device.idstr);
        return device;
    }

    RamPart readRam(RamPart::Kind kind) {
        RamPart part;
        part.kind = kind;
        const std::size_t at = reader_.offset();
        part.section_id = reader_.be32("section_id");
        if (kind == RamPart::Kind::START) {
            const std::string idstr = readName(reader_, "idstr of a section");
            const std::uint32_t instance = reader_.be32("instance_id"), given = reader_.be32("version_id");
            // Others that come in parts (dirty-bitmap, vfio) have formats of their own, and no description.
            if (idstr != "ram" || instance != 0)
                throw DecodeError(
                    at, "section '" + idstr + "' instance " + std::to_string(instance) + " comes in parts and is not 'ram'");
            if (given != ramVersion) throw DecodeError(at, "version " + std::to_string(given) + " of section 'ram'; 4 is known");
            if (seenRam_) throw DecodeError(at, "section 'ram' starts twice");
            seenRam_ = true;
            ramId_ = part.section_id;
        } else if (ramId_ != part.section_id) {
            throw DecodeError(at,
                              "a part of section " + std::to_string(part.section_id) + ", which has not started or has ended");
        }
        while (readRecord(part)) {
        }
        readFooter(part.section_id, "ram");
        if (kind == RamPart::Kind::END) ramId_.reset();
        return part;
    }

    /// False for EOS.
    bool readRecord(RamPart& part) {
        const std::size_t at = reader_.offset();
        const std::uint64_t word = reader_.be64("RAM record");
        const std::uint64_t flags = word & (pageSize_ - 1), addr = word - flags;
        switch (flags) {
            case flagEos:
                if (addr != 0) break;
                return false;
            case flagMultifdFlush:
                if (addr != 0) break;
                part.records.emplace_back(RamFlush{});
                return true;
            case flagMemSize:
                if (part.kind != RamPart::Kind::START || !blocks_.empty()) throw DecodeError(at, "a second set-up of RAM blocks");
                part.records.emplace_back(readSetup(at, addr));
                return true;
            case flagZero:
            case flagPage:
            case flagZero | flagContinue:
            case flagPage | flagContinue:
                part.records.emplace_back(readPage(at, addr, flags));
                return true;
            default:
                break;
        }
        throw DecodeError(at, "unknown RAM record " + hexadecimal(word));
    }

    RamSetup readSetup(std::size_t at, std::uint64_t total) {
        RamSetup setup;
        while (total > 0) {
            const std::size_t begin = reader_.offset();
            StreamRamBlock block;
            block.idstr = readName(reader_, "idstr of a RAM block");
            block.used_length = reader_.be64("used_length of a RAM block");
            if (blocksWithPageSize_.contains(block.idstr)) block.page_size = reader_.be64("page_size of a RAM block");
            if (hasAddresses_) block.mr_addr = reader_.be64("mr_addr of a RAM block");
            if (block.used_length > total)
                throw DecodeError(begin, "RAM block '" + block.idstr + "' is longer than what is left of the sum of all");
            total -= block.used_length;
            if (!blocks_.emplace(block.idstr, block.used_length).second)
                throw DecodeError(begin, "RAM block '" + block.idstr + "' comes twice");
            if (blocks_.size() > maxBlocks) throw DecodeError(at, "more than " + std::to_string(maxBlocks) + " RAM blocks");
            setup.blocks.push_back(std::move(block));
        }
        return setup;
    }

    RamPage readPage(std::size_t at, std::uint64_t addr, std::uint64_t flags) {
        RamPage page;
        page.addr = addr;
        if (!(flags & flagContinue)) {
            page.idstr = readName(reader_, "idstr of a page's RAM block");
            current_ = blocks_.find(*page.idstr);
            if (current_ == blocks_.end()) throw DecodeError(at, "a page of the unknown RAM block '" + *page.idstr + "'");
        } else if (current_ == blocks_.end()) {
            throw DecodeError(at, "a page that continues no RAM block");
        }
        if (addr >= current_->second)
            throw DecodeError(at, "a page at " + hexadecimal(addr) + " of RAM block '" + current_->first + "', which ends at " +
                                      hexadecimal(current_->second));
        if (flags & flagZero)
            page.content = reader_.u8("fill of a page");
        else
            page.content = std::string(reader_.take(static_cast<std::size_t>(pageSize_), "bytes of a page"));
        return page;
    }

    ByteReader reader_;
    const DeviceLengths& lengths_;
    const std::set<std::string>& blocksWithPageSize_;
    std::uint64_t pageSize_ = 4096;
    bool hasAddresses_ = false;
    bool seenRam_ = false;
    std::optional<std::uint32_t> ramId_;  ///< Of the RAM section while it is open.
    std::map<std::string, std::uint64_t> blocks_;
    /// A block stays the current one across the parts of the section (migration/ram.c:ram_block_from_stream, 10.0 and 11.1).
    std::map<std::string, std::uint64_t>::const_iterator current_ = blocks_.end();
};

}  // namespace

std::optional<std::string_view> findDescription(std::string_view stream) {
    // 00 06 be32 length, and exactly so many bytes to the end. JSON text has no control character and begins with a brace, so
    // neither a byte of the text nor one of the length can be taken for the mark.
    constexpr std::size_t head = 6;
    if (stream.size() < head) return std::nullopt;
    const std::size_t first = stream.size() - std::min(stream.size(), head + maxDescriptionBytes);
    for (std::size_t at = stream.size() - head; at + 1 > first; --at) {
        if (stream[at] != static_cast<char>(endOfFile) || stream[at + 1] != static_cast<char>(vmDescription)) continue;
        ByteReader reader(stream.substr(at + 2));
        const std::uint32_t length = reader.be32("length of the description");
        if (length == reader.left() && reader.peek() == '{') return stream.substr(at + head);
    }
    return std::nullopt;
}

MainStream decodeMainStream(std::string_view bytes, const DeviceLengths& lengths,
                            const std::set<std::string>& blocksWithPageSize) {
    return Decoder(bytes, lengths, blocksWithPageSize).decode();
}

std::string_view name(StreamCommand number) {
    switch (number) {
        case StreamCommand::OPEN_RETURN_PATH:
            return "OPEN_RETURN_PATH";
        case StreamCommand::PING:
            return "PING";
        case StreamCommand::POSTCOPY_ADVISE:
            return "POSTCOPY_ADVISE";
        case StreamCommand::SWITCHOVER_START:
            return "SWITCHOVER_START";
    }
    return {};
}

}  // namespace vh
