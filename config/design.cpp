#include "config/design.h"

#include <algorithm>
#include <cstdio>

namespace vh {

Release releaseOf(std::string_view version) {
    Release release;
    return std::sscanf(std::string(version).c_str(), "%d.%d", &release.major, &release.minor) == 2 ? release : Release{};
}

std::string text(Release release) {
    return std::to_string(release.major) + "." + std::to_string(release.minor);
}

std::vector<Design> allDesigns() {
    std::vector<Design> all(designRows.size());
    std::ranges::transform(designRows, all.begin(), &DesignRow::design);
    return all;
}

std::vector<Design> designsOfUpgrades() {
    std::vector<Design> designs = allDesigns();
    std::erase_if(designs, [](Design design) { return rowOf(design).byHandOf.has_value(); });
    return designs;
}

std::optional<Design> designNamed(std::string_view text) {
    const std::optional<Design> design = valueNamed<Design>(text);
    return design && !rowOf(*design).byHandOf ? design : std::nullopt;
}

std::string quoted(Design design) {
    return "design '" + std::string(name(design)) + "'";
}

}  // namespace vh
