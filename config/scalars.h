// Readers of single values. Each throws std::invalid_argument with what it expected; see config/README.md for the rules.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/enum_names.h"
#include "config/section.h"

namespace vh {

bool readBool(const Scalar& scalar);
unsigned readCount(const Scalar& scalar);  ///< 1 to 1024.
std::uint64_t readSize(std::string_view text);
std::uint64_t readMemorySize(std::string_view text);
std::uint64_t readPageSize(std::string_view text);

constexpr std::size_t longestVmName = 32;  ///< Characters; the name is in the paths of sockets.
std::string readVmName(std::string_view text);
std::string readUuid(std::string_view text);
std::string readMachine(std::string_view text);
std::string readCpuModel(std::string_view text);
std::string readId(std::string_view text);
std::string readSerial(std::string_view text);
std::string readInterface(std::string_view text);
std::string readMac(std::string_view text);
std::string readPciAddress(std::string_view text);
std::string readPciDevice(std::string_view text);
std::string readUser(std::string_view text);
std::string readPath(std::string_view text);
std::string readCmdline(std::string_view text);
std::string readVmmArgument(std::string_view text);

/// A reader of the names of some of an enum's values.
template <Named Enum>
auto oneOf(std::vector<Enum> values) {
    return [values = std::move(values)](std::string_view text) {
        std::string names;
        for (const Enum value : values) {
            if (name(value) == text) return value;
            names += (names.empty() ? "'" : ", '") + std::string(name(value)) + "'";
        }
        throw std::invalid_argument("one of " + names);
    };
}

/// A reader of the names of all of an enum's values.
template <Named Enum>
auto oneOf() {
    std::vector<Enum> values;
    for (std::size_t i = 0; i < namesOf<Enum>.size(); ++i) values.push_back(static_cast<Enum>(i));
    return oneOf(std::move(values));
}

}  // namespace vh
