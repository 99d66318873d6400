#include "tests/reference-vmm/reference_stream.h"

#include <cstring>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace vh {
namespace {

using nlohmann::json;

// migration/savevm.h (11.1).
constexpr std::uint32_t fileMagic = 0x5145564d, fileVersion = 3;
constexpr std::uint8_t vmEof = 0, sectionStart = 1, sectionPart = 2, sectionEnd = 3, sectionFull = 4, subsection = 5,
                       vmDescription = 6, configurationFollows = 7, commandFollows = 8, sectionFooter = 0x7e;
constexpr std::uint16_t openReturnPath = 1;  // migration/savevm.c:qemu_vm_cmd
// migration/ram.c:RAM_SAVE_FLAG_*
constexpr std::uint64_t memSize = 0x04, wholePage = 0x08, endOfSection = 0x10, sameBlock = 0x20;
constexpr std::uint64_t flagsMask = ReferenceGuest::pageSize - 1;

constexpr std::uint32_t ramSection = 1, counterSection = 2;
constexpr unsigned pagesPerPart = 64;
constexpr std::size_t longestName = 255, longestDescription = 65536;
const std::string capabilitiesName = "configuration/capabilities";

constexpr std::pair<const char*, std::uint64_t Counter::*> counterFields[] = {
    {"identity", &Counter::identity}, {"ticks", &Counter::ticks},     {"seq", &Counter::seq},
    {"unsent", &Counter::unsent},     {"checked", &Counter::checked}, {"mismatches", &Counter::mismatches},
};

/// migration/ram.c:migrate_ram_is_ignored (11.1).
bool isIgnored(const ReferenceBlock& block, const StreamSettings& settings) {
    return settings.cpr || (settings.ignoreShared && block.shared && block.named_file);
}

void sectionHeader(ByteWriter& writer, std::uint8_t type, std::uint32_t id, const std::string& idstr, std::uint32_t version) {
    writer.u8(type);
    writer.be32(id);
    writer.shortString(idstr);
    writer.be32(0);
    writer.be32(version);
}

void footer(ByteWriter& writer, std::uint32_t id) {
    writer.u8(sectionFooter);
    writer.be32(id);
}

void readFooter(ByteReader& reader, std::uint32_t id) {
    if (reader.u8("footer") != sectionFooter || reader.be32("footer") != id)
        throw std::runtime_error("Missing section footer for section " + std::to_string(id));
}

}  // namespace

std::string streamBegin(ReferenceGuest& guest, const StreamSettings& settings) {
    ByteWriter writer;
    writer.be32(fileMagic);
    writer.be32(fileVersion);
    writer.u8(configurationFollows);
    writer.be32(static_cast<std::uint32_t>(settings.machine.size()));
    writer.append(settings.machine);
    if (settings.ignoreShared) {
        writer.u8(subsection);
        writer.shortString(capabilitiesName);
        writer.be32(1);
        writer.be32(1);
        writer.shortString("x-ignore-shared");
    }
    if (settings.returnPath) {
        writer.u8(commandFollows);
        writer.be16(openReturnPath);
        writer.be16(0);
    }
    sectionHeader(writer, sectionStart, ramSection, "ram", 4);
    std::uint64_t total = 0;
    for (const ReferenceBlock& block : guest.blocks()) total += block.used_length;
    writer.be64(total | memSize);
    for (const ReferenceBlock& block : guest.blocks()) {
        writer.shortString(block.idstr);
        writer.be64(block.used_length);
        if (settings.ignoreShared) writer.be64(block.offset);
    }
    writer.be64(endOfSection);
    footer(writer, ramSection);
    return writer.take();
}

