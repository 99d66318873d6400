#include "vmm-shim/terminal_text.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace vh {
namespace {

struct Character {
    std::size_t length = 1;
    std::uint32_t code = 0;
    bool valid = false;
};

/// The UTF-8 character at the beginning, in its shortest form.
Character first(std::string_view text) {
    const auto byte = [&text](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return {1, lead, true};
    const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return {};
    std::uint32_t code = lead & (0x7fU >> length);
    for (std::size_t at = 1; at < length; ++at) {
        if ((byte(at) & 0xc0U) != 0x80) return {};
        code = code << 6 | (byte(at) & 0x3fU);
    }
    static constexpr std::array<std::uint32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
    return {length, code, true};
}

bool isHarmless(std::uint32_t code) {
    if (code == '\n' || code == '\t') return true;
    if (code < 0x20 || (code >= 0x7f && code <= 0x9f)) return false;
    const bool turnsDirection = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0x200e ||
                                code == 0x200f || code == 0x061c;
    return !turnsDirection;
}

}  // namespace

std::string forTerminal(std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string safe;
    safe.reserve(text.size());
    while (!text.empty()) {
        const Character next = first(text);
        for (std::size_t at = 0; at < next.length; ++at) {
            const auto byte = static_cast<unsigned char>(text[at]);
            if (next.valid && isHarmless(next.code))
                safe += text[at];
            else
                (safe += "\\x").append({digits[byte >> 4], digits[byte & 0xf]});
        }
        text.remove_prefix(next.length);
    }
    return safe;
}

}  // namespace vh
