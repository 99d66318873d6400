// Real texts of libvirt and QEMU that are kept in the source tree, and how tests damage them.
#pragma once

#include <random>
#include <stdexcept>
#include <string>

#include "tests/support/golden.h"

namespace vh {

inline std::string golden(const std::string& name) {
    return fileText(inSourceTree("tests/plugin/golden/" + name));
}

inline void expectPluginGolden(const std::string& name, const std::string& made) {
    expectGolden(name, made, "tests/plugin/golden");
}

/// The text cut off, or with a few characters changed, lost, or said twice.
inline std::string damage(std::string text, std::mt19937& random) {
    const auto below = [&](std::size_t limit) { return limit ? random() % limit : 0; };
    if (below(4) == 0) return text.substr(0, below(text.size()));
    for (std::size_t times = 1 + below(4); times > 0 && !text.empty(); --times) {
        const std::size_t at = below(text.size());
        switch (below(4)) {
            case 0:
                text[at] = static_cast<char>(random());
                break;
            case 1:
                text[at] = "<>'\"/=&,{}[]: 09"[below(17)];
                break;
            case 2:
                text.erase(at, 1 + below(40));
                break;
            default:
                text.insert(at, text.substr(below(text.size()), below(80)));
        }
    }
    return text;
}

/// Runs what must neither crash nor fail with anything but the documented kind of error.
template <typename Function>
void mayThrow(Function&& function) {
    try {
        function();
    } catch (const std::runtime_error&) {
    }
}

}  // namespace vh
