// A QEMU of our own that is only looked at: it runs no guest, uses nothing of the host, and is gone when this is.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "vmm-shim/qmp/monitor.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// A program of ours that is killed at the end of this, if it has not ended, and with us.
class OwnProcess {
 public:
    /// `inherited`, unless -1, is descriptor 3 there. The standard input is empty; what it says is in output().
    OwnProcess(const std::vector<std::string>& command, int inherited);
    OwnProcess(const OwnProcess&) = delete;
    ~OwnProcess();

    pid_t pid() const { return pid_; }
    bool awaitEnd(std::chrono::steady_clock::time_point deadline) const;
    /// Standard output and standard error, as far as they have come.
    std::string output() const;

 private:
    UniqueFd output_, pidfd_;
    pid_t pid_ = -1;
};

/// QEMU did not start, for the reason that it gave.
struct StartFailed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class StoppedQemu {
 public:
    /// Throws StartFailed when it ends, or does not answer in time.
    StoppedQemu(const std::string& binary, const std::vector<std::string>& arguments, std::chrono::milliseconds timeout);

    Monitor& monitor() { return *monitor_; }
    pid_t pid() const { return process_->pid(); }

 private:
    std::optional<OwnProcess> process_;
    std::optional<Monitor> monitor_;
};

/// The output of the program when it is started with these arguments and ends, as with `-device help`. Throws StartFailed.
std::string saidBy(const std::string& binary, const std::vector<std::string>& arguments, std::chrono::milliseconds timeout);

/// The first line of a QEMU's output that is no warning, without the QEMU's name and the device before it.
std::string reasonIn(const std::string& output);

}  // namespace vh
