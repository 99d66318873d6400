#include "vmm-shim/json_nesting.h"

#include <algorithm>

namespace vh {

std::size_t jsonNesting(std::string_view text) {
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
