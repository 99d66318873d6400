// The names of an enum's values, as files and reports have them: one row, from which they are printed and read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace vh {

/// Specialized for each enum with names: `namesFor(Enum::Last, "first", ..., "last")`.
template <class Enum>
inline constexpr auto namesOf = std::array<std::string_view, 0>();

template <class Enum>
concept Named = !namesOf<Enum>.empty();

/// Names in the order of the values, which are 0 to `last`; does not compile when a value has none.
template <class Enum, class... Names>
consteval auto namesFor(Enum last, Names... names) {
    if (sizeof...(names) != static_cast<std::size_t>(last) + 1) throw "each value needs its name";
    return std::array<std::string_view, sizeof...(names)>{names...};
}

template <Named Enum>
constexpr std::string_view name(Enum value) {
    return namesOf<Enum>.at(static_cast<std::size_t>(value));
}

template <Named Enum>
constexpr std::optional<Enum> valueNamed(std::string_view text) {
    const auto found = std::ranges::find(namesOf<Enum>, text);
    return found == namesOf<Enum>.end() ? std::nullopt : std::optional(static_cast<Enum>(found - namesOf<Enum>.begin()));
}

}  // namespace vh
