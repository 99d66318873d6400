#include "manager/compare/vm_set.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <list>
#include <memory>
#include <system_error>
#include <utility>

#include <gio/gio.h>

#include "config/parse.h"
#include "manager/compare/huge_pages.h"
#include "manager/process/child_process.h"
#include "manager/process/event_loop.h"
#include "manager/record/vm_directory.h"
#include "manager/vmm/strays.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds runTimeout{10'000};
constexpr milliseconds bootTimeout{1'800'000};  ///< Without KVM and on a busy machine RAM is filled at some 100 MiB/s or less.

constexpr const char* prefix = "/tmp/vhc-";  ///< Short: there are sockets in it.
constexpr std::chrono::seconds endTimeout{10};

bool isOurs(const std::string& directory) {
    struct stat status {};
    return directory.starts_with(prefix) && directory.find('/', std::string(prefix).size()) == directory.npos &&
           ::lstat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == ::geteuid();
}

/// Kills the VMMs of a VM that a comparison has made for itself, and waits until they have ended.
void endVmmsOf(const VmDirectory& vm) {
    const auto until = steady_clock::now() + endTimeout;
    bool tooLate = false;
    const EventSource timeout = EventSource::after(endTimeout, [&tooLate] { tooLate = true; });
    // A wrapper script may have started another one meanwhile.
    for (auto strays = strayVmms(vm, {}); !strays.empty() && steady_clock::now() < until; strays = strayVmms(vm, {})) {
        std::list<ChildProcess> ending;
        std::size_t alive = 0;
        for (const StrayVmm& stray : strays) {
            ChildProcess& vmm = ending.emplace_back(ChildProcess::of(stray.pid));
            if (vmm.pid() == 0) continue;
            ++alive;
            vmm.onExit([&alive] { --alive; });
            vmm.killAll();
        }
        turnUntil([&] { return alive == 0 || tooLate; });
    }
}

void copyDisk(const std::string& from, const std::string& to) {
    const char* const argv[] = {"cp", "--reflink=auto", "--sparse=always", "--", from.c_str(), to.c_str(), nullptr};
    GError* error = nullptr;
    GSubprocess* process = g_subprocess_newv(argv, G_SUBPROCESS_FLAGS_STDERR_SILENCE, &error);
    const bool copied = process && g_subprocess_wait_check(process, nullptr, &error);
    const std::string problem = error ? error->message : "";
    g_clear_error(&error);
    if (process) g_object_unref(process);
    if (!copied) throw std::runtime_error("cannot copy the disk '" + from + "' for the comparison: " + problem);
}

void makeDisk(const std::string& file) {
    std::ofstream(file).close();
    std::filesystem::resize_file(file, 64ULL << 20);
}

}  // namespace

ComparisonDirectory::ComparisonDirectory() : path_(std::string(prefix) + "XXXXXX") {
    if (!::mkdtemp(path_.data())) throwErrno("make a directory in '/tmp'");
    ::chmod(path_.c_str(), 0755);  // The VMMs run as another user.
}

void ComparisonDirectory::remove(const std::string& directory) {
    if (!isOurs(directory)) return;
    const std::string runtime = directory + "/run";
    std::error_code ignored;
    // VMs whose start was cut short have no record, but a directory.
    for (const auto& entry : std::filesystem::directory_iterator(runtime, ignored))
        if (entry.is_directory(ignored)) endVmmsOf({runtime, entry.path().filename()});
    std::filesystem::remove_all(directory, ignored);
}

void makeDisks(const VmDefinition& vm, const std::optional<VmDefinition>& own) {
    for (std::size_t disk = 0; disk < vm.disks.size(); ++disk)
        own ? copyDisk(own->disks[disk].file, vm.disks[disk].file) : makeDisk(vm.disks[disk].file);
}

VmControl::VmControl(std::string directory) : directory_(std::move(directory)), host_(directory_ + "/run", directory_) {}

void VmControl::interrupt() {
    interrupted_ = true;
    host_.cancelHandovers("interrupted");
    for (const auto& [vm, one] : atHand_) one.work->cancel("interrupted");
}

void VmControl::throwIfInterrupted() const {
    if (interrupted_) throw Interrupted{};
}

void VmControl::waitUntil(const std::function<bool()>& happened) {
    turnUntil([&] { return happened() || (interrupted_ && !handoverUnderWay()); });
    throwIfInterrupted();
}

void VmControl::runFor(milliseconds time) {
    bool over = false;
    const EventSource timer = EventSource::after(time, [&over] { over = true; });
    waitUntil([&over] { return over; });
}

VerbResult VmControl::wait(const std::function<void(Verbs::Done)>& verb) {
    // Shared, for an interrupted wait leaves the verb behind.
    const auto answer = std::make_shared<std::optional<VerbResult>>();
    verb([answer](VerbResult result) { *answer = std::move(result); });
    waitUntil([&answer] { return answer->has_value(); });
    return std::move(**answer);
}

