// The reference VMM's migrations, from here and to here.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "tests/reference-vmm/reference_process.h"
#include "vmm-shim/bytes.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr std::uint16_t returnPathShut = 1;  // migration/migration.h:MIG_RP_MSG_SHUT (11.1)

}  // namespace

// Both sides of a migration.

void ReferenceVmm::setStatus(const std::string& status) {
    status_ = status;
    if (capability("events")) event("MIGRATION", {{"status", status}});
}

StreamSettings ReferenceVmm::settings(bool cpr) const {
    return {options_.machine, capability("x-ignore-shared"), capability("return-path"), cpr};
}

// From here.

void ReferenceVmm::proceedOutgoing(const Fault& fault, std::function<void()> then) {
    proceed(fault, [this, number = migrations_, then = std::move(then)] {
        if (outgoing_ && number == migrations_) then();
    });
}

void ReferenceVmm::stopForMigration() {
    downtimeBegan_ = Clock::now();
    if (running()) stop("finish-migrate");
}

void ReferenceVmm::migrate(const json& arguments) {
    if (incoming_) throw std::runtime_error("Guest is waiting for an incoming migration");
    if (outgoing_) throw std::runtime_error("There's a migration process in progress");
    const bool cpr = parameters_["mode"] == "cpr-transfer";
    if (const auto blockers = guest_->cprBlockers(); cpr && !blockers.empty()) throw std::runtime_error(blockers.front());
    MigrationChannels channels = channelsOf(arguments);
    if (cpr && channels.cpr.empty()) throw std::runtime_error("missing 'cpr' migration channel");
    ++migrations_;
    errorText_.clear();
    transferred_ = copied_ = 0;
    outgoing_.emplace();
    outgoing_->channels = std::move(channels);
    outgoing_->settings = settings(cpr);
    // A file answers nothing.
    if (outgoing_->channels.mainFile >= 0) outgoing_->settings.returnPath = false;
    setStatus("setup");
    if (!cpr) return proceedOutgoing({.action = Action::Slow}, [this] { connectMain(); });
    try {
        outgoing_->cpr = connectUnix(outgoing_->channels.cpr);
        outgoing_->cprFault = faults_.dueAt(Step::CprSent);
        proceedOutgoing(outgoing_->cprFault, [this] { sendCprState(); });
    } catch (const std::exception& error) {
        const std::string cause = error.what();
        if (outgoing_) endOutgoing("failed", cause);
        throw std::runtime_error(cause);
    }
}

void ReferenceVmm::sendCprState() {
    const Fault& fault = outgoing_->cprFault;
    outgoing_->capture = guest_->cprState();
    CprCapture& capture = *outgoing_->capture;
    std::vector<CprFd>& entries = capture.state.fds;
    if (options_.standsFor == "10.0") {
        // Newest first, and without the vfio devices (migration/cpr.c, 10.0).
        std::reverse(entries.begin(), entries.end());
        std::reverse(capture.descriptors.begin(), capture.descriptors.end());
    } else {
        capture.state.vfioDevices.emplace();
    }
    const auto indexOf = [&entries, &fault](const std::string& name) {
        const auto found = std::find_if(entries.begin(), entries.end(), [&](const CprFd& entry) { return entry.name == name; });
        if (found == entries.end()) throw std::runtime_error("--fault '" + fault.text + "': no '" + name + "' in the CPR state");
        return static_cast<std::size_t>(found - entries.begin());
    };
    // A block's name may have colons itself, so the first name is the one that there is.
    const auto twoNames = [&]() -> std::pair<std::size_t, std::string> {
        for (std::size_t colon = 0; (colon = fault.names.find(':', colon)) != std::string::npos; ++colon)
            for (std::size_t i = 0; i < entries.size(); ++i)
                if (entries[i].name == fault.names.substr(0, colon)) return {i, fault.names.substr(colon + 1)};
        throw std::runtime_error("--fault '" + fault.text + "': the CPR state has not the first name");
    };
    if (fault.action == Action::Lie) return;
    if (fault.action == Action::Garbage || fault.action == Action::Truncate || fault.action == Action::Trailing ||
        fault.action == Action::MissingDescriptor)
        return sendBrokenCprState();
    if (fault.action == Action::BadServiceByte) {
        indexOf(fault.names);
        return sendBrokenCprState();
    }
    if (fault.action == Action::Drop) {
        const auto index = static_cast<std::ptrdiff_t>(indexOf(fault.names));
        entries.erase(entries.begin() + index);
        capture.descriptors.erase(capture.descriptors.begin() + index);
    } else if (fault.action == Action::Rename) {
        const auto [index, other] = twoNames();
        entries[index].name = other;
    } else if (fault.action == Action::Swap) {
        const auto [index, other] = twoNames();
        std::swap(capture.descriptors[index], capture.descriptors[indexOf(other)]);
    } else if (fault.action == Action::Replace) {
        capture.descriptors[indexOf(fault.names)] = makeMemfd(fault.names, guest_->find(fault.names)->max_length);
    }
    outgoing_->sender.emplace(capture);
    sendCprSome();
}

