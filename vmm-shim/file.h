// Whole files: read at once, and replaced so that the old content or the new one is there at every moment.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

namespace vh {

/// The content of the file, or its first `most` bytes. Throws std::system_error that names it.
std::string readFile(const std::string& path, std::size_t most = std::numeric_limits<std::size_t>::max());

/// The content of a file that may not be there, or not be ours to read: empty then.
std::string readIfThere(const std::string& path);

/// The events that a file's new content survives: the end of its writer at any moment, or that of the host as well, as by a power
/// cut. The latter takes the disk's time (fsync(2)), and nothing on a tmpfs.
enum class Outlives { Writer, Host };

/// Writes `text` beside the file, as PATH.new, and renames it over it. What lies in the way of that is removed and not followed.
/// Throws std::system_error; the file is as it was then.
void replaceFile(const std::string& path, std::string_view text, mode_t mode = 0600, Outlives outlives = Outlives::Host);

/// Makes a file of this many bytes whose space is allocated, replacing what is there. Throws std::system_error (ENOSPC) and
/// leaves no file.
void reserveFile(const std::string& path, std::size_t bytes);

/// Replaces a file by way of a reserved one: needs no space but what reserveFile() took. Without a reserved file it does its
/// best.
void replaceFromReserved(const std::string& reserved, const std::string& path, std::string_view text);

/// A directory of our own for files that pass, gone with this.
class PrivateDirectory {
 public:
    explicit PrivateDirectory(const std::string& name);
    PrivateDirectory(const PrivateDirectory&) = delete;
    ~PrivateDirectory();
    const std::string& path() const { return path_; }

 private:
    std::string path_;
};

/// The same path for a process that has another working directory. `..` stays: where it leads is for the file system to say. Of
/// no path, none.
std::string absolutePath(const std::string& path);

/// mkdir -p, with this mode for the last component.
void makeDirectories(const std::string& path, mode_t mode);

}  // namespace vh
