// A network of a comparison's own, and who asks its guests whether they are still there.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>

#include "vmm-shim/unique_fd.h"

namespace vh {

inline constexpr const char* ownBridge = "vhbr0";
inline constexpr const char* ownNetworkPrefix = "10.77.0.";  ///< Beginning of each of its guests' addresses.

/// Puts this process into a network namespace with nothing in it but a bridge of that name, which has the address 10.77.0.1/24.
/// Returns why that could not be done, and then nothing was; empty when it was. Before other threads are started.
std::string enterOwnNetwork(const std::string& bridge);

struct PingResult {
    unsigned sent = 0;
    unsigned lost = 0;                   ///< Requests not answered within the grace.
    std::optional<double> longestGapMs;  ///< Gap between two answers; none when fewer than two came.
    bool notBack = false;                ///< The longest gap had not ended.
    std::optional<std::chrono::steady_clock::time_point> firstAnswer;
};

/// Sends echo requests (ICMP) to one address at a steady pace, from a thread of its own: the main loop, busy with a handover,
/// must not delay what the handover's cost is measured with. Needs CAP_NET_RAW; throws std::system_error without it.
class Pinger {
 public:
    Pinger(const std::string& address, std::chrono::milliseconds interval, std::size_t payloadBytes);
    Pinger(const Pinger&) = delete;
    ~Pinger();

    void start();
    /// Number of answers so far.
    unsigned answered() const { return answered_; }
    /// Sends no more, and waits until all is answered, but for no longer than the grace.
    PingResult stop(std::chrono::milliseconds grace);

 private:
    void run(const std::stop_token& stop);

    std::string address_;
    std::chrono::milliseconds interval_;
    std::size_t payloadBytes_;
    std::uint16_t id_;
    UniqueFd socket_;
    UniqueFd wake_;
    std::chrono::milliseconds grace_{0};
    PingResult result_;
    std::atomic<unsigned> answered_ = 0;
    std::jthread thread_;
};

}  // namespace vh
