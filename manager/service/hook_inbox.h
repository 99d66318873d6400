// Notices of libvirt's hook (plugin/hook.cpp) to the manager: one datagram when a domain has started, ended, or been found again
// by a restarted libvirt. The hook must not wait, so notices may be lost: nothing may depend on one to arrive.
#pragma once

#include <functional>
#include <string>

#include "manager/process/event_loop.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

struct HookNotice {
    std::string name;
    std::string uuid;
    std::string operation;  ///< `started`, `reconnect`, `stopped` or `release`.
    std::string reason;     ///< libvirt's word for it, such as `destroyed`; may be empty.

    bool operator==(const HookNotice&) const = default;
};

/// Reads a notice. Throws std::runtime_error that says what is wrong with it.
HookNotice parseHookNotice(const std::string& datagram);

class HookInbox {
 public:
    static constexpr std::size_t maximumBytes = 4096;

    /// Listens on RUNTIME_DIRECTORY/libvirt-hook.sock, which only the manager's own user may write to; a socket left by an
    /// earlier manager is replaced. `report` is told of what is not understood, a line each. Throws std::system_error.
    HookInbox(const std::string& runtimeDirectory, std::function<void(const HookNotice&)> receive,
              std::function<void(const std::string&)> report);
    ~HookInbox();
    HookInbox(const HookInbox&) = delete;

 private:
    void receiveAll();
    void take(const std::string& datagram);

    std::string path_;
    std::function<void(const HookNotice&)> receive_;
    std::function<void(const std::string&)> report_;
    UniqueFd socket_;
    EventSource readable_;
};

}  // namespace vh
