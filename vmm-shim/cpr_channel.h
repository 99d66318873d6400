// The CPR channel: a CPR state with its descriptors, taken from one socket and given to another.
//
// Both ends work on non-blocking sockets and never wait: call them again when the socket is readable or writable. What waits, and
// for how long, is the caller's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "vmm-shim/cpr_state.h"
#include "vmm-shim/ram_blocks.h"
#include "vmm-shim/unique_fd.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

/// A CPR state that was received whole. `descriptors[n]` belongs to `state.fds[n]`.
struct CprCapture {
    CprState state;
    std::vector<UniqueFd> descriptors;
};

/// The entries of a CPR state for passed-through devices, besides RAM.
///
/// Entries have a name and an id (hw/vfio/cpr.c, cpr-iommufd.c, cpr-legacy.c, device.c, backends/iommufd.c; QEMU 11.1.3):
///     the iommufd object's id, 0                           with a cdev
///     "vfio_group", G   "vfio_container_for_group", G      with the container of IOMMU group G
///     DEVICE, 0                                            its own descriptor; DEVICE is its id when QEMU was given it, else its
///                                                          host address
///     DEVICE_interrupt, N   DEVICE_kvm_interrupt, N        the eventfds of MSI or MSI-X vector N
///     DEVICE_intx-interrupt, 0   DEVICE_intx-unmask, 0   DEVICE_err_notifier, 0   DEVICE_req_notifier, 0
struct CprPassthrough {
    struct Device {
        std::string name;
        int descriptor = -1;  ///< The one that the entry must be, borrowed; -1 when QEMU opened the device itself.
        bool isCdev = true;
        /// Interrupts that the kernel delivers now, as entries without the device's name: `{"interrupt", 0}`.
        std::set<std::pair<std::string, std::int32_t>> interrupts;
    };
    std::string iommufd;            ///< The object's id; empty without a cdev.
    int iommufdDescriptor = -1;     ///< Like a device's descriptor.
    std::set<std::int32_t> groups;  ///< IOMMU groups whose container is used.
    std::vector<Device> devices;
};

/// The difference between two captures of one VMM: an entry that came, went, or stands for another file. Empty when they are
/// alike; the order of entries says nothing (11.1 keeps them in a hash table).
std::string whatChanged(const CprCapture& before, const CprCapture& after);

/// The reason why a new VMM must not be fed with this capture of a VMM that has these RAM blocks and devices: a block whose file
/// is not among the entries, an entry whose descriptor is another file than the block of that name is mapped from, a device, an
/// interrupt or an id of the kernel's that is not there, an entry that stands for nothing of all this. Empty when every block but
/// the named files, which the new VMM opens by itself, is there, and every device whole. QEMU 11.1 itself aborts on a device that
/// is not in its list (hw/vfio/cpr-iommufd.c:vfio_cpr_load_device), and goes on without an interrupt that is not.
std::string whatIsWrong(const CprCapture& capture, const std::vector<RamBlock>& blocks, const CprPassthrough& passthrough = {});

/// The kernel's number of an eventfd, the same for all descriptors of it, which share one inode with all other eventfds; empty
/// for another kind of file. `process` is a directory of /proc (fs/eventfd.c:eventfd_show_fdinfo, since Linux 5.2).
std::string eventfdId(int descriptor);

class CprReceiver {
 public:
    /// Takes in what has come. True once the peer has ended its sending; then take(). Throws std::system_error when the
    /// connection breaks or the process is out of descriptors, DecodeError when more comes than any state is long.
    bool receiveSome(int socket);

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
