// Preflight's judgement: a pure function from what is known of a handover that was asked for to what stands against it. The facts
// come in (questions.h), the cheap ones first; what is not known yet stands against nothing.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/design.h"
#include "config/obstacle.h"
#include "config/vm_definition.h"
#include "manager/record/vm_record.h"
#include "manager/resources/memory_room.h"
#include "manager/vmm/binary_probe.h"

namespace vh {

/// QEMU's first release whose `migrate` has the argument `channels`, and can save to a file (qapi/migration.json).
constexpr Release firstWithChannels{8, 2};

struct HandoverFacts {
    // The request and the VM.
    Design design = defaultDesign;
    bool standby = false;
    VmDefinition definition;  ///< Definition as it was started, resolved.
    std::vector<PassedDevice> devices;

    // The host.
    std::string runtimeDirectory;
    std::uint64_t runtimeFreeBytes = UINT64_MAX, saveFreeBytes = UINT64_MAX, availableBytes = UINT64_MAX;
    std::optional<MemoryRoom> room;  ///< Room in the memory cgroup with the least.
    ResidentMemory resident;         ///< Memory of the old VMM.
    struct MissingFile {
        std::string path, why;
    };
    std::vector<MissingFile> missingFiles;   ///< Files that the new VMM opens at its start.
    std::optional<Obstacle> devicesProblem;  ///< The kernel's reason against handing these devices over.

    std::optional<VmmBinary> newBinary;
    std::optional<Obstacle> newBinaryProblem;  ///< Why a binary that was asked is no VMM, or has not answered.

    pid_t oldPid = 0;
    bool oldLives = true;
    std::optional<std::string> monitorProblem;  ///< Why the old VMM's monitor does not answer.
    struct OldVmm {
        std::string kind, version;  ///< Empty until it has said so.
    } old;
    std::optional<Obstacle> execProblem;  ///< Obstacle in the old VMM's process, or in the program that it is to execute.

    /// The guest by its VMM's answers; what is not known yet is empty.
    struct Guest {
        std::string runState;
        bool isOwnAnswer = true;  ///< The process that answers is the recorded one.
        bool hasBlockJobs = false;
        std::vector<std::string> listeners, taps, deletedFiles;  ///< Things that a second VMM cannot have beside it.
        std::vector<std::string> blockers;                       ///< Migration blockers, in the design's mode and in `normal`.
        std::vector<std::string> serials, drivelessNvmes;  ///< QEMU crashes on saving these: pci-serial-2x, NVMe without drive.
        std::string privateRamBlock;                       ///< First block that no other process can map.
    } guest;
};

/// The obstacle to the handover by what is known, or nothing.
std::optional<Obstacle> obstacleTo(const HandoverFacts& facts);

/// Device, inode, size and time of the last change of a file, which tell it from another at its path. All zero when there is
/// none.
using FileStamp = std::array<std::int64_t, 5>;

/// What has become of a new VMM's files meanwhile: of its binary, which was `probed`, and is that `now`; and of `replacedCode`, a
/// file that it runs and whose name is another one's by now, or no one's. Empty: there is no such.
std::optional<Obstacle> changeOfInstalled(const std::string& binary, const FileStamp& probed, const FileStamp& now,
                                          const std::string& replacedCode);

/// True when the guest would lose writes. Under TCG, QEMU before 9.0 does not notice all that a running guest writes while its
/// RAM is copied: a guest was seen to crash on the new VMM after each of eight live copies from 7.2 (9.0 has "physmem: Fix
/// migration dirty bitmap coherency with TCG memory access").
bool losesWritesOfRunningGuest(const HandoverFacts& facts);

/// QEMU 10.1 and later always append "CprState/vfio devices" to the CPR state, and 10.0 ends with "vmstate_load_state error -2"
/// on it (hw/vfio/cpr-iommufd.c:vmstate_cpr_vfio_devices has no `.needed`, 11.1).
bool sendsVfioSubsection(const std::string& version);

}  // namespace vh
