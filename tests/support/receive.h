// The far end of a unix socket, as a test looks at it.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"

namespace vh {

struct Received {
    std::string bytes;
    std::vector<UniqueFd> descriptors;
};

/// One read: bytes, and the descriptors that came with them; no bytes when there are none, or when the peer has hung up.
inline Received receive(int socket) {
    char bytes[4096];
    iovec data{bytes, sizeof(bytes)};
    alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    Received received;
    if (count <= 0) return received;
    received.bytes.assign(bytes, static_cast<std::size_t>(count));
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        for (std::size_t at = 0; CMSG_LEN(at + sizeof(int)) <= header->cmsg_len; at += sizeof(int)) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + at, sizeof(fd));
            received.descriptors.emplace_back(fd);
        }
    }
    return received;
}

}  // namespace vh
