// The hook where libvirt looks for it: a real libvirtd calls it, with and without a manager that listens.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/hook_inbox.h"
#include "manager/vm_record.h"
#include "tests/libvirt/libvirt_fixture.h"

namespace vh::test {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

constexpr const char* runtimeDirectory = "/run/virt-handover";
constexpr const char* policyFile = "/etc/virt-handover/libvirt.yaml";

class LibvirtHook : public testing::Test {
 protected:
    void SetUp() override {
        // Before libvirtd starts: it looks for hooks then (src/util/virhook.c:virHookInitialize).
        fs::create_directories("/etc/libvirt/hooks/qemu.d");
        fs::create_symlink(required("VH_HOOK"), "/etc/libvirt/hooks/qemu.d/50-virt-handover");
        fs::create_directories(runtimeDirectory);
    }
    void TearDown() override {
        fs::remove("/etc/libvirt/hooks/qemu.d/50-virt-handover");
        fs::remove(policyFile);
        fs::remove_all(runtimeDirectory);
    }
};

/// virt-handoverd on the runtime directory that the hook knows.
class Daemon {
 public:
    Daemon() : pid_(spawnProgram(workspace_, {required("VH_DAEMON")}, "daemon")) { EXPECT_TRUE(says("ready on")) << output(); }
    ~Daemon() {
        send(SIGCONT);
        send(SIGTERM);
        collectProgram(workspace_, pid_, "daemon");
    }
    void send(int signal) const { ::kill(pid_, signal); }
    std::string output() const { return contents(workspace_.path() + "/daemon.err"); }
    bool says(const std::string& text) const {
        return turnUntil([&] { return output().find(text) != std::string::npos; }, seconds(60));
    }

 private:
    Workspace workspace_;
    pid_t pid_;
};

TEST_F(LibvirtHook, isCalledOnStartReconnectAndDestroy) {
    std::vector<HookNotice> notices;
    const HookInbox inbox(
        runtimeDirectory, [&](const HookNotice& notice) { notices.push_back(notice); },
        [](const std::string& line) { ADD_FAILURE() << line; });
    const auto heard = [&](const HookNotice& wanted) {
        return turnUntil([&] { return std::ranges::find(notices, wanted) != notices.end(); }, seconds(60));
    };
    LibvirtHost host;
    const TestDomain domain(host, {.name = "o'clock \"now\" & größer"});
    const std::string uuid = domain.uuid();
    domain.start();
    EXPECT_TRUE(heard({domain.name(), uuid, "started", ""}));
    notices.clear();
    host.restart();
    EXPECT_TRUE(heard({domain.name(), uuid, "reconnect", ""}));
    EXPECT_EQ(domain.state(), "running");
    domain.expectOneVmm();
    domain.destroy();
    EXPECT_TRUE(heard({domain.name(), uuid, "stopped", ""}));
    EXPECT_TRUE(heard({domain.name(), uuid, "release", "destroyed"}));
    EXPECT_FALSE(inbox.latest().contains(uuid));
}

TEST_F(LibvirtHook, letsADomainLiveWhenTheManagerHangs) {
    const Daemon daemon;
    LibvirtHost host;
    const TestDomain domain(host, {});
    daemon.send(SIGSTOP);
    domain.start();
    domain.expectGuestIsWell();
    const pid_t vmm = domain.vmm();
    // More notices than the socket of a manager takes that does not read (net.unix.max_dgram_qlen).
    for (int i = 0; i < 20; ++i) runProgram({required("VH_HOOK"), domain.name(), "started", "begin", "-"}, seconds(60));
    host.restart();
    EXPECT_EQ(domain.state(), "running");
    EXPECT_EQ(domain.vmm(), vmm);
    domain.expectGuestIsWell();
    daemon.send(SIGCONT);
    domain.destroy();
    EXPECT_EQ(domain.state(), "shut off");
}

TEST_F(LibvirtHook, letsADomainLiveWithoutAManager) {
    LibvirtHost host;
    const TestDomain domain(host, {});
    domain.start();
    const pid_t vmm = domain.vmm();
    host.restart();
    EXPECT_EQ(domain.vmm(), vmm);
    domain.expectGuestIsWell();
}

TEST_F(LibvirtHook, letsTheManagerForgetADomainThatHasEnded) {
    const Daemon daemon;
    LibvirtHost host;
    const TestDomain ended(host, {.name = "ended"}), running(host, {.name = "running"});
    std::vector<std::string> kept;
    for (const TestDomain* domain : {&ended, &running}) {
        domain->start();
        const VmDirectory directory(runtimeDirectory, "libvirt-" + domain->uuid());
        directory.makeGeneration(1, 0, 0);
        VmRecord record;
        record.uuid = domain->uuid();
        record.machine = "pc-q35-10.0";
        record.vmm = {.generation = 1, .pid = domain->vmm(), .startTime = startTimeOf(domain->vmm()), .binary = oldQemu()};
        record.adopted = AdoptedVm{.title = domain->name()};
        directory.write(record);
        kept.push_back(directory.path());
    }
    ended.destroy();
    EXPECT_TRUE(turnUntil([&] { return !fs::exists(kept[0]); }, seconds(60))) << daemon.output();
    EXPECT_TRUE(daemon.says("libvirt's domain 'ended' has ended")) << daemon.output();
    EXPECT_TRUE(fs::exists(kept[1])) << "the record of a domain that runs";
    running.expectGuestIsWell();
}

TEST_F(LibvirtHook, makesARestoredDomainReadyWhereThePolicySaysSo) {
    LibvirtHost host;
    const std::string image = "/var/lib/libvirt/images/saved";
    const auto restored = [&](const TestDomain& domain) {
        host.must({"save", "--domain=" + domain.name(), image});
        host.must({"restore", image});
        domain.expectGuestIsWell();
        return host.must({"dumpxml", "--domain=" + domain.name()});
    };
    fs::create_directories(fs::path(policyFile).parent_path());

    const TestDomain domain(host, {.name = "memfd", .ready = false});
    domain.start();
    domain.expectGuestIsWell();
    EXPECT_THAT(restored(domain), Not(HasSubstr("aux-ram-share"))) << "without a policy";
    std::ofstream(policyFile) << "make_ready_on: restore\n";  // Not a list: broken.
    EXPECT_THAT(restored(domain), Not(HasSubstr("aux-ram-share")));
    std::ofstream(policyFile) << "make_ready_on: [restore]\n";
    EXPECT_THAT(restored(domain), HasSubstr("aux-ram-share=on"));
    EXPECT_NE(contents("/proc/" + std::to_string(domain.vmm()) + "/cmdline").find("aux-ram-share=on"), std::string::npos);

    // Other memory than it was saved with, libvirt does not restore it with; so it is as it was.
    const TestDomain anonymous(host, {.name = "anonymous", .memory = DomainMemory::Anonymous, .ready = false});
    anonymous.start();
    anonymous.expectGuestIsWell();
    EXPECT_THAT(restored(anonymous), Not(HasSubstr("aux-ram-share")));
}

}  // namespace
}  // namespace vh::test
