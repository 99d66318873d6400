// Where a process is in the control groups of this host, of either version.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace vh {

/// `4:memory:/machine` of /proc/PID/cgroup (cgroups(7)); the controllers of cgroup v2 are empty.
struct CgroupPlace {
    std::string controllers, path;
    bool operator==(const CgroupPlace&) const = default;

    bool isVersion2() const { return controllers.empty(); }
    bool controls(const std::string& what) const;
};

/// Throws std::system_error when there is no such process.
std::vector<CgroupPlace> cgroupsOf(pid_t pid, const std::string& procRoot = "/proc");

/// Where a place of a hierarchy is in this process's file system, by /proc/self/mountinfo (proc(5)); empty when it is not
/// mounted.
std::string directoryOf(const CgroupPlace& place, const std::string& procRoot = "/proc");

}  // namespace vh
