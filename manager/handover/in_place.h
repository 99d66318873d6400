// Needs of a VMM that executes its successor in its own process (design vmm-exec), looked at from outside of it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/obstacle.h"
#include "manager/process/child_process.h"
#include "manager/process/event_loop.h"
#include "manager/record/vm_record.h"
#include "vmm-shim/ram_blocks.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// The obstacle when the sandbox of a running VMM forbids it to execute anything, or it has too many sandboxes. None is ever
/// loosened, not even by an exec.
std::optional<Obstacle> obstacleToExec(pid_t vmm, const std::string& proc = "/proc");

/// The first block that would not outlive an exec, or empty. QEMU asks for none of this itself: cpr-exec has no blockers for RAM,
/// and such a block is silently zeros afterwards (migration/cpr-exec.c, system/physmem.c:ram_block_add_cpr_blocker; 11.1).
std::string blockLostByExec(const std::vector<RamBlock>& blocks);

/// The VMM's inbox, taken out of its process. Throws a Refusal when it has none, and std::system_error when it cannot be had.
UniqueFd takeInbox(const VmmRecord& vmm, const std::string& directory);

/// Places of descriptors in a VMM that is going to be executed.
struct DescriptorPlan {
    int first = 0;           ///< First number; above all that the process keeps open.
    std::vector<int> close;  ///< Descriptors that the running VMM was started with, and would leave behind for good.
};

/// Looks at the process's descriptors. `blocks` are its RAM blocks, whose files stay open; `count` is how many descriptors will
/// come. Throws a Refusal when the process may not have so many.
DescriptorPlan planDescriptors(pid_t vmm, const std::vector<RamBlock>& blocks, std::size_t count);

/// False when the process has ended as far as programs are concerned: it has no memory any more, and lets go of its files.
bool runsAProgram(pid_t pid);

/// The program that a VMM executes to become another one (`vmm-shim exec`): what VH_SHIM in the environment names, else the first
/// of these places where there is one, seen from the directory of our own program. Throws a Refusal when there is none.
std::string shimProgram(const std::vector<std::string>& places);
/// The shim from where it is built or installed.
std::string shimProgram();

/// Executes the shim once as the VMM's user, from an open descriptor as the VMM will, and tells whether it worked.
class ShimTrial {
 public:
    using Done = std::function<void(std::optional<Obstacle>)>;

    /// `done` is told what is wrong, from the main loop, once; destroying the trial ends it without.
    ShimTrial(int program, const std::string& name, const Identity& identity, Done done);
    ~ShimTrial();

 private:
    UniqueFd log_;
    ChildProcess process_;
    EventSource deadline_;
};

}  // namespace vh
