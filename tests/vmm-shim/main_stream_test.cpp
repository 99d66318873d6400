#include "vmm-shim/main_stream.h"

#include <cstdio>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden_twins.h"
#include "tests/support/main_stream_encoder.h"
#include "vmm-shim/bytes.h"
#include "vmm-shim/tool/vm_description.h"

namespace vh {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using namespace std::string_literals;

std::string number(std::uint64_t value) {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "0x%llx", static_cast<unsigned long long>(value));
    return digits;
}

std::string bytesText(std::string_view bytes) {
    std::string text = std::to_string(bytes.size()) + " bytes";
    for (std::size_t i = 0; i < bytes.size() && i < 16; ++i) {
        char digits[4];
        std::snprintf(digits, sizeof(digits), " %02x", static_cast<unsigned char>(bytes[i]));
        text += (i == 0 ? ":" : "") + std::string(digits);
    }
    return text + (bytes.size() > 16 ? " ...\n" : "\n");
}

/// The readable twin: all that has a name in full, of states and pages the beginning; pages that are alike in one line.
std::string render(const MainStream& stream) {
    std::string text = "machine " + stream.configuration.machine + "\n";
    if (stream.configuration.target_page_bits)
        text += "target page bits " + std::to_string(*stream.configuration.target_page_bits) + "\n";
    for (const std::string& capability : stream.configuration.capabilities.value_or(std::vector<std::string>{}))
        text += "capability " + capability + "\n";
    if (stream.configuration.uuid)
        text += "uuid " + bytesText({reinterpret_cast<const char*>(stream.configuration.uuid->data()), 16});
    for (const StreamPart& part : stream.parts) {
        if (const auto* command = std::get_if<CommandPart>(&part))
            text += "COMMAND " + std::string(name(command->command)) + ", " + bytesText(command->data);
        if (const auto* device = std::get_if<DevicePart>(&part))
            text += "FULL " + std::to_string(device->section_id) + " " + device->idstr + " instance " +
                    std::to_string(device->instance_id) + " version " + std::to_string(device->version_id) + ", " +
                    bytesText(device->state);
        const auto* ram = std::get_if<RamPart>(&part);
        if (!ram) continue;
        const char* const kinds[] = {"", "START", "PART", "END"};
        text += std::string(kinds[static_cast<int>(ram->kind)]) + " " + std::to_string(ram->section_id) + " ram\n";
        std::size_t zeroPages = 0;
        const auto flush = [&] {
            if (zeroPages > 0) text += "    and " + std::to_string(zeroPages) + " pages filled with one byte after it\n";
            zeroPages = 0;
        };
        for (const RamRecord& record : ram->records) {
            if (const auto* setup = std::get_if<RamSetup>(&record)) {
                for (const StreamRamBlock& block : setup->blocks)
                    text += "    block " + block.idstr + " used_length " + number(block.used_length) +
                            (block.page_size ? " page_size " + number(*block.page_size) : "") +
                            (block.mr_addr ? " mr_addr " + number(*block.mr_addr) : "") + "\n";
            } else if (const auto* page = std::get_if<RamPage>(&record)) {
                const auto* fill = std::get_if<std::uint8_t>(&page->content);
                if (fill && !page->idstr) {
                    ++zeroPages;
                    continue;
                }
                flush();
                text += "    page " + (page->idstr ? *page->idstr + " " : std::string()) + number(page->addr) + ", " +
                        (fill ? "filled with " + number(*fill) + "\n" : bytesText(std::get<std::string>(page->content)));
            } else {
                flush();
                text += "    MULTIFD_FLUSH\n";
            }
        }
        flush();
    }
    return text + (stream.description ? "description, " + bytesText(*stream.description) : "no description\n");
}

