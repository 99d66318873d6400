#include "plugin/machine/process_descriptors.h"

#include "vmm-shim/proc.h"

namespace vh {

ProcessDescriptors descriptorsOf(pid_t pid) {
    const Process process(pid);
    std::map<std::string, std::string> listening;
    for (const UnixSocket& socket : unixSockets(process.path("net/unix")))
        if (socket.kind == SocketKind::Listening) listening["socket:[" + std::to_string(socket.inode) + "]"] = socket.path;
    ProcessDescriptors found;
    for (const OpenFile& file : process.files()) {
        if (const auto socket = listening.find(file.target); socket != listening.end())
            found.listeners[socket->second] = file.number;
        else if (file.target == "/dev/net/tun") {
            const std::string interface = process.field("fdinfo/" + std::to_string(file.number), "iff:");
            if (!interface.empty()) found.tapFds[interface] = file.number;
        } else if (file.target == "/dev/vhost-net") {
            found.vhost = true;
        }
    }
    return found;
}

}  // namespace vh
