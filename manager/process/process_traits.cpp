#include "manager/process/process_traits.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "manager/process/cgroups.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

namespace fs = std::filesystem;

std::uint64_t hexadecimal(const std::string& text) {
    return std::strtoull(text.c_str(), nullptr, 16);
}

/// /proc/PID/limits (fs/proc/base.c:proc_pid_limits, 6.18): prlimit() asks for CAP_SYS_RESOURCE to read those of another user.
std::map<int, rlimit> limitsOf(const Process& process) {
    static const std::map<std::string, int> resources = {
        {"Max cpu time", RLIMIT_CPU},           {"Max file size", RLIMIT_FSIZE},     {"Max data size", RLIMIT_DATA},
        {"Max stack size", RLIMIT_STACK},       {"Max core file size", RLIMIT_CORE}, {"Max resident set", RLIMIT_RSS},
        {"Max processes", RLIMIT_NPROC},        {"Max open files", RLIMIT_NOFILE},   {"Max locked memory", RLIMIT_MEMLOCK},
        {"Max address space", RLIMIT_AS},       {"Max file locks", RLIMIT_LOCKS},    {"Max pending signals", RLIMIT_SIGPENDING},
        {"Max msgqueue size", RLIMIT_MSGQUEUE}, {"Max nice priority", RLIMIT_NICE},  {"Max realtime priority", RLIMIT_RTPRIO},
        {"Max realtime timeout", RLIMIT_RTTIME}};
    constexpr std::size_t nameWidth = 26;
    std::map<int, rlimit> limits;
    std::istringstream lines(readFile(process.path("limits")));
    for (std::string line; std::getline(lines, line);) {
        std::string name = line.substr(0, nameWidth);
        name.erase(name.find_last_not_of(' ') + 1);
        const auto resource = resources.find(name);
        if (resource == resources.end()) continue;
        std::string soft, hard;
        std::istringstream(line.substr(nameWidth)) >> soft >> hard;
        const auto number = [](const std::string& text) {
            return text == "unlimited" ? RLIM_INFINITY : static_cast<rlim_t>(std::strtoull(text.c_str(), nullptr, 10));
        };
        limits[resource->second] = {number(soft), number(hard)};
    }
    return limits;
}

/// The files to write to for getting to a place, in order.
std::vector<std::string> filesOf(const CgroupPlace& place, bool wholeProcess) {
    const std::string directory = directoryOf(place);
    if (directory.empty()) return {};
    if (!place.controllers.empty()) return {directory + (wholeProcess ? "/cgroup.procs" : "/tasks")};
    // A threaded cgroup takes threads only, of processes of its domain (cgroups(7), "Cgroups v2 thread mode").
    std::string domain = directory, type;
    while (std::ifstream(domain + "/cgroup.type") >> type && type == "threaded") domain = fs::path(domain).parent_path();
    std::vector<std::string> files;
    if (wholeProcess) files.push_back(domain + "/cgroup.procs");
    if (domain != directory || !wholeProcess) files.push_back(directory + "/cgroup.threads");
    return files;
}

/// The files in which a thread or process of one place is put in that of another, by hierarchy (/proc/PID/cgroup against the
/// mounted hierarchies); none where it is there already.
std::vector<std::string> filesToGetFrom(pid_t from, pid_t to, bool wholeProcess) {
    std::vector<std::string> files;
    const std::vector<CgroupPlace> here = cgroupsOf(from);
    for (const CgroupPlace& place : cgroupsOf(to)) {
        if (std::find(here.begin(), here.end(), place) != here.end()) continue;
        for (std::string& file : filesOf(place, wholeProcess)) files.push_back(std::move(file));
    }
    return files;
}

}  // namespace