std::string be16(std::uint16_t value) {
    ByteWriter writer;
    writer.be16(value);
    return writer.take();
}
std::string bigEndian(std::uint32_t value) {
    ByteWriter writer;
    writer.be32(value);
    return writer.take();
}
std::string be64(std::uint64_t value) {
    ByteWriter writer;
    writer.be64(value);
    return writer.take();
}
std::string shortString(const std::string& text) {
    return static_cast<char>(text.size()) + text;
}
std::string subsection(const std::string& name, const std::string& body, std::uint32_t version = 1) {
    return "\5" + shortString(name) + bigEndian(version) + body;
}
std::string footer(std::uint32_t id) {
    return "\x7e" + bigEndian(id);
}
std::string deviceSection(const std::string& idstr, const std::string& state, std::uint32_t id = 9) {
    return "\4" + bigEndian(id) + shortString(idstr) + bigEndian(0) + bigEndian(2) + state + footer(id);
}
std::string ramBegin(const std::string& idstr = "ram", std::uint32_t version = 4) {
    return "\1" + bigEndian(2) + shortString(idstr) + bigEndian(0) + bigEndian(version);
}
std::string ramPart(const std::string& records, std::uint32_t id = 2) {
    return "\2" + bigEndian(id) + records + be64(0x10) + footer(id);
}

const std::string streamHeader = "QEVM\0\0\0\3"s;
const std::string begin = streamHeader + "\7\0\0\0\4test"s;
const std::string eos = be64(0x10);
/// Two blocks, of two pages and of one.
const std::string ramStart =
    ramBegin() + be64(0x3004) + shortString("a") + be64(0x2000) + shortString("b") + be64(0x1000) + eos + footer(2);
const std::string ramEnd = "\3" + bigEndian(2) + eos + footer(2);
const DeviceLengths timer = {{{"timer", 0}, 4}};

std::string refusalOfStream(const std::string& bytes, const std::set<std::string>& blocksWithPageSize = {}) {
    try {
        decodeMainStream(bytes, timer, blocksWithPageSize);
    } catch (const DecodeError& error) {
        EXPECT_LE(error.offset(), bytes.size());
        return error.what();
    }
    return "(accepted)";
}

/// The offset of an error in the part that follows `begin`.
std::string at(std::size_t offset) {
    return "offset " + std::to_string(begin.size() + offset) + ": ";
}

MainStream decodedAndEncoded(const std::string& bytes, const std::set<std::string>& blocksWithPageSize = {}) {
    const MainStream stream = decodeMainStream(bytes, timer, blocksWithPageSize);
    EXPECT_EQ(encodeMainStream(stream), bytes);
    return stream;
}

TEST(MainStream, readsTheConfigurationWithEverySubsection) {
    const MainStream stream =
        decodedAndEncoded(begin + subsection("configuration/target-page-bits", bigEndian(14)) +
                          subsection("configuration/capabilities", bigEndian(1) + shortString("x-ignore-shared")) +
                          subsection("configuration/uuid", "0123456789abcdef") + "\0"s);
    EXPECT_EQ(stream.configuration.machine, "test");
    EXPECT_EQ(stream.configuration.target_page_bits, 14U);
    EXPECT_THAT(stream.configuration.capabilities.value(), ElementsAre("x-ignore-shared"));
    EXPECT_EQ(stream.configuration.uuid.value()[15], 'f');
}

TEST(MainStream, readsCommandsAndDevicesInTheirOrder) {
    const MainStream stream = decodedAndEncoded(begin + "\10" + be16(2) + be16(4) + "ping" + deviceSection("timer", "tick") +
                                                "\10" + be16(11) + be16(0) + "\0\6\0\0\0\2{}"s);
    const std::vector<StreamPart> expected = {CommandPart{StreamCommand::PING, "ping"}, DevicePart{9, "timer", 0, 2, "tick"},
                                              CommandPart{StreamCommand::SWITCHOVER_START, ""}};
    EXPECT_EQ(stream.parts, expected);
    EXPECT_EQ(stream.description, "{}");
}

TEST(MainStream, readsEveryKindOfRamRecord) {
    const std::string bytes(4096, 'p');
    const MainStream stream = decodedAndEncoded(begin + ramStart +
                                                ramPart(be64(0x1008) + shortString("a") + bytes + be64(0x0028) + bytes +
                                                        be64(0x200) + be64(2) + shortString("b") + "\0"s + be64(0x22) + "\7"s) +
                                                ramEnd + "\0"s);
    ASSERT_EQ(stream.parts.size(), 3U);
    const RamPart expected{RamPart::Kind::PART,
                           2,
                           {RamPage{0x1000, "a", bytes}, RamPage{0, std::nullopt, bytes}, RamFlush{},
                            RamPage{0, "b", std::uint8_t{0}}, RamPage{0, std::nullopt, std::uint8_t{7}}}};
    EXPECT_EQ(std::get<RamPart>(stream.parts[1]), expected);
}

