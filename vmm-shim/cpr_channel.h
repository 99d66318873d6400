// The CPR channel: a CPR state with its descriptors, taken from one socket and given to another.
//
// Both ends work on non-blocking sockets and never wait: call them again when the socket is readable or writable. What waits, and
// for how long, is the caller's business.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "vmm-shim/cpr_state.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/ram_blocks.h"
#include "vmm-shim/unique_fd.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

/// A CPR state that was received whole. `descriptors[n]` belongs to `state.fds[n]`.
struct CprCapture {
    CprState state;
    std::vector<UniqueFd> descriptors;
};

/// Why the second of two captures of one VMM is not the same as the first: an entry that came, went, or stands for another file.
/// Empty when they are alike; the order of entries says nothing (11.1 keeps them in a hash table). Files are what is compared, so
/// two eventfds, which the kernel gives one and the same inode, count as alike.
std::string whatChanged(const CprCapture& before, const CprCapture& after);

/// Why a new VMM must not be fed with this capture of a VMM that has these RAM blocks: a block whose file is not among the
/// entries, an entry whose descriptor is another file than the block of that name is mapped from, an entry that stands for no
/// block. Empty when every block but the named files, which the new VMM opens by itself, is there. `vfioDevices` are checked by
/// nobody yet: a capture that has some is wrong.
std::string whatIsWrong(const CprCapture& capture, const std::vector<RamBlock>& blocks);

class CprReceiver {
 public:
    /// Takes in what has come. True once the peer has ended its sending; then take(). Throws std::system_error when the
    /// connection breaks or the process is out of descriptors, DecodeError when more comes than any state is long.
    bool receiveSome(int socket);

    std::size_t bytesReceived() const { return bytes_.size(); }

    /// The state, decoded. Throws DecodeError, also when there are more or fewer descriptors than entries.
    CprCapture take();

    /// The bytes as they came, and how many descriptors came with them; for tools.
    const std::string& bytes() const { return bytes_; }
    std::size_t descriptorsReceived() const { return descriptors_.size(); }

 private:
    std::string bytes_;
    std::vector<UniqueFd> descriptors_;
};

class CprSender {
 public:
    /// Borrows the capture's descriptors until all is sent. Throws std::invalid_argument unless there is one for each entry.
    explicit CprSender(const CprCapture& capture) : sender_(senderOf(capture)) {}

    /// Sends on. True once everything, and the end of file, has gone out; the socket stays open for reading, and its being closed
    /// by the peer is the hang-up. Throws std::system_error when the peer is gone.
    bool sendSome(int socket);

 private:
    static CarryingSender senderOf(const CprCapture& capture);

    CarryingSender sender_;
};

}  // namespace vh
