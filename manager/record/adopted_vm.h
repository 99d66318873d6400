// A VM that another manager started and goes on managing, such as a domain of libvirt: all that it takes to start a second VMM
// for it. How the arguments came about is of no interest here, and of that manager only what its VM is called (nameOfDomain).
//
// Its VMM is not described by a definition, its descriptors come from the old VMM's process and not from us, and the new VMM is
// made to resemble the old one's process (process_traits.h). All else of a handover is that of our own VMs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

/// The settings of a tap that belong to the device and not to whoever has it open; tap_guard.h says what becomes of a guest
/// without.
struct TapSettings {
    int headerBytes = 0;    ///< Length of struct virtio_net_hdr: TUNGETVNETHDRSZ.
    unsigned offloads = 0;  ///< TUN_F_*, from the device's features: nothing reads TUNSETOFFLOAD back (drivers/net/tun.c, 6.18).

    bool operator==(const TapSettings&) const = default;
};

struct AdoptedVm {
    /// A descriptor that the new VMM inherits: a copy of one of the old VMM's (pidfd_getfd), or a file that is opened anew. Each
    /// number is given once, from 3 on; whoever adds descriptors takes numbers above the highest.
    struct Descriptor {
        int number = -1;  ///< Number in the new VMM.
        int of = -1;      ///< Number in the old one.
        bool tap = false;
        TapSettings settings{};  ///< Settings of a tap, from just before a second VMM gets it; an order has none yet.
        /// File to be opened instead, when not empty: the kernel ties such a one to one process (drivers/vhost/vhost.c:
        /// VHOST_SET_OWNER).
        std::string path{};

        bool operator==(const Descriptor&) const = default;
    };

    std::string title;    ///< Name that its manager has for it.
    std::string monitor;  ///< The old VMM's monitor socket, which must be free.
    std::uint64_t memoryBytes = 0;
    std::vector<std::string> arguments;  ///< Arguments of the new VMM, without `-incoming`.
    std::vector<std::string> models;     ///< Device models that the new VMM must have, each once.
    std::vector<Descriptor> descriptors;
    /// Monitor commands for the new VMM once the old one has ended: what two VMMs cannot have at once, such as a TCP port.
    struct Command {
        std::string execute;
        nlohmann::json arguments;

        bool operator==(const Command&) const = default;
    };
    std::vector<Command> afterwards;
    std::string pidFile;          ///< See LaunchSpec.
    std::string logFile;          ///< File for the output of both VMMs.
    std::string socketDirectory;  ///< Directory for sockets of the VMMs' user, also under a security module's rules.

    bool operator==(const AdoptedVm&) const = default;
};

/// The name of a libvirt domain's VM here.
inline std::string nameOfDomain(const std::string& uuid) {
    return "libvirt-" + uuid;
}

nlohmann::json toJson(const AdoptedVm& vm);
/// Throws nlohmann::json::exception.
AdoptedVm adoptedVmFromJson(const nlohmann::json& value);

/// An order for `adopt`, in a file that the plugin writes.
struct AdoptOrder : AdoptedVm {
    std::string vm;  ///< The name of its record.
    std::string uuid;
    std::string machine;  ///< `pc-q35-10.0`
    pid_t pid = 0;
    std::uint64_t startTime = 0;
    std::string binary;  ///< Program of the new VMM.
    std::uint64_t pauseBudgetMs = 1000;
    std::uint64_t stepDeadlineMs = 30'000;  ///< For launching, exchanging and verifying, each.
    bool dryRun = false;
};

nlohmann::json toJson(const AdoptOrder& order);
/// Throws std::runtime_error that names the file and what is wrong with it.
AdoptOrder readAdoptOrder(const std::string& file);

}  // namespace vh
