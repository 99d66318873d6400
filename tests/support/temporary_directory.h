// A directory that goes with everything in it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace vh {

class TemporaryDirectory {
 public:
    TemporaryDirectory() : path_(std::filesystem::temp_directory_path().string() + "/vh-test-XXXXXX") {
        if (!::mkdtemp(path_.data())) throw std::runtime_error("cannot make '" + path_ + "'");
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    const std::string& path() const { return path_; }
    std::string file(const std::string& name) const { return path_ + "/" + name; }

    /// Writes a file and returns its path.
    std::string write(const std::string& name, const std::string& text, unsigned mode = 0644) const {
        std::ofstream(file(name)) << text;
        std::filesystem::permissions(file(name), static_cast<std::filesystem::perms>(mode));
        return file(name);
    }

 private:
    std::string path_;
};

}  // namespace vh
