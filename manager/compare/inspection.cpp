#include "manager/compare/inspection.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "manager/process/event_loop.h"
#include "vmm-shim/file.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

/// A descriptor of another process.
struct Seen : OpenFile {
    FileIdentity file;
    std::optional<DescriptorIdentity> identity;
};

std::string memfdName(const Seen& seen) {
    return withoutDeletedMark(seen.target).substr(std::string_view("/memfd:").size());
}

/// In the order of their numbers, from the first inherited one on. One that is closed meanwhile is left out.
std::vector<Seen> descriptorsIn(pid_t pid) {
    const Process process(pid);
    std::vector<Seen> all;
    for (const OpenFile& open : process.files())
        if (const auto status = open.status(); status && open.number >= ChildProcess::firstDescriptor)
            all.push_back({open, {status->st_dev, status->st_ino}, DescriptorIdentity::of(process, open)});
    return all;
}

std::set<FileIdentity> identitiesOf(const std::vector<std::string>& files) {
    std::set<FileIdentity> found;
    for (const std::string& file : files) {
        struct stat status {};
        if (::stat(file.c_str(), &status) == 0) found.insert({status.st_dev, status.st_ino});
    }
    return found;
}

/// One open file description in both processes: it was passed on. False also where the kernel does not tell (kcmp(2)).
bool sameDescription(pid_t one, int first, pid_t other, int second) {
    return ::syscall(SYS_kcmp, one, other, KCMP_FILE, first, second) == 0;
}

/// A short name for what a VMM made itself.
std::string kindOf(const Seen& seen) {
    constexpr std::string_view anonymous = "anon_inode:";
    if (seen.target.starts_with(anonymous)) {
        std::string kind = seen.target.substr(anonymous.size());
        if (kind.size() > 2 && kind.front() == '[' && kind.back() == ']') kind = kind.substr(1, kind.size() - 2);
        return kind;
    }
    if (seen.target.starts_with("socket:")) return "socket";
    if (seen.target.starts_with("pipe:")) return "pipe";
    if (seen.isMemfd()) return "memfd:" + memfdName(seen);
    return withoutDeletedMark(seen.target);
}

/// The class of an ioctl from what strace calls it: a name, several joined with ` or `, or `_IOC(_IOC_NONE, 0x3b, 0x64, 0)`.
std::string classOf(std::string_view request) {
    constexpr std::string_view unknown = "_IOC(";
    if (request.starts_with(unknown)) {
        // The type's byte and the number, each in hex or decimal, the type also as a character.
        std::vector<unsigned long> numbers;
        std::stringstream fields{std::string(request.substr(unknown.size()))};
        for (std::string field; std::getline(fields, field, ',');) {
            const std::size_t start = field.find_first_not_of(' ');
            if (start == std::string::npos) continue;
            if (field[start] == '\'' && field.size() > start + 1)
                numbers.push_back(static_cast<unsigned char>(field[start + 1]));
            else if (std::isdigit(static_cast<unsigned char>(field[start])))
                numbers.push_back(std::strtoul(field.c_str() + start, nullptr, 0));
        }
        if (numbers.size() < 2) return "other";
        const unsigned long type = numbers[0], number = numbers[1];
        if (type == 0xae) return "KVM";                                    // linux/kvm.h, KVMIO
        if (type == 0x3b && number >= 100 && number < 128) return "VFIO";  // linux/vfio.h, VFIO_TYPE and VFIO_BASE
        if (type == 0x3b && number >= 128) return "iommufd";               // linux/iommufd.h, IOMMUFD_CMD_BASE
        if (type == 0xaf) return "vhost";                                  // linux/vhost.h, VHOST_VIRTIO
        if (type == 0x54 && number >= 200) return "tap";                   // linux/if_tun.h
        return "other";
    }
    // One number may be several calls', of which the first one with a class of ours is the likely one in a VMM.
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 6> prefixes{
        {{"KVM_", "KVM"}, {"VFIO_", "VFIO"}, {"IOMMU_", "iommufd"}, {"VHOST_", "vhost"}, {"TUN", "tap"}, {"SIOC", "tap"}}};
    for (std::size_t at = 0; at != std::string_view::npos;) {
        const std::string_view name = request.substr(at);
        for (const auto& [prefix, found] : prefixes)
            if (name.starts_with(prefix)) return std::string(found);
        const std::size_t next = name.find(" or ");
        at = next == std::string_view::npos ? next : at + next + 4;
    }
    return "other";
}

