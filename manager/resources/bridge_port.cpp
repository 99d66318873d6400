#include "manager/resources/bridge_port.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

// After <net/if.h>, which they would otherwise clash with.
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <system_error>

namespace vh {
namespace {

ifreq requestFor(const std::string& device) {
    ifreq request{};
    std::strncpy(request.ifr_name, device.c_str(), IFNAMSIZ - 1);
    return request;
}

int control(unsigned long what, ifreq& request) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    return ::ioctl(socket.get(), what, &request);
}

int indexOf(const std::string& device) {
    const unsigned index = ::if_nametoindex(device.c_str());
    if (index == 0) throwErrno("find the network device '" + device + "'");
    return static_cast<int>(index);
}

/// A request of rtnetlink(7), as far as bridges need it.
class RouteRequest {
 public:
    template <class Header>
    RouteRequest(std::uint16_t type, std::uint16_t flags, const Header& header) {
        const nlmsghdr begin{
            .nlmsg_type = type, .nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags), .nlmsg_seq = 1};
        append(&begin, sizeof(begin));
        append(&header, sizeof(header));
    }
    void attribute(std::uint16_t type, const void* data, std::size_t length) {
        const rtattr begin{static_cast<std::uint16_t>(RTA_LENGTH(length)), type};
        append(&begin, sizeof(begin));
        append(data, length);
    }
    const std::vector<char>& bytes() const { return bytes_; }

    /// Sends it, and gives `each` what comes in answer, up to the last message.
    void exchange(const std::string& what, const std::function<void(const nlmsghdr&)>& each = nullptr) {
        const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
        const timeval timeout{.tv_sec = 1};  // The kernel answers at once.
        ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
        const auto length = static_cast<std::uint32_t>(bytes_.size());
        std::memcpy(bytes_.data(), &length, sizeof(length));
        if (!socket || ::send(socket.get(), bytes_.data(), bytes_.size(), 0) < 0) throwErrno(what);
        alignas(nlmsghdr) std::array<char, 65536> buffer;
        for (;;) {
            const ssize_t received = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
            if (received < 0) throwErrno(what);
            auto left = static_cast<unsigned>(received);
            for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data()); NLMSG_OK(message, left);
                 message = NLMSG_NEXT(message, left)) {
                if (message->nlmsg_type == NLMSG_DONE) return;
                if (message->nlmsg_type == NLMSG_ERROR) {
                    errno = -static_cast<const nlmsgerr*>(NLMSG_DATA(message))->error;
                    if (errno != 0) throwErrno(what);
                    return;
                }
                if (each) each(*message);
            }
        }
    }

 private:
    void append(const void* data, std::size_t length) {
        const char* bytes = static_cast<const char*>(data);
        bytes_.insert(bytes_.end(), bytes, bytes + length);
        bytes_.resize(NLMSG_ALIGN(bytes_.size()));
    }
    std::vector<char> bytes_;
};

/// Whether a tap's device is in our own network namespace, where its name is that of the same device.
bool isOurs(int tap) {
    const UniqueFd its(::ioctl(tap, TUNGETDEVNETNS));
    struct stat theirs {
    }, ours{};
    return its && ::fstat(its.get(), &theirs) == 0 && ::stat("/proc/thread-self/ns/net", &ours) == 0 &&
           theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

}  // namespace

MacAddress parseMac(const std::string& text) {
    MacAddress address{};
    for (std::size_t i = 0; i < address.size(); ++i)
        address[i] = static_cast<unsigned char>(std::strtoul(text.substr(i * 3, 2).c_str(), nullptr, 16));
    return address;
}

Tap makeTap(const std::string& pattern) {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!fd) throwErrno("open '/dev/net/tun'");
    ifreq request = requestFor(pattern);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) throwErrno("create a tap '" + pattern + "'");
    return {request.ifr_name, std::move(fd)};
}

std::string nameOfTap(int fd) {
    ifreq tap{};
    if (::ioctl(fd, TUNGETIFF, &tap) != 0) throwErrno("find the device of a tap");
    return tap.ifr_name;
}

std::vector<Tap> tapsOf(pid_t pid) {
    const Process process(pid);
    std::vector<Tap> taps;
    for (const OpenFile& file : process.visibleFiles()) {
        if (process.field("fdinfo/" + std::to_string(file.number), "iff:").empty()) continue;  // drivers/net/tun.c, Linux 6.1
        UniqueFd fd = process.take(file.number);
        if (!isOurs(fd.get())) continue;
        const std::string name = nameOfTap(fd.get());
        if (std::ranges::find(taps, name, &Tap::name) == taps.end()) taps.push_back({name, std::move(fd)});
    }
    return taps;
}

MacAddress addressOf(const std::string& device) {
    ifreq request = requestFor(device);
    if (control(SIOCGIFHWADDR, request) != 0) throwErrno("read the address of '" + device + "'");
    MacAddress address;
    std::memcpy(address.data(), request.ifr_hwaddr.sa_data, address.size());
    return address;
}

void setAddress(const std::string& device, const MacAddress& address) {
    ifreq request = requestFor(device);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    std::memcpy(request.ifr_hwaddr.sa_data, address.data(), address.size());
    if (control(SIOCSIFHWADDR, request) != 0) throwErrno("set the address of '" + device + "'");
}

void joinBridge(const std::string& device, const std::string& bridge) {
    ifreq join = requestFor(bridge);
    join.ifr_ifindex = indexOf(device);
    if (control(SIOCBRADDIF, join) != 0 && errno != EBUSY) throwErrno("join tap '" + device + "' to bridge '" + bridge + "'");
}

