// The tool's client of a VMM's monitor (QMP, docs/interop/qmp-spec.rst): one command after the other, each with a deadline.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include "vmm-shim/unique_fd.h"

namespace vh {

/// Nobody answers at the monitor's socket.
struct MonitorUnreachable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The VMM refused a command.
struct CommandRefused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The user, or the system, wants the tool to end.
class Interrupted : public std::runtime_error {
 public:
    Interrupted() : std::runtime_error("interrupted") {}
};

/// Holds SIGINT, SIGTERM and SIGHUP back while it lives: they do not end the process, but make descriptor() readable. One that
/// came and was not read ends the process afterwards, when all is tidied up.
class Interrupts {
 public:
    Interrupts();
    Interrupts(const Interrupts&) = delete;
    ~Interrupts();

    int descriptor() const { return signals_.get(); }

 private:
    UniqueFd signals_;
};

/// Waits until one of the descriptors (-1 for none) is readable or has hung up, and returns it; -1 at the deadline. Throws
/// Interrupted when `interrupts`, unless -1, comes first.
int awaitReadable(std::initializer_list<int> descriptors, std::chrono::steady_clock::time_point deadline, int interrupts = -1);

class Monitor {
 public:
    /// Connects, reads the greeting and negotiates. Throws MonitorUnreachable: when nobody listens, and when nobody greets, since
    /// a monitor serves one client at a time.
    Monitor(const std::string& path, std::chrono::milliseconds timeout);
    /// Negotiates on a connection that there is already; `name` is for messages.
    Monitor(UniqueFd socket, std::string name, std::chrono::milliseconds timeout);

    const std::string& path() const { return path_; }
    const std::string& version() const { return version_; }  ///< QEMU's version, such as 10.0.2.
    std::chrono::milliseconds timeout() const { return timeout_; }
    int descriptor() const { return socket_.get(); }

    /// Gives a command and waits for its answer. Throws CommandRefused with QEMU's words, MonitorUnreachable when the monitor
    /// closes or does not answer in time.
    nlohmann::json execute(const std::string& command, const nlohmann::json& arguments = nullptr);

    /// Gives a command; answer() has what it returned once that has come, and never waits.
    void send(const std::string& command, const nlohmann::json& arguments);
    std::optional<nlohmann::json> answer();

    /// The process behind the socket. SO_PEERCRED speaks of whoever called listen(), which is the VMM's parent when the socket
    /// was inherited; so the process is looked for that has the accepted end of a connection (unix(7), /proc/net/unix). Throws
    /// std::runtime_error when that is nobody, or more than one.
    pid_t vmmPid() const;

 private:
    [[noreturn]] void lost(const std::string& why) const;
    void readMore();
    std::optional<nlohmann::json> nextMessage();

    std::string path_;
    std::string version_;
    std::chrono::milliseconds timeout_;
    UniqueFd socket_;
    std::string input_;
    std::size_t taken_ = 0;  ///< Length of the input that has been looked at.
    std::string command_;    ///< The command that is to be answered.
    std::uint64_t id_ = 0;
};

}  // namespace vh
