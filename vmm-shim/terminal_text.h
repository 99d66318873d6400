// Text that others wrote, for a terminal: the end of a VMM's stderr and a guest's complaints reach people through error
// messages, and what they contain must not move the cursor, clear the screen, set a title or hide what stands beside it.
#pragma once

#include <string>
#include <string_view>

namespace vh {

/// The same text, with line ends and tabs. Control characters (also those of U+0080 to U+009F), characters that turn the
/// direction of what follows, and bytes that are no UTF-8 are written out: `\x1b`.
std::string forTerminal(std::string_view text);

}  // namespace vh
