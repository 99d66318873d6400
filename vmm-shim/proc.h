// The one door to another process: what the kernel says of it (proc(5)), its descriptors, its end.
//
// Nothing is kept; each question is put to the kernel anew. A process may end between two of them, and its pid be another's then:
// who must be sure holds a pidfd, or compares the start time afterwards. Trees of files that look like /proc are for tests.
#pragma once

#include <poll.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm-shim/file_identity.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

/// A pid is used again; with the start time (field 22 of /proc/PID/stat, clock ticks since boot) it names one process for good.
struct ProcessIdentity {
    pid_t pid = 0;
    std::uint64_t startTime = 0;

    /// The identity of a running process; all zero when there is none, or only what is left of one that has ended (a zombie).
    static ProcessIdentity of(pid_t pid);
    bool isAlive() const { return pid > 0 && of(pid) == *this; }
    bool operator==(const ProcessIdentity&) const = default;
};

/// A descriptor of a process.
struct OpenFile {
    int number = -1;
    std::string path;    ///< Path in /proc: leads to the very file, whatever has its name by now.
    std::string target;  ///< `/path`, `/path (deleted)`, `/memfd:NAME (deleted)`, `socket:[INODE]`.

    bool isMemfd() const { return target.starts_with("/memfd:"); }
    /// Asks the file's file system, as fstat() would; none of one that was closed meanwhile.
    std::optional<struct stat> status() const;
};

/// A line of /proc/PID/maps (fs/proc/task_mmu.c:show_map_vma, Linux 6.1).
struct MemoryMapping {
    std::uint64_t start = 0, end = 0, offset = 0;
    bool writable = false, executable = false, shared = false;
    FileIdentity file;  ///< inode 0 for memory without a file; btrfs and overlayfs have another device number than in stat().
    std::string path;
};

class Process {
 public:
    /// The process that has this pid, whichever it is.
    explicit Process(pid_t pid, const std::string& proc = "/proc") : pid_(pid), directory_(proc + "/" + std::to_string(pid)) {}

    pid_t pid() const { return pid_; }
    /// The path of a file of its directory: `maps`, `ns/mnt`.
    std::string path(const std::string& name) const { return directory_ + "/" + name; }

    /// Start time, also of a zombie; 0 when there is no such process.
    std::uint64_t startTime() const { return stat().startTime; }
    /// Throw std::system_error when it is gone, or not ours to look at.
    std::vector<std::string> commandLine() const { return words("cmdline"); }
    std::vector<std::string> environment() const { return words("environ"); }
    /// The target of a link (`exe`, `cwd`, `ns/user`); empty when it is gone, or not ours to look at.
    std::string link(const std::string& name) const;
    /// The text behind `key` on a line of one of its files (`Uid:` in `status`, `iff:` in `fdinfo/7`), without blanks around it;
    /// empty when there is none.
    std::string field(const std::string& file, std::string_view key) const;
    /// True when AppArmor or SELinux has rules for it.
    bool isConfined() const;

    /// Descriptors by number. Throws std::system_error when the process is gone, or not ours to look at; visibleFiles() has none
    /// then.
    std::vector<OpenFile> files() const;
    std::vector<OpenFile> visibleFiles() const;
    /// The inodes of all sockets among its descriptors.
    std::set<std::uint64_t> sockets() const;
    /// Mappings in the order of their addresses; none when the process is gone, or not ours to look at.
    std::vector<MemoryMapping> mappings() const;
    /// The link in /proc to the file of a mapping; for root only.
    std::string fileOf(const MemoryMapping& mapping) const;

    /// The program that it runs. When it was started through a dynamic loader (`ld.so PROGRAM`), /proc/PID/exe is the loader, and
    /// the program is looked for among what is mapped. Empty when it cannot be told.
    struct Program {
        std::string file;  ///< Path in /proc: leads to the very file.
        std::string path;  ///< Path of the file when the process began, with the mark of one that is not there any more.
    };
    Program program() const;

    /// The same open file as a descriptor of the process is (pidfd_getfd(2)). Throws std::system_error.
    UniqueFd take(int number) const;

 private:
    struct Stat {
        char state = '\0';
        std::uint64_t startTime = 0;
    };
    friend struct ProcessIdentity;
    Stat stat() const;
    std::vector<std::string> words(const std::string& name) const;

    pid_t pid_;
    std::string directory_;
};

/// The first of these places, seen from the directory of our own program, where there is one that we may execute; or empty.
std::string ownProgram(const std::vector<std::string>& places);

/// The pids of all processes.
std::vector<pid_t> allProcesses(const std::string& proc = "/proc");

/// The text behind `key` on the first line that begins with it, without blanks around it.
std::string valueIn(const std::string& text, std::string_view key);

/// The path of a file as /proc has it, without the mark of one that has been replaced or removed since.
std::string withoutDeletedMark(std::string path);
bool hasDeletedMark(std::string_view path);

/// The process that has a lock for writing on a file's first byte, where daemons lock their pid files (src/util/virpidfile.c,
/// libvirt 11.3.0), by the kernel's word. A lock for reading is none: everybody who can read the file may have one. 0 for a
/// process of another PID namespace, -1 when it is no process's but an open file's.
std::optional<pid_t> lockHolder(int fd);
std::optional<pid_t> lockHolder(const std::string& file);

/// A pidfd; none when there is no such process, or errno says something else.
UniqueFd openPidfd(pid_t pid);

/// A descriptor like Process::take(); none when that cannot be done, and errno says why.
UniqueFd takeDescriptor(int pidfd, int number);

/// poll(2), gone on with after signals: true when there is something for one of the entries, false at the deadline.
bool pollUntil(std::span<pollfd> entries, std::chrono::steady_clock::time_point deadline);

/// True once the process behind a pidfd has ended, false at the deadline.
bool awaitEnd(int pidfd, std::chrono::steady_clock::time_point deadline);

/// Sends a signal. False when that cannot be done, and errno says why: ESRCH of a process that has ended.
bool signalProcess(int pidfd, int signal);

/// Sends SIGTERM, and SIGKILL when it has not ended after `timeout`. Throws std::runtime_error when it outlives even that.
void endProcess(int pidfd, std::chrono::milliseconds timeout);

/// The sockets that listen on a path, or the accepted ends of connections to it, which have its name too (net/unix/af_unix.c:
/// unix_stream_connect).
enum class SocketKind { Listening, Accepted };
struct UnixSocket {
    std::uint64_t inode = 0;  ///< 0 is the end of a connection that nobody has accepted yet.
    SocketKind kind = SocketKind::Listening;
    std::string path;  ///< `@name` for an abstract one.
};
/// The sockets with a name in a network namespace: this process's, or that of the process whose table it is.
std::vector<UnixSocket> unixSockets(const std::string& table = "/proc/net/unix");

}  // namespace vh
