// A process beside each upgrade that has the lock on libvirt (lock_out.h) and waits for the upgrade's end: when it ended well
// there is no journal, and the guardian ends; when it was killed, the guardian recovers (recover.h), and libvirt was never let
// in.
#pragma once

#include <string>

namespace vh {

/// Starts the guardian. Throws std::system_error.
void startGuardian(const std::string& runtimeDirectory, int lock);

}  // namespace vh
