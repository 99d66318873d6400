// The CPR state: entries that an old VMM sends the new one on the CPR channel before the guest stops (mode `cpr-transfer`).
//
//     "QCPR" be32 version=1
//     per entry   01  be32 length  name NUL  be32 id  20          the space carries one descriptor (SCM_RIGHTS)
//     00
//     only 10.1 and later, and always then:
//     05  15 "CprState/vfio devices"  be32 version=1
//     per device  01  be32 length  name NUL  be32 devid  be32 ioas_id  be32 hwpt_id
//     00
//     end of file: the sender shuts down its writing and waits for the receiver to hang up
//
// Entries and descriptors are matched by order only; there is no checksum and no count. An entry's name is the RAM block's idstr,
// a memory backend's id, or a vfio device's.
// Sources: migration/cpr.c:cpr_state_save, vmstate_cpr_fd, migration/vmstate-types.c:save_qlist, save_fd,
// hw/vfio/cpr-iommufd.c:vmstate_cpr_vfio_devices; QEMU 10.0.2, 10.2.2 and 11.1.1, tried on 10.0.2 and 11.1.3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vh {

struct CprFd {
    std::string name;
    std::int32_t id = 0;

    bool operator==(const CprFd&) const = default;
};

struct CprVfioDevice {
    std::string name;
    std::int32_t devid = 0;
    std::uint32_t ioas_id = 0;
    std::uint32_t hwpt_id = 0;

    bool operator==(const CprVfioDevice&) const = default;
};

struct CprState {
    std::vector<CprFd> fds;  ///< Entries in the order of the wire: the n-th goes with the n-th descriptor.
    /// Absent in 10.0, whose reader ends on it; mostly empty since.
    std::optional<std::vector<CprVfioDevice>> vfioDevices;

    bool operator==(const CprState&) const = default;
};

constexpr std::size_t maxCprStateBytes = std::size_t{4} << 20;
constexpr std::size_t maxCprEntries = 16384;
constexpr std::size_t maxCprNameLength = 1024;  ///< Counts the NUL; a qdev path and a block's name.

/// Reads a whole state. Throws DecodeError on anything that is not as above: another version, a name that appears twice with one
/// id, a service byte that is no space, an end too early, bytes after the end.
CprState decodeCprState(std::string_view bytes);

struct EncodedCprState {
    std::string bytes;
    std::vector<std::size_t> serviceBytes;  ///< Offset of the byte that carries the n-th descriptor.
};

EncodedCprState encodeCprState(const CprState& state);

}  // namespace vh
