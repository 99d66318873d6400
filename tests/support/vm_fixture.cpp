#include "tests/support/vm_fixture.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

#include "vmm-shim/unix_socket.h"

namespace vh::test {

using nlohmann::json;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

namespace {

std::set<std::string> ownDescriptors() {
    std::set<std::string> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd", ignored)) {
        const std::string target = fs::read_symlink(entry.path(), ignored).string();
        // The listing's own descriptor, and GLib's wake-up eventfd, which it makes once and keeps.
        if (!target.ends_with("/fd") && target.find("eventfd") == std::string::npos)
            found.insert(entry.path().filename().string() + " " + target);
    }
    return found;
}

/// Processes whose command line speaks of `path`, but for this one.
std::set<std::string> processesAbout(const std::string& path) {
    std::set<std::string> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
        const std::string pid = entry.path().filename();
        if (pid.find_first_not_of("0123456789") != std::string::npos || pid == std::to_string(::getpid())) continue;
        const std::string commandLine = readIfThere(entry.path() / "cmdline"),
                          output = fs::read_symlink(entry.path() / "fd/1", ignored);
        // A VMM's log is in the directory, and a script's name; a probe of a binary has no path of ours, but a memfd of that
        // name.
        if (commandLine.find(path) != std::string::npos || output.find(path) != std::string::npos ||
            output.starts_with("/memfd:probe-log"))
            found.insert(pid + " " + commandLine.substr(0, commandLine.find('\0')));
        // A zombie has no command line; one of ours would be a child.
        const std::string stat = readIfThere(entry.path() / "stat");
        if (stat.find(") Z " + std::to_string(::getpid()) + " ") != std::string::npos) found.insert(pid + " (zombie)");
    }
    return found;
}

/// What a process and those that it started do and wait for, in the kernel too, as far as we may know it: a line for each thread,
/// with the ns that it ran and waited for a processor.
std::string processTree(pid_t process) {
    std::error_code ignored;
    const std::string directory = "/proc/" + std::to_string(process);
    std::string text = readIfThere(directory + "/cmdline"), children;
    std::ranges::replace(text, '\0', ' ');
    text = std::to_string(process) + " " + text + "\n";
    for (const auto& thread : fs::directory_iterator(directory + "/task", ignored)) {
        std::string stack = readIfThere(thread.path() / "schedstat") + readIfThere(thread.path() / "stack");
        std::ranges::replace(stack, '\n', ' ');
        std::string stat = readIfThere(thread.path() / "stat");
        text += "    " + stat.substr(0, std::min(stat.size(), stat.rfind(')') + 3)) + " " + readIfThere(thread.path() / "wchan") +
                " " + stack + "\n";
        children += readIfThere(thread.path() / "children");
    }
    std::istringstream pids(children);
    for (pid_t child = 0; pids >> child;) text += processTree(child);
    return text;
}

