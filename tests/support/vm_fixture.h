// What system tests share: real QEMUs, a real guest, and the proof that nothing of a test is left behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "manager/service/host.h"
#include "tests/support/required.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"

namespace vh::test {

/// Why an upgrade came to nothing, and what can be done about it.
inline std::string whyNot(const nlohmann::json& report) {
    return report.value("cause", "") + "; " + report.value("remedy", "");
}

inline std::string oldQemu() {
    return required("VH_QEMU_OLD");
}
inline std::string newQemu() {
    return required("VH_QEMU_NEW");
}

/// Until when an impostor passes for a QEMU: while it is asked what it can do, or also while it is rehearsed for an exec.
enum class Until { Launched, Executed };

/// A directory that an unprivileged VMM can reach, removed at the end; and the check that the process, the host and the directory
/// are as they were.
class Workspace {
 public:
    Workspace();
    Workspace(const Workspace&) = delete;
    ~Workspace();

    const std::string& path() const { return directory_.path(); }
    std::string runtime() const { return directory_.file("run"); }

    /// Puts a file system of 1 MiB under the runtime directory, so that a test can fill it. Needs root.
    void makeRuntimeSmall();

    /// An executable shell script; its text follows `#!/bin/sh`.
    std::string script(const std::string& name, const std::string& text) const;
    std::string file(const std::string& name, const std::string& text) const { return directory_.write(name, text); }
    /// A new VMM that passes for the new QEMU at first, and does something else when it is to run the VM.
    std::string impostor(const std::string& behaviour, Until until = Until::Launched) const;
    /// The reference VMM, with options of its own.
    std::string referenceVmm(const std::string& name, const std::string& options = {}) const;

    /// Fails the test when a process, a memfd, a descriptor or a socket of the VMs in here is left.
    void expectNothingLeft() const;

