#include "manager/process/held_by_process.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

#include "vmm-shim/proc.h"

namespace vh {
std::set<std::string> listenersOf(pid_t pid) {
    const Process process(pid);
    const std::set<std::uint64_t> sockets = process.sockets();
    std::set<std::string> found;
    for (const UnixSocket& local : unixSockets(process.path("net/unix")))
        if (local.kind == SocketKind::Listening && sockets.contains(local.inode)) found.insert(local.path);
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode; 0A is TCP_LISTEN
    // (net/ipv4/tcp_ipv4.c, get_tcp4_sock).
    for (const char* table : {"net/tcp", "net/tcp6"}) {
        std::ifstream internet(process.path(table));
        for (std::string line; std::getline(internet, line);) {
            std::istringstream columns(line);
            std::string slot, address, peer, state, queues, timer, retransmits, user, timeout;
            std::uint64_t inode = 0;
            columns >> slot >> address >> peer >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
            if (state != "0A" || !sockets.contains(inode)) continue;
            found.insert("TCP port " + std::to_string(std::stoul(address.substr(address.find(':') + 1), nullptr, 16)));
        }
    }
    return found;
}

std::set<std::string> deletedFilesOf(pid_t pid) {
    const Process process(pid);
    std::set<std::string> found;
    for (const OpenFile& file : process.visibleFiles()) {
        if (!hasDeletedMark(file.target) || file.isMemfd()) continue;
        const std::string flags = process.field("fdinfo/" + std::to_string(file.number), "flags:");
        const bool isForWriting = !flags.empty() && (std::strtol(flags.c_str(), nullptr, 8) & O_ACCMODE) != O_RDONLY;
        const auto status = isForWriting ? file.status() : std::nullopt;
        if (status && S_ISREG(status->st_mode)) found.insert(withoutDeletedMark(file.target));
    }
    return found;
}

std::set<std::string> tapsHeldBy(pid_t pid) {
    const Process process(pid);
    std::set<std::string> found;
    for (const OpenFile& file : process.visibleFiles())  // drivers/net/tun.c:tun_chr_show_fdinfo, Linux 6.1
        if (std::string tap = process.field("fdinfo/" + std::to_string(file.number), "iff:"); !tap.empty()) found.insert(tap);
    return found;
}

std::string replacedCodeOf(pid_t pid) {
    // Code that a VMM makes itself is in a memfd or has no file.
    for (const MemoryMapping& mapping : Process(pid).mappings())
        if (mapping.executable && hasDeletedMark(mapping.path) && !mapping.path.starts_with("/memfd:"))
            return withoutDeletedMark(mapping.path);
    return {};
}

}  // namespace vh
