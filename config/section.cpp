#include "config/section.h"

#include <algorithm>
#include <numeric>

#include <yaml-cpp/yaml.h>

#include "config/vm_definition.h"

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

/// Levenshtein's, in one row.
std::size_t editDistance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i + 1;
        for (std::size_t j = 0; j < b.size(); ++j) {
            const std::size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({row[j] + 1, diagonal + 1, substituted});
        }
    }
    return row.back();
}

/// The key that was probably meant, or every key that could have been.
std::string suggestion(std::string_view unknown, const std::vector<std::string>& keys) {
    const std::string* nearest = nullptr;
    std::size_t smallest = 0;
    std::string all;
    for (const std::string& key : keys) {
        all += (all.empty() ? "'" : ", '") + key + "'";
        // A long word differs from every key; its distance would be as slow as it is useless.
        if (unknown.size() > 2 * key.size()) continue;
        const std::size_t distance = editDistance(unknown, key);
        if (distance <= std::max<std::size_t>(1, key.size() / 3) && (!nearest || distance < smallest)) {
            nearest = &key;
            smallest = distance;
        }
    }
    return nearest ? ", did you mean '" + *nearest + "'?" : ", expected one of " + all;
}

}  // namespace

std::string yamlOf(const WrittenKeys& keys) {
    YAML::Node root(YAML::NodeType::Map);
    for (const auto& [path, value] : keys)
        if (!value.empty()) put(root, path, value);
    YAML::Emitter emitter;
    emitter << root;
    return std::string(emitter.c_str()) + "\n";
}

std::string writtenText(bool value) {
    return value ? "true" : "false";
}

std::string writtenText(unsigned count) {
    return std::to_string(count);
}

std::string writtenText(std::uint64_t bytes) {
    return formatSize(bytes);
}

std::string writtenText(std::chrono::milliseconds duration) {
    const auto ms = duration.count();
    return ms % 1000 == 0 ? std::to_string(ms / 1000) + "s" : std::to_string(ms) + "ms";
}

Section::Section(WrittenKeys& written, std::string path) : path_(std::move(path)), written_(&written) {}

Section::Section(const YamlNode& node, std::string path, Findings& findings)
    : path_(std::move(path)), findings_(&findings), position_(node.keyPosition.line > 0 ? node.keyPosition : node.position) {
    for (const YamlNode& child : node.children) {
        const auto [first, isNew] = children_.emplace(child.key, &child);
        if (isNew) continue;
        findings_->add(child.keyPosition, (path_.empty() ? "" : path_ + ": ") + "found key " + quote(child.key) +
                                              " a second time, expected it only in line " +
                                              std::to_string(first->second->keyPosition.line));
    }
}

std::string Section::pathOf(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
}

void Section::error(std::string_view key, const std::string& message) {
    const YamlNode* node = find(key);
    if (findings_) findings_->add(node ? node->position : position_, pathOf(key) + ": " + message);
}

void Section::error(const std::string& message) {
    if (findings_) findings_->add(position_, path_.empty() ? message : path_ + ": " + message);
}

void Section::reportUnknownKeys() {
    for (const auto& [key, node] : children_) {
        if (std::find(asked_.begin(), asked_.end(), key) != asked_.end()) continue;
        findings_->add(node->keyPosition,
                       (path_.empty() ? "" : path_ + ": ") + "unknown key " + quote(key) + suggestion(key, asked_));
    }
}

const YamlNode* Section::find(std::string_view key) const {
    const auto found = children_.find(key);
    return found == children_.end() ? nullptr : found->second;
}

const YamlNode* Section::ask(std::string_view key) {
    asked_.emplace_back(key);
    return find(key);
}

void Section::requireKey(std::string_view key) {
    if (!has(key)) error("the required key '" + std::string(key) + "' is missing");
}

bool Section::expectKind(const YamlNode& node, const std::string& path, YamlNode::Kind kind) {
    if (node.kind == kind) return true;
    reportMismatch(node, path, kind == YamlNode::Kind::List ? "a list" : "a mapping of keys to values");
    return false;
}

void Section::reportMismatch(const YamlNode& node, const std::string& path, const std::string& expected) {
    // An alias was reported where the tree was built.
    if (node.kind == YamlNode::Kind::Refused) return;
    findings_->add(node.position, path + ": found " + describe(node) + ", expected " + expected);
}

}  // namespace vh
