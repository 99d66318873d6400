// YAML text as a tree in which every key and value knows its place, and a list of what is wrong with it.
//
// The tree is built from yaml-cpp's events and not from its YAML::Node: those lose the place of keys, keep only one of two equal
// keys, and follow aliases, with which a short file can describe an endless tree.
#pragma once

#include <compare>
#include <string>
#include <string_view>
#include <vector>

#include "config/errors.h"

namespace vh {

/// Limit of a file: more than any definition needs, and little enough to read, parse and keep in memory without a thought.
constexpr std::size_t maximumFileBytes = 1024 * 1024;
constexpr auto tooLarge = "is larger than 1MiB, expected a VM definition, which is far smaller";

/// A place in the text, counted from 1; a line of 0 is none.
struct Position {
    int line = 0;
    int column = 0;

    auto operator<=>(const Position&) const = default;
};

struct YamlNode {
    enum class Kind { Null, Scalar, List, Map, Refused };

    Kind kind = Kind::Null;
    Position position;
    std::string text;  ///< Value of a scalar.
    bool quoted = false;
    std::string key;  ///< Key that a map has this node under.
    Position keyPosition;
    std::vector<YamlNode> children;  ///< Entries of a list or map, in the order of the text.
};

/// The errors in one file. Bounded, so that a megabyte of mistakes does not become a gigabyte of messages.
class Findings {
 public:
    explicit Findings(std::string file) : file_(std::move(file)) {}

    void add(Position position, std::string message);
    /// Adds an error that makes the rest of the file meaningless, and throws.
    [[noreturn]] void fail(Position position, std::string message);
    void throwIfAny();

 private:
    [[noreturn]] void throwAll();

    std::string file_;
    std::vector<ConfigError> errors_;
    std::size_t dropped_ = 0;
};

/// Text found in a file, fit for a message: in quotes, shortened, without control characters.
std::string quote(std::string_view found);

/// Description of a node, to follow "found ": `'text'`, `a list`, `nothing`.
std::string describe(const YamlNode& node);

/// Aliases, anchors and tags become findings; the nodes that they leave have Kind::Refused or their plain value.
YamlNode readYaml(std::string_view text, Findings& findings);

}  // namespace vh
