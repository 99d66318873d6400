#include "plugin/host/emulator.h"

#include <elf.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <sstream>
#include <stdexcept>

#include "plugin/host/command.h"
#include "plugin/host/process.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

// Program headers and notes are a few hundred bytes; a file that says otherwise is not read into memory.
constexpr std::size_t maxNotesBytes = 65536;

std::string hex(const std::string& bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (const char byte : bytes) {
        text += digits[static_cast<unsigned char>(byte) >> 4];
        text += digits[static_cast<unsigned char>(byte) & 15];
    }
    return text;
}

std::string readAt(std::ifstream& input, std::uint64_t offset, std::size_t bytes) {
    std::string data(bytes, '\0');
    input.seekg(static_cast<std::streamoff>(offset));
    input.read(data.data(), static_cast<std::streamsize>(bytes));
    data.resize(static_cast<std::size_t>(std::max<std::streamsize>(input.gcount(), 0)));
    input.clear();
    return data;
}

template <typename T>
std::optional<T> structAt(const std::string& data, std::size_t offset) {
    if (offset > data.size() || data.size() - offset < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, data.data() + offset, sizeof(T));
    return value;
}

/// elf(5): entries of {name size, descriptor size, type}, name and descriptor padded to four bytes.
std::string buildIdIn(const std::string& notes) {
    const auto padded = [](std::size_t size) { return (size + 3) & ~std::size_t{3}; };
    for (std::size_t at = 0;;) {
        const auto note = structAt<Elf64_Nhdr>(notes, at);
        if (!note) return {};
        const std::size_t name = at + sizeof(Elf64_Nhdr), content = name + padded(note->n_namesz);
        if (content > notes.size() || note->n_descsz > notes.size() - content) return {};
        if (note->n_type == NT_GNU_BUILD_ID && notes.compare(name, note->n_namesz, std::string("GNU\0", 4)) == 0)
            return hex(notes.substr(content, note->n_descsz));
        at = content + padded(note->n_descsz);
    }
}

std::string versionFrom(const std::vector<std::string>& argv) {
    const CommandResult result = run({.argv = argv, .deadline = std::chrono::milliseconds(10'000)});
    std::smatch match;
    static const std::regex pattern("version ([0-9]+\\.[0-9]+\\.[0-9]+)");
    if (result.ok() && std::regex_search(result.output, match, pattern)) return match[1];
    throw std::runtime_error("'" + argv.front() + " --version' does not answer as QEMU does: " + result.describe());
}

bool isEmulator(const std::string& path) {
    const std::string file = fs::path(withoutDeletedMark(path)).filename();
    return file.starts_with("qemu-");
}

/// The link in /proc to the program's file: it leads to that file also when it has been replaced or removed.
std::string programLink(pid_t pid) {
    const std::string process = "/proc/" + std::to_string(pid);
    if (isEmulator(fs::read_symlink(process + "/exe"))) return process + "/exe";
    // START-END PERMISSIONS OFFSET DEVICE INODE PATH; map_files has a link named START-END.
    std::ifstream maps(process + "/maps");
    std::string line;
    while (std::getline(maps, line)) {
        std::istringstream columns(line);
        std::string range, permissions, offset, device, inode, path;
        columns >> range >> permissions >> offset >> device >> inode;
        std::getline(columns >> std::ws, path);
        if (!isEmulator(path)) continue;
        // maps pads addresses with zeros, map_files does not (fs/proc/base.c:proc_map_files_lookup, Linux 6.1).
        const std::size_t dash = range.find('-');
        const auto bare = [](const std::string& number) {
            return number.substr(std::min(number.find_first_not_of('0'), number.size() - 1));
        };
        return process + "/map_files/" + bare(range.substr(0, dash)) + "-" + bare(range.substr(dash + 1));
    }
    return process + "/exe";  // Called something else; it is still what runs.
}

bool sameFile(const std::string& one, const std::string& other) {
    struct stat a {
    }, b{};
    return ::stat(one.c_str(), &a) == 0 && ::stat(other.c_str(), &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/// QEMU prints its version from one literal (system/vl.c:version, 10.0 and 11.1), which is therefore in the binary. A program
/// that is not executed needs no libraries: those that it runs with may have been replaced by now, too.
std::string versionIn(const std::string& file) {
    static constexpr std::string_view mark = "QEMU emulator version ";
    constexpr std::size_t chunk = std::size_t{1} << 20, overlap = 64;
    std::ifstream input(file, std::ios::binary);
    std::string data;
    for (std::string read(chunk, '\0'); input.read(read.data(), chunk), input.gcount() > 0;) {
        data.erase(0, data.size() - std::min(data.size(), overlap));
        data.append(read, 0, static_cast<std::size_t>(input.gcount()));
        for (std::size_t at = data.find(mark); at != std::string::npos; at = data.find(mark, at + 1)) {
            const std::size_t begin = at + mark.size(), end = data.find_first_not_of("0123456789.", begin);
            if (end != std::string::npos && end > begin) return data.substr(begin, end - begin);
        }
    }
    return {};
}

}  // namespace

std::string buildIdOf(const std::string& file) {
    std::ifstream input(file, std::ios::binary);
    if (!input) throwErrno("read '" + file + "'");
    const auto header = structAt<Elf64_Ehdr>(readAt(input, 0, sizeof(Elf64_Ehdr)), 0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_ident[EI_CLASS] != ELFCLASS64) return {};
    const std::string table = readAt(input, header->e_phoff, std::size_t{header->e_phnum} * sizeof(Elf64_Phdr));
    for (std::size_t i = 0; const auto segment = structAt<Elf64_Phdr>(table, i * sizeof(Elf64_Phdr)); ++i) {
        if (segment->p_type != PT_NOTE || segment->p_filesz > maxNotesBytes) continue;
        const std::string id = buildIdIn(readAt(input, segment->p_offset, segment->p_filesz));
        if (!id.empty()) return id;
    }
    return {};
}

EmulatorIdentity installedEmulator(const std::string& binary) {
    return {.path = binary, .version = versionFrom({binary, "--version"}), .buildId = buildIdOf(binary)};
}

EmulatorIdentity runningEmulator(pid_t pid) {
    const std::string link = programLink(pid);
    EmulatorIdentity emulator;
    emulator.path = withoutDeletedMark(fs::read_symlink(link));
    emulator.buildId = buildIdOf(link);
    emulator.replaced = !sameFile(link, emulator.path);
    emulator.version = versionIn(link);
    return emulator;
}

}  // namespace vh
