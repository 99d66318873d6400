#include "tests/reference-vmm/reference_vmm.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iostream>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>

#include "tests/reference-vmm/reference_process.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr std::size_t longestCommand = 1 << 20;

/// An answer of the monitor with another class than GenericError.
struct CommandError : std::runtime_error {
    CommandError(std::string which, const std::string& what) : std::runtime_error(what), errorClass(std::move(which)) {}
    std::string errorClass;
};

}  // namespace

std::string noise(std::size_t length) {
    std::uint32_t state = 0x2545f491;
    std::string bytes;
    while (bytes.size() < length) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.push_back(static_cast<char>(state | 0x80));
    }
    return bytes;
}

void actFinally(const Fault& fault) {
    if (fault.action == Action::Die) ::kill(::getpid(), SIGKILL);
    if (fault.action == Action::Exit) ::_exit(static_cast<int>(fault.number));
    while (fault.action == Action::Hang) ::pause();
}

void waitFor(int fd, short events) {
    pollfd entry{fd, events, 0};
    while (::poll(&entry, 1, -1) < 0 && errno == EINTR) continue;
}

SocketPort::SocketPort(const SocketChardev& chardev) {
    const int flags = ::fcntl(chardev.fd, F_GETFL);
    if (flags < 0 || ::fcntl(chardev.fd, F_SETFL, flags | O_NONBLOCK) < 0)
        throwErrno("chardev with descriptor " + std::to_string(chardev.fd));
    (chardev.listens ? listener : client) = UniqueFd(chardev.fd);
}

void SocketPort::accept() {
    client = acceptUnix(listener.get());
    ++connections;
}

ReferenceVmm::ReferenceVmm(ReferenceOptions options) : options_(std::move(options)), faults_(options_.faults) {
    if (options_.monitor) monitor_ = SocketPort(*options_.monitor);
    if (options_.console) console_ = SocketPort(*options_.console);
    if (options_.heartbeat) heartbeat_ = SocketPort(*options_.heartbeat);
}

void ReferenceVmm::run() {
    const Fault fault = reach(Step::Start);
    if (fault.action == Action::Slow) std::this_thread::sleep_for(milliseconds(fault.number));
    CprCapture received;
    if (options_.incoming) incoming_.emplace();
    if (!options_.cprPath.empty()) received = receiveCprState();
    if (options_.memory) {
        guest_.emplace(options_, std::move(received));
        if (!incoming_) guest_->boot();
        runState_ = incoming_ ? "inmigrate" : "prelaunch";
        if (!incoming_ && !options_.startPaused) start();
    }
    if (monitor_.client) greet();
    while (!ended_ || !output_.empty()) turn();
}

// The loop.

void ReferenceVmm::turn() {
    const bool ticking = running() && !frozen_;
    std::optional<Clock::time_point> wake;
    if (ticking) wake = nextTick_;
    for (const Timer& timer : timers_) wake = wake ? std::min(*wake, timer.at) : timer.at;
    timespec timeout{};
    if (wake) {
        const auto wait = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*wake - Clock::now()));
        timeout = {static_cast<time_t>(wait.count() / 1'000'000'000), static_cast<long>(wait.count() % 1'000'000'000)};
    }
    const std::vector<Watch> watched = watches();
    std::vector<pollfd> entries;
    for (const Watch& watch : watched) entries.push_back({watch.fd, watch.events, 0});
    if (::ppoll(entries.data(), entries.size(), wake ? &timeout : nullptr, nullptr) < 0 && errno != EINTR) throwErrno("poll");
    // One a turn: it may close what another one watches.
    for (std::size_t i = 0; i < entries.size(); ++i) {
        if (entries[i].revents == 0) continue;
        watched[i].ready();
        break;
    }
    const Clock::time_point now = Clock::now();
    const auto due = std::find_if(timers_.begin(), timers_.end(), [now](const Timer& timer) { return timer.at <= now; });
    if (due != timers_.end()) {
        const std::function<void()> call = std::move(due->call);
        timers_.erase(due);
        call();
    }
    if (!running() || frozen_ || now < nextTick_) return;
    guest_->tick(heartbeat_.connections > options_.silentConnections ? heartbeat_.client.get() : -1);
    const auto period = std::chrono::nanoseconds(1'000'000'000 / options_.beatsPerSecond);
    nextTick_ = std::max(nextTick_ + period, now);
}

Fault ReferenceVmm::reach(Step step) {
    const Fault fault = faults_.dueAt(step);
    actFinally(fault);
    return fault;
}

void ReferenceVmm::after(std::uint64_t ms, std::function<void()> call) {
    timers_.push_back({Clock::now() + milliseconds(ms), std::move(call)});
}

