#include "tests/vfio/passthrough_fixture.h"

#include <signal.h>
#include <sys/klog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>
#include <utility>

#include <gmock/gmock.h>

#include "vmm-shim/unix_socket.h"

namespace vh::test {

using nlohmann::json;
namespace fs = std::filesystem;

std::string driverOf(const std::string& address) {
    std::error_code ignored;
    return fs::read_symlink("/sys/bus/pci/devices/" + address + "/driver", ignored).filename();
}

int resets() {
    constexpr int readAll = 3, sizeOfBuffer = 10;  // klogctl(3)
    std::string log(static_cast<std::size_t>(::klogctl(sizeOfBuffer, nullptr, 0)), '\0');
    log.resize(static_cast<std::size_t>(std::max(0, ::klogctl(readAll, log.data(), static_cast<int>(log.size())))));
    std::istringstream lines(log);
    int found = 0;
    for (std::string line; std::getline(lines, line);)
        if (line.find("vfio-pci") != std::string::npos && line.ends_with(": resetting")) ++found;
    return found;
}

/// The numbers of the pings that were answered.
std::set<unsigned> answeredPings(const std::string& output) {
    std::set<unsigned> numbers;
    const std::string key = " seq=";
    for (std::size_t at = 0; (at = output.find(key, at)) != std::string::npos;)
        numbers.insert(static_cast<unsigned>(std::strtoul(output.c_str() + (at += key.size()), nullptr, 10)));
    return numbers;
}

std::unique_ptr<Workspace> Passthrough::workspace;
std::string Passthrough::running_;

void Passthrough::SetUpTestSuite() {
    workspace = std::make_unique<Workspace>();
}

void Passthrough::TearDownTestSuite() {
    const std::vector<std::string> destroy{required("VH_CLI"), "--embed", "--runtime-dir", workspace->runtime(), "destroy", "vm"};
    collectProgram(*workspace, spawnProgram(*workspace, destroy, "destroy"), "destroy");
    running_.clear();
    workspace->expectNothingLeft();
    EXPECT_EQ(driverOf(disk), "nvme") << "the disk was not given back";
    EXPECT_EQ(driverOf(networkCard), "virtio-pci") << "the network card was not given back";
    workspace.reset();
}

void Passthrough::TearDown() {
    const std::string console = HasFailure() ? readIfThere(workspace->path() + "/console.log") : "";
    if (!console.empty())
        std::cerr << "the guest's console:\n" << console.substr(console.size() - std::min(console.size(), std::size_t{4'000}));
    if (ping_ > 0) {  // A handover failed.
        ::kill(ping_, SIGKILL);
        ::waitpid(ping_, nullptr, 0);
    }
    if (daemon_ > 0) killDaemon();
}

std::string Passthrough::define(const std::string& name, const std::string& vfio, const std::string& owner) {
    // One CPU: with two, the emulated host hung. Little RAM work and few beats: what this guest is for is its devices, and its
    // processor is emulated twice.
    return workspace->file(
        name + ".yaml",
        "name: " + name + "\nmachine: q35\naccelerator: kvm\ncpu: {model: host}\nmemory: {size: 192MiB, owner: " + owner +
            "}\nboot:\n  kernel: " + required("VH_GUEST_KERNEL") + "\n  initrd: " + required("VH_GUEST_INITRAMFS") +
            "\n  cmdline: console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off cryptomgr.notests "
            "probe.ram_mib=16"
            " probe.rate_mib_s=1 probe.beat_ms=50 probe.disk_per_s=10 probe.disk=/dev/nvme0n1 probe.ip=10.77.0.2\nconsole: "
            "{log: " +
            workspace->path() + "/console.log}\nheartbeat: true\nvmm: {binary: " + newQemu() + "}\nvfio:\n" + vfio +
            // An emulated host is slow: what is tested is that a handover is right, not how long it takes.
            "\nhandover: {pause_budget: 10s, deadlines: {launch: 30s, exchange: 30s, verify: 20s, switch: 20s, retire: 20s}}\n");
}

std::string Passthrough::both(const std::string& more) {
    return "  - {id: hd0, address: '" + std::string(disk) + "', bind: true" + more + "}\n  - {id: net0, address: '" +
           networkCard + "', bind: true" + more + "}";
}

pid_t Passthrough::spawn(std::vector<std::string> arguments, const std::string& name) const {
    std::vector<std::string> command{required("VH_CLI"), "--runtime-dir", workspace->runtime()};
    if (daemon_ <= 0) command.emplace_back("--embed");
    command.insert(command.end(), arguments.begin(), arguments.end());
    return spawnProgram(*workspace, command, name);
}

Ran Passthrough::run(std::vector<std::string> arguments) const {
    return collectProgram(*workspace, spawn(std::move(arguments), "cli"), "cli");
}

Ran Passthrough::runAs(uid_t user, std::vector<std::string> arguments) const {
    const std::string id = std::to_string(user), directory = workspace->path() + "/of-" + id;
    fs::create_directory(directory);
    EXPECT_EQ(::chown(directory.c_str(), user, user), 0);
    std::vector<std::string> command{"/usr/bin/setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--",
                                     required("VH_CLI"), "--embed",       "--runtime-dir", directory};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return collectProgram(*workspace, spawnProgram(*workspace, command, "other-user"), "other-user");
}

VerbResult Passthrough::upgradeHere() {
    Host host(workspace->runtime(), "/nonexistent");
    return wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = newQemu()}, nullptr, std::move(done)); });
}

void Passthrough::startDaemon() {
    daemon_ = test::startDaemon(*workspace);
}

void Passthrough::killDaemon() {
    ::kill(daemon_, SIGKILL);
    ::waitpid(std::exchange(daemon_, 0), nullptr, 0);
    for (const char* socket : {"/manager.sock", "/libvirt-hook.sock"}) fs::remove(workspace->runtime() + socket);
}

