#include "config/yaml_tree.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>

#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

namespace vh {

namespace {

constexpr std::size_t maximumDepth = 16;
constexpr std::size_t maximumValues = 20'000;
constexpr std::size_t maximumErrors = 1000;
constexpr std::size_t maximumQuoted = 60;

/// The length of the UTF-8 sequence that `text` begins with; 0 when it begins with none (RFC 3629, section 4).
std::size_t sequenceLength(std::string_view text) {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
    const auto continues = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xbf) {
        return byte(i) >= low && byte(i) <= high;
    };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef)
        return continues(1, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf) && continues(2) ? 3 : 0;
    if (first >= 0xf0 && first <= 0xf4)
        return continues(1, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf) && continues(2) && continues(3) ? 4 : 0;
    return 0;
}

std::string hexByte(unsigned char byte) {
    constexpr std::string_view hexadecimal = "0123456789abcdef";
    return {hexadecimal[byte >> 4], hexadecimal[byte & 15]};
}

/// Control characters are no YAML (1.2.2, c-printable), and yaml-cpp 0.7 takes U+0004 for the end of the file.
void checkText(std::string_view text, Findings& findings) {
    if (text.size() > maximumFileBytes) findings.fail({}, tooLarge);
    int line = 1;
    int column = 1;
    for (std::size_t i = 0; i < text.size(); ++column) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const std::size_t length = sequenceLength(text.substr(i));
        const std::string where = "byte 0x" + hexByte(byte) + " at offset " + std::to_string(i);
        if (length == 0) findings.fail({line, column}, "is not UTF-8 text: " + where + " is not part of a character");
        if ((byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f) {
            findings.fail({line, column}, "is not a text file: " + where + " is a control character");
        }
        if (byte == '\n') {
            ++line;
            column = 0;
        }
        i += length;
    }
}

class TreeBuilder : public YAML::EventHandler {
 public:
    TreeBuilder(std::string_view text, Findings& findings) : text_(text), findings_(findings) {
        columns_.reserve(text.size() + 1);
        int column = 0;
        for (const char c : text) {
            if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) ++column;
            columns_.push_back(column);
            if (c == '\n') column = 0;
        }
        columns_.push_back(column + 1);
    }

    YamlNode takeRoot() { return std::move(root_); }

    Position positionOf(const YAML::Mark& mark) const {
        if (mark.is_null()) return {};
        return {mark.line + 1, columns_[offsetOf(mark)]};
    }

    /// What yaml-cpp does not say about a syntax error, but a person needs to find it.
    std::string hintAbout(const YAML::Mark& mark) const {
        const std::string_view before = text_.substr(0, offsetOf(mark));
        const std::string_view line = before.substr(before.rfind('\n') + 1);
        if (line.substr(0, line.find_first_not_of(" \t")).find('\t') != line.npos)
            return " (the line is indented with a tab, expected spaces)";
        if (unfinished_.size() < 2) return "";
        const YamlNode& innermost = unfinished_.back().node;
        return std::string(innermost.kind == YamlNode::Kind::List ? " (in the list" : " (in the mapping") +
               " that begins in line " + std::to_string(innermost.position.line) + ", column " +
               std::to_string(innermost.position.column) + ")";
    }

    void OnDocumentStart(const YAML::Mark& mark) override {
        if (std::exchange(begun_, true)) findings_.fail(positionOf(mark), "found a second YAML document, expected one VM a file");
    }
    void OnDocumentEnd() override {}

    void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
        findings_.add(positionOf(mark),
                      "found the anchor " + quote("&" + name) + ", expected none: write the value out where it is used");
    }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
        findings_.add(positionOf(mark), "found an alias, expected none: write the value out");
        complete({YamlNode::Kind::Refused, positionOf(mark)});
    }
    void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { complete({YamlNode::Kind::Null, positionOf(mark)}); }
    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
        refuseTag(mark, tag);
        complete({YamlNode::Kind::Scalar, positionOf(mark), value, tag == "!"});
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
        open(YamlNode::Kind::List, mark, tag);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
        open(YamlNode::Kind::Map, mark, tag);
    }
    void OnMapEnd() override { close(); }

 private:
    std::size_t offsetOf(const YAML::Mark& mark) const {
        return std::min(static_cast<std::size_t>(std::max(mark.pos, 0)), text_.size());
    }

    /// A list or map whose end is still to come; a map gets its keys as events before their values.
    struct Unfinished {
        YamlNode node;
        std::optional<YamlNode> key;
    };

    /// yaml-cpp's own tags: "?" for a plain scalar or a collection, "!" for a quoted one.
    void refuseTag(const YAML::Mark& mark, const std::string& tag) {
        if (tag.empty() || tag == "?" || tag == "!") return;
        findings_.add(positionOf(mark), "found the tag " + quote(tag) + ", expected none");
    }

    void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag) {
        refuseTag(mark, tag);
        if (unfinished_.size() == maximumDepth)
            findings_.fail(positionOf(mark),
                           "found more than " + std::to_string(maximumDepth) + " levels of nesting, expected at most 3");
        unfinished_.push_back({{kind, positionOf(mark)}, std::nullopt});
    }

    void close() {
        YamlNode node = std::move(unfinished_.back().node);
        unfinished_.pop_back();
        complete(std::move(node));
    }

    void complete(YamlNode node) {
        if (++values_ > maximumValues)
            findings_.fail(node.position,
                           "found more than " + std::to_string(maximumValues) + " keys and values, expected far less");
        if (unfinished_.empty()) {
            root_ = std::move(node);
            return;
        }
        auto& [parent, pendingKey] = unfinished_.back();
        if (parent.kind == YamlNode::Kind::Map) {
            if (!pendingKey) {
                pendingKey = std::move(node);
                return;
            }
            const YamlNode key = *std::exchange(pendingKey, std::nullopt);
            if (key.kind != YamlNode::Kind::Scalar) {
                if (key.kind != YamlNode::Kind::Refused) {
                    findings_.add(key.position, "found " + describe(key) + " as a key, expected a word");
                }
                return;
            }
            node.key = key.text;
            node.keyPosition = key.position;
            // The event of an absent value carries the place of whatever follows it.
            if (node.kind == YamlNode::Kind::Null) node.position = key.position;
        }
        parent.children.push_back(std::move(node));
    }

    std::string_view text_;
    std::vector<int> columns_;  ///< Of each byte: yaml-cpp counts columns in bytes, editors count characters.
    Findings& findings_;
    std::size_t values_ = 0;
    bool begun_ = false;
    YamlNode root_;
    std::vector<Unfinished> unfinished_;
};

}  // namespace

