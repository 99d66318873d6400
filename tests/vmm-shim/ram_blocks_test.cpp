#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"
#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/ram_block_differences.h"

namespace vh {

void PrintTo(const RamBlock& block, std::ostream* out) {
    *out << block.idstr << " " << block.used_length << "/" << block.max_length << " page " << block.page_size << " align "
         << block.align << (block.shared ? " shared" : "") << (block.resizable ? " resizable" : "")
         << (block.read_only ? " read_only" : "") << (block.named_file ? " named_file" : "")
         << (block.guest_memfd ? " guest_memfd" : "");
    if (block.file) *out << " file " << block.file->identity.inode << " of " << block.file->size << " fd " << block.file->fd;
}

void PrintTo(const RamBlockDifference& difference, std::ostream* out) {
    *out << name(difference.severity) << ": " << describe(difference);
}

namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib;

const std::string heading =
    "              Block Name    PSize              Offset               Used              Total                HVA  RO\n";

/// A table as QEMU gave it, for: -machine pc-q35-10.0,accel=tcg,memory-backend=ram0,aux-ram-share=on -m size=256M -object
/// memory-backend-memfd,id=ram0,size=256M,share=on -device virtio-net-pci -device VGA -nodefaults -S.
std::string golden(const std::string& name) {
    return fileText(inSourceTree("tests/vmm-shim/" + name));
}

std::vector<RamBlock> parse(const std::string& table) {
    return gatherRamBlocks({.table = table});
}

RamBlock block(const std::string& idstr, std::uint64_t used, std::uint64_t max) {
    RamBlock made;
    made.idstr = idstr;
    made.used_length = used;
    made.max_length = max;
    made.resizable = used != max || idstr.starts_with("/rom@");
    return made;
}

/// What the parser says about one line of a table.
std::string refusalOfLine(const std::string& line) {
    try {
        parse(heading + line + "\n");
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "(accepted)";
}

TEST(RamBlockTable, readsThatOfARealQemu10) {
    EXPECT_THAT(parse(golden("ram-blocks-10.0.txt")),
                ElementsAre(block("ram0", 256 * mib, 256 * mib), block("0000:00:02.0/vga.vram", 16 * mib, 16 * mib),
                            block("/rom@etc/acpi/tables", 128 * kib, 2 * mib), block("pc.bios", 256 * kib, 256 * kib),
                            block("0000:00:01.0/virtio-net-pci.rom", 256 * kib, 256 * kib), block("pc.rom", 128 * kib, 128 * kib),
                            block("0000:00:02.0/vga.rom", 64 * kib, 64 * kib), block("/rom@etc/table-loader", 4 * kib, 64 * kib),
                            block("/rom@etc/acpi/rsdp", 4 * kib, 4 * kib)));
}

TEST(RamBlockTable, readsThatOfQemu7WhichDoesNotTellWhereTheBlocksLie) {
    const std::string table =
        "              Block Name    PSize              Offset               Used              Total\n"
        "                    ram0    4 KiB  0x0000000000000000 0x000000000c000000 0x000000000c000000\n"
        "    /rom@etc/acpi/tables    4 KiB  0x000000000c000000 0x0000000000020000 0x0000000000200000\n";
    const auto blocks = gatherRamBlocks({.table = table, .pid = ::getpid()});
    EXPECT_THAT(blocks, ElementsAre(block("ram0", 192 * mib, 192 * mib), block("/rom@etc/acpi/tables", 128 * kib, 2 * mib)));
    EXPECT_TRUE(std::ranges::none_of(blocks, [](const RamBlock& one) { return one.shared || one.file; }));
    // Enough to copy it, and not to share it.
    std::vector<RamBlock> newBlocks = blocks;
    for (RamBlock& one : newBlocks) one.shared = one.named_file = true;
    const auto isFatal = [](const RamBlockDifference& difference) { return difference.severity == Severity::Fatal; };
    EXPECT_TRUE(std::ranges::none_of(differences(blocks, newBlocks, RamTransfer::Copied), isFatal));
    EXPECT_TRUE(std::ranges::any_of(differences(blocks, newBlocks, RamTransfer::NamedFilesShared), isFatal));
}

TEST(RamBlockTable, ofQemu11MatchesThatOfQemu10) {
    const auto old = parse(golden("ram-blocks-10.0.txt")), newBlocks = parse(golden("ram-blocks-11.1.txt"));
    EXPECT_EQ(newBlocks.size(), 9U);
    EXPECT_THAT(differences(old, newBlocks, RamTransfer::Copied), IsEmpty());
}

TEST(RamBlockTable, hasNoBlocksBelowABareHeading) {
    EXPECT_THAT(parse(heading), IsEmpty());
}

TEST(RamBlockTable, readsLinesWithCarriageReturnsAndBlankOnes) {
    EXPECT_THAT(parse(heading + "  \r\n\n ram0 4 KiB 0x0 0x1000 0x2000 0x7f00 rw\r\n"),
                ElementsAre(block("ram0", 4 * kib, 8 * kib)));
}

TEST(RamBlockTable, readsEveryUnitOfThePageSize) {
    for (const auto& [text, bytes] :
         {std::pair<const char*, std::uint64_t>{"512 B", 512}, {"64 KiB", 64 * kib}, {"2 MiB", 2 * mib}, {"1 GiB", gib}})
        EXPECT_THAT(parse(heading + "r " + text + " 0x0 0x1000 0x1000 0x0 rw\n"), ElementsAre(Field(&RamBlock::page_size, bytes)))
            << text;
}

TEST(RamBlockTable, readsANameWithASpace) {
    EXPECT_THAT(parse(heading + "a b 4 KiB 0x0 0x1000 0x1000 0x0 rw\n"), ElementsAre(Field(&RamBlock::idstr, "a b")));
}

TEST(RamBlockTable, leavesOutABlockWithoutANameWhichNoMigrationCarries) {
    EXPECT_THAT(parse(heading + " 4 KiB 0x0 0x1000 0x1000 0x7f00 rw\n"), IsEmpty());
}

TEST(RamBlockTable, holdsTheLargestNumberThereIs) {
    EXPECT_THAT(parse(heading + "r 4 KiB 0x0 0xffffffffffffffff 0xFFFFFFFFFFFFFFFF 0x0 rw\n"),
                ElementsAre(block("r", ~std::uint64_t{0}, ~std::uint64_t{0})));
}

TEST(RamBlockTable, doesNotTakeAReadOnlyMemoryRegionForAReadOnlyMapping) {
    EXPECT_THAT(parse(heading + "pc.bios 4 KiB 0x0 0x1000 0x1000 0x7f00 ro\n"), ElementsAre(Field(&RamBlock::read_only, false)));
}

TEST(RamBlockTable, refusesTextThatIsNoTable) {
    for (const char* text : {"", "\n", "no blocks here", "{\"return\": {}}"})
        EXPECT_THROW(parse(text), std::invalid_argument) << text;
}

class MalformedLine : public testing::TestWithParam<const char*> {};

TEST_P(MalformedLine, isRefusedByName) {
    EXPECT_THAT(refusalOfLine(GetParam()), AllOf(HasSubstr("RAM block table"), HasSubstr("'" + std::string(GetParam()) + "'")));
}

INSTANTIATE_TEST_SUITE_P(RamBlockTable, MalformedLine,
                         testing::Values("ram0",                                           // nothing else
                                         "ram0 4 KiB 0x0 0x1000 0x7f00 rw",                // no total
                                         "ram0 4 KiB 0x0 0x1000 0x1000 0x7f00",            // no RO
                                         "ram0 4 KiB 0x0 0x1000 0x1000 0x7f00 yes",        // another RO
                                         "ram0 4 KB 0x0 0x1000 0x1000 0x7f00 rw",          // another unit
                                         "ram0 0 KiB 0x0 0x1000 0x1000 0x7f00 rw",         // pages of nothing
                                         "ram0 -4 KiB 0x0 0x1000 0x1000 0x7f00 rw",        // negative pages
                                         "ram0 4096 KiB 0x0 0x1000 0x1000 0x7f00 rw",      // not how QEMU writes it
                                         "ram0 4 KiB 0x0 1000 0x1000 0x7f00 rw",           // not hexadecimal
                                         "ram0 4 KiB 0x0 0x 0x1000 0x7f00 rw",             // no digits
                                         "ram0 4 KiB 0x0 0xyz 0x1000 0x7f00 rw",           // letters
                                         "ram0 4 KiB 0x0 0x10g0 0x1000 0x7f00 rw",         // a letter in the middle
                                         "ram0 4 KiB 0x0 -0x1000 0x1000 0x7f00 rw",        // negative
                                         "ram0 4 KiB 0x0 0x-1000 0x1000 0x7f00 rw",        // negative, too
                                         "ram0 4 KiB 0x0 0x1000 0x-1 0x7f00 rw",           // negative total
                                         "ram0 4 KiB 0x0 0x1000 0x+1 0x7f00 rw",           // a sign
                                         "ram0 4 KiB 0x0 0x1000 0x0x1000 0x7f00 rw",       // twice the prefix
                                         "ram0 4 KiB 0x0 0x10000000000000000 0x1 0x0 rw",  // 2^64
                                         "ram0 4 KiB 0x0 0x1 0x10000000000000000 0x0 rw",  // 2^64, too
                                         "ram0 4 KiB 0x0 0x1 0x1 nowhere rw",              // no address
                                         "ram0 4 KiB 0x0 0x2000 0x1000 0x7f00 rw"));       // more in use than there is

TEST(RamBlockTable, namesTheBadLineAmongGoodOnes) {
    try {
        parse(heading + "good 4 KiB 0x0 0x1000 0x1000 0x0 rw\nbad 4 KiB 0x0\ngood 4 KiB 0x0 0x1000 0x1000 0x0 rw\n");
        FAIL() << "accepted";
    } catch (const std::invalid_argument& error) {
        EXPECT_THAT(error.what(), HasSubstr("'bad 4 KiB 0x0'"));
    }
}

/// A tree like /proc with one process, whose mappings and descriptors a test makes up; the files are real ones.
class GatherRamBlocks : public NoDescriptorLeaks {
 protected:
    static constexpr pid_t pid = 4711;

    GatherRamBlocks() {
        std::filesystem::create_directories(process() / "fd");
        std::filesystem::create_directories(process() / "map_files");
    }

    std::filesystem::path process() const { return root_ / std::to_string(pid); }

    std::filesystem::path file(const std::string& name, std::uint64_t size) {
        std::ofstream(root_ / name).close();
        std::filesystem::resize_file(root_ / name, size);
        return root_ / name;
    }
    static FileIdentity identityOf(const std::filesystem::path& file) {
        struct stat status {};
        EXPECT_EQ(::stat(file.c_str(), &status), 0);
        return {status.st_dev, status.st_ino};
    }
    void descriptor(int number, const std::filesystem::path& target) {
        std::filesystem::create_symlink(target, process() / "fd" / std::to_string(number));
    }
    void map(const std::string& range, const std::string& rights, const FileIdentity& of, const std::string& path = "") {
        std::ostringstream line;
        line << range << " " << rights << " 00000000 " << std::hex << major(of.device) << ":" << minor(of.device) << " "
             << std::dec << of.inode << "    " << path << "\n";
        std::ofstream(process() / "maps", std::ios::app) << line.str();
    }
    std::vector<RamBlock> gather(const std::string& row, const std::map<std::string, std::string>& objectTypes = {}) const {
        return gatherRamBlocks({heading + row + "\n", objectTypes, pid, root_.string()});
    }
    RamBlock gatherOne(const std::string& row, const std::map<std::string, std::string>& objectTypes = {}) const {
        const auto blocks = gather(row, objectTypes);
        EXPECT_EQ(blocks.size(), 1U);
        return blocks.empty() ? RamBlock() : blocks.front();
    }

    const TemporaryDirectory directory_;
    const std::filesystem::path root_ = directory_.path();
};

TEST_F(GatherRamBlocks, findsTheFileOfASharedMappingAndItsDescriptor) {
    const auto memfd = file("memfd", 16 * mib), other = file("other", 4096);
    descriptor(3, other);
    descriptor(9, memfd);
    map("7f0000000000-7f0001000000", "rw-s", identityOf(memfd), "/memfd:vga.vram (deleted)");
    RamBlock expected = block("vga.vram", 16 * mib, 16 * mib);
    expected.align = 2 * mib;
    expected.shared = true;
    expected.file = BackingFile{identityOf(memfd), 16 * mib, 9};
    EXPECT_EQ(gatherOne("vga.vram 4 KiB 0x0 0x1000000 0x1000000 0x00007f0000000000 rw"), expected);
}

TEST_F(GatherRamBlocks, takesTheLowestOfSeveralDescriptors) {
    const auto memfd = file("memfd", 4096);
    for (const int number : {12, 7, 30}) descriptor(number, memfd);
    map("7f0000000000-7f0000001000", "rw-s", identityOf(memfd));
    EXPECT_EQ(gatherOne("r 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw").file->fd, 7);
}

TEST_F(GatherRamBlocks, looksThroughMapFilesWhenNoDescriptorIsKept) {
    const auto image = file("image", 8192);
    map("7f0000000000-7f0000002000", "rw-s", identityOf(image));
    std::filesystem::create_symlink(image, process() / "map_files/7f0000000000-7f0000002000");
    EXPECT_EQ(gatherOne("r 4 KiB 0x0 0x2000 0x2000 0x7f0000000000 rw").file, (BackingFile{identityOf(image), 8192, -1}));
}

TEST_F(GatherRamBlocks, findsTheDescriptorWhenMapsShowsAnotherDeviceThanStat) {
    const auto image = file("image", 8192);
    descriptor(5, image);
    map("7f0000000000-7f0000002000", "rw-s", {makedev(0, 77), identityOf(image).inode});
    std::filesystem::create_symlink(image, process() / "map_files/7f0000000000-7f0000002000");
    EXPECT_EQ(gatherOne("r 4 KiB 0x0 0x2000 0x2000 0x7f0000000000 rw").file, (BackingFile{identityOf(image), 8192, 5}));
}

TEST_F(GatherRamBlocks, saysSoWhenAFileCannotBeLookedAt) {
    const auto image = file("image", 8192);
    map("7f0000000000-7f0000002000", "rw-s", identityOf(image));
    EXPECT_THROW(gatherOne("r 4 KiB 0x0 0x2000 0x2000 0x7f0000000000 rw"), std::system_error);
}

TEST_F(GatherRamBlocks, findsNoFileBehindPrivateOrAnonymousMemory) {
    const auto image = file("image", 4096);
    descriptor(5, image);
    map("7f0000000000-7f0000001000", "rw-p", identityOf(image), "/image");
    map("7f0000200000-7f0000201000", "rw-p", {});
    map("7f0000400000-7f0000401000", "rw-s", {makedev(0, 1), 99}, "/dev/zero (deleted)");
    EXPECT_EQ(gatherOne("private 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw").file, std::nullopt);
    EXPECT_FALSE(gatherOne("private 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw").shared);
    EXPECT_EQ(gatherOne("anonymous 4 KiB 0x0 0x1000 0x1000 0x7f0000200000 rw").file, std::nullopt);
    EXPECT_EQ(gatherOne("zero 4 KiB 0x0 0x1000 0x1000 0x7f0000400000 rw").file, std::nullopt);
    EXPECT_TRUE(gatherOne("zero 4 KiB 0x0 0x1000 0x1000 0x7f0000400000 rw").shared);
}

TEST_F(GatherRamBlocks, takesReadOnlyFromTheRightsOfTheMapping) {
    const auto memfd = file("memfd", 4096);
    descriptor(3, memfd);
    map("7f0000000000-7f0000001000", "r--s", identityOf(memfd));
    map("7f0000200000-7f0000201000", "rw-s", identityOf(memfd));
    EXPECT_TRUE(gatherOne("dax 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw").read_only);
    EXPECT_FALSE(gatherOne("pc.bios 4 KiB 0x0 0x1000 0x1000 0x7f0000200000 ro").read_only);
}

TEST_F(GatherRamBlocks, knowsANamedFileByItsBackendAlsoByTheNameOfOldMachines) {
    const auto image = file("image", 4096);
    descriptor(3, image);
    map("7f0000000000-7f0000001000", "rw-s", identityOf(image));
    const std::map<std::string, std::string> types{
        {"m0", "child<memory-backend-file>"}, {"m1", "memory-backend-memfd"}, {"x", "iothread"}};
    const std::string rest = " 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw";
    EXPECT_TRUE(gatherOne("m0" + rest, types).named_file);
    EXPECT_TRUE(gatherOne("/objects/m0" + rest, types).named_file);
    EXPECT_FALSE(gatherOne("m1" + rest, types).named_file);
    EXPECT_FALSE(gatherOne("x" + rest, types).named_file);
    EXPECT_FALSE(gatherOne("pc.bios" + rest, types).named_file);
}

TEST_F(GatherRamBlocks, reportsNoMoreAlignmentForAMemoryBackendThanQemuAskedFor) {
    const auto memfd = file("memfd", 4 * mib);
    descriptor(3, memfd);
    map("7f0000000000-7f0000400000", "rw-s", identityOf(memfd));
    map("7f0001001000-7f0001401000", "rw-s", identityOf(memfd));
    const std::map<std::string, std::string> types{{"m0", "memory-backend-memfd"}, {"m1", "memory-backend-ram"}};
    EXPECT_EQ(gatherOne("m0 4 KiB 0x0 0x400000 0x400000 0x7f0000000000 rw", types).align, 4 * kib) << "the rest is chance";
    EXPECT_EQ(gatherOne("m0 2 MiB 0x0 0x400000 0x400000 0x7f0000000000 rw", types).align, 2 * mib);
    EXPECT_EQ(gatherOne("m1 4 KiB 0x0 0x400000 0x400000 0x7f0000000000 rw", types).align, 2 * mib);
    EXPECT_EQ(gatherOne("vram 4 KiB 0x0 0x400000 0x400000 0x7f0000000000 rw").align, 2 * mib);
    EXPECT_EQ(gatherOne("vram 4 KiB 0x0 0x400000 0x400000 0x7f0001001000 rw").align, 4 * kib);
}

TEST_F(GatherRamBlocks, takesEveryMemoryBackendForPrivateOnceTheProcessHoldsGuestMemfd) {
    const auto memfd = file("memfd", 4096);
    descriptor(3, memfd);
    descriptor(4, "anon_inode:[kvm-gmem]");
    map("7f0000000000-7f0000001000", "rw-s", identityOf(memfd));
    EXPECT_TRUE(gatherOne("m0 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw", {{"m0", "memory-backend-memfd"}}).guest_memfd);
    EXPECT_FALSE(gatherOne("vram 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw").guest_memfd);
}

TEST_F(GatherRamBlocks, passesOverDescriptorsThatWereClosedMeanwhile) {
    const auto memfd = file("memfd", 4096);
    descriptor(3, root_ / "gone");
    descriptor(4, memfd);
    map("7f0000000000-7f0000001000", "rw-s", identityOf(memfd));
    EXPECT_EQ(gatherOne("r 4 KiB 0x0 0x1000 0x1000 0x7f0000000000 rw").file->fd, 4);
}

TEST_F(GatherRamBlocks, refusesATableOfAnotherProcess) {
    map("7f0000000000-7f0000001000", "rw-p", {});
    try {
        gatherOne("ram0 4 KiB 0x0 0x1000 0x1000 0x7f0000001000 rw");
        FAIL() << "accepted";
    } catch (const std::invalid_argument& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("process 4711"), HasSubstr("'ram0 4 KiB")));
    }
}

