// Texts that are kept in the source tree and compared with what the code makes of them today.
#pragma once

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

namespace vh {

inline std::string inSourceTree(const std::string& path) {
    const char* root = std::getenv("VH_SOURCE_DIR");
    return std::string(root ? root : ".") + "/" + path;
}

inline std::string fileText(const std::string& path) {
    std::ifstream file(path);
    EXPECT_TRUE(file) << "cannot open '" << path << "': is VH_SOURCE_DIR set?";
    return {std::istreambuf_iterator<char>(file), {}};
}

/// With VH_ACCEPT=1 in the environment what is kept is replaced by what is made. A test that did so is skipped: it compared
/// nothing.
inline bool acceptsGoldens() {
    const char* accept = std::getenv("VH_ACCEPT");
    return accept && std::string(accept) == "1";
}

/// Compares a whole file of a directory of the source tree; has to be the last thing that a test does.
inline void expectGolden(const std::string& name, const std::string& made,
                         const std::string& directory = "tests/manager/golden") {
    const std::string path = inSourceTree(directory + "/" + name);
    if (acceptsGoldens()) {
        std::ofstream(path) << made;
        GTEST_SKIP() << "wrote '" << path << "' (VH_ACCEPT=1): look at the difference, and run again without";
    }
    EXPECT_EQ(made, fileText(path)) << "if the new text is right: run again with VH_ACCEPT=1";
}

}  // namespace vh
