#include "manager/resources/image_header.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "manager/resources/resources.h"

namespace vh {
namespace {

// docs/interop/qcow2.rst, QEMU 11.1. All numbers are big-endian.
constexpr std::uint32_t magic = 0x514649fb, backingFormat = 0xe2792aca;
constexpr std::size_t shortHeaderBytes = 72, headerLengthAt = 100, longestName = 1023, readBytes = 64 * 1024;

class Header {
 public:
    explicit Header(int image) : bytes_(readBytes) {
        // Opened again, for the descriptor may be one that reads whole sectors only.
        const UniqueFd file = reopen(image, O_RDONLY);
        const ssize_t length = ::pread(file.get(), bytes_.data(), bytes_.size(), 0);
        bytes_.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
    }
    /// 0 beyond what was read.
    std::uint64_t number(std::size_t at, std::size_t size) const {
        if (at > bytes_.size() || size > bytes_.size() - at) return 0;
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < size; ++i) value = value << 8 | static_cast<unsigned char>(bytes_[at + i]);
        return value;
    }
    /// Empty where it is not all there.
    std::string_view text(std::uint64_t at, std::uint64_t size) const {
        if (at > bytes_.size() || size > bytes_.size() - at) return {};
        return std::string_view(bytes_.data(), bytes_.size()).substr(at, size);
    }

 private:
    std::vector<char> bytes_;
};

std::string formatIn(const Header& header) {
    const std::uint64_t version = header.number(4, 4);
    std::uint64_t at = version < 3 ? shortHeaderBytes : header.number(headerLengthAt, 4);
    while (at < readBytes) {
        const std::uint64_t type = header.number(at, 4), length = header.number(at + 4, 4);
        if (type == backingFormat) return std::string(header.text(at + 8, std::min<std::uint64_t>(length, 64)));
        if (type == 0 || length > readBytes) break;
        at += 8 + (length + 7) / 8 * 8;
    }
    return {};
}

}  // namespace

std::optional<BackingImage> relativeBackingFile(int image, const std::string& path) {
    const Header header(image);
    if (header.number(0, 4) != magic || header.number(8, 8) == 0) return std::nullopt;
    const std::uint64_t length = header.number(16, 4);
    std::string name(header.text(header.number(8, 8), std::min<std::uint64_t>(length, longestName)));
    // As QEMU tells a protocol from a path (block.c:path_has_protocol, 11.1).
    const std::size_t end = name.find_first_of(":/");
    if (name.empty() || name.front() == '/' || (end != name.npos && name[end] == ':')) return std::nullopt;
    if (name.find('\0') != name.npos) throw std::runtime_error("'" + path + "' names a backing file that cannot be");
    const std::string file = std::filesystem::path(path).parent_path() / name;
    const std::string format = formatIn(header);
    if (format != "qcow2" && format != "raw")
        throw std::runtime_error("'" + path + "' has the backing file '" + name + "', " +
                                 (format.empty() ? "whose format it does not say" : "whose format is '" + format + "'") +
                                 "; shut down whatever uses the image, and write both down: qemu-img rebase -u -F FORMAT -b '" +
                                 file + "' '" + path + "'");
    return BackingImage{file, format};
}

}  // namespace vh
