#include "plugin/lock_out.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "plugin/command.h"
#include "plugin/durable_file.h"
#include "plugin/process.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds, std::chrono::steady_clock;

/// Sockets before services: a service that starts finds its sockets there.
constexpr std::array units{
    "virtqemud.socket",      "virtqemud-ro.socket", "virtqemud-admin.socket", "libvirtd.socket",   "libvirtd-ro.socket",
    "libvirtd-admin.socket", "libvirtd-tcp.socket", "libvirtd-tls.socket",    "virtqemud.service", "libvirtd.service",
};

/// How often a daemon that came up in the middle is stopped before this is given up.
constexpr int maxAttempts = 5;
constexpr milliseconds systemctlDeadline{30'000};

[[noreturn]] void fail(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

std::string lockFile(const LockOutSettings& settings) {
    return settings.stateDirectory + "/driver.pid";
}

flock wholeFile(short type) {
    flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    return lock;
}

/// The process that holds the lock; 0 for nobody. Throws when the holder cannot be named.
pid_t holderOf(int fd, const std::string& path) {
    flock lock = wholeFile(F_WRLCK);
    if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) fail("look who locks '" + path + "'");
    if (lock.l_type == F_UNLCK) return 0;
    if (lock.l_pid > 0) return lock.l_pid;
    if (lock.l_pid < 0)  // Of an open file description: only we lock in that way.
        throw LockedOutAlready("'" + path + "' is locked by another upgrade or recovery of libvirt domains: wait for its end");
    throw std::runtime_error("'" + path + "' is locked by a libvirt daemon in another PID namespace: run this where that daemon runs");
}

pid_t daemonNow(const LockOutSettings& settings) {
    const UniqueFd fd(::open(lockFile(settings).c_str(), O_RDWR | O_CLOEXEC));
    return fd ? holderOf(fd.get(), lockFile(settings)) : 0;
}

CommandResult systemctl(const LockOutSettings& settings, std::vector<std::string> words, milliseconds deadline) {
    words.insert(words.begin(), settings.systemctl);
    return run({.argv = std::move(words), .deadline = deadline});
}

struct UnitState {
    std::string id;
    bool isLoaded = false;
    bool isUp = false;  ///< Or on its way up.
};

/// Of those of libvirt's units that systemd knows. It prints `KEY=VALUE` lines, one block a unit.
std::vector<UnitState> unitStates(const LockOutSettings& settings) {
    std::vector<std::string> words{"show", "--property=Id,LoadState,ActiveState"};
    words.insert(words.end(), units.begin(), units.end());
    const CommandResult shown = systemctl(settings, words, systemctlDeadline);
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
    const pid_t pid = daemonNow(settings);
    const bool isUnit = !plan.startedUnits.empty();
    if (pid == 0 || isUnit) return plan;
    const std::string process = "/proc/" + std::to_string(pid);
    StoppedDaemon daemon;
    // A package that was upgraded has replaced it: the new one is meant.
    daemon.program = withoutDeletedMark(fs::read_symlink(process + "/exe"));
    daemon.argv = commandLineOf(pid);
    daemon.environment = environmentOf(pid);
    daemon.directory = fs::read_symlink(process + "/cwd");
    plan.daemon = std::move(daemon);
    return plan;
}

LockOut::LockOut(LockOutSettings settings, LockOutPlan plan, UniqueFd inherited)
    : settings_(std::move(settings)), plan_(std::move(plan)), lock_(std::move(inherited)) {
    try {
        UniqueFd daemon;
        if (const pid_t pid = lock_ ? 0 : daemonNow(settings_)) daemon = openProcess(pid);
        if (daemon && plan_.daemon)  // To be given to the next one: where it writes its messages.
            for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
                streams_.emplace_back(static_cast<int>(::syscall(SYS_pidfd_getfd, daemon.get(), number, 0)));
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
    std::vector<std::string> words{"mask", "--runtime"};
    words.insert(words.end(), plan_.maskedUnits.begin(), plan_.maskedUnits.end());
    const CommandResult masked = systemctl(settings_, words, systemctlDeadline);
    if (!masked.ok()) throw std::runtime_error("'systemctl mask --runtime' failed: " + masked.describe());
}

void LockOut::stopUnits() {
    if (plan_.maskedUnits.empty()) return;
    std::vector<std::string> words{"stop"};
    // Only what is up now: recovery may be what somebody's `systemctl start` waits for, and stopping a unit cancels its start.
    for (const UnitState& unit : unitStates(settings_))
        if (unit.isUp) words.push_back(unit.id);
    if (words.size() == 1) return;
    // When this takes too long, the job goes on in systemd and the daemon is killed below: 2 of 45 stops took 30 s.
    const CommandResult stopped = systemctl(settings_, words, settings_.stopDeadline);
    if (!stopped.ok() && !stopped.timedOut) throw std::runtime_error("'systemctl stop' failed: " + stopped.describe());
}

void LockOut::takeLock() {
    const std::string path = lockFile(settings_);
    for (int attempt = 0; attempt < maxAttempts; ++attempt) {
        // 0644 as libvirt makes it. A daemon that ends removes the file: what is locked must be what is there.
        if (!lock_) lock_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
        if (!lock_) fail("open '" + path + "'");
        flock lock = wholeFile(F_WRLCK);
        if (::fcntl(lock_.get(), F_OFD_SETLK, &lock) == 0) {
            struct stat ours {
            }, there{};
            const bool same = ::fstat(lock_.get(), &ours) == 0 && ::stat(path.c_str(), &there) == 0 &&
                              ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
            if (same) return;
            lock_.reset();
            continue;
        }
        if (errno != EAGAIN && errno != EACCES) fail("lock '" + path + "'");
        const pid_t holder = holderOf(lock_.get(), path);
        lock_.reset();
        if (holder == 0) continue;
        if (const UniqueFd process = openProcess(holder)) endProcess(process.get(), settings_.stopDeadline);
    }
    throw std::runtime_error("a libvirt daemon came up again " + std::to_string(maxAttempts) +
                             " times: something starts it; stop that first");
}

std::string LockOut::release() {
    held_ = false;
    if (lock_) {
        // By name, and not by closing: a child that has the descriptor would keep it.
        flock lock = wholeFile(F_UNLCK);
        ::fcntl(lock_.get(), F_OFD_SETLK, &lock);
        lock_.reset();
    }
    return letLibvirtIn(settings_, plan_, streams_);
}

std::string letLibvirtIn(const LockOutSettings& settings, const LockOutPlan& plan, const std::vector<UniqueFd>& streams) {
    std::string problems;
    const auto step = [&](const std::string& what, auto&& part) {
        try {
            part();
        } catch (const std::exception& error) {
            problems += (problems.empty() ? "" : "; ") + what + ": " + error.what();
        }
    };
    const auto onUnits = [&](std::vector<std::string> words, const std::vector<std::string>& names) {
        if (names.empty()) return;
        words.insert(words.end(), names.begin(), names.end());
        const CommandResult result = systemctl(settings, words, systemctlDeadline);
        if (!result.ok()) throw std::runtime_error(result.describe());
    };
    step("'systemctl unmask --runtime' of libvirt's units", [&] { onUnits({"unmask", "--runtime"}, plan.maskedUnits); });
    // Not waiting: as a unit that is ordered before libvirt's, recovery would wait for itself.
    step("'systemctl start' of libvirt's units", [&] { onUnits({"start", "--no-block"}, plan.startedUnits); });
    step("libvirt could not be started again", [&] {
        if (!plan.daemon || daemonNow(settings) != 0) return;
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
