#include "vmm-shim/cpr_channel.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <map>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "vmm-shim/bytes.h"
#include "vmm-shim/unix_socket.h"

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

/// What a descriptor gives.
struct Given {
    FileIdentity file;
    bool writable = false;

    bool operator==(const Given&) const = default;
};

std::map<std::pair<std::string, std::int32_t>, Given> filesOf(const CprCapture& capture) {
    requireOneDescriptorPerEntry(capture);
    std::map<std::pair<std::string, std::int32_t>, Given> files;
    for (std::size_t i = 0; i < capture.state.fds.size(); ++i) {
        const int fd = capture.descriptors[i].get();
        files[{capture.state.fds[i].name, capture.state.fds[i].id}] = {FileIdentity::of(fd),
                                                                       (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR};
    }
    return files;
}

}  // namespace

std::string whatChanged(const CprCapture& before, const CprCapture& after) {
    const auto old = filesOf(before), now = filesOf(after);
    for (const auto& [key, file] : old) {
        const auto found = now.find(key);
        if (found == now.end()) return describe(key) + " is no longer in the CPR state";
        if (found->second != file) return describe(key) + " stands for another file than before";
    }
    for (const auto& [key, file] : now)
        if (!old.contains(key)) return describe(key) + " is new in the CPR state";
    const auto devices = [](const CprCapture& capture) {
        std::map<std::string, CprVfioDevice> found;
        for (const CprVfioDevice& device : capture.state.vfioDevices.value_or(std::vector<CprVfioDevice>{}))
            found[device.name] = device;
        return found;
    };
    return devices(before) == devices(after) ? std::string() : "the vfio devices of the CPR state are not the same as before";
}

std::string whatIsWrong(const CprCapture& capture, const std::vector<RamBlock>& blocks) {
    const auto files = filesOf(capture);
    std::set<std::string> known;
    for (const RamBlock& block : blocks) {
        if (block.named_file) continue;  // backends/hostmem-file.c makes no entry; 10.0 and 11.1.
        known.insert(block.idstr);
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
    for (const CprFd& entry : capture.state.fds)
        if (entry.id != 0 || !known.contains(entry.name))
            return "the CPR state has an entry " + describe(std::pair(entry.name, entry.id)) +
                   ", and the old VMM no such RAM block";
    if (capture.state.vfioDevices && !capture.state.vfioDevices->empty())
        return "the CPR state has the vfio device '" + capture.state.vfioDevices->front().name +
               "', which cannot be handed over yet";
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
    if (::shutdown(socket, SHUT_WR) != 0) throw std::system_error(errno, std::generic_category(), "end the CPR state");
    return true;
}

}  // namespace vh
