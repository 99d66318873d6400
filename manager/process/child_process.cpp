#include "manager/process/child_process.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

// Only async-signal-safe calls from here on: the manager may have threads (GLib's), and the child has a copy of their locks.

/// Where a child says why it cannot be what it was to be: the program's own output may go to another process's log.
int complaints = -1;

[[noreturn]] void giveUp(const char* what, const char* thing, const char* hint = "") {
    const char* why = strerrordesc_np(errno);
    for (const char* part : {what, " '", thing, "': ", why ? why : "unknown error", hint})
        (void)!::write(complaints, part, std::strlen(part));
    ::_exit(127);
}

/// execve(2) has one error for many causes, and means another file than the one that it was given for some.
const char* hintOfExec(int error) {
    switch (error) {
        case ENOENT:
            return " (the file, or the interpreter or loader that it names)";
        case ENOEXEC:
            return " (no program, or one for another kind of machine)";
        case EACCES:
            return " (by its mode, a directory above it, a file system that is mounted noexec, or a security module)";
        default:
            return "";
    }
}

/// What the child needs, made before the fork: it must not allocate.
struct ChildPlan {
    const LaunchSpec& spec;
    pid_t manager;
    std::vector<int> numbers;  ///< Where its descriptors go.
    std::vector<int> scratch;  ///< Their places in between.
    std::vector<char*> argv;
    UniqueFd devNull;
    UniqueFd complaints;
};

/// The lock lasts until the process ends or closes any descriptor of the file (fcntl(2)), so this one is inherited and left open.
void holdPidFile(const char* path) {
    ::unlink(path);  // What an earlier attempt left: its lock is on the file, not on the name.
    const int fd = ::open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0644);
    if (fd < 0) giveUp("create", path);
    struct flock whole {};
    whole.l_type = F_WRLCK;
    if (::fcntl(fd, F_SETLK, &whole) != 0) giveUp("lock", path);
    char text[16];
    char* digit = text + sizeof(text);
    *--digit = '\n';
    for (pid_t rest = ::getpid(); rest > 0; rest /= 10) *--digit = static_cast<char>('0' + rest % 10);
    const auto length = text + sizeof(text) - digit;
    if (::write(fd, digit, static_cast<std::size_t>(length)) != length) giveUp("write", path);
}

/// Whenever the table of its descriptors has to grow, a process with threads waits until every CPU has been seen not to use it
/// (fs/file.c:expand_fdtable, synchronize_rcu, Linux 6.18), which is milliseconds. A VMM makes an eventfd for each queue of its
/// devices when it loads and runs a guest, which stands still meanwhile. Here is no thread yet, and execve(2) keeps the table.
void makeRoomForDescriptors() {
    constexpr int expected = 1024;
    if (const int last = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, expected - 1); last >= 0) ::close(last);
}

[[noreturn]] void becomeChild(ChildPlan& plan) {
    const LaunchSpec& spec = plan.spec;
    char* const* argv = plan.argv.data();
    ::setsid();
    complaints = plan.complaints.get();
    // Raising it is never refused (fs/proc/base.c:__set_oom_adj, Linux 6.18), and where there is no such file, nothing can be
    // done.
    if (spec.expendable) {
        const int score = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        (void)!::write(score, "1000", 4);
        ::close(score);
    }
    if (spec.traits)
        if (const char* what = spec.traits->enter()) giveUp(what, argv[0]);
    // First above all final numbers, then down: a source may sit where another one must go, also on 0 to 2 when the manager was
    // started without standard streams.
    int end = ChildProcess::firstDescriptor;
    for (const int number : plan.numbers) end = number < end ? end : number + 1;
    const int input = ::fcntl(plan.devNull.get(), F_DUPFD, end);
    const int output = spec.output >= 0 ? ::fcntl(spec.output, F_DUPFD, end) : -1;
    for (std::size_t i = 0; i < plan.numbers.size(); ++i) {
        plan.scratch[i] = ::fcntl(spec.descriptors[i], F_DUPFD, end);
        if (plan.scratch[i] < 0) giveUp("duplicate a descriptor for", argv[0]);
    }
    if (const int kept = ::fcntl(complaints, F_DUPFD_CLOEXEC, end); kept >= 0)
        complaints = kept;
    else
        giveUp("duplicate a descriptor for", argv[0]);
    ::close_range(ChildProcess::firstDescriptor, static_cast<unsigned>(end - 1), 0);
    ::dup2(input, STDIN_FILENO);
    if (output >= 0) {
        ::dup2(output, STDOUT_FILENO);
        ::dup2(output, STDERR_FILENO);
    }
    for (std::size_t i = 0; i < plan.numbers.size(); ++i)
        if (::dup2(plan.scratch[i], plan.numbers[i]) < 0) giveUp("place a descriptor for", argv[0]);
    if (complaints > end) ::close_range(static_cast<unsigned>(end), static_cast<unsigned>(complaints) - 1, 0);
    ::close_range(static_cast<unsigned>(complaints) + 1, ~0U, 0);
    makeRoomForDescriptors();
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (!spec.pidFile.empty()) holdPidFile(spec.pidFile.c_str());
    if (spec.locksMemory && ::geteuid() == 0) {
        const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
        if (::setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0) giveUp("raise the memory lock limit of", argv[0]);
    }
    if (spec.traits) {
        if (const char* what = spec.traits->become()) giveUp(what, argv[0]);
    } else if (spec.identity.change) {
        if (::setgroups(0, nullptr) != 0 || ::setgid(spec.identity.gid) != 0 || ::setuid(spec.identity.uid) != 0)
            giveUp("change user for", argv[0]);
    }
    // After the change of user, which clears it (kernel/cred.c:commit_creds).
    if (spec.endsWithManager) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != plan.manager) ::_exit(127);  // It was gone before it could be asked for.
    }
    ::execve(argv[0], argv, spec.traits ? spec.traits->environment() : environ);
    giveUp("execute", argv[0], hintOfExec(errno));
}

}  // namespace