void ReferenceVmm::proceed(const Fault& fault, std::function<void()> then) {
    if (fault.action == Action::Slow) return after(fault.number, std::move(then));
    then();
}

std::vector<ReferenceVmm::Watch> ReferenceVmm::watches() {
    std::vector<Watch> found;
    const auto watch = [&found](int fd, short events, std::function<void()> ready) {
        if (fd >= 0) found.push_back({fd, events, std::move(ready)});
    };
    if (monitor_.client) {
        if (!output_.empty())
            watch(monitor_.client.get(), POLLOUT, [this] { flushMonitor(); });
        else if (!monitorBusy_)
            watch(monitor_.client.get(), POLLIN, [this] { monitorReadable(); });
    } else {
        watch(monitor_.listener.get(), POLLIN, [this] {
            monitor_.accept();
            if (monitor_.client) greet();
        });
    }
    for (SocketPort* port : {&console_, &heartbeat_}) {
        if (port->client)
            watch(port->client.get(), POLLIN, [port] { drain(*port); });
        else
            watch(port->listener.get(), POLLIN, [port] { port->accept(); });
    }
    if (outgoing_) {
        // Without events asked for, poll() tells of the hang-up alone.
        if (outgoing_->sender)
            watch(outgoing_->cpr.get(), POLLOUT, [this] { sendCprSome(); });
        else
            watch(outgoing_->cpr.get(), 0, [this] { hungUp(); });
        if (!outgoing_->bytes.empty())
            watch(outgoing_->main.get(), POLLOUT, [this] { sendMainSome(); });
        else if (outgoing_->awaitsAnswer)
            watch(outgoing_->main.get(), POLLIN, [this] { receiveAnswer(); });
    }
    if (incoming_) {
        if (incoming_->listener) watch(incoming_->listener->fd(), POLLIN, [this] { acceptMain(); });
        if (incoming_->main && incoming_->stream && !incoming_->busy)
            watch(incoming_->main.get(), POLLIN, [this] { readIncoming(); });
    }
    return found;
}

void ReferenceVmm::drain(SocketPort& port) {
    char ignored[4096];
    const ssize_t count = ::recv(port.client.get(), ignored, sizeof(ignored), MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) port.client.reset();
}

// The monitor.

void ReferenceVmm::greet() {
    ++clients_;
    negotiated_ = false;
    say({{"QMP", {{"version", version()}, {"capabilities", json::array()}}}});
}

void ReferenceVmm::closeMonitor() {
    monitor_.client.reset();
    input_.clear();
    output_.clear();
    receivedFds_.clear();
    negotiated_ = false;
}

void ReferenceVmm::monitorReadable() {
    std::optional<std::size_t> count = 0;
    try {
        count = receiveSome(monitor_.client.get(), input_, receivedFds_);
    } catch (const std::system_error&) {  // As when the client has left.
    }
    if (!count) return;
    if (*count == 0) return closeMonitor();
    takeLines();
    if (input_.size() > longestCommand) closeMonitor();
}

void ReferenceVmm::takeLines() {
    for (std::size_t end; !monitorBusy_ && !ended_ && (end = input_.find('\n')) != std::string::npos;) {
        const std::string line = input_.substr(0, end);
        input_.erase(0, end + 1);
        if (line.find_first_not_of(" \r") == std::string::npos) continue;
        const json request = json::parse(line, nullptr, false);
        if (request.is_object() && request.contains("execute") && request["execute"].is_string())
            takeCommand(request);
        else
            say({{"error", {{"class", "GenericError"}, {"desc", "Invalid JSON syntax"}}}});
    }
    flushMonitor();
}

void ReferenceVmm::takeCommand(const json& request) {
    static const std::map<std::string, Step> stepOf{{"x-query-ramblock", Step::Verify},
                                                    {"migrate", Step::Migrate},
                                                    {"migrate-incoming", Step::Incoming},
                                                    {"cont", Step::Cont},
                                                    {"quit", Step::Quit}};
    Fault first, own;
    if (!std::exchange(commanded_, true)) first = reach(Step::Monitor);
    if (const auto step = stepOf.find(request["execute"].get<std::string>()); step != stepOf.end()) own = reach(step->second);
    const auto delayOf = [](const Fault& fault) { return fault.action == Action::Slow ? fault.number : 0; };
    if (const std::uint64_t delay = delayOf(first) + delayOf(own); delay > 0) {
        monitorBusy_ = true;
        after(delay, [this, request, client = clients_] {
            monitorBusy_ = false;
            if (client == clients_ && monitor_.client) answer(request, {}, {});
            takeLines();
        });
        return;
    }
    answer(request, first, own);
}