TEST(MainStream, findsOutAboutAddressesAndIsToldAboutPageSizes) {
    const std::string capabilities = subsection("configuration/capabilities", bigEndian(1) + shortString("x-ignore-shared"));
    const std::string setup = ramBegin() + be64(0x3004) + shortString("a") + be64(0x2000) + be64(0x200000) + be64(0xfffc0000) +
                              shortString("b") + be64(0x1000) + be64(5) + eos + footer(2);
    const MainStream stream = decodedAndEncoded(begin + capabilities + setup + ramEnd + "\0"s, {"a"});
    const std::vector<StreamRamBlock> expected = {{"a", 0x2000, 0x200000, 0xfffc0000}, {"b", 0x1000, std::nullopt, 5}};
    EXPECT_EQ(std::get<RamSetup>(std::get<RamPart>(stream.parts[0]).records.at(0)).blocks, expected);
}

TEST(MainStream, goesOnWithABlockInTheNextPart) {
    decodedAndEncoded(begin + ramStart + ramPart(be64(2) + shortString("a") + "\0"s) + ramPart(be64(0x1022) + "\0"s) + ramEnd +
                      "\0"s);
}

TEST(MainStream, takesPagesOfTheSizeThatTheTargetHas) {
    const std::string page(1024, 'p');
    decodedAndEncoded(begin + subsection("configuration/target-page-bits", bigEndian(10)) + ramStart +
                      ramPart(be64(0x408) + shortString("a") + page) + ramEnd + "\0"s);
}

TEST(MainStream, refusesToReadPastTheEnd) {
    const std::string body = begin + subsection("configuration/uuid", "0123456789abcdef") + "\10" + be16(2) + be16(4) + "ping" +
                             ramStart + ramPart(be64(2) + shortString("a") + "\0"s) + ramEnd + deviceSection("timer", "tick") +
                             "\0"s;
    const std::string whole = body + "\6\0\0\0\2{}"s;
    ASSERT_EQ(refusalOfStream(whole), "(accepted)");
    for (std::size_t length = 0; length < whole.size(); ++length) {
        if (length == body.size()) continue;  // A machine that suppresses its description.
        EXPECT_THAT(refusalOfStream(whole.substr(0, length)), HasSubstr("are left")) << "of the first " << length << " bytes";
    }
}

TEST(MainStream, refusesOtherFormats) {
    EXPECT_EQ(refusalOfStream("QCPR\0\0\0\1"s), "offset 0: not a migration stream: it does not begin with 'QEVM'");
    EXPECT_EQ(refusalOfStream("QEVM\0\0\0\2"s), "offset 4: migration stream version 2; 3 is known");
    EXPECT_EQ(refusalOfStream(streamHeader + "\1"), "offset 8: byte after the header should be 7 and is 1");
    EXPECT_EQ(refusalOfStream(begin + "\x55"), at(0) + "unknown type of a section: 0x55");
}

TEST(MainStream, refusesBytesAfterTheEnd) {
    EXPECT_EQ(refusalOfStream(begin + "\0x"s), at(1) + "byte after the end of the sections should be 6 and is 120");
    EXPECT_EQ(refusalOfStream(begin + "\0\6\0\0\0\2{}more"s), at(8) + "4 bytes after the end of the stream");
}

