#include "manager/vmm/heartbeat.h"

#include <algorithm>
#include <sstream>

#include "vmm-shim/text.h"

namespace vh {
namespace {

/// A guest of ours beats each millisecond, and on a busy host a few times in ten.
constexpr std::chrono::milliseconds apart{10};

// What a guest can make a manager keep is bounded; our probe stays far below.
constexpr std::size_t mostStatusKeys = 100;
constexpr std::size_t mostErrors = 20;
constexpr std::size_t longestProbeLine = 16384;

/// As the probe writes them.
bool isLine(std::string_view text) {
    if (text.size() < 3 || text[1] != ' ') return false;
    if (text[0] == 'B' || text[0] == 'W') return wholeNumber<std::uint64_t>(text.substr(2)).has_value();
    return text[0] == 'S' || text[0] == 'E';
}

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
    read(port, std::move(socket));
    ports_[port].begun.clear();
    watchAfresh(port);
}

void HeartbeatMonitor::watchAfresh(std::size_t port) {
    ports_[port].firstBeat.reset();
    ports_[port].goesOn = false;
}

void HeartbeatMonitor::catchUp() {
    if (reader_) reader_->catchUp();
}

void HeartbeatMonitor::read(std::size_t port, UniqueFd socket) {
    if (!reader_)
        reader_ = std::make_unique<HeartbeatReader>([this](std::size_t from, HeartbeatReader::Clock::time_point at,
                                                           const std::string& bytes) { arrived(from, at, bytes); });
    reader_->read(port, std::move(socket));
}

void HeartbeatMonitor::arrived(std::size_t port, std::chrono::steady_clock::time_point at, const std::string& bytes) {
    std::string text = std::exchange(ports_[port].begun, {}) + bytes;
    std::size_t begin = 0;
    for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
        take(whole(text.substr(begin, end - begin), port), at, port);
    text.erase(0, begin);
    if (text.size() <= longestProbeLine) ports_[port].begun = std::move(text);  // Else not our probe's.
}

/// A line that has ended, with what may have begun it on an earlier port. What is a line by itself has not begun there.
std::string HeartbeatMonitor::whole(std::string line, std::size_t port) {
    for (std::size_t earlier = port; earlier-- > 0;) {
        const std::string begun = std::exchange(ports_[earlier].begun, {});
        if (!begun.empty() && !isLine(line)) line.insert(0, begun);
    }
    return line;
}

void HeartbeatMonitor::take(const std::string& line, std::chrono::steady_clock::time_point at, std::size_t port) {
    const HeardLine heard{line, at, port, mayHaveMissed_};
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
    if (listener_) listener_(heard);
    const auto callback = lineCallback_;  // A copy: it may replace itself.
    if (callback) callback();
}

}  // namespace vh
