// Reading JSON that others wrote: a VMM, a guest through it, a manager of another version, a file that was damaged.
//
// A JsonReader asks before it believes. nlohmann::json does not: a missing key ends the process (or is undefined), and a value of
// another type throws, out of code that had only to print an outcome. Who must refuse what is not as it should be (records,
// journals) uses json::at() and get() instead, within one `try`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

/// JSON of an optional value: null when it is absent.
template <class Value>
struct nlohmann::adl_serializer<std::optional<Value>> {
    static void to_json(json& value, const std::optional<Value>& from) { value = from ? json(*from) : json(); }
    static void from_json(const json& value, std::optional<Value>& to) {
        to = value.is_null() ? std::nullopt : std::optional(value.get<Value>());
    }
};

namespace vh {

/// Looks into a value that it borrows, by paths such as `/old/pid`.
class JsonReader {
 public:
    explicit JsonReader(const nlohmann::json& value) : value_(&value) {}

    /// Null when there is nothing.
    const nlohmann::json& at(std::string_view path) const {
        static const nlohmann::json nothing;
        const nlohmann::json* found = value_;
        while (!path.empty()) {
            path.remove_prefix(1);  // The slash.
            const std::string key(path.substr(0, path.find('/')));
            path.remove_prefix(key.size());
            if (!found->is_object()) return nothing;
            const auto member = found->find(key);
            if (member == found->end()) return nothing;
            found = &*member;
        }
        return *found;
    }

    /// A string; `otherwise` when it is none.
    std::string text(std::string_view path, const std::string& otherwise = {}) const {
        const nlohmann::json& value = at(path);
        return value.is_string() ? value.get<std::string>() : otherwise;
    }

    /// The value as text for people, whatever it is; `?` when there is nothing.
    std::string shown(std::string_view path) const {
        const nlohmann::json& value = at(path);
        if (value.is_null()) return "?";
        return value.is_string() ? value.get<std::string>()
                                 : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }

    std::optional<double> number(std::string_view path) const {
        const nlohmann::json& value = at(path);
        return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
    }

    /// A count; 0 when it is none.
    std::uint64_t count(std::string_view path) const {
        const nlohmann::json& value = at(path);
        return value.is_number_unsigned() || (value.is_number_integer() && value.get<std::int64_t>() >= 0)
                   ? value.get<std::uint64_t>()
                   : 0;
    }

    bool isTrue(std::string_view path) const {
        const nlohmann::json& value = at(path);
        return value.is_boolean() && value.get<bool>();
    }

    /// An array; an empty one when it is none.
    const nlohmann::json& list(std::string_view path) const {
        static const nlohmann::json empty = nlohmann::json::array();
        const nlohmann::json& value = at(path);
        return value.is_array() ? value : empty;
    }

 private:
    const nlohmann::json* value_;
};

}  // namespace vh
