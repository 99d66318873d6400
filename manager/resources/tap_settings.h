// The settings of a tap that belong to the device and not to whoever has it open, so that a second VMM that is given the same
// tap changes them under the first one.
//
// A QEMU that takes a tap over sets both at once, to what suits a guest without a driver (net/tap.c:net_tap_fd_init, 10.0 and
// 11.1: TUNSETOFFLOAD 0, TUNSETVNETHDRSZ 10), and to what its guest negotiated when it loads the network card's state. In between
// the old VMM's guest would send and receive frames that are shifted by two bytes. Seen on 10.0.2 to 11.1.3: 9 to 13 packets
// lost in a handover, and a dead network after one that went back.
#pragma once

#include "manager/record/tap_settings.h"
namespace vh {

/// Of the tap that a descriptor is a queue of. Throws std::system_error.
TapSettings tapSettingsOf(int tap);
/// Gives them to the tap. Throws std::system_error.
void setTap(int tap, const TapSettings& settings);

}  // namespace vh
