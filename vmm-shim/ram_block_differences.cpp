#include "vmm-shim/ram_block_differences.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "vmm-shim/text.h"

namespace vh {
namespace {

std::string fileText(const std::optional<BackingFile>& file) {
    if (!file) return "none";
    return "inode " + std::to_string(file->identity.inode) + " on device " + std::to_string(major(file->identity.device)) + ":" +
           std::to_string(minor(file->identity.device)) + ", " + exactSize(file->size);
}

const RamBlock* find(const std::vector<RamBlock>& blocks, const std::string& idstr) {
    const auto found = std::ranges::find(blocks, idstr, &RamBlock::idstr);
    return found == blocks.end() ? nullptr : &*found;
}

/// `pc.bios`, `0000:00:02.0/vga.rom` (hw/pci/pci.c:pci_add_option_rom, hw/i386/x86-common.c:x86_bios_rom_init, 10.0 and 11.1).
bool isRom(const RamBlock& block) {
    return block.idstr.ends_with(".rom") || block.idstr.ends_with(".bios");
}

/// What x-ignore-shared leaves out of the stream (migration/ram.c:migrate_ram_is_ignored, 10.0 and 11.1).
bool isSharedNamedFile(const RamBlock& block) {
    return block.named_file && block.shared;
}

/// One block on both sides.
struct Pair {
    const RamBlock& old;
    const RamBlock& new_;
    RamTransfer transfer;
    const std::vector<RamBlock>& allOld;

