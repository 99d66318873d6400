#include "plugin/upgrade/tested_versions.h"

#include <algorithm>
#include <array>

#include "config/design.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

struct Combination {
    Release libvirt, oldQemu, newQemu;

    bool operator==(const Combination&) const = default;
};

constexpr std::array tested{
    Combination{{11, 3}, {10, 0}, {10, 0}},
    Combination{{11, 3}, {10, 0}, {11, 1}},
    Combination{{11, 3}, {11, 1}, {11, 1}},
};

}  // namespace

std::optional<std::string> untested(const std::string& libvirt, const std::string& oldQemu, const std::string& newQemu) {
    if (std::ranges::find(tested, Combination{releaseOf(libvirt), releaseOf(oldQemu), releaseOf(newQemu)}) != tested.end())
        return std::nullopt;
    std::string known;
    for (const Combination& one : tested)
        append(known, text(one.oldQemu) + " to " + text(one.newQemu) + " under " + text(one.libvirt));
    return "QEMU " + oldQemu + " to " + newQemu + " under libvirt " + libvirt + " has not been tested; tested are " + known;
}

std::optional<std::string> cannotAfterwards(const std::string& libvirt, const std::string& newQemu) {
    // Seen with 11.3.0 and 11.1.3; libvirt's NEWS has the restore fix in 12.1.0.
    if (releaseOf(libvirt) >= Release{12, 1} || releaseOf(newQemu) < Release{11, 1}) return std::nullopt;
    return "libvirt " + libvirt +
           " cannot save, managedsave, dump (without --memory-only), snapshot with memory, or migrate a domain on QEMU " +
           newQemu + " ('Parameter 'detach' is unexpected'), with or without a handover; libvirt 12.1 can";
}

}  // namespace vh
