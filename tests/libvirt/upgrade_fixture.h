// What tests of upgrades of real libvirt domains share: the tool as a program, and what it leaves on disk while it works.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/libvirt/libvirt_fixture.h"

namespace vh::test {

constexpr const char* journalFile = "/run/virt-handover/libvirt.d/journal.json";

/// The tool until it ends.
Ran tool(std::vector<std::string> arguments);

/// Arguments that upgrade domains to the newer QEMU.
std::vector<std::string> upgradeOf(const std::vector<std::string>& domains);
inline std::vector<std::string> upgradeOf(const TestDomain& domain) {
    return upgradeOf(std::vector{domain.name()});
}

/// The only domain of an answer.
nlohmann::json outcomeOf(const Ran& ran);
void expectUpgraded(const Ran& ran);

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds deadline = patience);

/// The tool in the background, killed at the end if it still runs.
class RunningTool {
 public:
    explicit RunningTool(std::vector<std::string> arguments, const std::map<std::string, std::string>& environment = {},
                         const char* program = "VH_LIBVIRT_TOOL");
    RunningTool(const RunningTool&) = delete;
    ~RunningTool();

    void kill();
    Ran wait();
    /// It stands still (SIGSTOP), or has ended. True for the former.
    bool stands();
    void goOn();

 private:
    pid_t pid_ = 0;
};

/// What the journal says of its first domain.
std::string phaseNow();

/// Processes of the tool that stand by for another one.
std::set<pid_t> guardians();

/// Where an image goes that an earlier test may have left.
std::string freshImage(const std::string& name);

/// A file with a piece of XML.
std::string snippet(const std::string& name, const std::string& xml);

/// XML of a domain's PCI Express ports, into each of which a device can be plugged; some of them take those that it starts with.
std::string roomToPlugIn(int ports);
/// An image of 16 MiB, made anew, and a file with the XML that plugs it in; returns the latter.
std::string diskToPlugIn(const std::string& image, const std::string& target = "vdb");

/// A program that everybody may execute, from its text; returns its path.
std::string writeProgram(const std::string& path, const std::string& text);

/// A manager's program (VH_CLI) that does something, once, before it does what it is told: the tool asks it last before it keeps
/// libvirt away.
std::string managerAfter(const std::string& shellCommands);

}  // namespace vh::test