/// The ioctl's request: what is between its first comma and the next one at the same depth.
std::string_view requestOf(std::string_view arguments) {
    const std::size_t comma = arguments.find(", ");
    if (comma == std::string_view::npos) return {};
    std::string_view rest = arguments.substr(comma + 2);
    int depth = 0;
    for (std::size_t i = 0; i < rest.size(); ++i) {
        if (rest[i] == '(') ++depth;
        if (rest[i] == ')' && depth-- == 0) return rest.substr(0, i);
        if (depth == 0 && (rest[i] == ',' || rest.substr(i).starts_with(" <unfinished"))) return rest.substr(0, i);
    }
    return rest;
}

std::string quoted(const std::string& text) {
    std::string result = "'";
    for (const char character : text) result += character == '\'' ? std::string("'\\''") : std::string(1, character);
    return result + "'";
}

/// Reads from /proc of a process that may end at any moment; what could not be read stays as it is.
template <typename Read>
void unlessImpossible(Read read) {
    try {
        read();
    } catch (const std::exception&) {
    }
}

std::uint64_t privateBytes(pid_t pid) {
    const std::string path = Process(pid).path("smaps_rollup");
    const std::string rollup = readIfThere(path);
    const auto kilobytes = [&](const char* key) { return std::strtoull(valueIn(rollup, key).c_str(), nullptr, 10); };
    const std::uint64_t all = kilobytes("Pss:"), shared = kilobytes("Pss_Shmem:");
    if (all == 0) throwErrno("read '" + path + "'", ESRCH);
    return (all - shared) * 1024;
}

}  // namespace

std::uint64_t memoryInUse(const std::set<pid_t>& pids) {
    std::uint64_t bytes = 0;
    std::set<FileIdentity> counted;
    for (const pid_t pid : pids) {
        bytes += privateBytes(pid);
        for (const OpenFile& file : Process(pid).visibleFiles()) {
            const auto status = file.isMemfd() ? file.status() : std::nullopt;
            if (!status || !counted.insert({status->st_dev, status->st_ino}).second) continue;
            bytes += static_cast<std::uint64_t>(status->st_blocks) * 512;
        }
    }
    return bytes;
}

PageFaults parsePageFaults(std::string_view stat) {
    // The name, field 2, may have blanks and parentheses in it; minflt is field 10 and majflt field 12 (proc(5)).
    const std::size_t name = stat.rfind(')');
    if (name == std::string_view::npos)
        throw std::runtime_error("not a process's stat: '" + std::string(stat.substr(0, 40)) + "'");
    std::istringstream fields{std::string(stat.substr(name + 1))};
    std::string skipped;
    for (int field = 3; field < 10; ++field) fields >> skipped;
    PageFaults faults;
    if (!(fields >> faults.minor >> skipped >> faults.major))
        throw std::runtime_error("not a process's stat: '" + std::string(stat.substr(0, 40)) + "'");
    return faults;
}

PageFaults pageFaults(pid_t pid) {
    return parsePageFaults(readFile(Process(pid).path("stat")));
}

