// The descriptors that a new QEMU inherits, and their names in its arguments.
//
// libvirt passes sockets that listen, taps and log pipes by number, in the arguments at a start and by the monitor at a hotplug.
// A number in the arguments is good for a socket or a tap as long as the device was not replaced, so the old QEMU's table of
// descriptors is believed rather than it where the caller has one. It is never good for -add-fd: QEMU keeps a copy under another
// number, which query-fdsets tells, and closes the one in the arguments, which then may be anything (system/vl.c:parse_add_fd and
// cleanup_add_fd, 10.0). A terminal is opened by QEMU itself, and the new QEMU makes one of its own: see StatusChange.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "manager/record/adopted_vm.h"
#include "plugin/domain/live_domain.h"
#include "plugin/domain/qemu_option.h"

namespace vh {

/// Descriptors of a QEMU that its arguments cannot say: by which number it has a tap or a listening socket now.
struct ProcessDescriptors {
    std::map<std::string, int> tapFds;     ///< Interface -> descriptor (`iff` in fdinfo, drivers/net/tun.c, Linux 3.17).
    std::map<std::string, int> listeners;  ///< Unix socket path -> descriptor (/proc/net/unix, its network namespace).
    bool vhost = false;                    ///< True when it has /dev/vhost-net open, by one network at least.
};

/// Looks at a process's descriptors. Throws std::system_error when it is gone or may not be looked at.
ProcessDescriptors descriptorsOf(pid_t pid);

class InheritedDescriptors {
 public:
    /// `fdsets` is the old QEMU's answer to query-fdsets.
    InheritedDescriptors(const nlohmann::json& fdsets, const ProcessDescriptors& old, const LiveDomain& live,
                         const std::vector<QemuOption>& options);

    /// Makes an option name descriptors that the new QEMU has, and notes them. `fresh` are the ids of what was added while the
    /// domain ran and so names none yet. Returns options that have to stand before this one. Throws std::runtime_error for a
    /// descriptor that is not understood or cannot be found.
    std::vector<QemuOption> adapt(QemuOption& option, const std::set<std::string>& fresh);

    std::vector<AdoptedVm::Descriptor> take() { return std::move(passed_); }

 private:
    std::vector<QemuOption> adaptChardev(QemuOption& option, bool isFresh);
    void adaptNetdev(QemuOption& option, bool isFresh);
    void adaptSet(const QemuOption& option);
    QemuOption passSetOf(const std::string& opaque, std::string& set);
    int pass(AdoptedVm::Descriptor descriptor);
    int freshNumber() { return ++lastNumber_; }
    int listenerOf(const std::string& chardevId, int otherwise) const;

    const ProcessDescriptors& old_;
    const LiveDomain& live_;
    nlohmann::json sets_;
    int lastNumber_ = 2;
    std::vector<AdoptedVm::Descriptor> passed_;
};

}  // namespace vh
