#include "plugin/host/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

void syncDirectoryOf(const std::string& path) {
    const std::string directory = fs::path(path).parent_path();
    const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0) fail(errno, "sync directory '" + directory + "'");
}

void writeOver(const std::string& draft, const std::string& path, const std::string& text, int flags) {
    {
        const UniqueFd fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0600));
        if (!fd) fail(errno, "create '" + draft + "'");
        for (std::size_t done = 0; done < text.size();) {
            const ssize_t count = ::write(fd.get(), text.data() + done, text.size() - done);
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) fail(errno, "write '" + draft + "'");
            done += static_cast<std::size_t>(count);
        }
        if (::ftruncate(fd.get(), static_cast<off_t>(text.size())) != 0) fail(errno, "shorten '" + draft + "'");
        if (::fsync(fd.get()) != 0) fail(errno, "sync '" + draft + "'");
    }
    if (::rename(draft.c_str(), path.c_str()) != 0) fail(errno, "replace '" + path + "'");
    syncDirectoryOf(path);
}

}  // namespace

std::string readFile(const std::string& path) {
    std::ifstream input(path, std::ios::binary);
    if (!input) fail(errno, "read '" + path + "'");
    std::string text((std::istreambuf_iterator<char>(input)), {});
    if (input.bad()) fail(EIO, "read '" + path + "'");
    return text;
}

void replaceFile(const std::string& path, const std::string& text) {
    const std::string draft = path + ".new";
    try {
        writeOver(draft, path, text, O_TRUNC);
    } catch (const std::system_error&) {
        ::unlink(draft.c_str());
        throw;
    }
}

void reserveFile(const std::string& path, std::size_t bytes) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) fail(errno, "create '" + path + "'");
    const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
    if (error == 0) return;
    ::unlink(path.c_str());
    fail(error, "reserve " + std::to_string(bytes) + " bytes for '" + path + "'");
}

void replaceFromReserved(const std::string& reserved, const std::string& path, const std::string& text) {
    writeOver(reserved, path, text, 0);
}

void makeDirectories(const std::string& path, mode_t mode) {
    fs::create_directories(fs::path(path).parent_path());
    if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) fail(errno, "create directory '" + path + "'");
    if (::chmod(path.c_str(), mode) != 0) fail(errno, "set the mode of '" + path + "'");
}

}  // namespace vh
