// What libFuzzer, and replay.cpp in its place, calls with each input. A finding is a crash: nothing here may catch what is not
// the documented way to refuse an input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace vh {

inline std::string_view textOf(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

/// An assertion that no build type leaves out.
inline void mustHold(bool condition, const char* what) {
    if (condition) return;
    std::cerr << "does not hold: " << what << "\n";
    std::abort();
}

}  // namespace vh
