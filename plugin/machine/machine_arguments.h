// The argument list that a new QEMU needs to be the same machine as one that libvirt started, hotplug included.
//
// Theory of operation. Three sources, none of them whole:
//  - The old process's own arguments (/proc/PID/cmdline): right in everything that libvirt decides at a start, stale after the
//    first hotplug, snapshot or change of a medium.
//  - The status XML: right in which devices there are now, what QEMU calls them (`<device alias=...>`), where they sit, and how
//    their block nodes are named; it says nothing of how they are told to QEMU.
//  - libvirt's own rendering of the live XML (`virsh domxml-to-native`): right in how each device is told to QEMU, but it is the
//    rendering of a domain that is yet to start. It counts devices and block nodes anew (after rng0 has gone, rng1 is rng0),
//    invents descriptors, directories and a CPU, and of a network it keeps nothing but MAC and model, not even the address
//    (src/qemu/qemu_driver.c:qemuConnectDomainXMLToNative, libvirt 11.3.0).
// So: everything from the first; without the devices that the second no longer has; and those that it has besides from the third,
// found by their place on a bus and called what the second calls them. New networks are told from the second alone. A device that
// was there from the start keeps its arguments, except for the image on top of its chain.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "manager/record/adopted_vm.h"
#include "plugin/machine/inherited_descriptors.h"

namespace vh {

struct MachineSources {
    std::vector<std::string> running;  ///< /proc/PID/cmdline of the old QEMU.
    std::vector<std::string> native;   ///< domxml-to-native of the live XML, split into words.
    std::string statusXml;             ///< /run/libvirt/qemu/NAME.xml.
    nlohmann::json fdsets;             ///< The old QEMU's answer to query-fdsets.
    ProcessDescriptors descriptors{};  ///< Descriptors that the old QEMU has open besides.
};

/// The part of an order that says which machine the new QEMU is: `machine`, `models`, `descriptors`; `arguments` from `-name` on,
/// with -S, without the second monitor of an earlier handover (chardev `virt-handover`); `afterwards` for VNC, whose port can be
/// had by one only. Throws std::runtime_error that names the option which is not understood: nothing is guessed.
AdoptOrder rebuildArguments(const MachineSources& sources);

}  // namespace vh