TEST_F(GatherRamBlocks, refusesAProcessThatIsNotThere) {
    EXPECT_THROW(gatherRamBlocks({heading, {}, pid + 1, root_.string()}), std::system_error);
}

/// A block as gatherRamBlocks() finds it in a VMM with aux-ram-share=on.
RamBlock implicitBlock(std::uint64_t inode) {
    RamBlock made = block("0000:00:02.0/vga.vram", 16 * mib, 16 * mib);
    made.align = 2 * mib;
    made.shared = true;
    made.file = BackingFile{{1, inode}, 16 * mib, 9};
    return made;
}

RamBlock resizableBlock(std::uint64_t inode) {
    RamBlock made = implicitBlock(inode);
    made.idstr = "/rom@etc/acpi/tables";
    made.used_length = 128 * kib;
    made.max_length = 2 * mib;
    made.resizable = true;
    made.file->size = 2 * mib;
    return made;
}

RamBlock namedFile(std::uint64_t inode) {
    RamBlock made = block("ram0", 256 * mib, 256 * mib);
    made.align = 4 * kib;
    made.shared = true;
    made.named_file = true;
    made.file = BackingFile{{2, inode}, 256 * mib, 8};
    return made;
}

using Severities = std::vector<std::pair<std::string, Severity>>;  // Of each field that is told.

