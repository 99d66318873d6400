// A guest's words on its heartbeat port in one round, and what follows from them.
//
// QEMU serves one listener at a time: this one listens before a handover and after it, and is told by the handover what came
// meanwhile. Each connection is a session: between two of them the guest's lines have nowhere to go, which is no gap of the
// guest's.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "manager/compare/results.h"
#include "manager/vmm/heartbeat.h"

namespace vh {

/// Milliseconds of the steady clock, which every time in a round is counted in.
double steadyMs(std::chrono::steady_clock::time_point at = std::chrono::steady_clock::now());

class GuestWatch {
 public:
    enum class Session { Before, Old, New, After };

    /// Connects to the heartbeat port of the VM's present VMM. Throws std::system_error.
    void listen(const std::string& heartbeatSocket, Session session);
    void stopListening() { monitor_.reset(); }
    bool listening() const { return monitor_ != nullptr; }

    /// A line of the probe, from wherever it was heard.
    void heard(const HeardLine& line, Session session);

    /// True when the last beat so far has come in this session.
    bool hasBeatenIn(Session session) const { return !beats_.empty() && beats_.back().session == session; }
    /// True when a beat has come since then.
    bool hasBeatenSince(double atMs) const { return !beats_.empty() && beats_.back().atMs >= atMs; }
    /// The guest's first beat on the new VMM; none before it.
    std::optional<double> switchedAtMs() const;

    /// Fills in `beats`, `writeRate` and `patterns` of a round of which the outcome is known. `beganAtMs` is when the handover
    /// began.
    void fill(Round& round, double beganAtMs, bool writes) const;

 private:
    struct Beat {
        double atMs;
        std::uint64_t number;
        Session session;
        bool mayFollowLost;
    };
    std::optional<BeatIntervals> intervals(Session first, Session last) const;

    std::unique_ptr<HeartbeatMonitor> monitor_;
    std::vector<Beat> beats_;
    std::vector<WriteSample> written_;
    std::vector<ClockSample> clocks_;
    std::map<std::string, std::uint64_t> statusBefore_;
    std::map<std::string, std::uint64_t> status_;
    std::uint64_t errors_ = 0;
};

}  // namespace vh
