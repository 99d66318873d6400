// The streams of real QEMUs in tests/vmm-shim/golden (`capture` there makes them), each with a readable twin.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/golden.h"

namespace vh {

inline std::string goldenStream(const std::string& name) {
    return fileText(inSourceTree("tests/vmm-shim/golden/" + name));
}

/// Compares each stream of a channel (`.cpr`, `.main`) with its twin; has to be the last thing that a test does.
inline void expectGoldenTwins(const std::string& channel, const std::function<std::string(const std::string&)>& render) {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(inSourceTree("tests/vmm-shim/golden")))
        if (entry.path().extension() == channel) names.insert(entry.path().filename().string());
    ASSERT_FALSE(names.empty()) << "no stream of '" << channel << "' in tests/vmm-shim/golden: make them with capture";
    for (const std::string& name : names) {
        const std::string twin = inSourceTree("tests/vmm-shim/golden/" + name + ".txt");
        if (acceptsGoldens())
            std::ofstream(twin) << render(goldenStream(name));
        else
            EXPECT_EQ(render(goldenStream(name)), fileText(twin))
                << name << ": if the new text is right: run again with VH_ACCEPT=1";
    }
    if (acceptsGoldens()) GTEST_SKIP() << "wrote the twins (VH_ACCEPT=1): look at the difference, and run again without";
}

}  // namespace vh
