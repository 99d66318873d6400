#include "vmm-shim/bytes.h"

namespace vh {

void checkName(std::size_t offset, std::string_view name, const char* what) {
    if (name.empty()) throw DecodeError(offset, std::string(what) + " is empty");
    for (const char character : name)
        if (static_cast<unsigned char>(character) < 0x20 || character == 0x7f)
            throw DecodeError(offset, std::string(what) + " contains a control character");
}

std::string_view ByteReader::take(std::size_t length, const char* what) {
    if (length > left())
        fail(std::string(what) + " needs " + std::to_string(length) + " bytes, " + std::to_string(left()) + " are left");
    const std::string_view taken = bytes_.substr(offset_, length);
    offset_ += length;
    return taken;
}

void ByteReader::expect(std::uint8_t value, const char* what) {
    const std::size_t at = offset_;
    const std::uint8_t found = u8(what);
    if (found != value)
        throw DecodeError(at, std::string(what) + " should be " + std::to_string(value) + " and is " + std::to_string(found));
}

std::string ByteReader::nulString(std::size_t limit, const char* what) {
    const std::size_t at = offset_;
    const std::uint32_t length = be32(what);
    if (length == 0 || length > limit) throw DecodeError(at, std::string(what) + " has a length of " + std::to_string(length));
    const std::string_view raw = take(length, what);
    if (raw.find('\0') != length - 1) throw DecodeError(at, std::string(what) + " is not a string of its length");
    return std::string(raw.substr(0, length - 1));
}

std::string ByteReader::shortString(const char* what) {
    const std::uint8_t length = u8(what);
    return std::string(take(length, what));
}

void ByteWriter::nulString(const std::string& text) {
    be32(static_cast<std::uint32_t>(text.size() + 1));
    bytes_.append(text.c_str(), text.size() + 1);
}

void ByteWriter::shortString(const std::string& text) {
    if (text.size() > 255) throw std::length_error("'" + text + "' is longer than 255 characters");
    u8(static_cast<std::uint8_t>(text.size()));
    bytes_.append(text);
}

}  // namespace vh
