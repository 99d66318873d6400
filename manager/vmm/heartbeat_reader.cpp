#include "manager/vmm/heartbeat_reader.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "vmm-shim/thread.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

constexpr std::size_t bytesAtOnce = 16384;
constexpr int mostReads = 64;                   ///< Of a port in a row: more than a socket's buffer holds.
constexpr std::size_t mostBytesKept = 1 << 20;  ///< Beyond that the VMM has to wait until the main loop has a turn.
constexpr std::uint64_t turnNs = 100'000;       ///< The shortest that there is.

UniqueFd event() {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) throwErrno("make an eventfd");
    return fd;
}

void signalEvent(int event) {
    const std::uint64_t one = 1;
    (void)!::write(event, &one, sizeof(one));
}

void takeEvent(int event) {
    std::uint64_t count = 0;
    (void)!::read(event, &count, sizeof(count));
}

/// As sched_setattr(2) has it; <linux/sched/types.h> does not go with the C library's headers.
struct SchedulingAttributes {
    std::uint32_t size, policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtimeNs, deadlineNs, periodNs;
};

/// A refusal does not matter.
void askForShortTurns() {
    SchedulingAttributes attributes{};
    if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
    attributes.runtimeNs = turnNs;
    ::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

HeartbeatReader::HeartbeatReader(Taker taker) : taker_(std::move(taker)), wake_(event()), arrived_(event()) {
    told_ = EventSource::readable(arrived_.get(), [this] {
        takeEvent(arrived_.get());
        handOver();
    });
    thread_ = threadWithoutSignals([this] { run(); });
}

HeartbeatReader::~HeartbeatReader() {
    {
        const std::lock_guard guard(lock_);
        ends_ = true;
    }
    wakeThread();
    thread_.join();
}

void HeartbeatReader::read(std::size_t port, UniqueFd socket) {
    UniqueFd former;
    {
        const std::lock_guard guard(lock_);
        if (sockets_.size() <= port) sockets_.resize(port + 1);
        former = std::exchange(sockets_[port], std::move(socket));
    }
    wakeThread();
}

void HeartbeatReader::catchUp() {
    {
        const std::lock_guard guard(lock_);
        readAll();
    }
    handOver();
}

void HeartbeatReader::wakeThread() const {
    signalEvent(wake_.get());
}

/// A taker that catches up itself is told by whom it was called. One that throws is not told again what it threw at; the rest is
/// for the main loop's next turn.
void HeartbeatReader::handOver() {
    {
        const std::lock_guard guard(lock_);
        taken_.insert(taken_.end(), std::make_move_iterator(arrivals_.begin()), std::make_move_iterator(arrivals_.end()));
        arrivals_.clear();
        if (std::exchange(bytesKept_, 0) >= mostBytesKept) wakeThread();
    }
    if (std::exchange(isHandingOver_, true)) return;
    try {
        while (!taken_.empty()) {
            const Arrival next = std::move(taken_.front());
            taken_.pop_front();
            taker_(next.port, next.at, next.bytes);
        }
        isHandingOver_ = false;
    } catch (...) {
        isHandingOver_ = false;
        signalEvent(arrived_.get());
        throw;
    }
}

void HeartbeatReader::run() {
    askForShortTurns();
    for (;;) {
        std::vector<pollfd> waited{{wake_.get(), POLLIN, 0}};
        {
            const std::lock_guard guard(lock_);
            if (ends_) return;
            for (const UniqueFd& socket : sockets_)
                if (socket && bytesKept_ < mostBytesKept) waited.push_back({socket.get(), POLLIN, 0});
        }
        // A socket that was exchanged meanwhile is looked at once too often, and not read.
        ::poll(waited.data(), waited.size(), -1);
        if (waited.front().revents != 0) takeEvent(wake_.get());
        const std::lock_guard guard(lock_);
        readAll();
    }
}

void HeartbeatReader::readAll() {
    for (std::size_t port = 0; port < sockets_.size(); ++port) {
        std::string bytes, before;
        for (int reads = 0; reads < mostReads && bytesKept_ < mostBytesKept && readOnce(port, bytes); ++reads) {
            const Clock::time_point at = Clock::now();
            // What the guest wrote on an earlier VMM precedes what it wrote on this one, and cannot have come later.
            for (std::size_t earlier = 0; earlier < port; ++earlier)
                for (int more = 0; more < mostReads && readOnce(earlier, before); ++more) keep(earlier, at, before);
            keep(port, at, bytes);
        }
    }
}

/// False when there was nothing.
bool HeartbeatReader::readOnce(std::size_t port, std::string& bytes) {
    if (!sockets_[port]) return false;
    char buffer[bytesAtOnce];
    const ssize_t count = ::recv(sockets_[port].get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (count <= 0) {
        sockets_[port].reset();
        return false;
    }
    bytes.assign(buffer, static_cast<std::size_t>(count));
    return true;
}

void HeartbeatReader::keep(std::size_t port, Clock::time_point at, const std::string& bytes) {
    if (arrivals_.empty()) signalEvent(arrived_.get());
    bytesKept_ += bytes.size();
    arrivals_.push_back({port, at, bytes});
}

}  // namespace vh
