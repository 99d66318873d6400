// The designs of a handover, one row each: how guest RAM and device state travel from the old VMM to the new one, what that
// needs, and what it cannot do. The parser, preflight, the argument list, comparisons and the report page ask the row; the tables
// of README.md and of the report page are rendered from it. How it is done is a file in manager/handover/.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/enum_names.h"

namespace vh {

/// The last two are no designs of ours but what they rest on, by itself: see DesignRow::byHandOf.
enum class Design { Relayed, ManagerOwned, VmmOwned, VmmExec, Copy, SaveRestore, CprTransfer, IgnoreShared };
enum class MemoryOwner { Manager, Vmm };
template <>
inline constexpr auto namesOf<MemoryOwner> = namesFor(MemoryOwner::Vmm, "manager", "vmm");

/// A release of QEMU, without its last number.
struct Release {
    int major = 0;
    int minor = 0;

    auto operator<=>(const Release&) const = default;
};
/// QEMU's first release in which both sides of CPR know passed-through devices.
constexpr Release firstWithDevices{10, 1};
/// The release in a version such as `10.0.2`; 0.0 for text that is no version.
Release releaseOf(std::string_view version);
/// `10.0`
std::string text(Release release);

/// The way of a new VMM to guest RAM.
enum class RamPath {
    File,         ///< The manager has the file, and gives it to both.
    Descriptors,  ///< QEMU's CPR state carries the descriptors of all RAM blocks, implicit ones included.
    Copied,
};

/// The way of the device state, which decides the steps of a handover.
enum class StatePath { Cpr, Stream, File, Exec };

struct DesignRow {
    Design design;
    std::string_view name;  ///< `--design`
    RamPath ram;
    StatePath state;
    /// The manager stands in QEMU's CPR channel: it sees all that goes through, adapts it and can hold it.
    bool relays = false;
    std::optional<MemoryOwner> owner{};  ///< Owner of guest RAM that the VM must have been started with; none: either.
    std::string_view ownerReason{};
    /// The oldest QEMU on either side; 0.0: any. Since 8.2 `migrate` and `migrate-incoming` have the argument `channels`
    /// (qapi/migration.json), which every new VMM is told.
    Release oldestOld{}, oldestNew{};
    bool standsBy;          ///< Something is prepared and held before the guest stops.
    bool wayBack;           ///< The guest can go back until the new VMM is told to run it.
    bool baseline = false;  ///< A measure for the others, nobody's first choice.
    /// QEMU's own way, as a person with a stock QEMU goes it and the design that is named here does: only a comparison has it, as
    /// a yardstick (manager/compare/by_hand.h), and no upgrade can be asked for it.
    std::optional<Design> byHandOf{};
    std::string_view noDevices;  ///< Reason why passed-through devices do not go with it; empty: they do.
    // Texts for people.
    std::string_view guestRam, implicitRam, deviceState, checkedBy;
};

constexpr std::array designRows = {
    DesignRow{.design = Design::Relayed,
              .name = "relayed",
              .ram = RamPath::Descriptors,
              .state = StatePath::Cpr,
              .relays = true,
              .oldestOld = {10, 0},
              .oldestNew = {10, 0},
              .standsBy = true,
              .wayBack = true,
              .noDevices = "",
              .guestRam = "the manager's memfd (or QEMU's own), mapped by both VMMs",
              .implicitRam = "QEMU's memfds, through `vmm-shim`",
              .deviceState = "migration stream",
              .checkedBy = "the manager: every name and descriptor of the CPR state, and both VMMs' RAM blocks"},
    DesignRow{.design = Design::ManagerOwned,
              .name = "manager-owned",
              .ram = RamPath::File,
              .state = StatePath::Stream,
              .owner = MemoryOwner::Manager,
              .ownerReason = "the guest RAM must be a file that the manager holds",
              .oldestOld = {8, 2},
              .oldestNew = {8, 2},
              .standsBy = true,
              .wayBack = true,
              .noDevices =
                  "the new VMM would configure the kernel a second time for one device (bind it to the iommufd, attach it, "
                  "map guest RAM, reset it), which the kernel refuses while the old one has it",
              .guestRam = "the manager's memfd, mapped by both VMMs",
              .implicitRam = "copied, under 1 MB",
              .deviceState = "migration stream with `x-ignore-shared`",
              .checkedBy = "the manager: both VMMs' RAM blocks"},
    DesignRow{.design = Design::VmmOwned,
              .name = "vmm-owned",
              .ram = RamPath::Descriptors,
              .state = StatePath::Cpr,
              .owner = MemoryOwner::Vmm,
              .ownerReason = "the old VMM hands the guest RAM over",
              .oldestOld = {10, 0},
              .oldestNew = {10, 0},
              .standsBy = true,
              .wayBack = true,
              .noDevices = "",
              .guestRam = "QEMU's own memfds, sent from old to new (`cpr-transfer`)",
              .implicitRam = "the same",
              .deviceState = "migration stream",
              .checkedBy = "of what is sent, the two QEMUs only; the manager: both VMMs' RAM blocks"},
    DesignRow{.design = Design::VmmExec,
              .name = "vmm-exec",
              .ram = RamPath::Descriptors,
              .state = StatePath::Exec,
              .owner = MemoryOwner::Vmm,
              .ownerReason = "the VMM keeps the guest RAM when it executes the new one",
              .oldestOld = {10, 2},
              .oldestNew = {10, 2},
              .standsBy = false,
              .wayBack = false,
              .noDevices = "it was never tried with them, and it cannot go back",
              .guestRam = "QEMU's own memfds, kept by its process, which executes the new QEMU (`cpr-exec`)",
              .implicitRam = "the same",
              .deviceState = "in a memfd",
              .checkedBy = "the manager: RAM blocks, of a rehearsal before the exec and of the new QEMU after it"},
    DesignRow{.design = Design::Copy,
              .name = "copy",
              .ram = RamPath::Copied,
              .state = StatePath::Stream,
              .oldestNew = {8, 2},
              .standsBy = false,
              .wayBack = true,
              .baseline = true,
              .noDevices = "the state inside a real device cannot be copied",
              .guestRam = "migrated over a socket while the guest runs (under TCG from QEMU before 9.0: while it stands still)",
              .implicitRam = "copied",
              .deviceState = "migration stream",
              .checkedBy = "QEMU, while it loads the stream"},
    DesignRow{.design = Design::SaveRestore,
              .name = "save-restore",
              .ram = RamPath::Copied,
              .state = StatePath::File,
              .oldestOld = {8, 2},
              .oldestNew = {8, 2},
              .standsBy = false,
              .wayBack = true,
              .baseline = true,
              .noDevices = "the state inside a real device cannot be copied",
              .guestRam = "saved to a file, read back",
              .implicitRam = "copied",
              .deviceState = "in the file",
              .checkedBy = "QEMU, while it loads the file"},
    DesignRow{.design = Design::CprTransfer,
              .name = "cpr-transfer",
              .ram = RamPath::Descriptors,
              .state = StatePath::Cpr,
              .owner = MemoryOwner::Vmm,
              .ownerReason = "the old VMM hands the guest RAM over",
              .oldestOld = {10, 0},
              .oldestNew = {10, 0},
              .standsBy = false,
              .wayBack = true,
              .byHandOf = Design::VmmOwned,
              .noDevices = "driven by hand it is a yardstick, for VMs without them",
              .guestRam = "QEMU's own memfds, sent from old to new",
              .implicitRam = "the same",
              .deviceState = "migration stream",
              .checkedBy = "the two QEMUs only, of what is sent"},
    DesignRow{.design = Design::IgnoreShared,
              .name = "x-ignore-shared",
              .ram = RamPath::File,
              .state = StatePath::Stream,
              .owner = MemoryOwner::Manager,
              .ownerReason = "the guest RAM must be a file that both VMMs can open",
              .oldestOld = {8, 2},
              .oldestNew = {8, 2},
              .standsBy = false,
              .wayBack = true,
              .byHandOf = Design::ManagerOwned,
              .noDevices = "driven by hand it is a yardstick, for VMs without them",
              .guestRam = "a memory file, opened by both VMMs",
              .implicitRam = "copied, under 1 MB",
              .deviceState = "migration stream",
              .checkedBy = "QEMU, while it loads the stream"},
};

constexpr std::size_t designCount = static_cast<std::size_t>(Design::IgnoreShared) + 1;

namespace proofs {

constexpr bool everyDesignHasItsRow() {
    if (designRows.size() != designCount) return false;
    for (std::size_t i = 0; i < designRows.size(); ++i) {
        const DesignRow& row = designRows[i];
        if (static_cast<std::size_t>(row.design) != i || row.name.empty() || row.guestRam.empty() || row.implicitRam.empty() ||
            row.deviceState.empty() || row.checkedBy.empty() || row.owner.has_value() == row.ownerReason.empty())
            return false;
    }
    return true;
}

/// A design driven by hand has the needs of the design that it is a yardstick for.
constexpr bool everyHandHasItsDesign() {
    for (const DesignRow& row : designRows) {
        if (!row.byHandOf) continue;
        const DesignRow& of = designRows[static_cast<std::size_t>(*row.byHandOf)];
        if (of.byHandOf || of.ram != row.ram || of.state != row.state || of.owner != row.owner || of.oldestOld != row.oldestOld ||
            of.oldestNew != row.oldestNew || row.standsBy || row.baseline)
            return false;
    }
    return true;
}

/// Only QEMU's own channel can be stood in. Of two QEMUs that are alone in it, the old one's RAM is its own.
constexpr bool everyChannelHasItsOwner() {
    for (const DesignRow& row : designRows) {
        if (row.relays && (row.state != StatePath::Cpr || row.ram != RamPath::Descriptors || row.byHandOf)) return false;
        if (row.state == StatePath::Cpr && !row.relays && row.owner != MemoryOwner::Vmm) return false;
    }
    return true;
}

/// Whoever owns the RAM, with devices, between releases that do not understand each other; it can be held, and undone.
constexpr bool takesEveryVm(const DesignRow& row) {
    return !row.owner && row.noDevices.empty() && row.relays && row.standsBy && row.wayBack && !row.baseline && !row.byHandOf;
}

static_assert(everyDesignHasItsRow());
static_assert(everyHandHasItsDesign());
static_assert(everyChannelHasItsOwner());

}  // namespace proofs

constexpr const DesignRow& rowOf(Design design) {
    return designRows[static_cast<std::size_t>(design)];
}

/// What is taken where nobody names one, and what remedies name.
constexpr Design defaultDesign = Design::Relayed;
static_assert(proofs::takesEveryVm(rowOf(defaultDesign)));

/// True when guest RAM is neither moved nor held twice.
constexpr bool sharesRam(Design design) {
    return rowOf(design).ram != RamPath::Copied;
}

/// True when RAM is sent while the guest runs, and only the last of it while it stands still; where QEMU can.
constexpr bool copiesRunningGuest(Design design) {
    return rowOf(design).ram == RamPath::Copied && rowOf(design).state == StatePath::Stream;
}

template <>
inline constexpr auto namesOf<Design> = [] {
    std::array<std::string_view, designCount> names;
    std::ranges::transform(designRows, names.begin(), &DesignRow::name);
    return names;
}();

std::vector<Design> allDesigns();
/// The designs that an upgrade can be asked for, without those that only a comparison has.
std::vector<Design> designsOfUpgrades();
/// The design of an upgrade that is called `text`, if there is one.
std::optional<Design> designNamed(std::string_view text);
/// `design 'relayed'`
std::string quoted(Design design);

}  // namespace vh
