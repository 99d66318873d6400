// A connection to libvirt's QEMU driver. Every call ends: libvirt's own API waits for a daemon that hangs, or for a domain that
// somebody else keeps locked (a hook that calls libvirt back), as long as that lasts; here a wait has a deadline.
#pragma once

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace vh {

/// libvirt said no; its own message.
struct LibvirtError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Nobody answers.
struct LibvirtUnreachable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct LibvirtDomain {
    std::string name;
    std::string uuid;
    std::string state;  ///< `running`, `paused`, `shut off`, ... as virsh has it.
    bool persistent = true;

    bool active() const { return state != "shut off" && state != "crashed" && state != "no state"; }
};

class LibvirtConnection {
 public:
    /// Connects to libvirt. Throws LibvirtUnreachable.
    LibvirtConnection(const std::string& uri, std::chrono::milliseconds timeout);
    LibvirtConnection(const LibvirtConnection&) = delete;
    ~LibvirtConnection();

    /// Domains that run now, by name.
    std::vector<LibvirtDomain> running() const;
    /// A domain by name, or by UUID. Throws LibvirtError when there is none.
    LibvirtDomain find(const std::string& domain) const;

    std::string liveXml(const std::string& uuid) const;
    std::string inactiveXml(const std::string& uuid) const;

    /// libvirt's rendering of the live XML as a shell command, split into words: `virsh domxml-to-native qemu-argv --domain`.
    std::vector<std::string> nativeCommand(const std::string& uuid) const;

    std::string version() const;  ///< Version of the daemon: `11.3.0`.

    /// Asks libvirt for what an emulator can do, whereupon it starts that emulator to find out, and writes it into its cache.
    /// Throws LibvirtError when the emulator does not start, or does not know the machine type.
    std::string domainCapabilities(const std::string& emulator, const std::string& architecture, const std::string& machine,
                                   const std::string& virtType) const;

    void define(const std::string& xml) const;

 private:
    struct Handle;

    /// Runs `work` beside this thread and waits until the deadline for what it returns.
    template <class Work>
    auto within(const std::string& what, Work work) const;
    std::string xml(const std::string& uuid, unsigned flags) const;

    std::string uri_;
    std::chrono::milliseconds timeout_;
    std::shared_ptr<Handle> handle_;
};

/// The words of a command as libvirt prints it (src/util/vircommand.c:virCommandToString, 11.3.0): single quotes, and lines that
/// go on behind a backslash. Throws std::runtime_error when a quote is not closed.
std::vector<std::string> shellWords(const std::string& command);

}  // namespace vh
