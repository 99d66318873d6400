#include "vmm-shim/exec_inbox.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

UniqueFd datagramSocket() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) throwErrno("create a unix socket");
    return fd;
}

}  // namespace

UniqueFd makeInbox(const std::string& path) {
    UniqueFd fd = datagramSocket();
    const sockaddr_un address = unixAddress(path);
    // Whoever may write to it may post.
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 || ::chmod(path.c_str(), 0600) != 0)
        throwErrno("bind socket '" + path + "'");
    return fd;
}

bool isInbox(int fd, const std::string& path) {
    sockaddr_un address{};
    socklen_t length = sizeof(address);
    int type = 0;
    socklen_t typeLength = sizeof(type);
    return ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 && address.sun_family == AF_UNIX &&
           ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &typeLength) == 0 && type == SOCK_DGRAM &&
           std::string(address.sun_path, ::strnlen(address.sun_path, sizeof(address.sun_path))) == path;
}

void postParcel(const std::string& path, const std::string& label, const std::vector<int>& descriptors) {
    if (descriptors.size() > mostInParcel) throwErrno("post descriptors to '" + path + "'", EMSGSIZE);
    const UniqueFd socket = datagramSocket();
    sockaddr_un address = unixAddress(path);
    iovec data{const_cast<char*>(label.data()), label.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * mostInParcel)] = {};
    msghdr message{};
    message.msg_name = &address;
    message.msg_namelen = sizeof(address);
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
        std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
    }
    ssize_t sent;
    do {
        sent = ::sendmsg(socket.get(), &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) throwErrno("post descriptors to '" + path + "'");
}

std::vector<Parcel> takeParcels(int inbox) {
    std::vector<Parcel> parcels;
    for (;;) {
        Parcel parcel;
        if (!receiveSome(inbox, parcel.label, parcel.descriptors)) return parcels;  // Datagrams: one at a time.
        parcels.push_back(std::move(parcel));
    }
}

}  // namespace vh