Severities severities(const std::vector<RamBlockDifference>& found) {
    Severities told;
    for (const RamBlockDifference& difference : found) {
        told.emplace_back(difference.field, difference.severity);
        EXPECT_NE(difference.why, "") << "a tired operator wants to know what follows";
    }
    return told;
}

constexpr Severity harmless = Severity::Harmless, adaptable = Severity::Adaptable, fatal = Severity::Fatal;

/// One way in which a block of the new VMM, or of the old one, is not as it should be, and what that means for each transfer.
struct Case {
    const char* name;
    std::function<RamBlock(std::uint64_t inode)> block;
    std::function<void(RamBlock& old, RamBlock& newBlock)> change;
    Severities copied, namedFiles, allShared;
};

void PrintTo(const Case& testCase, std::ostream* out) {
    *out << testCase.name;
}

class RamBlockField : public testing::TestWithParam<Case> {
 protected:
    static Severities told(RamTransfer transfer) {
        // Where the block is shared both map one file, else each its own.
        const bool named = GetParam().block(0).named_file;
        const bool shares = transfer == RamTransfer::AllShared || (transfer == RamTransfer::NamedFilesShared && named);
        RamBlock old = GetParam().block(100), newBlock = GetParam().block(shares ? 100 : 200);
        EXPECT_THAT(differences({old}, {newBlock}, transfer), IsEmpty()) << "before anything is changed";
        GetParam().change(old, newBlock);
        return severities(differences({old}, {newBlock}, transfer));
    }
};

