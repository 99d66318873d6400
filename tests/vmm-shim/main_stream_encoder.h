// A main migration stream as bytes, for tests: what the decoder reads, written by the same description of the format (main_stream.h).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <variant>

#include "vmm-shim/bytes.h"
#include "vmm-shim/main_stream.h"

namespace vh {

/// Throws std::length_error for a name or a command that the format does not hold.
class MainStreamEncoder {
 public:
    std::string encode(const MainStream& stream) {
        writer_.append("QEVM");
        writer_.be32(3);
        write(stream.configuration);
        for (const StreamPart& part : stream.parts) std::visit([this](const auto& value) { write(value); }, part);
        writer_.u8(endOfFile);
        if (stream.description) {
            writer_.u8(vmDescription);
            writer_.be32(static_cast<std::uint32_t>(stream.description->size()));
            writer_.append(*stream.description);
        }
        return writer_.take();
    }

 private:
    // migration/savevm.h:QEMU_VM_* and migration/ram.h:RAM_SAVE_FLAG_*
    static constexpr std::uint8_t endOfFile = 0x00, sectionFull = 0x04, subsection = 0x05, vmDescription = 0x06,
                                  configuration = 0x07, command = 0x08, sectionFooter = 0x7e;
    static constexpr std::uint64_t flagZero = 0x02, flagMemSize = 0x04, flagPage = 0x08, flagEos = 0x10, flagContinue = 0x20,
                                   flagMultifdFlush = 0x200;

    void beginSubsection(const char* name) {
        writer_.u8(subsection);
        writer_.shortString(name);
        writer_.be32(1);
    }

    void write(const StreamConfiguration& value) {
        writer_.u8(configuration);
        writer_.be32(static_cast<std::uint32_t>(value.machine.size()));
        writer_.append(value.machine);
        if (value.target_page_bits) {
            beginSubsection("configuration/target-page-bits");
            writer_.be32(*value.target_page_bits);
        }
        if (value.capabilities) {
            beginSubsection("configuration/capabilities");
            writer_.be32(static_cast<std::uint32_t>(value.capabilities->size()));
            for (const std::string& capability : *value.capabilities) writer_.shortString(capability);
        }
        if (value.uuid) {
            beginSubsection("configuration/uuid");
            for (const std::uint8_t byte : *value.uuid) writer_.u8(byte);
        }
    }

    void write(const CommandPart& part) {
        if (part.data.size() > 0xffff)
            throw std::length_error("command '" + std::string(name(part.command)) + "' with " + std::to_string(part.data.size()) +
                                    " bytes of data");
        writer_.u8(command);
        writer_.be16(static_cast<std::uint16_t>(part.command));
        writer_.be16(static_cast<std::uint16_t>(part.data.size()));
        writer_.append(part.data);
    }

    void writeHeader(std::uint8_t type, std::uint32_t section_id, const std::string& idstr, std::uint32_t instance_id,
                     std::uint32_t version_id) {
        writer_.u8(type);
        writer_.be32(section_id);
        writer_.shortString(idstr);
        writer_.be32(instance_id);
        writer_.be32(version_id);
    }

    void writeFooter(std::uint32_t section_id) {
        writer_.u8(sectionFooter);
        writer_.be32(section_id);
    }

    void write(const DevicePart& part) {
        writeHeader(sectionFull, part.section_id, part.idstr, part.instance_id, part.version_id);
        writer_.append(part.state);
        writeFooter(part.section_id);
    }

    void write(const RamPart& part) {
        if (part.kind == RamPart::Kind::START) {
            writeHeader(static_cast<std::uint8_t>(part.kind), part.section_id, "ram", 0, 4);
        } else {
            writer_.u8(static_cast<std::uint8_t>(part.kind));
            writer_.be32(part.section_id);
        }
        for (const RamRecord& record : part.records) std::visit([this](const auto& value) { write(value); }, record);
        writer_.be64(flagEos);
        writeFooter(part.section_id);
    }

    void write(const RamSetup& setup) {
        std::uint64_t total = 0;
        for (const StreamRamBlock& block : setup.blocks) total += block.used_length;
        writer_.be64(total | flagMemSize);
        for (const StreamRamBlock& block : setup.blocks) {
            writer_.shortString(block.idstr);
            writer_.be64(block.used_length);
            if (block.page_size) writer_.be64(*block.page_size);
            if (block.mr_addr) writer_.be64(*block.mr_addr);
        }
    }

    void write(const RamPage& page) {
        const auto* const bytes = std::get_if<std::string>(&page.content);
        writer_.be64(page.addr | (bytes ? flagPage : flagZero) | (page.idstr ? 0 : flagContinue));
        if (page.idstr) writer_.shortString(*page.idstr);
        if (bytes)
            writer_.append(*bytes);
        else
            writer_.u8(std::get<std::uint8_t>(page.content));
    }

    void write(const RamFlush&) { writer_.be64(flagMultifdFlush); }

    ByteWriter writer_;
};

inline std::string encodeMainStream(const MainStream& stream) {
    return MainStreamEncoder().encode(stream);
}

}  // namespace vh