/// What the threads of a silent guest's processors do, twice: whether they stand still, wait or turn in circles; and what it
/// answers on its console, where it has one: whether its programs and its clock go on, and only its heartbeat does not come.
std::string processorsOf(Host& host, const std::string& vm) {
    std::string text, heard;
    UniqueFd console;
    try {
        console = connectUnix(show(host, vm).value("directory", "") + "/console.sock");
    } catch (const std::system_error&) {
        heard = "no console";
    }
    for (int look = 0; look < 2; ++look) {
        text += ask(host, vm, "query-status").dump() + " " + processTree(vmmPid(host, vm));
        if (console) ::send(console.get(), "status\r", 7, MSG_DONTWAIT | MSG_NOSIGNAL);
        turnUntil(
            [&] {
                char buffer[512];
                for (ssize_t length; console && (length = ::recv(console.get(), buffer, sizeof buffer, MSG_DONTWAIT)) > 0;)
                    heard.append(buffer, static_cast<std::size_t>(length));
                return false;
            },
            milliseconds(2'000));
    }
    return text + "asked on its console: " + heard + "\n";
}

std::set<std::string> difference(const std::set<std::string>& now, const std::set<std::string>& before) {
    std::set<std::string> added;
    std::ranges::set_difference(now, before, std::inserter(added, added.end()));
    return added;
}

}  // namespace

Workspace::Workspace() {
    fs::create_directory(runtime());
    ::chmod(path().c_str(), 0755);
    ::chmod(runtime().c_str(), 0755);
    turnUntil([] { return true; }, milliseconds(1));
    descriptorsBefore_ = ownDescriptors();
    processesBefore_ = processesAbout(path());
}

Workspace::~Workspace() {
    if (mounted_) ::umount2(runtime().c_str(), MNT_DETACH);
}

void Workspace::makeRuntimeSmall() {
    if (::mount("vh-test", runtime().c_str(), "tmpfs", 0, "size=1m,mode=0755") != 0)
        throw std::system_error(errno, std::generic_category(), "mount a small file system on '" + runtime() + "'");
    mounted_ = true;
}

std::string Workspace::script(const std::string& name, const std::string& text) const {
    return directory_.write(name, "#!/bin/sh\n" + text + "\n", 0755);
}

std::string Workspace::impostor(const std::string& behaviour, Until until) const {
    const std::string qemu = "exec " + newQemu() + " \"$@\"";
    return script("impostor", until == Until::Launched ? "case \"$*\" in *'-machine none'*) " + qemu + ";; esac\n" + behaviour
                                                       : "[ -z \"$QEMU_CPR_EXEC_STATE\" ] || {\n" + behaviour + "\n}\n" + qemu);
}

std::string Workspace::referenceVmm(const std::string& name, const std::string& options) const {
    return script(name, "exec " + required("VH_REFERENCE_VMM") + " \"$@\" " + options);
}

void Workspace::expectNothingLeft() const {
    turnUntil(
        [this] {
            return difference(processesAbout(path()), processesBefore_).empty() &&
                   difference(ownDescriptors(), descriptorsBefore_).empty();
        },
        patience);
    EXPECT_EQ(difference(processesAbout(path()), processesBefore_), std::set<std::string>{}) << "processes are left";
    for (const std::string& descriptor : difference(ownDescriptors(), descriptorsBefore_))
        ADD_FAILURE() << "a descriptor is left: " << descriptor << "\n"
                      << readIfThere("/proc/self/fdinfo/" + descriptor.substr(0, descriptor.find(' ')));
    std::set<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(runtime()))
        if (entry.path().extension() != ".lock") files.insert(entry.path().string());
    EXPECT_EQ(files, std::set<std::string>{}) << "files are left in the runtime directory";
}

pid_t spawnProgram(const Workspace& workspace, std::vector<std::string> command, const std::string& name, int input) {
    std::vector<char*> argv;
    for (std::string& argument : command) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string out = workspace.path() + "/" + name + ".out", err = workspace.path() + "/" + name + ".err";
    const pid_t child = ::fork();
    if (child == 0) {
        if (input >= 0) ::dup2(input, STDIN_FILENO);
        ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDOUT_FILENO);
        ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDERR_FILENO);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    return child;
}

int reap(pid_t child, milliseconds deadline) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    int status = 0;
    pid_t ended = 0;
    while ((ended = ::waitpid(child, &status, WNOHANG)) == 0 && std::chrono::steady_clock::now() < end) ::usleep(2'000);
    if (ended == child) return status;
    if (ended < 0) {
        ADD_FAILURE() << "pid " << child << " is no child";
        return status;
    }
    ADD_FAILURE() << "pid " << child << " has not ended within " << deadline.count() << " ms, and is killed:\n"
                  << processTree(child);
    ::kill(child, SIGKILL);
    // What waits in the kernel cannot be killed.
    for (int i = 0; i < 500 && ::waitpid(child, &status, WNOHANG) == 0; ++i) ::usleep(20'000);
    return status;
}

Ran collectProgram(const Workspace& workspace, pid_t child, const std::string& name) {
    const int status = reap(child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), readIfThere(workspace.path() + "/" + name + ".out"),
            readIfThere(workspace.path() + "/" + name + ".err")};
}

VerbResult wait(const std::function<void(Verbs::Done)>& verb) {
    // On the heap: an answer that comes after all, behind the deadline, must not write into a frame that is gone.
    const auto answer = std::make_shared<std::optional<VerbResult>>();
    verb([answer](const VerbResult& result) { *answer = result; });
    if (!turnUntil([&] { return answer->has_value(); }, patience)) {
        ADD_FAILURE() << "no answer in time";
        return {};
    }
    (**answer).value = toJson(**answer);
    return **answer;
}

