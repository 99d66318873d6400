// How deep JSON text is nested, before it is parsed: a parsed value is copied and walked by recursion, so that a million brackets
// in one answer would end our stack. One look at the text, whatever is in it; a parser's callback that counts costs the square of
// the number of objects (nlohmann json 3.11, json_sax_dom_callback_parser::end_object).
#pragma once

#include <cstddef>
#include <string_view>

namespace vh {

/// QEMU's answers stay below 20.
constexpr std::size_t deepestNesting = 64;

/// Brackets and braces that are open at once, those in strings aside. Right up to where text stops being JSON.
std::size_t jsonNesting(std::string_view text);

}  // namespace vh
