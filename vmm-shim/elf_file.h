// What tells one build of a program from another: its GNU build id.
//
// By hand: two facts of a program's headers are wanted, for which libdw and libelf would be the only libraries of this room. It
// is root who asks, about whatever file a process has mapped, which may also be cut meanwhile: so every read is bounded, by
// pread(2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {

/// An ELF file's headers, each read within the file's bounds: whatever is wrong with them, or when it is no such file, nothing is
/// found.
class ElfFile {
 public:
    explicit ElfFile(const std::string& path);

    /// In hex; empty when it has none (a script, a stripped build).
    std::string buildId() const;
    /// A program and not a library, though both may be ET_DYN: linkers mark a position-independent program with DF_1_PIE.
    bool isProgram() const;

 private:
    struct Segment {
        std::uint32_t type;
        std::uint64_t offset, size, alignment;
    };
    bool read(std::uint64_t offset, void* to, std::size_t length) const;
    template <class Header, class Program>
    void readHeaders();
    std::string contents(const Segment& segment) const;
    template <class Entry>
    std::uint64_t flags1(const Segment& segment) const;

    UniqueFd fd_;
    std::uint64_t size_ = 0;
    std::uint16_t type_ = 0;
    bool wide_ = true;
    std::vector<Segment> segments_;
};

/// The build id of a file, in hex. Empty when there is none, or no such file.
std::string buildIdOf(const std::string& file);

}  // namespace vh
