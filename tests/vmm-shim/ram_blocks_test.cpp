#include "vmm-shim/ram_blocks.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vh {

void PrintTo(const RamBlock& block, std::ostream* out) {
    *out << block.idstr << " " << block.used_length << "/" << block.max_length;
}

namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kib = 1024, mib = 1024 * kib;

const std::string heading =
    "              Block Name    PSize              Offset               Used              Total                HVA  RO\n";

/// A table as QEMU gave it, for: -machine pc-q35-10.0,accel=tcg,memory-backend=ram0,aux-ram-share=on -m size=256M -object
/// memory-backend-memfd,id=ram0,size=256M,share=on -device virtio-net-pci -device VGA -nodefaults -S.
std::string golden(const std::string& name) {
    const char* root = std::getenv("VH_SOURCE_DIR");
    std::ifstream file(std::string(root ? root : ".") + "/tests/vmm-shim/" + name);
    EXPECT_TRUE(file) << "cannot open '" << name << "': is VH_SOURCE_DIR set?";
    return {std::istreambuf_iterator<char>(file), {}};
}

/// What the parser says about one line of a table.
std::string refusalOf(const std::string& line) {
    try {
        parseRamBlockTable(heading + line + "\n");
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "(accepted)";
}

TEST(RamBlockTable, readsThatOfARealQemu10) {
    EXPECT_THAT(
        parseRamBlockTable(golden("ram-blocks-10.0.txt")),
        ElementsAre(RamBlock{"ram0", 256 * mib, 256 * mib}, RamBlock{"0000:00:02.0/vga.vram", 16 * mib, 16 * mib},
                    RamBlock{"/rom@etc/acpi/tables", 128 * kib, 2 * mib}, RamBlock{"pc.bios", 256 * kib, 256 * kib},
                    RamBlock{"0000:00:01.0/virtio-net-pci.rom", 256 * kib, 256 * kib}, RamBlock{"pc.rom", 128 * kib, 128 * kib},
                    RamBlock{"0000:00:02.0/vga.rom", 64 * kib, 64 * kib}, RamBlock{"/rom@etc/table-loader", 4 * kib, 64 * kib},
                    RamBlock{"/rom@etc/acpi/rsdp", 4 * kib, 4 * kib}));
}

TEST(RamBlockTable, ofQemu11MatchesThatOfQemu10) {
    const auto old = parseRamBlockTable(golden("ram-blocks-10.0.txt")), fresh = parseRamBlockTable(golden("ram-blocks-11.1.txt"));
    EXPECT_EQ(fresh.size(), 9U);
    EXPECT_THAT(fatalDifferences(old, fresh, true), IsEmpty());
}

TEST(RamBlockTable, hasNoBlocksBelowABareHeading) {
    EXPECT_THAT(parseRamBlockTable(heading), IsEmpty());
}

TEST(RamBlockTable, readsLinesWithCarriageReturnsAndBlankOnes) {
    EXPECT_THAT(parseRamBlockTable(heading + "  \r\n\n ram0 4 KiB 0x0 0x1000 0x2000 0x7f00 rw\r\n"),
                ElementsAre(RamBlock{"ram0", 4 * kib, 8 * kib}));
}

TEST(RamBlockTable, holdsTheLargestNumberThereIs) {
    EXPECT_THAT(parseRamBlockTable(heading + "r 4 KiB 0x0 0xffffffffffffffff 0xFFFFFFFFFFFFFFFF 0x0 rw\n"),
                ElementsAre(RamBlock{"r", ~std::uint64_t{0}, ~std::uint64_t{0}}));
}

TEST(RamBlockTable, refusesTextThatIsNoTable) {
    for (const char* text : {"", "\n", "no blocks here", "{\"return\": {}}"})
        EXPECT_THROW(parseRamBlockTable(text), std::invalid_argument) << text;
}

class MalformedLine : public testing::TestWithParam<const char*> {};

TEST_P(MalformedLine, isRefusedByName) {
    EXPECT_THAT(refusalOf(GetParam()), AllOf(HasSubstr("RAM block table"), HasSubstr("'" + std::string(GetParam()) + "'")));
}

INSTANTIATE_TEST_SUITE_P(RamBlockTable, MalformedLine,
                         testing::Values("ram0",                                           // nothing else
                                         "ram0 4 KiB 0x0 0x1000",                          // no total
                                         "4 KiB 0x0 0x1000 0x1000 0x7f00 rw",              // no name
                                         "ram0 4 KiB 0x0 1000 0x1000 0x7f00 rw",           // not hexadecimal
                                         "ram0 4 KiB 0x0 0x 0x1000 0x7f00 rw",             // no digits
                                         "ram0 4 KiB 0x0 0xyz 0x1000 0x7f00 rw",           // letters
                                         "ram0 4 KiB 0x0 0x10g0 0x1000 0x7f00 rw",         // a letter in the middle
                                         "ram0 4 KiB 0x0 -0x1000 0x1000 0x7f00 rw",        // negative
                                         "ram0 4 KiB 0x0 0x-1000 0x1000 0x7f00 rw",        // negative, too
                                         "ram0 4 KiB 0x0 0x1000 0x-1 0x7f00 rw",           // negative total
                                         "ram0 4 KiB 0x0 0x+1 0x1000 0x7f00 rw",           // a sign
                                         "ram0 4 KiB 0x0 0x0x1 0x1000 0x7f00 rw",          // twice the prefix
                                         "ram0 4 KiB 0x0 0x10000000000000000 0x1 0x0 rw",  // 2^64
                                         "ram0 4 KiB 0x0 0x1 0x10000000000000000 0x0 rw"));

TEST(RamBlockTable, namesTheBadLineAmongGoodOnes) {
    try {
        parseRamBlockTable(heading + "good 4 KiB 0x0 0x1000 0x1000 0x0 rw\nbad 4 KiB 0x0\ngood 4 KiB 0x0 0x1000 0x1000 0x0 rw\n");
        FAIL() << "accepted";
    } catch (const std::invalid_argument& error) {
        EXPECT_THAT(error.what(), HasSubstr("'bad 4 KiB 0x0'"));
    }
}

TEST(FatalDifferences, areNoneBetweenEqualVmms) {
    const std::vector<RamBlock> blocks{{"ram0", 256 * mib, 256 * mib}, {"acpi", 128 * kib, 2 * mib}};
    EXPECT_THAT(fatalDifferences(blocks, blocks, true), IsEmpty());
    EXPECT_THAT(fatalDifferences(blocks, {blocks[1], blocks[0]}, true), IsEmpty()) << "their order does not matter";
    EXPECT_THAT(fatalDifferences({}, {}, true), IsEmpty());
}

TEST(FatalDifferences, nameABlockThatTheNewVmmLacks) {
    EXPECT_THAT(fatalDifferences({{"vga.vram", 16 * mib, 16 * mib}}, {}, false),
                ElementsAre("RAM block 'vga.vram' (16 MiB) does not exist on the new VMM"));
}

TEST(FatalDifferences, nameABlockThatOnlyTheNewVmmHas) {
    EXPECT_THAT(fatalDifferences({}, {{"vga.rom", 64 * kib, 64 * kib}}, false),
                ElementsAre("RAM block 'vga.rom' (64 KiB) exists only on the new VMM"));
}

TEST(FatalDifferences, nameBothSizesOfABlockThatCannotBeResized) {
    EXPECT_THAT(fatalDifferences({{"net.rom", 256 * kib, 256 * kib}}, {{"net.rom", 512 * kib, 512 * kib}}, false),
                ElementsAre("RAM block 'net.rom' has 256 KiB on the old VMM and 512 KiB on the new one"));
}

TEST(FatalDifferences, allowABlockThatQemuCanResizeOnLoad) {
    EXPECT_THAT(fatalDifferences({{"acpi", 128 * kib, 2 * mib}}, {{"acpi", 64 * kib, 2 * mib}}, false), IsEmpty());
    EXPECT_THAT(fatalDifferences({{"acpi", 2 * mib, 2 * mib}}, {{"acpi", 64 * kib, 2 * mib}}, false), IsEmpty())
        << "it just fits";
}

TEST(FatalDifferences, nameAResizableBlockThatDoesNotFit) {
    EXPECT_THAT(fatalDifferences({{"acpi", 4 * mib, 8 * mib}}, {{"acpi", 128 * kib, 2 * mib}}, false),
                ElementsAre("RAM block 'acpi' has 4 MiB on the old VMM and 128 KiB on the new one"));
}

TEST(FatalDifferences, careForTheMaximumOnlyWhenTheBlockIsShared) {
    const std::vector<RamBlock> old{{"acpi", 128 * kib, 2 * mib}}, fresh{{"acpi", 128 * kib, 4 * mib}};
    EXPECT_THAT(fatalDifferences(old, fresh, false), IsEmpty());
    EXPECT_THAT(fatalDifferences(old, fresh, true),
                ElementsAre("RAM block 'acpi' may grow to 2 MiB on the old VMM and to 4 MiB on the new one"));
}

TEST(FatalDifferences, areToldForEveryBlock) {
    EXPECT_THAT(fatalDifferences({{"a", mib, mib}, {"b", mib, mib}}, {{"b", 2 * mib, 2 * mib}, {"c", mib, mib}}, false),
                ElementsAre(HasSubstr("'a'"), HasSubstr("'b'"), HasSubstr("'c'")));
}

}  // namespace
}  // namespace vh
