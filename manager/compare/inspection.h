// Views of a VMM from outside, without its help: memory, page faults, descriptors, and a trace of its system calls.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "manager/compare/results.h"
#include "manager/handover/course.h"
#include "manager/process/child_process.h"
#include "manager/process/event_loop.h"
#include "manager/resources/resources.h"

namespace vh {

/// The host's memory that a set of VMMs keeps: proportional set size (smaps_rollup, proc(5)) without shared memory, and every
/// memory file that any of them has open once, with all its pages. Of shared memory PSS knows only what a process has mapped by
/// now: a VMM that has just taken over a guest has mapped little of its RAM, which takes up as much memory all the same. Throws
/// std::system_error.
std::uint64_t memoryInUse(const std::set<pid_t>& pids);

/// Page faults of a process. Throws std::system_error.
PageFaults pageFaults(pid_t pid);
/// Page faults from the text of /proc/PID/stat. Throws std::runtime_error for what is none.
PageFaults parsePageFaults(std::string_view stat);

/// The descriptors of a new VMM from the first inherited number on, as `descriptors[]` of an inspection has them (README.md).
/// `inherited` is what it was started with; `passedBy` is what carried descriptors from the old VMM. `scripts` are the programs
/// that it was started by: a shell leaves its script open when it executes the VMM, which knows nothing of that. Throws
/// std::system_error.
///
/// QEMU closes what it put into fd sets (system/vl.c:cleanup_add_fd) and keeps duplicates under other numbers, so what was
/// inherited is known by its identity.
std::vector<FoundDescriptor> descriptorsOf(pid_t oldPid, pid_t newPid, const std::vector<NamedIdentity>& inherited,
                                           const std::string& passedBy, const std::vector<std::string>& scripts = {});

/// Counts of a trace.
struct TraceCount {
    std::map<std::string, std::uint64_t> ioctls{{"KVM", 0}, {"VFIO", 0}, {"iommufd", 0}, {"vhost", 0}, {"tap", 0}, {"other", 0}};
    /// Memory files made by memfd_create() and kept: QEMU tries out what the kernel can with one that it calls `test`
    /// (util/memfd.c:qemu_memfd_check, 10.0).
    std::uint64_t memfds = 0;
};

/// Counts in what `strace -f -o` wrote. KVM_RUN is left out: it is the guest that runs, not the VMM that is set up.
TraceCount parseTrace(std::string_view text);

/// A program that runs a VMM under strace: takes the VMM's place as its binary. The VMM keeps the pid that it is started with,
/// and the tracer is its grandchild (strace -D), in its process group.
class TraceWrapper {
 public:
    /// Makes a directory of its own in `directory`, which goes with this. `identity` is whom the VMM runs as.
    TraceWrapper(const std::string& directory, const std::string& binary, const Identity& identity);
    TraceWrapper(const TraceWrapper&) = delete;
    ~TraceWrapper();

    const std::string& program() const { return program_; }

    /// Counts what the process did so far. Throws std::system_error when there is no trace of it.
    TraceCount countOf(pid_t pid) const;

 private:
    std::string directory_;
    std::string program_;
};

/// The reason why no trace can be made here; empty when it can, which is tried out.
std::string whyNoTrace();

/// Looks closely at one handover, which is not timed therefore. What is kept of memory is looked at all the time, by
/// memoryInUse(), which walks the page tables of what it looks at: so that it does not stand in the way of the handover, it
/// rests four times as long as each look took.
class CloseLook {
 public:
    /// Begins with what the old VMM keeps. `untraced` is why there can be no trace; empty when there can. `directory` is for
    /// that.
    CloseLook(Design design, pid_t oldPid, const std::string& newBinary, const std::string& untraced,
              const std::string& directory, const Identity& identity);
    CloseLook(const CloseLook&) = delete;

    /// The binary to hand over to.
    const std::string& program() const { return trace_ ? trace_->program() : newBinary_; }
    /// An observer of the handover.
    void see(const HandoverProgress& step);
    /// The inspection; to be asked for when the handover is over.
    Inspection found(pid_t newPid);

 private:
    void look();

    const Design design_;
    const std::string newBinary_;
    std::optional<TraceWrapper> trace_;
    Inspection found_;
    std::set<pid_t> vmms_;
    std::optional<std::uint64_t> memoryBefore_;  ///< Memory of the old VMM and the manager.
    EventSource next_;
};

}  // namespace vh
