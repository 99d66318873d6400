#include "config/vm_definition.h"

#include <cstdio>

namespace vh {

std::string formatSize(std::uint64_t bytes) {
    constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < units.size()) {
        bytes /= 1024;
        ++unit;
    }
    return std::to_string(bytes) + units[unit];
}

std::string macAddress(const VmDefinition& definition, const Network& network) {
    if (!network.mac.empty()) return network.mac;
    std::uint32_t hash = 2166136261U;
    for (const char character : definition.uuid + "/" + network.id)
        hash = (hash ^ static_cast<unsigned char>(character)) * 16777619U;
    char text[18];
    std::snprintf(text, sizeof(text), "52:54:00:%02x:%02x:%02x", hash >> 16 & 0xff, hash >> 8 & 0xff, hash & 0xff);
    return text;
}

}  // namespace vh
