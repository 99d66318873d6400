#include "vmm-shim/cpr_channel.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <stdexcept>

#include "vmm-shim/bytes.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

std::string describe(const std::pair<std::string, std::int32_t>& key) {
    return "'" + key.first + "'" + (key.second == 0 ? "" : " (id " + std::to_string(key.second) + ")");
}

void requireOneDescriptorPerEntry(const CprCapture& capture) {
    if (capture.descriptors.size() != capture.state.fds.size())
        throw std::invalid_argument("a CPR state with " + std::to_string(capture.state.fds.size()) + " entries and " +
                                    std::to_string(capture.descriptors.size()) + " descriptors");
}

using Key = std::pair<std::string, std::int32_t>;

/// What a descriptor gives.
struct Given {
    int fd = -1;
    FileIdentity file;
    std::string eventfd;
    bool writable = false;

    bool operator==(const Given& other) const {
        return file == other.file && eventfd == other.eventfd && writable == other.writable;
    }
};

std::map<Key, Given> filesOf(const CprCapture& capture) {
    requireOneDescriptorPerEntry(capture);
    std::map<Key, Given> files;
    for (std::size_t i = 0; i < capture.state.fds.size(); ++i) {
        const int fd = capture.descriptors[i].get();
        files[{capture.state.fds[i].name, capture.state.fds[i].id}] = {fd, FileIdentity::of(fd), eventfdId(fd),
                                                                       (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR};
    }
    return files;
}

std::map<std::string, CprVfioDevice> vfioDevicesOf(const CprCapture& capture) {
    std::map<std::string, CprVfioDevice> found;
    for (const CprVfioDevice& device : capture.state.vfioDevices.value_or(std::vector<CprVfioDevice>{}))
        found[device.name] = device;
    return found;
}

/// Whether two descriptors are one opened file: a device node that is opened twice is two.
bool isSameOpenFile(int one, int other) {
    const long answer = ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, one, other);
    if (answer < 0 && errno != EBADF) return FileIdentity::of(one) == FileIdentity::of(other);  // A kernel without kcmp().
    return answer == 0;
}

/// What is wrong with the devices; the keys of all their entries are added to `known`.
std::string whatIsWrongWith(const CprPassthrough& passthrough, const CprCapture& capture, const std::map<Key, Given>& files,
                            std::set<Key>& known) {
    const auto missing = [&](const Key& key) {
        known.insert(key);
        return files.contains(key) ? std::string() : describe(key) + " is not in the CPR state";
    };
    const auto isAnother = [&](const Key& key, int wanted) {
        return wanted >= 0 && !isSameOpenFile(files.at(key).fd, wanted)
                   ? "the descriptor for " + describe(key) + " in the CPR state is another one than the manager opened"
                   : std::string();
    };
    if (!passthrough.iommufd.empty()) {
        const Key key{passthrough.iommufd, 0};
        if (std::string wrong = missing(key); !wrong.empty()) return "the iommufd " + wrong;
        if (std::string wrong = isAnother(key, passthrough.iommufdDescriptor); !wrong.empty()) return wrong;
    }
    for (const std::int32_t group : passthrough.groups)
        for (const char* name : {"vfio_group", "vfio_container_for_group"})
            if (std::string wrong = missing({name, group}); !wrong.empty()) return "IOMMU group entry " + wrong;

    std::map<std::string, CprVfioDevice> listed = vfioDevicesOf(capture);
    for (const CprPassthrough::Device& device : passthrough.devices) {
        const Key key{device.name, 0};
        if (std::string wrong = missing(key); !wrong.empty()) return "the passed-through device " + wrong;
        if (std::string wrong = isAnother(key, device.descriptor); !wrong.empty()) return wrong;
        if (device.isCdev) {
            const auto entry = listed.find(device.name);
            if (entry == listed.end())
                return "the passed-through device '" + device.name + "' is not in the CPR state's list of vfio devices";
            const auto& [name, devid, ioas, hwpt] = entry->second;
            if (devid <= 0 || ioas == 0 || hwpt == 0)
                return "the passed-through device '" + device.name +
                       "' is in the CPR state without an id of the kernel's (devid " + std::to_string(devid) + ", ioas_id " +
                       std::to_string(ioas) + ", hwpt_id " + std::to_string(hwpt) + ")";
            listed.erase(entry);
        }
        for (const auto& [interrupt, number] : device.interrupts)
            if (!files.contains({device.name + "_" + interrupt, number}))
                return "the kernel delivers the interrupt " + describe({device.name + "_" + interrupt, number}) +
                       ", which is not in the CPR state: it would be lost";
        for (const char* suffix :
             {"interrupt", "kvm_interrupt", "intx-interrupt", "intx-unmask", "err_notifier", "req_notifier"}) {
            const std::string name = device.name + "_" + suffix;
            for (auto entry = files.lower_bound({name, INT32_MIN}); entry != files.end() && entry->first.first == name; ++entry) {
                known.insert(entry->first);
                if (entry->second.eventfd.empty()) return "the descriptor for " + describe(entry->first) + " is no eventfd";
            }
        }
    }
    if (!listed.empty())
        return "the CPR state has the vfio device '" + listed.begin()->first + "', which the definition does not have";
    return {};
}

}  // namespace

