#include "vmm-shim/elf_file.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

/// Notes and dynamic sections are some hundred bytes; a file that says otherwise is not read into memory.
constexpr std::uint64_t longestSegment = 1 << 20;

std::size_t padded(std::size_t at, std::size_t alignment) {
    return (at + alignment - 1) / alignment * alignment;
}

std::string hex(const std::string& bytes) {
    std::string text;
    for (const char byte : bytes) {
        const auto value = static_cast<unsigned char>(byte);
        for (const int digit : {value >> 4, value & 15}) text += "0123456789abcdef"[digit];
    }
    return text;
}

/// An ELF file's headers, each read within the file's bounds: whatever is wrong with them, or when it is no such file, nothing is
/// found.
class ElfFile {
 public:
    explicit ElfFile(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
        struct stat status {};
        if (!fd_ || ::fstat(fd_.get(), &status) != 0 || !S_ISREG(status.st_mode)) return;
        size_ = static_cast<std::uint64_t>(status.st_size);
        std::array<unsigned char, EI_NIDENT> ident{};
        if (!read(0, ident.data(), ident.size()) || std::memcmp(ident.data(), ELFMAG, SELFMAG) != 0) return;
        if (ident[EI_DATA] != ELFDATA2LSB) return;  // Of another machine.
        if (ident[EI_CLASS] == ELFCLASS64) readHeaders<Elf64_Ehdr, Elf64_Phdr>();
        if (ident[EI_CLASS] == ELFCLASS32) readHeaders<Elf32_Ehdr, Elf32_Phdr>();
        wide_ = ident[EI_CLASS] == ELFCLASS64;
    }

    std::string buildId() const {
        for (const Segment& segment : segments_) {
            if (segment.type != PT_NOTE) continue;
            const std::string notes = contents(segment);
            const std::size_t alignment = segment.alignment == 8 ? 8 : 4;
            // Three words, the name, the content; each part is padded (elf(5), Notes).
            for (std::size_t at = 0; at + 12 <= notes.size();) {
                std::array<std::uint32_t, 3> words{};
                std::memcpy(words.data(), notes.data() + at, 12);
                const auto [nameSize, contentSize, type] = words;
                const std::size_t name = at + 12, content = padded(name + nameSize, alignment);
                if (content > notes.size() || contentSize > notes.size() - content) break;
                if (type == NT_GNU_BUILD_ID && nameSize == 4 && notes.compare(name, 4, "GNU\0", 4) == 0)
                    return hex(notes.substr(content, contentSize));
                at = padded(content + contentSize, alignment);
            }
        }
        return "";
    }

    bool isProgram() const {
        if (type_ == ET_EXEC) return true;
        for (const Segment& segment : segments_)
            if (segment.type == PT_DYNAMIC && ((wide_ ? flags1<Elf64_Dyn>(segment) : flags1<Elf32_Dyn>(segment)) & DF_1_PIE) != 0)
                return true;
        return false;
    }

 private:
    struct Segment {
        std::uint32_t type;
        std::uint64_t offset, size, alignment;
    };

    bool read(std::uint64_t offset, void* to, std::size_t length) const {
        if (offset > size_ || length > size_ - offset) return false;
        return ::pread(fd_.get(), to, length, static_cast<off_t>(offset)) == static_cast<ssize_t>(length);
    }

    template <class Header, class Program>
    void readHeaders() {
        Header header{};
        if (!read(0, &header, sizeof(header)) || header.e_phentsize != sizeof(Program)) return;
        type_ = header.e_type;
        for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
            Program program{};
            if (header.e_phoff > size_ || !read(header.e_phoff + i * sizeof(program), &program, sizeof(program))) return;
            segments_.push_back({program.p_type, program.p_offset, program.p_filesz, program.p_align});
        }
    }

    std::string contents(const Segment& segment) const {
        if (segment.size > longestSegment || segment.offset > size_ || segment.size > size_ - segment.offset) return "";
        std::string bytes(segment.size, '\0');
        return read(segment.offset, bytes.data(), bytes.size()) ? bytes : "";
    }

    template <class Entry>
    std::uint64_t flags1(const Segment& segment) const {
        const std::string bytes = contents(segment);
        for (std::size_t at = 0; at + sizeof(Entry) <= bytes.size(); at += sizeof(Entry)) {
            Entry entry{};
            std::memcpy(&entry, bytes.data() + at, sizeof(entry));
            if (entry.d_tag == DT_NULL) break;
            if (entry.d_tag == DT_FLAGS_1) return entry.d_un.d_val;
        }
        return 0;
    }

    UniqueFd fd_;
    std::uint64_t size_ = 0;
    std::uint16_t type_ = 0;
    bool wide_ = true;
    std::vector<Segment> segments_;
};

}  // namespace

std::string buildIdOf(const std::string& file) {
    return ElfFile(file).buildId();
}

bool isProgram(const std::string& file) {
    return ElfFile(file).isProgram();
}

}  // namespace vh
