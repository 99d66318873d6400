#include "manager/compare/guest_watch.h"

#include <algorithm>
#include <string_view>

#include "vmm-shim/text.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

std::uint64_t valueOf(const std::map<std::string, std::uint64_t>& status, const char* key) {
    const auto found = status.find(key);
    return found == status.end() ? 0 : found->second;
}

}  // namespace

double steadyMs(std::chrono::steady_clock::time_point at) {
    return std::chrono::duration<double, std::milli>(at.time_since_epoch()).count();
}

void GuestWatch::listen(const std::string& heartbeatSocket, Session session) {
    monitor_ = std::make_unique<HeartbeatMonitor>();
    monitor_->onHeard([this, session](const HeardLine& line) { heard(line, session); });
    monitor_->listen(connectUnix(heartbeatSocket));
}

void GuestWatch::heard(const HeardLine& heard, Session session) {
    const std::string& line = heard.text;
    const double atMs = steadyMs(heard.at);
    if (line.size() < 3) return;
    if (line[0] == 'B') {
        if (const auto number = wholeNumber<std::uint64_t>(std::string_view(line).substr(2)))
            beats_.push_back({atMs, *number, session, heard.mayFollowLost});
    } else if (line[0] == 'W') {
        if (const auto pages = wholeNumber<std::uint64_t>(std::string_view(line).substr(2))) written_.push_back({atMs, *pages});
    } else if (line[0] == 'T') {
        const std::string_view numbers = std::string_view(line).substr(2);
        const std::size_t space = std::min(numbers.find(' '), numbers.size() - 1);
        const auto counter = wholeNumber<std::uint64_t>(numbers.substr(0, space));
        const auto ns = wholeNumber<std::uint64_t>(numbers.substr(space + 1));
        if (counter && ns) clocks_.push_back({atMs, *counter, *ns, session >= Session::New});
    } else if (line[0] == 'E') {
        ++errors_;
    } else if (line[0] == 'S') {
        for (const auto& [key, value] : probeStatus(line.substr(2))) status_[key] = value;
        if (session == Session::Before || session == Session::Old) statusBefore_ = status_;
    }
}

std::optional<double> GuestWatch::switchedAtMs() const {
    const auto first = std::ranges::find_if(beats_, [](const Beat& beat) { return beat.session >= Session::New; });
    return first == beats_.end() ? std::nullopt : std::optional(first->atMs);
}

std::optional<BeatIntervals> GuestWatch::intervals(Session first, Session last) const {
    std::vector<double> found;
    const Beat* previous = nullptr;
    for (const Beat& beat : beats_) {
        if (beat.session < first || beat.session > last) continue;
        if (previous && previous->session == beat.session) found.push_back(beat.atMs - previous->atMs);
        previous = &beat;
    }
    if (found.empty()) return std::nullopt;
    std::ranges::sort(found);
    const auto at = [&](double part) { return found[static_cast<std::size_t>(part * static_cast<double>(found.size() - 1))]; };
    return BeatIntervals{at(0.5), at(0.99), found.back()};
}

void GuestWatch::fill(Round& round, double beganAtMs, bool writes) const {
    std::uint64_t lost = 0, repeated = 0;
    for (std::size_t i = 1; i < beats_.size(); ++i) {
        const Session earlier = beats_[i - 1].session, session = beats_[i].session;
        // Between other sessions nobody listened, and QEMU drops what it has taken.
        if (earlier != session && !(earlier == Session::Old && session == Session::New)) continue;
        const std::uint64_t before = beats_[i - 1].number, now = beats_[i].number;
        if (now <= before)
            ++repeated;
        else if (!beats_[i].mayFollowLost)
            lost += now - before - 1;
    }
    const std::uint64_t mismatches = valueOf(status_, "mismatches");
    const std::uint64_t checked = valueOf(status_, "ram_checked"), checkedBefore = valueOf(statusBefore_, "ram_checked");
    const std::optional<double> switchedAt = switchedAtMs();
    round.beats = Beats{intervals(Session::Before, Session::Before), intervals(Session::Old, Session::Old),
                        intervals(Session::New, Session::After), lost, repeated};
    const std::uint64_t checkedSince = checked > checkedBefore ? checked - checkedBefore : 0;
    const bool isBroken = mismatches != 0 || errors_ != 0 || lost != 0 || repeated != 0;
    round.patterns = Patterns{isBroken                         ? std::optional(false)
                              : switchedAt && checkedSince > 0 ? std::optional(true)
                                                               : std::nullopt,
                              checkedSince, std::max(mismatches, errors_)};
    round.guestClock = guestClock(clocks_);
    if (writes && round.upgraded() && switchedAt) round.writeRate = brownOut(written_, beganAtMs, *switchedAt);
}

}  // namespace vh
