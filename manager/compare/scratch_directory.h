// The directory that the VMs of a comparison live in: disks, definitions, sockets and records.
#pragma once

#include <string>

namespace vh {

class ComparisonDirectory {
 public:
    /// Makes one in /tmp. Throws std::system_error.
    ComparisonDirectory();
    ComparisonDirectory(const ComparisonDirectory&) = delete;
    ~ComparisonDirectory() { remove(path_); }

    const std::string& path() const { return path_; }
    std::string runtime() const { return path_ + "/run"; }

    /// Ends the VMs that live in a comparison's scratch directory, and removes it. Nothing is done to any other directory, nor to
    /// another user's: the name may come from a results file, which may say anything.
    static void remove(const std::string& directory);

 private:
    std::string path_;
};

}  // namespace vh
