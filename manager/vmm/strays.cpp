#include "manager/vmm/strays.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "vmm-shim/qmp/vmm_state.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr milliseconds timeout{3'000};
constexpr milliseconds answerTimeout{1'000};

constexpr std::string_view monitor = "/qmp.sock";
constexpr const char* standardOutput = "fd/1";

/// The monitors that are listened on in a VM's directory, which is root's or the user's own: each one's inode, and the directory
/// of its generation. The file may have been removed.
std::map<std::uint64_t, std::string> monitorsOf(const VmDirectory& directory, const std::vector<UnixSocket>& sockets) {
    std::map<std::uint64_t, std::string> monitors;
    for (const UnixSocket& socket : sockets)
        if (socket.kind == SocketKind::Listening && socket.path.starts_with(directory.path() + "/") &&
            socket.path.ends_with(monitor))
            monitors[socket.inode] = socket.path.substr(0, socket.path.size() - monitor.size());
    return monitors;
}

/// `output` is empty of a process that has none, or that we may not look at.
std::optional<StrayVmm> vmmOf(const VmDirectory& directory, pid_t pid, const std::string& output,
                              const std::map<std::uint64_t, std::string>& monitors) {
    constexpr std::string_view log = "/vmm.log", deletedLog = "/vmm.log (deleted)";
    if (output.starts_with(directory.path() + "/")) {
        if (output.ends_with(log)) return StrayVmm{pid, output.substr(0, output.size() - log.size())};
        if (output.ends_with(deletedLog)) return StrayVmm{pid, {}};
    }
    if (monitors.empty()) return {};
    const std::set<std::uint64_t> held = Process(pid).sockets();
    const auto its = std::ranges::find_if(monitors, [&](const auto& known) { return held.contains(known.first); });
    return its == monitors.end() ? std::nullopt : std::optional(StrayVmm{pid, its->second});
}

}  // namespace

std::vector<StrayVmm> strayVmms(const VmDirectory& directory, const std::set<pid_t>& keep,
                                const std::vector<UnixSocket>& sockets) {
    std::map<std::uint64_t, std::string> monitors = monitorsOf(directory, sockets);
    for (const pid_t pid : keep)
        for (const std::uint64_t inode : Process(pid).sockets()) monitors.erase(inode);
    std::vector<StrayVmm> strays;
    for (const pid_t pid : allProcesses()) {
        if (pid == ::getpid() || keep.contains(pid)) continue;
        if (const std::optional<StrayVmm> vmm = vmmOf(directory, pid, Process(pid).link(standardOutput), monitors))
            strays.push_back(*vmm);
    }
    return strays;
}

bool isVmmOf(const VmDirectory& directory, pid_t pid) {
    const std::string its = Process(pid).link(standardOutput);
    return its.empty() || vmmOf(directory, pid, its, monitorsOf(directory, unixSockets()));
}

std::set<pid_t> livePids(const VmRecord& record) {
    std::set<pid_t> pids;
    for (const VmmRecord& vmm : record.vmms())
        if (isAlive(vmm)) pids.insert(vmm.pid);
    return pids;
}

std::vector<ChildProcess> companionsOf(pid_t leader) {
    std::vector<ChildProcess> companions;
    if (leader <= 0 || ::getsid(leader) != leader) return companions;
    for (const pid_t pid : allProcesses()) {
        if (pid == leader || ::getsid(pid) != leader) continue;
        ChildProcess companion = ChildProcess::of(pid);
        // Looked at again: by now the pid cannot be another process's unless the one that is held has ended.
        if (::getsid(pid) == leader) companions.push_back(std::move(companion));
    }
    return companions;
}

std::string processText(pid_t pid) {
    const std::string name = Process(pid).field("comm", "");
    return "pid " + std::to_string(pid) + (name.empty() ? "" : " ('" + name + "')");
}

StrayCheck::StrayCheck(VmDirectory directory, std::optional<VmRecord> record, Done done)
    : directory_(std::move(directory)),
      record_(std::move(record)),
      done_(std::move(done)),
      until_(std::chrono::steady_clock::now() + timeout) {
    if (record_) keep_ = livePids(*record_);
    timer_ = EventSource::after(milliseconds(0), [this] { look(); });
}

std::vector<StrayVmm> StrayCheck::found(const std::vector<UnixSocket>& sockets) const {
    std::vector<StrayVmm> strays = strayVmms(directory_, keep_, sockets);
    // The log of an adopted VM is its own manager's; its new VMM has locked the pid file before it runs any program.
    if (record_ && record_->adopted && record_->new_ && record_->new_->pid == 0)
        if (const pid_t pid = lockHolder(record_->adopted->pidFile).value_or(0); pid > 0 && !keep_.contains(pid))
            strays.push_back({pid, directory_.generation(record_->new_->generation)});
    return strays;
}

std::string StrayCheck::outOfDate(const std::vector<UnixSocket>& sockets) const {
    if (!record_) return {};
    std::set<std::string> known;
    for (const VmmRecord& vmm : record_->vmms()) known.insert(directory_.generation(vmm.generation));
    const std::map<std::uint64_t, std::string> monitors = monitorsOf(directory_, sockets);
    for (const pid_t pid : keep_) {
        std::set<std::string> its;
        for (const std::uint64_t inode : Process(pid).sockets())
            if (const auto found = monitors.find(inode); found != monitors.end()) its.insert(found->second);
        if (!its.empty() && std::ranges::none_of(its, [&](const std::string& directory) { return known.contains(directory); }))
            return processText(pid) + " listens in '" + *its.begin() + "', and the record, an older one, knows nothing of that";
    }
    return {};
}