void ReferenceVmm::answer(const json& request, const Fault& first, const Fault& own) {
    if (first.action == Action::Garbage || (own.action == Action::Garbage && own.step != Step::Verify)) {
        output_ += noise(64) + "\n";
        return;
    }
    json reply = json::object();
    try {
        if (first.action == Action::Lie)
            reply["return"] = json::object();
        else
            reply["return"] = execute(request["execute"], request.value("arguments", json::object()), own);
    } catch (const CommandError& error) {
        reply["error"] = {{"class", error.errorClass}, {"desc", error.what()}};
    } catch (const std::exception& error) {
        reply["error"] = {{"class", "GenericError"}, {"desc", error.what()}};
    }
    if (const auto odd = options_.answers.find(request["execute"].get<std::string>()); odd != options_.answers.end())
        reply = {{"return", json::parse(odd->second)}};
    if (request.contains("id")) reply["id"] = request["id"];
    say(reply);
}

json ReferenceVmm::execute(const std::string& command, const json& arguments, const Fault& fault) {
    if (!negotiated_) {
        if (command != "qmp_capabilities")
            throw CommandError("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'");
        negotiated_ = true;
        return json::object();
    }
    if (command == "query-version") return version();
    if (command == "query-machines") return machines();
    if (command == "device-list-properties" || command == "query-block-jobs") return json::array();
    if (command == "query-status") return {{"status", runState_}, {"running", running()}};
    if (command == "quit") {
        if (fault.action == Action::Lie) return json::object();
        event("SHUTDOWN", {{"guest", false}, {"reason", "host-qmp-quit"}});
        ended_ = true;
        return json::object();
    }
    if (command == "add-fd" || command == "getfd") {
        addDescriptor(arguments);
        return command == "getfd" ? json::object() : json{{"fdset-id", arguments.at("fdset-id")}, {"fd", fdsets_.size()}};
    }
    if (!guest_) throw CommandError("CommandNotFound", "The command " + command + " has not been found");

    if (command == "cont") {
        frozen_ = fault.action == Action::Lie;
        for (unsigned beat = 0; beat < options_.queuedBeats; ++beat) guest_->tick(heartbeat_.client.get());
        if (incoming_)
            startWhenLoaded_ = true;
        else if (runState_ == "finish-migrate")
            throw std::runtime_error("The guest is stopped by a migration that is under way");
        else if (!running())
            start();
    } else if (command == "stop") {
        startWhenLoaded_ = false;
        if (running()) stop("paused");
    } else if (command == "system_powerdown") {
        event("POWERDOWN");
        // A guest that does not run does not notice its power button.
        if (!running()) return json::object();
        event("SHUTDOWN", {{"guest", true}, {"reason", "guest-shutdown"}});
        ended_ = true;
    } else if (command == "x-query-ramblock") {
        std::string table = guest_->table(fault.action == Action::Lie);
        if (fault.action == Action::Garbage)
            for (char& character : table = noise(512)) character = static_cast<char>(' ' + (character & 0x3f));
        return {{"human-readable-text", table}};
    } else if (command == "qom-list") {
        json found = json::array({{{"name", "type"}, {"type", "string"}}});
        if (arguments.value("path", "") == "/objects")
            found.push_back({{"name", options_.memory->id}, {"type", "child<" + options_.memory->type + ">"}});
        return found;
    } else if (command == "migrate-set-capabilities") {
        for (const json& entry : arguments.at("capabilities"))
            capabilities_[entry.at("capability").get<std::string>()] = entry.at("state").get<bool>();
    } else if (command == "query-migrate-capabilities") {
        json found = json::array();
        for (const auto& [name, state] : capabilities_.items()) found.push_back({{"capability", name}, {"state", state}});
        return found;
    } else if (command == "migrate-set-parameters") {
        if (const std::string mode = arguments.value("mode", "normal"); mode != "normal" && mode != "cpr-transfer")
            throw std::runtime_error("Parameter 'mode' does not accept value '" + mode + "'");
        parameters_.update(arguments);
    } else if (command == "query-migrate-parameters") {
        return parameters_;
    } else if (command == "query-migrate") {
        return queryMigrate();
    } else if (command == "migrate") {
        if (fault.action != Action::Lie) migrate(arguments);
    } else if (command == "migrate_cancel") {
        if (outgoing_) {
            setStatus("cancelling");
            endOutgoing("cancelled", {});
        }
    } else if (command == "migrate-incoming") {
        if (fault.action != Action::Lie) migrateIncoming(arguments);
    } else if (command == "x-ref-claim") {
        guest_->claimFile(arguments.at("name"), arguments.at("path"));
    } else if (command == "x-ref-plug") {
        guest_->plug(arguments.at("name"), arguments.at("size"));
    } else if (command == "x-ref-replace") {
        guest_->replaceFile(arguments.at("name"));
    } else {
        throw CommandError("CommandNotFound", "The command " + command + " has not been found");
    }
    return json::object();
}