TEST(MainStream, refusesWhatIsWrongInTheConfiguration) {
    EXPECT_EQ(refusalOfStream(streamHeader + "\7"s + bigEndian(256)), "offset 9: a machine type of 256 characters");
    EXPECT_EQ(refusalOfStream(streamHeader + "\7"s + bigEndian(0)), "offset 9: machine type is empty");
    EXPECT_EQ(refusalOfStream(streamHeader + "\7"s + bigEndian(2) + "a\n"),
              "offset 9: machine type contains a control character");
    EXPECT_EQ(refusalOfStream(begin + subsection("configuration/luck", "")), at(0) + "unknown subsection 'configuration/luck'");
    EXPECT_EQ(refusalOfStream(begin + subsection("configuration/uuid", "", 2)),
              at(0) + "version 2 of 'configuration/uuid'; 1 is known");
    const std::string uuid = subsection("configuration/uuid", "0123456789abcdef");
    EXPECT_EQ(refusalOfStream(begin + uuid + uuid), at(uuid.size()) + "subsection 'configuration/uuid' comes twice or too late");
    EXPECT_EQ(refusalOfStream(begin + subsection("configuration/target-page-bits", bigEndian(9))),
              at(0) + "target pages of 9 bits");
    EXPECT_EQ(refusalOfStream(begin + subsection("configuration/target-page-bits", bigEndian(17))),
              at(0) + "target pages of 17 bits");
    EXPECT_EQ(refusalOfStream(begin + subsection("configuration/capabilities", bigEndian(65))), at(0) + "65 capabilities");
    EXPECT_THAT(refusalOfStream(begin + subsection("configuration/capabilities", bigEndian(1) + shortString("mapped-ram"))),
                HasSubstr("streams with the capability 'mapped-ram' cannot be read"));
}

TEST(MainStream, refusesCommandsOfPostcopyAndColo) {
    for (const std::uint16_t command : {0, 4, 5, 6, 7, 8, 9, 10, 12, 65535})
        EXPECT_EQ(refusalOfStream(begin + "\10" + be16(command) + be16(0)),
                  at(1) + "command " + std::to_string(command) + " is none of a stream without postcopy and COLO");
}

TEST(MainStream, refusesADeviceThatIsNotAsDescribed) {
    EXPECT_EQ(refusalOfStream(begin + deviceSection("clock", "tick")),
              at(5) + "the description does not know the device 'clock' instance 0");
    EXPECT_EQ(refusalOfStream(begin + deviceSection("timer", "ticks")),
              at(5 + 6 + 8 + 4) + "footer of 'timer' should be 126 and is 115");
    std::string other = deviceSection("timer", "tick");
    other.back() = '\3';
    EXPECT_EQ(refusalOfStream(begin + other), at(5 + 6 + 8 + 4) + "footer of 'timer' is that of section 3, not of 9");
    EXPECT_EQ(refusalOfStream(begin + deviceSection("ti\7mer", "tick")),
              at(5) + "idstr of a section contains a control character");
    try {
        decodeMainStream(begin + deviceSection("timer", "tick"), {{{"timer", 0}, ~std::uint64_t{0}}});
        FAIL() << "took a state without end";
    } catch (const DecodeError& error) {
        EXPECT_EQ(error.what(), at(5) + "a state of 18446744073709551615 bytes of the device 'timer' instance 0");
    }
}

TEST(MainStream, refusesSectionsInPartsThatAreNotRam) {
    EXPECT_EQ(refusalOfStream(begin + ramBegin("dirty-bitmap", 1)),
              at(1) + "section 'dirty-bitmap' instance 0 comes in parts and is not 'ram'");
    EXPECT_EQ(refusalOfStream(begin + ramBegin("ram", 5)), at(1) + "version 5 of section 'ram'; 4 is known");
    EXPECT_EQ(refusalOfStream(begin + ramPart("")), at(1) + "a part of section 2, which has not started or has ended");
    EXPECT_EQ(refusalOfStream(begin + ramStart + ramEnd + ramPart("")),
              at(ramStart.size() + ramEnd.size() + 1) + "a part of section 2, which has not started or has ended");
    EXPECT_EQ(refusalOfStream(begin + ramStart + ramPart("", 3)),
              at(ramStart.size() + 1) + "a part of section 3, which has not started or has ended");
    EXPECT_EQ(refusalOfStream(begin + ramStart + ramStart), at(ramStart.size() + 1) + "section 'ram' starts twice");
    EXPECT_EQ(refusalOfStream(begin + ramStart + "\0"s),
              at(ramStart.size() + 1) + "the stream ends, and its section 'ram' has not");
}

