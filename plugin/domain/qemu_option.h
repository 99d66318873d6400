// An option of a QEMU argument list, and its value in either spelling: `tap,id=n0,fd=3` or `{"type":"tap","id":"n0","fd":"3"}`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace vh {

/// Properties of an option, in the order in which they were written.
class OptionValue {
 public:
    /// Reads an option's value. Throws std::runtime_error for text that looks like JSON and is none. Key=value text is never
    /// wrong.
    OptionValue(std::string_view option, std::string_view text);
    static OptionValue fromJson(nlohmann::ordered_json properties);

    bool has(std::string_view key) const { return properties_.contains(key); }
    /// The value of a key as key=value text has it: `on`, `7`; empty when the key is missing, or its value is null or has a
    /// structure.
    std::string operator[](std::string_view key) const;
    void set(std::string_view key, std::string_view value) { properties_[std::string(key)] = value; }
    void setNull(std::string_view key) { properties_[std::string(key)] = nullptr; }
    void erase(std::string_view key) { properties_.erase(std::string(key)); }

    const nlohmann::ordered_json& properties() const { return properties_; }
    std::string text() const;

 private:
    OptionValue() = default;

    nlohmann::ordered_json properties_ = nlohmann::ordered_json::object();
    bool isJson_ = true;
    std::string bareKey_;  ///< The key that the first word stands for, when it is written without it.
};

struct QemuOption {
    std::string name;  ///< Name with one dash, whichever way it was written: `-device`.
    std::string value;
    bool hasValue = false;
};

/// The options from `-name` on. Throws std::runtime_error for words that are none.
std::vector<QemuOption> optionsFromName(const std::vector<std::string>& words);

/// A word of a command for a person to copy: as it is where no shell changes it, else in quotes.
std::string shellQuoted(std::string_view word);

}  // namespace vh