    /// Whether both VMMs are to map the same memory; else it is copied.
    bool sharesMemory() const {
        switch (transfer) {
            case RamTransfer::Copied:
                return false;
            case RamTransfer::NamedFilesShared:
                return isSharedNamedFile(old) || isSharedNamedFile(new_);
            case RamTransfer::AllShared:
                return true;
        }
        return true;
    }
    /// The two would not agree on which blocks the stream carries.
    bool disagreesOnTheStream() const {
        return transfer == RamTransfer::NamedFilesShared && isSharedNamedFile(old) != isSharedNamedFile(new_);
    }
    const RamBlock* oldOwnerOf(const BackingFile& file) const {
        const auto found = std::ranges::find_if(
            allOld, [&](const RamBlock& block) { return block.file && block.file->identity == file.identity; });
        return found == allOld.end() ? nullptr : &*found;
    }
};

struct Verdict {
    Severity severity;
    std::string why;
};
using Judgement = std::optional<Verdict>;  ///< None where there is nothing to say.

Judgement harmless(std::string why) {
    return Verdict{Severity::Harmless, std::move(why)};
}
Judgement adaptable(std::string why) {
    return Verdict{Severity::Adaptable, std::move(why)};
}
Judgement fatal(std::string why) {
    return Verdict{Severity::Fatal, std::move(why)};
}

const char* const noAgreement =
    "x-ignore-shared leaves a block out of the stream only when it is a shared memory-backend-file: one VMM would send, or wait "
    "for, what the other leaves out";

Judgement judgeUsedLength(const Pair& pair) {
    if (!pair.new_.resizable)
        return fatal(
            std::string("QEMU cannot resize this block: the new VMM would refuse it ('Size mismatch') after the guest was "
                        "stopped; ") +
            (isRom(pair.old) ? "the two have ROM files of different sizes, which romfile= or romsize= would pin"
                             : "the two were given different sizes for it"));
    if (pair.old.used_length > pair.new_.max_length)
        return fatal(
            "it does not fit into the new VMM's block, which would refuse it ('Size too large') after the guest was "
            "stopped");
    return adaptable("the new VMM resizes its block to the old length when it loads it");
}

Judgement judgeMaxLength(const Pair& pair) {
    if (pair.old.used_length > pair.new_.max_length)
        return fatal("the length in use on the old VMM does not fit into the new one's");
    if (!pair.sharesMemory()) return harmless("the content is copied, and what is in use fits");
    if (pair.new_.max_length < pair.old.max_length)
        return adaptable(
            "the new VMM maps the beginning of the file, and what is in use fits; the block cannot grow beyond it later");
    // system/physmem.c:qemu_ram_alloc_from_fd, 10.0 and 11.1: `grow` is off for a memory backend, on for a block from CPR.
    if (pair.new_.named_file) return fatal("the file is too small for the new VMM, which would not start with it");
    return fatal(
        "the new VMM would make the old one's file larger while the guest runs on it, and it stays larger even when "
        "the handover is given up");
}

Judgement judgePageSize(const Pair& pair) {
    if (pair.sharesMemory()) return fatal("one file has one page size: the two VMMs are not set up for the same file");
    return harmless("the content is copied in pages of the guest's; only the host's huge pages differ");
}

Judgement judgeAlign(const Pair& pair) {
    // The rule (system/physmem.c, 10.0 and 11.1): QEMU asks for QEMU_VMALLOC_ALIGN for its own blocks, be they anonymous
    // (ram_block_add) or shared (qemu_ram_alloc_internal), and for a memory backend's file only for the file's pages
    // (file_ram_alloc); gatherRamBlocks() leaves out what lies above that by chance. The guest cannot see any of it.
    if (pair.old.align < hugeAlign || pair.new_.align == 0 || pair.new_.align >= hugeAlign || pair.old.named_file ||
        pair.new_.named_file)
        return std::nullopt;
    return harmless("the guest cannot see it; the new VMM's memory cannot have huge pages at both ends");
}

Judgement judgeShared(const Pair& pair) {
    if (pair.transfer == RamTransfer::AllShared)
        return fatal(pair.old.shared ? "the new VMM has private memory for it: the guest would not find its "
                                       "content there (aux-ram-share=on, or share=on of its backend, is missing)"
                                     : "it is private memory of the old VMM, which cannot be handed over "
                                       "(aux-ram-share=on, or share=on of its backend, was missing)");
    if (pair.disagreesOnTheStream()) return fatal(noAgreement);
    return harmless("the content is copied; it matters to a later handover that shares memory");
}

Judgement judgeResizable(const Pair&) {
    return harmless("only a block whose used_length differs has to be resizable");
}

Judgement judgeReadOnly(const Pair& pair) {
    if (pair.new_.read_only)
        return fatal(pair.sharesMemory() ? "the guest can write this memory now and could not on the new VMM"
                                         : "the new VMM could not write the content into it");
    if (pair.sharesMemory()) return fatal("the new VMM could change a file that the old one is allowed to read only");
    return harmless("the content is copied into memory of the new VMM's own");
}

Judgement judgeNamedFile(const Pair& pair) {
    if (pair.disagreesOnTheStream()) return fatal(noAgreement);
    if (pair.transfer == RamTransfer::AllShared)
        return harmless("what counts is that both map the same file, however they came by it");
    return harmless("the content is copied");
}

Judgement judgeGuestMemfd(const Pair& pair) {
    // QEMU blocks CPR for it, too (system/physmem.c:ram_block_add, 10.0 and 11.1).
    if (!pair.old.guest_memfd && !pair.new_.guest_memfd) return std::nullopt;
    return fatal(
        "the guest's private memory (guest_memfd) can be neither read nor mapped, so it can be neither copied nor shared");
}

/// The files of a block that both VMMs are to map.
Judgement judgeSharedFile(const Pair& pair) {
    const auto &old = pair.old.file, &new_ = pair.new_.file;
    if (!old)
        return fatal(
            "it is anonymous memory: its content would stay behind in the old VMM (aux-ram-share=on, or a shared memory "
            "backend, was missing)");
    if (!new_)
        return fatal(
            "the new VMM has memory of its own for it: the guest would find zeroes, or another ROM, where its content was");
    if (old->identity != new_->identity) {
        const RamBlock* owner = pair.oldOwnerOf(*new_);
        return fatal(owner ? "the new VMM maps the file of the old VMM's block '" + owner->idstr +
                                 "': the guest would find that block's content here"
                           : "the new VMM maps another file: the guest would find other content in it");
    }
    const std::uint64_t smaller = std::min(old->size, new_->size), larger = std::max(old->size, new_->size);
    if (smaller < pair.old.max_length)
        return fatal("the file is smaller than the old VMM's block: what lies behind its end cannot be accessed (SIGBUS)");
    // A user's file may well be larger than what is used of it. One of the VMM's own, or a memory backend's memfd, is exactly as
    // long as its block, rounded up to a page (system/physmem.c:file_ram_alloc, 10.0 and 11.1).
    const std::uint64_t page = std::max<std::uint64_t>(pair.old.page_size, 1), rest = pair.old.max_length % page;
    const std::uint64_t expected = pair.old.max_length + (rest ? page - rest : 0);
    if (!pair.old.named_file && larger > expected)
        return fatal("the file was made larger than the old VMM's block of " + exactSize(pair.old.max_length) +
                     ": a VMM with another max_length has had it");
    return std::nullopt;
}

/// The files of a block that is copied: the new VMM must not write into what the old one's guest runs on.
Judgement judgeCopiedFile(const Pair& pair) {
    if (!pair.new_.file) return std::nullopt;
    const RamBlock* owner = pair.oldOwnerOf(*pair.new_.file);
    if (!owner) return std::nullopt;
    return fatal("it is to be copied, but the new VMM maps the file of the old VMM's block '" + owner->idstr +
                 "': the copy would be written into the running guest's memory");
}

struct Field {
    const char* name;
    std::string (*text)(const RamBlock&);
    Judgement (*judge)(const Pair&);  ///< Of two that differ,
    bool alsoOfAlike = false;         ///< or are alike.
};

template <auto member>
std::string asSize(const RamBlock& block) {
    return exactSize(block.*member);
}

template <auto member>
std::string asFlag(const RamBlock& block) {
    return block.*member ? "yes" : "no";
}

const Field fields[] = {
    {"used_length", asSize<&RamBlock::used_length>, judgeUsedLength},
    {"max_length", asSize<&RamBlock::max_length>, judgeMaxLength},
    {"page_size", asSize<&RamBlock::page_size>, judgePageSize},
    {"align", asSize<&RamBlock::align>, judgeAlign},
    {"shared", asFlag<&RamBlock::shared>, judgeShared},
    {"resizable", asFlag<&RamBlock::resizable>, judgeResizable},
    {"read_only", asFlag<&RamBlock::read_only>, judgeReadOnly},
    {"named_file", asFlag<&RamBlock::named_file>, judgeNamedFile},
    {"guest_memfd", asFlag<&RamBlock::guest_memfd>, judgeGuestMemfd, true},
    {"file", [](const RamBlock& block) { return fileText(block.file); },
     [](const Pair& pair) { return pair.sharesMemory() ? judgeSharedFile(pair) : judgeCopiedFile(pair); }, true},
};

RamBlockDifference onlyOnOld(const RamBlock& old) {
    // migration/ram.c:ram_load_setup lists every migratable block, also those that are not sent.
    return {old.idstr, "block",         exactSize(old.used_length),
            "absent",  Severity::Fatal, "the new VMM would refuse the stream ('Unknown ramblock') after the guest was stopped"};
}

RamBlockDifference onlyOnNew(const RamBlock& new_, RamTransfer transfer) {
    return {
        new_.idstr,
        "block",
        "absent",
        exactSize(new_.used_length),
        Severity::Fatal,
        transfer == RamTransfer::AllShared
            ? "nothing comes from the old VMM for it, and QEMU does not say so: the guest would meet memory of the new VMM's own"
            : "the two machines differ, and QEMU does not say so: the guest would meet a device or a ROM that it did not have"};
}

}  // namespace

std::vector<RamBlockDifference> differences(const std::vector<RamBlock>& old, const std::vector<RamBlock>& new_,
                                            RamTransfer transfer) {
    std::vector<RamBlockDifference> found;
    for (const RamBlock& before : old) {
        const RamBlock* after = find(new_, before.idstr);
        if (!after) {
            found.push_back(onlyOnOld(before));
            continue;
        }
        const Pair pair{before, *after, transfer, old};
        for (const Field& field : fields) {
            const std::string was = field.text(before), is = field.text(*after);
            if (was == is && !field.alsoOfAlike) continue;
            if (const Judgement verdict = field.judge(pair))
                found.push_back({before.idstr, field.name, was, is, verdict->severity, verdict->why});
        }
    }
    for (const RamBlock& after : new_)
        if (!find(old, after.idstr)) found.push_back(onlyOnNew(after, transfer));
    return found;
}

std::string describe(const RamBlockDifference& difference) {
    return difference.idstr + ": " + difference.field + " " + difference.old + " on the old VMM, " + difference.new_ +
           " on the new one: " + difference.why;
}

std::string_view name(Severity severity) {
    constexpr std::array<std::string_view, 3> names{"harmless", "adaptable", "fatal"};
    return names.at(static_cast<std::size_t>(severity));
}

}  // namespace vh
