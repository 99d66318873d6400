#include "vmm-shim/ram_blocks.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <sstream>
#include <stdexcept>

namespace vh {
namespace {

std::string inKiB(std::uint64_t bytes) {
    return bytes % (1024 * 1024) == 0 ? std::to_string(bytes / 1024 / 1024) + " MiB" : std::to_string(bytes / 1024) + " KiB";
}

const RamBlock* find(const std::vector<RamBlock>& blocks, const std::string& idstr) {
    const auto found = std::find_if(blocks.begin(), blocks.end(), [&](const RamBlock& block) { return block.idstr == idstr; });
    return found == blocks.end() ? nullptr : &*found;
}

/// QEMU resizes a block on load only when it was made resizable and the new length fits (migration/ram.c:parse_ramblock).
bool canLoad(const RamBlock& old, const RamBlock& fresh) {
    const bool resizable = fresh.used_length != fresh.max_length || old.used_length != old.max_length;
    return old.used_length == fresh.used_length || (resizable && old.used_length <= fresh.max_length);
}

/// All of `0x1000`, or nothing: no sign, no second prefix, no number above 64 bits.
std::optional<std::uint64_t> hexadecimal(std::string_view text) {
    std::uint64_t value = 0;
    if (!text.starts_with("0x")) return std::nullopt;
    const auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), value, 16);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace

std::vector<RamBlock> parseRamBlockTable(std::string_view text) {
    std::vector<RamBlock> blocks;
    std::istringstream lines{std::string(text)};
    std::string line;
    std::getline(lines, line);
    if (line.find("Block Name") == std::string::npos) throw std::invalid_argument("not a RAM block table: '" + line + "'");
    while (std::getline(lines, line)) {
        if (line.find_first_not_of(" \r") == std::string::npos) continue;
        RamBlock block;
        std::string pageSize, unit, offset, used, total;
        std::istringstream columns(line);
        columns >> block.idstr >> pageSize >> unit >> offset >> used >> total;
        const auto usedBytes = hexadecimal(used), totalBytes = hexadecimal(total);
        if (!columns || !unit.ends_with("B") || !usedBytes || !totalBytes)
            throw std::invalid_argument("RAM block table: cannot read the line '" + line + "'");
        block.used_length = *usedBytes;
        block.max_length = *totalBytes;
        blocks.push_back(std::move(block));
    }
    return blocks;
}

std::vector<std::string> fatalDifferences(const std::vector<RamBlock>& old, const std::vector<RamBlock>& fresh,
                                          bool sharesImplicitBlocks) {
    std::vector<std::string> found;
    for (const RamBlock& before : old) {
        const RamBlock* after = find(fresh, before.idstr);
        if (!after) {
            found.push_back("RAM block '" + before.idstr + "' (" + inKiB(before.used_length) + ") does not exist on the new VMM");
        } else if (!canLoad(before, *after)) {
            found.push_back("RAM block '" + before.idstr + "' has " + inKiB(before.used_length) + " on the old VMM and " +
                            inKiB(after->used_length) + " on the new one");
        } else if (sharesImplicitBlocks && before.max_length != after->max_length) {
            found.push_back("RAM block '" + before.idstr + "' may grow to " + inKiB(before.max_length) +
                            " on the old VMM and to " + inKiB(after->max_length) + " on the new one");
        }
    }
    for (const RamBlock& after : fresh)
        if (!find(old, after.idstr))
            found.push_back("RAM block '" + after.idstr + "' (" + inKiB(after.used_length) + ") exists only on the new VMM");
    return found;
}

}  // namespace vh