TEST_P(RamBlockField, isJudgedForBlocksThatAreCopied) {
    EXPECT_EQ(told(RamTransfer::Copied), GetParam().copied);
}

TEST_P(RamBlockField, isJudgedForSharedNamedFiles) {
    EXPECT_EQ(told(RamTransfer::NamedFilesShared), GetParam().namedFiles);
}

TEST_P(RamBlockField, isJudgedForBlocksThatAreAllShared) {
    EXPECT_EQ(told(RamTransfer::AllShared), GetParam().allShared);
}

std::vector<Case> cases() {
    const auto grow = [](RamBlock& block) { block.file->size = block.max_length; };
    return {
        {"nothingChanged", implicitBlock, [](RamBlock&, RamBlock&) {}, {}, {}, {}},
        {"usedLengthOfABlockThatCanBeResized",
         resizableBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.used_length = 64 * kib; },
         {{"used_length", adaptable}},
         {{"used_length", adaptable}},
         {{"used_length", adaptable}}},
        {"usedLengthThatJustFits",
         resizableBlock,
         [](RamBlock& old, RamBlock&) { old.used_length = old.max_length; },
         {{"used_length", adaptable}},
         {{"used_length", adaptable}},
         {{"used_length", adaptable}}},
        {"usedLengthThatDoesNotFit",
         resizableBlock,
         [=](RamBlock& old, RamBlock&) {
             old.used_length = old.max_length = 4 * mib;
             grow(old);
         },
         {{"used_length", fatal}, {"max_length", fatal}},
         {{"used_length", fatal}, {"max_length", fatal}},
         {{"used_length", fatal}, {"max_length", fatal}, {"file", fatal}}},
        {"aRomFileOfAnotherSize",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) {
             for (RamBlock* block : {&old, &newBlock}) block->idstr = "0000:00:01.0/virtio-net-pci.rom";
             newBlock.used_length = newBlock.max_length = 32 * mib;
         },
         {{"used_length", fatal}, {"max_length", harmless}},
         {{"used_length", fatal}, {"max_length", harmless}},
         {{"used_length", fatal}, {"max_length", fatal}}},
        {"maxLengthMadeLargerByANewRelease",
         resizableBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.max_length = 4 * mib; },
         {{"max_length", harmless}},
         {{"max_length", harmless}},
         {{"max_length", fatal}}},
        {"maxLengthMadeSmallerByANewRelease",
         resizableBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.max_length = 1 * mib; },
         {{"max_length", harmless}},
         {{"max_length", harmless}},
         {{"max_length", adaptable}}},
        {"maxLengthOfANamedFile",
         namedFile,
         [](RamBlock& old, RamBlock& newBlock) {
             old.resizable = newBlock.resizable = true;
             newBlock.max_length = 512 * mib;
         },
         {{"max_length", harmless}},
         {{"max_length", fatal}},
         {{"max_length", fatal}}},
        {"pageSize",
         implicitBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.page_size = 2 * mib; },
         {{"page_size", harmless}},
         {{"page_size", harmless}},
         {{"page_size", fatal}}},
        {"pageSizeOfANamedFile",
         namedFile,
         [](RamBlock&, RamBlock& newBlock) { newBlock.page_size = 2 * mib; },
         {{"page_size", harmless}},
         {{"page_size", fatal}},
         {{"page_size", fatal}}},
        {"alignmentMadeSmallerByANewRelease",
         implicitBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.align = 4 * kib; },
         {{"align", harmless}},
         {{"align", harmless}},
         {{"align", harmless}}},
        {"alignmentMadeLarger", implicitBlock, [](RamBlock& old, RamBlock&) { old.align = 4 * kib; }, {}, {}, {}},
        {"alignmentThatIsUnknown", implicitBlock, [](RamBlock&, RamBlock& newBlock) { newBlock.align = 0; }, {}, {}, {}},
        {"alignmentOfANamedFile", namedFile, [](RamBlock& old, RamBlock&) { old.align = 2 * mib; }, {}, {}, {}},
        {"newVmmHasPrivateMemory",
         implicitBlock,
         [](RamBlock&, RamBlock& newBlock) {
             newBlock.shared = false;
             newBlock.file.reset();
         },
         {{"shared", harmless}},
         {{"shared", harmless}},
         {{"shared", fatal}, {"file", fatal}}},
        {"oldVmmHasPrivateMemory",
         implicitBlock,
         [](RamBlock& old, RamBlock&) {
             old.shared = false;
             old.file.reset();
         },
         {{"shared", harmless}},
         {{"shared", harmless}},
         {{"shared", fatal}, {"file", fatal}}},
        {"bothHavePrivateMemory",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) {
             for (RamBlock* block : {&old, &newBlock}) {
                 block->shared = false;
                 block->file.reset();
             }
         },
         {},
         {},
         {{"file", fatal}}},
        {"newVmmHasItsNamedFilePrivate",
         namedFile,
         [](RamBlock&, RamBlock& newBlock) {
             newBlock.shared = false;
             newBlock.file.reset();
         },
         {{"shared", harmless}},
         {{"shared", fatal}, {"file", fatal}},
         {{"shared", fatal}, {"file", fatal}}},
        {"resizable",
         implicitBlock,
         [](RamBlock& old, RamBlock&) { old.resizable = true; },
         {{"resizable", harmless}},
         {{"resizable", harmless}},
         {{"resizable", harmless}}},
        {"newVmmMayOnlyRead",
         implicitBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.read_only = true; },
         {{"read_only", fatal}},
         {{"read_only", fatal}},
         {{"read_only", fatal}}},
        {"oldVmmMayOnlyRead",
         namedFile,
         [](RamBlock& old, RamBlock&) { old.read_only = true; },
         {{"read_only", harmless}},
         {{"read_only", fatal}},
         {{"read_only", fatal}}},
        {"namedFileInTheOldVmmOnly",
         namedFile,
         [](RamBlock&, RamBlock& newBlock) { newBlock.named_file = false; },
         {{"named_file", harmless}},
         {{"named_file", fatal}},
         {{"named_file", harmless}}},
        {"namedFileInTheNewVmmOnly",
         namedFile,
         [](RamBlock& old, RamBlock&) { old.named_file = false; },
         {{"named_file", harmless}},
         {{"named_file", fatal}},
         {{"named_file", harmless}}},
        {"guestMemfdInTheOldVmm",
         implicitBlock,
         [](RamBlock& old, RamBlock&) { old.guest_memfd = true; },
         {{"guest_memfd", fatal}},
         {{"guest_memfd", fatal}},
         {{"guest_memfd", fatal}}},
        {"guestMemfdInBoth",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) { old.guest_memfd = newBlock.guest_memfd = true; },
         {{"guest_memfd", fatal}},
         {{"guest_memfd", fatal}},
         {{"guest_memfd", fatal}}},
        {"anotherFile",
         implicitBlock,
         [](RamBlock&, RamBlock& newBlock) {
             newBlock.file->identity = {1, 300};
         },
         {},
         {},
         {{"file", fatal}}},
        {"theOldVmmsFile",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) { newBlock.file = old.file; },
         {{"file", fatal}},
         {{"file", fatal}},
         {}},
        {"anotherNamedFile",
         namedFile,
         [](RamBlock&, RamBlock& newBlock) {
             newBlock.file->identity = {2, 300};
         },
         {},
         {{"file", fatal}},
         {{"file", fatal}}},
        {"theOldVmmsNamedFile",
         namedFile,
         [](RamBlock& old, RamBlock& newBlock) { newBlock.file = old.file; },
         {{"file", fatal}},
         {},
         {}},
        {"sameInodeOnAnotherDevice",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) {
             newBlock.file->identity = {77, old.file->identity.inode};
         },
         {},
         {},
         {{"file", fatal}}},
        {"fileThatWasGrown",
         implicitBlock,
         [](RamBlock&, RamBlock& newBlock) { newBlock.file->size = 32 * mib; },
         {},
         {},
         {{"file", fatal}}},
        {"fileThatIsTooSmall",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) { old.file->size = newBlock.file->size = 8 * mib; },
         {},
         {},
         {{"file", fatal}}},
        {"namedFileThatIsLargerThanWhatIsUsedOfIt",
         namedFile,
         [](RamBlock& old, RamBlock& newBlock) { old.file->size = newBlock.file->size = 512 * mib; },
         {},
         {},
         {}},
        {"fileInHugePagesThatIsRoundedUp",
         implicitBlock,
         [](RamBlock& old, RamBlock& newBlock) {
             for (RamBlock* block : {&old, &newBlock}) {
                 block->page_size = 32 * mib;
                 block->file->size = 32 * mib;
             }
         },
         {},
         {},
         {}},
        {"descriptorOfAnotherNumber", implicitBlock, [](RamBlock&, RamBlock& newBlock) { newBlock.file->fd = 40; }, {}, {}, {}},
    };
}

