#include "tests/system/witness.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "manager/vmm/heartbeat.h"
#include "tests/support/vm_fixture.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {

using nlohmann::json;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

namespace {

constexpr std::string_view log = "/vmm.log", removedLog = "/vmm.log (deleted)";

/// A line of /proc/PID/maps: `7f..-7f.. rw-s 00000000 00:01 4711   /memfd:vm/ram0 (deleted)`.
struct Mapping {
    std::uint64_t size = 0;
    std::string file;
};

/// Empty of a process that ends meanwhile, at which a stream throws.
std::string mapsOf(pid_t pid) {
    try {
        return readIfThere("/proc/" + std::to_string(pid) + "/maps");
    } catch (const std::exception&) {
        return {};
    }
}

std::vector<Mapping> sharedMemoryOf(pid_t pid) {
    std::vector<Mapping> found;
    std::istringstream maps(mapsOf(pid));
    std::string line;
    while (std::getline(maps, line)) {
        std::istringstream fields(line);
        std::string range, rights, offset, device, inode, path;
        fields >> range >> rights >> offset >> device >> inode >> path;
        if (rights.size() != 4 || rights[3] != 's' || !path.starts_with("/memfd:")) continue;
        std::uint64_t begin = 0, end = 0;
        const std::size_t dash = range.find('-');
        std::from_chars(range.data(), range.data() + dash, begin, 16);
        std::from_chars(range.data() + dash + 1, range.data() + range.size(), end, 16);
        found.push_back({end - begin, device + " " + inode});
    }
    return found;
}

bool maps(pid_t pid, const std::string& file) {
    const std::vector<Mapping> shared = sharedMemoryOf(pid);
    return std::ranges::any_of(shared, [&](const Mapping& mapping) { return mapping.file == file; });
}

std::string withoutNumbers(std::string text) {
    std::erase_if(text, [](char character) { return character >= '0' && character <= '9'; });
    return text;
}

/// Reads a monitor's lines until one has that member; a monitor that is silent for three seconds has none.
json lineWith(int socket, std::string& received, const std::string& member) {
    for (;;) {
        for (std::size_t end; (end = received.find('\n')) != std::string::npos;) {
            const json line = json::parse(received.substr(0, end), nullptr, false);
            received.erase(0, end + 1);
            if (line.is_object() && line.contains(member)) return line;
        }
        pollfd wait{socket, POLLIN, 0};
        char buffer[4096];
        if (::poll(&wait, 1, 3'000) <= 0) return nullptr;
        const ssize_t count = ::recv(socket, buffer, sizeof(buffer), 0);
        if (count <= 0) return nullptr;
        received.append(buffer, static_cast<std::size_t>(count));
    }
}

}  // namespace

std::string ramFileOf(pid_t pid) {
    const std::vector<Mapping> shared = sharedMemoryOf(pid);
    const auto largest = std::ranges::max_element(shared, {}, &Mapping::size);
    return largest == shared.end() ? "" : largest->file;
}

std::string runStateOf(const std::string& directory) {
    try {
        const UniqueFd socket = connectUnix(directory + "/qmp.sock");
        std::string received;
        if (lineWith(socket.get(), received, "QMP").is_null()) return "silent";
        const std::string ask = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n";
        if (sendSome(socket.get(), ask.data(), ask.size()) != ask.size()) return "silent";
        lineWith(socket.get(), received, "return");
        const json answer = lineWith(socket.get(), received, "return");
        return answer.is_null() ? "silent" : answer["return"].value("status", "silent");
    } catch (const std::exception&) {
        return "silent";
    }
}

std::vector<SeenVmm> seenVmms(const VmDirectory& vm, const std::string& ram) {
    std::vector<SeenVmm> seen;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc", ignored)) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        const pid_t pid = std::stoi(name);
        const std::string output = fs::read_symlink(entry.path() / "fd/1", ignored);
        const bool isOfVm = output.starts_with(vm.path() + "/") && (output.ends_with(log) || output.ends_with(removedLog));
        if (!isOfVm && (ram.empty() || !maps(pid, ram))) continue;
        SeenVmm vmm{.pid = pid, .directory = {}, .runState = "silent"};
        if (isOfVm && output.ends_with(log)) vmm.directory = output.substr(0, output.size() - log.size());
        if (!vmm.directory.empty()) vmm.runState = runStateOf(vmm.directory);
        seen.push_back(vmm);
    }
    return seen;
}

std::map<std::string, int> openFilesOf(pid_t pid) {
    std::map<std::string, int> found;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ignored))
        ++found[withoutNumbers(fs::read_symlink(entry.path(), ignored).string())];
    return found;
}

std::set<std::string> entriesOf(const std::string& directory) {
    std::set<std::string> found;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory, ignored))
        found.insert(entry.path().string().substr(directory.size() + 1));
    return found;
}

std::set<std::string> interfacesNamed(const std::string& start) {
    std::set<std::string> found;
    // /sys shows the namespace that it was mounted in; this shows ours.
    std::ifstream devices("/proc/self/net/dev");
    std::string line;
    while (std::getline(devices, line)) {
        const std::size_t first = line.find_first_not_of(' ');
        if (first != std::string::npos && line.compare(first, start.size(), start) == 0)
            found.insert(line.substr(first, line.find(':') - first));
    }
    return found;
}

Pulse pulseOf(const std::string& directory, bool tellsStatus) {
    Pulse pulse;
    // More than once: see guestStatus().
    for (int attempt = 0; attempt < 4 && !pulse.beat; ++attempt) {
        HeartbeatMonitor monitor;
        std::optional<std::uint64_t> beat;
        monitor.onHeard([&](const HeardLine& heard) {
            const std::string& line = heard.text;
            std::uint64_t number = 0;
            if (line.starts_with("B ") && std::from_chars(line.data() + 2, line.data() + line.size(), number).ec == std::errc())
                beat = number;
        });
        try {
            monitor.listen(connectUnix(directory + "/heartbeat.sock"));
        } catch (const std::exception&) {
            return pulse;
        }
        // What was sent before this connection may come first, and prove nothing.
        const bool heard = turnUntil(
            [&] { return monitor.summary().beats > 2 && (!tellsStatus || monitor.summary().status.contains("mismatches")); },
            milliseconds(3'000));
        pulse.status = monitor.summary().status;
        pulse.errors = monitor.summary().errors;
        if (heard) pulse.beat = beat;
    }
    return pulse;
}

}  // namespace vh::test
