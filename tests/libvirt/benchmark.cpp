// What an upgrade under libvirt costs: the guest's pause, against that of a VM of the manager's own in the same run, and for how
// long libvirt is away. Runs in the test root; `meson test --benchmark` calls it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "manager/vmm/heartbeat.h"
#include "tests/libvirt/libvirt_fixture.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using std::chrono::milliseconds, std::chrono::seconds;

constexpr int rounds = 10;
constexpr int domainsAtOnce = 10;
/// Nearly idle. Ten guests that tick a thousand times a second keep two cores busy under TCG all the same, so those are paused.
constexpr const char* idle = " probe.ram_mib=64 probe.rate_mib_s=1 probe.disk_per_s=1";

json upgrade(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {required("VH_LIBVIRT_TOOL"), "--json", "upgrade", "--to", newQemu()});
    const Ran ran = runProgram(std::move(arguments), seconds(120));
    EXPECT_EQ(ran.code, 0) << ran.output << ran.error;
    return json::parse(ran.output, nullptr, false);
}

void print(const char* what, std::vector<double> values) {
    if (values.empty()) return;
    std::ranges::sort(values);
    std::printf("%-44s median %8.1f   least %8.1f   most %8.1f   of %zu\n", what, values[values.size() / 2], values.front(),
                values.back(), values.size());
    std::fflush(stdout);
}

/// What makes the machine of a running domain, as YAML for a definition's `vmm.arguments`: every device that libvirt gave it, at
/// the same places, on another disk, and with another socket for the heartbeats.
std::string devicesOf(const TestDomain& domain, const std::string& disk, const std::string& heartbeat) {
    std::istringstream words(readIfThere("/proc/" + std::to_string(domain.vmm()) + "/cmdline"));
    std::string arguments, option, value;
    bool isFirst = true;
    while (std::getline(words, option, '\0')) {
        if (option != "-device" && option != "-blockdev" && option != "-chardev" && option != "-audiodev") continue;
        std::getline(words, value, '\0');
        if (value.find("id=charmonitor") != std::string::npos) continue;
        if (value.starts_with("socket,")) value = "socket,id=charchannel0,server=on,wait=off,path=" + heartbeat;
        if (const std::size_t at = value.find(domain.disk()); at != std::string::npos)
            value.replace(at, domain.disk().size(), disk);
        arguments += (std::exchange(isFirst, false) ? "" : ", ") + option + ", '" + value + "'";
    }
    return arguments;
}

/// A VM of the manager's own with a machine like the domain's.
std::string definitionLike(const Workspace& workspace, const TestDomain& domain) {
    const std::string disk = workspace.path() + "/like.qcow2";
    runProgram({"/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"}, seconds(60));
    // A directory of its own: the VMM makes the socket, as its own user.
    const std::string directory = workspace.path() + "/heartbeat";
    fs::create_directory(directory);
    for (const std::string& path : {disk, directory}) fs::permissions(path, fs::perms::all);
    return workspace.file("like.yaml",
                          "name: vm\nmachine: pc-q35-10.0\naccelerator: tcg\nmemory: {size: 192MiB, owner: vmm}\n"
                          "boot:\n  kernel: " +
                              required("VH_GUEST_KERNEL") + "\n  initrd: " + required("VH_GUEST_INITRAMFS") +
                              "\n  cmdline: console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off "
                              "clearcpuid=erms cryptomgr.notests" +
                              idle + "\nconsole: {enabled: false}\nvmm:\n  binary: " + oldQemu() + "\n  arguments: [" +
                              devicesOf(domain, disk, directory + "/socket") + "]\n");
}

void awaitGuest(const std::string& heartbeat) {
    HeartbeatMonitor monitor;
    monitor.listen(connectUnix(heartbeat));
    ASSERT_TRUE(turnUntil([&] { return monitor.summary().beats > 100; }, seconds(90))) << "the guest does not come up";
}

/// The domain and a VM of the manager's own, handed over in turn.
void compare(const char* what, const std::function<std::string(const Workspace&, const TestDomain&)>& define,
             const std::function<std::string(const Workspace&)>& heartbeatOf) {
    const LibvirtHost libvirt;
    const TestDomain domain(libvirt, {.name = "one", .cmdline = idle});
    domain.start();
    domain.expectGuestIsWell();
    Workspace workspace;
    std::vector<double> pauses, ownPauses, ratios, away;
    {
        Host host(workspace.runtime(), "/nonexistent");
        const std::string file = define(workspace, domain);
        const VerbResult started = start(host, file);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value.dump(2);
        awaitGuest(heartbeatOf(workspace));
        for (int round = 0; round < rounds; ++round) {
            const json own = test::upgrade(host, "vm", {.binary = newQemu()});
            const json theirs = upgrade({domain.name()});
            const json pause = theirs.value("/domains/0/stopToResumeMs"_json_pointer, json()),
                       ownPause = own.value("/vmm/stopToResumeMs"_json_pointer, json());
            ASSERT_TRUE(pause.is_number() && ownPause.is_number()) << theirs.dump(2) << own.dump(2);
            pauses.push_back(pause);
            ownPauses.push_back(ownPause);
            ratios.push_back(pause.get<double>() / ownPause.get<double>());
            away.push_back(theirs["libvirtAwayMs"]);
        }
        destroy(host, "vm");
    }
    std::printf("-- against %s\n", what);
    print("libvirt domain, STOP to RESUME, ms", pauses);
    print("manager's own VM, STOP to RESUME, ms", ownPauses);
    print("ratio, paired by round", ratios);
    print("libvirt away, one domain, ms", away);
    domain.expectGuestIsWell();
}

TEST(Benchmark, oneDomainAgainstAVmOfTheManagersOwnWithTheSameDevices) {
    compare("a VM of the manager's own with the same devices", definitionLike,
            [](const Workspace& workspace) { return workspace.path() + "/heartbeat/socket"; });
}

/// A root port for each of a domain's devices, USB and a balloon are PCI functions that a VM of the manager's own does without,
/// and each of them is loaded while the guest stands still.
TEST(Benchmark, oneDomainAgainstAVmOfTheManagersOwnAsTheTestsHaveIt) {
    compare(
        "a VM of the manager's own with fewer devices",
        [](const Workspace& workspace, const TestDomain&) { return writeDefinition(workspace, {.cmdline = idle}); },
        [](const Workspace& workspace) { return workspace.runtime() + "/vm/1/heartbeat.sock"; });
}

TEST(Benchmark, tenDomainsInOneAbsence) {
    const LibvirtHost libvirt;
    std::vector<std::unique_ptr<TestDomain>> domains;
    for (int i = 0; i < domainsAtOnce; ++i) {
        domains.push_back(std::make_unique<TestDomain>(libvirt, DomainOptions{.name = "d" + std::to_string(i), .cmdline = idle}));
        domains.back()->start();
    }
    for (const auto& domain : domains) {
        domain->guestStatus();  // It is up.
        libvirt.must({"suspend", domain->name()});
    }
    std::vector<double> away;
    for (int round = 0; round < 2; ++round) {
        std::vector<std::string> names{"--pause-budget", "10s"};
        for (const auto& domain : domains) names.push_back(domain->name());
        const json answer = upgrade(names);
        away.push_back(answer.value("libvirtAwayMs", 0.0));
    }
    print("libvirt away, ten paused domains, ms", away);
}

}  // namespace
}  // namespace vh::test
