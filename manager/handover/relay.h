// The shim in the CPR channel, on the main loop: takes the old VMM's CPR state in, gives it to the new VMM, and keeps the old one
// waiting for the hang-up, which is what makes it stop the guest (migration/cpr-transfer.c:cpr_transfer_add_hup_watch, 11.1;
// migration/migration.c:migrate_hup_add, 10.0).
//
//     old VMM --connect--> Relay listens --received(CprCapture)--> checks, adapts --feed()--> new VMM
//             <--- hangUp() ---
//
// Nothing waits in here: deadlines belong to the handover. Destroying a relay hangs up, so a migration that must not go on is
// cancelled first.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "manager/process/child_process.h"
#include "manager/process/event_loop.h"
#include "vmm-shim/cpr_channel.h"

namespace vh {

class Relay {
 public:
    using Received = std::function<void(CprCapture)>;
    using Failed = std::function<void(const std::string& cause)>;

    /// A process of another user, in whose directory sockets are made and connected to.
    struct Peer {
        Identity user;
        pid_t pid = 0;
    };

    /// Listens on `path`, in a directory of the old VMM's user, for the old VMM; accepts it (or a program that it was started by
    /// or started, or us), and one connection only. Either callback comes from the main loop, `received` at most once. Throws
    /// std::system_error.
    Relay(std::string path, const Peer& old, Received received, Failed failed);
    Relay(const Relay&) = delete;
    ~Relay();

    /// Sends a state to the CPR socket of the new VMM, a process of the same user; `fed` when all of it has gone out. Borrows the
    /// capture until then. Throws std::system_error, or std::runtime_error when somebody else listens there.
    void feed(const CprCapture& capture, const std::string& newVmmPath, pid_t newVmm, std::function<void()> fed);

    /// Lets go of the old VMM.
    void hangUp();

 private:
    void accept();
    void receive();
    void send();
    void fail(const std::string& cause);

    std::string path_;
    Peer peer_;
    Received received_;
    Failed failed_;
    std::function<void()> fed_;

    UniqueFd listener_;
    UniqueFd old_;
    UniqueFd new_;
    CprReceiver receiver_;
    std::unique_ptr<CprSender> sender_;
    EventSource oldWatch_;
    EventSource newWatch_;
};

}  // namespace vh