VerbResult start(Host& host, const std::string& definition, std::optional<milliseconds> waitHeartbeat) {
    return wait([&](Verbs::Done done) { host.start(definition, waitHeartbeat, std::move(done)); });
}

json upgrade(Host& host, const std::string& vm, const UpgradeOptions& options, const Handover::Observer& observer) {
    return wait([&](Verbs::Done done) { host.upgrade(vm, options, observer, std::move(done)); }).value;
}

json show(Host& host, const std::string& vm) {
    return wait([&](Verbs::Done done) { host.show(vm, std::move(done)); }).value;
}

VerbResult destroy(Host& host, const std::string& vm) {
    return wait([&](Verbs::Done done) { host.destroy(vm, std::move(done)); });
}

json ask(Host& host, const std::string& vm, const std::string& command, const json& arguments) {
    return askMonitor(show(host, vm)["directory"].get<std::string>() + "/qmp.sock", command, arguments);
}

json askMonitor(const std::string& socket, const std::string& command, const json& arguments) {
    QmpClient monitor(connectUnix(socket));
    std::optional<QmpReply> reply;
    monitor.execute(command, arguments, patience, [&](QmpReply answer) { reply = std::move(answer); });
    turnUntil([&] { return reply.has_value(); }, patience);
    EXPECT_TRUE(reply && reply->ok()) << command << ": " << (reply && reply->error ? reply->error->description : "silence");
    return reply ? reply->value : json();
}

void expectNothingLost(const json& report) {
    const json guest = report.value("guest", json());
    EXPECT_TRUE(guest.is_object() && guest.value("lost", -1) == 0 && guest.value("repeated", -1) == 0 &&
                guest.value("errors", json()) == json::array())
        << report.dump(2);
}

bool turnUntil(const std::function<bool()>& condition, milliseconds deadline) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    const EventSource tick = EventSource::after(deadline, [] {});
    while (!condition()) {
        if (std::chrono::steady_clock::now() >= end) return false;
        const EventSource wake = EventSource::after(milliseconds(20), [] {});
        g_main_context_iteration(nullptr, TRUE);
    }
    return true;
}

std::string testName(Design design) {
    std::string text;
    bool afterDash = false;
    for (const char character : name(design)) {
        if (character != '-') text += afterDash ? static_cast<char>(std::toupper(character)) : character;
        afterDash = character == '-';
    }
    return text;
}

std::string writeDefinition(const Workspace& workspace, const VmOptions& options) {
    const std::string disk = workspace.path() + "/" + options.name + ".img";
    // Made once: a second start of a VM whose guest runs (which has to be refused) must find its disk as the guest left it.
    if (!fs::exists(disk)) {
        std::ofstream(disk).close();
        fs::resize_file(disk, 64 * 1024 * 1024);
    }
    std::string boot;
    if (options.withLinux) {
        boot = "{kernel: " + required("VH_GUEST_KERNEL") + ", initrd: " + required("VH_GUEST_INITRAMFS") +
               ", cmdline: 'console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms "
               "cryptomgr.notests" +
               options.cmdline + "'}";
    } else {
        // Where any user can read them.
        const std::string kernel = workspace.path() + "/bare-guest.elf", firmware = workspace.path() + "/bare-firmware.bin";
        fs::copy_file(required("VH_BARE_GUEST"), kernel, fs::copy_options::skip_existing);
        fs::copy_file(required("VH_BARE_FIRMWARE"), firmware, fs::copy_options::skip_existing);
        boot = "{kernel: " + kernel + ", firmware: " + firmware + ", cmdline: 'bare" + options.cmdline + "'}";
    }
    // 192 MiB: enough for the kernel and a working set, and quickly filled. CPU kvm64: of a host's own CPU, some hosts refuse to
    // load what they offer (MSR 0x10a).
    return workspace.file(
        options.name + ".yaml",
        "name: " + options.name + "\nmachine: " + options.machine + "\naccelerator: " + options.accelerator +
            (options.accelerator == "tcg" ? "" : "\ncpu: {model: kvm64}") + "\nmemory: {size: 192MiB, owner: " + options.owner +
            "}\nboot: " + boot + "\ndisks: [{id: root, file: " + disk + "}]\nheartbeat: true\nvmm:\n  binary: " + options.binary +
            "\n  arguments: [-device, 'VGA,id=video', -device, virtio-gpu-pci" + options.arguments + "]\nhandover: {design: " +
            std::string(name(options.design)) + (options.handover.empty() ? "" : ", ") + options.handover + "}\n" + options.more);
}

