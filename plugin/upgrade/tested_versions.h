// Versions of libvirt and QEMU that have been seen to go on together after a handover. The one place that says so;
// plugin/README.md has how.
#pragma once

#include <optional>
#include <string>

namespace vh {

/// The reason why this combination is refused, or nothing. Versions as `11.3.0`; only the first two numbers count.
std::optional<std::string> untested(const std::string& libvirt, const std::string& oldQemu, const std::string& newQemu);

/// The shortcomings of this libvirt with this QEMU, with or without a handover; nothing when all is well.
std::optional<std::string> cannotAfterwards(const std::string& libvirt, const std::string& newQemu);

}  // namespace vh
