// One mapping of a definition, read key by key. Whatever is wrong becomes a finding and reading goes on: one run tells all. What
// reads a definition writes one, too, so that its keys are named once.
//
// Readers of scalars are functions from text to a value that throw std::invalid_argument with what they expected, in words that
// follow "expected ". One that has a `write` says how a file has its values; else writtenText() does.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/yaml_tree.h"

namespace vh {

/// Input of a scalar reader: most care for the text only, booleans and numbers must not be in quotes.
struct Scalar {
    std::string_view text;
    bool quoted = false;

    operator std::string_view() const { return text; }
};

/// Paths of keys, and their values as a file would have them; an empty one for what a file would leave out.
using WrittenKeys = std::vector<std::pair<std::string, std::string>>;

/// The file that has these keys, as YAML.
std::string yamlOf(const WrittenKeys& keys);

inline std::string writtenText(const std::string& text) {
    return text;
}
std::string writtenText(bool value);
std::string writtenText(unsigned count);
std::string writtenText(std::uint64_t bytes);
std::string writtenText(std::chrono::milliseconds duration);
template <typename T>
requires requires(const T& value) {
    name(value);
}
std::string writtenText(const T& value) {
    return std::string(name(value));
}

class Section {
 public:
    Section(const YamlNode& node, std::string path, Findings& findings);

    /// Has no text to read: the functions below write what the targets are, and say that nothing is there and nothing was set.
    Section(WrittenKeys& written, std::string path);

    bool has(std::string_view key) const { return find(key) != nullptr; }
    std::string pathOf(std::string_view key) const;

    /// Adds a finding at the value of `key`, or at the whole section if it has none.
    void error(std::string_view key, const std::string& message);
    void error(const std::string& message);

    /// Both return whether `target` was set.
    template <typename T, typename Read>
    bool optional(std::string_view key, T& target, Read read) {
        return scalar(ask(key), pathOf(key), target, read);
    }
    template <typename T, typename Read>
    bool required(std::string_view key, T& target, Read read) {
        requireKey(key);
        return optional(key, target, read);
    }

    /// `read(Section&, target)` reads the keys of the block; it is not called when there is none.
    template <typename T, typename Read>
    void block(std::string_view key, T& target, Read read) {
        mapping(ask(key), pathOf(key), target, read);
    }
    template <typename T, typename Read>
    void requiredBlock(std::string_view key, T& target, Read read) {
        requireKey(key);
        block(key, target, read);
    }

    /// A list of mappings, each read as a block; it replaces what is in `target`.
    template <typename T, typename Read>
    void list(std::string_view key, std::vector<T>& target, Read read) {
        forEachEntry(key, target, [&](const YamlNode* node, const std::string& path, T& one) { mapping(node, path, one, read); });
    }

    /// A list of scalars, likewise.
    template <typename T, typename Read>
    void scalars(std::string_view key, std::vector<T>& target, Read read) {
        forEachEntry(key, target, [&](const YamlNode* node, const std::string& path, T& one) { scalar(node, path, one, read); });
    }

    /// Adds a finding for each key that was not asked for; to be called last.
    void reportUnknownKeys();

 private:
    const YamlNode* find(std::string_view key) const;
    const YamlNode* ask(std::string_view key);
    void requireKey(std::string_view key);
    bool expectKind(const YamlNode& node, const std::string& path, YamlNode::Kind kind);
    void reportMismatch(const YamlNode& node, const std::string& path, const std::string& expected);

    template <typename T, typename Read>
    void mapping(const YamlNode* node, const std::string& path, T& target, Read read) {
        if (written_) {
            Section section(*written_, path);
            read(section, target);
        } else if (node && expectKind(*node, path, YamlNode::Kind::Map)) {
            Section section(*node, path, *findings_);
            read(section, target);
            section.reportUnknownKeys();
        }
    }

    template <typename T, typename Read>
    void forEachEntry(std::string_view key, std::vector<T>& target, Read read) {
        const YamlNode* node = ask(key);
        if (node) target.clear();
        if (node && expectKind(*node, pathOf(key), YamlNode::Kind::List)) target.resize(node->children.size());
        for (std::size_t i = 0; i < target.size() && (node || written_); ++i)
            read(node ? &node->children[i] : nullptr, pathOf(key) + "[" + std::to_string(i) + "]", target[i]);
    }

    template <typename T, typename Read>
    bool scalar(const YamlNode* node, const std::string& path, T& target, Read read) {
        if (written_) {
            if constexpr (requires { read.write(target); })
                written_->emplace_back(path, read.write(target));
            else
                written_->emplace_back(path, writtenText(target));
        }
        if (!node) return false;
        const bool isScalar = node->kind == YamlNode::Kind::Scalar;
        try {
            // Whatever stands in the place of a scalar, the reader knows best what it expected: it tells when it gets nothing.
            auto value = read(isScalar ? Scalar{node->text, node->quoted} : Scalar{});
            if (!isScalar) throw std::invalid_argument("a single value");
            target = std::move(value);
            return true;
        } catch (const std::invalid_argument& expected) {
            reportMismatch(*node, path, expected.what());
            return false;
        }
    }

    std::string path_;
    Findings* findings_ = nullptr;
    WrittenKeys* written_ = nullptr;
    Position position_;
    std::map<std::string_view, const YamlNode*> children_;
    std::vector<std::string> asked_;
};

/// The value that a whole text describes; `expected` follows "expected a mapping". Throws ConfigErrors.
template <typename T>
T readWhole(std::string_view yaml, const std::string& file, const char* expected, void (*read)(Section&, T&)) {
    Findings findings(file);
    const YamlNode root = readYaml(yaml, findings);
    if (root.kind != YamlNode::Kind::Map)
        findings.fail(root.position, "found " + describe(root) + ", expected a mapping " + expected);
    T value;
    Section section(root, "", findings);
    read(section, value);
    section.reportUnknownKeys();
    findings.throwIfAny();
    return value;
}

/// The keys of a value, by the function that reads it; `value` is a copy, for that function could change it.
template <typename T>
WrittenKeys writeWhole(T value, void (*read)(Section&, T&)) {
    WrittenKeys keys;
    Section section(keys, "");
    read(section, value);
    return keys;
}

}  // namespace vh
