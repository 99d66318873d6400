#include "plugin/machine/block_nodes.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace vh {
namespace {

[[noreturn]] void refuse(const std::string& disk, const std::string& why) {
    throw std::runtime_error("the images of disk '" + disk + "' changed while the domain ran, and " + why);
}

/// What a layer is built on, and what a chain of images can be that was made by the monitor.
void requirePlain(const OptionValue& node, const std::string& disk) {
    static const std::set<std::string> drivers{"raw", "qcow2", "file", "host_device", "host_cdrom"};
    const std::string driver = node["driver"];
    if (!drivers.contains(driver)) refuse(disk, "a block driver '" + driver + "' was not tried with that");
    static const std::set<std::string> known{
        "driver", "node-name",  "read-only", "auto-read-only", "discard",       "detect-zeroes",
        "cache",  "file",       "backing",   "filename",       "aio",           "size",
        "offset", "pr-manager", "locking",   "cache-size",     "l2-cache-size", "discard-no-unref"};
    for (const auto& [key, value] : node.properties().items()) {
        if (!known.contains(key)) refuse(disk, "'" + key + "' of its block node is not understood");
        // A structure may hold nodes of its own.
        if (value.is_structured() && key != "cache")
            refuse(disk, "'" + key + "' of its block node has parts that are not understood");
    }
    if (node.has("pr-manager")) refuse(disk, "its persistent reservations belong to a process of their own");
    if (node["filename"].starts_with("/dev/fdset/")) refuse(disk, "it is opened by a descriptor that is not in the arguments");
}

}  // namespace

BlockNodes::BlockNodes(const std::vector<QemuOption>& options) {
    for (const QemuOption& option : options) {
        if (option.name != "-blockdev") continue;
        OptionValue value(option.name, option.value);
        const std::string name = value["node-name"];
        nodes_.insert_or_assign(name, std::move(value));
    }
}

const OptionValue& BlockNodes::node(const std::string& name) const {
    const auto found = nodes_.find(name);
    if (found == nodes_.end()) throw std::runtime_error("no -blockdev makes the block node '" + name + "'");
    return found->second;
}

BlockChain BlockNodes::chainFrom(const std::string& top) const {
    BlockChain chain;
    std::string format = top;
    while (!format.empty()) {
        // Names that go round would never end.
        if (chain.nodes.size() > nodes_.size()) throw std::runtime_error("the block node '" + top + "' is below itself");
        const OptionValue& layer = node(format);
        chain.nodes.push_back(format);
        const std::string driver = layer["driver"];
        if (driver == "copy-on-read" || driver == "throttle") {
            chain.isFiltered = true;
            format = layer["file"];
            continue;
        }
        std::string storage = layer["file"];
        if (storage.empty()) {
            chain.images.push_back({"", format});
        } else {
            // A slice of a file is one more node (src/qemu/qemu_block.c:qemuBlockStorageSourceGetSliceProps, libvirt 11.3.0).
            for (chain.nodes.push_back(storage); !node(storage)["file"].empty(); chain.nodes.push_back(storage)) {
                if (chain.nodes.size() > nodes_.size()) throw std::runtime_error("the block node '" + top + "' is below itself");
                storage = node(storage)["file"];
            }
            chain.images.push_back({format, storage});
        }
        format = layer["backing"];
    }
    return chain;
}

std::vector<QemuOption> BlockNodes::renamed(const std::string& top, const std::vector<LiveImage>& names,
                                            const std::string& disk) const {
    const BlockChain chain = chainFrom(top);
    if (chain.isFiltered) refuse(disk, "it has copy-on-read or throttle filters");
    if (chain.images.size() != names.size())
        refuse(disk, "libvirt has " + std::to_string(names.size()) + " images by name and " +
                         std::to_string(chain.images.size()) + " by its own rendering");
    std::vector<QemuOption> options;
    for (std::size_t i = 0; i < names.size(); ++i) {
        const LiveImage& from = chain.images[i];
        const LiveImage& to = names[i];
        if (from.format.empty() != to.format.empty())
            refuse(disk, "the layers of '" + to.storage + "' are not those of libvirt's rendering");
        OptionValue storage = node(from.storage);
        requirePlain(storage, disk);
        storage.set("node-name", to.storage);
        if (!from.format.empty()) {
            OptionValue format = node(from.format);
            requirePlain(format, disk);
            if (format["file"] != from.storage) refuse(disk, "it is a slice of a file");
            format.set("node-name", to.format);
            format.set("file", to.storage);
            if (i + 1 < names.size())
                format.set("backing", names[i + 1].top());
            else if (format["driver"] == "qcow2")  // Else QEMU would open what the image's header says.
                format.setNull("backing");
            options.push_back({"-blockdev", format.text(), true});
        } else if (i + 1 < names.size()) {
            refuse(disk, "the image '" + to.storage + "' cannot have one below it");
        }
        options.push_back({"-blockdev", storage.text(), true});
    }
    std::reverse(options.begin(), options.end());
    return options;
}

}  // namespace vh