void ReferenceVmm::sendBrokenCprState() {
    const Fault& fault = outgoing_->cprFault;
    const CprCapture& capture = *outgoing_->capture;
    EncodedCprState encoded = encodeCprState(capture.state);
    std::vector<int> descriptors;
    for (std::size_t i = 0; i < encoded.serviceBytes.size(); ++i) {
        descriptors.push_back(capture.descriptors[i].get());
        if (fault.action == Action::BadServiceByte && capture.state.fds[i].name == fault.names)
            encoded.bytes[encoded.serviceBytes[i]] = 'X';
    }
    if (fault.action == Action::Truncate) encoded.bytes.resize(std::min<std::size_t>(fault.number, encoded.bytes.size()));
    if (fault.action == Action::Trailing) encoded.bytes += noise(fault.number);
    std::size_t carried = encoded.serviceBytes.size();
    while (carried > 0 && encoded.serviceBytes[carried - 1] >= encoded.bytes.size()) --carried;
    if (fault.action == Action::MissingDescriptor) --carried;
    if (fault.action == Action::Garbage) {
        encoded.bytes = noise(512);
        carried = 0;
    }
    encoded.serviceBytes.resize(carried);
    descriptors.resize(carried);
    const int socket = outgoing_->cpr.get();
    CarryingSender sender(std::move(encoded.bytes), std::move(encoded.serviceBytes), std::move(descriptors));
    while (!sender.sendSome(socket)) waitFor(socket, POLLOUT);
    ::shutdown(socket, SHUT_WR);
}

void ReferenceVmm::sendCprSome() {
    try {
        if (!outgoing_->sender->sendSome(outgoing_->cpr.get())) return;
    } catch (const std::system_error& error) {
        return endOutgoing("failed", error.what());
    }
    outgoing_->sender.reset();
    actFinally(outgoing_->cprFault);
}

void ReferenceVmm::hungUp() {
    outgoing_->cpr.reset();
    proceedOutgoing(reach(Step::HangUp), [this] { connectMain(); });
}

void ReferenceVmm::connectMain() {
    try {
        if (outgoing_->channels.mainFile >= 0)
            outgoing_->main = UniqueFd(::fcntl(outgoing_->channels.mainFile, F_DUPFD_CLOEXEC, 0));
        else
            outgoing_->main = connectUnix(outgoing_->channels.main);
    } catch (const std::system_error& error) {
        return endOutgoing("failed", std::string("Failed to connect to main: ") + error.what());
    }
    // In a CPR mode the guest is stopped before anything is sent (migration/migration.c:migration_start_outgoing, 11.1).
    if (outgoing_->settings.cpr) stopForMigration();
    setStatus("active");
    const Fault fault = reach(Step::StreamBegin);
    proceedOutgoing(fault, [this, fault] {
        sendMain(fault.action == Action::Garbage ? noise(4096) : streamBegin(*guest_, outgoing_->settings),
                 [this] { sendRam(); });
    });
}

void ReferenceVmm::sendMain(std::string bytes, std::function<void()> sent) {
    outgoing_->bytes = std::move(bytes);
    outgoing_->sent = std::move(sent);
    sendMainSome();
}

