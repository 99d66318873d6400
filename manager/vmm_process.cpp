#include "manager/vmm_process.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "vmm-shim/unix_socket.h"

namespace vh {

using nlohmann::json;

std::unique_ptr<VmmProcess> VmmProcess::launch(VmmLaunch launch) {
    const Identity identity = Identity::of(launch.definition.vmm.user);
    std::unique_ptr<VmmProcess> vmm(new VmmProcess);
    vmm->directory_ = launch.directory.makeGeneration(launch.generation, identity.uid, identity.gid);
    vmm->resources_ = acquireResources(launch.definition, vmm->directory_);
    vmm->record_.generation = launch.generation;
    vmm->record_.binary = launch.binary;
    if (launch.ram) {
        vmm->record_.ram = FileIdentity::of(launch.ram.get());
        vmm->resources_.add("ram0", std::move(launch.ram));
        vmm->record_.ramDescriptor = vmm->resources_.numberOf("ram0");
    }
    for (const Disk& disk : launch.definition.disks)
        vmm->record_.disks[disk.id] = FileIdentity::of(vmm->resources_.fd("disk/" + disk.id + "/ro"));
    const std::string logFile = vmm->directory_ + "/vmm.log";
    const UniqueFd log(::open(logFile.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!log) throw std::system_error(errno, std::generic_category(), "create '" + logFile + "'");
    vmm->process_ = ChildProcess::launch({.argv = qemuCommand({.definition = launch.definition,
                                                               .resources = vmm->resources_,
                                                               .binary = launch.binary,
                                                               .directory = vmm->directory_,
                                                               .incoming = launch.incoming,
                                                               .shareImplicitRam = launch.shareImplicitRam}),
                                          .descriptors = vmm->resources_.descriptors(),
                                          .output = log.get(),
                                          .identity = identity});
    vmm->record_.pid = vmm->process_.pid();
    vmm->record_.startTime = vmm->process_.startTime();
    // Connected while the manager still holds the listening sockets, so that a VMM which is dead by now is met as a closed
    // connection.
    vmm->monitor();
    if (launch.connectHeartbeat) vmm->heartbeat_ = connectUnix(vmm->directory_ + "/heartbeat.sock");
    vmm->resources_.release();
    return vmm;
}

VmmProcess::VmmProcess(VmmRecord record, std::string directory)
    : record_(std::move(record)),
      directory_(std::move(directory)),
      process_(ChildProcess::adopt(record_.pid, record_.startTime)) {}

QmpClient& VmmProcess::monitor() {
    if (!monitor_) monitor_ = std::make_unique<QmpClient>(connectUnix(directory_ + "/qmp.sock"));
    return *monitor_;
}

std::string VmmProcess::lastWords() const {
    constexpr std::size_t linesShown = 3;
    std::ifstream log(directory_ + "/vmm.log");
    std::string line;
    std::deque<std::string> last;
    while (std::getline(log, line)) {
        if (line.empty() || line.find("warning:") != std::string::npos) continue;
        last.push_back(line);
        if (last.size() > linesShown) last.pop_front();
    }
    std::string words;
    for (const std::string& entry : last) words += (words.empty() ? "" : "; ") + entry;
    return words;
}

std::multimap<std::string, FileIdentity> VmmProcess::mappedMemfds() const {
    // 7f..-7f.. rw-s 00000000 00:01 2345   /memfd:web1/ram0 (deleted)
    constexpr std::string_view prefix = "/memfd:";
    std::multimap<std::string, FileIdentity> found;
    std::ifstream maps("/proc/" + std::to_string(record_.pid) + "/maps");
    std::string line;
    while (std::getline(maps, line)) {
        std::istringstream columns(line);
        std::string range, rights, offset, path;
        unsigned majorNumber = 0, minorNumber = 0;
        char colon = 0;
        std::uint64_t inode = 0;
        columns >> range >> rights >> offset >> std::hex >> majorNumber >> colon >> minorNumber >> std::dec >> inode >> path;
        if (path.starts_with(prefix) && rights.ends_with("s"))
            found.emplace(path.substr(prefix.size()), FileIdentity{makedev(majorNumber, minorNumber), inode});
    }
    return found;
}

void endStrayVmms(const VmDirectory& directory, const std::set<pid_t>& keep) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc", ignored)) {
        const pid_t pid = std::atoi(entry.path().filename().c_str());
        if (pid <= 0 || keep.contains(pid)) continue;
        const std::string output = fs::read_symlink(entry.path() / "fd/1", ignored);
        if (output.starts_with(directory.path() + "/") && output.ends_with("/vmm.log"))
            ChildProcess::adopt(pid, startTimeOf(pid)).killAll();
    }
}

std::string qemuVersion(const json& version) {
    try {
        const json& numbers = version.at("qemu");
        return std::to_string(numbers.at("major").get<int>()) + "." + std::to_string(numbers.at("minor").get<int>()) + "." +
               std::to_string(numbers.at("micro").get<int>());
    } catch (const json::exception&) {
        return "unknown";
    }
}

}  // namespace vh
