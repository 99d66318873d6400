#include "manager/process/held_by_process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "vmm-shim/unique_fd.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view deleted = " (deleted)";

std::string procDirectory(pid_t pid) {
    return "/proc/" + std::to_string(pid);
}

bool isOpenForWriting(pid_t pid, const std::string& descriptor) {
    std::ifstream info(procDirectory(pid) + "/fdinfo/" + descriptor);
    std::string word;
    int flags = 0;
    while (info >> word)
        if (word == "flags:" && info >> std::oct >> flags) return (flags & O_ACCMODE) != O_RDONLY;
    return false;
}

}  // namespace

std::set<std::string> listenersOf(pid_t pid) {
    const std::set<std::uint64_t> sockets = socketsOf(pid);
    std::set<std::string> found;
    for (const NamedSocket& local : namedSockets(procDirectory(pid) + "/net/unix"))
        if (local.kind == SocketKind::Listening && sockets.contains(local.inode)) found.insert(local.path);
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode; 0A is TCP_LISTEN
    // (net/ipv4/tcp_ipv4.c, get_tcp4_sock).
    for (const char* table : {"/net/tcp", "/net/tcp6"}) {
        std::ifstream internet(procDirectory(pid) + table);
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
    std::set<std::string> found;
    std::error_code gone;
    for (const fs::directory_entry& entry : fs::directory_iterator(procDirectory(pid) + "/fd", gone)) {
        const std::string target = fs::read_symlink(entry.path(), gone).string();
        struct stat status {};
        if (!target.ends_with(deleted) || target.starts_with("/memfd:") || ::stat(entry.path().c_str(), &status) != 0) continue;
        if (S_ISREG(status.st_mode) && isOpenForWriting(pid, entry.path().filename()))
            found.insert(target.substr(0, target.size() - deleted.size()));
    }
    return found;
}

std::set<std::string> tapsHeldBy(pid_t pid) {
    std::set<std::string> found;
    std::error_code gone;
    for (const fs::directory_entry& entry : fs::directory_iterator(procDirectory(pid) + "/fdinfo", gone)) {
        std::ifstream info(entry.path());
        for (std::string key, value; info >> key && std::getline(info >> std::ws, value);)
            if (key == "iff:" && !value.empty()) found.insert(value);  // drivers/net/tun.c:tun_chr_show_fdinfo, Linux 6.1
    }
    return found;
}

std::string replacedCodeOf(pid_t pid) {
    // address perms offset dev inode pathname (proc_pid_maps(5)). Code that a VMM makes itself is in a memfd or has no file.
    std::ifstream maps(procDirectory(pid) + "/maps");
    for (std::string line; std::getline(maps, line);) {
        std::istringstream columns(line);
        std::string range, permissions, offset, device, inode, path;
        columns >> range >> permissions >> offset >> device >> inode >> std::ws;
        std::getline(columns, path);
        if (permissions.find('x') != std::string::npos && path.ends_with(deleted) && !path.starts_with("/memfd:"))
            return path.substr(0, path.size() - deleted.size());
    }
    return {};
}

pid_t holderOf(const std::string& pidFile) {
    const UniqueFd fd(::open(pidFile.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    struct flock whole {};
    whole.l_type = F_WRLCK;
    return fd && ::fcntl(fd.get(), F_GETLK, &whole) == 0 && whole.l_type != F_UNLCK ? whole.l_pid : 0;
}

}  // namespace vh
