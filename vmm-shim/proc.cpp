#include "vmm-shim/proc.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "vmm-shim/elf_file.h"
#include "vmm-shim/file.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds, std::chrono::steady_clock;

constexpr std::string_view deletedMark = " (deleted)";
// A process in uninterruptible sleep (a disk that hangs) ends only when the kernel lets it.
constexpr milliseconds killTimeout{10'000};

std::vector<OpenFile> filesIn(const std::string& directory, std::error_code& error) {
    std::vector<OpenFile> files;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
        std::error_code closed;
        OpenFile file{wholeNumber<int>(entry->path().filename().native()).value_or(-1), entry->path(),
                      fs::read_symlink(entry->path(), closed)};
        if (!closed && file.number >= 0) files.push_back(std::move(file));
    }
    std::ranges::sort(files, {}, &OpenFile::number);
    return files;
}

}  // namespace

ProcessIdentity ProcessIdentity::of(pid_t pid) {
    const Process::Stat stat = Process(pid).stat();
    return stat.startTime == 0 || stat.state == 'Z' || stat.state == 'X' ? ProcessIdentity()
                                                                         : ProcessIdentity{pid, stat.startTime};
}

std::optional<struct stat> OpenFile::status() const {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? std::optional(status) : std::nullopt;
}

Process::Stat Process::stat() const {
    const std::string text = readIfThere(path("stat"));
    // Field 2 is the name in parentheses, which may hold anything; 3 is the state, 22 the start time.
    std::istringstream fields(text.substr(std::min(text.rfind(')'), text.size() - 1) + 1));
    Stat stat;
    std::string skipped;
    fields >> stat.state;
    for (int field = 4; field < 22; ++field) fields >> skipped;
    fields >> stat.startTime;
    return stat;
}

std::vector<std::string> Process::words(const std::string& name) const {
    std::istringstream text(readFile(path(name)));
    std::vector<std::string> words;
    for (std::string word; std::getline(text, word, '\0');) words.push_back(word);
    return words;
}

std::string Process::link(const std::string& name) const {
    std::error_code gone;
    return fs::read_symlink(path(name), gone);
}

std::string Process::field(const std::string& file, std::string_view key) const {
    return valueIn(readIfThere(path(file)), key);
}

bool Process::isConfined() const {
    const std::string label = readIfThere(path("attr/current"));  // EINVAL where there are no labels.
    return !label.empty() && !label.starts_with("unconfined");
}

std::vector<OpenFile> Process::files() const {
    std::error_code error;
    std::vector<OpenFile> files = filesIn(path("fd"), error);
    if (error) throw std::system_error(error, "list '" + path("fd") + "'");
    return files;
}

std::vector<OpenFile> Process::visibleFiles() const {
    std::error_code ignored;
    return filesIn(path("fd"), ignored);
}

std::set<std::uint64_t> Process::sockets() const {
    constexpr std::string_view socket = "socket:[";
    std::set<std::uint64_t> inodes;
    for (const OpenFile& file : visibleFiles())
        if (file.target.starts_with(socket)) inodes.insert(std::strtoull(file.target.c_str() + socket.size(), nullptr, 10));
    return inodes;
}

std::vector<MemoryMapping> Process::mappings() const {
    std::istringstream lines(readIfThere(path("maps")));
    std::vector<MemoryMapping> mappings;
    for (std::string line; std::getline(lines, line);) {
        MemoryMapping mapping;
        unsigned major = 0, minor = 0;
        char rights[5] = {};
        int behind = 0;
        if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx %x:%x %lu %n", &mapping.start, &mapping.end, rights, &mapping.offset,
                        &major, &minor, &mapping.file.inode, &behind) < 7)
            continue;
        mapping.writable = rights[1] == 'w';
        mapping.executable = rights[2] == 'x';
        mapping.shared = rights[3] == 's';
        mapping.file.device = makedev(major, minor);
        mapping.path = line.substr(static_cast<std::size_t>(behind));
        mappings.push_back(std::move(mapping));
    }
    return mappings;
}

std::string Process::fileOf(const MemoryMapping& mapping) const {
    // maps pads addresses with zeros, map_files does not (fs/proc/base.c:proc_map_files_lookup, Linux 6.1).
    char range[40];
    std::snprintf(range, sizeof(range), "%lx-%lx", mapping.start, mapping.end);
    return path("map_files/") + range;
}

Process::Program Process::program() const {
    const Program executed{path("exe"), link("exe")};
    if (executed.path.empty()) return {};
    if (isProgram(executed.file)) return executed;
    // Of the mapped files whose instructions are executed, one is a program and the others are libraries. A VMM maps programs to
    // read them as well: an ELF kernel that it has loaded.
    std::set<std::string> seen{executed.path};
    for (const MemoryMapping& mapping : mappings()) {
        if (!mapping.executable) continue;
        // A memory file or a device is no program, and opening a device may do something.
        const bool isFile =
            mapping.path.starts_with('/') && !mapping.path.starts_with("/memfd:") && !mapping.path.starts_with("/dev/");
        if (!isFile || !seen.insert(mapping.path).second) continue;
        // The former is the very file, also when another one has its name by now; that takes privileges (proc(5)).
        for (const std::string& file : {fileOf(mapping), path("root") + mapping.path})
            if (isProgram(file)) return {file, mapping.path};
    }
    const std::string name = fs::path(executed.path).filename();
    return name.starts_with("ld-") || name.starts_with("ld.so") ? Program() : executed;
}

