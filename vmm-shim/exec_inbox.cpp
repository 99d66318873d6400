#include "vmm-shim/exec_inbox.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "vmm-shim/throw_errno.h"

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
    if (sendWith(socket.get(), label, descriptors, &address) < 0) throwErrno("post descriptors to '" + path + "'");
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
