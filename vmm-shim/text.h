// Text for people, and numbers that they or others wrote.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vh {

/// Adds to a list: `one, two`.
inline void append(std::string& list, std::string_view item, std::string_view separator = ", ") {
    if (!list.empty()) list += separator;
    list += item;
}

/// `a, b, c`.
template <class Items>
std::string joined(const Items& items, std::string_view separator = ", ") {
    std::string list;
    for (const auto& item : items) append(list, item, separator);
    return list;
}

/// What stands between the separators, empty parts too.
std::vector<std::string> split(std::string_view text, char separator);

/// All of the text, or nothing: no sign but a minus, no prefix, nothing around it, and no number that does not fit.
template <class Number>
std::optional<Number> wholeNumber(std::string_view text, int base = 10) {
    Number value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// `2 MiB`, `1.5 GiB`, `512 B`: a decimal where there is one.
std::string roundedSize(double bytes);

/// `1.50`
std::string fixed(double number, int decimals);

/// `2 MiB`, or `2097153 bytes`: never rounded.
std::string exactSize(std::uint64_t bytes);

}  // namespace vh
