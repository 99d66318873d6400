#include "tests/reference-vmm/reference_guest.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

constexpr std::uint64_t mappingAlignment = std::uint64_t{2} << 20;
constexpr unsigned mostErrorLines = 20;  ///< As tests/guest/probe.c; the rest is counted only.

std::uint64_t sizeOf(int fd, const std::string& what) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) throwErrno("look at " + what);
    return static_cast<std::uint64_t>(status.st_size);
}

/// A word that only this page of this block has: FNV-1a.
std::uint64_t pattern(const std::string& idstr, std::uint64_t page) {
    std::uint64_t hash = 14695981039346656037U + page;
    for (const char character : idstr) hash = (hash ^ static_cast<unsigned char>(character)) * 1099511628211U;
    return hash;
}

/// What a page that is looked at begins with.
using Cell = std::array<std::uint64_t, 3>;

/// The pages that are looked at: the first, the last, and two between.
std::array<std::uint64_t, 4> pagesOf(const ReferenceBlock& block) {
    const std::uint64_t last = block.used_length / ReferenceGuest::pageSize - 1;
    return {0, last / 3, last * 2 / 3, last};
}

bool isZero(const char* page) {
    return page[0] == 0 && std::memcmp(page, page + 1, ReferenceGuest::pageSize - 1) == 0;
}

/// Whole or not at all: a unix stream takes this little in one piece (net/unix/af_unix.c:unix_stream_sendmsg, Linux 6.1).
bool sendLine(int port, const std::string& line) {
    return port >= 0 && ::send(port, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(line.size());
}

/// Takes the descriptor of that name; none when the CPR state has it not.
UniqueFd claim(CprCapture& received, const std::string& name) {
    for (std::size_t i = 0; i < received.state.fds.size(); ++i)
        if (received.state.fds[i] == CprFd{name, 0}) return std::move(received.descriptors[i]);
    return {};
}

/// One line as system/physmem.c:ram_block_format has it (11.1).
std::string tableLine(const std::string& idstr, std::uint64_t offset, std::uint64_t used, std::uint64_t max, const void* hva,
                      bool readOnly) {
    char line[512];
    std::snprintf(line, sizeof(line), "%24s %8s  0x%016" PRIx64 " 0x%016" PRIx64 " 0x%016" PRIx64 " 0x%016" PRIx64 " %3s\n",
                  idstr.c_str(), "4 KiB", offset, used, max, static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(hva)),
                  readOnly ? "ro" : "rw");
    return line;
}

}  // namespace

UniqueFd makeMemfd(const std::string& name, std::uint64_t size) {
    UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) throwErrno("make a memfd '" + name + "'");
    return fd;
}