UniqueFd Process::take(int number) const {
    const UniqueFd process = openPidfd(pid_);
    UniqueFd fd = process ? takeDescriptor(process.get(), number) : UniqueFd();
    const int error = errno;
    if (!fd)
        throwErrno("take descriptor " + std::to_string(number) + " out of pid " + std::to_string(pid_) +
                       (error == EPERM ? " (one has to be root, or allowed to trace that process)" : ""),
                   error);
    return fd;
}

std::string ownProgram(const std::vector<std::string>& places) {
    const fs::path here = fs::path(Process(::getpid()).link("exe")).parent_path();
    for (const std::string& place : places) {
        const fs::path program = (here / place).lexically_normal();
        std::error_code ignored;
        if (program.is_absolute() && fs::is_regular_file(program, ignored) && ::access(program.c_str(), X_OK) == 0)
            return program;
    }
    return {};
}

std::vector<pid_t> allProcesses(const std::string& proc) {
    std::vector<pid_t> pids;
    std::error_code ignored;
    for (fs::directory_iterator entry(proc, ignored), end; !ignored && entry != end; entry.increment(ignored))
        if (const auto pid = wholeNumber<pid_t>(entry->path().filename().native()); pid && *pid > 0) pids.push_back(*pid);
    return pids;
}

std::string valueIn(const std::string& text, std::string_view key) {
    constexpr const char* blanks = " \t";
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with(key)) continue;
        const std::size_t begin = std::min(line.find_first_not_of(blanks, key.size()), line.size());
        return line.substr(begin, line.find_last_not_of(blanks) + 1 - begin);
    }
    return {};
}

bool hasDeletedMark(std::string_view path) {
    return path.ends_with(deletedMark);
}

std::string withoutDeletedMark(std::string path) {
    if (hasDeletedMark(path)) path.resize(path.size() - deletedMark.size());
    return path;
}

std::optional<pid_t> lockHolder(int fd) {
    // Asked as a reader, only a writer is in the way.
    struct flock lock {};
    lock.l_type = F_RDLCK;
    lock.l_len = 1;
    if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) throwErrno("look who has a lock");
    return lock.l_type == F_UNLCK ? std::nullopt : std::optional(lock.l_pid);
}

std::optional<pid_t> lockHolder(const std::string& file) {
    const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    return fd ? lockHolder(fd.get()) : std::nullopt;
}

UniqueFd openPidfd(pid_t pid) {
    return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

// glibc 2.36 has this call and the one above only in a header that clashes with <sys/wait.h>'s P_PIDFD on some releases.
UniqueFd takeDescriptor(int pidfd, int number) {
    return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, number, 0)));
}

bool pollUntil(std::span<pollfd> entries, steady_clock::time_point deadline) {
    for (;;) {
        const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
        // A signal that comes in between interrupts also a poll that does not wait (fs/select.c:do_poll).
        const int ready =
            ::poll(entries.data(), entries.size(), static_cast<int>(std::clamp<long long>(left.count(), 0, 1 << 30)));
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0) throwErrno("poll");
        return ready > 0;
    }
}

bool awaitEnd(int pidfd, steady_clock::time_point deadline) {
    pollfd entry{pidfd, POLLIN, 0};
    return pollUntil({&entry, 1}, deadline);
}

bool signalProcess(int pidfd, int signal) {
    return ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0;
}

void endProcess(int pidfd, milliseconds timeout) {
    for (const auto& [signal, time] : {std::pair{SIGTERM, timeout}, std::pair{SIGKILL, killTimeout}}) {
        if (!signalProcess(pidfd, signal) && errno != ESRCH) throwErrno("send a signal");
        if (awaitEnd(pidfd, steady_clock::now() + time)) return;
    }
    throw std::runtime_error("it does not end, not even by SIGKILL");
}

std::vector<UnixSocket> unixSockets(const std::string& table) {
    std::vector<UnixSocket> found;
    std::istringstream lines(readIfThere(table));
    for (std::string line; std::getline(lines, line);) {
        // Num RefCount Protocol Flags Type St Inode Path; __SO_ACCEPTCON is 0x10000 (net/unix/af_unix.c, unix_seq_show).
        unsigned long flags = 0;
        unsigned long inode = 0;
        int end = 0;
        if (std::sscanf(line.c_str(), "%*s %*s %*s %lx %*s %*s %lu %n", &flags, &inode, &end) < 2 || end == 0) continue;
        if (std::string path = line.substr(static_cast<std::size_t>(end)); !path.empty())
            found.push_back({inode, (flags & 0x10000) != 0 ? SocketKind::Listening : SocketKind::Accepted, std::move(path)});
    }
    return found;
}

}  // namespace vh