void StrayCheck::look() {
    vmm_.reset();
    try {
        const std::vector<UnixSocket> sockets = unixSockets();
        if (const std::string problem = outOfDate(sockets); !problem.empty()) return finish(problem);
        const std::vector<StrayVmm> strays = found(sockets);
        // Once it has the state it does not listen any more (migration/cpr-transfer.c:cpr_transfer_input, 10.0 and 11.1).
        for (const StrayVmm& stray : strays)
            if (!stray.directory.empty() &&
                holdsSocket(stray.pid, inodesOf(sockets, cprChannelPath(stray.directory), SocketKind::Listening)))
                return end(stray.pid);
        const auto next = std::ranges::find_if(strays, [&](const StrayVmm& stray) { return !helpers_.contains(stray.pid); });
        next == strays.end() ? finish({}) : take(*next);
    } catch (const std::exception& error) {
        finish(error.what());
    }
}

void StrayCheck::take(const StrayVmm& stray) {
    if (stray.directory.empty() || !fs::exists(stray.directory + "/qmp.sock"))
        return laterOr(stray, "is a VMM of it whose files in '" + directory_.path() + "' were removed; it may run the guest");
    vmm_ =
        std::make_unique<VmmProcess>(VmmRecord{.pid = stray.pid, .startTime = Process(stray.pid).startTime()}, stray.directory);
    try {
        vmm_->monitor().execute("query-status", nullptr, answerTimeout,
                                [this, stray](const QmpReply& reply) { judge(stray, reply); });
    } catch (const std::exception&) {  // Its monitor is closed: it is ending, or another client will be gone soon.
        laterOr(stray, "is a VMM of it that no record names, and its monitor cannot be reached; it may hold the guest");
    }
}

void StrayCheck::judge(const StrayVmm& stray, const QmpReply& reply) {
    const std::string said = reply.text("status");
    const RunState runState = runStateOf(said);
    if (runState == RunState::Unsaid)
        return laterOr(stray, "is a VMM of it that no record names, and it does not answer; it may hold the guest");
    const std::set<std::uint64_t> answering = socketsAt(stray.directory + "/qmp.sock", SocketKind::Accepted);
    if (std::ranges::any_of(keep_, [&](pid_t pid) { return holdsSocket(pid, answering); })) {
        helpers_.insert(stray.pid);
        return look();
    }
    const bool isItself = holdsSocket(stray.pid, answering);
    if (isItself && (runState == RunState::Prelaunch || runState == RunState::InMigrate)) return end(stray.pid);
    // A script that has started the VMM: what becomes of that settles it.
    for (const StrayVmm& other : found(unixSockets()))
        if (!isItself && holdsSocket(other.pid, answering)) return judge(other, reply);
    finish(processText(stray.pid) + " is a VMM of it that no record names, and it holds a guest ('" + said + "')");
}

void StrayCheck::end(pid_t pid) {
    vmm_.reset();
    ending_ = ChildProcess::of(pid);
    if (!ending_.alive()) return look();
    timer_ = EventSource::after(timeout, [this, pid] {
        ending_.ignoreExit();
        finish(processText(pid) + " is a VMM of it that never had the guest, and it does not end");
    });
    ending_.onExit([this] { look(); });
    ending_.killAll();
}

void StrayCheck::laterOr(const StrayVmm& stray, const std::string& problem) {
    if (std::chrono::steady_clock::now() > until_ && ChildProcess::of(stray.pid).alive())
        return wasJustStarted(stray) ? endUnlessItMayHoldTheGuest(stray, problem)
                                     : finish(processText(stray.pid) + " " + problem);
    timer_ = EventSource::after(milliseconds(50), [this] { look(); });
}

bool StrayCheck::wasJustStarted(const StrayVmm& stray) const {
    return record_ && record_->new_ && record_->new_->pid == 0 &&
           stray.directory == directory_.generation(record_->new_->generation);
}

/// The VMM on record has to say that it runs the guest: the record may be an older one that somebody has put back.
void StrayCheck::endUnlessItMayHoldTheGuest(const StrayVmm& stray, const std::string& problem) {
    const auto finished = [this, stray, problem] { finish(processText(stray.pid) + " " + problem); };
    vmm_ = std::make_unique<VmmProcess>(record_->vmm, directory_.generation(record_->vmm.generation));
    try {
        vmm_->monitor().execute("query-status", nullptr, answerTimeout, [this, stray, finished](const QmpReply& reply) {
            if (runStateOf(reply.text("status")) == RunState::Running && vmm_->hasOwnAnswer()) return end(stray.pid);
            finished();
        });
    } catch (const std::exception&) {
        finished();
    }
}

void StrayCheck::finish(std::string problem) {
    if (!done_) return;
    timer_.reset();
    answer_ = EventSource::soon([done = std::exchange(done_, nullptr), problem = std::move(problem)] { done(problem); });
}

}  // namespace vh