void ReferenceVmm::event(const std::string& name, json data) {
    if (!negotiated_) return;
    timeval now{};
    ::gettimeofday(&now, nullptr);
    json message{{"event", name},
                 {"timestamp", {{"seconds", now.tv_sec + options_.clockAheadSeconds}, {"microseconds", now.tv_usec}}}};
    if (!data.is_null()) message["data"] = std::move(data);
    say(std::move(message));
}

void ReferenceVmm::flushMonitor() {
    if (output_.empty() || !monitor_.client) return;
    try {
        output_.erase(0, sendSome(monitor_.client.get(), output_.data(), output_.size()));
    } catch (const std::system_error&) {
        closeMonitor();  // The client is gone; the next one may come.
    }
}

json ReferenceVmm::version() const {
    const bool old = options_.standsFor == "10.0";
    return {{"qemu", {{"major", old ? 10 : 11}, {"minor", old ? 0 : 1}, {"micro", old ? 2 : 3}}},
            {"package", "virt-handover reference VMM"}};
}

json ReferenceVmm::machines() const {
    json found = json::array();
    for (const auto& [name, alias] : machinesOf(options_.standsFor)) {
        found.push_back({{"name", name}, {"cpu-max", 288}, {"hotpluggable-cpus", false}, {"deprecated", false}});
        if (!alias.empty()) found.back()["alias"] = alias;
    }
    return found;
}

json ReferenceVmm::queryMigrate() const {
    json found = json::object();
    if (status_ != "none") {
        found["status"] = status_;
        found["ram"] = {{"transferred", transferred_},
                        {"normal-bytes", copied_},
                        {"normal", copied_ / ReferenceGuest::pageSize},
                        {"remaining", 0}};
        if (status_ == "completed" && migrations_ > 0) found["downtime"] = downtime_.count();
    }
    if (!errorText_.empty()) found["error-desc"] = errorText_;
    if (parameters_["mode"] == "cpr-transfer" && !guest_->cprBlockers().empty()) found["blocked-reasons"] = guest_->cprBlockers();
    return found;
}

void ReferenceVmm::addDescriptor(const json& arguments) {
    if (receivedFds_.empty()) throw std::runtime_error("No file descriptor supplied via SCM_RIGHTS");
    UniqueFd fd = std::move(receivedFds_.front());
    receivedFds_.erase(receivedFds_.begin());
    if (arguments.contains("fdset-id")) fdsets_[arguments["fdset-id"].get<std::int64_t>()].push_back(std::move(fd));
}

MigrationChannels ReferenceVmm::channelsOf(const json& arguments) const {
    constexpr std::string_view fdset = "/dev/fdset/";
    MigrationChannels channels;
    for (const json& channel : arguments.value("channels", json::array())) {
        const json& address = channel.at("addr");
        const std::string type = channel.at("channel-type"), transport = address.at("transport");
        if (transport == "file" && type == "main" && address.at("filename").get<std::string>().starts_with(fdset)) {
            const auto found = fdsets_.find(std::stoll(address["filename"].get<std::string>().substr(fdset.size())));
            if (found == fdsets_.end()) throw std::runtime_error("there is no descriptor set of that number");
            channels.mainFile = found->second.back().get();
        } else if (transport == "socket" && address.at("type") == "unix" && (type == "main" || type == "cpr")) {
            (type == "main" ? channels.main : channels.cpr) = address.at("path");
        } else {
            throw std::runtime_error("the reference VMM migrates over unix sockets, and to files of descriptor sets, only");
        }
    }
    if (channels.main.empty() && channels.mainFile < 0) throw std::runtime_error("Channel list has no main entry");
    return channels;
}

// The guest.

void ReferenceVmm::start() {
    runState_ = "running";
    nextTick_ = Clock::now();
    event("RESUME");
}

void ReferenceVmm::stop(const std::string& runState) {
    runState_ = runState;
    event("STOP");
}

int serveReferenceVmm(const std::vector<std::string>& arguments) {
    try {
        ::signal(SIGPIPE, SIG_IGN);
        ReferenceVmm(parseReferenceOptions(arguments)).run();
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "vmm-shim: " << error.what() << std::endl;
        return 1;
    }
}

}  // namespace vh
