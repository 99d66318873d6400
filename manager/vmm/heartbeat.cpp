#include "manager/vmm/heartbeat.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "vmm-shim/text.h"

namespace vh {
namespace {

// What a guest can make a manager keep is bounded; our probe stays far below.
constexpr std::chrono::milliseconds apart{
    10};  ///< A guest of ours beats each millisecond, and on a busy host a few times in ten.
constexpr std::size_t mostStatusKeys = 100;
constexpr std::size_t mostErrors = 20;
constexpr int mostReads = 64;  ///< Of 16 KiB each, more than a socket's buffer holds.

}  // namespace

std::map<std::string, std::uint64_t> probeStatus(const std::string& text) {
    std::map<std::string, std::uint64_t> status;
    std::istringstream fields(text);
    for (std::string field; fields >> field;) {
        const std::size_t equals = field.find('=');
        if (equals == std::string::npos) continue;
        if (const auto value = wholeNumber<std::uint64_t>(std::string_view(field).substr(equals + 1)))
            status[field.substr(0, equals)] = *value;
    }
    return status;
}

void HeartbeatMonitor::listen(UniqueFd socket) {
    const std::size_t port = ports_.size();
    ports_.push_back({});
    read(port, std::move(socket));
}

void HeartbeatMonitor::listenAgain(std::size_t port, UniqueFd socket) {
    // What the guest had written and nobody read, QEMU drops with the connection
    // (hw/char/virtio-serial-bus.c:virtio_serial_close, 10.0).
    mayHaveMissed_ = true;
    partial_.clear();
    read(port, std::move(socket));
    watchAfresh(port);
}

void HeartbeatMonitor::watchAfresh(std::size_t port) {
    ports_[port].firstBeat.reset();
    ports_[port].goesOn = false;
}

void HeartbeatMonitor::read(std::size_t port, UniqueFd socket) {
    ports_[port].readable = EventSource::readable(socket.get(), [this, port] { readMore(port); });
    ports_[port].socket = std::move(socket);
}

void HeartbeatMonitor::readMore(std::size_t port) {
    // What the guest wrote on an earlier VMM precedes what it wrote on this one: drain that first.
    for (std::size_t earlier = 0; earlier < port; ++earlier)
        for (int reads = 0; reads < mostReads && readOnce(earlier); ++reads) continue;
    readOnce(port);
}

bool HeartbeatMonitor::readOnce(std::size_t port) {
    if (!ports_[port].socket) return false;
    char buffer[16384];
    const ssize_t count = ::recv(ports_[port].socket.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (count <= 0) {
        ports_[port].readable.reset();
        ports_[port].socket.reset();
        return false;
    }
    const auto now = std::chrono::steady_clock::now();
    partial_.append(buffer, static_cast<std::size_t>(count));
    for (std::size_t end; (end = partial_.find('\n')) != std::string::npos;) {
        const std::string line = partial_.substr(0, end);
        partial_.erase(0, end + 1);
        take(line, now, port);
    }
    if (partial_.size() > sizeof(buffer)) partial_.clear();  // Not our probe.
    return true;
}

void HeartbeatMonitor::take(const std::string& line, std::chrono::steady_clock::time_point at, std::size_t port) {
    if (line.starts_with("B ")) {
        const std::optional<std::uint64_t> beat = wholeNumber<std::uint64_t>(std::string_view(line).substr(2));
        // The first line read may be the tail of one that began before we listened; and then it is not a number to count from.
        if (!beat) return;
        ++summary_.beats;
        if (port < ports_.size()) {
            Port& from = ports_[port];
            if (!from.firstBeat) from.firstBeat = at;
            from.goesOn = at - *from.firstBeat >= apart;
        }
        if (lastNumber_) {
            if (*beat <= *lastNumber_)
                ++summary_.repeated;
            else if (!mayHaveMissed_)
                summary_.lost += *beat - *lastNumber_ - 1;
            const double gapMs = std::chrono::duration<double, std::milli>(at - lastBeat_).count();
            summary_.longestGapMs = std::max(summary_.longestGapMs, gapMs);
            if (port != lastPort_) summary_.pauseMs = gapMs;
        }
        lastNumber_ = beat;
        mayHaveMissed_ = false;
        lastBeat_ = at;
        lastPort_ = port;
    } else if (line.starts_with("S ")) {
        for (const auto& [key, value] : probeStatus(line.substr(2)))
            if (summary_.status.size() < mostStatusKeys || summary_.status.contains(key)) summary_.status[key] = value;
    } else if (line.starts_with("E ") && summary_.errors.size() < mostErrors) {
        summary_.errors.push_back(line.substr(2));
    }
    if (listener_) listener_(line, at, port);
    const auto callback = lineCallback_;  // A copy: it may replace itself.
    if (callback) callback();
}

}  // namespace vh