ProcessTraits ProcessTraits::of(pid_t pid) {
    const Process process(pid);
    ProcessTraits traits;
    for (const std::string& file : filesToGetFrom(::getpid(), pid, true)) {
        traits.cgroups_.emplace_back(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
        if (!traits.cgroups_.back()) throwErrno("open '" + file + "'");
    }
    struct stat its {
    }, ours{};
    const std::string mounts = process.path("ns/mnt");
    if (::stat(mounts.c_str(), &its) != 0 || ::stat("/proc/self/ns/mnt", &ours) != 0) throwErrno("look at '" + mounts + "'");
    if (its.st_ino != ours.st_ino) {
        traits.mountNamespace_ = UniqueFd(::open(mounts.c_str(), O_RDONLY | O_CLOEXEC));
        if (!traits.mountNamespace_) throwErrno("open '" + mounts + "'");
    }
    traits.workingDirectory_ = fs::read_symlink(process.path("cwd"));
    const std::string environment = readFile(process.path("environ"));
    traits.environment_.assign(environment.begin(), environment.end());
    traits.environment_.push_back('\0');
    for (char* entry = traits.environment_.data(); *entry != '\0'; entry += std::strlen(entry) + 1)
        traits.environmentPointers_.push_back(entry);
    traits.environmentPointers_.push_back(nullptr);

    const std::string status = readFile(process.path("status"));
    const auto field = [&](const std::string& name) {
        if (("\n" + status).find("\n" + name + ":") == std::string::npos)
            throw std::runtime_error("'" + process.path("status") + "' has no " + name);
        return valueIn(status, name + ":");
    };
    traits.umask_ = static_cast<mode_t>(std::strtoul(field("Umask").c_str(), nullptr, 8));
    std::string ignored;
    std::istringstream(field("Uid")) >> ignored >> traits.uid_;
    std::istringstream(field("Gid")) >> ignored >> traits.gid_;
    std::istringstream groups(field("Groups"));
    traits.groups_.assign(std::istream_iterator<gid_t>(groups), {});
    traits.noNewPrivileges_ = field("NoNewPrivs") == "1";
    traits.capabilities_ = {hexadecimal(field("CapInh")), hexadecimal(field("CapPrm")), hexadecimal(field("CapEff")),
                            hexadecimal(field("CapBnd")), hexadecimal(field("CapAmb"))};

    if (::sched_getaffinity(pid, sizeof(traits.affinity_), &traits.affinity_) != 0)
        throwErrno("read the CPU affinity of its VMM");
    for (const auto& [resource, value] : limitsOf(process)) {
        rlimit own{};
        ::getrlimit(static_cast<__rlimit_resource>(resource), &own);
        if (own.rlim_cur != value.rlim_cur || own.rlim_max != value.rlim_max) traits.limits_.push_back({resource, value});
    }

    // `name (mode)` is AppArmor's, `user:role:type:level` SELinux's; EINVAL where no security module has labels.
    std::string whole;
    std::getline(std::ifstream(process.path("attr/current")) >> std::ws, whole);
    whole = whole.c_str();  // SELinux ends it with a zero byte.
    const std::string label = whole.substr(0, whole.find(' '));
    if (!label.empty() && label != "unconfined") {
        const bool isAppArmor = whole.ends_with(")");
        traits.labelFile_ =
            fs::exists("/proc/self/attr/apparmor/exec") && isAppArmor ? "/proc/self/attr/apparmor/exec" : "/proc/self/attr/exec";
        traits.label_ = isAppArmor ? "exec " + label : label;
    }
    return traits;
}

const char* ProcessTraits::enter() const noexcept {
    for (const UniqueFd& cgroup : cgroups_)
        if (::write(cgroup.get(), "0", 1) != 1) return "enter the cgroup of the old VMM for";
    if (mountNamespace_ && ::setns(mountNamespace_.get(), CLONE_NEWNS) != 0)
        return "enter the mount namespace of the old VMM for";
    if (::chdir(workingDirectory_.c_str()) != 0) return "enter the working directory of the old VMM for";
    return nullptr;
}

const char* ProcessTraits::become() const noexcept {
    ::umask(umask_);
    if (::sched_setaffinity(0, sizeof(affinity_), &affinity_) != 0) return "set the CPU affinity of";
    for (const Limit& limit : limits_)
        if (::setrlimit(static_cast<__rlimit_resource>(limit.resource), &limit.value) != 0) return "set a limit of";
    if (!label_.empty()) {
        const UniqueFd file(::open(labelFile_.c_str(), O_WRONLY | O_CLOEXEC));
        if (::write(file.get(), label_.data(), label_.size()) < 0) return "set the security label of";
    }
    for (unsigned capability = 0; capability < 64; ++capability) {
        const bool has = (capabilities_.bounding >> capability & 1) != 0;
        if (!has && ::prctl(PR_CAPBSET_READ, capability) == 1 && ::prctl(PR_CAPBSET_DROP, capability) != 0)
            return "bound the capabilities of";
    }
    if (::setgroups(groups_.size(), groups_.data()) != 0 || ::setresgid(gid_, gid_, gid_) != 0) return "set the groups of";
    if (::prctl(PR_SET_KEEPCAPS, capabilities_.permitted != 0) != 0 || ::setresuid(uid_, uid_, uid_) != 0)
        return "change user for";
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[2];
    for (int half = 0; half < 2; ++half)
        sets[half] = {static_cast<std::uint32_t>(capabilities_.effective >> 32 * half),
                      static_cast<std::uint32_t>(capabilities_.permitted >> 32 * half),
                      static_cast<std::uint32_t>(capabilities_.inheritable >> 32 * half)};
    if (::syscall(SYS_capset, &header, sets) != 0) return "set the capabilities of";
    for (unsigned capability = 0; capability < 64; ++capability)
        if ((capabilities_.ambient >> capability & 1) != 0 &&
            ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0)
            return "set the ambient capabilities of";
    if (noNewPrivileges_ && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return "set no_new_privs for";
    return nullptr;
}

void placeLike(pid_t thread, pid_t model) {
    cpu_set_t affinity;
    if (::sched_getaffinity(model, sizeof(affinity), &affinity) != 0 ||
        ::sched_setaffinity(thread, sizeof(affinity), &affinity) != 0)
        throwErrno("let thread " + std::to_string(thread) + " run on the CPUs of thread " + std::to_string(model));
    for (const std::string& name : filesToGetFrom(thread, model, false))
        if (!(std::ofstream(name) << thread << std::flush))
            throwErrno("put thread " + std::to_string(thread) + " into '" + name + "'");
}

}  // namespace vh
