#include "manager/record/ram_section.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"
#include "vmm-shim/ram_block_section.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class RamSectionTest : public testing::Test {
 protected:
    RamBlock tables() const {
        RamBlock block;
        block.idstr = "/rom@etc/acpi/tables";
        block.used_length = 128 << 10;
        block.max_length = 2 << 20;
        block.shared = block.resizable = true;
        block.file = BackingFile{{1, 2}, 2 << 20, 7};
        return block;
    }

    const TemporaryDirectory runtime_;
    const VmDirectory directory_{runtime_.path(), "web1"};
};

TEST_F(RamSectionTest, isNothingWhereNothingIsKept) {
    EXPECT_FALSE(keptRamBlocks(directory_, 1));
}

TEST_F(RamSectionTest, isKeptByteByByteForEachVmm) {
    const std::string section = encodeRamBlocks({tables()});
    keepRamSection(directory_, 3, section);
    EXPECT_EQ(readFile(directory_.generation(3) + "/ram-blocks"), section);
    EXPECT_FALSE(keptRamBlocks(directory_, 2));
    EXPECT_EQ(decodeRamBlocks(readFile(ramSectionPath(directory_, 3))), (std::vector<RamBlock>{tables()}));
}

TEST_F(RamSectionTest, isShownWithLengthsThatDiffer) {
    RamBlock bios;
    bios.idstr = "pc.bios";
    bios.used_length = bios.max_length = 256 << 10;
    keepRamSection(directory_, 1, encodeRamBlocks({bios}));
    keepRamSection(directory_, 1, encodeRamBlocks({tables(), bios}));  // A later handover's takes its place.
    const json kept = toJson(keptRamBlocks(directory_, 1).value());
    ASSERT_EQ(kept["blocks"].size(), 2U);
    EXPECT_EQ(kept["blocks"][0]["max_length"], 2 << 20);
    EXPECT_EQ(kept["blocks"][0]["file"]["st_ino"], 2);
    EXPECT_TRUE(kept["blocks"][1]["file"].is_null());
    EXPECT_EQ(keptRamBlocksFromJson(kept).blocks, (std::vector<RamBlock>{tables(), bios}));
    EXPECT_THAT(
        keptRamBlocksText(keptRamBlocksFromJson(kept)),
        AllOf(HasSubstr("'vmm-shim dump " + ramSectionPath(directory_, 1) + "'"),
              HasSubstr("\n  /rom@etc/acpi/tables: 128 KiB of 2 MiB, shared, resizable\n"), HasSubstr("\n  pc.bios: 256 KiB\n")));
}

TEST_F(RamSectionTest, isNamedWhenItIsDamaged) {
    keepRamSection(directory_, 1, "QEVM and then nothing");
    json kept = toJson(keptRamBlocks(directory_, 1).value());
    EXPECT_FALSE(kept.contains("blocks"));
    EXPECT_THAT(keptRamBlocksText(keptRamBlocksFromJson(kept)),
                AllOf(HasSubstr("'" + ramSectionPath(directory_, 1) + "' cannot be understood"), Not(HasSubstr("pc.bios"))));
    kept = {{"file", "/f"}, {"blocks", {{{"idstr", "pc.bios"}}}}};
    EXPECT_THAT(keptRamBlocksText(keptRamBlocksFromJson(kept)), HasSubstr("'/f' cannot be understood"))
        << "as of a manager of another version";
}

}  // namespace
}  // namespace vh
