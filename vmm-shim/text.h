// Text for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

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

/// `2 MiB`, `1.5 GiB`, `512 B`: a decimal where there is one.
std::string roundedSize(double bytes);

/// `1.50`
std::string fixed(double number, int decimals);

/// `2 MiB`, or `2097153 bytes`: never rounded.
std::string exactSize(std::uint64_t bytes);

}  // namespace vh
