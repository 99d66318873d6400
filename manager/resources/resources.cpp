#include "manager/resources/resources.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "config/obstacle.h"
#include "manager/resources/bridge_port.h"
#include "vmm-shim/exec_inbox.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

constexpr const char* ownTaps = "vh";  ///< What the names of taps begin with, before a number.

UniqueFd openFile(const std::string& path, int flags) {
    // Opening a pipe waits for its other end, and the main loop of every VM with it.
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && S_ISFIFO(status.st_mode))
        throw std::runtime_error("open '" + path + "': a named pipe cannot be a disk or a log");
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, 0600));
    if (!fd) throwErrno("open '" + path + "'");
    return fd;
}

void checkHugePages(std::uint64_t sizeBytes, std::uint64_t pageSizeBytes) {
    const std::string directory = "/sys/kernel/mm/hugepages/hugepages-" + std::to_string(pageSizeBytes / 1024) + "kB";
    std::uint64_t free = 0;
    std::ifstream(directory + "/free_hugepages") >> free;
    if (free * pageSizeBytes < sizeBytes)
        throw Refusal({"guest RAM of " + roundedSize(static_cast<double>(sizeBytes)) + " needs " +
                           std::to_string(sizeBytes / pageSizeBytes) + " free huge pages of " +
                           roundedSize(static_cast<double>(pageSizeBytes)) + ", this host has " + std::to_string(free),
                       "raise '" + directory + "/nr_hugepages'"});
}

/// A Linux bridge without an address of its own has the lowest one of its ports, so a tap must have a high one: the guest's, but
/// for its first byte, as libvirt does it (src/util/virnetdevtap.c:virNetDevTapCreateInBridgePort). It must not be the guest's
/// own: a bridge takes what comes from that for an echo.
MacAddress tapAddress(MacAddress guest) {
    guest[0] = guest[0] == 0xfe ? 0xfa : 0xfe;
    return guest;
}

}  // namespace

std::optional<DescriptorIdentity> DescriptorIdentity::of(const Process& process, const OpenFile& file) {
    const auto status = file.status();
    if (!status || file.target.starts_with("anon_inode:")) return std::nullopt;
    const std::string info = "fdinfo/" + std::to_string(file.number);
    const long flags = std::strtol(process.field(info, "flags:").c_str(), nullptr, 8);
    return DescriptorIdentity{{status->st_dev, status->st_ino}, static_cast<int>(flags) & O_ACCMODE, process.field(info, "iff:")};
}

void Resources::add(const std::string& name, UniqueFd fd) {
    const Process self(::getpid());
    const std::string place = "fd/" + std::to_string(fd.get());
    if (const auto identity = DescriptorIdentity::of(self, {fd.get(), self.path(place), self.link(place)}))
        identities_.push_back({name, *identity});
    named_.push_back({name, std::move(fd)});
}

std::size_t Resources::indexOf(const std::string& name) const {
    std::size_t index = 0;
    while (index < named_.size() && named_[index].name != name) ++index;
    return index;
}

int Resources::numberOf(const std::string& name) const {
    const std::size_t index = indexOf(name);
    if (index == named_.size()) throw std::out_of_range("no descriptor is called '" + name + "'");
    return first_ + static_cast<int>(index);
}

std::vector<int> Resources::descriptors() const {
    std::vector<int> all;
    for (const NamedDescriptor& entry : named_) all.push_back(entry.fd.get());
    return all;
}

void Resources::release() {
    for (NamedDescriptor& entry : named_)
        if (!entry.name.starts_with("tap/")) entry.fd.reset();
}

UniqueFd createGuestRam(const VmDefinition& definition, const Identity& identity) {
    const Memory& memory = definition.memory;
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (memory.pageSizeBytes > 4096) {
        checkHugePages(memory.sizeBytes, memory.pageSizeBytes);
        flags |= MFD_HUGETLB | static_cast<unsigned>(std::countr_zero(memory.pageSizeBytes)) << MFD_HUGE_SHIFT;
    }
    const std::string name = definition.name + "/ram0";
    UniqueFd fd(::memfd_create(name.c_str(), flags));
    if (!fd) throwErrno("create memfd '" + name + "'");
    if (::ftruncate(fd.get(), static_cast<off_t>(memory.sizeBytes)) != 0) throwErrno("size memfd '" + name + "'");
    if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) throwErrno("seal memfd '" + name + "'");
    if (::fchmod(fd.get(), 0600) != 0) throwErrno("set the mode of memfd '" + name + "'");
    if (identity.change && ::fchown(fd.get(), identity.uid, identity.gid) != 0)
        throwErrno("give memfd '" + name + "' to the VMM's user");
    return fd;
}