std::string streamRam(ReferenceGuest& guest, const StreamSettings& settings, std::uint64_t& copiedBytes) {
    ByteWriter writer;
    unsigned pages = 0;
    const auto begin = [&writer](std::uint8_t type) {
        writer.u8(type);
        writer.be32(ramSection);
    };
    const auto end = [&writer] {
        writer.be64(endOfSection);
        footer(writer, ramSection);
    };
    // The other side starts with zeroes, so a page of those is not worth a word.
    for (const ReferenceBlock& block : guest.blocks()) {
        if (isIgnored(block, settings)) continue;
        ReferenceGuest::forEachPage(block, [&](std::uint64_t offset) {
            if (pages % pagesPerPart == 0) {
                if (pages > 0) end();
                begin(sectionPart);
            }
            writer.be64(offset | wholePage);
            writer.shortString(block.idstr);
            writer.append({block.memory.address() + offset, ReferenceGuest::pageSize});
            ++pages;
        });
    }
    if (pages > 0) end();
    begin(sectionEnd);
    end();
    copiedBytes = pages * ReferenceGuest::pageSize;
    return writer.take();
}

std::string streamEnd(ReferenceGuest& guest) {
    ByteWriter writer;
    json fields = json::array();
    sectionHeader(writer, sectionFull, counterSection, "counter", 1);
    for (const auto& [name, field] : counterFields) {
        writer.be64(guest.counter().*field);
        fields.push_back({{"name", name}, {"type", "uint64"}, {"size", 8}});
    }
    footer(writer, counterSection);
    writer.u8(vmEof);
    const json device{{"name", "counter"}, {"instance_id", 0}, {"vmsd_name", "counter"}, {"version", 1}, {"fields", fields}};
    const std::string description = json{{"page_size", ReferenceGuest::pageSize}, {"devices", json::array({device})}}.dump();
    writer.u8(vmDescription);
    writer.be32(static_cast<std::uint32_t>(description.size()));
    writer.append(description);
    return writer.take();
}

IncomingStream::Progress IncomingStream::advance() {
    Progress progress = Progress::Waiting;
    while (progress == Progress::Waiting) {
        ByteReader reader(bytes_);
        try {
            progress = section(reader);
        } catch (const DecodeError&) {
            return Progress::Waiting;  // Only the reader throws this, when a section has not come whole yet.
        }
        bytes_.erase(0, reader.offset());
    }
    return progress;
}

IncomingStream::Progress IncomingStream::section(ByteReader& reader) {
    if (!begun_) {
        if (reader.be32("magic") != fileMagic) throw std::runtime_error("Not a migration stream");
        if (reader.be32("version") != fileVersion) throw std::runtime_error("Unsupported migration stream version");
        configuration(reader);
        begun_ = true;
        return Progress::Waiting;
    }
    const std::uint8_t type = reader.u8("section type");
    if (ended_ && type == vmDescription) {
        const std::uint32_t length = reader.be32("length of the description");
        if (length > longestDescription) throw std::runtime_error("The description is too long");
        reader.take(length, "description");
        return Progress::Complete;
    }
    if (ended_) throw std::runtime_error("Expected vmdescription section, but got " + std::to_string(type));
    if (type == vmEof) {
        ended_ = true;
    } else if (type == commandFollows) {
        const std::uint16_t which = reader.be16("command");
        reader.take(reader.be16("length of a command"), "command");
        returnPath_ = returnPath_ || which == openReturnPath;
    } else if (type == sectionStart || type == sectionFull) {
        const std::uint32_t id = reader.be32("section id");
        const std::string idstr = reader.shortString("name of a section");
        reader.be32("instance id");
        const std::uint32_t version = reader.be32("version");
        if (type == sectionStart && idstr == "ram" && version == 4) {
            ramSetup(reader);
            readFooter(reader, id);
            ramId_ = id;
        } else if (type == sectionFull && idstr == "counter" && version == 1) {
            for (const auto& [name, field] : counterFields) counter_.*field = reader.be64(name);
            readFooter(reader, id);
        } else {
            throw std::runtime_error("Unknown section or instance '" + idstr +
                                     "' 0. Make sure that your current VM setup matches " +
                                     "your saved VM setup, including any hotplugged devices");
        }
    } else if (type == sectionPart || type == sectionEnd) {
        if (const std::uint32_t id = reader.be32("section id"); ramId_ == 0 || id != ramId_)
            throw std::runtime_error("Unknown section " + std::to_string(id));
        ramPages(reader);
        readFooter(reader, ramId_);
        if (type == sectionEnd) return Progress::RamLoaded;
    } else {
        throw std::runtime_error("Unknown section type " + std::to_string(type));
    }
    return Progress::Waiting;
}