void Passthrough::haveVm(const std::string& vfio, const std::string& owner) {
    const std::string definition = define("vm", vfio, owner);
    if (running_ == readFile(definition) && !shown().contains("error") && shown().value("state", "") == "running") return;
    run({"destroy", "vm"});
    running_ = readFile(definition);
    Ran started;
    for (int attempt = 0; attempt < 2; ++attempt) {
        started = run({"start", definition, "--wait-heartbeat", "120s"});
        if (started.code == 0) break;
        std::cerr << "the guest did not boot (attempt " << attempt + 1 << "): " << started.output << started.error;
        run({"destroy", "vm"});
    }
    ASSERT_EQ(started.code, 0) << started.error;
    std::map<std::string, std::uint64_t> heard;
    for (int attempt = 0; attempt < 20 && heard["nvme_checked"] == 0; ++attempt)
        if (heard = status(); heard.empty()) break;
    ASSERT_GT(heard["nvme_checked"], 0U) << "the guest does not get at its disk";
}

void Passthrough::rebindNetwork() const {
    const std::string log = workspace->path() + "/console.log", word = "probe: rebound";
    const auto times = [&] {
        const std::string text = readIfThere(log);
        int found = 0;
        for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos; at += word.size()) ++found;
        return found;
    };
    const int before = times();
    // Of the VMM that runs the guest: the older one while there are two.
    int generation = 1;
    while (!fs::exists(workspace->runtime() + "/vm/" + std::to_string(generation))) ASSERT_LT(++generation, 100);
    const UniqueFd console = connectUnix(workspace->runtime() + "/vm/" + std::to_string(generation) + "/console.sock");
    ASSERT_EQ(::write(console.get(), "rebind\n", 7), 7);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (times() == before && std::chrono::steady_clock::now() < end) ::usleep(50'000);
    ASSERT_EQ(times(), before + 1) << "the guest did not rebind its network card";
}

json Passthrough::shown() {
    const Ran ran = run({"show", "vm", "--json"});
    EXPECT_EQ(ran.code, 0) << ran.error;
    return json::parse(ran.output, nullptr, false);
}

std::string Passthrough::interfaceInUse() {
    return shown().at("passthrough").at(0).at("interface");
}

std::map<std::string, std::uint64_t> Passthrough::status() {
    Host host(workspace->runtime(), "/nonexistent");
    return guestStatus(host, "vm");
}

void Passthrough::expectGuestIsWell() {
    auto before = status(), after = status();
    const auto goesOn = [&](const char* counter) { return after[counter] > before[counter]; };
    // A guest that is silent is asked once: each time takes as long as the most patient wait.
    for (int attempt = 0; attempt < 20 && !after.empty() && !(goesOn("nvme_checked") && goesOn("irqs")); ++attempt)
        after = status();
    EXPECT_GT(after["nvme_checked"], before["nvme_checked"]) << "the guest does not get at its disk";
    EXPECT_GT(after["irqs"], before["irqs"]) << "the disk's interrupts do not arrive";
    EXPECT_EQ(after["mismatches"], 0U);
    EXPECT_EQ(after["io_errors"], 0U);
    // A lost interrupt is found by the driver's time-out, after 30 s.
    EXPECT_LT(after["io_max_ms"], 10'000U);
}

void Passthrough::handOverAndExpectNothingIsLost(int times, const std::vector<std::string>& options) {
    const int resetsBefore = resets();
    auto before = status();
    const auto began = std::chrono::steady_clock::now();
    ping_ = spawnProgram(*workspace, {"/usr/bin/busybox", "ping", "-i", "0.05", "10.77.0.2"}, "ping");
    for (int i = 0; i < times; ++i) {
        std::vector<std::string> arguments{"upgrade", "vm", "--to", newQemu(), "--json"};
        arguments.insert(arguments.end(), options.begin(), options.end());
        const Ran upgraded = run(arguments);
        ASSERT_EQ(upgraded.code, 0) << "handover " << i + 1 << ": " << upgraded.output << upgraded.error;
        expectGuestIsWell();
    }
    // An emulated guest may take seconds to answer: only those behind the last answered one may be on their way.
    const auto sent = static_cast<unsigned>((std::chrono::steady_clock::now() - began) / std::chrono::milliseconds(50));
    std::set<unsigned> answered;
    const auto areAnswered = [&] {
        answered = answeredPings(readIfThere(workspace->path() + "/ping.out"));
        return !answered.empty() && *answered.rbegin() >= sent;
    };
    EXPECT_TRUE(turnUntil(areAnswered, patience)) << "the guest's network is dead";
    ::kill(ping_, SIGINT);
    collectProgram(*workspace, std::exchange(ping_, 0), "ping");
    auto after = status();
    ASSERT_FALSE(answered.empty());
    const std::size_t asked = *answered.rbegin() + 1;
    std::cout << times << " handovers by " << interfaceInUse() << ": " << after["nvme_checked"] - before["nvme_checked"]
              << " blocks checked, " << after["ios"] - before["ios"] << " requests, " << after["irqs"] - before["irqs"]
              << " interrupts, longest request " << after["io_max_ms"] << " ms; " << answered.size() << " of " << asked
              << " pings answered, " << resets() - resetsBefore << " resets\n";
    EXPECT_EQ(resets(), resetsBefore) << "a device was reset";
    EXPECT_GE(after["irqs"] - before["irqs"], (after["ios"] - before["ios"]) / 2);
    // A card that was reset is away for longer than half a second, an emulated host that has no time for its own card is not.
    EXPECT_LT(asked - answered.size(), 10U * static_cast<unsigned>(times)) << "so many pings were lost";
}

}  // namespace vh::test
