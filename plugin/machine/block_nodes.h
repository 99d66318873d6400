// The block nodes of an argument list, and the chain of images below a disk.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "plugin/domain/live_domain.h"
#include "plugin/domain/qemu_option.h"

namespace vh {

struct BlockChain {
    std::vector<LiveImage> images;   ///< Images top first, as the status XML has them.
    std::vector<std::string> nodes;  ///< Names of all nodes, filters included, each one after those that name it.
    bool isFiltered = false;         ///< True when a copy-on-read or throttle node is on top.
};

class BlockNodes {
 public:
    explicit BlockNodes(const std::vector<QemuOption>& options);

    /// The chain from a node on; empty for an empty name. Throws std::runtime_error for a node that is named and not there.
    BlockChain chainFrom(const std::string& top) const;

    /// The chain from `top` on as -blockdev options, bottom up, with its nodes named as in `names`. Throws std::runtime_error
    /// when the two chains differ in anything but names, or the options could not be used in another process.
    std::vector<QemuOption> renamed(const std::string& top, const std::vector<LiveImage>& names, const std::string& disk) const;

 private:
    const OptionValue& node(const std::string& name) const;

    std::map<std::string, OptionValue> nodes_;
};

}  // namespace vh