void ReferenceVmm::sendMainSome() {
    // A socket or a file, so write().
    while (!outgoing_->bytes.empty()) {
        const ssize_t count = ::write(outgoing_->main.get(), outgoing_->bytes.data(), outgoing_->bytes.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && errno == EAGAIN) return;
        if (count < 0 && outgoing_->settings.returnPath) {
            // Why the peer has gone may be told there.
            outgoing_->bytes.clear();
            outgoing_->awaitsAnswer = true;
            return;
        }
        if (count < 0) return endOutgoing("failed", std::string("Unable to write to socket: ") + std::strerror(errno));
        transferred_ += static_cast<std::uint64_t>(count);
        outgoing_->bytes.erase(0, static_cast<std::size_t>(count));
    }
    const std::function<void()> sent = std::exchange(outgoing_->sent, nullptr);
    if (sent) sent();
}

void ReferenceVmm::receiveAnswer() {
    char data[64];
    const ssize_t count = ::recv(outgoing_->main.get(), data, sizeof(data), 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) return endOutgoing("failed", "Channel error");
    outgoing_->answer.append(data, static_cast<std::size_t>(count));
    ByteReader reader(outgoing_->answer);
    try {
        const std::uint16_t type = reader.be16("type"), length = reader.be16("length");
        if (type != returnPathShut || length != 4) return endOutgoing("failed", "Received invalid message on the return path");
        const std::uint32_t value = reader.be32("value");
        if (value == 0) return completeOutgoing();
        endOutgoing("failed", "Sibling indicated error " + std::to_string(value));
    } catch (const DecodeError&) {
        // Its rest will come.
    }
}

void ReferenceVmm::sendRam() {
    stopForMigration();
    sendMain(streamRam(*guest_, outgoing_->settings, copied_), [this] {
        const Fault fault = reach(Step::StreamMiddle);
        proceedOutgoing(fault, [this, fault] {
            if (fault.action == Action::Garbage) return sendMain(noise(4096), [this] { sendDevice(); });
            sendDevice();
        });
    });
}

void ReferenceVmm::sendDevice() {
    setStatus("device");
    sendMain(streamEnd(*guest_), [this] { allSent(); });
}

void ReferenceVmm::allSent() {
    const Fault fault = reach(Step::StreamEnd);
    proceedOutgoing(fault, [this, fault] {
        if (fault.action == Action::Garbage) return sendMain(noise(4096), [this] { completeOutgoing(); });
        if (!outgoing_->settings.returnPath || fault.action == Action::Lie) return completeOutgoing();
        outgoing_->awaitsAnswer = true;
    });
}

void ReferenceVmm::completeOutgoing() {
    outgoing_.reset();
    downtime_ = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - downtimeBegan_);
    runState_ = "postmigrate";
    setStatus("completed");
    flushMonitor();
    reach(Step::Completed);
}

void ReferenceVmm::endOutgoing(const std::string& status, const std::string& description) {
    const bool resumes = runState_ == "finish-migrate";
    errorText_ = description;
    outgoing_.reset();
    // 11.1 tells first that it is about to fail (migration/migration.c:migration_connect_error_propagate and its like).
    if (status == "failed" && options_.standsFor == "11.1") setStatus("failing");
    setStatus(status);
    if (resumes) start();
}

// To here.

CprCapture ReferenceVmm::receiveCprState() {
    const PathListener listener(options_.cprPath);
    waitFor(listener.fd(), POLLIN);
    incoming_->cpr = listener.accept();
    if (!incoming_->cpr) throwErrno("accept on '" + options_.cprPath + "'");
    CprReceiver receiver;
    while (!receiver.receiveSome(incoming_->cpr.get())) waitFor(incoming_->cpr.get(), POLLIN);
    CprCapture received = receiver.take();
    // 10.0 knows no subsection, and ends on any (migration/vmstate.c:vmstate_subsection_load).
    if (options_.standsFor == "10.0" && received.state.vfioDevices) throw std::runtime_error("vmstate_load_state error -2");
    const Fault fault = reach(Step::CprReceived);
    if (fault.action == Action::Slow) std::this_thread::sleep_for(std::chrono::milliseconds(fault.number));
    return fault.action == Action::Lie ? CprCapture{} : std::move(received);
}

