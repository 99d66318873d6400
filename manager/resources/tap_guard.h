// Of an adopted VM: its taps, which both of its VMMs have.
#pragma once

#include <sys/types.h>

#include <vector>

#include "manager/record/adopted_vm.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Fills in the settings of the taps, as the old VMM has them. Throws std::system_error.
void readTapSettings(AdoptedVm& vm, pid_t old);

/// Keeps taps as the old VMM has them while the new one is being started beside it.
class TapGuard {
 public:
    TapGuard() = default;
    /// The taps of the old VMM, whose settings are known. Throws std::system_error.
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
