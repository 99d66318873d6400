#include "plugin/machine/process_descriptors.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

namespace vh {
namespace {

namespace fs = std::filesystem;

/// The value of a line `key:\tvalue` in a descriptor's fdinfo.
std::optional<std::string> infoOf(const fs::path& process, const std::string& number, const std::string& key) {
    std::ifstream input(process / "fdinfo" / number);
    std::string line;
    while (std::getline(input, line))
        if (line.starts_with(key + ":")) return line.substr(line.find_first_not_of(" \t", key.size() + 1));
    return std::nullopt;
}

/// `socket:[INODE]` -> path, of the unix sockets that somebody listens on.
std::map<std::string, std::string> listeningSockets(const fs::path& process) {
    // Num RefCount Protocol Flags Type St Inode Path; a listener has __SO_ACCEPTCON, 0x10000 (net/unix/af_unix.c:unix_seq_show,
    // Linux 6.1).
    std::ifstream table(process / "net" / "unix");
    std::map<std::string, std::string> sockets;
    std::string line;
    while (std::getline(table, line)) {
        std::istringstream columns(line);
        std::string number, references, protocol, type, state, inode, path;
        unsigned long flags = 0;
        columns >> number >> references >> protocol >> std::hex >> flags >> type >> state >> inode;
        std::getline(columns >> std::ws, path);
        if (!path.empty() && (flags & 0x10000)) sockets["socket:[" + inode + "]"] = path;
    }
    return sockets;
}

}  // namespace

ProcessDescriptors descriptorsOf(pid_t pid) {
    const fs::path process = "/proc/" + std::to_string(pid);
    const std::map<std::string, std::string> listening = listeningSockets(process);
    ProcessDescriptors found;
    for (const fs::directory_entry& entry : fs::directory_iterator(process / "fd")) {
        std::error_code closed;
        const std::string target = fs::read_symlink(entry.path(), closed).string(), number = entry.path().filename();
        if (const auto socket = listening.find(target); socket != listening.end())
            found.listeners[socket->second] = std::stoi(number);
        else if (target == "/dev/net/tun") {
            if (const auto interface = infoOf(process, number, "iff")) found.tapFds[*interface] = std::stoi(number);
        } else if (target == "/dev/vhost-net") {
            found.vhost = true;
        }
    }
    return found;
}

}  // namespace vh
