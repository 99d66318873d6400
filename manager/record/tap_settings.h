// The settings of a tap that belong to the device and not to whoever has it open: a value. manager/resources/tap_settings.h reads
// and sets them, and says what becomes of a guest without.
#pragma once

namespace vh {

struct TapSettings {
    int headerBytes = 0;    ///< Of struct virtio_net_hdr: TUNGETVNETHDRSZ.
    unsigned offloads = 0;  ///< TUN_F_*, from the device's features: nothing reads TUNSETOFFLOAD back (drivers/net/tun.c, 6.18).

    bool operator==(const TapSettings&) const = default;
};

}  // namespace vh
