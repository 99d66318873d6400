#include "vmm-shim/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

UniqueFd streamSocket(int flags) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
    if (!fd) throwErrno("create a unix socket");
    return fd;
}

const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

sockaddr_un unixAddress(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) throwErrno("socket '" + path + "'", ENAMETOOLONG);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

UniqueFd listenUnix(const std::string& path) {
    UniqueFd fd = streamSocket(0);
    const sockaddr_un address = unixAddress(path);
    // Before it has a name, and whatever the umask: nobody else may connect.
    if (::fchmod(fd.get(), 0600) != 0) throwErrno("set the mode of socket '" + path + "'");
    if (::bind(fd.get(), generic(address), sizeof(address)) != 0) throwErrno("bind socket '" + path + "'");
    if (::listen(fd.get(), 8) != 0) throwErrno("listen on '" + path + "'");
    return fd;
}

UniqueFd acceptUnix(int listener) {
    return UniqueFd(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

PathListener::~PathListener() {
    if (socket_) ::unlink(path_.c_str());
}

UniqueFd connectUnix(const std::string& path) {
    // A process that has no processor just now takes a moment to accept the connections before this one.
    constexpr timeval timeout{0, 100'000};
    UniqueFd fd = streamSocket(0);
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0) throwErrno("set a socket's timeout");
    const sockaddr_un address = unixAddress(path);
    if (::connect(fd.get(), generic(address), sizeof(address)) != 0) {
        if (errno == EAGAIN)
            throwErrno("connect to '" + path + "': its process takes no connection (it hangs, is stopped, or has no processor)");
        throwErrno("connect to '" + path + "'");
    }
    if (::fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0) throwErrno("make a socket non-blocking");
    return fd;
}

std::pair<UniqueFd, UniqueFd> unixPair() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) throwErrno("create a socket pair");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::set<std::uint64_t> inodesOf(const std::vector<UnixSocket>& sockets, const std::string& path, SocketKind kind) {
    std::set<std::uint64_t> inodes;
    for (const UnixSocket& socket : sockets)
        if (socket.kind == kind && socket.path == path) inodes.insert(socket.inode);
    return inodes;
}

std::set<std::uint64_t> socketsAt(const std::string& path, SocketKind kind) {
    // The table of all sockets is long on a host with many VMs: first whether there is one at all.
    return ::access(path.c_str(), F_OK) == 0 ? inodesOf(unixSockets(), path, kind) : std::set<std::uint64_t>();
}

bool holdsSocket(pid_t pid, const std::set<std::uint64_t>& inodes) {
    if (inodes.empty()) return false;
    const std::set<std::uint64_t> held = Process(pid).sockets();
    return std::ranges::any_of(inodes, [&](std::uint64_t inode) { return inode != 0 && held.contains(inode); });
}

ssize_t sendWith(int socket, std::string_view bytes, std::span<const int> descriptors, sockaddr_un* address) {
    iovec data{const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * mostDescriptorsAtOnce)] = {};
    msghdr message{};
    message.msg_name = address;
    message.msg_namelen = address ? sizeof(*address) : 0;
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
        std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    }
    ssize_t sent;
    do {
        sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent;
}

std::size_t sendSome(int socket, const char* bytes, std::size_t length, int fd) {
    const ssize_t sent = sendWith(socket, {bytes, length}, {&fd, fd >= 0 ? std::size_t{1} : 0});
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (errno == EAGAIN) return 0;
    throwErrno("send on a unix socket");
}

CarryingSender::CarryingSender(std::string bytes, std::vector<std::size_t> carriers, std::vector<int> descriptors)
    : bytes_(std::move(bytes)), carriers_(std::move(carriers)), descriptors_(std::move(descriptors)) {}

bool CarryingSender::sendSome(int socket) {
    while (sent_ < bytes_.size()) {
        const std::size_t carrier = next_ < carriers_.size() ? carriers_[next_] : bytes_.size();
        const bool carries = sent_ == carrier;
        const std::size_t gone =
            vh::sendSome(socket, bytes_.data() + sent_, carries ? 1 : carrier - sent_, carries ? descriptors_[next_] : -1);
        if (gone == 0) return false;
        sent_ += gone;
        if (carries) ++next_;
    }
    return true;
}

std::optional<std::size_t> receiveSome(int socket, std::string& bytes, std::vector<UniqueFd>& descriptors) {
    char data[65536];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * mostDescriptorsAtOnce)];
    iovec vector{data, sizeof(data)};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t count;
    do {
        count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (count < 0 && errno == EINTR);
    if (count < 0 && errno == EAGAIN) return std::nullopt;
    if (count < 0) throwErrno("receive on a unix socket");
    // Owned before anything else is looked at.
    for (const cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(header))) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < received; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            descriptors.emplace_back(fd);
        }
    }
    if (message.msg_flags & MSG_CTRUNC) throwErrno("receive descriptors on a unix socket", EMFILE);
    bytes.append(data, static_cast<std::size_t>(count));
    return static_cast<std::size_t>(count);
}

}  // namespace vh
