#include "tests/support/cpr_tamperer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <initializer_list>
#include <system_error>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Waits until one of the descriptors is ready for its events or has hung up.
template <std::size_t count>
void wait(std::array<pollfd, count>& watched) {
    while (::poll(watched.data(), watched.size(), -1) < 0)
        if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "poll");
}

/// False when told to stop.
bool readable(int fd, int stop) {
    std::array<pollfd, 2> watched{pollfd{fd, POLLIN, 0}, pollfd{stop, POLLIN, 0}};
    wait(watched);
    return watched[1].revents == 0;
}

/// For everybody: a VMM runs as another user than the tests.
UniqueFd listenForAll(const std::string& path) {
    UniqueFd listener = listenUnix(path);
    if (::chmod(path.c_str(), 0666) != 0) throw std::system_error(errno, std::generic_category(), "open '" + path + "' to all");
    return listener;
}

UniqueFd acceptOne(int listener, int stop) {
    if (!readable(listener, stop)) return {};
    UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) throw std::system_error(errno, std::generic_category(), "accept");
    return connection;
}

void sendAll(int socket, const std::string& bytes, const std::vector<UniqueFd>& descriptors) {
    for (std::size_t sent = 0; sent < bytes.size();) {
        // One descriptor a byte: QEMU puts what comes into a queue and takes from it at each service byte
        // (migration/qemu-file.c:qemu_fill_buffer, qemu_file_get_fd; 10.0 and 11.1), so it matters only that none is late.
        const bool carries = sent < descriptors.size();
        const std::size_t length = carries ? 1 : bytes.size() - sent;
        const std::size_t gone = sendSome(socket, bytes.data() + sent, length, carries ? descriptors[sent].get() : -1);
        sent += gone;
        if (gone > 0) continue;
        std::array<pollfd, 1> watched{pollfd{socket, POLLOUT, 0}};
        wait(watched);
    }
}

}  // namespace

Background::Background(std::function<void(int)> work) {
    std::tie(ours_, theirs_) = unixPair();
    thread_ = std::thread([work = std::move(work), stop = theirs_.get()] {
        try {
            work(stop);
        } catch (const std::exception& error) {
            ADD_FAILURE() << "the tamperer: " << error.what();
        }
    });
}

Background::~Background() {
    ours_.reset();
    thread_.join();
}

CprTamperer::CprTamperer(std::string path, std::string receiverPath, Change change, HangUp hangUp)
    : path_(std::move(path)),
      receiverPath_(std::move(receiverPath)),
      change_(std::move(change)),
      hangUp_(hangUp),
      listener_(listenForAll(path_)) {
    thread_ = std::make_unique<Background>([this](int stop) { run(stop); });
}

CprTamperer::~CprTamperer() {
    thread_.reset();
    ::unlink(path_.c_str());
}

void CprTamperer::run(int stop) {
    const UniqueFd sender = acceptOne(listener_.get(), stop);
    if (!sender) return;
    CprTraffic traffic;
    for (;;) {
        if (!readable(sender.get(), stop)) return;
        const auto count = receiveSome(sender.get(), traffic.bytes, traffic.descriptors);
        if (count && *count == 0) break;
    }
    change_(traffic);
    const UniqueFd receiver = connectUnix(receiverPath_);
    try {
        sendAll(receiver.get(), traffic.bytes, traffic.descriptors);
        ::shutdown(receiver.get(), SHUT_WR);
    } catch (const std::system_error&) {
        // It has hung up on what it was told, which shows below.
    }
    // Ours must not keep alive what only the VMMs should.
    traffic.descriptors.clear();
    const bool held = hangUp_ == HangUp::Held;  // poll() passes over negative descriptors.
    std::array<pollfd, 3> watched{pollfd{held ? -1 : sender.get(), 0, 0}, pollfd{held ? -1 : receiver.get(), 0, 0},
                                  pollfd{stop, POLLIN, 0}};
    wait(watched);
}

HandoverTamperer::HandoverTamperer(std::string generation, CprTamperer::Change change)
    : generation_(std::move(generation)), change_(std::move(change)) {
    fs::rename(generation_ + "/qmp.sock", generation_ + "/qmp.real");
    listener_ = listenForAll(generation_ + "/qmp.sock");
    thread_ = std::make_unique<Background>([this](int stop) { run(stop); });
}

HandoverTamperer::~HandoverTamperer() {
    thread_.reset();
    tamperer_.reset();
    std::error_code gone;  // With the whole directory, after an upgrade.
    fs::rename(generation_ + "/qmp.real", generation_ + "/qmp.sock", gone);
}

void HandoverTamperer::run(int stop) {
    for (;;) {
        const UniqueFd manager = acceptOne(listener_.get(), stop);
        if (!manager) return;
        const UniqueFd vmm = connectUnix(generation_ + "/qmp.real");
        if (!carry(manager.get(), vmm.get(), stop)) return;
    }
}

/// Carries one connection until either side ends it; false when told to stop.
bool HandoverTamperer::carry(int manager, int vmm, int stop) {
    std::string commands;
    std::vector<UniqueFd> none;
    try {
        for (;;) {
            std::array<pollfd, 3> watched{pollfd{manager, POLLIN, 0}, pollfd{vmm, POLLIN, 0}, pollfd{stop, POLLIN, 0}};
            wait(watched);
            if (watched[0].revents != 0) {
                if (receiveSome(manager, commands, none) == 0) return true;
                for (std::size_t end; (end = commands.find('\n')) != std::string::npos; commands.erase(0, end + 1))
                    sendAll(vmm, redirected(commands.substr(0, end + 1)), {});
            } else if (watched[1].revents != 0) {
                std::string answers;
                if (receiveSome(vmm, answers, none) == 0) return true;
                sendAll(manager, answers, {});
            } else {
                return false;
            }
        }
    } catch (const std::system_error&) {
        return true;  // One of them is gone.
    }
}

std::string HandoverTamperer::redirected(const std::string& line) {
    json command = json::parse(line);
    if (command.value("execute", "") != "migrate") return line;
    for (json& channel : command["arguments"]["channels"]) {
        if (channel["channel-type"] != "cpr") continue;
        json& path = channel["addr"]["path"];
        const std::string ours = generation_ + "/tampered.sock";
        tamperer_.reset();
        tamperer_ = std::make_unique<CprTamperer>(ours, path, change_);
        path = ours;
    }
    return command.dump() + "\n";
}

}  // namespace vh::test
