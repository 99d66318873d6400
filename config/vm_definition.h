// A virtual machine as its owner wrote it down: a plain value, equal when every key is equal.
//
// Everything that the guest can see, or that a second VMM must repeat to be the same machine, is here; nothing that exists only
// while a VM runs is (that is manager/). Keys and defaults are described once, in config/README.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "config/design.h"

namespace vh {

enum class Accelerator { Kvm, Tcg, Auto };
enum class DiskFormat { Raw, Qcow2 };
enum class DiskCache { Writeback, None };
enum class NetworkType { User, Tap };
enum class OnFailure { Report, Retry };
/// One of the kernel's two ways to a passed-through device: a device node of its own with an iommufd, or its IOMMU group's with a
/// container. Auto looks at the host.
enum class VfioInterface { Auto, Cdev, Group };

template <>
inline constexpr auto namesOf<Accelerator> = namesFor(Accelerator::Auto, "kvm", "tcg", "auto");
template <>
inline constexpr auto namesOf<DiskFormat> = namesFor(DiskFormat::Qcow2, "raw", "qcow2");
template <>
inline constexpr auto namesOf<DiskCache> = namesFor(DiskCache::None, "writeback", "none");
template <>
inline constexpr auto namesOf<NetworkType> = namesFor(NetworkType::Tap, "user", "tap");
template <>
inline constexpr auto namesOf<OnFailure> = namesFor(OnFailure::Retry, "report", "retry");
template <>
inline constexpr auto namesOf<VfioInterface> = namesFor(VfioInterface::Group, "auto", "cdev", "group");

struct Cpu {
    std::string model = "max";
    unsigned sockets = 1;
    unsigned cores = 1;
    unsigned threads = 1;

    unsigned count() const { return sockets * cores * threads; }
    bool operator==(const Cpu&) const = default;
};

struct Memory {
    std::uint64_t sizeBytes = 0;         ///< A multiple of pageSizeBytes.
    std::uint64_t pageSizeBytes = 4096;  ///< 4 KiB, or a huge page size (2 MiB, 1 GiB).
    MemoryOwner owner = MemoryOwner::Manager;

    bool operator==(const Memory&) const = default;
};

/// Either a kernel, or a disk that firmware boots from; the parser refuses both together and neither.
struct Boot {
    std::string kernel;
    std::string initrd;
    std::string cmdline;
    std::string firmware;  ///< A firmware image; empty for the machine type's own.
    std::string disk;      ///< The id of the disk to boot from.

    bool operator==(const Boot&) const = default;
};

struct Disk {
    std::string id;
    std::string file;
    DiskFormat format = DiskFormat::Raw;
    DiskCache cache = DiskCache::Writeback;
    bool readOnly = false;
    std::string serial;

    bool operator==(const Disk&) const = default;
};

struct Network {
    std::string id;
    NetworkType type = NetworkType::User;
    std::string bridge;  ///< The host bridge that a tap joins; only with NetworkType::Tap.
    std::string mac;     ///< Lower case, `52:54:00:12:34:56`.

    bool operator==(const Network&) const = default;
};

struct Console {
    bool enabled = true;
    std::string log;  ///< A file that all serial output is appended to; empty for none.

    bool operator==(const Console&) const = default;
};

/// A host PCI device passed through to the guest; named by its place, or by its kind where the host has one of that.
struct VfioDevice {
    std::string id;
    std::string address;  ///< `0000:01:00.0`; empty when there is a `device`.
    std::string device;   ///< Vendor and device id, `8086:10c9`.
    bool bind = false;    ///< The manager binds it to vfio-pci, and gives it back to its driver afterwards.
    VfioInterface interface = VfioInterface::Auto;

    bool operator==(const VfioDevice&) const = default;
};

struct Vmm {
    std::string binary = "/usr/bin/qemu-system-x86_64";
    std::string user = "nobody";  ///< User that the VMM runs as when the manager is root.
    bool sandbox = true;
    std::vector<std::string> arguments;  ///< Handed to the VMM after all of ours.

    bool operator==(const Vmm&) const = default;
};

/// The longest that each step of a handover may take; see the handover table in manager/README.md.
struct Deadlines {
    // The guest runs on in the first three, so they are long enough for a busy host.
    std::chrono::milliseconds launch{30'000};
    std::chrono::milliseconds exchange{30'000};
    std::chrono::milliseconds verify{30'000};
    std::chrono::milliseconds standby{3'600'000};  ///< Time that `upgrade --standby` waits for a commit.
    std::chrono::milliseconds switchOver{60'000};
    std::chrono::milliseconds retire{10'000};

    bool operator==(const Deadlines&) const = default;
};

struct HandoverSettings {
    Design design = defaultDesign;
    std::chrono::milliseconds pauseBudget{1'000};  ///< The guest goes back to the old VMM when it has been stopped for this long.
    Deadlines deadlines;
    OnFailure onFailure = OnFailure::Report;
    std::string saveDirectory = "/var/tmp";  ///< Directory in which save-restore keeps guest RAM; the file has no name.

    bool operator==(const HandoverSettings&) const = default;
};

struct VmDefinition {
    std::string name;
    std::string uuid;     ///< Lower case; empty when the file has none, and then the manager makes one at the first start.
    std::string machine;  ///< A versioned type, or an alias such as `q35` that the manager resolves at the first start.
    Accelerator accelerator = Accelerator::Auto;
    Cpu cpu;
    Memory memory;
    Boot boot;
    std::vector<Disk> disks;
    std::vector<Network> networks;
    Console console;
    bool heartbeat = false;  ///< A virtio-serial port, `org.virt-handover.heartbeat.0`, on which the guest probe reports.
    std::vector<VfioDevice> vfio;
    Vmm vmm;
    HandoverSettings handover;

    bool operator==(const VmDefinition&) const = default;
};

/// `512MiB`, `4KiB`, or bytes where no unit divides: what a file would have.
std::string formatSize(std::uint64_t bytes);

/// The guest's address on a network: the definition's, or a locally administered one that is the same at every start.
std::string macAddress(const VmDefinition& definition, const Network& network);

}  // namespace vh
