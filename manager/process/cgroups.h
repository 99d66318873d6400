// The place of a process in the control groups of this host, of either version.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace vh {

/// A line of /proc/PID/cgroup such as `4:memory:/machine` (cgroups(7)); the controllers of cgroup v2 are empty.
struct CgroupPlace {
    std::string controllers, path;
    bool operator==(const CgroupPlace&) const = default;

    bool isVersion2() const { return controllers.empty(); }
    bool controls(const std::string& what) const;
};

/// Places of a process. Throws std::system_error when there is no such process.
std::vector<CgroupPlace> cgroupsOf(pid_t pid, const std::string& procRoot = "/proc");

/// The directory of a place in this process's file system, by /proc/self/mountinfo (proc(5)); empty when its hierarchy is not
/// mounted.
std::string directoryOf(const CgroupPlace& place, const std::string& procRoot = "/proc");

}  // namespace vh
