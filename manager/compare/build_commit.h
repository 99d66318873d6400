// The commit that this build is made of.
#pragma once

#include <string_view>

namespace vh {

/// Commit as `git describe` says it; empty where it was built without git. Written by the build, of build_commit.cpp.in.
extern const std::string_view buildCommit;

}  // namespace vh
