#include "manager/handover/relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

namespace {

/// A socket that the VMM's user himself has bound or connected: the directory is his, and what has a name there may be anything
/// by the time that we use the name again; what he may not connect to, he does not get at through us either. It has its rights
/// before it has a name.
UniqueFd socketOf(const Identity& user, const std::string& what, const std::string& path,
                  int (*call)(int, const sockaddr*, socklen_t)) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const sockaddr_un address = unixAddress(path);
    const auto named = [&] {
        return call(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
    };
    const int error = fd && ::fchmod(fd.get(), 0600) == 0 ? doAs(user, what, named, fd.get()) : errno;
    if (error != 0) throwErrno(what, error);
    return fd;
}

UniqueFd listenAs(const Identity& user, const std::string& path) {
    const std::string what = "listen on '" + path + "'";
    UniqueFd fd = socketOf(user, what, path, ::bind);
    if (::listen(fd.get(), 8) != 0) throwErrno(what);
    return fd;
}

/// Whether the process at the other end (the one that connected, or that called listen()) is a VMM or in its session, which
/// nobody can enter. A binary may be a script that starts the VMM.
bool isProcess(int socket, pid_t vmm) {
    ucred peer{};
    socklen_t length = sizeof(peer);
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
    return peer.pid == ::getpid() || peer.pid == vmm || (peer.pid > 0 && ::getsid(peer.pid) == vmm);
}

}  // namespace

Relay::Relay(std::string path, const Peer& old, Received received, Failed failed)
    : path_(std::move(path)),
      peer_(old),
      received_(std::move(received)),
      failed_(std::move(failed)),
      listener_(listenAs(peer_.user, path_)) {
    oldWatch_ = EventSource::readable(listener_.get(), [this] { accept(); });
}

Relay::~Relay() {
    try {
        doAs(peer_.user, "remove '" + path_ + "'", [this] { return ::unlink(path_.c_str()); });
    } catch (const std::exception&) {
        // Whoever wants that name next says so.
    }
}

void Relay::accept() {
    old_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!old_) {
        if (errno != EAGAIN && errno != EINTR) fail(std::string("accept the old VMM's connection: ") + std::strerror(errno));
        return;
    }
    if (!isProcess(old_.get(), peer_.pid)) {
        old_.reset();  // Somebody else's; the old VMM is still to come.
        return;
    }
    listener_.reset();
    oldWatch_ = EventSource::readable(old_.get(), [this] { receive(); });
}

void Relay::receive() {
    try {
        if (!receiver_.receiveSome(old_.get())) return;
        oldWatch_.reset();
        const Received received = std::exchange(received_, nullptr);
        received(receiver_.take());
    } catch (const std::exception& error) {
        fail(std::string("the CPR state of the old VMM: ") + error.what());
    }
}

void Relay::feed(const CprCapture& capture, const std::string& newVmmPath, pid_t newVmm, std::function<void()> fed) {
    sender_ = std::make_unique<CprSender>(capture);
    fed_ = std::move(fed);
    new_ = socketOf(peer_.user, "connect to '" + newVmmPath + "'", newVmmPath, ::connect);
    if (!isProcess(new_.get(), newVmm))
        throw std::runtime_error("another process than the new VMM listens on '" + newVmmPath + "'");
    newWatch_ = EventSource::writable(new_.get(), [this] { send(); });
}

void Relay::send() {
    try {
        if (!sender_->sendSome(new_.get())) return;
        newWatch_.reset();
        sender_.reset();
        std::exchange(fed_, nullptr)();
    } catch (const std::exception& error) {
        fail(std::string("give the CPR state to the new VMM: ") + error.what());
    }
}

void Relay::hangUp() {
    oldWatch_.reset();
    old_.reset();
}

void Relay::fail(const std::string& cause) {
    oldWatch_.reset();
    newWatch_.reset();
    const Failed failed = failed_;  // What it does may be the end of this relay.
    failed(cause);
}

}  // namespace vh