 private:
    TemporaryDirectory directory_;
    bool mounted_ = false;
    std::set<std::string> descriptorsBefore_;
    std::set<std::string> processesBefore_;
};

/// How long a test waits for what comes soon, a booting guest included: long enough for the busiest machine, since only what
/// never comes costs it. What is waited for in order to see that it does not come has a time of its own.
constexpr std::chrono::milliseconds patience{180'000};

/// What a program of ours did.
struct Ran {
    int code = -1;  ///< Its exit status, or 128 and the signal that ended it.
    std::string output;
    std::string error;
};

/// Starts a program with its output in the workspace's files NAME.out and NAME.err; `input`, if any, is its standard input.
pid_t spawnProgram(const Workspace& workspace, std::vector<std::string> command, const std::string& name, int input = -1);
/// Waits for a child and returns its status, as waitpid() gives it. One that does not end is killed, and fails the test, which
/// says what it waited for.
int reap(pid_t child, std::chrono::milliseconds deadline = 2 * patience);
/// Waits for a program that was spawned.
Ran collectProgram(const Workspace& workspace, pid_t child, const std::string& name);

/// Runs a verb on the main loop until it answers; a test fails whose patience ends before.
VerbResult wait(const std::function<void(Verbs::Done)>& verb);

VerbResult start(Host& host, const std::string& definition, std::optional<std::chrono::milliseconds> waitHeartbeat = {});
/// Its report.
nlohmann::json upgrade(Host& host, const std::string& vm, const UpgradeOptions& options,
                       const Handover::Observer& observer = nullptr);
nlohmann::json show(Host& host, const std::string& vm);
VerbResult destroy(Host& host, const std::string& vm);

/// Asks the monitor of a VM's VMM, as anybody could. Fails the test when it refuses, or does not answer.
nlohmann::json ask(Host& host, const std::string& vm, const std::string& command, const nlohmann::json& arguments = nullptr);
nlohmann::json askMonitor(const std::string& socket, const std::string& command, const nlohmann::json& arguments = nullptr);

/// The guest was heard throughout the handover: no tick is missing or came twice, and its memory and disk were right.
void expectNothingLost(const nlohmann::json& report);

/// Turns the main loop until the condition holds or the deadline has passed; returns whether it holds.
bool turnUntil(const std::function<bool()>& condition, std::chrono::milliseconds deadline);

/// How long each step of a handover may take: for a machine that is busy, and for a test that waits for what never comes.
constexpr const char* patientHandover =
    "pause_budget: 10s, deadlines: {launch: 60s, exchange: 60s, verify: 60s, switch: 60s, retire: 10s}";
constexpr const char* impatientHandover =
    "pause_budget: 1s, deadlines: {launch: 15s, exchange: 8s, verify: 6s, switch: 5s, retire: 10s}";

struct VmOptions {
    std::string name = "vm";
    std::string machine = "pc-q35-10.0";
    std::string owner = "manager";
    std::string accelerator = "tcg";
    bool withLinux = false;  ///< In place of the bare guest (tests/bare-guest).
    Design design = Design::Relayed;
    std::string binary = oldQemu();
    std::string more;                        ///< More YAML, at the top level.
    std::string arguments;                   ///< More for the VMM, each behind a comma.
    std::string cmdline;                     ///< More for the kernel's command line.
    std::string handover = patientHandover;  ///< But for the design.
};

/// A design's name as a test may have it: `managerOwned`.
std::string testName(Design design);

/// Writes a definition (and its disk) into the workspace; returns the file.
std::string writeDefinition(const Workspace& workspace, const VmOptions& options);
/// The text of one for a reference VMM, which boots nothing; `more` is YAML at the top level.
std::string referenceDefinition(const std::string& vm, const std::string& binary, const std::string& more = {},
                                const std::string& memory = "{size: 64MiB}");
/// Changes the first `from` in a file.
void replaceIn(const std::string& file, const std::string& from, const std::string& to);

/// While it lives, handovers of the workspace's VM `vm` are impatient.
class Impatience {
 public:
    explicit Impatience(const Workspace& workspace) : file_(workspace.path() + "/vm.yaml") {
        replaceIn(file_, patientHandover, impatientHandover);
    }
    Impatience(const Impatience&) = delete;
    ~Impatience() { replaceIn(file_, impatientHandover, patientHandover); }

 private:
    std::string file_;
};

/// What the guest probe says of itself just now: a fresh status line. Fails the test when there is none within ten seconds.
std::map<std::string, std::uint64_t> guestStatus(Host& host, const std::string& vm);

/// The guest ticks, has lost nothing, and goes on checking its RAM and writing its disk: two status lines, compared.
void expectGuestIsWell(Host& host, const std::string& vm);

/// Runs a manager that dies when the handover comes to that state, or so much later; `what` is a VM's name or an adoption's file.
/// Fails the test if it does not, unless the handover was over before a later moment. Its lock on `vm` is free afterwards.
void crashManager(const Workspace& workspace, const std::string& vm, const std::string& what, const std::string& binary,
                  const std::string& state, const std::string& delayMs);

/// The pid of the VM's VMM.
int vmmPid(Host& host, const std::string& vm);

/// Starts the daemon on the workspace's runtime directory and waits until it listens. Fails the test if it does not.
pid_t startDaemon(const Workspace& workspace);

/// A host of a test's own, with the manager in this process. Without a name, a VM is `vm`.
struct OwnHost {
    Workspace workspace;
    Host host{workspace.runtime(), "/nonexistent"};

    VerbResult start(const VmOptions& options, std::optional<std::chrono::milliseconds> waitHeartbeat = {}) {
        return test::start(host, writeDefinition(workspace, options), waitHeartbeat);
    }
    nlohmann::json upgrade(const UpgradeOptions& options, const Handover::Observer& observer = nullptr) {
        return test::upgrade(host, "vm", options, observer);
    }
    nlohmann::json upgrade(const std::string& vm, const UpgradeOptions& options, const Handover::Observer& observer = nullptr) {
        return test::upgrade(host, vm, options, observer);
    }
    nlohmann::json show(const std::string& vm = "vm") { return test::show(host, vm); }
    VerbResult destroy(const std::string& vm = "vm") { return test::destroy(host, vm); }
    nlohmann::json ask(const std::string& command, const nlohmann::json& arguments = nullptr) {
        return test::ask(host, "vm", command, arguments);
    }

    /// Ends all of its VMs, and makes sure that nothing is left.
    void end();
};

/// A test that has a host for itself.
class HostFixture : public testing::Test, protected OwnHost {
 protected:
    void TearDown() override { end(); }
};

}  // namespace vh::test