struct ChildProcess::Handle {
    UniqueFd pidfd;
    bool child = false;   ///< Ours to reap.
    std::string ended;    ///< How, once reaped.
    UniqueFd complaints;  ///< Until the program is executed, or could not be.
    std::string complaint;

    /// True when there is no more to come: the complaint comes in parts, and is whole when the other end is closed.
    bool hear() {
        char text[4096];
        ssize_t length = 0;
        while (complaints && (length = ::read(complaints.get(), text, sizeof(text))) > 0)
            complaint.append(text, static_cast<std::size_t>(length));
        return length == 0;
    }

    bool alive() const { return !awaitEnd(pidfd.get(), {}); }

    void reap() {
        siginfo_t info{};
        if (!child || ::waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0)
            return;
        child = false;
        hear();
        if (!complaint.empty()) {
            ended = "could not be started: " + complaint;
        } else if (info.si_code == CLD_EXITED) {
            ended = "exited with status " + std::to_string(info.si_status);
        } else {
            const char* name = ::sigdescr_np(info.si_status);
            ended = "was killed by signal " + std::to_string(info.si_status) + " (" + (name ? name : "unknown") + ")";
        }
    }
};

namespace {

/// By the main loop, so that nobody waits for it.
void reapAtItsEnd(pid_t pid, UniqueFd pidfd) {
    const auto child = std::make_shared<UniqueFd>(std::move(pidfd));
    const auto reaper = std::make_shared<EventSource>();
    *reaper = EventSource::readable(child->get(), [pid, child, reaper] {
        ::waitpid(pid, nullptr, WNOHANG);
        reaper->reset();
    });
}

}  // namespace