INSTANTIATE_TEST_SUITE_P(Each, RamBlockField, testing::ValuesIn(cases()),
                         [](const auto& instance) { return std::string(instance.param.name); });

constexpr RamTransfer transfers[] = {RamTransfer::Copied, RamTransfer::NamedFilesShared, RamTransfer::AllShared};

TEST(Differences, doNotCareForTheOrderOfBlocks) {
    const std::vector<RamBlock> blocks{namedFile(1), resizableBlock(2)};
    EXPECT_THAT(differences(blocks, {blocks[1], blocks[0]}, RamTransfer::AllShared), IsEmpty());
    EXPECT_THAT(differences({}, {}, RamTransfer::AllShared), IsEmpty());
}

TEST(Differences, areFatalForABlockThatTheNewVmmLacks) {
    for (const RamTransfer transfer : transfers) {
        const auto found = differences({implicitBlock(1)}, {}, transfer);
        ASSERT_EQ(found.size(), 1U);
        EXPECT_EQ(found[0], (RamBlockDifference{"0000:00:02.0/vga.vram", "block", "16 MiB", "absent", fatal, found[0].why}));
        EXPECT_THAT(found[0].why, HasSubstr("Unknown ramblock"));
    }
}

TEST(Differences, areFatalForABlockThatOnlyTheNewVmmHas) {
    for (const RamTransfer transfer : transfers) {
        const auto found = differences({}, {resizableBlock(1)}, transfer);
        ASSERT_EQ(found.size(), 1U);
        EXPECT_EQ(found[0], (RamBlockDifference{"/rom@etc/acpi/tables", "block", "absent", "128 KiB", fatal, found[0].why}));
        EXPECT_THAT(found[0].why, HasSubstr("QEMU does not say so"));
    }
}