std::vector<FoundDescriptor> descriptorsOf(pid_t oldPid, pid_t newPid, const std::vector<NamedIdentity>& inherited,
                                           const std::string& passedBy, const std::vector<std::string>& scripts) {
    const std::vector<Seen> all = descriptorsIn(newPid), before = descriptorsIn(oldPid);
    const std::set<FileIdentity> ignored = identitiesOf(scripts);
    std::vector<FoundDescriptor> found;
    for (const Seen& seen : all) {
        if (ignored.contains(seen.file)) continue;
        const auto known =
            std::ranges::find_if(inherited, [&](const NamedIdentity& one) { return seen.identity == one.identity; });
        if (known != inherited.end()) {
            found.push_back({known->name, "manager", "inherited"});
            continue;
        }
        // A process that became the new VMM itself cannot be compared with what it was: only its memory files are surely older.
        const bool passed = std::ranges::any_of(before, [&](const Seen& older) {
            if (seen.isMemfd()) return older.isMemfd() && older.file == seen.file;
            return oldPid != newPid && older.target == seen.target && sameDescription(oldPid, older.number, newPid, seen.number);
        });
        const std::string name = passed && seen.isMemfd() ? memfdName(seen) : kindOf(seen);
        found.push_back({name, passed ? "old VMM" : "new VMM", passed ? passedBy : ""});
    }
    return found;
}

TraceCount parseTrace(std::string_view text) {
    TraceCount count;
    std::map<std::string, std::string> unfinished;  // Names of memory files that are being made, by thread.
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        if (end == std::string_view::npos) break;  // strace is about to write the rest of it.
        std::string_view line = text.substr(0, end);
        text.remove_prefix(end + 1);
        // With -f each line begins with a thread's number and blanks.
        const std::size_t start = line.find_first_not_of("0123456789");
        const std::string thread(line.substr(0, start == std::string_view::npos ? 0 : start));
        line.remove_prefix(std::min(line.size(), line.find_first_not_of("0123456789 ")));
        constexpr std::string_view ioctl = "ioctl(", memfd = "memfd_create(\"", resumed = "<... memfd_create resumed>";
        const auto failed = [&line] { return line.rfind(" = -1 ") != std::string_view::npos; };
        if (line.starts_with(ioctl)) {
            const std::string_view request = requestOf(line.substr(ioctl.size()));
            if (request != "KVM_RUN") ++count.ioctls[classOf(request)];
        } else if (line.starts_with(memfd)) {
            const std::string name(line.substr(memfd.size(), line.find('"', memfd.size()) - memfd.size()));
            if (line.ends_with("<unfinished ...>"))
                unfinished[thread] = name;
            else if (!failed() && name != "test")
                ++count.memfds;
        } else if (line.starts_with(resumed)) {
            if (!failed() && unfinished[thread] != "test") ++count.memfds;
            unfinished.erase(thread);
        }
    }
    return count;
}

TraceWrapper::TraceWrapper(const std::string& directory, const std::string& binary, const Identity& identity)
    : directory_(directory + "/trace-XXXXXX") {
    if (!::mkdtemp(directory_.data())) throwErrno("make a directory in '" + directory + "'");
    program_ = directory_ + "/traced-vmm";
    const std::string traces = directory_ + "/traces";
    try {
        // The VMM's user may run the program but not change it, and write traces.
        if (::chmod(directory_.c_str(), 0755) != 0 || ::mkdir(traces.c_str(), 0700) != 0 ||
            (identity.change && ::chown(traces.c_str(), identity.uid, identity.gid) != 0))
            throwErrno("prepare '" + traces + "'");
        // A binary is started more than once: first of all it is asked what it can do. $$ is the pid that exec leaves as it is.
        // -D: the tracer is a grandchild, and who started this waits for the VMM itself (strace(1)).
        // Not by /bin/sh, which may be dash: that leaves the script open in the program which it executes.
        const std::string text = "#!/bin/bash\nexec strace -D -f -qq -e trace=ioctl,memfd_create -e signal=none -o " +
                                 quoted(traces) + "/$$ -- " + quoted(binary) + " \"$@\"\n";
        const UniqueFd file(::open(program_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
        if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
            ::fchmod(file.get(), 0755) != 0)
            throwErrno("write '" + program_ + "'");
    } catch (...) {
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
        throw;
    }
}

TraceWrapper::~TraceWrapper() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

TraceCount TraceWrapper::countOf(pid_t pid) const {
    return parseTrace(readFile(directory_ + "/traces/" + std::to_string(pid)));
}

std::string whyNoTrace() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return "cannot try strace: make a pipe";
    const UniqueFd output(ends[0]);
    UniqueFd input(ends[1]);
    // The trace goes to standard error, too: a whole one has the call that ends the process.
    const ChildProcess strace = ChildProcess::launch(
        {.argv = {"/usr/bin/env", "strace", "-D", "-qq", "-e", "trace=exit_group", "--", "true"}, .output = input.get()});
    input.reset();
    std::string said;
    bool ended = false, isLate = false;
    // Ends when the tracer has gone, which is after the traced.
    const EventSource heard = EventSource::readable(output.get(), [&] {
        std::array<char, 512> buffer{};
        const ssize_t length = ::read(output.get(), buffer.data(), buffer.size());
        ended = ended || length == 0;
        if (length > 0) said.append(buffer.data(), static_cast<std::size_t>(length));
    });
    const EventSource deadline = EventSource::after(std::chrono::seconds(5), [&isLate] { isLate = true; });
    turnUntil([&] { return ended || isLate; });
    if (!ended) {
        strace.killAll();
        return "strace did not end within 5 s";
    }
    if (strace.howItEnded() == "exited with status 127") return "there is no strace; install it (apt-get install strace)";
    if (said.find("exit_group(0)") != std::string::npos) return {};
    const std::string first = said.substr(0, said.find('\n'));
    return first.empty() ? "strace cannot trace here" : "strace cannot trace here: " + first;
}