std::string referenceDefinition(const std::string& vm, const std::string& binary, const std::string& more,
                                const std::string& memory) {
    return "name: " + vm + "\nmachine: pc-q35-10.0\naccelerator: tcg\nmemory: " + memory +
           "\nboot: {kernel: /dev/null}\nheartbeat: true\nvmm: {binary: " + binary + "}\n" + more;
}

void replaceIn(const std::string& file, const std::string& from, const std::string& to) {
    std::string text = readFile(file);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << "'" << file << "' has no '" << from << "'";
    std::ofstream(file) << text.replace(at, from.size(), to);
}

std::map<std::string, std::uint64_t> guestStatus(Host& host, const std::string& vm) {
    const json shown = show(host, vm);
    // More than once: QEMU 10.0 may not notice that a listener went away while its guest was stopped (as when a manager dies in
    // the middle of a handover), and then takes the next one for nobody; the one after that is served.
    for (int attempt = 0; attempt < 20; ++attempt) {
        HeartbeatMonitor monitor;
        monitor.listen(connectUnix(shown["directory"].get<std::string>() + "/heartbeat.sock"));
        const bool heard = turnUntil(
            [&] { return monitor.summary().status.contains("mismatches") && monitor.summary().beats > 0; }, milliseconds(3'000));
        for (const std::string& error : monitor.summary().errors) ADD_FAILURE() << "the guest probe reports: " << error;
        if (heard) return monitor.summary().status;
    }
    ADD_FAILURE() << "the guest is silent:\n" << processorsOf(host, vm);
    return {};
}

void expectGuestIsWell(Host& host, const std::string& vm) {
    auto before = guestStatus(host, vm), after = guestStatus(host, vm);
    // A busy machine may give a guest's threads no turn between two lines.
    const auto goesOn = [&](const char* counter) { return after[counter] > before[counter] || !before.contains(counter); };
    const auto end = std::chrono::steady_clock::now() + patience;
    // Asked first: to ask whether it goes on puts what is missing into it.
    while (!after.empty() && !(goesOn("ram_checked") && goesOn("disk_checked")) && std::chrono::steady_clock::now() < end)
        after = guestStatus(host, vm);
    EXPECT_EQ(after["mismatches"], 0U);
    EXPECT_GT(after["ram_checked"], before["ram_checked"]) << "the guest does not check its RAM";
    EXPECT_TRUE(goesOn("disk_checked")) << "the guest does not get at its disk";
}

void crashManager(const Workspace& workspace, const std::string& vm, const std::string& what, const std::string& binary,
                  const std::string& state, const std::string& delayMs) {
    const std::string program = required("VH_CRASHING_MANAGER"), runtime = workspace.runtime();
    const pid_t child = ::fork();
    if (child == 0) {
        ::execl(program.c_str(), program.c_str(), runtime.c_str(), what.c_str(), binary.c_str(), state.c_str(), delayMs.c_str(),
                nullptr);
        ::_exit(127);
    }
    const int status = reap(child);
    // On a fast machine a handover may be over before a later moment comes.
    const bool isOver = delayMs != "0" && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    ASSERT_TRUE(isOver || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) << "the manager did not die at '" << state << "'";
    // A child that the dead manager was just starting may hold the VM's lock until it executes its program.
    EXPECT_TRUE(turnUntil([&] { return static_cast<bool>(VmDirectory(runtime, vm).tryLock()); }, patience));
}

int vmmPid(Host& host, const std::string& vm) {
    return show(host, vm).value("pid", 0);
}

pid_t startDaemon(const Workspace& workspace) {
    const pid_t daemon = spawnProgram(workspace, {required("VH_DAEMON"), "--runtime-dir", workspace.runtime()}, "daemon");
    EXPECT_TRUE(turnUntil([&] { return isListening(workspace.runtime() + "/manager.sock"); }, patience));
    return daemon;
}

void OwnHost::end() {
    const json vms = wait([&](Verbs::Done done) { host.list(std::move(done)); }).value["vms"];
    for (const json& vm : vms) destroy(vm["vm"]);
    workspace.expectNothingLeft();
}

}  // namespace vh::test
