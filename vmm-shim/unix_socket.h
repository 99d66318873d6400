// Unix stream sockets as descriptors: listening ones that a VMM inherits, and connections that carry bytes and descriptors.
//
// Every function throws std::system_error that names the path; every descriptor is close-on-exec.
#pragma once

#include <sys/types.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm-shim/proc.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// The address of a path. Throws ENAMETOOLONG for a path longer than it holds (107 bytes).
sockaddr_un unixAddress(const std::string& path);

/// A socket bound to `path` and listening.
UniqueFd listenUnix(const std::string& path);

/// A non-blocking connection that somebody has made to a listening socket, if there is one.
UniqueFd acceptUnix(int listener);

/// A path that is listened on, and is gone with this.
class PathListener {
 public:
    explicit PathListener(std::string path) : path_(std::move(path)), socket_(listenUnix(path_)) {}
    PathListener(PathListener&&) = default;
    PathListener& operator=(PathListener&&) = delete;
    ~PathListener();

    const std::string& path() const { return path_; }
    int fd() const { return socket_.get(); }
    UniqueFd accept() const { return acceptUnix(fd()); }

 private:
    std::string path_;
    UniqueFd socket_;
};

/// A non-blocking connection to the socket at `path`. A listener that has not yet called accept() is good enough: the kernel
/// completes the connection from its backlog, and resets it if the listener dies first. One whose backlog is full (QEMU's has
/// room for one) is waited for, for 100 ms.
UniqueFd connectUnix(const std::string& path);

/// Two connected, non-blocking ends.
std::pair<UniqueFd, UniqueFd> unixPair();

/// The inodes of the sockets of this path; 0 is the end of a connection that nobody has accepted yet.
std::set<std::uint64_t> inodesOf(const std::vector<UnixSocket>& sockets, const std::string& path, SocketKind kind);
std::set<std::uint64_t> socketsAt(const std::string& path, SocketKind kind);

/// True when the process has one of these sockets open. Whoever holds an accepted socket answers on it: credentials (SO_PEERCRED)
/// are those of whoever called listen(), and a listening socket may be inherited by many. False for a process that we may not
/// look at.
bool holdsSocket(pid_t pid, const std::set<std::uint64_t>& inodes);

/// True while some process listens on `path`. Reads /proc/net/unix instead of connecting: a VMM's CPR channel takes one client
/// only, and a probe would be it.
inline bool isListening(const std::string& path) {
    return !socketsAt(path, SocketKind::Listening).empty();
}

/// The most descriptors that go at once: SCM_MAX_FD of the kernel (include/net/scm.h, Linux 6.1).
constexpr std::size_t mostDescriptorsAtOnce = 253;

/// sendmsg() of bytes with borrowed descriptors, never raising SIGPIPE; to `address` where the socket is not connected. What it
/// returns, or -1 and errno.
ssize_t sendWith(int socket, std::string_view bytes, std::span<const int> descriptors, sockaddr_un* address = nullptr);

/// sendmsg() of some bytes with at most one descriptor (-1 for none), never raising SIGPIPE. Returns the bytes that went out; 0
/// when the socket is full. The descriptor goes with the first byte.
std::size_t sendSome(int socket, const char* bytes, std::size_t length, int fd = -1);

/// Bytes of which some carry a descriptor each, sent as QEMU does (migration/qemu-file.c:qemu_file_put_fd): what lies before such
/// a byte, then that byte alone with its descriptor.
class CarryingSender {
 public:
    /// `carriers` are the offsets of those bytes, in order, one for each of the borrowed descriptors.
    CarryingSender(std::string bytes, std::vector<std::size_t> carriers, std::vector<int> descriptors);

    /// Sends on; true once all has gone, false when the socket is full.
    bool sendSome(int socket);

 private:
    std::string bytes_;
    std::vector<std::size_t> carriers_;
    std::vector<int> descriptors_;
    std::size_t sent_ = 0;
    std::size_t next_ = 0;  ///< Index of the next carrier, and descriptor.
};

/// recvmsg() of what has come, appended: bytes, and descriptors in the order of their coming. Returns how many bytes; 0 when the
/// peer has ended its sending; none when there is nothing yet. EMFILE when this process cannot hold all descriptors that came.
std::optional<std::size_t> receiveSome(int socket, std::string& bytes, std::vector<UniqueFd>& descriptors);

}  // namespace vh
