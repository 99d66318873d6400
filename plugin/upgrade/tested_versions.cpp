#include "plugin/upgrade/tested_versions.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <string_view>
#include <utility>

namespace vh {
namespace {

struct Combination {
    std::string_view libvirt, oldQemu, newQemu;
};

constexpr std::array tested{
    Combination{"11.3", "10.0", "10.0"},
    Combination{"11.3", "10.0", "11.1"},
    Combination{"11.3", "11.1", "11.1"},
};

std::string release(const std::string& version) {
    const std::size_t dot = version.find('.');
    return version.substr(0, dot == std::string::npos ? dot : version.find('.', dot + 1));
}

std::pair<int, int> numbers(const std::string& version) {
    std::istringstream input(version);
    std::pair<int, int> result{0, 0};
    char dot = 0;
    input >> result.first >> dot >> result.second;
    return result;
}

}  // namespace

std::optional<std::string> untested(const std::string& libvirt, const std::string& oldQemu, const std::string& newQemu) {
    const bool known = std::ranges::any_of(tested, [&](const Combination& one) {
        return one.libvirt == release(libvirt) && one.oldQemu == release(oldQemu) && one.newQemu == release(newQemu);
    });
    if (known) return std::nullopt;
    std::string text = "QEMU " + oldQemu + " to " + newQemu + " under libvirt " + libvirt + " has not been tested; tested are";
    for (const Combination& one : tested)
        text += std::string(&one == tested.data() ? " " : ", ") + std::string(one.oldQemu) + " to " + std::string(one.newQemu) +
                " under " + std::string(one.libvirt);
    return text;
}

std::optional<std::string> cannotAfterwards(const std::string& libvirt, const std::string& newQemu) {
    // Seen with 11.3.0 and 11.1.3; libvirt's NEWS has the restore fix in 12.1.0.
    if (numbers(libvirt) >= std::pair(12, 1) || numbers(newQemu) < std::pair(11, 1)) return std::nullopt;
    return "libvirt " + libvirt +
           " cannot save, managedsave, dump (without --memory-only), snapshot with memory, or migrate a domain on QEMU " +
           newQemu + " ('Parameter 'detach' is unexpected'), with or without a handover; libvirt 12.1 can";
}

}  // namespace vh
