// What every test that opens descriptors is held to: none is left when it ends.
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace vh {

/// The numbers of this process's descriptors, each with what it is: `7 socket:[1234]`.
inline std::set<std::string> openDescriptors() {
    namespace fs = std::filesystem;
    std::set<std::string> found;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc/self/fd")) {
        std::error_code gone;  // The iterator's own descriptor, for one.
        const std::string target = fs::read_symlink(entry.path(), gone);
        if (!gone && !target.ends_with("/fd")) found.insert(entry.path().filename().string() + " " + target);
    }
    return found;
}

class NoDescriptorLeaks : public testing::Test {
 protected:
    ~NoDescriptorLeaks() override {
        EXPECT_EQ(openDescriptors(), before_) << "descriptors of this test are still open, or others closed";
    }

 private:
    const std::set<std::string> before_ = openDescriptors();
};

}  // namespace vh
