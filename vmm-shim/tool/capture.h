// Looks at a running VMM through its monitor: its RAM blocks, and the CPR state that it would hand to a new VMM.
//
// The CPR state leaves a VMM only as the first part of a handover, and the guest goes on running until the receiver hangs up
// (migration/cpr-transfer.c, 10.0 and 11.1). So a handover is begun with a receiver of ours, and given up before it hangs up:
//
//     mode=cpr-transfer --> migrate [main, cpr] --> receive to the end --> migrate_cancel --> "cancelled" --> hang up --> old
//     mode
//
// Nobody listens on the main channel. Should the tool die in between, the hang-up makes the VMM connect there, in vain, and the
// migration fails with the guest still running. What stays behind in the VMM: query-migrate says `cancelled`.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "vmm-shim/cpr_channel.h"
#include "vmm-shim/qmp/monitor.h"
#include "vmm-shim/ram_block_section.h"
#include "vmm-shim/ram_blocks.h"

namespace vh {

/// Asks the VMM for its RAM blocks, and looks at its process. Nothing is changed.
std::vector<RamBlock> readRamBlocks(Monitor& monitor, pid_t pid);

struct CprCaptureResult {
    std::string bytes;
    CprCapture capture;
    std::chrono::microseconds taken{};  ///< Time from `migrate` until the VMM said `cancelled`.
};

/// Captures the CPR state. Throws std::runtime_error when a migration is under way or something blocks it. Whatever happens, the
/// VMM is left as it was; call it with SIGINT and SIGTERM held back (Interrupts).
CprCaptureResult captureCprState(Monitor& monitor, pid_t pid);

/// The blocks with descriptors (O_PATH) of the files behind them, out of the VMM's process.
RamBlockExchange openBackingFiles(std::vector<RamBlock> blocks, pid_t pid);

}  // namespace vh
