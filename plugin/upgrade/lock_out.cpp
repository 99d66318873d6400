#include "plugin/upgrade/lock_out.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <span>
#include <sstream>
#include <utility>

#include "plugin/host/command.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds, std::chrono::steady_clock;

/// Sockets before services: a service that starts finds its sockets there.
const std::vector<std::string> units{
    "virtqemud.socket",      "virtqemud-ro.socket", "virtqemud-admin.socket", "libvirtd.socket",   "libvirtd-ro.socket",
    "libvirtd-admin.socket", "libvirtd-tcp.socket", "libvirtd-tls.socket",    "virtqemud.service", "libvirtd.service",
};

/// How often a daemon that came up in the middle is stopped before this is given up.
constexpr int maxAttempts = 5;
constexpr milliseconds systemctlDeadline{30'000};

std::string lockFile(const LockOutSettings& settings) {
    return settings.stateDirectory + "/driver.pid";
}

/// Where libvirt has its lock (src/util/virpidfile.c:virPidFileAcquirePath, 11.3.0).
flock firstByte(short type) {
    flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_len = 1;
    return lock;
}

bool isThere(const UniqueFd& file, const std::string& path) {
    struct stat there {};
    return ::lstat(path.c_str(), &there) == 0 && FileIdentity::of(file.get()) == FileIdentity{there.st_dev, there.st_ino};
}

/// Nobody but root and we can change what is at a path that is absolute and has no links.
bool isOnlyRoots(const fs::path& path) {
    fs::path part;
    for (const fs::path& name : path) {
        part /= name;
        struct stat file {};
        if (::lstat(part.c_str(), &file) != 0 || S_ISLNK(file.st_mode)) return false;
        if (file.st_uid != 0 && file.st_uid != ::geteuid()) return false;
        const bool sticky = S_ISDIR(file.st_mode) && (file.st_mode & S_ISVTX);
        if (!sticky && ((file.st_mode & S_IWOTH) || ((file.st_mode & S_IWGRP) && file.st_gid != 0))) return false;
    }
    return true;
}

/// `0 0 0 0`: real, effective, saved and file system user.
std::string usersOf(pid_t pid) {
    std::istringstream numbers(Process(pid).field("status", "Uid:"));
    std::string all;
    for (std::string one; numbers >> one;) append(all, one, " ");
    return all;
}

/// The kernel says that this process has libvirt's lock. That it is libvirt, which is ended and may be started again as root,
/// takes more: root's own, in our user namespace, and a program of that name which nobody else can exchange.
bool isDaemon(const LockOutSettings& settings, pid_t pid, const std::string& program) {
    const std::string own = std::to_string(::geteuid());
    return usersOf(pid) == own + " " + own + " " + own + " " + own &&
           Process(pid).link("ns/user") == Process(::getpid()).link("ns/user") &&
           std::ranges::find(settings.daemons, fs::path(program).filename().string()) != settings.daemons.end() &&
           isOnlyRoots(program);
}

struct Daemon {
    pid_t pid = 0;
    UniqueFd process;
    std::string program;
};

/// libvirt's daemon, if it has the lock. Throws when somebody else has.
std::optional<Daemon> daemonWith(const UniqueFd& file, const std::string& path, const LockOutSettings& settings) {
    while (const std::optional<pid_t> pid = lockHolder(file.get())) {
        if (*pid < 0)  // Of an open file description: only we lock in that way.
            throw LockedOutAlready("'" + path +
                                   "' is locked by another upgrade or recovery of libvirt domains: wait for its end");
        if (*pid == 0)
            throw std::runtime_error("'" + path +
                                     "' is locked by a libvirt daemon in another PID namespace: run this where that daemon runs");
        Daemon daemon{.pid = *pid, .process = openPidfd(*pid), .program = {}};
        if (!daemon.process && errno != ESRCH) throwErrno("pidfd_open of pid " + std::to_string(*pid));
        // A package that was upgraded has replaced it: the new one is meant.
        daemon.program = withoutDeletedMark(Process(*pid).link("exe"));
        const bool isOne = isDaemon(settings, *pid, daemon.program);
        const std::string users = usersOf(*pid);
        if (!daemon.process || lockHolder(file.get()) != pid) continue;  // It was about another one, which has ended.
        if (isOne) return daemon;
        throw std::runtime_error(
            "'" + path + "' is locked by pid " + std::to_string(*pid) + " ('" + daemon.program + "', user " +
            users.substr(0, users.find(' ')) +
            "), which is not libvirt's daemon as root has installed it: nobody else has a reason to; find out "
            "what it is, and end it");
    }
    return std::nullopt;
}

/// None when it is not there. What others have put in its place is not followed, and has no daemon's lock.
UniqueFd openLockFile(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    if (!file && errno != ENOENT && errno != ELOOP && errno != EISDIR && errno != ENXIO) throwErrno("open '" + path + "'");
    return file;
}

std::optional<Daemon> daemonNow(const LockOutSettings& settings) {
    const std::string path = lockFile(settings);
    const UniqueFd file = openLockFile(path);
    return file ? daemonWith(file, path, settings) : std::nullopt;
}

/// A new file under the lock's name, locked before it has that name. What had it before now has `draft`.
UniqueFd replaceLockFile(const std::string& path, const std::string& draft) {
    ::unlink(draft.c_str());
    // 0600: who cannot open it can have no lock on it, not even one that waits for the end of ours.
    UniqueFd file(::open(draft.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) throwErrno("create '" + draft + "'");
    const flock lock = firstByte(F_WRLCK);
    if (::fcntl(file.get(), F_OFD_SETLK, &lock) != 0) throwErrno("lock '" + draft + "'");
    const auto move = [&](unsigned how) { return ::renameat2(AT_FDCWD, draft.c_str(), AT_FDCWD, path.c_str(), how) == 0; };
    while (!move(RENAME_EXCHANGE)) {
        if (errno != ENOENT) throwErrno("replace '" + path + "'");
        if (move(RENAME_NOREPLACE)) break;
        if (errno != EEXIST) throwErrno("make '" + path + "'");
    }
    return file;
}

/// As libvirt does: nobody who waits for the old file's lock gets the next daemon's.
void unlockFile(const std::string& path, UniqueFd lock) {
    if (!lock) return;
    if (isThere(lock, path)) ::unlink(path.c_str());
    // By name, and not by closing: a child that has the descriptor would keep it.
    const flock none = firstByte(F_UNLCK);
    ::fcntl(lock.get(), F_OFD_SETLK, &none);
}

CommandResult systemctl(const LockOutSettings& settings, std::vector<std::string> words, std::span<const std::string> names,
                        milliseconds deadline = systemctlDeadline) {
    words.insert(words.begin(), settings.systemctl);
    words.insert(words.end(), names.begin(), names.end());
    return run({.argv = std::move(words), .deadline = deadline});
}

struct UnitState {
    std::string id;
    bool isLoaded = false;
    bool isUp = false;  ///< Or on its way up.
};

/// Of those of libvirt's units that systemd knows. It prints `KEY=VALUE` lines, one block a unit.
std::vector<UnitState> unitStates(const LockOutSettings& settings) {
    const CommandResult shown = systemctl(settings, {"show", "--property=Id,LoadState,ActiveState"}, units);
    if (!shown.ok()) throw std::runtime_error("'systemctl show' of libvirt's units failed: " + shown.describe());
    std::vector<UnitState> states;
    std::istringstream lines(shown.output + "\n");
    std::string line;
    UnitState unit;
    while (std::getline(lines, line)) {
        const std::size_t equals = line.find('=');
        const std::string key = line.substr(0, equals), value = equals == std::string::npos ? "" : line.substr(equals + 1);
        if (key == "Id") unit.id = value;
        if (key == "LoadState") unit.isLoaded = value == "loaded";
        if (key == "ActiveState") unit.isUp = value == "active" || value == "activating" || value == "reloading";
        if (!line.empty() || unit.id.empty()) continue;
        states.push_back(std::exchange(unit, {}));
    }
    return states;
}

}  // namespace

LockOutPlan planLockOut(const LockOutSettings& settings) {
    LockOutPlan plan;
    if (settings.systemd)
        for (const UnitState& unit : unitStates(settings)) {
            if (!unit.isLoaded) continue;
            plan.maskedUnits.push_back(unit.id);
            if (unit.isUp) plan.startedUnits.push_back(unit.id);
        }
    const std::optional<Daemon> now = daemonNow(settings);
    const bool isUnit = !plan.startedUnits.empty();
    if (!now || isUnit) return plan;
    StoppedDaemon daemon;
    daemon.program = now->program;
    daemon.argv = Process(now->pid).commandLine();
    daemon.environment = Process(now->pid).environment();
    daemon.directory = Process(now->pid).link("cwd");
    plan.daemon = std::move(daemon);
    return plan;
}

LockOut::LockOut(LockOutSettings settings, LockOutPlan plan, UniqueFd inherited)
    : settings_(std::move(settings)), plan_(std::move(plan)), lock_(std::move(inherited)) {
    try {
        std::optional<Daemon> now = lock_ ? std::nullopt : daemonNow(settings_);
        const UniqueFd daemon = now ? std::move(now->process) : UniqueFd();
        if (daemon && plan_.daemon)  // To be given to the next one: where it writes its messages.
            for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
                streams_.push_back(takeDescriptor(daemon.get(), number));
        mask();
        stopUnits();
        if (daemon) endProcess(daemon.get(), settings_.stopDeadline);
        takeLock();
    } catch (const std::exception& error) {
        const std::string undone = release();
        throw std::runtime_error(std::string("cannot keep libvirt away: ") + error.what() +
                                 (undone.empty() ? "" : "; " + undone));
    }
}

LockOut::~LockOut() {
    if (held_) release();
}

void LockOut::mask() {
    if (plan_.maskedUnits.empty()) return;
    const CommandResult masked = systemctl(settings_, {"mask", "--runtime"}, plan_.maskedUnits);
    if (!masked.ok()) throw std::runtime_error("'systemctl mask --runtime' failed: " + masked.describe());
}

void LockOut::stopUnits() {
    if (plan_.maskedUnits.empty()) return;
    std::vector<std::string> up;
    // Only what is up now: recovery may be what somebody's `systemctl start` waits for, and stopping a unit cancels its start.
    for (const UnitState& unit : unitStates(settings_))
        if (unit.isUp) up.push_back(unit.id);
    if (up.empty()) return;
    // When this takes too long, the job goes on in systemd and the daemon is killed below: 2 of 45 stops took 30 s.
    const CommandResult stopped = systemctl(settings_, {"stop"}, up, settings_.stopDeadline);
    if (!stopped.ok() && !stopped.timedOut) throw std::runtime_error("'systemctl stop' failed: " + stopped.describe());
}

void LockOut::takeLock() {
    const std::string path = lockFile(settings_), draft = path + ".virt-handover";
    const auto end = [&](const UniqueFd& file) {
        if (const std::optional<Daemon> daemon = daemonWith(file, path, settings_))
            endProcess(daemon->process.get(), settings_.stopDeadline);
    };
    for (int attempt = 0; attempt < maxAttempts; ++attempt) {
        // A daemon that ends removes the file: what is locked must be what is there.
        if (lock_ && isThere(lock_, path)) return;
        for (const std::string& name : {path, draft})  // The latter from an upgrade that was killed right here.
            if (const UniqueFd before = openLockFile(name)) end(before);
        lock_ = replaceLockFile(path, draft);
        // Whoever has locked the one before since then came up in time; whoever does so from now on finds that it is not there
        // any more, and looks again.
        if (const UniqueFd before = openLockFile(draft)) end(before);
        ::unlink(draft.c_str());
    }
    throw std::runtime_error("a libvirt daemon came up again " + std::to_string(maxAttempts) +
                             " times: something starts it; stop that first");
}

std::string LockOut::release() {
    held_ = false;
    unlockFile(lockFile(settings_), std::move(lock_));
    return letLibvirtIn(settings_, plan_, streams_);
}

std::string letLibvirtIn(const LockOutSettings& settings, const LockOutPlan& plan, UniqueFd lock) {
    unlockFile(lockFile(settings), std::move(lock));
    return letLibvirtIn(settings, plan, std::vector<UniqueFd>());
}

std::string letLibvirtIn(const LockOutSettings& settings, const LockOutPlan& plan, const std::vector<UniqueFd>& streams) {
    std::string problems;
    const auto step = [&](const std::string& what, auto&& part) {
        try {
            part();
        } catch (const std::exception& error) {
            append(problems, what + ": " + error.what(), "; ");
        }
    };
    const auto onUnits = [&](const std::vector<std::string>& words, const std::vector<std::string>& names) {
        if (names.empty()) return;
        const CommandResult result = systemctl(settings, words, names);
        if (!result.ok()) throw std::runtime_error(result.describe());
    };
    step("'systemctl unmask --runtime' of libvirt's units", [&] { onUnits({"unmask", "--runtime"}, plan.maskedUnits); });
    // Not waiting: as a unit that is ordered before libvirt's, recovery would wait for itself.
    step("'systemctl start' of libvirt's units", [&] { onUnits({"start", "--no-block"}, plan.startedUnits); });
    step("libvirt could not be started again", [&] {
        if (!plan.daemon || daemonNow(settings)) return;
        DetachedCommand command{plan.daemon->program, plan.daemon->argv, plan.daemon->environment, plan.daemon->directory, {}};
        for (std::size_t number = 0; number < streams.size(); ++number)
            if (streams[number]) command.descriptors[static_cast<int>(number)] = streams[number].get();
        startDetached(command);
    });
    return problems;
}

LockOutSettings lockOutSettings() {
    LockOutSettings settings;
    settings.systemd = fs::is_directory("/run/systemd/system");  // sd_booted(3)
    return settings;
}

}  // namespace vh
