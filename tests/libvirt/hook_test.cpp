// The hook where libvirt looks for it: a real libvirtd calls it, with and without a manager that listens.
#include <signal.h>
#include <sys/wait.h>
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

#include "manager/record/vm_directory.h"
#include "manager/service/hook_inbox.h"
#include "manager/vmm/heartbeat.h"
#include "tests/libvirt/libvirt_fixture.h"
#include "tests/libvirt/upgrade_fixture.h"
#include "vmm-shim/unix_socket.h"

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
    std::string output() const { return readIfThere(workspace_.path() + "/daemon.err"); }
    bool says(const std::string& text) const {
        return turnUntil([&] { return output().find(text) != std::string::npos; }, patience);
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
        return turnUntil([&] { return std::ranges::find(notices, wanted) != notices.end(); }, patience);
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
    for (int i = 0; i < 20; ++i) runProgram({required("VH_HOOK"), domain.name(), "started", "begin", "-"}, patience);
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
        record.vmm = {
            .generation = 1, .pid = domain->vmm(), .startTime = Process(domain->vmm()).startTime(), .binary = oldQemu()};
        record.adopted = AdoptedVm{.title = domain->name()};
        directory.write(record);
        kept.push_back(directory.path());
    }
    ended.destroy();
    EXPECT_TRUE(turnUntil([&] { return !fs::exists(kept[0]); }, patience)) << daemon.output();
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
    EXPECT_NE(readIfThere("/proc/" + std::to_string(domain.vmm()) + "/cmdline").find("aux-ram-share=on"), std::string::npos);

    // Other memory than it was saved with, libvirt does not restore it with; so it is as it was.
    const TestDomain anonymous(host, {.name = "anonymous", .memory = DomainMemory::Anonymous, .ready = false});
    anonymous.start();
    anonymous.expectGuestIsWell();
    EXPECT_THAT(restored(anonymous), Not(HasSubstr("aux-ram-share")));
}

/// A second libvirt beside the first: another host, as far as the two can see, with the same disks. Its files are in a mount
/// namespace of its own; its sockets are reached through the process.
class OtherHost {
 public:
    OtherHost() {
        const std::string script = snippet("other-host", R"(
echo other-host >/proc/sys/kernel/hostname
for directory in /run/libvirt /var/lib/libvirt/qemu /var/cache/libvirt /var/log/libvirt; do
    mount -t tmpfs -o mode=755 other "$directory"
done
cp -a /etc/libvirt /tmp/other-libvirt
mount --bind /tmp/other-libvirt /etc/libvirt
mkdir /var/lib/libvirt/qemu/save
chown -R libvirt-qemu:kvm /var/lib/libvirt/qemu
echo 'host_uuid = "11111111-2222-3333-4444-555555555555"' >>/etc/libvirt/libvirtd.conf
virtlogd --daemon --pid-file /run/libvirt/virtlogd.pid
exec libvirtd --pid-file /run/libvirt/libvirtd.pid
)");
        pid_ = ::fork();
        if (pid_ == 0) {
            ::execl("/usr/bin/unshare", "unshare", "--mount", "--uts", "/bin/bash", "-eu", script.c_str(), nullptr);
            ::_exit(127);
        }
        // By its pid file, which the first one has elsewhere: until it has its own mount namespace, the first one would answer.
        EXPECT_TRUE(eventually([&] { return fs::exists(root() + "/run/libvirt/libvirtd.pid") && virsh({"version"}).code == 0; }))
            << "the second libvirtd does not come up";
    }
    OtherHost(const OtherHost&) = delete;
    ~OtherHost() {
        if (const pid_t logger = pidIn(root() + "/run/libvirt/virtlogd.pid")) endProcess(logger, SIGTERM);
        endProcess(pid_, SIGTERM);
        ::waitpid(pid_, nullptr, 0);
    }

    /// Where its files are.
    std::string root() const { return "/proc/" + std::to_string(pid_) + "/root"; }
    std::string uri() const { return "qemu+unix:///system?socket=" + root() + "/run/libvirt/libvirt-sock"; }
    Ran virsh(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), {"/usr/bin/virsh", "--quiet", "--connect", uri()});
        return runProgram(std::move(arguments), patience);
    }
    Ran tool(const std::string& verb, const std::string& domain) const {
        return runProgram(
            {"/usr/bin/nsenter", "--target", std::to_string(pid_), "--mount", "--uts", required("VH_LIBVIRT_TOOL"), verb, domain},
            patience);
    }

 private:
    pid_t pid_;
};

TEST_F(LibvirtHook, makesAMigratedDomainReadyWhereThePolicySaysSo) {
    fs::create_directories(fs::path(policyFile).parent_path());
    std::ofstream(policyFile) << "make_ready_on: [migrate]\n";
    const std::string sockets = "/tmp/migration";  // For both hosts' QEMUs.
    fs::create_directories(sockets);
    fs::permissions(sockets, fs::perms::all);
    LibvirtHost host;
    const TestDomain domain(host, {.name = "moves", .ready = false});
    domain.start();
    domain.expectGuestIsWell();
    const OtherHost other;

    // The hosts have one /run/virt-handover-test, and the old QEMU's socket goes with it.
    std::string xml = host.must({"dumpxml", domain.name(), "--migratable"});
    const std::string heartbeat = domain.heartbeatSocket() + ".other";
    ASSERT_THAT(xml, HasSubstr(domain.heartbeatSocket()));
    xml.replace(xml.find(domain.heartbeatSocket()), domain.heartbeatSocket().size(), heartbeat);
    host.must({"migrate", "--live", "--unsafe", "--xml", snippet("migrated", xml), domain.name(), other.uri(), "--migrateuri",
               "unix://" + sockets + "/socket"});
    EXPECT_EQ(domain.state(), "shut off");
    EXPECT_THAT(other.virsh({"dumpxml", domain.name()}).output, HasSubstr("aux-ram-share=on"));
    const Ran checked = other.tool("check", domain.name());
    EXPECT_EQ(checked.code, 0) << checked.output << checked.error;

    HeartbeatMonitor monitor;
    monitor.listen(connectUnix(heartbeat));
    EXPECT_TRUE(
        turnUntil([&] { return monitor.summary().beats > 100 && monitor.summary().status.contains("mismatches"); }, patience));
    EXPECT_THAT(monitor.summary().status, testing::Contains(testing::Pair("mismatches", 0U)));
    EXPECT_THAT(monitor.summary().errors, testing::IsEmpty());
    EXPECT_EQ(other.virsh({"destroy", domain.name()}).code, 0);
}

}  // namespace
}  // namespace vh::test
