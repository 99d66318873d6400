// The reference VMM's guest: RAM blocks, and a counter that lives both in them and in a device's state.
//
// At each count every block must hold, in a few of its pages, a pattern that only this block of this guest has, and the count
// before. So whatever loses, swaps, or forks memory is noticed at the next count at the latest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/reference-vmm/reference_options.h"
#include "vmm-shim/cpr_channel.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Pages mapped into this process.
class Mapping {
 public:
    /// Of a file when `fd` is not -1, of anonymous memory otherwise. Aligned to 2 MiB as QEMU's blocks are (QEMU_VMALLOC_ALIGN,
    /// include/qemu/osdep.h, 11.1). Throws std::system_error.
    Mapping(int fd, bool shared, std::size_t length);
    Mapping(Mapping&& other) noexcept : address_(std::exchange(other.address_, nullptr)), length_(other.length_) {}
    Mapping& operator=(Mapping&&) = delete;
    ~Mapping();

    char* address() const { return address_; }
    /// Maps another file at the same place.
    void replace(int fd);

 private:
    char* address_ = nullptr;
    std::size_t length_;
};

/// Names as in QEMU's struct RAMBlock (include/system/ramblock.h, 11.1).
struct ReferenceBlock {
    std::string idstr;
    std::uint64_t used_length;
    std::uint64_t max_length;
    std::uint64_t offset;
    bool read_only;   ///< For the guest; it is the column RO only.
    bool named_file;  ///< From memory-backend-file.
    bool shared;
    UniqueFd file;  ///< None for anonymous memory.
    Mapping memory;

    bool resizable() const { return used_length != max_length; }
};

/// The device's state.
struct Counter {
    std::uint64_t identity = 0;  ///< Random, given at the first start.
    std::uint64_t ticks = 0;     ///< Counts while the guest runs.
    std::uint64_t seq = 0;       ///< The last beat that the port took.
    std::uint64_t unsent = 0;    ///< Tries to send a beat that the port did not take.
    std::uint64_t checked = 0;   ///< Pages found as they should be, or not.
    std::uint64_t mismatches = 0;
};

class ReferenceGuest {
 public:
    /// Makes the blocks, those that are named in `received` from its descriptors. As in QEMU, one that is missing there gets new
    /// memory without a word, and an implicit one whose file is too small makes it grow (system/physmem.c:qemu_ram_alloc_internal
    /// and file_ram_alloc, 11.1). Content is not touched. Throws std::system_error, std::runtime_error.
    ReferenceGuest(const ReferenceOptions& options, CprCapture received);

    /// The first start: writes the first count.
    void boot();

    /// Counts one further: looks at what the count before left, and beats on the port; -1 when nobody listens.
    void tick(int port);

    /// Takes over a device's state, and checks that RAM goes with it.
    void load(const Counter& counter);

    Counter& counter() { return counter_; }
    std::vector<ReferenceBlock>& blocks() { return blocks_; }
    /// Null when there is none.
    ReferenceBlock* find(const std::string& idstr);

    /// As `x-query-ramblock` has it.
    std::string table(bool lacksLast) const;
    /// Why this guest cannot be handed over by CPR; empty when it can.
    std::vector<std::string> cprBlockers() const;
    /// What the CPR state carries, with descriptors of its own.
    CprCapture cprState() const;

    void plug(const std::string& idstr, std::uint64_t size);
    /// Throws std::runtime_error when there is no such block with a memfd.
    void replaceFile(const std::string& idstr);
    /// Maps a file that it may only read, and claims from then on that this is a RAM block of no length.
    void claimFile(const std::string& idstr, const std::string& path);

    /// Calls with the offset of each page of the used part that is not all zeroes, without making memory of a file's holes.
    static void forEachPage(const ReferenceBlock& block, const std::function<void(std::uint64_t offset)>& call);

    static constexpr std::uint64_t pageSize = 4096;

 private:
    void add(ReferenceBlock block);
    void addImplicit(const std::string& idstr, std::uint64_t used, std::uint64_t max, bool readOnly, bool shared,
                     CprCapture& received);
    void check();
    void write(ReferenceBlock& block) const;
    void mismatch(const ReferenceBlock& block, std::uint64_t offset, std::uint64_t found, std::uint64_t expected);
    std::string status() const;

    std::vector<ReferenceBlock> blocks_;
    std::string claims_;  ///< Lines of the table for what is no block.
    std::vector<UniqueFd> claimed_;
    Counter counter_;
    std::vector<std::string> errors_;  ///< Lines that the port has not taken yet.
    unsigned errorsTold_ = 0;
    const unsigned beatsPerSecond_;
    bool statusDue_ = true;
};

/// A memfd of a size. Throws std::system_error.
UniqueFd makeMemfd(const std::string& name, std::uint64_t size);

}  // namespace vh
