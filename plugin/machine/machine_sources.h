// What a new QEMU's argument list is made from, and what it inherits.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

struct MachineSources {
    std::vector<std::string> running;      ///< /proc/PID/cmdline of the old QEMU.
    std::vector<std::string> native;       ///< domxml-to-native of the live XML, split into words.
    std::string statusXml;                 ///< /run/libvirt/qemu/NAME.xml.
    nlohmann::json fdsets;                 ///< The old QEMU's answer to query-fdsets.
    std::map<std::string, int> tapFds;     ///< Interface name -> the old QEMU's descriptor (`iff` in fdinfo).
    std::map<std::string, int> listeners;  ///< Path of a unix socket -> the old QEMU's descriptor that listens on it.
    bool usesVhost = false;                ///< The old QEMU has /dev/vhost-net open, by one network at least.
};

/// A descriptor that the new QEMU inherits: a copy of one of the old QEMU's, taken by pidfd_getfd, or a file that is opened anew.
/// Numbers are 3 and above, and each is given once; whoever adds descriptors takes numbers above the highest.
struct PassedDescriptor {
    int number = -1;  ///< In the new QEMU.
    int of = -1;      ///< In the old one.
    bool tap = false;
    std::string path{};  ///< To be opened instead: what the kernel ties to one process (drivers/vhost/vhost.c: VHOST_SET_OWNER).

    bool operator==(const PassedDescriptor&) const = default;
};

}  // namespace vh
