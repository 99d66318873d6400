#include "manager/compare/host_facts.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <type_traits>

#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

using nlohmann::json;

/// What follows `key` and a separator on the first line that starts with it; empty when there is none.
std::string valueOf(const std::string& file, const std::string& key, char separator) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with(key)) continue;
        const std::size_t at = line.find_first_not_of(" \t", key.size());
        if (at == std::string::npos || line[at] != separator) continue;
        const std::size_t start = line.find_first_not_of(" \t", at + 1);
        return start == std::string::npos ? "" : line.substr(start);
    }
    return "";
}

std::string unquoted(const std::string& text) {
    const bool quoted = text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front();
    return quoted ? text.substr(1, text.size() - 2) : text;
}

bool hasWord(const std::string& text, const std::string& word) {
    std::istringstream words(text);
    for (std::string one; words >> one;)
        if (one == word) return true;
    return false;
}

double percent(std::uint64_t before, std::uint64_t after, const CpuTimes& first, const CpuTimes& last) {
    // Counters of single CPUs may go back by a tick (proc(5)), and CPUs may be taken away.
    if (after <= before || last.total() <= first.total()) return 0;
    return 100.0 * static_cast<double>(after - before) / static_cast<double>(last.total() - first.total());
}

std::string oneDecimal(double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f", value);
    return text;
}

/// An ELF file's headers, each read within the file's bounds: whatever is wrong with them, nothing is found.
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

    /// A program and not a library, though both may be ET_DYN: linkers mark a position-independent program with DF_1_PIE.
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
    static constexpr std::uint64_t longestSegment = 1 << 20;

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

    static std::size_t padded(std::size_t at, std::size_t alignment) { return (at + alignment - 1) / alignment * alignment; }

    static std::string hex(const std::string& bytes) {
        std::string text;
        for (const char byte : bytes) {
            const auto value = static_cast<unsigned char>(byte);
            for (const int digit : {value >> 4, value & 15}) text += "0123456789abcdef"[digit];
        }
        return text;
    }

    UniqueFd fd_;
    std::uint64_t size_ = 0;
    std::uint16_t type_ = ET_NONE;
    bool wide_ = true;
    std::vector<Segment> segments_;
};

}  // namespace

CpuTimes CpuTimes::now(const std::string& proc) {
    std::ifstream stat(proc + "/stat");
    std::string cpu;
    std::uint64_t user = 0, nice = 0, system = 0, idle = 0, wait = 0, interrupts = 0, softInterrupts = 0, steal = 0;
    if (!(stat >> cpu >> user >> nice >> system >> idle >> wait >> interrupts >> softInterrupts >> steal) || cpu != "cpu")
        return {};
    return {.busy = user + nice + system + interrupts + softInterrupts, .idle = idle + wait, .steal = steal};
}

double stealPercent(const CpuTimes& before, const CpuTimes& after) {
    return percent(before.steal, after.steal, before, after);
}

double busyPercent(const CpuTimes& before, const CpuTimes& after) {
    return percent(before.busy, after.busy, before, after);
}

unsigned runnable(const std::string& proc) {
    // All that run or wait for a CPU (fs/proc/stat.c:show_stat, nr_running()), us among them.
    std::ifstream stat(proc + "/stat");
    for (std::string line; std::getline(stat, line);) {
        unsigned running = 0;
        if (std::sscanf(line.c_str(), "procs_running %u", &running) == 1) return running > 0 ? running - 1 : 0;
    }
    return 0;
}

std::optional<std::string> tooBusy(const CpuTimes& before, const CpuTimes& after, std::vector<unsigned> runnableSamples,
                                   double stealLimitPercent, unsigned cpus) {
    if (cpus == 0) cpus = static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
    if (const double steal = stealPercent(before, after); steal > stealLimitPercent)
        return "its hypervisor took " + oneDecimal(steal) + " % of its CPU time away, more than " +
               oneDecimal(stealLimitPercent) + " %";
    if (const double busy = busyPercent(before, after); busy > 50)
        return "other processes used " + oneDecimal(busy) + " % of its CPU time, more than half";
    if (runnableSamples.empty()) return std::nullopt;
    const auto middle = runnableSamples.begin() + static_cast<std::ptrdiff_t>(runnableSamples.size() / 2);
    std::nth_element(runnableSamples.begin(), middle, runnableSamples.end());
    if (*middle > cpus)
        return std::to_string(*middle) + " other tasks wanted to run at a time (median), on " + std::to_string(cpus) +
               (cpus == 1 ? " CPU" : " CPUs");
    return std::nullopt;
}

json hostFacts(const std::string& proc, const std::string& osRelease) {
    utsname kernel{};
    ::uname(&kernel);
    const long cpus = std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN));
    std::uint64_t kilobytes = 0;
    std::istringstream(valueOf(proc + "/meminfo", "MemTotal", ':')) >> kilobytes;
    json load;
    if (double average = 0; std::ifstream(proc + "/loadavg") >> average) load = average;
    return {{"cpu", valueOf(proc + "/cpuinfo", "model name", ':')},
            {"cpus", cpus},
            {"memoryBytes", kilobytes * 1024},
            {"kernel", kernel.release},
            {"os", unquoted(valueOf(osRelease, "PRETTY_NAME", '='))},
            {"pageSizeBytes", ::sysconf(_SC_PAGESIZE)},
            // X86_FEATURE_HYPERVISOR: a hypervisor says by CPUID that it is there (arch/x86/include/asm/cpufeatures.h).
            {"virtualized", hasWord(valueOf(proc + "/cpuinfo", "flags", ':'), "hypervisor")},
            {"loadAverage1", load},
            {"stealPercent", stealPercent({}, CpuTimes::now(proc))},
            {"runQueue", static_cast<double>(runnable(proc)) / static_cast<double>(cpus)}};
}

std::string buildId(const std::string& path) {
    return ElfFile(path).buildId();
}

std::string buildIdOfProcess(pid_t pid) {
    const std::string proc = "/proc/" + std::to_string(pid);
    std::error_code gone;
    const std::filesystem::path exe = std::filesystem::read_symlink(proc + "/exe", gone);
    if (gone) return "";
    if (!exe.filename().string().starts_with("ld-") && !exe.filename().string().starts_with("ld.so"))
        return buildId(proc + "/exe");
    // /proc/PID/auxv is the loader's too. Of the mapped files, one is a program and the others are libraries.
    std::ifstream maps(proc + "/maps");
    std::set<std::string> seen;
    for (std::string line; std::getline(maps, line);) {
        std::istringstream fields(line);
        std::string range, mode, offset, device, inode, path;
        fields >> range >> mode >> offset >> device >> inode >> std::ws;
        std::getline(fields, path);
        // A memory file or a device is no program, and opening a device may do something.
        if (!path.starts_with('/') || path.starts_with("/memfd:") || path.starts_with("/dev/") || path == exe) continue;
        if (!seen.insert(path).second) continue;
        // Through map_files it is the very file, also when another one has its name by now; that takes privileges (proc(5)).
        for (const std::string& file : {proc + "/map_files/" + range, proc + "/root" + path})
            if (const ElfFile elf(file); elf.isProgram()) return elf.buildId();
    }
    return "";
}

}  // namespace vh
