// libvirt's status XML, /run/libvirt/qemu/NAME.xml: what libvirt believes of a running domain when it starts. The format is
// libvirt's own and private; src/qemu/qemu_domain.c:qemuDomainObjPrivateXMLFormat,
// src/conf/domain_conf.c:virDomainObjFormat, 11.3.0.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace vh {

struct DomainStatus {
    std::string name;
    std::string uuid;
    std::string state;  ///< `running`, `paused`, ...
    pid_t pid = 0;
    std::string monitorPath;  ///< Path of the unix socket.
    std::string emulator;
    bool hasBlockJob = false;
    bool hasJob = false;  ///< An asynchronous job such as a migration or a backup.
};

/// Reads status XML. Throws std::runtime_error naming what is missing.
DomainStatus readStatus(const std::string& xml);

/// The domain's own XML in status XML, without what the guest changes of itself while it runs: whether it has a channel's port
/// open, its clock's offset, its balloon (src/qemu/qemu_driver.c:processSerialChangedEvent, src/qemu/qemu_process.c:
/// qemuProcessHandleRTCChange, qemuProcessHandleBalloonChange, 11.3.0). What is left is altered by a person's or a tool's change
/// alone, such as a hotplug.
std::string definitionIn(const std::string& xml);

/// Changes of a handover to the status XML.
struct StatusChange {
    pid_t pid = 0;
    std::vector<pid_t> vcpuThreads;            ///< Threads by vCPU id, as query-cpus-fast has them.
    std::string emulator;                      ///< Path of the new emulator; also in the domain's <emulator>.
    std::vector<std::string> capabilityFlags;  ///< Flags of the new emulator, as libvirt's cache has them.
    /// Paths of the terminals that the new QEMU made, by chardev. QEMU's pty backend alone drops output that nobody reads and
    /// bears a terminal that nobody has open; an old QEMU's terminal under another backend makes the main loop spin (11.1.3).
    std::map<std::string, std::string> terminals;
};
std::string rewriteStatus(const std::string& xml, const StatusChange& change);

/// The flags of an emulator in libvirt's cache (/var/cache/libvirt/qemu/capabilities/*.xml), which is filled by asking libvirt
/// for the emulator's domain capabilities. Throws std::runtime_error when there is no entry for this binary as it is on disk now
/// (<qemuctime>).
std::vector<std::string> capabilityFlags(const std::string& cacheDirectory, const std::string& emulator);

}  // namespace vh
