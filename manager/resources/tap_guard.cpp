#include "manager/resources/tap_guard.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

// After <net/if.h>, which they would otherwise clash with.
#include <linux/ethtool.h>
#include <linux/sockios.h>

#include <cstring>
#include <string>
#include <vector>

#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

#ifndef TUN_F_USO4  // Linux 6.2; the headers of Debian 12 are older than some of its kernels.
constexpr unsigned TUN_F_USO4 = 0x20, TUN_F_USO6 = 0x40;
#endif

/// The offload that a feature of the device stands for (drivers/net/tun.c:set_offload, 6.18), by ethtool's name for it.
struct Feature {
    const char* name;
    unsigned offloads;
};
constexpr Feature knownFeatures[] = {
    {"tx-checksum-ip-generic", TUN_F_CSUM},           {"tx-tcp-segmentation", TUN_F_TSO4},
    {"tx-tcp-ecn-segmentation", TUN_F_TSO_ECN},       {"tx-tcp6-segmentation", TUN_F_TSO6},
    {"tx-udp-segmentation", TUN_F_USO4 | TUN_F_USO6},
};

void ethtool(int socket, const char* device, void* request) {
    ifreq call{};
    std::strncpy(call.ifr_name, device, IFNAMSIZ - 1);
    call.ifr_data = static_cast<char*>(request);
    if (::ioctl(socket, SIOCETHTOOL, &call) != 0) throwErrno("read the features of tap '" + std::string(device) + "'");
}

template <class Header>
Header* as(std::vector<std::uint32_t>& words) {
    return reinterpret_cast<Header*>(words.data());  // NOLINT: ethtool's requests end in arrays of a length of their own.
}

unsigned offloadsOf(const char* device) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    std::vector<std::uint32_t> words(sizeof(ethtool_sset_info) / 4 + 1);
    auto* count = as<ethtool_sset_info>(words);
    count->cmd = ETHTOOL_GSSET_INFO;
    count->sset_mask = std::uint64_t{1} << ETH_SS_FEATURES;
    ethtool(socket.get(), device, count);
    const std::uint32_t features = count->data[0];

    std::vector<std::uint32_t> nameWords(sizeof(ethtool_gstrings) / 4 + features * ETH_GSTRING_LEN / 4);
    auto* names = as<ethtool_gstrings>(nameWords);
    names->cmd = ETHTOOL_GSTRINGS;
    names->string_set = ETH_SS_FEATURES;
    names->len = features;
    ethtool(socket.get(), device, names);

    const std::uint32_t blocks = (features + 31) / 32;
    std::vector<std::uint32_t> stateWords((sizeof(ethtool_gfeatures) + blocks * sizeof(ethtool_get_features_block)) / 4);
    auto* state = as<ethtool_gfeatures>(stateWords);
    state->cmd = ETHTOOL_GFEATURES;
    state->size = blocks;
    ethtool(socket.get(), device, state);

    unsigned offloads = 0;
    for (std::uint32_t i = 0; i < features; ++i) {
        if ((state->features[i / 32].active >> i % 32 & 1) == 0) continue;
        const char* name = reinterpret_cast<const char*>(names->data) + std::size_t{i} * ETH_GSTRING_LEN;
        for (const Feature& known : knownFeatures)
            if (std::strncmp(name, known.name, ETH_GSTRING_LEN) == 0) offloads |= known.offloads;
    }
    return offloads;
}

}  // namespace

TapSettings tapSettingsOf(int tap) {
    ifreq device{};
    if (::ioctl(tap, TUNGETIFF, &device) != 0) throwErrno("find the device of a tap");
    TapSettings settings{.offloads = offloadsOf(device.ifr_name)};
    if (::ioctl(tap, TUNGETVNETHDRSZ, &settings.headerBytes) != 0) throwErrno("read the header length of a tap");
    return settings;
}

void setTap(int tap, const TapSettings& settings) {
    int bytes = settings.headerBytes;
    if (::ioctl(tap, TUNSETVNETHDRSZ, &bytes) != 0) throwErrno("set the header length of a tap back");
    if (::ioctl(tap, TUNSETOFFLOAD, static_cast<unsigned long>(settings.offloads)) != 0)
        throwErrno("set the offloads of a tap back");
}

void readTapSettings(AdoptedVm& vm, pid_t old) {
    for (AdoptedVm::Descriptor& descriptor : vm.descriptors)
        if (descriptor.tap) descriptor.settings = tapSettingsOf(Process(old).take(descriptor.of).get());
}

TapGuard::TapGuard(const AdoptedVm& vm, pid_t old) {
    for (const AdoptedVm::Descriptor& descriptor : vm.descriptors)
        if (descriptor.tap) taps_.push_back({Process(old).take(descriptor.of), descriptor.settings});
}

void TapGuard::restore() const {
    for (const Tap& tap : taps_)
        if (tapSettingsOf(tap.fd.get()) != tap.settings) setTap(tap.fd.get(), tap.settings);
}

}  // namespace vh
