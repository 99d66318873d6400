// Reads what the guest probe (tests/guest/probe.c) says on the heartbeat port, and measures the guest's pause with it.
//
// The guest's own clock stops with the VM, so time is taken here, on the host, when a beat arrives (heartbeat_reader.h).
// During a handover both VMMs' ports are read: a line may begin on the old one and end on the new one, because QEMU migrates a
// half-sent buffer. With KVM every second handover cuts one; it is the beat of the VMM that it ended on.
//
// How well a pause is known: a beat, of which the probe sends one each millisecond, is dated some 0.1 ms after it came. What the
// host makes a VMM wait for a CPU is in the intervals between beats, with or without a handover: see `beats` of a comparison.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "manager/record/report.h"
#include "manager/vmm/heartbeat_reader.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Values of a status line, `KEY=NUMBER ...`. What is none of these is passed over.
std::map<std::string, std::uint64_t> probeStatus(const std::string& text);

/// A line of the probe, when it arrived and on which port.
struct HeardLine {
    const std::string& text;
    std::chrono::steady_clock::time_point at;
    std::size_t port = 0;
    bool mayFollowLost = false;  ///< A port was connected to anew since the beat before: what is missing there, no VMM has lost.
};

class HeartbeatMonitor {
 public:
    /// Told after every line of the probe.
    void onLine(std::function<void()> callback) { lineCallback_ = std::move(callback); }

    /// Told every line itself.
    using Listener = std::function<void(const HeardLine& line)>;
    void onHeard(Listener listener) { listener_ = std::move(listener); }

    /// Starts to read the port of a VMM; the first one is the old VMM's, the second the new one's.
    void listen(UniqueFd socket);

    /// Takes what the ports have to say just now, in case the main loop has not come to it.
    void catchUp();
    /// Reads that port through another connection from now on: the one that it had may be silent for ever.
    void listenAgain(std::size_t port, UniqueFd socket);

    const HeartbeatSummary& summary() const { return summary_; }
    std::size_t ports() const { return ports_.size(); }
    /// True when the guest goes on beating there: beats have come at moments that lie apart. What it had put into the port's
    /// queue before it was stopped, a VMM sends all at once, whether it runs the guest or not.
    bool goesOn(std::size_t port) const { return ports_[port].goesOn; }
    /// Forgets that it did, and waits for it anew.
    void watchAfresh(std::size_t port);
    /// True when a beat has come not longer ago than that.
    bool hasBeatWithin(std::chrono::milliseconds age) const {
        return lastNumber_ && std::chrono::steady_clock::now() - lastBeat_ <= age;
    }

    /// Takes a line as the probe writes it. Public for tests; `at` is when it arrived, `port` where.
    void take(const std::string& line, std::chrono::steady_clock::time_point at, std::size_t port);

 private:
    struct Port {
        std::string begun;                                               ///< Beginning of a line whose end has not come.
        std::optional<std::chrono::steady_clock::time_point> firstBeat;  ///< First beat since the port is watched.
        bool goesOn = false;
    };
    void read(std::size_t port, UniqueFd socket);
    void arrived(std::size_t port, std::chrono::steady_clock::time_point at, const std::string& bytes);
    std::string whole(std::string line, std::size_t port);

    std::vector<Port> ports_;
    HeartbeatSummary summary_;
    std::optional<std::uint64_t> lastNumber_;
    bool mayHaveMissed_ = false;  ///< Beats may have been missed since that number, through no fault of the VMMs'.
    std::chrono::steady_clock::time_point lastBeat_{};
    std::size_t lastPort_ = 0;
    std::function<void()> lineCallback_;
    Listener listener_;
    std::unique_ptr<HeartbeatReader> reader_;  ///< Runs from the first port on.
};

}  // namespace vh
