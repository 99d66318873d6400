// The taps of an adopted VM, which both of its VMMs have, and their settings, which the second one changes under the first.
//
// A QEMU that takes a tap over sets both at once, to what suits a guest without a driver (net/tap.c:net_tap_fd_init, 10.0 and
// 11.1: TUNSETOFFLOAD 0, TUNSETVNETHDRSZ 10), and to what its guest negotiated when it loads the network card's state. In between
// the old VMM's guest would send and receive frames that are shifted by two bytes. Seen on 10.0.2 to 11.1.3: 9 to 13 packets
// lost in a handover, and a dead network after one that went back.
#pragma once

#include <sys/types.h>

#include <vector>

#include "manager/record/adopted_vm.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Settings of the tap that a descriptor is a queue of. Throws std::system_error.
TapSettings tapSettingsOf(int tap);
/// Gives a tap its settings. Throws std::system_error.
void setTap(int tap, const TapSettings& settings);

/// Fills in the settings of the taps, as the old VMM has them. Throws std::system_error.
void readTapSettings(AdoptedVm& vm, pid_t old);

/// Keeps taps as the old VMM has them while the new one is being started beside it.
class TapGuard {
 public:
    TapGuard() = default;
    /// Guards the taps of the old VMM, whose settings are known. Throws std::system_error.
    TapGuard(const AdoptedVm& vm, pid_t old);

    bool empty() const { return taps_.empty(); }
    /// Sets taps that somebody has changed back to what they were. Throws std::system_error.
    void restore() const;

 private:
    struct Tap {
        UniqueFd fd;
        TapSettings settings;
    };
    std::vector<Tap> taps_;
};

}  // namespace vh
