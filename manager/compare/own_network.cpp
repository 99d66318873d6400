#include "manager/compare/own_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// After <net/if.h>, which it would otherwise clash with.
#include <linux/sockios.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>
#include <vector>

#include "vmm-shim/thread.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* hostAddress = "10.77.0.1";

sockaddr_in addressOf(const char* text) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, text, &address.sin_addr);
    return address;
}

void need(int result, const char* what) {
    if (result < 0) throwErrno(what);
}

void bringUp(int control, const std::string& interface) {
    ifreq request{};
    std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
    request.ifr_flags = IFF_UP;
    need(::ioctl(control, SIOCSIFFLAGS, &request), "bring up an interface");
}

std::uint16_t checksum(const std::vector<unsigned char>& packet) {
    unsigned sum = 0;
    for (std::size_t i = 0; i + 1 < packet.size(); i += 2) sum += static_cast<unsigned>(packet[i] << 8 | packet[i + 1]);
    while (sum >> 16) sum = (sum >> 16) + (sum & 0xffff);
    return static_cast<std::uint16_t>(~sum);
}

void put(std::vector<unsigned char>& packet, std::size_t at, std::uint16_t value) {
    packet[at] = static_cast<unsigned char>(value >> 8);
    packet[at + 1] = static_cast<unsigned char>(value);
}

}  // namespace

std::string enterOwnNetwork(const std::string& bridge) {
    const UniqueFd before(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    if (::unshare(CLONE_NEWNET) != 0) return std::string("making a network namespace: ") + std::strerror(errno);
    try {
        const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        need(control.get(), "open a socket");
        need(::ioctl(control.get(), SIOCBRADDBR, bridge.c_str()), "make a bridge");
        ifreq request{};
        std::strncpy(request.ifr_name, bridge.c_str(), IFNAMSIZ - 1);
        // One that no port can change: who has learnt the host's address does not learn it anew with each VM that comes or goes.
        request.ifr_hwaddr = {.sa_family = ARPHRD_ETHER, .sa_data = {2, 0, 0, 0, 0, 1}};
        need(::ioctl(control.get(), SIOCSIFHWADDR, &request), "give the bridge a MAC address");
        const sockaddr_in address = addressOf(hostAddress), mask = addressOf("255.255.255.0");
        std::memcpy(&request.ifr_addr, &address, sizeof(address));
        need(::ioctl(control.get(), SIOCSIFADDR, &request), "give the bridge an address");
        std::memcpy(&request.ifr_netmask, &mask, sizeof(mask));
        need(::ioctl(control.get(), SIOCSIFNETMASK, &request), "give the bridge a netmask");
        bringUp(control.get(), bridge);
        bringUp(control.get(), "lo");
    } catch (const std::system_error& error) {
        if (before) (void)::setns(before.get(), CLONE_NEWNET);
        return error.what();
    }
    return {};
}

Pinger::Pinger(const std::string& address, std::chrono::milliseconds interval, std::size_t payloadBytes)
    : address_(address),
      interval_(interval),
      payloadBytes_(payloadBytes + payloadBytes % 2),
      socket_(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMP)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!socket_) throwErrno("open a socket for echo requests");
    if (!wake_) throwErrno("make an eventfd");
    // Several pingers of one process hear each other's answers.
    static std::atomic<std::uint16_t> nextId = static_cast<std::uint16_t>(::getpid());
    id_ = nextId++;
}

Pinger::~Pinger() {
    if (thread_.joinable()) stop(std::chrono::milliseconds(0));
}

void Pinger::start() {
    thread_ = threadWithoutSignals([this](const std::stop_token& stop) { run(stop); });
}

PingResult Pinger::stop(std::chrono::milliseconds grace) {
    grace_ = grace;
    thread_.request_stop();
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof(one));
    thread_.join();
    return result_;
}

void Pinger::run(const std::stop_token& stop) {
    const sockaddr_in to = addressOf(address_.c_str());
    std::set<std::uint16_t> unanswered;  // The last 65536 at most: sequence numbers of ICMP have 16 bits.
    std::optional<Clock::time_point> lastAnswer;
    std::uint16_t sequence = 0;
    Clock::time_point next = Clock::now();
    std::optional<Clock::time_point> end;
    const auto closeGap = [&](Clock::time_point at, bool isBack) {
        if (!lastAnswer) return;
        const double gapMs = std::chrono::duration<double, std::milli>(at - *lastAnswer).count();
        if (gapMs <= result_.longestGapMs.value_or(0)) return;
        result_.longestGapMs = gapMs;
        result_.notBack = !isBack;
    };
    for (;;) {
        const Clock::time_point now = Clock::now();
        if (!end && stop.stop_requested()) {
            end = now + grace_;
            // Nothing more is sent: what comes from here on says what was lost, and no longer how long the guest was silent.
            closeGap(now, false);
        }
        if (end && (unanswered.empty() || now >= *end)) break;
        if (!end && now >= next) {
            std::vector<unsigned char> packet(sizeof(icmphdr) + payloadBytes_);
            packet[0] = ICMP_ECHO;
            put(packet, 4, id_);
            put(packet, 6, ++sequence);
            put(packet, 2, checksum(packet));
            ::sendto(socket_.get(), packet.data(), packet.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
            // What the host itself could not send was lost to the guest all the same.
            if (!unanswered.insert(sequence).second) ++result_.lost;
            ++result_.sent;
            next += interval_;
            if (next < now) next = now + interval_;  // No burst to catch up: the guest would see another load.
        }
        std::array<pollfd, 2> waited{pollfd{socket_.get(), POLLIN, 0}, pollfd{end ? -1 : wake_.get(), POLLIN, 0}};
        const auto wait = (end ? *end : next) - Clock::now();
        const auto waitNs = std::max<std::int64_t>(0, std::chrono::duration_cast<std::chrono::nanoseconds>(wait).count());
        const timespec timeout{waitNs / 1'000'000'000, waitNs % 1'000'000'000};
        ::ppoll(waited.data(), waited.size(), &timeout, nullptr);
        std::array<unsigned char, 2048> packet{};
        for (ssize_t length; (length = ::recv(socket_.get(), packet.data(), packet.size(), 0)) > 0;) {
            const std::size_t header = (packet[0] & 0xfU) * 4;  // Of IPv4, in front of what a raw socket gets.
            if (static_cast<std::size_t>(length) < header + sizeof(icmphdr) || packet[header] != ICMP_ECHOREPLY) continue;
            if ((packet[header + 4] << 8 | packet[header + 5]) != id_) continue;
            const auto answered = static_cast<std::uint16_t>(packet[header + 6] << 8 | packet[header + 7]);
            if (unanswered.erase(answered) == 0) continue;
            ++answered_;
            if (end) continue;
            const Clock::time_point at = Clock::now();
            closeGap(at, true);
            lastAnswer = at;
            if (!result_.firstAnswer) result_.firstAnswer = at;
        }
    }
    result_.lost += static_cast<unsigned>(unanswered.size());
}

}  // namespace vh