TEST(Differences, nameTheBlockWhoseFileAnotherOneHas) {
    RamBlock a = implicitBlock(1), b = implicitBlock(2);
    a.idstr = "a";
    b.idstr = "b";
    std::vector<RamBlock> swapped{a, b};
    std::swap(swapped[0].file, swapped[1].file);
    EXPECT_THAT(differences({a, b}, swapped, RamTransfer::AllShared),
                ElementsAre(AllOf(Field(&RamBlockDifference::idstr, "a"), Field(&RamBlockDifference::severity, fatal),
                                  Field(&RamBlockDifference::why, HasSubstr("block 'b'"))),
                            AllOf(Field(&RamBlockDifference::idstr, "b"), Field(&RamBlockDifference::severity, fatal),
                                  Field(&RamBlockDifference::why, HasSubstr("block 'a'")))));
}

TEST(Differences, seeThatACopyWouldBeWrittenIntoAnotherBlockOfTheRunningGuest) {
    RamBlock a = implicitBlock(1), b = namedFile(2), newBlock = implicitBlock(3);
    newBlock.file->identity = b.file->identity;
    EXPECT_THAT(differences({a, b}, {newBlock, b}, RamTransfer::NamedFilesShared),
                ElementsAre(AllOf(Field(&RamBlockDifference::field, "file"), Field(&RamBlockDifference::severity, fatal),
                                  Field(&RamBlockDifference::why, HasSubstr("block 'ram0'")))));
}

