#include "manager/compare/scratch_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <list>

#include "manager/process/child_process.h"
#include "manager/process/event_loop.h"
#include "manager/record/vm_record.h"
#include "manager/vmm/strays.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using std::chrono::steady_clock;

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
            ChildProcess& vmm = ending.emplace_back(ChildProcess::adopt(stray.pid, Process(stray.pid).startTime()));
            if (vmm.pid() == 0) continue;
            ++alive;
            vmm.onExit([&alive] { --alive; });
            vmm.killAll();
        }
        turnUntil([&] { return alive == 0 || tooLate; });
    }
}

}  // namespace

ScratchDirectory::ScratchDirectory() : path_(std::string(prefix) + "XXXXXX") {
    if (!::mkdtemp(path_.data())) throwErrno("make a directory in '/tmp'");
    ::chmod(path_.c_str(), 0755);  // The VMMs run as another user.
}

void ScratchDirectory::remove(const std::string& directory) {
    if (!isOurs(directory)) return;
    const std::string runtime = directory + "/run";
    std::error_code ignored;
    // VMs whose start was cut short have no record, but a directory.
    for (const auto& entry : std::filesystem::directory_iterator(runtime, ignored))
        if (entry.is_directory(ignored)) endVmmsOf({runtime, entry.path().filename()});
    std::filesystem::remove_all(directory, ignored);
}

}  // namespace vh
