// The GNU build id of a program, which tells one build from another.
//
// By hand: two facts of a program's headers are wanted, for which libdw and libelf would be the only libraries of this room. It
// is root who asks, about whatever file a process has mapped, which may also be cut meanwhile: so every read is bounded, by
// pread(2).
#pragma once

#include <string>

namespace vh {

/// The build id of a file, in hex. Empty when it has none (a script, a stripped build), or there is no such file.
std::string buildIdOf(const std::string& file);

/// A program and not a library, though both may be ET_DYN: linkers mark a position-independent program with DF_1_PIE.
bool isProgram(const std::string& file);

}  // namespace vh