void ReferenceVmm::migrateIncoming(const json& arguments) {
    if (!incoming_) throw std::runtime_error("'-incoming' was not specified on the command line");
    if (incoming_->announced) throw std::runtime_error("The incoming migration has already been started");
    const MigrationChannels channels = channelsOf(arguments);
    Fault fault;
    if (incoming_->cpr) fault = reach(Step::HangUp);
    if (channels.mainFile >= 0)
        incoming_->main = UniqueFd(::fcntl(channels.mainFile, F_DUPFD_CLOEXEC, 0));
    else if (fault.action != Action::Lie)
        incoming_->listener.emplace(channels.main);
    incoming_->announced = true;
    setStatus("setup");
    // The main channel is there, so the old VMM may go ahead (migration/migration.c:qemu_setup_incoming_migration, 11.1).
    proceed(fault, [this] { incoming_->cpr.reset(); });
    if (incoming_->main) beginIncoming();
}

void ReferenceVmm::acceptMain() {
    incoming_->main = incoming_->listener->accept();
    if (!incoming_->main) return;
    incoming_->listener.reset();
    beginIncoming();
}

void ReferenceVmm::beginIncoming() {
    setStatus("active");
    const Fault fault = reach(Step::StreamBegin);
    proceed(fault, [this, fault] {
        incoming_->stream.emplace(*guest_, settings(!options_.cprPath.empty()));
        if (fault.action == Action::Garbage) ::send(incoming_->main.get(), noise(64).data(), 64, MSG_DONTWAIT | MSG_NOSIGNAL);
    });
}

void ReferenceVmm::readIncoming() {
    char data[65536];
    const ssize_t count = ::read(incoming_->main.get(), data, sizeof(data));
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) failIncoming(std::string("load of migration failed: ") + std::strerror(count < 0 ? errno : EIO));
    incoming_->stream->append(data, static_cast<std::size_t>(count));
    load();
}

void ReferenceVmm::load() {
    incoming_->busy = false;
    try {
        const IncomingStream::Progress progress = incoming_->stream->advance();
        if (progress == IncomingStream::Progress::Waiting) return;
        incoming_->busy = true;
        if (progress == IncomingStream::Progress::Complete) {
            const Fault fault = reach(Step::StreamEnd);
            return proceed(fault, [this, fault] { completeIncoming(fault); });
        }
        const Fault fault = reach(Step::StreamMiddle);
        proceed(fault, [this, fault] {
            if (fault.action == Action::Garbage) ::send(incoming_->main.get(), noise(64).data(), 64, MSG_DONTWAIT | MSG_NOSIGNAL);
            load();
        });
    } catch (const std::runtime_error& error) {
        failIncoming(std::string(error.what()) + "\nload of migration failed: Invalid argument");
    }
}

void ReferenceVmm::completeIncoming(const Fault& fault) {
    if (fault.action != Action::Lie) guest_->load(incoming_->stream->counter());
    runState_ = "paused";
    setStatus("completed");
    if (fault.action == Action::Garbage)
        ::send(incoming_->main.get(), noise(64).data(), 64, MSG_DONTWAIT | MSG_NOSIGNAL);
    else
        answerOnReturnPath(0);
    incoming_.reset();
    if (startWhenLoaded_ || !options_.startPaused) start();
}

void ReferenceVmm::answerOnReturnPath(std::uint32_t value) {
    if (!incoming_->stream->returnPath()) return;
    ByteWriter writer;
    writer.be16(returnPathShut);
    writer.be16(4);
    writer.be32(value);
    // The peer may be gone, which is its business alone.
    [[maybe_unused]] const ssize_t ignored =
        ::send(incoming_->main.get(), writer.bytes().data(), writer.bytes().size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void ReferenceVmm::failIncoming(const std::string& why) {
    answerOnReturnPath(1);
    std::cerr << "vmm-shim: " << why << std::endl;
    ::_exit(1);
}

}  // namespace vh
