#include "manager/resources/passthrough.h"

#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <system_error>

#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// linux/iommufd.h and the newer part of linux/vfio.h, which Debian 12's headers lack; Linux 7.3.
constexpr unsigned long ioasMapFile = _IO(';', 0x8f), ioasChangeProcess = _IO(';', 0x92);
constexpr unsigned long bindIommufd = _IO(VFIO_TYPE, VFIO_BASE + 18);
constexpr std::uint32_t dmaBufFeature = 11;
constexpr int unmapAllExtension = 9;
struct IoasMapFile {
    std::uint32_t size, flags, ioasId;
    std::int32_t fd;
    std::uint64_t start, length, iova;
};
struct IoasChangeProcess {
    std::uint32_t size, reserved;
};
struct BindIommufd {
    std::uint32_t argsz, flags;
    std::int32_t iommufd;
    std::uint32_t devid;
};

std::string errorText() {
    return std::generic_category().message(errno);
}

std::string contentOf(const fs::path& file) {
    std::ifstream stream(file);
    std::string text;
    std::getline(stream, text);
    return text;
}

/// The last part of where a link leads; empty when there is no such link.
std::string linkedName(const fs::path& link) {
    std::error_code ignored;
    return fs::read_symlink(link, ignored).filename();
}

std::vector<fs::path> entriesOf(const fs::path& directory) {
    std::error_code ignored;
    std::vector<fs::path> entries;
    for (const auto& entry : fs::directory_iterator(directory, ignored)) entries.push_back(entry.path());
    std::ranges::sort(entries);
    return entries;
}

void writeTo(const fs::path& file, const std::string& text) {
    const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        throwErrno("write '" + text.substr(0, text.find('\n')) + "' to '" + file.string() + "'");
}

