#include "config/emit.h"

#include <algorithm>

#include <yaml-cpp/yaml.h>

namespace vh {
namespace {

/// Puts a value where its path says: `disks[0].file` is the key `file` of the first entry of the list `disks`.
void put(YAML::Node node, const std::string& path, const std::string& value) {
    std::size_t from = 0;
    while (from < path.size()) {
        if (path[from] == '[') {
            const std::size_t end = path.find(']', from);
            node.reset(node[std::stoul(path.substr(from + 1, end - from - 1))]);
            from = end + 1;
        } else {
            if (path[from] == '.') ++from;
            const std::size_t end = std::min(path.find_first_of(".[", from), path.size());
            node.reset(node[path.substr(from, end - from)]);
            from = end;
        }
    }
    node = value;
}

}  // namespace

std::string toYaml(const VmDefinition& definition) {
    YAML::Node root(YAML::NodeType::Map);
    for (const auto& [path, value] : flatten(definition))
        if (!value.empty()) put(root, path, value);
    YAML::Emitter emitter;
    emitter << root;
    return std::string(emitter.c_str()) + "\n";
}

}  // namespace vh
