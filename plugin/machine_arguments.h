// The argument list that a new QEMU needs to be the same machine as one that libvirt started, hotplug included.
//
// Theory of operation. The old process's own arguments (/proc/PID/cmdline) are right in everything that libvirt decides at a
// start, and stale after the first hotplug. libvirt's own rendering of the live XML (`virsh domxml-to-native`) is right in which
// devices there are, and wrong in descriptors, directories, CPU and node names. So: everything from the first, devices (-device,
// -blockdev, -netdev, -chardev, -object) by their ids as the second has them, block node names as the status XML has them.
// See shared reference, section 2; checked against libvirt 11.3.0.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

struct MachineSources {
    std::vector<std::string> running;   ///< /proc/PID/cmdline of the old QEMU.
    std::vector<std::string> native;    ///< domxml-to-native of the live XML, split into words.
    std::string statusXml;              ///< /run/libvirt/qemu/NAME.xml.
    nlohmann::json fdsets;              ///< The old QEMU's answer to query-fdsets.
    std::map<int, int> ptyMasters;      ///< N of /dev/pts/N -> the old QEMU's descriptor of its master end.
};

/// A descriptor that the new QEMU inherits: a copy of one of the old QEMU's, taken by pidfd_getfd.
struct PassedDescriptor {
    int number = -1;  ///< In the new QEMU.
    int of = -1;      ///< In the old one.
    bool tap = false;

    bool operator==(const PassedDescriptor&) const = default;
};

struct MachineArguments {
    /// From `-name` on: no binary, no -incoming, no second monitor of an earlier handover (chardev `virt-handover`); with -S.
    std::vector<std::string> arguments;
    std::vector<PassedDescriptor> descriptors;
    std::string machine;              ///< `pc-q35-10.0`
    std::vector<std::string> models;  ///< Device models, each once, that the new QEMU must have.
};

/// Throws std::runtime_error that names the option which is not understood: nothing is guessed.
MachineArguments rebuildArguments(const MachineSources& sources);

}  // namespace vh
