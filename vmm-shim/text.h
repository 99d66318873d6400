// Text for people, and numbers that they or others wrote.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
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

/// Columns as wide as their widest cell, with `gap` blanks between them.
class Table {
 public:
    explicit Table(std::vector<std::string> header, std::size_t gap = 2) : gap_(gap) { add(std::move(header)); }
    void add(std::vector<std::string> row) { rows_.push_back({std::move(row), {}}); }
    /// Whole lines below the latest row, which are no part of its columns.
    void addBelow(const std::string& lines) { rows_.back().below += lines; }
    std::string text() const;

 private:
    struct Row {
        std::vector<std::string> cells;
        std::string below;
    };
    std::vector<Row> rows_;
    std::size_t gap_;
};

/// The parts between the separators, empty ones too.
std::vector<std::string> split(std::string_view text, char separator);

/// The number that the whole text is, or nothing: no sign but a minus, no prefix, nothing around it, and no number that does not
/// fit.
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
