#include "manager/resources/network_switch.h"

// Before <linux/neighbour.h>, which needs its types.
#include <linux/neighbour.h>
#include <linux/types.h>

#include <algorithm>
#include <exception>
#include <fstream>

namespace vh {

NetworkSwitch::NetworkSwitch(const VmDefinition& definition, pid_t old, const Resources& newVmm) {
    std::vector<Tap> oldTaps;
    std::string problem = "the old VMM has no tap for it";
    if (std::ranges::find(definition.networks, NetworkType::Tap, &vh::Network::type) == definition.networks.end()) return;
    try {
        oldTaps = tapsOf(old);
    } catch (const std::exception& error) {
        problem = error.what();
    }
    auto oldTap = oldTaps.begin();
    for (const vh::Network& network : definition.networks) {
        if (network.type != NetworkType::Tap) continue;
        Network one{.id = network.id,
                    .guest = parseMac(macAddress(definition, network)),
                    .newTap = nameOfTap(newVmm.fd("tap/" + network.id))};
        if (oldTap != oldTaps.end()) {
            one.old = std::move(*oldTap++);
            // One that an older manager made has any address, and the bridge may have taken it for its own.
            setAddress(one.newTap, addressOf(one.old.name));
        } else {
            problems_.push_back("network '" + network.id + "': " + problem);
        }
        joinBridge(one.newTap, network.bridge);
        if (one.old.fd) prepareHold(one, network.bridge);
        networks_.push_back(std::move(one));
    }
}

bool NetworkSwitch::attempt(const Network& network, const std::function<void()>& what) {
    try {
        what();
        return true;
    } catch (const std::exception& error) {
        problems_.push_back("network '" + network.id + "': " + error.what());
        return false;
    }
}

void NetworkSwitch::prepareHold(Network& network, const std::string& bridge) {
    const bool isPrepared = attempt(network, [&] {
        if (!sender_) sender_ = makeSender();
        network.held = makeTap("vhold%d");
        // Else the host's own IPv6 talks into it, and the guest would hear that. A host without IPv6 has no such file.
        std::ofstream("/proc/sys/net/ipv6/conf/" + network.held.name + "/disable_ipv6") << 1;
        setAddress(network.held.name, addressOf(network.old.name));
        joinBridge(network.held.name, bridge);
        keepFloodsFrom(network.held.name);
        bringUp(network.held.name);
    });
    if (!isPrepared) network.held = {};
}

void NetworkSwitch::hold() {
    for (Network& network : networks_) {
        if (!network.held.fd) continue;
        const bool isHeld = attempt(network, [&] {
            network.entries = forwardingEntriesOf(network.old.name);
            // A guest that has been silent for long is not known.
            if (std::ranges::find(network.entries, network.guest, &ForwardingEntry::address) == network.entries.end())
                network.entries.push_back({.address = network.guest, .state = NUD_REACHABLE});
            forward(network.entries, network.held.name, true);
        });
        if (!isHeld) network.held = {};  // And what has been led there goes by the old way again.
    }
}

void NetworkSwitch::toNew() {
    for (Network& network : networks_) {
        bringUp(network.newTap);
        const auto take = [&](const Tap& tap, Packets which) {
            attempt(network, [&] { moveQueued(tap.fd.get(), sender_.get(), network.newTap, which); });
        };
        if (network.old.fd && sender_) take(network.old, Packets::All);
        if (!network.held.fd) continue;
        take(network.held, Packets::ForOne);
        try {
            forward(network.entries, network.newTap, false);
            take(network.held, Packets::ForOne);
        } catch (const std::exception&) {
            take(network.held, Packets::ForOne);
            network.held = {};  // And the entries with it: the bridge floods what is for the guest until it hears it.
        }
    }
}

void NetworkSwitch::toOld() {
    for (Network& network : networks_) {
        if (!network.held.fd) continue;
        attempt(network, [&] {
            forward(network.entries, network.old.name, false);
            moveQueued(network.held.fd.get(), sender_.get(), network.old.name, Packets::ForOne);
        });
    }
}

}  // namespace vh
