// A process that the manager starts and then does not own: it has its own session, gets exactly the listed descriptors, and goes
// on when the manager is gone.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "manager/process/event_loop.h"
#include "manager/process/process_traits.h"
#include "vmm-shim/proc.h"

namespace vh {

/// The user that a process runs as. `change` is false where the manager itself may not change users: then the process runs as the
/// manager.
struct Identity {
    uid_t uid = 0;
    gid_t gid = 0;
    bool change = false;

    /// The identity for a user name. Throws std::runtime_error when there is no such user.
    static Identity of(const std::string& user);
    /// The identity of a process. Throws std::system_error when there is no such process.
    static Identity ofProcess(pid_t pid);
};

/// Does a few system calls as somebody else, in a child that has nothing of our rights, and waits for it: for what has to be done
/// in a directory of another user's, who may put anything in the place of anything there while we look. The child has one
/// descriptor, `shared`, and what the calls do to that is done to ours. `action` must be async-signal-safe and returns 0 or an
/// errno, as this does; without a change of user it is called in place. Throws std::runtime_error that begins with `what` when it
/// does not end in time: that user may mount a file system there which never answers.
int doAs(const Identity& identity, const std::string& what, const std::function<int()>& action, int shared = -1);

struct NamedDescriptor {
    std::string name;
    UniqueFd fd;
};

struct LaunchSpec {
    std::vector<std::string> argv;  ///< argv[0] is the path of the program.
    std::vector<int> descriptors;   ///< Borrowed.
    std::vector<int> numbers;       ///< Numbers that the child has them at; none: firstDescriptor, firstDescriptor + 1, ...
    int output = -1;                ///< The child's standard output and error; borrowed.
    Identity identity;
    /// Lets it lock any amount of memory, as DMA by passed-through devices takes it. An iommufd counts it for all of a user's
    /// processes together (drivers/iommu/iommufd/pages.c, Linux 7.3), so a limit for one VM would be one for all.
    bool locksMemory = false;
    const ProcessTraits* traits = nullptr;  ///< Replaces the identity and our environment in the child.
    /// A file that the child makes, writes its pid to and holds a lock on (fcntl F_SETLK) as long as it lives; none if empty.
    /// What is there is replaced.
    std::string pidFile;
    /// The kernel ends it before any other process when memory runs out (oom_score_adj 1000), and what it starts itself; else it
    /// is as the manager is. For all that is started beside a VMM which has a guest: see OomScore.
    bool expendable = false;
    /// Killed when the manager's main thread ends: a helper that is of no use to the next manager.
    bool endsWithManager = false;
};

class ChildProcess {
 public:
    /// The number that the first listed descriptor has in the child, unless others are asked for.
    static constexpr int firstDescriptor = 3;

    ChildProcess() = default;

    /// Starts a program. Throws std::system_error when it cannot fork; a program that cannot be executed is a child that ends
    /// and of which howItEnded() says why.
    static ChildProcess launch(const LaunchSpec& spec);

    /// Takes up a process that an earlier manager started. Without effect (pid() == 0) when it is gone, or when the pid now
    /// belongs to a process that started at another time.
    static ChildProcess adopt(pid_t pid, std::uint64_t startTime);
    /// Takes up the process that has this pid now.
    static ChildProcess of(pid_t pid) { return adopt(pid, Process(pid).startTime()); }

    pid_t pid() const { return pid_; }
    std::uint64_t startTime() const { return startTime_; }

    bool alive() const;
    void kill(int signal) const;
    /// SIGKILL for the process and what it started itself: a VMM's binary may be a script.
    void killAll() const;

    /// Calls once when the process has ended. One watcher at a time.
    void onExit(std::function<void()> callback);
    void ignoreExit() { exitWatch_.reset(); }

    /// The end of the process in words: `exited with status 1`, `was killed by signal 9 (Killed)`, `could not be started: execute
    /// '/bin/x': Permission denied`; `ended` when it was not our child.
    std::string howItEnded() const;

 private:
    struct Handle;

    pid_t pid_ = 0;
    std::uint64_t startTime_ = 0;
    std::shared_ptr<Handle> handle_;  ///< Shared with the main loop, which reaps a child of ours even when nobody asks any more.
    EventSource exitWatch_;
};

}  // namespace vh