CloseLook::CloseLook(Design design, pid_t oldPid, const std::string& newBinary, const std::string& untraced,
                     const std::string& directory, const Identity& identity)
    : design_(design), newBinary_(newBinary), vmms_{oldPid} {
    found_.untraced = untraced;
    if (untraced.empty()) trace_.emplace(directory, newBinary, identity);
    unlessImpossible([&] {
        found_.memoryOldBytes = memoryInUse({oldPid});
        memoryBefore_ = memoryInUse({oldPid, ::getpid()});
        found_.memorySamples = 0;
        look();
    });
}

void CloseLook::see(const HandoverProgress& step) {
    if (step.newPid != 0) vmms_.insert(step.newPid);
    // A new VMM that was only rehearsed has all that it will have, and is about to end.
    if (step.state == State::Verifying) look();
    if (step.state != State::Retiring || step.inherited.empty()) return;
    look();
    unlessImpossible([&] {
        const DesignRow& row = rowOf(design_);
        const char* passedBy = row.relays ? "relay" : row.state == StatePath::Exec ? "exec" : "CPR channel";
        found_.memoryBothBytes = memoryInUse({step.oldPid, step.newPid});
        found_.descriptors = descriptorsOf(step.oldPid, step.newPid, step.inherited, passedBy, {newBinary_, program()});
    });
}

void CloseLook::look() {
    using std::chrono::milliseconds, std::chrono::steady_clock;
    const auto begin = steady_clock::now();
    std::erase_if(vmms_, [](pid_t pid) { return ProcessIdentity::of(pid).startTime == 0; });
    unlessImpossible([&] {
        std::set<pid_t> all = vmms_;
        all.insert(::getpid());
        const std::uint64_t now = memoryInUse(all), before = memoryBefore_.value();
        found_.extraMemoryBytes = std::max(found_.extraMemoryBytes.value_or(0), now - std::min(now, before));
        found_.memoryPeakBytes = found_.memoryOldBytes.value() + *found_.extraMemoryBytes;
        found_.memorySamples = found_.memorySamples.value() + 1;
    });
    const auto took = std::chrono::ceil<milliseconds>(steady_clock::now() - begin);
    next_ = EventSource::after(std::max(milliseconds(5), 4 * took), [this] { look(); });
}

Inspection CloseLook::found(pid_t newPid) {
    next_.reset();
    if (trace_)
        unlessImpossible([&] {
            const TraceCount count = trace_->countOf(newPid);
            found_.ioctls = count.ioctls;
            found_.memfds = count.memfds;
        });
    return std::move(found_);
}

}  // namespace vh
