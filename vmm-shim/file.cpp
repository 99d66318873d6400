#include "vmm-shim/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

/// A new name is on disk only when its directory is.
void syncDirectoryOf(const std::string& path) {
    const fs::path parent = fs::path(path).parent_path();
    const std::string directory = parent.empty() ? "." : parent.string();
    const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Not every file system can do that for a directory (open(2) allows it, fsync(2): EINVAL).
    if (!fd || (::fsync(fd.get()) != 0 && errno != EINVAL)) throwErrno("sync directory '" + directory + "'");
}

void writeOver(const std::string& draft, UniqueFd fd, const std::string& path, std::string_view text, Outlives outlives) {
    if (!fd) throwErrno("create '" + draft + "'");
    for (std::string_view rest = text; !rest.empty();) {
        const ssize_t count = ::write(fd.get(), rest.data(), rest.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) throwErrno("write '" + draft + "'");
        rest.remove_prefix(static_cast<std::size_t>(count));
    }
    if (::ftruncate(fd.get(), static_cast<off_t>(text.size())) != 0) throwErrno("shorten '" + draft + "'");
    // Without it some file systems put the name on disk before the text.
    if (outlives == Outlives::Host && ::fsync(fd.get()) != 0) throwErrno("sync '" + draft + "'");
    if (::rename(draft.c_str(), path.c_str()) != 0) throwErrno("replace '" + path + "'");
    if (outlives == Outlives::Host) syncDirectoryOf(path);
}

}  // namespace

std::string readFile(const std::string& path, std::size_t most) {
    // Not to wait for somebody to write into a pipe that has that name.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) throwErrno("open '" + path + "'");
    std::string text;
    for (std::size_t have = 0; have < most;) {
        text.resize(have + std::min<std::size_t>(most - have, std::clamp<std::size_t>(have, 16 << 10, 1 << 20)));
        const ssize_t count = ::read(fd.get(), text.data() + have, text.size() - have);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) throwErrno("read '" + path + "'");
        have += static_cast<std::size_t>(count);
        text.resize(have);
        if (count == 0) break;
    }
    return text;
}

std::string readIfThere(const std::string& path) {
    try {
        return readFile(path);
    } catch (const std::system_error&) {
        return {};
    }
}

void replaceFile(const std::string& path, std::string_view text, mode_t mode, Outlives outlives) {
    const std::string draft = path + ".new";
    // What an interrupted run left, or somebody put there in a shared directory.
    if (::unlink(draft.c_str()) != 0 && errno != ENOENT) throwErrno("remove '" + draft + "'");
    UniqueFd fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    try {
        writeOver(draft, std::move(fd), path, text, outlives);
    } catch (...) {
        ::unlink(draft.c_str());
        throw;
    }
}

void reserveFile(const std::string& path, std::size_t bytes) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) throwErrno("create '" + path + "'");
    const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
    if (error == 0) return;
    ::unlink(path.c_str());
    throwErrno("reserve " + std::to_string(bytes) + " bytes for '" + path + "'", error);
}

void replaceFromReserved(const std::string& reserved, const std::string& path, std::string_view text) {
    UniqueFd fd(::open(reserved.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    writeOver(reserved, std::move(fd), path, text, Outlives::Host);
}

PrivateDirectory::PrivateDirectory(const std::string& name) : path_(fs::temp_directory_path() / (name + "-XXXXXX")) {
    if (!::mkdtemp(path_.data())) throwErrno("create '" + path_ + "'");
}

PrivateDirectory::~PrivateDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
}

std::string absolutePath(const std::string& path) {
    fs::path whole;
    for (const fs::path& part : path.empty() ? fs::path() : fs::absolute(path))
        if (part != ".") whole /= part;
    return whole;
}

void makeDirectories(const std::string& path, mode_t mode) {
    fs::create_directories(fs::path(path).parent_path());
    if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) throwErrno("create directory '" + path + "'");
    if (::chmod(path.c_str(), mode) != 0) throwErrno("set the mode of '" + path + "'");  // mkdir() obeys the umask.
}

}  // namespace vh
