// Reads heartbeat ports in a thread that does nothing else, so that a beat is dated when it comes and not when the main loop
// has a turn: what the manager itself does in a handover (the CPR state, RAM blocks, /proc) would be in the guest's pause
// otherwise.
//
// What has come is handed over to the main loop, in the order in which the guest wrote it, with the time of its arrival. The
// thread is known to nobody else, gets no signals, and touches nothing but the sockets, under one lock that is never held
// while it waits. It asks the kernel for turns of 0.1 ms in place of some milliseconds, so that it need not wait for those of
// others on a busy host (from Linux 6.12 on, kernel/sched/fair.c:__setparam_fair in 6.18; before that it is without effect).
// It is no real-time thread: a guest can keep it as busy as it likes.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "manager/process/event_loop.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

class HeartbeatReader {
 public:
    using Clock = std::chrono::steady_clock;
    /// Called from the main loop.
    using Taker = std::function<void(std::size_t port, Clock::time_point at, const std::string& bytes)>;

    /// Starts the thread. Throws std::system_error when there can be none.
    explicit HeartbeatReader(Taker taker);
    HeartbeatReader(const HeartbeatReader&) = delete;
    ~HeartbeatReader();

    /// Reads a port through this connection from now on. The ports are numbered in the order in which the guest has them.
    void read(std::size_t port, UniqueFd socket);
    /// Takes all that has come, also what neither thread nor main loop has come to.
    void catchUp();

 private:
    struct Arrival {
        std::size_t port;
        Clock::time_point at;
        std::string bytes;
    };

    void run();
    void wakeThread() const;
    void handOver();

    // With the lock held:
    void readAll();
    bool readOnce(std::size_t port, std::string& bytes);
    void keep(std::size_t port, Clock::time_point at, const std::string& bytes);

    const Taker taker_;
    const UniqueFd wake_, arrived_;  ///< Events: for the thread, and for the main loop.
    EventSource told_;
    std::deque<Arrival> taken_;  ///< The main loop's own.
    bool isHandingOver_ = false;

    std::mutex lock_;
    bool ends_ = false;
    std::vector<UniqueFd> sockets_;
    std::deque<Arrival> arrivals_;
    std::size_t bytesKept_ = 0;

    std::jthread thread_;
};

}  // namespace vh
