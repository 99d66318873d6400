// What /proc says of a process, and waiting for its end.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {

/// A pid is used again; with the start time (field 22 of /proc/PID/stat, clock ticks since boot) it names one process for good.
struct ProcessIdentity {
    pid_t pid = 0;
    std::uint64_t startTime = 0;

    bool operator==(const ProcessIdentity&) const = default;
};

/// All zero when there is no such process, or only what is left of one that has ended (a zombie).
ProcessIdentity identityOf(pid_t pid);

inline bool isAlive(const ProcessIdentity& process) {
    return process.pid > 0 && identityOf(process.pid) == process;
}

/// Words of /proc/PID/cmdline, and of /proc/PID/environ. Throw std::system_error when the process is gone.
std::vector<std::string> commandLineOf(pid_t pid);
std::vector<std::string> environmentOf(pid_t pid);

/// AppArmor or SELinux has rules for it (/proc/PID/attr/current).
bool isConfined(pid_t pid);

/// What /proc has for the path of a file, without the mark of one that has been replaced or removed since.
std::string withoutDeletedMark(std::string link);

/// Who has the lock that libvirt has on a pid file (byte 0; src/util/virpidfile.c, 11.3.0), by the kernel's word. A lock for
/// reading is none: everybody who can read the file may have one. 0 for a process of another PID namespace, -1 when it is no
/// process's but an open file's.
std::optional<pid_t> lockHolder(int fd);
std::optional<pid_t> lockHolder(const std::string& file);

/// A pidfd; none when there is no such process.
UniqueFd openProcess(pid_t pid);

/// True once the process behind a pidfd has ended, false at the deadline.
bool awaitEnd(int pidfd, std::chrono::steady_clock::time_point deadline);

/// Signals the process behind a pidfd; one that has ended is no error.
void signalProcess(int pidfd, int signal);

/// SIGTERM, and SIGKILL when it has not ended after `patience`. Throws std::runtime_error when it outlives even that.
void endProcess(int pidfd, std::chrono::milliseconds patience);

}  // namespace vh
