#include "vmm-shim/tool/vm_description.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include "vmm-shim/json_nesting.h"

namespace vh {
namespace {

using Json = nlohmann::json;

/// Of one field, and of one device.
constexpr std::uint64_t maxBytes = std::uint64_t{1} << 32;
constexpr std::size_t maxNameLength = 255;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
    throw std::runtime_error("description: " + where + what);
}

const Json& member(const Json& object, const char* key, const std::string& where) {
    const auto found = object.find(key);
    if (found == object.end()) fail(where, std::string("has no '") + key + "'");
    return *found;
}

std::uint64_t number(const Json& object, const char* key, std::uint64_t limit, const std::string& where) {
    const Json& value = member(object, key, where);
    if (!value.is_number_unsigned()) fail(where, std::string("'") + key + "' is not a whole number from 0 up");
    if (value.get<std::uint64_t>() > limit)
        fail(where, std::string("'") + key + "' is " + std::to_string(value.get<std::uint64_t>()) + "; at most " +
                        std::to_string(limit) + " is possible");
    return value.get<std::uint64_t>();
}

std::string text(const Json& object, const char* key, const std::string& where) {
    const Json& value = member(object, key, where);
    if (!value.is_string()) fail(where, std::string("'") + key + "' is not a string");
    std::string found = value.get<std::string>();
    if (found.empty() || found.size() > maxNameLength)
        fail(where, std::string("'") + key + "' is a string of " + std::to_string(found.size()) + " characters");
    return found;
}

const Json& array(const Json& object, const char* key, const std::string& where) {
    const Json& value = member(object, key, where);
    if (!value.is_array()) fail(where, std::string("'") + key + "' is not an array");
    for (const Json& element : value)
        if (!element.is_object()) fail(where, std::string("'") + key + "' holds something that is not an object");
    return value;
}

/// Fields and subsections. No deeper than the JSON is.
std::uint64_t lengthOf(const Json& state, const std::string& where) {
    std::uint64_t sum = 0;
    const auto add = [&](std::uint64_t bytes, const std::string& what) {
        sum += bytes;  // Neither can overflow: both are at most maxBytes.
        if (sum > maxBytes) fail(what, "makes the state longer than " + std::to_string(maxBytes) + " bytes");
    };
    for (const Json& field : array(state, "fields", where)) {
        const std::string at = where + "field '" + text(field, "name", where + "a field ") + "' ";
        const std::uint64_t size = number(field, "size", maxBytes, at);
        const std::uint64_t count =
            field.contains("array_len") ? number(field, "array_len", std::numeric_limits<std::int32_t>::max(), at) : 1;
        if (count != 0 && size > maxBytes / count) fail(at, "is longer than " + std::to_string(maxBytes) + " bytes");
        add(size * count, at);
    }
    if (!state.contains("subsections")) return sum;
    for (const Json& subsection : array(state, "subsections", where)) {
        const std::string name = text(subsection, "vmsd_name", where + "a subsection ");
        const std::string at = where + "subsection '" + name + "' ";
        add(1 + 1 + name.size() + 4 + lengthOf(subsection, at), at);
    }
    return sum;
}

Json parse(std::string_view description) {
    if (jsonNesting(description) > deepestNesting)
        throw std::runtime_error("description: is deeper than " + std::to_string(deepestNesting) + " levels");
    try {
        return Json::parse(description);
    } catch (const Json::exception& error) {
        throw std::runtime_error(std::string("description: ") + error.what());
    }
}

}  // namespace

DeviceLengths deviceLengths(std::string_view description) {
    const Json json = parse(description);
    if (!json.is_object()) fail("", "is not an object");
    DeviceLengths lengths;
    for (const Json& device : array(json, "devices", "")) {
        const std::string idstr = text(device, "name", "a device ");
        const std::string where = "device '" + idstr + "' ";
        const auto instance =
            static_cast<std::uint32_t>(number(device, "instance_id", std::numeric_limits<std::uint32_t>::max(), where));
        if (!lengths.emplace(std::pair(idstr, instance), lengthOf(device, where)).second)
            fail(where, "with instance_id " + std::to_string(instance) + " comes twice");
    }
    return lengths;
}

MainStream decodeDescribedStream(std::string_view bytes) {
    const auto description = findDescription(bytes);
    if (!description) throw std::runtime_error("the stream does not end with a description, without which no device can be read");
    return decodeMainStream(bytes, deviceLengths(*description));
}

}  // namespace vh
