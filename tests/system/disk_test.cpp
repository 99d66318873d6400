// Disks and memory as people have them: an overlay beside its backing file, an image in use, a guest with NUMA nodes.

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

/// An empty qcow2 image of 64 MiB over a backing file, as qemu-img makes it.
void writeOverlay(const std::string& file, const std::string& backing, const std::string& format) {
    constexpr std::size_t cluster = 64 * 1024, headerBytes = 104;
    std::string image(4 * cluster, '\0');
    const auto put = [&](std::size_t at, std::uint64_t value, std::size_t size) {
        for (std::size_t i = 0; i < size; ++i) image[at + i] = static_cast<char>(value >> 8 * (size - 1 - i));
    };
    std::size_t at = headerBytes;
    if (!format.empty()) {
        put(at, 0xe2792aca, 4);
        put(at + 4, format.size(), 4);
        image.replace(at + 8, format.size(), format);
        at += 16;
    }
    at += 8;  // The end of the header extensions.
    put(0, 0x514649fb, 4);
    put(4, 3, 4);
    put(8, at, 8);
    put(16, backing.size(), 4);
    put(20, 16, 4);                // Cluster bits.
    put(24, 64 * 1024 * 1024, 8);  // Size.
    put(36, 1, 4);                 // Entries of the L1 table,
    put(40, 3 * cluster, 8);       // and where it is.
    put(48, cluster, 8);           // The refcount table,
    put(56, 1, 4);                 // and its clusters.
    put(96, 4, 4);                 // Refcounts of 16 bits.
    put(100, headerBytes, 4);
    image.replace(at, backing.size(), backing);
    put(cluster, 2 * cluster, 8);
    for (std::size_t i = 0; i < 4; ++i) put(2 * cluster + 2 * i, 1, 2);
    std::ofstream(file, std::ios::binary) << image;
}

class DiskTest : public HostFixture {
 protected:
    /// A definition with another disk than the fixture's.
    std::string definition(VmOptions options, const std::string& disk, const std::string& format) {
        const std::string file = writeDefinition(workspace, options);
        replaceIn(file, workspace.path() + "/" + options.name + ".img", disk + ", format: " + format);
        return file;
    }
    VerbResult start(const std::string& file) { return test::start(host, file, patience); }
};

TEST_F(DiskTest, runsFromAnOverlayThatNamesItsBackingFileRelatively) {
    std::ofstream(workspace.path() + "/base.raw").close();
    fs::resize_file(workspace.path() + "/base.raw", 64 * 1024 * 1024);
    writeOverlay(workspace.path() + "/over.qcow2", "base.raw", "raw");
    const VerbResult started = start(definition({}, workspace.path() + "/over.qcow2", "qcow2"));
    ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    expectGuestIsWell(host, "vm");
    const json report = upgrade({.binary = newQemu()});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    expectGuestIsWell(host, "vm");
}

TEST_F(DiskTest, saysWhatToDoWithAnOverlayThatDoesNotNameItsBackingFilesFormat) {
    const std::string overlay = workspace.path() + "/over.qcow2", base = workspace.path() + "/base.raw";
    writeOverlay(overlay, "base.raw", "");
    const VerbResult refused = start(definition({}, overlay, "qcow2"));
    EXPECT_NE(refused.code, ExitCode::Done);
    EXPECT_THAT(refused.value.dump(), AllOf(HasSubstr("'base.raw', whose format it does not say"),
                                            HasSubstr("qemu-img rebase -u -F FORMAT -b '" + base + "' '" + overlay + "'")));
}

TEST_F(DiskTest, namesTheImageThatIsInUse) {
    const VerbResult started = start(writeDefinition(workspace, {}));
    ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    const std::string image = workspace.path() + "/vm.img";
    const VerbResult refused = start(definition({.name = "other"}, image, "raw"));
    EXPECT_NE(refused.code, ExitCode::Done);
    EXPECT_THAT(refused.value.dump(), AllOf(HasSubstr(image), HasSubstr("lock"), Not(HasSubstr("fdset"))));

    // And at the end of the stderr of a new VMM.
    const json report = upgrade({.binary = workspace.impostor("echo 'qemu: could not open /dev/fdset/1: no' >&2; exit 1")});
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report.value("cause", ""), HasSubstr("could not open " + image + ": no"));
}

TEST_F(DiskTest, handsOverAGuestWithNumaNodes) {
    const VerbResult started = start(writeDefinition(workspace, {.arguments = ", -numa, 'node,nodeid=0,cpus=0,memdev=ram0'"}));
    ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    const json report = upgrade({.binary = newQemu()});
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    expectGuestIsWell(host, "vm");
}

}  // namespace
}  // namespace vh::test