void Findings::add(Position position, std::string message) {
    if (errors_.size() == maximumErrors) {
        ++dropped_;
        return;
    }
    errors_.push_back({file_, position.line, position.column, std::move(message)});
}

void Findings::fail(Position position, std::string message) {
    if (errors_.size() == maximumErrors) errors_.pop_back();
    add(position, std::move(message));
    throwAll();
}

void Findings::throwIfAny() {
    if (!errors_.empty()) throwAll();
}

void Findings::throwAll() {
    std::stable_sort(errors_.begin(), errors_.end(), [](const ConfigError& a, const ConfigError& b) {
        return Position{a.line, a.column} < Position{b.line, b.column};
    });
    if (dropped_ > 0) errors_.push_back({file_, 0, 0, "has " + std::to_string(dropped_) + " more errors"});
    throw ConfigErrors(std::move(errors_));
}

std::string quote(std::string_view found) {
    std::string result = "'";
    std::size_t characters = 0;
    while (!found.empty()) {
        if (++characters > maximumQuoted) return result + "...'";
        const std::size_t length = std::max<std::size_t>(sequenceLength(found), 1);
        const auto byte = static_cast<unsigned char>(found[0]);
        const bool isC1Control = byte == 0xc2 && length == 2 && static_cast<unsigned char>(found[1]) < 0xa0;
        if (byte == '\n')
            result += "\\n";
        else if (byte == '\t')
            result += "\\t";
        else if (byte < 0x20 || byte == 0x7f || isC1Control)
            result += "\\x" + hexByte(static_cast<unsigned char>(found[length - 1]));
        else
            result += found.substr(0, length);
        found.remove_prefix(length);
    }
    return result + "'";
}

std::string describe(const YamlNode& node) {
    switch (node.kind) {
        case YamlNode::Kind::Null:
            return "nothing";
        case YamlNode::Kind::Scalar:
            return quote(node.text);
        case YamlNode::Kind::List:
            return "a list";
        case YamlNode::Kind::Map:
            return "a mapping";
        case YamlNode::Kind::Refused:
            return "an alias";
    }
    return "";
}

YamlNode readYaml(std::string_view text, Findings& findings) {
    checkText(text, findings);
    // yaml-cpp skips a byte order mark and does not count it.
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    std::istringstream stream{std::string(text)};
    TreeBuilder builder(text, findings);
    try {
        YAML::Parser parser(stream);
        if (!parser.HandleNextDocument(builder))
            findings.fail({}, "is empty, expected a VM definition with at least 'name', 'machine', 'memory' and 'boot'");
        while (parser.HandleNextDocument(builder)) {
        }
    } catch (const YAML::ParserException& error) {
        findings.fail(builder.positionOf(error.mark), "is not valid YAML: " + error.msg + builder.hintAbout(error.mark));
    }
    return builder.takeRoot();
}

}  // namespace vh
