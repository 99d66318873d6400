#include "manager/relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <system_error>
#include <utility>

#include "vmm-shim/unix_socket.h"

namespace vh {

Relay::Relay(std::string path, const Identity& user, Received received, Failed failed)
    : path_(std::move(path)),
      user_(user),
      received_(std::move(received)),
      failed_(std::move(failed)),
      listener_(listenUnix(path_)) {
    if (::fcntl(listener_.get(), F_SETFL, O_NONBLOCK) != 0 || ::chmod(path_.c_str(), 0600) != 0 ||
        (user_.change && ::chown(path_.c_str(), user_.uid, user_.gid) != 0))
        throw std::system_error(errno, std::generic_category(), "prepare socket '" + path_ + "'");
    oldWatch_ = EventSource::readable(listener_.get(), [this] { accept(); });
}

Relay::~Relay() {
    ::unlink(path_.c_str());
}

void Relay::accept() {
    old_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!old_) {
        if (errno != EAGAIN && errno != EINTR) fail(std::string("accept the old VMM's connection: ") + std::strerror(errno));
        return;
    }
    ucred peer{};
    socklen_t length = sizeof(peer);
    if (::getsockopt(old_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
        (peer.uid != ::geteuid() && peer.uid != user_.uid)) {
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

void Relay::feed(const CprCapture& capture, const std::string& newVmmPath, std::function<void()> fed) {
    sender_ = std::make_unique<CprSender>(capture);
    fed_ = std::move(fed);
    new_ = connectUnix(newVmmPath);
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
