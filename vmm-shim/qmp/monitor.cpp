#include "vmm-shim/qmp/monitor.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "vmm-shim/json_nesting.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::steady_clock;

constexpr std::size_t maxMessageBytes = std::size_t{16} << 20;

sigset_t ending() {
    sigset_t signals;
    ::sigemptyset(&signals);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, signal);
    return signals;
}

std::string busy(milliseconds timeout) {
    return "nobody greets within " + std::to_string(timeout.count()) +
           " ms: a monitor serves one client at a time, and another one may be connected";
}

UniqueFd connectMonitor(const std::string& path, milliseconds timeout) {
    try {
        return connectUnix(path);
    } catch (const std::system_error& error) {
        // A socket whose backlog is full, which QEMU makes 1 long (chardev/char-socket.c, 10.0 and 11.1).
        if (error.code().value() == EAGAIN) throw MonitorUnreachable("monitor '" + path + "': " + busy(timeout));
        throw MonitorUnreachable(error.what());
    }
}

}  // namespace

Interrupts::Interrupts() {
    const sigset_t signals = ending();
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    signals_ = UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_) throwErrno("signalfd");
}

Interrupts::~Interrupts() {
    const sigset_t signals = ending();
    ::sigprocmask(SIG_UNBLOCK, &signals, nullptr);
}

int awaitReadable(std::initializer_list<int> descriptors, steady_clock::time_point deadline, int interrupts) {
    std::vector<pollfd> entries{{interrupts, POLLIN, 0}};
    for (const int descriptor : descriptors) entries.push_back({descriptor, POLLIN, 0});
    if (!pollUntil(entries, deadline)) return -1;
    if (entries.front().revents != 0) throw Interrupted();
    return std::ranges::find_if(entries, [](const pollfd& entry) { return entry.revents != 0; })->fd;
}

Monitor::Monitor(const std::string& path, milliseconds timeout) : Monitor(connectMonitor(path, timeout), path, timeout) {}

Monitor::Monitor(UniqueFd socket, std::string name, milliseconds timeout)
    : path_(std::move(name)), timeout_(timeout), socket_(std::move(socket)) {
    const auto deadline = steady_clock::now() + timeout;
    std::optional<json> greeting;
    while (!(greeting = nextMessage())) {
        if (steady_clock::now() >= deadline || awaitReadable({socket_.get()}, deadline) < 0) lost(busy(timeout));
        readMore();
    }
    if (!greeting->contains("QMP")) lost("it is not a monitor that answers");
    const json numbers = greeting->value("/QMP/version/qemu"_json_pointer, json::object());
    for (const char* part : {"major", "minor", "micro"})
        version_ += (version_.empty() ? "" : ".") + numbers.value(part, json(0)).dump();
    execute("qmp_capabilities");
}

json Monitor::execute(const std::string& command, const json& arguments) {
    const auto deadline = steady_clock::now() + timeout_;
    send(command, arguments);
    for (;;) {
        if (std::optional<json> result = answer()) return *result;
        // What never stops saying something else is no answer either.
        if (steady_clock::now() >= deadline || awaitReadable({socket_.get()}, deadline) < 0)
            lost("no answer to '" + command + "' within " + std::to_string(timeout_.count()) + " ms");
    }
}

void Monitor::send(const std::string& command, const json& arguments) {
    json message{{"execute", command}, {"id", ++id_}};
    if (!arguments.is_null()) message["arguments"] = arguments;
    command_ = command;
    const std::string bytes = message.dump() + "\n";
    // A command is a few hundred bytes, and the one before it has been read: the socket is not full.
    if (sendSome(socket_.get(), bytes.data(), bytes.size()) != bytes.size()) lost("it does not take '" + command + "'");
}

std::optional<json> Monitor::answer() {
    readMore();
    while (const std::optional<json> message = nextMessage()) {
        if (message->value("id", json()) != json(id_)) continue;  // An event, or an answer that came too late.
        if (message->contains("error"))
            throw CommandRefused(command_ + ": " + message->value("/error/desc"_json_pointer, std::string("refused")));
        return message->value("return", json::object());
    }
    return std::nullopt;
}

pid_t Monitor::vmmPid() const {
    const std::set<std::uint64_t> ends = socketsAt(path_, SocketKind::Accepted);
    std::vector<pid_t> owners = allProcesses();
    std::erase_if(owners, [&](pid_t pid) { return !holdsSocket(pid, ends); });
    if (owners.size() == 1) return owners.front();
    throw std::runtime_error(
        "monitor '" + path_ + "': " +
        (owners.empty() ? "the VMM's process cannot be found (is it another user's?)" : "more than one process answers there") +
        "; name it with --pid");
}

void Monitor::lost(const std::string& why) const {
    throw MonitorUnreachable("monitor '" + path_ + "': " + why);
}

void Monitor::readMore() {
    std::vector<UniqueFd> unwanted;
    try {
        while (const auto count = receiveSome(socket_.get(), input_, unwanted)) {
            if (*count == 0) lost("the connection was closed");
            if (input_.size() > maxMessageBytes) lost("what it says is longer than any answer");
        }
    } catch (const std::system_error& error) {
        lost(error.what());
    }
}

std::optional<json> Monitor::nextMessage() {
    const std::size_t end = input_.find('\n', taken_);
    if (end == std::string::npos) {
        // Once, and not at each line: of short ones there may be many.
        input_.erase(0, std::exchange(taken_, 0));
        return std::nullopt;
    }
    const std::string_view line(input_.data() + taken_, end - taken_);
    taken_ = end + 1;
    if (jsonNesting(line) > deepestNesting) lost("what it says is nested deeper than any answer");
    json message = json::parse(line, nullptr, false);
    if (!message.is_object()) lost("it is not a monitor that answers");
    return message;
}

}  // namespace vh
