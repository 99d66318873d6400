// A client of QEMU's monitor (QMP, docs/interop/qmp-spec.rst) that never blocks and survives the peer's death at any byte.
//
// Every command has a deadline and gets exactly one answer: QEMU's, `Timeout`, or `Closed`. Commands may be given at once; they
// are sent when the greeting has come and capabilities are negotiated.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "manager/process/event_clock.h"
#include "manager/process/event_loop.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

struct QmpError {
    std::string errorClass;  ///< QEMU's class (`GenericError`, `DeviceNotFound`, ...), or ours: `Timeout`, `Closed`.
    std::string description;
};

struct QmpReply {
    nlohmann::json value;
    std::optional<QmpError> error;

    bool ok() const { return !error; }

    // Members of the answer. A peer may answer with anything: what is not there, or of another type, is as if there were no
    // answer.
    /// A string; empty when there is none.
    std::string text(const std::string& key) const { return ok() ? JsonReader(value).text("/" + key) : std::string(); }
    bool flag(const std::string& key) const { return ok() && JsonReader(value).isTrue("/" + key); }
};

struct QmpEvent {
    std::string name;
    nlohmann::json data;
    std::chrono::steady_clock::time_point at;  ///< Time of the event, by QEMU's word as far as that can be; see event_clock.h.
};

class QmpClient {
 public:
    using ReplyHandler = std::function<void(QmpReply)>;

    /// Takes a connected, non-blocking socket.
    explicit QmpClient(UniqueFd socket);
    QmpClient(const QmpClient&) = delete;
    ~QmpClient();

    /// Told of every event, known or not. Set before returning to the main loop, so that none is missed.
    void onEvent(std::function<void(const QmpEvent&)> handler) { eventHandler_ = std::move(handler); }

    /// Told when the peer is gone, after what was asked has been answered.
    void onClosed(std::function<void()> handler) { closedHandler_ = std::move(handler); }

    /// `done` is called from the main loop, exactly once, unless the client is destroyed first. The descriptor, if any, is passed
    /// along (for `getfd` and `add-fd`).
    void execute(const std::string& command, nlohmann::json arguments, std::chrono::milliseconds deadline, ReplyHandler done,
                 UniqueFd descriptor = {});

    bool closed() const { return !socket_; }

    /// The process that sent what was read last, by the kernel's word; 0 before anything came.
    pid_t peer() const { return peer_; }

 private:
    struct Outgoing {
        std::string bytes;
        UniqueFd descriptor;
    };
    struct Pending {
        ReplyHandler done;
        EventSource deadline;
    };

    void readMore();
    void takeLine(const std::string& line);
    void flush();
    void answer(std::uint64_t id, QmpReply reply);
    void close(const std::string& why);

    UniqueFd socket_;
    EventSource readable_;
    EventSource writable_;
    std::string input_;
    EventClock clock_;
    pid_t peer_ = 0;
    std::deque<Outgoing> output_;
    std::deque<Outgoing> waitingForGreeting_;
    bool negotiated_ = false;
    std::string whyClosed_;
    std::uint64_t lastId_ = 0;
    std::map<std::uint64_t, Pending> pending_;
    std::function<void(const QmpEvent&)> eventHandler_;
    std::function<void()> closedHandler_;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  ///< False once destroyed, for loops that call out.
};

}  // namespace vh
