#include "manager/handover/in_place.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "config/design.h"
#include "manager/vmm/vmm_process.h"
#include "vmm-shim/exec_inbox.h"
#include "vmm-shim/proc.h"

namespace vh {
namespace {

/// Enough for what a QEMU opens between the look and the exec: it gets the lowest free numbers, which are below the new VMM's.
constexpr int headroom = 32;
/// Each sandboxed QEMU adds its filter to those before it, and a process may have 32768 instructions of them (kernel/seccomp.c:
/// MAX_INSNS_PER_PATH, Linux 6.1), some 650 filters of QEMU 11.1's.
constexpr int mostFilters = 200;

/// What goes on where an exec cannot: a new VMM in a process of its own.
std::string useNewProcess() {
    return "use " + quoted(defaultDesign);
}

long numberIn(const Process& process, const std::string& file, std::string_view key, int base = 10) {
    const std::string value = process.field(file, key);
    return value.empty() ? -1 : std::strtol(value.c_str(), nullptr, base);
}

}  // namespace

std::optional<Obstacle> obstacleToExec(pid_t vmm, const std::string& proc) {
    const Process process(vmm, proc);
    const std::vector<std::string> arguments = process.commandLine();
    for (std::size_t i = 0; i + 1 < arguments.size(); ++i)
        if (arguments[i].ends_with("-sandbox") && arguments[i + 1].find("spawn=deny") != std::string::npos)
            return Obstacle{
                "the VM was started with a sandbox that forbids to execute programs (spawn=deny), and that cannot be taken back",
                useNewProcess() + ", or power-cycle the VM with 'handover.design: " + std::string(name(Design::VmmExec)) +
                    "' or 'vmm.sandbox: false'"};
    if (const long filters = numberIn(process, "status", "Seccomp_filters:"); filters > mostFilters)
        return Obstacle{"the VMM has been executed so often that its process has " + std::to_string(filters) +
                            " sandboxes, and the kernel bounds what they may be together",
                        useNewProcess() + ", whose new VMM is a new process"};
    return {};
}

std::string blockLostByExec(const std::vector<RamBlock>& blocks) {
    for (const RamBlock& block : blocks) {
        const bool isKept = block.shared && block.file && block.file->fd >= 0 && !block.guest_memfd;
        if (!isKept) return block.idstr.empty() ? "(nameless)" : block.idstr;
    }
    return {};
}

UniqueFd takeInbox(const VmmRecord& vmm, const std::string& directory) {
    if (!vmm.inboxDescriptor)
        throw Refusal({"the VMM was started without an inbox for descriptors", useNewProcess() + ", or power-cycle the VM"});
    UniqueFd inbox = Process(vmm.pid).take(*vmm.inboxDescriptor);
    const std::string path = directory + "/exec.sock";
    if (!isInbox(inbox.get(), path))
        throw Refusal({"descriptor " + std::to_string(*vmm.inboxDescriptor) + " of pid " + std::to_string(vmm.pid) +
                           " is not the inbox '" + path + "'",
                       useNewProcess()});
    return inbox;
}

DescriptorPlan planDescriptors(pid_t vmm, const std::vector<RamBlock>& blocks, std::size_t count) {
    const Process process(vmm);
    const auto isRam = [&](const OpenFile& file) {
        const auto status = file.status();
        const FileIdentity identity = status ? FileIdentity{status->st_dev, status->st_ino} : FileIdentity();
        return std::ranges::any_of(blocks, [&](const RamBlock& block) { return block.file && block.file->identity == identity; });
    };
    DescriptorPlan plan;
    for (const OpenFile& file : process.files()) {
        const int number = file.number;
        const long flags = numberIn(process, "fdinfo/" + std::to_string(number), "flags:", 8);
        if (flags < 0) continue;  // It has been closed since.
        const bool isInherited = number > STDERR_FILENO && (flags & O_CLOEXEC) == 0 && !isRam(file);
        if (isInherited)
            plan.close.push_back(number);
        else
            plan.first = std::max(plan.first, number + 1);
    }
    plan.first += headroom;
    // What is put in place is there three times for a moment: as it comes, above all, and in its place.
    const long limit = numberIn(process, "limits", "Max open files");
    const long needed = std::max(plan.first, plan.close.empty() ? 0 : plan.close.back() + 1) + 3 * static_cast<long>(count);
    if (limit >= 0 && limit < needed)
        throw Refusal({"the new VMM needs " + std::to_string(needed) + " descriptors for a moment, and pid " +
                           std::to_string(vmm) + " may have " + std::to_string(limit),
                       "raise its limit (prlimit --nofile), or " + useNewProcess()});
    if (count > mostInParcel)
        throw Refusal({"the new VMM needs " + std::to_string(count) + " descriptors, and not more than " +
                           std::to_string(mostInParcel) + " can be handed over",
                       useNewProcess()});
    return plan;
}

bool runsAProgram(pid_t pid) {
    return !Process(pid).link("exe").empty();
}

std::string shimProgram(const std::vector<std::string>& places) {
    if (const char* named = std::getenv("VH_SHIM"); named && *named) return named;
    if (std::string program = ownProgram(places); !program.empty()) return program;
    throw Refusal({"the program that the VMM has to execute, vmm-shim, is neither beside this one nor in '" VH_BINDIR "'",
                   "install it, or name it in VH_SHIM"});
}

std::string shimProgram() {
    return shimProgram({"vmm-shim", "../vmm-shim/vmm-shim", VH_BINDIR "/vmm-shim"});
}

ShimTrial::ShimTrial(int program, const std::string& name, const Identity& identity, Done done) {
    log_ = UniqueFd(::memfd_create("trial-log", MFD_CLOEXEC));
    process_ =
        ChildProcess::launch({.argv = {"/proc/self/fd/" + std::to_string(ChildProcess::firstDescriptor), "exec", "--check"},
                              .descriptors = {program},
                              .output = log_.get(),
                              .identity = identity,
                              .expendable = true,
                              .endsWithManager = true});
    process_.onExit([this, name, done = std::move(done)] {
        deadline_.reset();
        const std::string ended = process_.howItEnded();
        if (ended == "exited with status 0") return done({});
        const std::string said = stderrTailOf(log_.get());
        done(Obstacle{"'" + name + "', which the VMM has to execute, " + ended + (said.empty() ? "" : " (" + said + ")") +
                          " when the VMM's user executed it",
                      "make it readable and executable for everyone, on a file system that allows it"});
    });
    deadline_ = EventSource::after(std::chrono::milliseconds(5'000), [this] { process_.killAll(); });
}

ShimTrial::~ShimTrial() {
    process_.killAll();
}

}  // namespace vh