UniqueFd reopen(int file, int flags) {
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
    if (!fd) throwErrno("open '" + path + "' again");
    return fd;
}

UniqueFd reopenGuestRam(const VmmRecord& vmm) {
    const std::string path = Process(vmm.pid).path("fd/" + std::to_string(vmm.ramDescriptor.value_or(-1)));
    UniqueFd fd = openFile(path, O_RDWR);
    if (FileIdentity::of(fd.get()) != vmm.ram)
        throw std::runtime_error("'" + path + "' is not the memory that the VM was started with");
    return fd;
}

std::vector<NamedDescriptor> takeDevices(const VmmRecord& vmm) {
    std::vector<NamedDescriptor> taken;
    for (const auto& [name, kept] : vmm.vfio) {
        taken.push_back({name, Process(vmm.pid).take(kept.descriptor)});
        if (FileIdentity::of(taken.back().fd.get()) != kept.file)
            throw std::runtime_error("descriptor " + std::to_string(kept.descriptor) + " of pid " + std::to_string(vmm.pid) +
                                     " is not the '" + name + "' that it was started with");
    }
    return taken;
}

Resources acquireResources(const VmDefinition& definition, const std::string& directory) {
    Resources resources;
    resources.add("qmp", listenUnix(directory + "/qmp.sock"));
    if (definition.console.enabled) resources.add("console", listenUnix(directory + "/console.sock"));
    if (!definition.console.log.empty())
        resources.add("console/log", openFile(definition.console.log, O_WRONLY | O_CREAT | O_APPEND));
    if (definition.heartbeat) resources.add("heartbeat", listenUnix(directory + "/heartbeat.sock"));
    if (definition.accelerator == Accelerator::Kvm) resources.add("kvm", openFile("/dev/kvm", O_RDWR));
    for (const Disk& disk : definition.disks) {
        // QEMU opens an image for reading first and opens it again for writing when a writer comes (block/file-posix.c).
        // It takes a descriptor of the set only when O_DIRECT is as it wants it (monitor/fds.c:monitor_fdset_dup_fd_add).
        const int direct = disk.cache == DiskCache::None ? O_DIRECT : 0;
        resources.add("disk/" + disk.id + "/ro", openFile(disk.file, O_RDONLY | direct));
        if (!disk.readOnly) resources.add("disk/" + disk.id + "/rw", openFile(disk.file, O_RDWR | direct));
    }
    for (const Network& network : definition.networks)
        if (network.type == NetworkType::Tap) {
            Tap tap = makeTap(ownTaps + std::string("%d"));
            setAddress(tap.name, tapAddress(parseMac(macAddress(definition, network))));
            resources.add("tap/" + network.id, std::move(tap.fd));
        }
    if (definition.memory.owner == MemoryOwner::Vmm) resources.add("inbox", makeInbox(directory + "/exec.sock"));
    return resources;
}

bool isOwnTap(const std::string& name) {
    return name.starts_with(ownTaps) &&
           name.find_first_not_of("0123456789", std::string_view(ownTaps).size()) == std::string::npos;
}

void joinBridges(const VmDefinition& definition, const Resources& resources) {
    for (const Network& network : definition.networks) {
        if (network.type != NetworkType::Tap) continue;
        const std::string tap = nameOfTap(resources.fd("tap/" + network.id));
        joinBridge(tap, network.bridge);
        bringUp(tap);
    }
}

void joinBridges(const VmDefinition& definition, pid_t vmm) {
    const bool hasTap = std::ranges::find(definition.networks, NetworkType::Tap, &Network::type) != definition.networks.end();
    const std::vector<Tap> taps = hasTap ? tapsOf(vmm) : std::vector<Tap>();
    auto tap = taps.begin();
    for (const Network& network : definition.networks) {
        if (network.type != NetworkType::Tap) continue;
        if (tap == taps.end())
            throw std::runtime_error("pid " + std::to_string(vmm) + " has no tap for network '" + network.id + "'");
        joinBridge(tap->name, network.bridge);
        bringUp((tap++)->name);
    }
}

}  // namespace vh
