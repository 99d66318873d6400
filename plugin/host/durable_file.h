// Files that are there whole or not at all, also after a power cut, and files whose space is theirs before it is needed.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

namespace vh {

/// What is in the file. Throws std::system_error that names it.
std::string readFile(const std::string& path);

/// Writes `text` beside the file, and renames it over it: the old content or the new one is on disk at every moment. Mode 0600.
/// Throws std::system_error; the file is untouched then.
void replaceFile(const std::string& path, const std::string& text);

/// Makes a file of this many bytes whose space is allocated, replacing what is there. Throws std::system_error (ENOSPC) and
/// leaves no file.
void reserveFile(const std::string& path, std::size_t bytes);

/// replaceFile() by way of a reserved file: needs no space but what reserveFile() took. Without a reserved file it does its best.
void replaceFromReserved(const std::string& reserved, const std::string& path, const std::string& text);

/// mkdir -p, with this mode for the last component.
void makeDirectories(const std::string& path, mode_t mode);

}  // namespace vh
