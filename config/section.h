// One mapping of a definition, read key by key. Whatever is wrong becomes a finding and reading goes on: one run tells all.
//
// Readers of scalars are functions from text to a value that throw std::invalid_argument with what they expected, in words that
// follow "expected ".
#pragma once

#include <concepts>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/yaml_tree.h"

namespace vh {

/// What a scalar reader gets: most care for the text only, booleans and numbers must not be in quotes.
struct Scalar {
    std::string_view text;
    bool quoted = false;

    operator std::string_view() const { return text; }
};

class Section {
 public:
    /// When `knownKeys` is given, each key that is asked for is noted in it, absent blocks are read too, and lists as if they had
    /// one entry.
    Section(const YamlNode& node, std::string path, Findings& findings, std::set<std::string>* knownKeys = nullptr);

    bool has(std::string_view key) const { return find(key) != nullptr; }
    std::string pathOf(std::string_view key) const;

    /// Adds a finding at the value of `key`, or at the whole section if it has none.
    void error(std::string_view key, const std::string& message);
    void error(const std::string& message);

    /// Both return whether `target` was set.
    template <typename T, typename Read>
    bool optional(std::string_view key, T& target, Read read) {
        const YamlNode* node = ask(key, Leaf::Yes);
        return node && assign(*node, pathOf(key), target, read);
    }
    template <typename T, typename Read>
    bool required(std::string_view key, T& target, Read read) {
        requireKey(key);
        return optional(key, target, read);
    }

    /// `read(Section&, target)` reads the keys of the block; it is not called when there is none.
    template <typename T, typename Read>
    void block(std::string_view key, T& target, Read read) {
        const YamlNode* node = knownKeys_ ? &emptyMap() : nullptr;
        if (const YamlNode* found = ask(key, Leaf::No)) node = found;
        if (node) readMap(*node, pathOf(key), target, read);
    }
    template <typename T, typename Read>
    void requiredBlock(std::string_view key, T& target, Read read) {
        requireKey(key);
        block(key, target, read);
    }

    /// A list of mappings, each read as a block.
    template <typename T, typename Read>
    void list(std::string_view key, std::vector<T>& target, Read read) {
        forEachEntry(key, Leaf::No,
                     [&](const YamlNode& entry, const std::string& path) { readMap(entry, path, target.emplace_back(), read); });
    }

    /// A list of scalars.
    template <typename T, typename Read>
    void scalars(std::string_view key, std::vector<T>& target, Read read) {
        forEachEntry(key, Leaf::Yes,
                     [&](const YamlNode& entry, const std::string& path) { assign(entry, path, target.emplace_back(), read); });
    }

    /// After all keys were asked for.
    void reportUnknownKeys();

 private:
    enum class Leaf { No, Yes };

    static const YamlNode& emptyMap();
    const YamlNode* find(std::string_view key) const;
    const YamlNode* ask(std::string_view key, Leaf leaf);
    void requireKey(std::string_view key);
    bool expectKind(const YamlNode& node, const std::string& path, YamlNode::Kind kind);
    void reportMismatch(const YamlNode& node, const std::string& path, const std::string& expected);

    template <typename T, typename Read>
    void readMap(const YamlNode& node, const std::string& path, T& target, Read read) {
        if (!expectKind(node, path, YamlNode::Kind::Map)) return;
        Section section(node, path, findings_, knownKeys_);
        read(section, target);
        section.reportUnknownKeys();
    }

    template <std::invocable<const YamlNode&, const std::string&> Read>
    void forEachEntry(std::string_view key, Leaf leaf, Read read) {
        const std::string path = pathOf(key);
        if (knownKeys_) {
            ask(std::string(key) + "[]", leaf);
            return read(emptyMap(), path + "[]");
        }
        const YamlNode* node = ask(key, Leaf::No);
        if (!node || !expectKind(*node, path, YamlNode::Kind::List)) return;
        for (std::size_t i = 0; i < node->children.size(); ++i) read(node->children[i], path + "[" + std::to_string(i) + "]");
    }

    template <typename T, typename Read>
    bool assign(const YamlNode& node, const std::string& path, T& target, Read read) {
        const bool isScalar = node.kind == YamlNode::Kind::Scalar;
        try {
            // Whatever stands in the place of a scalar, the reader knows best what it expected: it tells when it gets nothing.
            auto value = read(isScalar ? Scalar{node.text, node.quoted} : Scalar{});
            if (!isScalar) throw std::invalid_argument("a single value");
            target = std::move(value);
            return true;
        } catch (const std::invalid_argument& expected) {
            reportMismatch(node, path, expected.what());
            return false;
        }
    }

    std::string path_;
    Findings& findings_;
    std::set<std::string>* knownKeys_;
    Position position_;
    std::map<std::string_view, const YamlNode*> children_;
    std::vector<std::string> asked_;
};

}  // namespace vh
