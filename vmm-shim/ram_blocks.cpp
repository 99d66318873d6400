#include "vmm-shim/ram_blocks.h"

#include <sys/stat.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

constexpr std::uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib;

/// All of `0x1000`, or nothing: no sign, no second prefix, no number above 64 bits.
std::optional<std::uint64_t> hexadecimal(std::string_view text) {
    if (!text.starts_with("0x")) return std::nullopt;
    return wholeNumber<std::uint64_t>(text.substr(2), 16);
}

/// `4 KiB`, `2 MiB`, `1 GiB` (util/cutils.c:size_to_str).
std::optional<std::uint64_t> pageSize(std::string_view count, std::string_view unit) {
    const auto value = wholeNumber<std::uint64_t>(count, 10);
    if (!value || *value == 0 || *value >= kib) return std::nullopt;
    if (unit == "B") return value;
    if (unit == "KiB") return *value * kib;
    if (unit == "MiB") return *value * mib;
    if (unit == "GiB") return *value * gib;
    return std::nullopt;
}

struct TableRow {
    RamBlock block;
    std::uint64_t hva = 0;  ///< 0 when it is not told.
    std::string line;
};

/// The columns are counted from the right, since a name may be empty or hold spaces.
TableRow parseRow(const std::string& line, bool hasPlace) {
    const auto refuse = [&] { throw std::invalid_argument("RAM block table: cannot read the line '" + line + "'"); };
    std::vector<std::string> columns;
    std::istringstream words(line);
    for (std::string word; words >> word;) columns.push_back(word);
    const std::size_t behindName = hasPlace ? 7 : 5;
    if (columns.size() < behindName) refuse();
    const std::string* column = &columns[columns.size() - behindName];
    const auto page = pageSize(column[0], column[1]);
    const auto offset = hexadecimal(column[2]), used = hexadecimal(column[3]), total = hexadecimal(column[4]),
               hva = hasPlace ? hexadecimal(column[5]) : 0;
    // RO is that of the MemoryRegion: what the guest may write. The rights of the mapping are another matter.
    const bool known = !hasPlace || column[6] == "ro" || column[6] == "rw";
    if (!page || !offset || !used || !total || !hva || !known || *used > *total) refuse();

    TableRow row;
    for (std::size_t i = 0; i + behindName < columns.size(); ++i) row.block.idstr += (i ? " " : "") + columns[i];
    row.block.used_length = *used;
    row.block.max_length = *total;
    row.block.page_size = *page;
    // Only ROM files make resizable blocks, and those are called so (hw/core/loader.c:rom_set_mr, rom_add_blob).
    row.block.resizable = *used != *total || row.block.idstr.starts_with("/rom@");
    row.hva = *hva;
    row.line = line;
    return row;
}

std::vector<TableRow> parseTable(const std::string& text) {
    std::vector<TableRow> rows;
    std::istringstream lines(text);
    std::string line;
    std::getline(lines, line);
    if (line.find("Block Name") == std::string::npos) throw std::invalid_argument("not a RAM block table: '" + line + "'");
    // QEMU 7.2 does not tell where its blocks lie, 10.0 does.
    const bool hasPlace = line.find(" HVA ") != std::string::npos;
    while (std::getline(lines, line)) {
        while (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.find_first_not_of(' ') == std::string::npos) continue;
        TableRow row = parseRow(line, hasPlace);
        // Memory that is registered with no vmstate, such as a vfio device's BAR, has no idstr and is on no wire
        // (migration/savevm.c:vmstate_register_ram).
        if (!row.block.idstr.empty()) rows.push_back(std::move(row));
    }
    return rows;
}

/// What the process has open, and whether guest_memfd is among it (virt/kvm/guest_memfd.c names it so since Linux 6.8).
struct OpenMemory {
    std::vector<BackingFile> files;
    bool guestMemfd = false;
};

