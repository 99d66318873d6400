// Taps, and the ports of Linux bridges that they are: what a VM's network is made of on the host.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {

using MacAddress = std::array<unsigned char, 6>;

/// The address in a text such as `52:54:00:12:34:56`.
MacAddress parseMac(const std::string& text);

struct Tap {
    std::string name;  ///< Name of its device, in our own network namespace.
    UniqueFd fd;
};

// All of these throw std::system_error with the device named.

/// A new tap with headers for offloads; in `pattern` the kernel replaces `%d` by a number.
Tap makeTap(const std::string& pattern);

/// The device that a descriptor is a queue of.
std::string nameOfTap(int fd);

/// The taps that a process has open, in the order of its descriptors. By the descriptors themselves, and none of another network
/// namespace, where a process can have devices of any name.
std::vector<Tap> tapsOf(pid_t pid);

MacAddress addressOf(const std::string& device);
void setAddress(const std::string& device, const MacAddress& address);

/// Makes the device a port of the bridge, if it is not yet; it takes part once it is up.
void joinBridge(const std::string& device, const std::string& bridge);
void bringUp(const std::string& device);

/// Has the bridge give this port nothing but what is for addresses that are known to be behind it, and learn none from it. What
/// the host itself sends to many it gets all the same (net/bridge/br_forward.c:br_flood, Linux 6.18).
void keepFloodsFrom(const std::string& port);

/// An address that a bridge knows to be behind a port.
struct ForwardingEntry {
    MacAddress address{};
    std::uint16_t vlan = 0;   ///< 0: in none, or in all of the port's.
    std::uint16_t state = 0;  ///< NUD_*, <linux/neighbour.h>.
};
std::vector<ForwardingEntry> forwardingEntriesOf(const std::string& port);

/// Has the bridge look for the entries behind this port from now on. If `sticky`, also when it hears them elsewhere. An entry
/// goes with its port. Throws only when none of them could be set.
void forward(const std::vector<ForwardingEntry>& entries, const std::string& port, bool sticky);

/// The socket that moveQueued() sends by. To close it takes until every CPU has been seen not to use it, which is milliseconds on
/// an idle host (net/packet/af_packet.c:packet_release, synchronize_net, Linux 6.18): so not while a guest stands still.
UniqueFd makeSender();

/// Takes out of a tap what waits there for its reader, and puts it in front of that of another one; without what is for many, if
/// only single addressees' packets are wanted.
enum class Packets { All, ForOne };
void moveQueued(int from, int sender, const std::string& to, Packets which);

}  // namespace vh
