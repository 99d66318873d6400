#include "manager/process/cgroups.h"

#include <fstream>
#include <sstream>

#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

std::ifstream opened(const std::string& path) {
    std::ifstream file(path);
    if (!file) throwErrno("read '" + path + "'");
    return file;
}

bool hasOption(const std::string& options, const std::string& option) {
    return ("," + options + ",").find("," + option + ",") != std::string::npos;
}

}  // namespace

bool CgroupPlace::controls(const std::string& what) const {
    return hasOption(controllers, what);
}

std::vector<CgroupPlace> cgroupsOf(pid_t pid, const std::string& procRoot) {
    std::vector<CgroupPlace> places;
    std::ifstream lines = opened(Process(pid, procRoot).path("cgroup"));
    for (std::string line; std::getline(lines, line);) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        places.push_back({line.substr(first + 1, second - first - 1), line.substr(second + 1)});
    }
    return places;
}

std::string directoryOf(const CgroupPlace& place, const std::string& procRoot) {
    std::ifstream lines = opened(procRoot + "/self/mountinfo");
    for (std::string line; std::getline(lines, line);) {
        const std::size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        std::istringstream left(line.substr(0, dash)), right(line.substr(dash + 3));
        std::string ignored, root, mountPoint, type, device, options;
        left >> ignored >> ignored >> ignored >> root >> mountPoint;
        right >> type >> device >> options;
        const bool isIts = place.isVersion2()
                               ? type == "cgroup2"
                               : type == "cgroup" && hasOption(options, place.controllers.substr(0, place.controllers.find(',')));
        if (!isIts) continue;
        if (root == "/") return mountPoint + place.path;
        if (place.path == root || place.path.starts_with(root + "/")) return mountPoint + place.path.substr(root.size());
    }
    return {};
}

}  // namespace vh
