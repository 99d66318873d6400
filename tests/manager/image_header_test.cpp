#include "manager/resources/image_header.h"

#include <fcntl.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ImageHeaderTest : public NoDescriptorLeaks {
 protected:
    /// A header of version 3 with a backing file's name behind it, and its format in front of that.
    static std::string header(const std::string& backing, const std::string& format) {
        std::string bytes(104, '\0');
        put(bytes, 0, 0x514649fb, 4);
        put(bytes, 4, 3, 4);
        put(bytes, 100, 104, 4);
        if (!format.empty()) {
            bytes += std::string("\xe2\x79\x2a\xca", 4) + std::string(4, '\0') + format;
            put(bytes, 108, format.size(), 4);
            bytes.resize((bytes.size() + 7) / 8 * 8);
        }
        bytes.resize(bytes.size() + 8);
        put(bytes, 8, bytes.size(), 8);
        put(bytes, 16, backing.size(), 4);
        return bytes + backing;
    }
    static void put(std::string& bytes, std::size_t at, std::uint64_t value, std::size_t size) {
        for (std::size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<char>(value >> 8 * (size - 1 - i));
    }
    std::optional<BackingImage> read(const std::string& bytes) {
        const std::string file = directory_.write("image", bytes);
        const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
        return relativeBackingFile(fd.get(), "/vm/images/root.qcow2");
    }
    std::string refusal(const std::string& bytes) {
        try {
            read(bytes);
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return "(none)";
    }

    TemporaryDirectory directory_;
};

TEST_F(ImageHeaderTest, looksForARelativeBackingFileBesideTheImage) {
    const auto backing = read(header("base/debian.qcow2", "qcow2"));
    ASSERT_TRUE(backing);
    EXPECT_EQ(backing->file, "/vm/images/base/debian.qcow2");
    EXPECT_EQ(backing->format, "qcow2");
    EXPECT_EQ(read(header("../base.img", "raw"))->file, "/vm/images/../base.img");
}

TEST_F(ImageHeaderTest, leavesToQemuWhatItFindsByItself) {
    EXPECT_FALSE(read(header("/vm/base.qcow2", "qcow2")));
    EXPECT_FALSE(read(header("nbd://host/disk", "raw")));
    EXPECT_FALSE(read(header("json:{\"driver\":\"null-co\"}", "")));
    std::string none = header("", "");
    none.replace(8, 8, 8, '\0');
    EXPECT_FALSE(read(none));
    EXPECT_FALSE(read("no image of that kind"));
    EXPECT_FALSE(read(""));
}

TEST_F(ImageHeaderTest, asksForAFormatThatIsNotThere) {
    EXPECT_THAT(refusal(header("base.img", "")),
                AllOf(HasSubstr("'/vm/images/root.qcow2' has the backing file 'base.img', whose format it does not say"),
                      HasSubstr("qemu-img rebase -u -F FORMAT -b '/vm/images/base.img' '/vm/images/root.qcow2'")));
    EXPECT_THAT(refusal(header("base.vmdk", "vmdk")), HasSubstr("whose format is 'vmdk'"));
    EXPECT_THAT(refusal(header(std::string("a\0b", 3), "raw")), HasSubstr("cannot be"));
}

TEST_F(ImageHeaderTest, comesToAnEndWithEveryDamagedHeader) {
    const std::string good = header("base.img", "raw");
    for (std::size_t length = 0; length < good.size(); ++length) (void)refusal(good.substr(0, length));
    for (std::size_t at = 0; at < good.size(); ++at)
        for (const char value : {'\0', '\x01', '\x7f', '\xff'}) {
            std::string damaged = good;
            damaged[at] = value;
            (void)refusal(damaged);
        }
    std::string loop = header("base.img", "");
    loop.replace(104, 8, std::string("\0\0\0\1\xff\xff\xff\xf8", 8));
    EXPECT_THAT(refusal(loop), HasSubstr("whose format it does not say"));
}

}  // namespace
}  // namespace vh
