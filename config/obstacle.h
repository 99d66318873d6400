// What stands against a handover, and what a person can do about it.
#pragma once

#include <string>

namespace vh {

/// One reason why a VM cannot be handed over as it runs.
struct Obstacle {
    std::string what;    ///< `the TPM 'tpm0' is emulated by swtpm, which has its own process`.
    std::string remedy;  ///< What a person can do, or empty when nothing can be done but waiting for a later version.

    bool operator==(const Obstacle&) const = default;
};

}  // namespace vh
