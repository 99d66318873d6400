#include "plugin/host/command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "vmm-shim/proc.h"
#include "vmm-shim/thread.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

using std::chrono::steady_clock;

std::pair<UniqueFd, UniqueFd> makePipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throwErrno("pipe");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
    std::vector<char*> list;
    list.reserve(words.size() + 1);
    for (const std::string& word : words) list.push_back(const_cast<char*>(word.c_str()));
    list.push_back(nullptr);
    return list;
}

/// posix_spawn(3)'s two lists, with the signals as a fresh program expects them.
class Spawning {
 public:
    explicit Spawning(short flags) {
        ::posix_spawn_file_actions_init(&actions_);
        ::posix_spawnattr_init(&attributes_);
        sigset_t none, all;
        ::sigemptyset(&none);
        ::sigfillset(&all);
        ::posix_spawnattr_setsigmask(&attributes_, &none);
        ::posix_spawnattr_setsigdefault(&attributes_, &all);
        ::posix_spawnattr_setpgroup(&attributes_, 0);
        ::posix_spawnattr_setflags(&attributes_, static_cast<short>(flags | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
    }
    Spawning(const Spawning&) = delete;
    ~Spawning() {
        ::posix_spawn_file_actions_destroy(&actions_);
        ::posix_spawnattr_destroy(&attributes_);
    }

    /// glibc clears close-on-exec when both are the same (2.29).
    void give(int number, int ours) { ::posix_spawn_file_actions_adddup2(&actions_, ours, number); }
    void giveNull(int number) { ::posix_spawn_file_actions_addopen(&actions_, number, "/dev/null", O_RDWR, 0); }
    void enter(const std::string& directory) { ::posix_spawn_file_actions_addchdir_np(&actions_, directory.c_str()); }

    pid_t start(const std::string& program, const std::vector<std::string>& argv, char* const* environment) {
        pid_t pid = 0;
        const int error = ::posix_spawnp(&pid, program.c_str(), &actions_, &attributes_, pointers(argv).data(), environment);
        if (error != 0) throwErrno("start '" + program + "'", error);
        return pid;
    }

 private:
    posix_spawn_file_actions_t actions_;
    posix_spawnattr_t attributes_;
};

/// Reads what is there; closes the descriptor at the end of it.
void readSome(UniqueFd& from, std::string& into) {
    std::array<char, 65536> bytes;
    const ssize_t count = ::read(from.get(), bytes.data(), bytes.size());
    if (count > 0)
        into.append(bytes.data(), static_cast<std::size_t>(count));
    else if (count == 0 || errno != EINTR)
        from.reset();
}

}  // namespace

std::string CommandResult::describe() const {
    std::string text = left           ? "it does not end, not even by SIGKILL: pid " + std::to_string(pid)
                       : timedOut     ? "it did not end in time"
                       : status > 128 ? "ended by signal " + std::to_string(status - 128)
                                      : "exit status " + std::to_string(status);
    const std::size_t last = errors.find_last_not_of("\n ");
    if (last == std::string::npos) return text;
    const std::size_t before = errors.rfind('\n', last);
    return text + ": " + errors.substr(before == std::string::npos ? 0 : before + 1, last - (before + 1) + 1);
}

CommandResult run(const Command& command) {
    auto [output, outputEnd] = makePipe();
    auto [errors, errorsEnd] = makePipe();
    Spawning spawning(POSIX_SPAWN_SETPGROUP);
    spawning.giveNull(STDIN_FILENO);
    spawning.give(STDOUT_FILENO, outputEnd.get());
    spawning.give(STDERR_FILENO, errorsEnd.get());
    const pid_t pid = spawning.start(command.argv.front(), command.argv, environ);
    const UniqueFd process = openPidfd(pid);  // It is our child: at worst a zombie, never nobody.
    if (!process) throwErrno("pidfd_open of pid " + std::to_string(pid));
    outputEnd.reset();
    errorsEnd.reset();

    CommandResult result{.pid = pid};
    auto deadline = steady_clock::now() + command.deadline;
    bool asked = false, killed = false, givenUp = false;
    for (bool ended = false; !ended && !givenUp;) {
        std::array<pollfd, 4> entries{{{process.get(), POLLIN, 0},
                                       {output.get(), POLLIN, 0},
                                       {errors.get(), POLLIN, 0},
                                       {asked ? -1 : command.stop, POLLIN, 0}}};
        pollUntil(entries, deadline);
        if (entries[1].revents != 0) readSome(output, result.output);
        if (entries[2].revents != 0) readSome(errors, result.errors);
        // What a grandchild may still write does not interest: only what is in the pipes when the program has ended.
        if (entries[0].revents != 0 && entries[1].revents == 0 && entries[2].revents == 0) ended = true;
        const bool expired = steady_clock::now() >= deadline;
        if (ended || (!expired && entries[3].revents == 0)) continue;
        if (expired && !asked) result.timedOut = true;
        givenUp = expired && killed;
        if (givenUp) continue;
        if (expired && asked) killed = true;
        signalProcess(process.get(), killed ? SIGKILL : SIGTERM);
        asked = true;
        deadline = steady_clock::now() + (killed ? command.killTimeout : command.endTimeout);
    }
    int status = 0;
    pid_t reaped = 0;
    while ((reaped = ::waitpid(pid, &status, givenUp ? WNOHANG : 0)) < 0 && errno == EINTR) continue;
    if (reaped == 0) {
        result.left = true;
        // So that it is no zombie, should this process live to see its end.
        threadWithoutSignals([pid] {
            while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) continue;
        }).detach();
        status = SIGKILL;
    }
    result.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return result;
}

pid_t startDetached(const DetachedCommand& command) {
    Spawning spawning(POSIX_SPAWN_SETSID);
    spawning.enter(command.directory);
    for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        if (!command.descriptors.contains(number)) spawning.giveNull(number);
    for (const auto& [number, ours] : command.descriptors) spawning.give(number, ours);
    std::vector<char*> environment = pointers(command.environment);
    return spawning.start(command.program, command.argv, environment.data());
}

}  // namespace vh