void IncomingStream::configuration(ByteReader& reader) const {
    if (reader.u8("configuration") != configurationFollows) throw std::runtime_error("Configuration section missing");
    const std::uint32_t length = reader.be32("length of the machine type");
    if (length > longestName) throw std::runtime_error("The machine type is too long");
    const std::string_view machine = reader.take(length, "machine type");
    if (machine != settings_.machine)
        throw std::runtime_error("Machine type received is '" + std::string(machine) + "' and local is '" + settings_.machine +
                                 "'");
    // A capability that both sides must have alike is told when it is on, and only then (migration/savevm.c:vmstate_capabilites).
    bool received = false;
    if (reader.atEnd()) reader.fail("byte after the machine type");
    if (reader.peek() == subsection) {
        reader.u8("subsection");
        const std::string name = reader.shortString("name of a subsection");
        if (name != capabilitiesName) throw std::runtime_error("Unknown subsection '" + name + "'");
        reader.be32("version of the capabilities");
        for (std::uint32_t left = reader.be32("number of capabilities"); left > 0; --left)
            received = reader.shortString("capability") == "x-ignore-shared" || received;
    }
    if (received != settings_.ignoreShared)
        throw std::runtime_error(std::string("Capability x-ignore-shared is ") + (settings_.ignoreShared ? "on" : "off") +
                                 ", but received capability is " + (received ? "on" : "off"));
}

void IncomingStream::ramSetup(ByteReader& reader) {
    // migration/ram.c:parse_ramblocks, parse_ramblock (11.1).
    std::uint64_t left = reader.be64("size of RAM") & ~flagsMask;
    while (left > 0) {
        const std::string idstr = reader.shortString("name of a RAM block");
        const std::uint64_t used = reader.be64("used_length");
        ReferenceBlock* block = guest_.find(idstr);
        if (!block) throw std::runtime_error("Unknown ramblock \"" + idstr + "\", cannot accept migration");
        if (used != block->used_length && (!block->resizable() || used > block->max_length))
            throw std::runtime_error("Size mismatch: " + idstr + ": " + std::to_string(used) +
                                     " != " + std::to_string(block->used_length) + ": Invalid argument");
        if (settings_.ignoreShared && reader.be64("address of a RAM block") != block->offset && isIgnored(*block, settings_))
            throw std::runtime_error("Mismatched GPAs for block " + idstr);
        if (used == 0 || used > left) throw std::runtime_error("RAM block '" + idstr + "' does not fit the size of RAM");
        block->used_length = used;
        left -= used;
    }
    if (reader.be64("end of the RAM set-up") != endOfSection) throw std::runtime_error("The RAM set-up does not end");
}

void IncomingStream::ramPages(ByteReader& reader) {
    ReferenceBlock* block = nullptr;
    for (;;) {
        const std::uint64_t word = reader.be64("a page's offset");
        const std::uint64_t offset = word & ~flagsMask, flags = word & flagsMask;
        if (flags == endOfSection) return;
        if ((flags & ~sameBlock) != wholePage)
            throw std::runtime_error("Unknown combination of migration flags: " + std::to_string(flags));
        if (!(flags & sameBlock)) {
            const std::string idstr = reader.shortString("name of a page's RAM block");
            block = guest_.find(idstr);
            if (!block) throw std::runtime_error("Can't find block " + idstr);
        }
        if (!block || offset >= block->used_length) throw std::runtime_error("A page lies outside of its RAM block");
        const std::string_view page = reader.take(ReferenceGuest::pageSize, "page");
        std::memcpy(block->memory.address() + offset, page.data(), page.size());
    }
}

}  // namespace vh