int doAs(const Identity& identity, const std::string& what, const std::function<int()>& action, int shared) {
    if (!identity.change) return action();
    const pid_t pid = ::fork();
    if (pid < 0) return errno;
    if (pid == 0) {
        // One that does not end would hold on to all of ours, locks included.
        if (shared > 0) ::close_range(0, static_cast<unsigned>(shared) - 1, 0);
        ::close_range(static_cast<unsigned>(shared + 1), ~0U, 0);
        const bool isOther = ::setgroups(0, nullptr) == 0 && ::setresgid(identity.gid, identity.gid, identity.gid) == 0 &&
                             ::setresuid(identity.uid, identity.uid, identity.uid) == 0;
        ::_exit(isOther ? action() : errno);
    }
    UniqueFd child = openPidfd(pid);
    const auto endsWithin = [&](std::chrono::milliseconds time) {
        return awaitEnd(child.get(), std::chrono::steady_clock::now() + time);
    };
    if (endsWithin(std::chrono::milliseconds(2'000))) {
        int status = 0;
        while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
        return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    }
    ::kill(pid, SIGKILL);
    // What a file system has begun to answer is waited for by no signal's leave (fs/fuse/dev.c:request_wait_answer, Linux 6.18).
    const bool ended = endsWithin(std::chrono::milliseconds(1'000));
    reapAtItsEnd(pid, std::move(child));
    throw std::runtime_error(
        what + ": the file system there does not answer user " + std::to_string(identity.uid) +
        (ended ? "" : ", and a process that waits for it does not end, not even by SIGKILL: pid " + std::to_string(pid)));
}

Identity Identity::of(const std::string& user) {
    const passwd* entry = ::getpwnam(user.c_str());
    if (!entry) throw std::runtime_error("there is no user '" + user + "' on this host");
    if (::geteuid() != 0) return {::geteuid(), ::getegid(), false};
    return {entry->pw_uid, entry->pw_gid, entry->pw_uid != 0};
}

Identity Identity::ofProcess(pid_t pid) {
    const ProcessTraits traits = ProcessTraits::of(pid);
    return {traits.uid(), traits.gid(), traits.uid() != ::geteuid()};
}

ChildProcess ChildProcess::launch(const LaunchSpec& spec) {
    ChildPlan plan{.spec = spec, .manager = ::getpid(), .numbers = spec.numbers};
    for (const std::string& argument : spec.argv) plan.argv.push_back(const_cast<char*>(argument.c_str()));
    plan.argv.push_back(nullptr);
    if (plan.numbers.empty())
        for (std::size_t i = 0; i < spec.descriptors.size(); ++i) plan.numbers.push_back(firstDescriptor + static_cast<int>(i));
    plan.scratch.resize(plan.numbers.size());
    // A left-over CPR exec state in the environment would put any QEMU into cpr-exec mode (migration/cpr-exec.c, 10.2).
    ::unsetenv("QEMU_CPR_EXEC_STATE");
    plan.devNull = UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));

    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throwErrno("create a pipe");
    UniqueFd told(ends[0]);
    plan.complaints = UniqueFd(ends[1]);

    const pid_t pid = ::fork();
    if (pid < 0) throwErrno("start '" + spec.argv.at(0) + "'");
    if (pid == 0) becomeChild(plan);

    ChildProcess child;
    child.pid_ = pid;
    child.startTime_ = Process(pid).startTime();
    child.handle_ = std::make_shared<Handle>();
    child.handle_->pidfd = openPidfd(pid);  // Cannot name another process: ours is not reaped yet.
    if (!child.handle_->pidfd) {            // Nobody could see its end, or bring it about.
        const int error = errno;
        ::kill(pid, SIGKILL);
        // Not for longer: what the kernel holds does not end by that.
        for (int i = 0; i < 100 && ::waitpid(pid, nullptr, WNOHANG) == 0; ++i) ::usleep(10'000);
        throwErrno("get hold of '" + spec.argv.at(0) + "'", error);
    }
    child.handle_->child = true;
    child.handle_->complaints = std::move(told);
    // Else it would be open as long as a VMM lives.
    auto listener = std::make_shared<EventSource>();
    *listener = EventSource::readable(child.handle_->complaints.get(), [handle = child.handle_, listener] {
        if (!handle->hear()) return;
        handle->complaints.reset();
        listener->reset();
    });
    auto reaper = std::make_shared<EventSource>();
    *reaper = EventSource::readable(child.handle_->pidfd.get(), [handle = child.handle_, reaper] {
        handle->reap();
        reaper->reset();
    });
    return child;
}

ChildProcess ChildProcess::adopt(pid_t pid, std::uint64_t startTime) {
    ChildProcess process;
    if (pid <= 0) return process;
    UniqueFd pidfd = openPidfd(pid);
    // The start time is read after the pidfd is held, so the two speak of one process.
    if (!pidfd || Process(pid).startTime() != startTime) return process;
    process.pid_ = pid;
    process.startTime_ = startTime;
    process.handle_ = std::make_shared<Handle>();
    process.handle_->pidfd = std::move(pidfd);
    return process;
}

bool ChildProcess::alive() const {
    return handle_ && handle_->alive();
}

void ChildProcess::kill(int signal) const {
    if (handle_) signalProcess(handle_->pidfd.get(), signal);
}

void ChildProcess::killAll() const {
    // While the leader lives, its group's number is nobody else's.
    if (alive() && ::getpgid(pid_) == pid_) ::kill(-pid_, SIGKILL);
    kill(SIGKILL);
}

void ChildProcess::onExit(std::function<void()> callback) {
    exitWatch_ = EventSource::readable(handle_->pidfd.get(), [this, callback = std::move(callback)] {
        exitWatch_.reset();
        callback();
    });
}

std::string ChildProcess::howItEnded() const {
    if (!handle_) return "ended";
    handle_->reap();
    return handle_->ended.empty() ? "ended" : handle_->ended;
}

}  // namespace vh
