// The nesting of JSON text, before it is parsed: a parsed value is copied and walked by recursion, so that a million brackets in
// one answer would end our stack. One look at the text, whatever is in it; a parser's callback that counts costs the square of
// the number of objects (nlohmann json 3.11, json_sax_dom_callback_parser::end_object).
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace vh {

/// Limit of nesting; QEMU's answers stay below 20.
constexpr std::size_t deepestNesting = 64;

/// The most brackets and braces that are open at once, those in strings aside. Right up to where text stops being JSON.
inline std::size_t jsonNesting(std::string_view text) {
    std::size_t open = 0, deepest = 0;
    bool inString = false;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char character = text[at];
        if (inString && character == '\\')
            ++at;
        else if (character == '"')
            inString = !inString;
        else if (!inString && (character == '[' || character == '{'))
            deepest = std::max(deepest, ++open);
        else if (!inString && (character == ']' || character == '}') && open > 0)
            --open;
    }
    return deepest;
}

}  // namespace vh
