// How much of the host's memory a set of VMMs keeps.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>

namespace vh {

/// Proportional set size (smaps_rollup, proc(5)) without shared memory, and every memory file that any of them has open once,
/// with all its pages. Of shared memory PSS knows only what a process has mapped by now: a VMM that has just taken over a guest
/// has mapped little of its RAM, which takes up as much memory all the same. Throws std::system_error.
std::uint64_t memoryInUse(const std::set<pid_t>& pids);

}  // namespace vh
