#include "vmm-shim/text.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace vh {
namespace {

constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};

}  // namespace

std::string Table::text() const {
    std::vector<std::size_t> widths;
    for (const Row& row : rows_) {
        widths.resize(std::max(widths.size(), row.cells.size()));
        for (std::size_t i = 0; i < row.cells.size(); ++i) widths[i] = std::max(widths[i], row.cells[i].size());
    }
    std::string text;
    for (const Row& row : rows_) {
        std::string line;
        for (std::size_t i = 0; i < row.cells.size(); ++i)
            line += row.cells[i] + std::string(widths[i] - row.cells[i].size() + gap_, ' ');
        line.erase(line.find_last_not_of(' ') + 1);
        text += line + "\n" + row.below;
    }
    return text;
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts(1);
    for (const char character : text)
        if (character == separator)
            parts.emplace_back();
        else
            parts.back() += character;
    return parts;
}

std::string fixed(double number, int decimals) {
    char text[400];  // The greatest double has 309 digits.
    std::snprintf(text, sizeof(text), "%.*f", decimals, number);
    return text;
}

std::string roundedSize(double bytes) {
    std::size_t unit = 0;
    // What would be shown as 1024 is one of the next unit.
    for (; unit + 1 < units.size() && bytes >= 1023.95; ++unit) bytes /= 1024;
    std::string number = fixed(bytes, 1);
    if (number.ends_with(".0")) number.resize(number.size() - 2);
    return number + " " + units[unit];
}

std::string exactSize(std::uint64_t bytes) {
    if (bytes % 1024 != 0 || bytes == 0) return std::to_string(bytes) + " bytes";
    std::size_t unit = 0;
    for (; unit + 1 < units.size() && bytes % 1024 == 0; ++unit) bytes /= 1024;
    return std::to_string(bytes) + " " + units[unit];
}

}  // namespace vh