Mapping::Mapping(int fd, bool shared, std::size_t length) : length_(length) {
    // Too much is reserved, the aligned part taken, and the rest given back.
    void* reserved = ::mmap(nullptr, length + mappingAlignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) throwErrno("map " + std::to_string(length) + " bytes");
    char* begin = static_cast<char*>(reserved);
    const std::size_t before = (mappingAlignment - reinterpret_cast<std::uintptr_t>(begin) % mappingAlignment) % mappingAlignment;
    if (before > 0) ::munmap(begin, before);
    if (before < mappingAlignment) ::munmap(begin + before + length, mappingAlignment - before);
    address_ = begin + before;
    const int flags = (shared ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0) | MAP_FIXED;
    if (::mmap(address_, length, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED) {
        const int error = errno;
        ::munmap(address_, length);
        throwErrno("map " + std::to_string(length) + " bytes", error);
    }
}

Mapping::~Mapping() {
    if (address_) ::munmap(address_, length_);
}

void Mapping::replace(int fd) {
    if (::mmap(address_, length_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        throwErrno("map a file anew");
}

ReferenceGuest::ReferenceGuest(const ReferenceOptions& options, CprCapture received) : beatsPerSecond_(options.beatsPerSecond) {
    const MemoryBackend& backend = *options.memory;
    const bool named = backend.type == "memory-backend-file";
    UniqueFd file;
    if (named) {
        file = UniqueFd(::open(backend.path.c_str(), O_RDWR | O_CLOEXEC));
        if (!file) throwErrno("open '" + backend.path + "'");
    } else if (file = claim(received, backend.id); !file) {
        file = makeMemfd(backend.type, backend.size);
    }
    if (const std::uint64_t size = sizeOf(file.get(), "memory of '" + backend.id + "'"); size < backend.size)
        throw std::runtime_error("backing store size " + std::to_string(size) + " of '" + backend.id + "' is too small for " +
                                 std::to_string(backend.size) + " bytes");
    Mapping memory(file.get(), backend.shared, backend.size);
    add({backend.id, backend.size, backend.size, 0, false, named, backend.shared, std::move(file), std::move(memory)});
    addImplicit("0000:00:01.0/ref.vram", options.vramBytes, options.vramBytes, false, options.auxRamShare, received);
    addImplicit("/rom@ref/tables", 128 << 10, 2 << 20, true, options.auxRamShare, received);
    addImplicit("ref.bios", 256 << 10, 256 << 10, true, options.auxRamShare, received);
}

void ReferenceGuest::add(ReferenceBlock block) {
    if (!blocks_.empty()) {
        // Blocks lie a multiple of 256 KiB apart (system/physmem.c:find_ram_offset, 11.1).
        const ReferenceBlock& last = blocks_.back();
        block.offset = (last.offset + last.max_length + 0x3ffff) & ~std::uint64_t{0x3ffff};
    }
    blocks_.push_back(std::move(block));
}

void ReferenceGuest::addImplicit(const std::string& idstr, std::uint64_t used, std::uint64_t max, bool readOnly, bool shared,
                                 CprCapture& received) {
    UniqueFd file;
    if (shared && !(file = claim(received, idstr))) file = makeMemfd(idstr, max);
    if (file && sizeOf(file.get(), "memory of '" + idstr + "'") < max && ::ftruncate(file.get(), static_cast<off_t>(max)) != 0)
        throwErrno("make the memory of '" + idstr + "' larger");
    Mapping memory(file.get(), shared, max);
    add({idstr, used, max, 0, readOnly, false, shared, std::move(file), std::move(memory)});
}

void ReferenceGuest::boot() {
    if (::getrandom(&counter_.identity, sizeof(counter_.identity), 0) != sizeof(counter_.identity))
        throwErrno("get random bytes");
    for (ReferenceBlock& block : blocks_) write(block);
}

void ReferenceGuest::tick(int port) {
    check();
    ++counter_.ticks;
    for (ReferenceBlock& block : blocks_) write(block);
    if (sendLine(port, "B " + std::to_string(counter_.seq + 1) + "\n"))
        ++counter_.seq;
    else
        ++counter_.unsent;
    while (!errors_.empty() && sendLine(port, errors_.front())) errors_.erase(errors_.begin());
    statusDue_ = statusDue_ || counter_.ticks % beatsPerSecond_ == 0;
    if (statusDue_ && sendLine(port, status())) statusDue_ = false;
}

void ReferenceGuest::load(const Counter& counter) {
    counter_ = counter;
    check();  // And no more: the memory may still be the old VMM's.
}

void ReferenceGuest::check() {
    for (const ReferenceBlock& block : blocks_) {
        for (const std::uint64_t page : pagesOf(block)) {
            const Cell expected{pattern(block.idstr, page), counter_.identity, counter_.ticks};
            Cell found;
            std::memcpy(found.data(), block.memory.address() + page * pageSize, sizeof(found));
            ++counter_.checked;
            const auto [wrong, right] = std::mismatch(found.begin(), found.end(), expected.begin());
            if (wrong != found.end())
                mismatch(block, page * pageSize + static_cast<std::uint64_t>(wrong - found.begin()) * sizeof(*wrong), *wrong,
                         *right);
        }
    }
}

void ReferenceGuest::write(ReferenceBlock& block) const {
    for (const std::uint64_t page : pagesOf(block)) {
        const Cell cell{pattern(block.idstr, page), counter_.identity, counter_.ticks};
        std::memcpy(block.memory.address() + page * pageSize, cell.data(), sizeof(cell));
    }
}

void ReferenceGuest::mismatch(const ReferenceBlock& block, std::uint64_t offset, std::uint64_t found, std::uint64_t expected) {
    ++counter_.mismatches;
    statusDue_ = true;
    if (++errorsTold_ > mostErrorLines) return;
    char line[512];
    std::snprintf(line, sizeof(line),
                  "E ram block %s page %" PRIu64 " offset %" PRIu64 " found 0x%" PRIx64 " expected 0x%" PRIx64,
                  block.idstr.c_str(), offset / pageSize, offset % pageSize, found, expected);
    errors_.push_back(std::string(line) + "\n");
}

std::string ReferenceGuest::status() const {
    const std::uint64_t cellsInAPass = blocks_.size() * 4;
    return "S seq=" + std::to_string(counter_.seq) + " ram_mib=" + std::to_string(blocks_.front().used_length >> 20) +
           " ram_filled=1 ram_passes=" + std::to_string(counter_.checked / cellsInAPass) +
           " ram_checked=" + std::to_string(counter_.checked) + " disk_checked=0 unsent=" + std::to_string(counter_.unsent) +
           " mismatches=" + std::to_string(counter_.mismatches) +
           " uptime_ms=" + std::to_string(counter_.ticks * 1000 / beatsPerSecond_) + "\n";
}

ReferenceBlock* ReferenceGuest::find(const std::string& idstr) {
    const auto found = std::ranges::find(blocks_, idstr, &ReferenceBlock::idstr);
    return found == blocks_.end() ? nullptr : &*found;
}

std::string ReferenceGuest::table(bool lacksLast) const {
    char line[512];
    std::snprintf(line, sizeof(line), "%24s %8s  %18s %18s %18s %18s %3s\n", "Block Name", "PSize", "Offset", "Used", "Total",
                  "HVA", "RO");
    std::string text = line;
    for (std::size_t i = 0; i + (lacksLast ? 1 : 0) < blocks_.size(); ++i) {
        const ReferenceBlock& block = blocks_[i];
        text +=
            tableLine(block.idstr, block.offset, block.used_length, block.max_length, block.memory.address(), block.read_only);
    }
    return text + claims_;
}

std::vector<std::string> ReferenceGuest::cprBlockers() const {
    // system/physmem.c:ram_block_add_cpr_blocker (11.1).
    std::vector<std::string> reasons;
    for (const ReferenceBlock& block : blocks_)
        if (!block.file || !block.shared)
            reasons.push_back(
                "Memory region " + block.idstr +
                " is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on "
                "is required.");
    return reasons;
}

CprCapture ReferenceGuest::cprState() const {
    CprCapture capture;
    for (const ReferenceBlock& block : blocks_) {
        if (block.named_file) continue;  // The new VMM opens its path again (backends/hostmem-file.c, 11.1).
        capture.state.fds.push_back({block.idstr, 0});
        capture.descriptors.emplace_back(::fcntl(block.file.get(), F_DUPFD_CLOEXEC, 0));
        if (!capture.descriptors.back()) throwErrno("duplicate the descriptor of '" + block.idstr + "'");
    }
    return capture;
}

void ReferenceGuest::claimFile(const std::string& idstr, const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    void* address = file ? ::mmap(nullptr, pageSize, PROT_READ, MAP_SHARED, file.get(), 0) : MAP_FAILED;
    if (address == MAP_FAILED) throwErrno("map '" + path + "'");
    claimed_.push_back(std::move(file));
    claims_ += tableLine(idstr, std::uint64_t{1} << 40, 0, 0, address, false);
}

void ReferenceGuest::plug(const std::string& idstr, std::uint64_t size) {
    if (find(idstr)) throw std::runtime_error("there is a RAM block '" + idstr + "' already");
    if (size == 0 || size % pageSize != 0) throw std::runtime_error("the size should be a multiple of 4096");
    UniqueFd file = makeMemfd(idstr, size);
    Mapping memory(file.get(), true, size);
    add({idstr, size, size, 0, false, false, true, std::move(file), std::move(memory)});
    write(blocks_.back());
}

void ReferenceGuest::replaceFile(const std::string& idstr) {
    ReferenceBlock* block = find(idstr);
    if (!block || !block->file || block->named_file)
        throw std::runtime_error("there is no RAM block '" + idstr + "' with a memfd");
    UniqueFd file = makeMemfd(idstr, block->max_length);
    forEachPage(*block, [&](std::uint64_t offset) {
        if (::pwrite(file.get(), block->memory.address() + offset, pageSize, static_cast<off_t>(offset)) !=
            static_cast<ssize_t>(pageSize))
            throwErrno("copy '" + idstr + "'");
    });
    block->memory.replace(file.get());
    block->file = std::move(file);
}

void ReferenceGuest::forEachPage(const ReferenceBlock& block, const std::function<void(std::uint64_t offset)>& call) {
    const auto scan = [&](std::uint64_t from, std::uint64_t to) {
        for (std::uint64_t offset = from; offset < to; offset += pageSize)
            if (!isZero(block.memory.address() + offset)) call(offset);
    };
    if (!block.file || !block.shared) return scan(0, block.used_length);
    for (off_t begin = 0; begin < static_cast<off_t>(block.used_length);) {
        begin = ::lseek(block.file.get(), begin, SEEK_DATA);
        if (begin < 0 && errno == ENXIO) return;
        const off_t end = begin < 0 ? -1 : ::lseek(block.file.get(), begin, SEEK_HOLE);
        if (end < 0) throwErrno("look for the data of '" + block.idstr + "'");
        scan(static_cast<std::uint64_t>(begin), std::min(static_cast<std::uint64_t>(end), block.used_length));
        begin = end;
    }
}

}  // namespace vh