std::string eventfdId(int descriptor) {
    return Process(::getpid()).field("fdinfo/" + std::to_string(descriptor), "eventfd-id:");
}

std::string whatChanged(const CprCapture& before, const CprCapture& after) {
    const auto old = filesOf(before), now = filesOf(after);
    for (const auto& [key, file] : old) {
        const auto found = now.find(key);
        if (found == now.end()) return describe(key) + " is no longer in the CPR state";
        if (found->second != file) return describe(key) + " stands for another file than before";
    }
    for (const auto& [key, file] : now)
        if (!old.contains(key)) return describe(key) + " is new in the CPR state";
    return vfioDevicesOf(before) == vfioDevicesOf(after) ? std::string()
                                                         : "the vfio devices of the CPR state are not the same as before";
}

std::string whatIsWrong(const CprCapture& capture, const std::vector<RamBlock>& blocks, const CprPassthrough& passthrough) {
    const auto files = filesOf(capture);
    std::set<Key> known;
    for (const RamBlock& block : blocks) {
        if (block.named_file) continue;  // backends/hostmem-file.c makes no entry; 10.0 and 11.1.
        known.insert({block.idstr, 0});
        const auto entry = files.find({block.idstr, 0});
        if (entry == files.end()) return "RAM block '" + block.idstr + "' is not in the CPR state";
        if (!block.file)
            return "RAM block '" + block.idstr + "' is in the CPR state, and the old VMM has not mapped it from a file";
        if (entry->second.file != block.file->identity)
            return "the descriptor for RAM block '" + block.idstr +
                   "' in the CPR state is another file than the one that the old VMM has mapped";
        // QEMU forgets an entry that it cannot map, and takes memory of its own (system/physmem.c:qemu_ram_alloc_internal, 11.1).
        if (!entry->second.writable && !block.read_only)
            return "the descriptor for RAM block '" + block.idstr + "' in the CPR state cannot be written to";
    }
    if (std::string wrong = whatIsWrongWith(passthrough, capture, files, known); !wrong.empty()) return wrong;
    for (const auto& [key, given] : files)
        if (!known.contains(key))
            return "the CPR state has an entry " + describe(key) + ", and the old VMM no such RAM block or device";
    return {};
}

bool CprReceiver::receiveSome(int socket) {
    for (;;) {
        const auto count = vh::receiveSome(socket, bytes_, descriptors_);
        if (!count) return false;
        if (bytes_.size() > maxCprStateBytes || descriptors_.size() > maxCprEntries)
            throw DecodeError(bytes_.size(), "what comes on the CPR channel is longer than any CPR state");
        if (*count == 0) return true;
    }
}

CprCapture CprReceiver::take() {
    CprCapture capture{decodeCprState(bytes_), {}};
    if (capture.state.fds.size() != descriptors_.size())
        throw DecodeError(bytes_.size(), "the CPR state names " + std::to_string(capture.state.fds.size()) +
                                             " descriptors, and " + std::to_string(descriptors_.size()) + " came with it");
    capture.descriptors = std::move(descriptors_);
    return capture;
}

CarryingSender CprSender::senderOf(const CprCapture& capture) {
    requireOneDescriptorPerEntry(capture);
    EncodedCprState encoded = encodeCprState(capture.state);
    std::vector<int> descriptors;
    for (const UniqueFd& descriptor : capture.descriptors) descriptors.push_back(descriptor.get());
    return {std::move(encoded.bytes), std::move(encoded.serviceBytes), std::move(descriptors)};
}

bool CprSender::sendSome(int socket) {
    if (!sender_.sendSome(socket)) return false;
    if (::shutdown(socket, SHUT_WR) != 0) throwErrno("end the CPR state");
    return true;
}

}  // namespace vh
