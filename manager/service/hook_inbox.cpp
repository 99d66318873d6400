#include "manager/service/hook_inbox.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 4> operations{"started", "reconnect", "stopped", "release"};
// In one turn of the main loop; the rest has to wait for what else there is to do.
constexpr int maximumNoticesATurn = 64;

/// It becomes a part of paths.
bool isUuid(const std::string& text) {
    constexpr std::string_view shape = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    return text.size() == shape.size() && std::equal(text.begin(), text.end(), shape.begin(), [](char found, char wanted) {
               return wanted == '-' ? found == '-' : (found >= '0' && found <= '9') || (found >= 'a' && found <= 'f');
           });
}

std::string textOf(const json& notice, const char* member) {
    const auto found = notice.find(member);
    if (found == notice.end() || !found->is_string()) throw std::runtime_error(std::string("it has no text '") + member + "'");
    return found->get<std::string>();
}

}  // namespace

HookNotice parseHookNotice(const std::string& datagram) {
    if (datagram.size() > HookInbox::maximumBytes)
        throw std::runtime_error("it has more than " + std::to_string(HookInbox::maximumBytes) + " bytes");
    const json value = json::parse(datagram, nullptr, false);
    if (!value.is_object()) throw std::runtime_error("it is no JSON object");
    HookNotice notice{.name = textOf(value, "name"),
                      .uuid = textOf(value, "uuid"),
                      .operation = textOf(value, "operation"),
                      .reason = textOf(value, "reason")};
    if (!isUuid(notice.uuid)) throw std::runtime_error("its 'uuid' is none");
    if (std::ranges::find(operations, notice.operation) == operations.end())
        throw std::runtime_error("its 'operation' is none of started, reconnect, stopped, release");
    return notice;
}

HookInbox::HookInbox(const std::string& runtimeDirectory, std::function<void(const HookNotice&)> receive,
                     std::function<void(const std::string&)> report)
    : path_(runtimeDirectory + "/libvirt-hook.sock"),
      receive_(std::move(receive)),
      report_(std::move(report)),
      socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    if (!socket_) throwErrno("create a unix socket");
    const sockaddr_un address = unixAddress(path_);
    ::unlink(path_.c_str());
    // Before it has a name: the file gets the socket's own mode (Linux, net/unix/af_unix.c:unix_bind_bsd), so it is never open to
    // others.
    if (::fchmod(socket_.get(), 0600) != 0) throwErrno("protect socket '" + path_ + "'");
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        throwErrno("bind socket '" + path_ + "'");
    readable_ = EventSource::readable(socket_.get(), [this] { receiveAll(); });
}

HookInbox::~HookInbox() {
    ::unlink(path_.c_str());
}

void HookInbox::receiveAll() {
    for (int count = 0; count < maximumNoticesATurn; ++count) {
        std::string datagram(maximumBytes + 1, '\0');
        const ssize_t length = ::recv(socket_.get(), datagram.data(), datagram.size(), 0);
        if (length < 0) return;
        datagram.resize(static_cast<std::size_t>(length));
        take(datagram);
    }
}

void HookInbox::take(const std::string& datagram) {
    HookNotice notice;
    try {
        notice = parseHookNotice(datagram);
    } catch (const std::exception& error) {
        return report_(std::string("a notice of libvirt's hook is dropped: ") + error.what());
    }
    receive_(notice);
}

}  // namespace vh