OpenMemory openMemoryOf(const Process& process) {
    OpenMemory open;
    // The lowest number first.
    for (const OpenFile& file : process.files()) {
        if (file.target.find("[kvm-gmem]") != std::string::npos) open.guestMemfd = true;
        if (const auto status = file.status())
            open.files.push_back({{status->st_dev, status->st_ino}, static_cast<std::uint64_t>(status->st_size), file.number});
    }
    return open;
}

/// Shared anonymous memory is a file of the kernel's own that no descriptor can stand for (mm/shmem.c:shmem_zero_setup).
bool hasFile(const MemoryMapping& mapping) {
    return mapping.shared && mapping.file.inode != 0 && !mapping.path.starts_with("/dev/zero");
}

BackingFile backingFile(const MemoryMapping& mapping, const OpenMemory& open, const Process& process) {
    const auto has = [&](const FileIdentity& identity) {
        return std::ranges::find(open.files, identity, &BackingFile::identity);
    };
    if (const auto found = has(mapping.file); found != open.files.end()) return *found;
    // No descriptor is kept, or the file system shows another device number in maps than to stat(), as btrfs and overlayfs do.
    const std::string path = process.fileOf(mapping);
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) throwErrno("look at '" + path + "'");
    const FileIdentity identity{status.st_dev, status.st_ino};
    const auto found = has(identity);
    return {identity, static_cast<std::uint64_t>(status.st_size), found == open.files.end() ? -1 : found->fd};
}

/// The type of the memory backend that the block comes from; empty for a block of the VMM's own.
std::string backendType(const RamBlockSources& sources, const std::string& idstr) {
    // Its idstr is the backend's id; machines up to 3.1 use the whole path (backends/hostmem.c:host_memory_backend_get_name).
    const std::string prefix = "/objects/";
    const auto found = sources.objectTypes.find(idstr.starts_with(prefix) ? idstr.substr(prefix.size()) : idstr);
    if (found == sources.objectTypes.end()) return {};
    constexpr std::string_view child = "child<";
    std::string type = found->second;
    if (type.starts_with(child) && type.ends_with(">")) type = type.substr(child.size(), type.size() - child.size() - 1);
    return type.starts_with("memory-backend-") ? type : std::string();
}

}  // namespace

std::vector<RamBlock> gatherRamBlocks(const RamBlockSources& sources) {
    std::vector<TableRow> rows = parseTable(sources.table);
    std::vector<MemoryMapping> mappings;
    OpenMemory open;
    const Process process(sources.pid, sources.procRoot);
    if (sources.pid != 0) {
        open = openMemoryOf(process);
        mappings = process.mappings();
        if (mappings.empty()) throwErrno("read '" + process.path("maps") + "'", ESRCH);
    }
    std::vector<RamBlock> blocks;
    for (TableRow& row : rows) {
        RamBlock& block = row.block;
        const std::string backend = backendType(sources, block.idstr);
        block.named_file = backend == "memory-backend-file";
        block.guest_memfd = open.guestMemfd && !backend.empty();  // Which of them it is, cannot be seen.
        if (sources.pid != 0 && row.hva != 0) {
            const auto mapping = std::ranges::find_if(
                mappings, [&](const MemoryMapping& candidate) { return candidate.start <= row.hva && row.hva < candidate.end; });
            if (mapping == mappings.end())
                throw std::invalid_argument("process " + std::to_string(sources.pid) +
                                            " has nothing mapped at the address in the line '" + row.line +
                                            "': is it the VMM that the table is of?");
            block.shared = mapping->shared;
            block.read_only = !mapping->writable;
            if (hasFile(*mapping)) block.file = backingFile(*mapping, open, process);
            // The lowest bit that is set; for a memory backend's file no more than was asked for (see ram_block_differences.cpp).
            block.align = std::min(row.hva & (~row.hva + 1), hugeAlign);
            if (block.file && !backend.empty() && backend != "memory-backend-ram")
                block.align = std::min(block.align, block.page_size);
        }
        blocks.push_back(std::move(block));
    }
    return blocks;
}

}  // namespace vh