void bringUp(const std::string& device) {
    ifreq up = requestFor(device);
    up.ifr_flags = IFF_UP;
    if (control(SIOCSIFFLAGS, up) != 0) throwErrno("bring up tap '" + device + "'");
}

void keepFloodsFrom(const std::string& port) {
    const ifinfomsg header{.ifi_family = AF_BRIDGE, .ifi_index = indexOf(port)};
    std::vector<char> settings;
    for (const std::uint16_t setting :
         {IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD}) {
        const rtattr off{RTA_LENGTH(1), setting};
        const std::size_t end = settings.size();
        settings.resize(end + RTA_SPACE(1));
        std::memcpy(settings.data() + end, &off, sizeof(off));
    }
    RouteRequest request(RTM_SETLINK, NLM_F_ACK, header);
    request.attribute(IFLA_PROTINFO | NLA_F_NESTED, settings.data(), settings.size());
    request.exchange("set up the port '" + port + "'");
}

std::vector<ForwardingEntry> forwardingEntriesOf(const std::string& port) {
    const int index = indexOf(port);
    std::vector<ForwardingEntry> entries;
    RouteRequest(RTM_GETNEIGH, NLM_F_DUMP, ifinfomsg{.ifi_family = AF_BRIDGE, .ifi_index = index})
        .exchange("read what is behind the port '" + port + "'", [&](const nlmsghdr& message) {
            if (message.nlmsg_type != RTM_NEWNEIGH || message.nlmsg_len < NLMSG_LENGTH(sizeof(ndmsg))) return;
            const auto* neighbour = static_cast<const ndmsg*>(NLMSG_DATA(&message));
            // Permanent ones are the port's own addresses.
            if (neighbour->ndm_ifindex != index || (neighbour->ndm_state & NUD_PERMANENT) != 0) return;
            ForwardingEntry entry{.state = neighbour->ndm_state};
            bool hasAddress = false, isOfTheBridge = false;
            auto left = static_cast<unsigned>(message.nlmsg_len - NLMSG_LENGTH(sizeof(ndmsg)));
            const char* first = reinterpret_cast<const char*>(neighbour) + NLMSG_ALIGN(sizeof(ndmsg));
            for (const auto* one = reinterpret_cast<const rtattr*>(first); RTA_OK(one, left); one = RTA_NEXT(one, left)) {
                if (one->rta_type == NDA_LLADDR && RTA_PAYLOAD(one) == entry.address.size()) {
                    std::memcpy(entry.address.data(), RTA_DATA(one), entry.address.size());
                    hasAddress = true;
                }
                if (one->rta_type == NDA_VLAN) std::memcpy(&entry.vlan, RTA_DATA(one), sizeof(entry.vlan));
                isOfTheBridge = isOfTheBridge || one->rta_type == NDA_MASTER;
            }
            if (hasAddress && isOfTheBridge) entries.push_back(entry);
        });
    return entries;
}

void forward(const std::vector<ForwardingEntry>& entries, const std::string& port, bool sticky) {
    const int index = indexOf(port);
    std::size_t refused = 0;
    for (const ForwardingEntry& entry : entries) {
        const ndmsg header{.ndm_family = AF_BRIDGE,
                           .ndm_ifindex = index,
                           .ndm_state = sticky ? std::uint16_t{NUD_NOARP} : entry.state,
                           .ndm_flags = static_cast<std::uint8_t>(NTF_MASTER | (sticky ? NTF_STICKY : 0))};
        RouteRequest request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, header);
        request.attribute(NDA_LLADDR, entry.address.data(), entry.address.size());
        if (entry.vlan != 0) request.attribute(NDA_VLAN, &entry.vlan, sizeof(entry.vlan));
        try {
            request.exchange("tell the bridge what is behind '" + port + "'");
        } catch (const std::system_error&) {
            if (++refused == entries.size()) throw;
        }
    }
}

UniqueFd makeSender() {
    UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    if (!socket || ::setsockopt(socket.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0)
        throwErrno("make a socket that sends to the readers of taps");
    return socket;
}

void moveQueued(int from, int sender, const std::string& to, Packets which) {
    // sizeof(struct virtio_net_hdr) of <linux/virtio_net.h>, which is no C++. The kernel takes it on the way in; what comes out
    // of a tap may have a longer one, which begins with it.
    constexpr std::size_t headerTaken = 10;
    constexpr std::size_t mostAtOnce = 10'000;  // More than any queue holds: who goes on filling it is not waited for.
    int headerBytes = 0;
    if (::ioctl(from, TUNGETVNETHDRSZ, &headerBytes) != 0) throwErrno("read the header length of a tap");
    sockaddr_ll port{.sll_family = AF_PACKET, .sll_ifindex = indexOf(to)};
    std::vector<char> packet(68 * 1024);
    const auto header = static_cast<std::size_t>(headerBytes);
    for (std::size_t moved = 0; moved < mostAtOnce; ++moved) {
        // Never waiting, whatever the VMM has made of the descriptor that it shares with us.
        const iovec whole{packet.data(), packet.size()};
        const ssize_t length = ::preadv2(from, &whole, 1, -1, RWF_NOWAIT);
        if (length <= headerBytes) return;
        const bool isForMany = (packet[header] & 1) != 0;
        if (isForMany && which == Packets::ForOne) continue;
        std::array<iovec, 2> parts{iovec{packet.data(), headerTaken},
                                   iovec{packet.data() + header, static_cast<std::size_t>(length) - header}};
        const msghdr message{.msg_name = &port, .msg_namelen = sizeof(port), .msg_iov = parts.data(), .msg_iovlen = parts.size()};
        (void)::sendmsg(sender, &message, 0);  // A full queue loses packets here as anywhere.
    }
}

}  // namespace vh
