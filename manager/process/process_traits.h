// Traits that a process got from whoever started it, to give a second process the same: user, rights, limits and place. For a new
// VMM that is to take the place of one that libvirt started.
//
// libvirt sets these between fork and exec (src/util/vircommand.c:virExec, src/qemu/qemu_process.c:qemuProcessHook,
// src/security/; 11.3.0): user and groups, capabilities, no_new_privs, mount namespace, cgroup, affinity, limits, label.
#pragma once

#include <sched.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {

class ProcessTraits {
 public:
    /// Reads a process's traits. Throws std::system_error or std::runtime_error that names what cannot be read, or a cgroup that
    /// cannot be written to.
    static ProcessTraits of(pid_t pid);

    uid_t uid() const { return uid_; }
    gid_t gid() const { return gid_; }
    /// The environment as execve() takes it, `NAME=value`, with a null pointer at the end; borrowed.
    char* const* environment() const { return environmentPointers_.data(); }

    // Both are for a child between fork() and exec(): async-signal-safe. They return what could not be done, or nullptr; errno
    // says why.

    /// Sets cgroups, mount namespace and working directory, before descriptors are put in their places.
    const char* enter() const noexcept;
    /// Sets limits, label, capabilities and user, last before exec().
    const char* become() const noexcept;

 private:
    /// A file of a cgroup that takes the number of a process or thread, 0 for the writer.
    std::vector<UniqueFd> cgroups_;
    UniqueFd mountNamespace_;
    std::string workingDirectory_;
    std::vector<char> environment_;  ///< Bytes of /proc/PID/environ; the pointers are into it.
    std::vector<char*> environmentPointers_;

    mode_t umask_ = 022;
    cpu_set_t affinity_{};
    struct Limit {
        int resource;
        rlimit value;
    };
    std::vector<Limit> limits_;  ///< Limits that differ from ours.
    std::string labelFile_;      ///< File that takes the label of the next exec(); empty when the process has none.
    std::string label_;

    uid_t uid_ = 0;
    gid_t gid_ = 0;
    std::vector<gid_t> groups_;
    bool noNewPrivileges_ = false;
    struct Capabilities {
        std::uint64_t inheritable = 0, permitted = 0, effective = 0, bounding = 0, ambient = 0;
    } capabilities_;
};

/// Lets one thread run where another one does: the same CPUs and cgroups, as `virsh vcpupin` and the like have set them. Throws
/// std::system_error.
void placeLike(pid_t thread, pid_t model);

}  // namespace vh