TEST(Differences, comeBlockByBlockAndThenThoseOfTheNewVmmOnly) {
    RamBlock a = block("a", mib, mib), b = block("b", mib, mib), other = block("b", 2 * mib, 2 * mib), c = block("c", mib, mib);
    const auto idstr = [](const char* name) { return Field(&RamBlockDifference::idstr, name); };
    EXPECT_THAT(differences({a, b}, {c, other}, RamTransfer::Copied),
                ElementsAre(idstr("a"), idstr("b"), idstr("b"), idstr("c")));
}

TEST(Differences, speakOfARomFileOnlyWhereThereIsOne) {
    const auto why = [](const std::string& idstr) {
        return differences({block(idstr, mib, mib)}, {block(idstr, 2 * mib, 2 * mib)}, RamTransfer::Copied).at(0).why;
    };
    EXPECT_THAT(why("0000:00:01.0/virtio-net-pci.rom"), HasSubstr("romsize="));
    EXPECT_THAT(why("pc.bios"), HasSubstr("ROM files"));
    EXPECT_THAT(why("0000:00:02.0/vga.vram"), testing::Not(HasSubstr("ROM")));
}

TEST(Differences, areToldInOneLine) {
    EXPECT_EQ(describe({"vga.vram", "max_length", "16 MiB", "32 MiB", fatal, "it would grow"}),
              "vga.vram: max_length 16 MiB on the old VMM, 32 MiB on the new one: it would grow");
    EXPECT_EQ(name(harmless), "harmless");
    EXPECT_EQ(name(adaptable), "adaptable");
    EXPECT_EQ(name(fatal), "fatal");
}

TEST(Differences, writeSizesAndFilesForPeople) {
    RamBlock old = block("a", 4097, 3 * gib), newBlock = block("a", 0, 5 * kib);
    old.file = BackingFile{{makedev(8, 3), 42}, 6 * kib, -1};
    const auto found = differences({old}, {newBlock}, RamTransfer::AllShared);
    ASSERT_EQ(found.size(), 3U);
    EXPECT_EQ(found[0].old + "/" + found[0].new_, "4097 bytes/0 bytes");
    EXPECT_EQ(found[1].old + "/" + found[1].new_, "3 GiB/5 KiB");
    EXPECT_EQ(found[2].old + "/" + found[2].new_, "inode 42 on device 8:3, 6 KiB/none");
}

}  // namespace
}  // namespace vh
