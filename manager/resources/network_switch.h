// A VM's networks on their way from the old VMM's taps to the new one's, without losing a packet.
//
// Theory of operation. Each VMM has taps of its own, and a packet that is in the old one's queue when the guest is stopped would
// be lost with it. So there is a third tap meanwhile, which nobody reads. Just before the guest is stopped, the bridge is told
// that what it knows to be behind the old tap is behind this one (`sticky`, since the guest goes on sending from the old one for
// a moment); what comes for the guest waits there. When the new VMM has the guest and does not yet run it, its tap is brought up,
// gets what has waited, and is where the bridge looks from then on. What is for everybody goes to the old tap until then, and is
// taken out of its queue as well.
//
// The new tap could not keep the packets itself: a QEMU that does not run its guest reads one of each queue all the same
// (net/tap.c: tap_send, 11.1), with the header length that holds before the network card's state is loaded.
//
// If the manager dies, the third tap goes with it and its entries with the tap; the bridge then floods what is for the guest,
// which reaches whichever VMM has it.
//
// Limits: of what is for everybody, the old VMM reads one packet after the guest has stopped, which is lost, and one that comes
// in the moment when both taps are up may come twice. Packets may overtake each other once.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "config/vm_definition.h"
#include "manager/resources/bridge_port.h"
#include "manager/resources/resources.h"

namespace vh {

class NetworkSwitch {
 public:
    /// Makes the new VMM's taps ports of their bridges while the guest runs on the old VMM; they are not up yet and have the old
    /// ones' addresses, so that a bridge keeps its own. Throws std::system_error; the old VMM's network is untouched then.
    NetworkSwitch(const VmDefinition& definition, pid_t old, const Resources& newVmm);

    /// Has packets for the guest wait from now on.
    void hold();
    /// Sends packets for the guest to the new VMM from now on, and lets the guest's own out from there; the new VMM must not run
    /// it yet. Throws std::system_error.
    void toNew();
    /// Sends packets to the old VMM again, which runs the guest.
    void toOld();
    // After either, the guest need not wait until this is destroyed, and the third tap with it.

    /// Reasons why packets were not held, each with the network's id.
    const std::vector<std::string>& problems() const { return problems_; }

 private:
    struct Network {
        std::string id;
        MacAddress guest{};
        std::string newTap;
        Tap old;                               ///< No descriptor where the old VMM's could not be had.
        Tap held;                              ///< No descriptor where there is none.
        std::vector<ForwardingEntry> entries;  ///< Entries that have been led to `held`.
    };
    /// Tries `what`; an exception of it becomes a problem, and false.
    bool attempt(const Network& network, const std::function<void()>& what);
    void prepareHold(Network& network, const std::string& bridge);

    std::vector<Network> networks_;
    UniqueFd sender_;  ///< Sender for all, from before the guest is stopped until it runs again. None where no packets are held.
    std::vector<std::string> problems_;
};

}  // namespace vh
