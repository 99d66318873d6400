#include "manager/vmm/qmp_client.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "vmm-shim/json_nesting.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;

/// The longest answer seen is query-qmp-schema's, 0.3 MB on 11.1; a peer that sends this much without a newline is not a monitor.
constexpr std::size_t longestLine = 16 * 1024 * 1024;

/// One line of the monitor, or something that is not an object.
json parsed(const std::string& line) {
    return jsonNesting(line) > deepestNesting ? json() : json::parse(line, nullptr, false);
}

/// Microseconds since 1970; 0 when QEMU does not know (it says -1, docs/interop/qmp-spec.rst) or says something impossible.
std::int64_t timeOf(const json& timestamp) {
    constexpr std::uint64_t second = 1'000'000, latest = 1'000'000'000'000;
    const JsonReader told(timestamp);
    const std::uint64_t seconds = told.count("/seconds"), microseconds = told.count("/microseconds");
    return seconds > latest || microseconds >= second ? 0 : static_cast<std::int64_t>(seconds * second + microseconds);
}

}  // namespace

QmpClient::QmpClient(UniqueFd socket) : socket_(std::move(socket)) {
    // From now on the kernel says with everything that comes who has sent it (unix(7)); without that, peer() knows nobody.
    const int on = 1;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    readable_ = EventSource::readable(socket_.get(), [this] { readMore(); });
}

QmpClient::~QmpClient() {
    *alive_ = false;
}

void QmpClient::execute(const std::string& command, json arguments, std::chrono::milliseconds deadline, ReplyHandler done,
                        UniqueFd descriptor) {
    const std::uint64_t id = ++lastId_;
    Pending& pending = pending_[id];
    pending.done = std::move(done);
    if (closed()) {
        // From the next turn, so that a caller never sees its own call answered before the call returns.
        pending.deadline = EventSource::after(std::chrono::milliseconds(0), [this, id] {
            answer(id, {{}, QmpError{"Closed", whyClosed_}});
        });
        return;
    }
    pending.deadline = EventSource::after(deadline, [this, id, deadline, command] {
        answer(id,
               {{}, QmpError{"Timeout", "no answer to '" + command + "' within " + std::to_string(deadline.count()) + " ms"}});
    });
    json request{{"execute", command}, {"id", id}};
    if (!arguments.is_null()) request["arguments"] = std::move(arguments);
    (negotiated_ ? output_ : waitingForGreeting_).push_back({request.dump() + "\n", std::move(descriptor)});
    if (negotiated_) flush();
}

void QmpClient::readMore() {
    char buffer[65536];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    iovec piece{buffer, sizeof(buffer)};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    // Descriptors that somebody passes find no room, and are closed by the kernel.
    const ssize_t count = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count < 0) return close(std::string("the monitor failed: ") + std::strerror(errno));
    if (count == 0) return close("the VMM closed its monitor");
    clock_.look();
    for (const cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(part)))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS) {
            ucred sender{};
            std::memcpy(&sender, CMSG_DATA(part), sizeof(sender));
            peer_ = sender.pid;
        }
    input_.append(buffer, static_cast<std::size_t>(count));
    const std::shared_ptr<bool> alive = alive_;
    for (std::size_t end; *alive && !closed() && (end = input_.find('\n')) != std::string::npos;) {
        const std::string line = input_.substr(0, end);
        input_.erase(0, end + 1);
        if (line.find_first_not_of(" \r") != std::string::npos) takeLine(line);
    }
    if (*alive && !closed() && input_.size() > longestLine)
        close("the monitor sent " + std::to_string(input_.size()) + " bytes without a line end");
}

void QmpClient::takeLine(const std::string& line) {
    const json message = parsed(line);
    if (!message.is_object()) return close("the monitor sent something that is not QMP: '" + line.substr(0, 60) + "'");
    if (message.contains("QMP")) {
        if (negotiated_) return;
        negotiated_ = true;
        // No callback of ours depends on the answer: a monitor that refuses this refuses every command after it.
        output_.push_back({R"({"execute":"qmp_capabilities","id":0})"
                           "\n",
                           {}});
        for (Outgoing& request : waitingForGreeting_) output_.push_back(std::move(request));
        waitingForGreeting_.clear();
        flush();
    } else if (message.contains("event")) {
        QmpEvent event;
        event.name = JsonReader(message).text("/event");
        event.data = message.value("data", json::object());
        if (!event.data.is_object()) event.data = json::object();  // As the protocol has it; so nobody needs to ask.
        event.at = clock_.happened(timeOf(message.value("timestamp", json::object())));
        const auto handler = eventHandler_;  // A copy: it may replace itself, or destroy this.
        if (handler) handler(event);
    } else if (message.contains("return")) {
        answer(JsonReader(message).count("/id"), {message.at("return"), std::nullopt});
    } else if (message.contains("error") && message.at("error").is_object()) {
        answer(JsonReader(message).count("/id"),
               {{}, QmpError{JsonReader(message).text("/error/class"), JsonReader(message).text("/error/desc")}});
    }
}

void QmpClient::flush() {
    try {
        while (!output_.empty() && !closed()) {
            Outgoing& next = output_.front();
            const std::size_t sent = sendSome(socket_.get(), next.bytes.data(), next.bytes.size(), next.descriptor.get());
            if (sent == 0) {
                writable_ = EventSource::writable(socket_.get(), [this] { flush(); });
                return;
            }
            next.descriptor.reset();
            next.bytes.erase(0, sent);
            if (next.bytes.empty()) output_.pop_front();
        }
        writable_.reset();
    } catch (const std::system_error& error) {
        // The answers are given from the reading side, which sees the same death; here a caller may be on the stack.
        output_.clear();
        writable_.reset();
    }
}

void QmpClient::answer(std::uint64_t id, QmpReply reply) {
    const auto found = pending_.find(id);
    if (found == pending_.end()) return;  // Its deadline has passed, or it is the answer to qmp_capabilities.
    const ReplyHandler done = std::move(found->second.done);
    pending_.erase(found);
    if (done) done(std::move(reply));
}

void QmpClient::close(const std::string& why) {
    whyClosed_ = why;
    readable_.reset();
    writable_.reset();
    socket_.reset();
    output_.clear();
    waitingForGreeting_.clear();
    const std::shared_ptr<bool> alive = alive_;
    // Only those of now: what a handler asks in its answer's place is answered from a later turn.
    const std::uint64_t last = lastId_;
    while (*alive && !pending_.empty() && pending_.begin()->first <= last)
        answer(pending_.begin()->first, {{}, QmpError{"Closed", whyClosed_}});
    if (!*alive) return;
    const auto handler = closedHandler_;  // A copy: it may destroy this.
    if (handler) handler();
}

}  // namespace vh
