// virt-handover-hook: what libvirt runs as /etc/libvirt/hooks/qemu.d/50-virt-handover whenever a domain starts, ends or moves.
//
// Theory of operation. libvirt (src/util/virhook.c:virHookCall, 11.3) runs it as `HOOK NAME OPERATION SUBOPERATION EXTRA`, with
// the domain's XML on standard input, and waits for it with the domain locked. So it may do two things only, and both at once:
//
//   - started, reconnect, stopped, release: one datagram to the manager, which may be down or hung. Nobody waits for an answer.
//   - restore, migrate: where the policy says so, prints the XML made ready for a handover (plugin/domain/domain_xml.h), since
//     these are the moments at which a domain can become it without a power cycle. What libvirt reads is what it goes on with;
//     when it reads nothing it keeps its own (src/qemu/qemu_driver.c:qemuDomainRestoreInternal,
//     src/qemu/qemu_migration.c:qemuMigrationDstPrepareAny, and virHookCall for one of several scripts). A domain whose memory
//     would have to come from another source stays as it is: libvirt would refuse to restore it ("Target memoryBacking source
//     'memfd' doesn't match source memoryBacking source'none'", src/qemu/qemu_domain.c:qemuDomainABIStabilityCheck, tried
//     on 11.3). It needs one power cycle, or it has `<source type='memfd'/>` already, and lacks only the rest.
//
// It never calls libvirt: each call that needs the locked domain, even a list of all domains, would wait for this program to end.
// It always ends with status 0: with another one libvirt kills a domain that starts or that it reconnects to
// (src/qemu/qemu_process.c:qemuProcessStartHook, qemuProcessReconnect). Therefore also the handlers for crashes below, and the
// alarm.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include "plugin/domain/domain_xml.h"
#include "plugin/domain/xml_tree.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unique_fd.h"

namespace {

using namespace vh;
using Clock = std::chrono::steady_clock;

// For all of it: more than any XML takes that libvirt has ever written. Reading alone may take less, to say so in time.
constexpr unsigned giveUpSeconds = 4;
constexpr std::chrono::seconds readingDeadline{3};
constexpr std::size_t maximumXmlBytes = 64 * 1024 * 1024;
constexpr std::size_t maximumPolicyBytes = 64 * 1024;
// libvirt prints name and uuid before all else (src/conf/domain_conf.c:virDomainDefFormatInternalSetRootName).
constexpr std::size_t headBytes = 16 * 1024;
// A name that libvirt can use is shorter: it is a part of file names.
constexpr std::size_t maximumNameBytes = 1024;
constexpr std::size_t maximumReasonBytes = 256;

[[noreturn]] void endQuietly(int) {
    ::_exit(0);
}

void neverFail() {
    std::signal(SIGPIPE, SIG_IGN);
    // For a stack overflow there is no room on the stack that overflowed.
    static char stack[64 * 1024];
    const stack_t alternate{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
    ::sigaltstack(&alternate, nullptr);
    struct sigaction action {};
    action.sa_handler = endQuietly;
    action.sa_flags = SA_ONSTACK;
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM, SIGTERM, SIGHUP, SIGINT})
        ::sigaction(signal, &action, nullptr);
    // Whoever started this may have blocked it.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::alarm(giveUpSeconds);
    // A descriptor of ours must not become standard output because that was closed.
    for (int fd = 0; fd >= 0 && fd <= STDERR_FILENO;) {
        fd = ::open("/dev/null", O_RDWR);
        if (fd > STDERR_FILENO) ::close(fd);
    }
}

std::string environment(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? value : otherwise;
}

/// Reads standard input until `enough` holds of what has come, until its end or the limit; no longer than the deadline.
template <typename Enough>
std::string readInput(std::size_t limit, std::chrono::milliseconds deadline, Enough enough) {
    std::string text;
    const auto end = Clock::now() + deadline;
    while (text.size() < limit && !enough(text)) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd waited{STDIN_FILENO, POLLIN, 0};
        if (left <= 0 || ::poll(&waited, 1, static_cast<int>(left)) <= 0) break;
        char buffer[64 * 1024];
        const ssize_t length = ::read(STDIN_FILENO, buffer, std::min(sizeof buffer, limit - text.size()));
        if (length < 0 && errno == EINTR) continue;
        if (length <= 0) break;
        text.append(buffer, static_cast<std::size_t>(length));
    }
    return text;
}

/// Of libvirt's own rendering, in which no text before it can hold a `<`.
std::string uuidIn(const std::string& xml) {
    constexpr std::string_view opening = "<uuid>", closing = "</uuid>";
    const std::size_t begin = xml.find(opening);
    if (begin == std::string::npos) return {};
    const std::size_t end = xml.find(closing, begin);
    if (end == std::string::npos) return {};
    return xml.substr(begin + opening.size(), end - begin - opening.size());
}