TEST(MainStream, refusesAWrongSetUpOfRamBlocks) {
    const std::size_t first = ramBegin().size();
    const std::string block = shortString("a") + be64(0x2000);
    EXPECT_EQ(refusalOfStream(begin + ramBegin() + be64(0x1004) + block),
              at(first + 8) + "RAM block 'a' is longer than what is left of the sum of all");
    EXPECT_EQ(refusalOfStream(begin + ramBegin() + be64(0x4004) + block + block),
              at(first + 8 + 10) + "RAM block 'a' comes twice");
    EXPECT_EQ(refusalOfStream(begin + ramBegin() + be64(0x2004) + block + be64(0x2004)),
              at(first + 18) + "a second set-up of RAM blocks");
    EXPECT_EQ(refusalOfStream(begin + ramBegin() + be64(0x2004) + "\0"s), at(first + 8) + "idstr of a RAM block is empty");
    std::string many;
    for (int i = 0; i <= 4096; ++i) many += shortString(std::to_string(i)) + be64(0x1000);
    EXPECT_EQ(refusalOfStream(begin + ramBegin() + be64(0x2000004) + many), at(first) + "more than 4096 RAM blocks");
}

TEST(MainStream, refusesPagesOfNoBlock) {
    const std::size_t first = ramStart.size() + 5;
    const auto refusal = [](const std::string& record) { return refusalOfStream(begin + ramStart + ramPart(record)); };
    EXPECT_EQ(refusal(be64(0x08) + shortString("c")), at(first) + "a page of the unknown RAM block 'c'");
    EXPECT_EQ(refusal(be64(0x28)), at(first) + "a page that continues no RAM block");
    EXPECT_EQ(refusal(be64(0x2002) + shortString("a") + "\0"s),
              at(first) + "a page at 0x2000 of RAM block 'a', which ends at 0x2000");
}

TEST(MainStream, refusesUnknownRamRecords) {
    // Nothing, FULL, XBZRLE, HOOK, COMPRESS_PAGE, two kinds at once, the end with an address.
    for (const std::uint64_t word : {0x0, 0x1, 0x40, 0x80, 0x100, 0x0a, 0x1010, 0x1200})
        EXPECT_EQ(refusalOfStream(begin + ramStart + ramPart(be64(word))),
                  at(ramStart.size() + 5) + "unknown RAM record " + number(word));
    EXPECT_EQ(refusalOfStream(begin + ramStart + ramPart(be64(0x1004))),
              at(ramStart.size() + 5) + "a second set-up of RAM blocks");
}

TEST(MainStream, refusesWhatTheFormatDoesNotHoldWhenWriting) {
    MainStream stream;
    stream.configuration.machine = "test";
    stream.parts = {DevicePart{1, std::string(256, 'n'), 0, 1, ""}};
    EXPECT_THROW(encodeMainStream(stream), std::length_error);
    stream.parts = {CommandPart{StreamCommand::PING, std::string(65536, 'd')}};
    EXPECT_THROW(encodeMainStream(stream), std::length_error);
}

TEST(MainStream, findsTheDescriptionAtTheEnd) {
    EXPECT_EQ(findDescription("...\0\6\0\0\0\2{}"s), "{}");
    const std::string text = "{" + std::string(0x10600 - 2, ' ') + "}";  // A length with the bytes of the mark in it.
    EXPECT_EQ(findDescription("\0\6"s + bigEndian(static_cast<std::uint32_t>(text.size())) + text), text);
}

TEST(MainStream, findsNoDescriptionWhereThereIsNone) {
    EXPECT_EQ(findDescription(""), std::nullopt);
    EXPECT_EQ(findDescription("\0\6\0\0\0\2"s), std::nullopt);
    EXPECT_EQ(findDescription("\0\6\0\0\0\3{}"s), std::nullopt);
    EXPECT_EQ(findDescription("\0\6\0\0\0\2{} "s), std::nullopt);
    EXPECT_EQ(findDescription("\1\6\0\0\0\2{}"s), std::nullopt);
    EXPECT_EQ(findDescription("\0\6\0\0\0\2[]"s), std::nullopt);
}

TEST(MainStream, ofRealQemusIsWrittenAsItWasRead) {
    expectGoldenTwins(".main", [](const std::string& bytes) {
        const MainStream stream = decodeDescribedStream(bytes);
        EXPECT_TRUE(encodeMainStream(stream) == bytes);
        return render(stream);
    });
}

}  // namespace
}  // namespace vh
