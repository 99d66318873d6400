#include "plugin/host/libvirt_connection.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <future>
#include <map>
#include <utility>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "vmm-shim/thread.h"

namespace vh {
namespace {

std::string seconds(std::chrono::milliseconds time) {
    return std::to_string((time.count() + 999) / 1000) + " s";
}

[[noreturn]] void fail(const std::string& what) {
    const virErrorPtr error = virGetLastError();
    const std::string message = what + ": " + (error && error->message ? error->message : "libvirt gives no reason");
    // src/rpc: a connection that broke is an internal or a system error of the RPC domain.
    if (error && error->domain == VIR_FROM_RPC) throw LibvirtUnreachable(message);
    throw LibvirtError(message);
}

struct DomainFree {
    void operator()(virDomainPtr domain) const { virDomainFree(domain); }
};
using Domain = std::unique_ptr<virDomain, DomainFree>;

/// A string of libvirt's, which is ours to free.
std::string taken(char* text, const std::string& what) {
    if (!text) fail(what);
    std::string copy = text;
    std::free(text);
    return copy;
}

/// As virsh has them, by virDomainState.
std::string stateName(int state) {
    static const std::map<int, const char*> names{{VIR_DOMAIN_RUNNING, "running"},        {VIR_DOMAIN_BLOCKED, "idle"},
                                                  {VIR_DOMAIN_PAUSED, "paused"},          {VIR_DOMAIN_SHUTDOWN, "in shutdown"},
                                                  {VIR_DOMAIN_SHUTOFF, "shut off"},       {VIR_DOMAIN_CRASHED, "crashed"},
                                                  {VIR_DOMAIN_PMSUSPENDED, "pmsuspended"}};
    const auto found = names.find(state);
    return found == names.end() ? "no state" : found->second;
}

LibvirtDomain describe(virDomainPtr domain) {
    std::array<char, VIR_UUID_STRING_BUFLEN> uuid{};
    int state = 0, reason = 0;
    LibvirtDomain result;
    result.name = virDomainGetName(domain);
    if (virDomainGetUUIDString(domain, uuid.data()) != 0) fail("domain '" + result.name + "'");
    if (virDomainGetState(domain, &state, &reason, 0) != 0) fail("domain '" + result.name + "'");
    result.uuid = uuid.data();
    result.state = stateName(state);
    result.persistent = virDomainIsPersistent(domain) == 1;
    return result;
}

std::string xmlOf(virConnectPtr connection, const std::string& uuid, unsigned flags, const std::string& what) {
    const Domain domain(virDomainLookupByUUIDString(connection, uuid.c_str()));
    if (!domain) fail("domain " + uuid);
    return taken(virDomainGetXMLDesc(domain.get(), flags), what);
}

void silent(void*, virErrorPtr) {}

/// A daemon that does not answer is no reason to wait any longer when all has been asked.
constexpr std::chrono::milliseconds goodbyeTimeout{5'000};

}  // namespace

struct LibvirtConnection::Handle {
    virConnectPtr connection = nullptr;
    ~Handle() {
        if (connection) virConnectClose(connection);
    }
};

template <class Work>
auto LibvirtConnection::within(const std::string& what, Work work) const {
    // The thread owns all that it works with: when it is given up, it ends with the process, or when libvirt answers after all.
    std::packaged_task<std::invoke_result_t<Work, Handle&>()> task(
        [handle = handle_, work = std::move(work)] { return work(*handle); });
    auto done = task.get_future();
    threadWithoutSignals(std::move(task)).detach();
    if (done.wait_for(timeout_) != std::future_status::ready)
        throw LibvirtUnreachable("libvirt '" + uri_ + "': " + what + ": no answer within " + seconds(timeout_) +
                                 "; does a hook or a client keep the daemon waiting? Look at 'virsh list' and the daemon's log");
    try {
        return done.get();
    } catch (const LibvirtUnreachable& error) {
        throw LibvirtUnreachable("libvirt '" + uri_ + "': " + error.what());
    } catch (const LibvirtError& error) {
        throw LibvirtError("libvirt '" + uri_ + "': " + error.what());
    }
}

LibvirtConnection::LibvirtConnection(const std::string& uri, std::chrono::milliseconds timeout)
    : uri_(uri), timeout_(timeout), handle_(std::make_shared<Handle>()) {
    virSetErrorFunc(nullptr, silent);  // Else libvirt writes each error on standard error by itself.
    try {
        within("connect", [uri](Handle& handle) {
            handle.connection = virConnectOpenAuth(uri.c_str(), virConnectAuthPtrDefault, 0);
            if (!handle.connection) fail("connect");
        });
    } catch (const LibvirtError& error) {
        throw LibvirtUnreachable(error.what());
    }
}

LibvirtConnection::~LibvirtConnection() {
    // Saying goodbye waits for an answer, too (src/remote/remote_driver.c:doRemoteClose, 11.3.0).
    std::packaged_task<void()> close([handle = std::move(handle_)]() mutable { handle.reset(); });
    const std::future<void> done = close.get_future();
    threadWithoutSignals(std::move(close)).detach();
    done.wait_for(std::min(timeout_, goodbyeTimeout));
}

std::vector<LibvirtDomain> LibvirtConnection::running() const {
    return within("list domains", [](Handle& handle) {
        virDomainPtr* list = nullptr;
        const int count = virConnectListAllDomains(handle.connection, &list, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
        if (count < 0) fail("list domains");
        std::vector<Domain> owned(list, list + count);
        std::free(list);
        std::vector<LibvirtDomain> domains;
        for (const Domain& domain : owned) domains.push_back(describe(domain.get()));
        std::ranges::sort(domains, {}, &LibvirtDomain::name);
        return domains;
    });
}

LibvirtDomain LibvirtConnection::find(const std::string& name) const {
    return within("look for domain '" + name + "'", [name](Handle& handle) {
        Domain domain(virDomainLookupByName(handle.connection, name.c_str()));
        if (!domain) domain.reset(virDomainLookupByUUIDString(handle.connection, name.c_str()));
        if (!domain) throw LibvirtError("there is no domain '" + name + "'; 'virsh list --all' names them");
        return describe(domain.get());
    });
}

std::string LibvirtConnection::xml(const std::string& uuid, unsigned flags) const {
    const std::string what = "read the XML of domain " + uuid;
    return within(what, [=](Handle& handle) { return xmlOf(handle.connection, uuid, flags, what); });
}

std::string LibvirtConnection::liveXml(const std::string& uuid) const {
    return xml(uuid, 0);
}

std::string LibvirtConnection::inactiveXml(const std::string& uuid) const {
    // With its secrets: it is defined again with small changes, and must not lose them.
    return xml(uuid, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
}

std::vector<std::string> LibvirtConnection::nativeCommand(const std::string& uuid) const {
    const std::string what = "render domain " + uuid + " as QEMU's arguments";
    return shellWords(within(what, [=](Handle& handle) {
        const std::string xml = xmlOf(handle.connection, uuid, 0, what);
        return taken(virConnectDomainXMLToNative(handle.connection, "qemu-argv", xml.c_str(), 0), what);
    }));
}

std::string LibvirtConnection::version() const {
    const unsigned long number = within("ask for its version", [](Handle& handle) {
        unsigned long answer = 0;
        if (virConnectGetLibVersion(handle.connection, &answer) != 0) fail("ask for its version");
        return answer;
    });
    return std::to_string(number / 1'000'000) + "." + std::to_string(number / 1000 % 1000) + "." + std::to_string(number % 1000);
}

std::string LibvirtConnection::domainCapabilities(const std::string& emulator, const std::string& architecture,
                                                  const std::string& machine, const std::string& virtType) const {
    const std::string what = "probe emulator '" + emulator + "' for machine type '" + machine + "'";
    return within(what, [=](Handle& handle) {
        return taken(virConnectGetDomainCapabilities(handle.connection, emulator.c_str(), architecture.c_str(), machine.c_str(),
                                                     virtType.c_str(), 0),
                     what);
    });
}

void LibvirtConnection::define(const std::string& xml) const {
    within("define the domain", [xml](Handle& handle) {
        const Domain domain(virDomainDefineXMLFlags(handle.connection, xml.c_str(), VIR_DOMAIN_DEFINE_VALIDATE));
        if (!domain) fail("define the domain");
    });
}

std::vector<std::string> shellWords(const std::string& command) {
    std::vector<std::string> words;
    std::string word;
    bool inWord = false, quoted = false;
    for (std::size_t i = 0; i < command.size(); ++i) {
        const char c = command[i];
        if (quoted) {
            if (c == '\'')
                quoted = false;
            else
                word += c;
        } else if (c == '\'') {
            quoted = inWord = true;
        } else if (c == '\\' && i + 1 < command.size()) {
            if (command[++i] == '\n') continue;
            word += command[i];
            inWord = true;
        } else if (c == ' ' || c == '\n' || c == '\t') {
            if (inWord) words.push_back(std::exchange(word, {}));
            inWord = false;
        } else {
            word += c;
            inWord = true;
        }
    }
    if (quoted) throw std::runtime_error("libvirt's rendering of the domain ends inside a quoted word");
    if (inWord) words.push_back(word);
    return words;
}

}  // namespace vh