// What is read is no more than it takes: libvirt does not mind that we leave the rest (src/util/vircommand.c:virCommandProcessIO
// takes EPIPE for a child that closed its input early).
void notify(const std::string& name, const std::string& operation, const std::string& reason) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    const std::string path = environment("VIRT_HANDOVER_RUNTIME_DIR", "/run/virt-handover") + "/libvirt-hook.sock";
    if (path.size() >= sizeof address.sun_path) return;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    // Connected first: with no manager there is nothing to read for.
    if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return;

    const std::string head = readInput(headBytes, std::chrono::seconds(1),
                                       [](const std::string& text) { return text.find("</uuid>") != std::string::npos; });
    const nlohmann::json notice{{"name", name.substr(0, maximumNameBytes)},
                                {"uuid", uuidIn(head).substr(0, 36)},
                                {"operation", operation},
                                {"reason", reason == "-" ? "" : reason.substr(0, maximumReasonBytes)}};
    // A name need not be UTF-8.
    const std::string text = notice.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    // Full, or gone: then the manager has other ways to learn of it.
    (void)!::send(socket.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/// Whether the policy wants domains made ready on this operation. Throws for a policy that is not understood.
bool policySays(const std::string& operation) {
    const std::string file = environment("VIRT_HANDOVER_LIBVIRT_POLICY", "/etc/virt-handover/libvirt.yaml");
    const UniqueFd policy(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!policy) {
        if (errno == ENOENT) return false;
        throwErrno("open '" + file + "'");
    }
    std::string text(maximumPolicyBytes + 1, '\0');
    const ssize_t length = ::read(policy.get(), text.data(), text.size());
    if (length < 0) throwErrno("read '" + file + "'");
    if (static_cast<std::size_t>(length) > maximumPolicyBytes) throw std::runtime_error("'" + file + "' is larger than 64 KiB");
    text.resize(static_cast<std::size_t>(length));

    const YAML::Node tree = YAML::Load(text);
    bool wanted = false;
    if (tree.IsNull()) return false;
    if (!tree.IsMap()) throw std::runtime_error("'" + file + "': expected 'make_ready_on: [restore, migrate]'");
    for (const auto& entry : tree) {
        const auto key = entry.first.as<std::string>();
        if (key != "make_ready_on")
            throw std::runtime_error("'" + file + "': unknown key '" + key + "', expected 'make_ready_on'");
        if (!entry.second.IsSequence())
            throw std::runtime_error("'" + file + "': make_ready_on: expected a list, as in '[restore, migrate]'");
        for (const YAML::Node& item : entry.second) {
            const auto listed = item.as<std::string>();
            if (listed != "restore" && listed != "migrate")
                throw std::runtime_error("'" + file + "': make_ready_on: unknown '" + listed +
                                         "', expected 'restore' or 'migrate'");
            wanted = wanted || listed == operation;
        }
    }
    return wanted;
}

std::string memorySource(const std::string& xml) {
    return childAttribute(parseXml(xml, "domain").document_element().child("memoryBacking"), "source", "type");
}

void print(const std::string& text) {
    for (std::size_t sent = 0; sent < text.size();) {
        const ssize_t length = ::write(STDOUT_FILENO, text.data() + sent, text.size() - sent);
        if (length < 0 && errno == EINTR) continue;
        if (length <= 0) return;
        sent += static_cast<std::size_t>(length);
    }
}

void offerReadyXml(const std::string& operation) {
    if (!policySays(operation)) return;
    bool whole = false;
    const std::string xml = readInput(maximumXmlBytes, readingDeadline, [&](const std::string& text) {
        whole = text.find("</domain>", text.size() - std::min<std::size_t>(text.size(), 64 * 1024 + 9)) != std::string::npos;
        return false;
    });
    if (!whole) throw std::runtime_error("the domain's XML has no end");
    const std::string ready = makeReady(xml);
    if (memorySource(ready) != memorySource(xml))
        throw std::runtime_error(
            "its memory would have to come from another source, with which libvirt does not restore or migrate a "
            "domain; change its definition, and start it anew");
    if (ready != xml) print(ready);
}

}  // namespace

int main(int argc, char** argv) {
    neverFail();
    try {
        if (argc < 3) return 0;
        const std::string name = argv[1], operation = argv[2], suboperation = argc > 3 ? argv[3] : "-",
                          reason = argc > 4 ? argv[4] : "-";
        if (operation == "started" || operation == "reconnect" || operation == "stopped" || operation == "release")
            notify(name, operation, reason);
        else if ((operation == "restore" || operation == "migrate") && suboperation == "begin")
            offerReadyXml(operation);
    } catch (const std::exception& error) {
        // For a person who tries it by hand; libvirt drops it.
        const std::string line = std::string("virt-handover-hook: the domain's XML stays as it is: ") + error.what() + "\n";
        (void)!::write(STDERR_FILENO, line.data(), line.size());
    } catch (...) {
    }
    // Without the destructors of libraries: nothing of them is needed, and they could fail.
    ::_exit(0);
}
