// Descriptors that the manager opens so that a VMM need not, with names, in the order in which the VMM process inherits them.
//
// The manager is privileged and opens; the VMM is not and inherits. Each VMM process gets open file descriptions of its own for
// disks and taps: QEMU's image locks belong to the open file description (fcntl F_OFD_SETLK, block/file-posix.c), so two VMMs on
// a shared one would not keep each other out.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/vm_definition.h"
#include "manager/process/child_process.h"
#include "manager/record/vm_record.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// Identity of a descriptor, by which it is known again in another process, under whatever number it has there.
struct DescriptorIdentity {
    FileIdentity file;
    int access = 0;   ///< Access mode as open() takes it: a disk is opened once for reading, and once for writing as well.
    std::string tap;  ///< The interface: all taps are one and the same file.

    /// The identity of a descriptor; none of one that is closed, and of what has no file of its own: all eventfds are one
    /// (fs/anon_inodes.c, Linux 6.18).
    static std::optional<DescriptorIdentity> of(const Process& process, const OpenFile& file);
    bool operator==(const DescriptorIdentity&) const = default;
};

struct NamedIdentity {
    std::string name;
    DescriptorIdentity identity;
};

class Resources {
 public:
    /// Adds a descriptor; `name` is unique, like `disk/root/rw`.
    void add(const std::string& name, UniqueFd fd);

    bool has(const std::string& name) const { return indexOf(name) < named_.size(); }
    /// The number that the first descriptor has inside the VMM process; the others follow.
    void setFirstNumber(int first) { first_ = first; }
    /// The number that the descriptor has inside the VMM process. Throws std::out_of_range for an unknown name.
    int numberOf(const std::string& name) const;
    /// The manager's own descriptor, borrowed.
    int fd(const std::string& name) const { return named_.at(indexOf(name)).fd.get(); }
    /// The identities of all descriptors that have one, also when they are closed here.
    const std::vector<NamedIdentity>& identities() const { return identities_; }
    /// All descriptors, borrowed, in the order of their numbers.
    std::vector<int> descriptors() const;

    /// Closes the manager's own copies, but for the taps, which joinBridges() still needs.
    void release();

 private:
    std::size_t indexOf(const std::string& name) const;
    std::vector<NamedDescriptor> named_;
    std::vector<NamedIdentity> identities_;
    int first_ = ChildProcess::firstDescriptor;
};

/// A memfd `VM/ram0` of exactly the definition's memory, sealed against shrinking and growing, readable and writable by the VMM's
/// user only. Throws std::runtime_error when huge pages were asked for and the host has too few free.
UniqueFd createGuestRam(const VmDefinition& definition, const Identity& identity);

/// A file of our own, opened anew with other flags. Throws std::system_error.
UniqueFd reopen(int file, int flags);

/// Guest RAM of a running VMM, opened again through /proc. Throws std::runtime_error when what is there is not the recorded file.
UniqueFd reopenGuestRam(const VmmRecord& vmm);

/// The passed-through devices of a running VMM, as openDevices() opened them: the same open files, taken out of its process.
/// Throws std::runtime_error when what is there is not what the record says.
std::vector<NamedDescriptor> takeDevices(const VmmRecord& vmm);

/// Everything but guest RAM and passed-through devices that a VMM of this definition inherits: listening sockets in `directory`,
/// disks, logs and taps, and an inbox where guest RAM is the VMM's own, so that it could be executed.
Resources acquireResources(const VmDefinition& definition, const std::string& directory);

/// True when a tap with this name is one that acquireResources() made.
bool isOwnTap(const std::string& name);

/// Lets the taps of this VMM into their bridges: from now on its guest receives. Until then a VMM that stands by must not read
/// what is meant for the one that runs the guest.
void joinBridges(const VmDefinition& definition, const Resources& resources);
/// Lets the taps of a VMM that another manager started into their bridges; they are found by what the kernel says of its
/// descriptors.
void joinBridges(const VmDefinition& definition, pid_t vmm);

}  // namespace vh