void VmControl::locate(MeasuredVm& vm) const {
    // Whoever speaks to a VM that is nowhere finds it lost.
    vm.directory.clear();
    vm.pid = 0;
    try {
        const VmDirectory known(directory_ + "/run", vm.definition.name);
        const std::optional<VmRecord> record = known.read();
        if (!record) return;
        vm.directory = known.generation(record->vmm.generation);
        vm.pid = record->vmm.pid;
    } catch (const std::runtime_error&) {
    }
}

void VmControl::start(MeasuredVm& vm, milliseconds bootWait) {
    const std::string file = directory_ + "/" + vm.definition.name + ".yaml";
    std::ofstream(file) << toYaml(vm.definition);
    const VerbResult result = wait([&](Verbs::Done done) {
        host_.start(file, vm.definition.heartbeat ? std::optional(bootTimeout) : std::nullopt, std::move(done));
    });
    if (result.code != ExitCode::Done) throw std::runtime_error(result.obstacle().text());
    locate(vm);
    vm.binary = vm.definition.vmm.binary;
    vm.running = true;
    if (!vm.definition.heartbeat) runFor(bootWait);
    setRunning(vm, false);
    if (vm.transparentHuge) makeHuge(vm.pid);
}

void VmControl::destroy(MeasuredVm& vm) {
    vm.watch.stopListening();
    wait([&](Verbs::Done done) { host_.destroy(vm.definition.name, std::move(done)); });
    vm.pid = 0;
}

void VmControl::beginUpgrade(MeasuredVm& vm, const UpgradeOptions& options, Handover::Observer observer, Verbs::Done done) {
    if (!observer) observer = [](const HandoverProgress&) {};
    const auto ended = [this, &vm, binary = options.binary, done = std::move(done)](VerbResult result) {
        const HandoverReport& report = result.report.value();
        if (report.outcomeText() == name(Outcome::Upgraded)) vm.binary = binary;
        if (report.outcome == State::Upgraded || report.outcome == State::RolledBack) locate(vm);
        done(std::move(result));
    };
    const std::optional<Design> byHandOf = options.design ? rowOf(*options.design).byHandOf : std::nullopt;
    if (byHandOf && !options.dryRun)
        return beginByHand(vm, options, std::move(observer),
                           [ended](HandoverReport report) { ended(VerbResult::of(std::move(report))); });
    UpgradeOptions asked = options;
    if (byHandOf) asked.design = byHandOf;
    host_.upgrade(vm.definition.name, asked, std::move(observer), ended);
}

void VmControl::beginByHand(const MeasuredVm& vm, const UpgradeOptions& options, Handover::Observer observer,
                            std::function<void(HandoverReport)> done) {
    const std::string& name = vm.definition.name;
    try {
        const VmDirectory directory(directory_ + "/run", name);
        UniqueFd lock = directory.tryLock();
        const std::optional<VmRecord> record = directory.read();
        if (!lock || !record) throw std::runtime_error(record ? "another command is at work on it" : "it is not running");
        HandoverRequest request{.record = *record, .definition = record->definition()};
        request.design = *options.design;
        request.binary = options.binary;
        request.heard = [this, name](const HeardLine& line) {
            if (guestListener_) guestListener_(name, line);
        };
        auto work = std::make_unique<ByHand>(std::move(request), directory, std::move(observer),
                                             [this, name, done](HandoverReport report) {
                                                 atHand_.erase(name);  // The lock goes before the answer.
                                                 done(std::move(report));
                                             });
        atHand_.insert_or_assign(name, AtHand{std::move(lock), std::move(work)}).first->second.work->begin();
    } catch (const std::exception& error) {
        HandoverReport refused;
        refused.vm = name;
        refused.design = options.design;
        refused.cause = error.what();
        refusals_[name] = EventSource::soon([done, refused] { done(refused); });
    }
}

void VmControl::onGuestHeard(Host::GuestListener listener) {
    guestListener_ = listener;
    host_.onGuestHeard(std::move(listener));
}

HandoverReport VmControl::upgrade(MeasuredVm& vm, const UpgradeOptions& options, Handover::Observer observer) {
    return wait([&](Verbs::Done done) { beginUpgrade(vm, options, std::move(observer), std::move(done)); }).report.value();
}

void VmControl::setRunning(MeasuredVm& vm, bool running) {
    if (vm.running == running) return;
    try {
        QmpClient monitor(connectUnix(vm.directory + "/qmp.sock"));
        std::optional<bool> done;
        monitor.execute(running ? "cont" : "stop", nullptr, runTimeout, [&done](const QmpReply& reply) { done = reply.ok(); });
        waitUntil([&done] { return done.has_value(); });
        if (!*done) throw GuestLost{vm.number};
    } catch (const std::system_error&) {
        throw GuestLost{vm.number};
    }
    vm.running = running;
}

void VmControl::listen(MeasuredVm& vm, GuestWatch::Session session) {
    if (!vm.definition.heartbeat) return;
    try {
        vm.watch.listen(vm.directory + "/heartbeat.sock", session);
    } catch (const std::system_error& error) {
        // A VMM that gets no time has not taken the listeners before this one yet.
        if (error.code() != std::errc::resource_unavailable_try_again) throw GuestLost{vm.number};
    }
}

}  // namespace vh
