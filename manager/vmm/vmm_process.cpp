#include "manager/vmm/vmm_process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "vmm-shim/json_text.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

using nlohmann::json;

namespace {

/// What the new VMM of an adopted VM gets by one of its numbers.
UniqueFd obtain(const AdoptedVm::Descriptor& descriptor, pid_t old) {
    if (descriptor.path.empty()) return Process(old).take(descriptor.of);
    UniqueFd file(::open(descriptor.path.c_str(), O_RDWR | O_CLOEXEC));
    if (!file) throwErrno("open '" + descriptor.path + "'");
    return file;
}

}  // namespace

std::unique_ptr<VmmProcess> VmmProcess::furnish(VmmLaunch& launch, int firstDescriptor, UniqueFd state) {
    const Identity identity = Identity::of(launch.definition.vmm.user);
    std::unique_ptr<VmmProcess> vmm(new VmmProcess);
    vmm->directory_ = launch.directory.makeGeneration(launch.generation, identity.uid, identity.gid);
    vmm->resources_ = acquireResources(launch.definition, vmm->directory_);
    vmm->resources_.setFirstNumber(firstDescriptor);
    vmm->record_.generation = launch.generation;
    vmm->record_.binary = launch.binary;
    if (launch.ram) {
        vmm->record_.ram = FileIdentity::of(launch.ram.get());
        vmm->resources_.add("ram0", std::move(launch.ram));
        vmm->record_.ramDescriptor = vmm->resources_.numberOf("ram0");
    }
    for (NamedDescriptor& device : launch.devices) {
        const FileIdentity file = FileIdentity::of(device.fd.get());
        vmm->resources_.add(device.name, std::move(device.fd));
        vmm->record_.vfio[device.name] = {vmm->resources_.numberOf(device.name), file};
    }
    if (state) vmm->resources_.add(execStateResource, std::move(state));
    if (vmm->resources_.has("inbox")) vmm->record_.inboxDescriptor = vmm->resources_.numberOf("inbox");
    for (const Disk& disk : launch.definition.disks)
        vmm->record_.disks[disk.id] = FileIdentity::of(vmm->resources_.fd("disk/" + disk.id + "/ro"));
    const std::string logFile = vmm->directory_ + "/vmm.log";
    vmm->log_ = UniqueFd(::open(logFile.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!vmm->log_) throwErrno("create '" + logFile + "'");
    std::map<std::string, BackingImage> backing;
    for (const Disk& disk : launch.definition.disks) {
        if (disk.format != DiskFormat::Qcow2) continue;
        if (auto found = relativeBackingFile(vmm->resources_.fd("disk/" + disk.id + "/ro"), disk.file))
            backing[disk.id] = *std::move(found);
    }
    vmm->command_ = qemuCommand({.definition = launch.definition,
                                 .resources = vmm->resources_,
                                 .binary = launch.binary,
                                 .directory = vmm->directory_,
                                 .incoming = launch.incoming,
                                 .shareImplicitRam = launch.shareImplicitRam,
                                 .backing = std::move(backing),
                                 .rehearsal = launch.rehearsal});
    return vmm;
}

void VmmProcess::connect(bool heartbeat) {
    record_.pid = process_.pid();
    record_.startTime = process_.startTime();
    // Connected while the manager still holds the listening sockets, so that a VMM which is dead by now is met as a closed
    // connection.
    monitor();
    if (heartbeat) heartbeat_ = connectUnix(directory_ + "/heartbeat.sock");
}

std::unique_ptr<VmmProcess> VmmProcess::launch(VmmLaunch launch) {
    if (launch.adopted) return launchAdopted(launch);
    std::unique_ptr<VmmProcess> vmm = furnish(launch, ChildProcess::firstDescriptor, {});
    vmm->process_ = ChildProcess::launch({.argv = vmm->command_,
                                          .descriptors = vmm->resources_.descriptors(),
                                          .output = vmm->log_.get(),
                                          .identity = Identity::of(launch.definition.vmm.user),
                                          .locksMemory = !launch.definition.vfio.empty(),
                                          .expendable = launch.incoming != Incoming::None});
    vmm->connect(launch.connectHeartbeat);
    vmm->release();
    return vmm;
}

/// As launch(), for a VM whose descriptors are the old VMM's own. Only the second monitor is ours: the first one's socket is
/// shared by both VMMs, and a connection to it may end at either.
std::unique_ptr<VmmProcess> VmmProcess::launchAdopted(const VmmLaunch& launch) {
    const AdoptedVm& vm = *launch.adopted;
    const ProcessTraits traits = ProcessTraits::of(launch.old->pid);
    std::unique_ptr<VmmProcess> vmm(new VmmProcess);
    vmm->directory_ = launch.directory.makeGeneration(launch.generation, traits.uid(), traits.gid());
    launch.directory.moveIncoming(launch.generation, vm.socketDirectory);
    vmm->record_.generation = launch.generation;
    vmm->record_.binary = launch.binary;
    std::filesystem::create_symlink(vm.logFile, vmm->directory_ + "/vmm.log");
    std::error_code ignored;
    vmm->logStart_ = std::filesystem::file_size(vm.logFile, ignored);
    if (ignored) vmm->logStart_ = 0;

    std::vector<int> descriptors, numbers;
    int last = ChildProcess::firstDescriptor - 1;
    for (const AdoptedVm::Descriptor& descriptor : vm.descriptors) {
        const std::string name = descriptor.path.empty() ? std::to_string(descriptor.of) + " of the old VMM"
                                                         : descriptor.path + " for " + std::to_string(descriptor.number);
        if (!vmm->resources_.has(name)) vmm->resources_.add(name, obtain(descriptor, launch.old->pid));
        descriptors.push_back(vmm->resources_.fd(name));
        numbers.push_back(descriptor.number);
        last = std::max(last, descriptor.number);
    }
    vmm->resources_.add("qmp", listenUnix(vmm->directory_ + "/qmp.sock"));
    descriptors.push_back(vmm->resources_.fd("qmp"));
    numbers.push_back(last + 1);
    vmm->log_ = Process(launch.old->pid).take(STDERR_FILENO);

    vmm->command_ = adoptedCommand(vm, launch.binary, vmm->directory_, last + 1);
    vmm->process_ = ChildProcess::launch({.argv = vmm->command_,
                                          .descriptors = descriptors,
                                          .numbers = numbers,
                                          .output = vmm->log_.get(),
                                          .traits = &traits,
                                          .pidFile = vm.pidFile,
                                          .expendable = true});
    vmm->connect(false);
    vmm->release();
    return vmm;
}

std::unique_ptr<VmmProcess> VmmProcess::prepare(VmmLaunch launch, const VmmRecord& process, int firstDescriptor, UniqueFd state) {
    std::unique_ptr<VmmProcess> vmm = furnish(launch, firstDescriptor, std::move(state));
    vmm->process_ = ChildProcess::adopt(process.pid, process.startTime);
    vmm->connect(launch.connectHeartbeat);
    return vmm;
}

std::vector<int> VmmProcess::parcel() const {
    std::vector<int> descriptors = resources_.descriptors();
    descriptors.insert(descriptors.begin(), log_.get());
    return descriptors;
}

void VmmProcess::release() {
    log_.reset();
    resources_.release();
}

VmmProcess::VmmProcess(VmmRecord record, std::string directory)
    : record_(std::move(record)),
      directory_(std::move(directory)),
      process_(ChildProcess::adopt(record_.pid, record_.startTime)) {}

QmpClient& VmmProcess::monitor() {
    if (!monitor_) monitor_ = std::make_unique<QmpClient>(connectUnix(directory_ + "/qmp.sock"));
    return *monitor_;
}

bool VmmProcess::hasOwnAnswer() const {
    return monitor_ && (monitor_->peer() == record_.pid || monitor_->peer() == ::getpid());
}

void VmmProcess::expectOwnAnswer() const {
    if (!hasOwnAnswer())
        throw std::runtime_error("it is not the started process, pid " + std::to_string(record_.pid) +
                                 ", that answers on the monitor; if '" + record_.binary +
                                 "' is a script, have it execute the VMM as its last command: exec qemu-system-x86_64 \"$@\"");
}

std::string VmmProcess::stderrTail() const {
    const UniqueFd log(::open((directory_ + "/vmm.log").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    return stderrTailOf(log.get(), logStart_);
}

std::string stderrTailOf(int log, std::uintmax_t from) {
    constexpr std::uintmax_t bytesRead = 64 * 1024;
    constexpr std::size_t linesShown = 3, lineLength = 400;
    struct stat status {};
    if (::fstat(log, &status) != 0) return {};
    const auto size = static_cast<std::uintmax_t>(status.st_size);
    const std::uintmax_t begin = std::max(from, size > bytesRead ? size - bytesRead : 0);
    std::string text(size > begin ? size - begin : 0, '\0');
    text.resize(
        static_cast<std::size_t>(std::max<ssize_t>(::pread(log, text.data(), text.size(), static_cast<off_t>(begin)), 0)));
    std::istringstream lines(text);
    std::deque<std::string> last;
    for (std::string line; std::getline(lines, line);) {
        if (line.empty() || line.find("warning:") != std::string::npos) continue;
        if (line.size() > lineLength) line = line.substr(0, lineLength) + "...";
        std::ranges::replace_if(
            line, [](unsigned char character) { return character < ' ' || character == 0x7f; }, ' ');
        last.push_back(line);
        if (last.size() > linesShown) last.pop_front();
    }
    return joined(last, "; ");
}

void VmmProcess::gatherRamBlocks(std::chrono::milliseconds deadline, RamBlocksHandler then) {
    const auto refused = [](const char* command, const QmpReply& reply) {
        return std::string(command) + ": " + reply.error->description;
    };
    monitor().execute("x-query-ramblock", nullptr, deadline, [this, deadline, then, refused](const QmpReply& table) {
        if (!table.ok()) return then({}, refused("x-query-ramblock", table));
        monitor().execute("qom-list", {{"path", "/objects"}}, deadline, [this, table, then, refused](const QmpReply& objects) {
            if (!objects.ok()) return then({}, refused("qom-list", objects));
            RamBlockSources sources{.table = table.text("human-readable-text"), .pid = record_.pid};
            std::vector<RamBlock> blocks;
            try {
                for (const json& object : objects.value) sources.objectTypes[object.at("name")] = object.at("type");
                blocks = vh::gatherRamBlocks(sources);
            } catch (const std::exception& error) {
                return then({}, error.what());
            }
            then(std::move(blocks), {});
        });
    });
}

json fdsetChannel(int fdset) {
    return {
        {"channels",
         json::array({{{"channel-type", "main"},
                       {"addr", {{"transport", "file"}, {"filename", "/dev/fdset/" + std::to_string(fdset)}, {"offset", 0}}}}})}};
}

json announcements() {
    return {{"initial", 50}, {"max", 550}, {"rounds", 5}, {"step", 100}};
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

std::string vmmKind(const json& version) {
    return JsonReader(version).text("/package").find("reference VMM") == std::string::npos ? "QEMU" : "reference VMM";
}

}  // namespace vh
