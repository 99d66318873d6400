#include "tests/vfio/passthrough_fixture.h"

#include <signal.h>
#include <sys/klog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <sstream>
#include <utility>

#include <gmock/gmock.h>

#include "vmm-shim/unix_socket.h"

namespace vh::test {

using nlohmann::json;
using std::chrono::milliseconds;
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

void Passthrough::TearDown() {
    run({"destroy", "vm"});
    run({"destroy", "other"});
    if (daemon_ > 0) killDaemon();
    workspace.expectNothingLeft();
    EXPECT_EQ(driverOf(disk), "nvme") << "the disk was not given back";
    EXPECT_EQ(driverOf(networkCard), "virtio-pci") << "the network card was not given back";
}

std::string Passthrough::define(const std::string& name, const std::string& vfio) const {
    // One CPU: with two, the emulated host hung. Little RAM work: what this guest is for is its devices.
    return workspace.file(name + ".yaml",
                          "name: " + name + "\nmachine: q35\naccelerator: kvm\ncpu: {model: host}\nmemory: {size: 192MiB}\nboot:\n  kernel: " +
                              required("VH_GUEST_KERNEL") + "\n  initrd: " + required("VH_GUEST_INITRAMFS") +
                              "\n  cmdline: console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off probe.ram_mib=16"
                              " probe.rate_mib_s=8 probe.disk=/dev/nvme0n1 probe.ip=10.77.0.2\nheartbeat: true\nvmm: {binary: " +
                              newQemu() + "}\nvfio:\n" + vfio +
                              // An emulated host is slow: what is tested is that a handover is right, not how long it takes.
                              "\nhandover: {pause_budget: 10s, deadlines: {launch: 30s, exchange: 30s, verify: 20s, switch: 20s, retire: 20s}}\n");
}

std::string Passthrough::defineUsual(const std::string& more) const {
    return define("vm", "  - {id: hd0, address: '" + std::string(disk) + "', bind: true" + more + "}\n  - {id: net0, address: '" +
                            networkCard + "', bind: true" + more + "}");
}

pid_t Passthrough::spawn(std::vector<std::string> arguments, const std::string& name) {
    std::vector<std::string> command{required("VH_CLI"), "--runtime-dir", workspace.runtime()};
    if (daemon_ <= 0) command.emplace_back("--embed");
    command.insert(command.end(), arguments.begin(), arguments.end());
    return spawnProgram(workspace, command, name);
}

Ran Passthrough::run(std::vector<std::string> arguments) {
    return collectProgram(workspace, spawn(std::move(arguments), "cli"), "cli");
}

void Passthrough::startDaemon() {
    daemon_ = spawnProgram(workspace, {required("VH_DAEMON"), "--runtime-dir", workspace.runtime()}, "daemon");
    ASSERT_TRUE(turnUntil([&] { return isListening(workspace.runtime() + "/manager.sock"); }, milliseconds(20'000)));
}

void Passthrough::killDaemon() {
    ::kill(daemon_, SIGKILL);
    ::waitpid(std::exchange(daemon_, 0), nullptr, 0);
}

void Passthrough::startAndWait(const std::string& definition) {
    Ran started;
    for (int attempt = 0; attempt < 2; ++attempt) {
        started = run({"start", definition, "--wait-heartbeat", "90s"});
        if (started.code == 0) break;
        std::cerr << "the guest did not boot (attempt " << attempt + 1 << "): " << started.output << started.error;
        run({"destroy", "vm"});
    }
    ASSERT_EQ(started.code, 0) << started.error;
    std::map<std::string, std::uint64_t> heard;
    for (int attempt = 0; attempt < 20 && heard["nvme_checked"] == 0; ++attempt) heard = status();
    ASSERT_GT(heard["nvme_checked"], 0U) << "the guest does not get at its disk";
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
    Host host(workspace.runtime(), "/nonexistent");
    return guestStatus(host, "vm");
}

void Passthrough::expectGuestIsWell() {
    auto before = status(), after = status();
    const auto goesOn = [&](const char* counter) { return after[counter] > before[counter]; };
    for (int attempt = 0; attempt < 20 && !(goesOn("nvme_checked") && goesOn("irqs")); ++attempt) after = status();
    EXPECT_GT(after["nvme_checked"], before["nvme_checked"]) << "the guest does not get at its disk";
    EXPECT_GT(after["irqs"], before["irqs"]) << "the disk's interrupts do not arrive";
    EXPECT_EQ(after["mismatches"], 0U);
    EXPECT_EQ(after["io_errors"], 0U);
    // A lost interrupt is found by the driver's time-out, after 30 s.
    EXPECT_LT(after["io_max_ms"], 10'000U);
}

void Passthrough::handOverAndExpectNothingIsLost(int times) {
    const int resetsBefore = resets();
    auto before = status();
    const pid_t ping = spawnProgram(workspace, {"/usr/bin/busybox", "ping", "-i", "0.05", "10.77.0.2"}, "ping");
    for (int i = 0; i < times; ++i) {
        const Ran upgraded = run({"upgrade", "vm", "--to", newQemu(), "--json"});
        ASSERT_EQ(upgraded.code, 0) << "handover " << i + 1 << ": " << upgraded.output << upgraded.error;
        expectGuestIsWell();
    }
    ::kill(ping, SIGINT);
    const Ran pinged = collectProgram(workspace, ping, "ping");
    auto after = status();
    unsigned sent = 0, received = 0;
    const std::size_t summary = pinged.output.find("---\n");
    ASSERT_NE(summary, std::string::npos) << pinged.output << pinged.error;
    ASSERT_EQ(std::sscanf(pinged.output.c_str() + summary + 4, "%u packets transmitted, %u packets received", &sent, &received), 2);
    std::cout << times << " handovers by " << interfaceInUse() << ": " << after["nvme_checked"] - before["nvme_checked"]
              << " blocks checked, " << after["ios"] - before["ios"] << " requests, " << after["irqs"] - before["irqs"]
              << " interrupts, longest request " << after["io_max_ms"] << " ms; " << received << " of " << sent << " pings answered, "
              << resets() - resetsBefore << " resets\n";
    EXPECT_EQ(resets(), resetsBefore) << "a device was reset";
    EXPECT_GE(after["irqs"] - before["irqs"], (after["ios"] - before["ios"]) / 2);
    EXPECT_GT(received, 0U);
    EXPECT_LE(sent - received, static_cast<unsigned>(times)) << "more than a ping a handover was lost";
}

}  // namespace vh::test
