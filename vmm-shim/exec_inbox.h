// The inbox of descriptors for a process that is going to execute another program.
//
// QEMU executes its successor itself (migration mode cpr-exec, 10.2 and newer), and all that a manager can give a QEMU through
// its monitor is close-on-exec. So each VMM is started with one more descriptor, which it does not know of and which therefore
// outlives the exec: its inbox, a bound datagram socket. What is posted there lies in the process's own receive queue: nobody but
// the process is needed any more, not even the manager that posted it. The program that is executed first (tool/exec.h) takes it
// out.
#pragma once

#include <string>
#include <vector>

#include "vmm-shim/unique_fd.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

/// A label of the sender's, by which the receiver knows what is meant for it, and descriptors, posted at once.
struct Parcel {
    std::string label;
    std::vector<UniqueFd> descriptors;
};

constexpr std::size_t mostInParcel = mostDescriptorsAtOnce;

/// An inbox bound to `path`. Throws std::system_error that names the path, as do the others.
UniqueFd makeInbox(const std::string& path);

/// True when the descriptor is the inbox that was bound to `path`.
bool isInbox(int fd, const std::string& path);

/// Posts a parcel; the descriptors are borrowed. Throws EAGAIN when the inbox is full.
void postParcel(const std::string& path, const std::string& label, const std::vector<int>& descriptors);

/// Takes everything out, in the order of its coming.
std::vector<Parcel> takeParcels(int inbox);

}  // namespace vh
