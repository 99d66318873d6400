// The one door to raw bytes of QEMU's streams: big-endian numbers and bounded strings (migration/qemu-file.c, 10.0 and 11.1).
//
// A ByteReader never reads past its end and never copies more than is there; whatever does not fit is a DecodeError that says
// what was being read and at which offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace vh {

class DecodeError : public std::runtime_error {
 public:
    DecodeError(std::size_t offset, const std::string& what)
        : std::runtime_error("offset " + std::to_string(offset) + ": " + what), offset_(offset) {}
    std::size_t offset() const { return offset_; }

 private:
    std::size_t offset_;
};

/// Names reach logs, tables and /proc comparisons, so what is no text is no name: throws when `name`, read at `offset`, is empty
/// or has a control character.
void checkName(std::size_t offset, std::string_view name, const char* what);

class ByteReader {
 public:
    /// Borrows the bytes.
    explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

    std::size_t offset() const { return offset_; }
    std::size_t left() const { return bytes_.size() - offset_; }
    bool atEnd() const { return left() == 0; }

    /// `what` names the field in the error.
    std::uint8_t u8(const char* what) { return number<std::uint8_t>(what); }
    std::uint16_t be16(const char* what) { return number<std::uint16_t>(what); }
    std::uint32_t be32(const char* what) { return number<std::uint32_t>(what); }
    std::uint64_t be64(const char* what) { return number<std::uint64_t>(what); }
    std::string_view take(std::size_t length, const char* what);
    /// The next byte, left where it is; -1 at the end.
    int peek() const { return atEnd() ? -1 : static_cast<unsigned char>(bytes_[offset_]); }
    /// Throws when the next byte is not `value`.
    void expect(std::uint8_t value, const char* what);
    /// A be32 length that counts the characters and a NUL, then those; at most `limit` of them (migration/cpr.c:vmstate_cpr_fd).
    std::string nulString(std::size_t limit, const char* what);
    /// A u8 length and the characters.
    std::string shortString(const char* what);

    [[noreturn]] void fail(const std::string& what) const { throw DecodeError(offset_, what); }

 private:
    template <class Number>
    Number number(const char* what) {
        Number value = 0;
        for (const char byte : take(sizeof(Number), what))
            value = static_cast<Number>(std::uint64_t{value} << 8 | static_cast<unsigned char>(byte));
        return value;
    }

    std::string_view bytes_;
    std::size_t offset_ = 0;
};

class ByteWriter {
 public:
    void u8(std::uint8_t value) { number(value); }
    void be16(std::uint16_t value) { number(value); }
    void be32(std::uint32_t value) { number(value); }
    void be64(std::uint64_t value) { number(value); }
    void append(std::string_view bytes) { bytes_.append(bytes); }
    void nulString(const std::string& text);
    /// Throws std::length_error for more than 255 characters.
    void shortString(const std::string& text);

    std::size_t offset() const { return bytes_.size(); }
    const std::string& bytes() const { return bytes_; }
    std::string take() { return std::move(bytes_); }

 private:
    template <class Number>
    void number(Number value) {
        for (std::size_t left = sizeof(Number); left-- > 0;) bytes_.push_back(static_cast<char>(value >> 8 * left));
    }

    std::string bytes_;
};

}  // namespace vh