UniqueFd openNode(const std::string& node) {
    UniqueFd fd(::open(node.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) throwErrno("open '" + node + "'");
    return fd;
}

/// A device in sysfs.
class SysfsDevice {
 public:
    SysfsDevice(const KernelRoots& roots, std::string address) : roots_(roots), address_(std::move(address)) {}

    bool exists() const { return fs::exists(path()); }
    std::string driver() const { return linkedName(path() / "driver"); }
    bool isVfio() const { return driver().find("vfio") != std::string::npos; }
    std::string group() const { return linkedName(path() / "iommu_group"); }
    /// Empty when the kernel has no cdevs.
    std::string cdev() const {
        for (const fs::path& entry : entriesOf(path() / "vfio-dev"))
            if (const fs::path node = fs::path(roots_.dev) / "vfio/devices" / entry.filename(); fs::exists(node)) return node;
        return {};
    }

    /// Its node and its group's, those that there are.
    std::vector<std::string> nodes() const {
        std::vector<std::string> found;
        for (const std::string& node : {cdev(), roots_.dev + "/vfio/" + group()})
            if (!node.empty() && fs::exists(node)) found.push_back(node);
        return found;
    }

    /// Throws when somebody else has it.
    UniqueFd lock() const {
        UniqueFd fd(::open(path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
            throw std::runtime_error("'" + address_ + "' is being given to another VM just now (" + errorText() + ")");
        return fd;
    }

    /// The devices of its group that some driver of the host's uses, which keep all of the group from being passed through
    /// (drivers/iommu/iommu.c:iommu_device_use_default_domain and driver_managed_dma; Linux 7.3).
    std::vector<std::string> groupMembersInUse() const {
        std::vector<std::string> members;
        for (const fs::path& member : entriesOf(fs::path(roots_.sys) / "kernel/iommu_groups" / group() / "devices")) {
            const SysfsDevice other(roots_, member.filename());
            const std::string driver = other.driver();
            if (driver.empty() || other.isVfio() || driver == "pcieport" || driver == "pci-stub") continue;
            members.push_back(other.address_ + " (driver " + driver + ")");
        }
        return members;
    }

    /// What of the host's would break if its driver let go of it.
    std::string hostUse() const {
        const auto isBelow = [this](const fs::path& link) {
            std::error_code ignored;
            return fs::read_symlink(link, ignored).string().find("/" + address_ + "/") != std::string::npos;
        };
        for (const fs::path& link : entriesOf(fs::path(roots_.sys) / "class/net"))
            if (isBelow(link) && (std::strtoul(contentOf(link / "flags").c_str(), nullptr, 16) & 1) != 0)
                return "network interface '" + link.filename().string() + "' is up; take it down first (ip link set " +
                       link.filename().string() + " down)";
        std::ifstream mounts(roots_.proc + "/self/mountinfo");
        std::string mount, all;
        while (std::getline(mounts, mount)) all += mount + "\n";
        for (const fs::path& link : entriesOf(fs::path(roots_.sys) / "class/block")) {
            if (!isBelow(link)) continue;
            const std::string name = link.filename();
            if (all.find(" " + contentOf(link / "dev") + " ") != std::string::npos)
                return "block device '" + name + "' is mounted; unmount it first";
            if (!entriesOf(link / "holders").empty())
                return "block device '" + name + "' is in use by '" + entriesOf(link / "holders").front().filename().string() +
                       "'";
        }
        return {};
    }

    void bind() const {
        if (driver() == "vfio-pci") return;
        if (const std::string use = hostUse(); !use.empty()) throw std::runtime_error("its " + use);
        writeTo(path() / "driver_override", "vfio-pci\n");
        if (!driver().empty()) writeTo(path() / "driver/unbind", address_);
        writeTo(fs::path(roots_.sys) / "bus/pci/drivers_probe", address_);
        if (driver() == "vfio-pci") return;
        const std::string got = driver();
        unbind();
        throw std::runtime_error("could not be bound to vfio-pci (it has " +
                                 (got.empty() ? "no driver" : "driver '" + got + "'") +
                                 "); is the module there? (modprobe vfio-pci)");
    }

    void unbind() const {
        writeTo(path() / "driver_override", "\n");
        if (driver() == "vfio-pci") writeTo(path() / "driver/unbind", address_);
        writeTo(fs::path(roots_.sys) / "bus/pci/drivers_probe", address_);
    }

 private:
    fs::path path() const { return fs::path(roots_.sys) / "bus/pci/devices" / address_; }

    const KernelRoots& roots_;
    std::string address_;
};

/// The one device of a kind.
std::string addressOf(const std::string& device, const KernelRoots& roots) {
    std::vector<std::string> found;
    for (const fs::path& entry : entriesOf(fs::path(roots.sys) / "bus/pci/devices"))
        if (contentOf(entry / "vendor") == "0x" + device.substr(0, 4) && contentOf(entry / "device") == "0x" + device.substr(5))
            found.push_back(entry.filename());
    if (found.empty()) throw std::runtime_error("the host has no PCI device '" + device + "' (lspci -nn shows what it has)");
    if (found.size() == 1) return found.front();
    throw std::runtime_error("the host has " + std::to_string(found.size()) + " PCI devices '" + device + "': " + joined(found) +
                             "; name one by its address");
}

/// Who has a device node open: `pid 4711 (qemu-system-x86_64)`, or nothing.
std::string userOf(const std::string& node, const KernelRoots& roots) {
    for (const pid_t pid : allProcesses(roots.proc)) {
        const Process process(pid, roots.proc);
        if (std::ranges::any_of(process.visibleFiles(), [&](const OpenFile& file) { return file.target == node; }))
            return "pid " + std::to_string(pid) + " (" + contentOf(process.path("comm")) + ")";
    }
    return {};
}

/// Whether QEMU would map this device's BARs from a dma-buf, which it cannot hand over: see obstacleToDevices(). Only a device
/// that is bound to an iommufd answers (drivers/vfio/vfio_main.c), so it is, for a moment; nobody else has it yet.
bool offersDmaBuf(const std::string& node, const KernelRoots& roots) {
    const UniqueFd iommufd = openNode(roots.dev + "/iommu"), device = openNode(node);
    BindIommufd bind{sizeof(bind), 0, iommufd.get(), 0};
    if (::ioctl(device.get(), bindIommufd, &bind) != 0) {
        if (errno == EBUSY) throw std::runtime_error("'" + node + "' is in use by somebody else");
        return false;  // QEMU's own attempt will tell what is wrong.
    }
    vfio_device_feature feature{};
    feature.argsz = sizeof(feature);
    feature.flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | dmaBufFeature;
    return ::ioctl(device.get(), VFIO_DEVICE_FEATURE, &feature) == 0;
}

bool canOpen(const std::string& node, const Identity& identity) {
    struct stat status {};
    if (::stat(node.c_str(), &status) != 0) return false;
    if (!identity.change) return ::access(node.c_str(), R_OK | W_OK) == 0;
    const unsigned wanted = status.st_uid == identity.uid ? 0600 : status.st_gid == identity.gid ? 0060 : 0006;
    return (status.st_mode & wanted) == wanted;
}

/// Finds a device and binds it where asked to; holds its lock from the first look.
PassedDevice find(const VfioDevice& wanted, const KernelRoots& roots, std::vector<UniqueFd>& locks) {
    PassedDevice found{.id = wanted.id, .address = wanted.address.empty() ? addressOf(wanted.device, roots) : wanted.address};
    const SysfsDevice device(roots, found.address);
    if (!device.exists()) throw std::runtime_error("the host has no PCI device '" + found.address + "'");
    const std::string group = device.group(), driver = device.driver();
    if (group.empty())
        throw std::runtime_error("'" + found.address +
                                 "' is in no IOMMU group: turn the IOMMU on in the firmware and on the kernel's command line "
                                 "(intel_iommu=on, or amd_iommu=on)");
    found.group = static_cast<unsigned>(std::stoul(group));
    if (!wanted.bind && !device.isVfio())
        throw std::runtime_error("'" + found.address + "' has " + (driver.empty() ? "no driver" : "the driver '" + driver + "'") +
                                 ", not vfio-pci; bind it ('driverctl set-override " + found.address +
                                 " vfio-pci'), or have it done with 'bind: true'");
    locks.push_back(device.lock());
    for (const std::string& node : device.nodes())
        if (const std::string user = userOf(node, roots); !user.empty())
            throw std::runtime_error("'" + found.address + "' is in use: " + user + " has '" + node + "' open");
    // Also when it is bound: by a manager that was killed before it could undo it.
    found.bound = wanted.bind;
    if (wanted.bind) device.bind();
    return found;
}

/// Chooses the way to a device whose whole group is found and bound, and gives the VMM's user the rights that it takes.
void openTheWay(PassedDevice& found, const VfioDevice& wanted, const Identity& identity, const KernelRoots& roots,
                std::vector<std::string>& warnings) {
    const SysfsDevice device(roots, found.address);
    const std::string group = std::to_string(found.group);
    if (const std::vector<std::string> others = device.groupMembersInUse(); !others.empty()) {
        throw std::runtime_error("IOMMU group " + group + " of '" + found.address + "' is in use by the host: " + joined(others) +
                                 "; devices of one group can be passed through only together");
    }
    const std::string cdev = fs::exists(roots.dev + "/iommu") ? device.cdev() : std::string();
    const std::string groupNode = roots.dev + "/vfio/" + group;
    if (wanted.interface == VfioInterface::Cdev && cdev.empty())
        throw std::runtime_error("this kernel has no cdev for '" + found.address +
                                 "' (CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV); use 'interface: group'");
    const bool dmaBuf = !cdev.empty() && wanted.interface != VfioInterface::Group && offersDmaBuf(cdev, roots);
    found.interface = wanted.interface != VfioInterface::Auto                    ? wanted.interface
                      : cdev.empty() || (dmaBuf && fs::exists(groupNode)) ? VfioInterface::Group
                                                                          : VfioInterface::Cdev;
    if (found.interface == VfioInterface::Cdev) {
        found.node = cdev;
        if (dmaBuf)
            warnings.push_back("vfio '" + found.id +
                               "': this kernel offers BARs as dma-bufs (CONFIG_VFIO_PCI_DMABUF), which a QEMU that uses them "
                               "cannot hand over; with 'interface: group' it can");
        return;
    }
    found.node = groupNode;
    if (!fs::exists(groupNode) || !fs::exists(roots.dev + "/vfio/vfio"))
        throw std::runtime_error("there is no '" + groupNode +
                                 "' with a container '/dev/vfio/vfio'; is the module there? (modprobe vfio_iommu_type1)");
    if (canOpen(groupNode, identity)) return;
    struct stat status {};
    if (!identity.change || ::stat(groupNode.c_str(), &status) != 0)
        throw std::runtime_error("open '" + groupNode + "': " + std::generic_category().message(EACCES) +
                                 "; run the manager as root, or give this user the node");
    if (::chown(groupNode.c_str(), identity.uid, identity.gid) != 0) throwErrno("give '" + groupNode + "' to the VMM's user");
    found.formerOwner = NodeOwner{status.st_uid, status.st_gid};
}

Obstacle cannotOpen(const std::string& node, const char* module) {
    return {"open '" + node + "': " + errorText(),
            "give the manager's user the right to open it, or load its module (modprobe " + std::string(module) + ")"};
}

}  // namespace

ClaimedDevices claimDevices(const VmDefinition& definition, const Identity& identity, const KernelRoots& roots) {
    ClaimedDevices claimed;
    std::string id;
    try {
        for (const VfioDevice& wanted : definition.vfio) {
            id = wanted.id;
            claimed.devices.push_back(find(wanted, roots, claimed.locks));
        }
        for (std::size_t i = 0; i < definition.vfio.size(); ++i) {
            id = definition.vfio[i].id;
            openTheWay(claimed.devices[i], definition.vfio[i], identity, roots, claimed.warnings);
        }
    } catch (const std::exception& error) {
        releaseDevices(claimed.devices, roots);
        throw std::runtime_error("vfio '" + id + "': " + error.what());
    }
    if (!definition.vfio.empty() && definition.accelerator == Accelerator::Tcg)
        claimed.warnings.push_back("with accelerator 'tcg' passed-through devices work and cannot be handed over");
    return claimed;
}

std::vector<std::string> releaseDevices(const std::vector<PassedDevice>& devices, const KernelRoots& roots) {
    std::vector<std::string> problems;
    for (const PassedDevice& device : devices) {
        const SysfsDevice found(roots, device.address);
        try {
            if (device.formerOwner && ::chown(device.node.c_str(), device.formerOwner->uid, device.formerOwner->gid) != 0 &&
                errno != ENOENT)
                throwErrno("give '" + device.node + "' back to its owner");
            if (device.bound && found.exists()) found.unbind();
        } catch (const std::exception& error) {
            problems.push_back("vfio '" + device.id + "' (" + device.address + "): " + error.what());
        }
    }
    return problems;
}

std::string vfioResource(const std::string& id) {
    return "vfio/" + id;
}

std::vector<NamedDescriptor> openDevices(const std::vector<PassedDevice>& devices, const KernelRoots& roots) {
    std::vector<NamedDescriptor> opened;
    for (const PassedDevice& device : devices) {
        if (device.interface != VfioInterface::Cdev) continue;
        if (opened.empty()) opened.push_back({iommufdName, openNode(roots.dev + "/iommu")});
        opened.push_back({vfioResource(device.id), openNode(device.node)});
    }
    return opened;
}

std::optional<Obstacle> obstacleToDevices(const std::vector<PassedDevice>& devices, pid_t vmm, const KernelRoots& roots) {
    const auto has = [&](VfioInterface interface) {
        return std::ranges::any_of(devices, [interface](const PassedDevice& device) { return device.interface == interface; });
    };
    for (const PassedDevice& device : devices) {
        const SysfsDevice found(roots, device.address);
        const std::string subject = "vfio '" + device.id + "' (" + device.address + ") ";
        if (!found.exists())
            return Obstacle{subject + "is gone from the host",
                            "power-cycle the VM when it is back, or without it in the definition's 'vfio'"};
        if (found.driver().empty())
            return Obstacle{subject + "is being taken away by the host, which waits for the VMM to let go of it",
                            "power-cycle the VM, without it in the definition's 'vfio'"};
        if (!found.isVfio())
            return Obstacle{
                subject + "is no longer bound to vfio-pci but to '" + found.driver() + "'; the guest has lost it already",
                "power-cycle the VM with the device bound to vfio-pci again, or without it in the definition's 'vfio'"};
    }
    if (has(VfioInterface::Cdev)) {
        const UniqueFd iommufd(::open((roots.dev + "/iommu").c_str(), O_RDWR | O_CLOEXEC));
        if (!iommufd) return cannotOpen(roots.dev + "/iommu", "iommufd");
        // Of an empty iommufd: the one is to map into an address space that is not there (ENOENT), the other changes nothing.
        IoasMapFile map{};
        map.size = sizeof(map);
        map.fd = -1;
        IoasChangeProcess change{sizeof(change), 0};
        for (const auto& [missing, what] :
             {std::pair{::ioctl(iommufd.get(), ioasMapFile, &map) != 0 && errno == ENOTTY, "IOMMU_IOAS_MAP_FILE"},
              std::pair{::ioctl(iommufd.get(), ioasChangeProcess, &change) != 0, "IOMMU_IOAS_CHANGE_PROCESS"}})
            if (missing)
                return Obstacle{std::string("this kernel's iommufd has no ") + what +
                                    ", without which a device cannot change its VMM (Linux 6.13 has it)",
                                "use a newer kernel, or power-cycle the VM with 'interface: group'"};
        // One that was mapped for DMA makes IOMMU_IOAS_CHANGE_PROCESS answer EINVAL, which QEMU asks for when the guest is
        // stopped already (drivers/iommu/iommufd/ioas.c, Linux 7.3; hw/vfio/region.c:vfio_region_create_dma_buf, QEMU 11.1).
        for (const OpenFile& file : Process(vmm, roots.proc).visibleFiles())
            if (file.target.starts_with("/dmabuf:"))
                return Obstacle{
                    "the VMM has mapped BARs of its devices as dma-bufs (the kernel's CONFIG_VFIO_PCI_DMABUF), which "
                    "the iommufd cannot hand over",
                    "power-cycle the VM with 'interface: group', whose container can"};
    }
    if (has(VfioInterface::Group)) {
        const UniqueFd container(::open((roots.dev + "/vfio/vfio").c_str(), O_RDWR | O_CLOEXEC));
        if (!container) return cannotOpen(roots.dev + "/vfio/vfio", "vfio_iommu_type1");
        // VFIO_UPDATE_VADDR, which it takes as well, is told of a container in use only (drivers/vfio/vfio_iommu_type1.c:
        // vfio_iommu_type1_check_extension, Linux 7.3): the old VMM asks its own, and is asked before anything stops.
        if (::ioctl(container.get(), VFIO_CHECK_EXTENSION, unmapAllExtension) <= 0)
            return Obstacle{"this kernel's vfio container has no VFIO_UNMAP_ALL, without which a device cannot change its VMM",
                            "use a newer kernel"};
    }
    return {};
}

std::optional<Obstacle> obstacleToPassthrough(const std::vector<std::string>& arguments) {
    struct Excluded {
        const char *word, *why, *remedy;
    };
    static constexpr const char* without = "power-cycle the VM, without it or with the new VMM";
    static constexpr std::array excluded = {
        Excluded{"sysfsdev=", "a mediated device (mdev) is not a PCI device, and QEMU does not hand it over", without},
        Excluded{"vfio-user", "QEMU's CPR does not know vfio-user devices", without},
        Excluded{"vfio-pci", "a device that the manager does not know of",
                 "list the device under 'vfio' in place of the argument, and power-cycle the VM"},
        Excluded{"-iommu", "a handover of devices behind a virtual IOMMU was never tried", without},
        Excluded{"sev-", "memory of a confidential guest (guest_memfd) cannot be handed over", without},
        Excluded{"tdx-guest", "memory of a confidential guest (guest_memfd) cannot be handed over", without},
    };
    for (const std::string& argument : arguments)
        for (const auto& [word, why, remedy] : excluded)
            if (argument.find(word) != std::string::npos) return Obstacle{"'" + argument + "': " + why, remedy};
    return {};
}

CprPassthrough cprPassthrough(const std::vector<PassedDevice>& devices, const std::map<std::string, int>& kept,
                              const KernelRoots& roots) {
    const auto descriptorOf = [&](const std::string& name) {
        const auto found = kept.find(name);
        return found == kept.end() ? -1 : found->second;
    };
    // `  45:  0  12  IR-PCI-MSIX-0000:00:10.0  1-edge  vfio-msix[1](0000:00:10.0)`: one line for each that is asked for
    // (drivers/vfio/pci/vfio_pci_intrs.c, Linux 6.1 to 7.3).
    static const std::regex line(R"(vfio-(msix?|intx)(?:\[(\d+)\])?\(([0-9a-f:.]+)\))");
    std::map<std::string, std::set<std::pair<std::string, std::int32_t>>> interrupts;
    std::ifstream file(roots.proc + "/interrupts");
    for (std::string text; std::getline(file, text);) {
        std::smatch match;
        if (!std::regex_search(text, match, line)) continue;
        const bool isIntx = match[1] == "intx";
        interrupts[match[3]].insert({isIntx ? "intx-interrupt" : "interrupt", isIntx ? 0 : std::stoi(match[2])});
    }

    CprPassthrough passthrough;
    for (const PassedDevice& device : devices) {
        const bool isCdev = device.interface == VfioInterface::Cdev;
        if (isCdev) {
            passthrough.iommufd = iommufdName;
            passthrough.iommufdDescriptor = descriptorOf(iommufdName);
        } else {
            passthrough.groups.insert(static_cast<std::int32_t>(device.group));
        }
        passthrough.devices.push_back({.name = isCdev ? device.id : device.address,
                                       .descriptor = descriptorOf(vfioResource(device.id)),
                                       .isCdev = isCdev,
                                       .interrupts = interrupts[device.address]});
    }
    return passthrough;
}

std::set<std::string> eventfdsOf(pid_t pid) {
    const Process process(pid);
    std::set<std::string> numbers;
    for (const OpenFile& file : process.visibleFiles())
        if (const std::string number = process.field("fdinfo/" + std::to_string(file.number), "eventfd-id:"); !number.empty())
            numbers.insert(number);
    return numbers;
}

void checkMemoryLock(std::uint64_t bytes) {
    if (::geteuid() == 0) return;
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_max < bytes)
        throw Refusal({"guest RAM of " + roundedSize(static_cast<double>(bytes)) +
                           " must be locked for a device's DMA, and this user may lock " +
                           roundedSize(static_cast<double>(limit.rlim_max)) + " (ulimit -H -l)",
                       "run the manager as root, or raise the limit"});
}

}  // namespace vh
