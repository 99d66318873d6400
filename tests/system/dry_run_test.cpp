// What a dry run says, and what an upgrade then does: "ready" is never followed by a rollback, what can never work is refused
// with the cause and what to do, and the old VMM is as it was. Real QEMUs, whose guests are their firmware.

#include <sys/socket.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "manager/compare/own_network.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

struct Vm {
    std::string name;
    std::string arguments;  ///< As in YAML: each quoted, with commas between.
    std::string binary = oldQemu();
    Design design = Design::Relayed;
    std::string user = "nobody";
    json answer = {};  ///< What the latest verb said of it.
};

/// `one,two` as an item of a YAML list.
std::string item(const std::string& text) {
    return "'" + text + "'";
}

class DryRunTest : public HostFixture {
 protected:
    /// An empty one, on which the firmware finds nothing to start.
    std::string disk(const std::string& name) const {
        const std::string path = workspace.path() + "/" + name + ".img";
        std::ofstream(path).close();
        fs::resize_file(path, 1 << 20);
        return path;
    }
    /// Gives each VM's answer to a verb to itself; all are asked at once.
    void ask(std::vector<Vm>& vms, const std::function<void(Vm&, Verbs::Done)>& verb) {
        std::size_t answered = 0;
        for (Vm& vm : vms)
            verb(vm, [&](const VerbResult& result) {
                vm.answer = toJson(result);
                vm.answer["code"] = static_cast<int>(result.code);
                ++answered;
            });
        ASSERT_TRUE(turnUntil([&] { return answered == vms.size(); }, milliseconds(300'000)));
    }
    void start(std::vector<Vm>& vms) {
        ask(vms, [&](const Vm& vm, Verbs::Done done) {
            host.start(
                workspace.file(vm.name + ".yaml",
                               "name: " + vm.name +
                                   "\nmachine: pc-q35-10.0\naccelerator: tcg\nmemory: {size: 32MiB}\nboot: {disk: root}\ndisks: "
                                   "[{id: root, file: " +
                                   disk(vm.name) + "}]\nvmm:\n  binary: " + vm.binary + "\n  user: " + vm.user +
                                   "\n  arguments: [" + vm.arguments + "]\nhandover: {design: " + std::string(name(vm.design)) +
                                   ", pause_budget: 20s, deadlines: {launch: 60s, exchange: 60s, verify: 60s, switch: 60s}}\n"),
                std::nullopt, std::move(done));
        });
    }
    /// And tells how each one is then.
    void startAll(std::vector<Vm>& vms, std::vector<json>& conditions) {
        start(vms);
        for (const Vm& vm : vms) {
            ASSERT_EQ(vm.answer["code"], 0) << vm.answer.dump(2);
            conditions.push_back(condition(vm.name));
        }
    }
    void upgrade(std::vector<Vm>& vms, const std::string& binary, bool dryRun) {
        ask(vms, [&](const Vm& vm, Verbs::Done done) {
            host.upgrade(vm.name, {.binary = binary, .dryRun = dryRun}, nullptr, std::move(done));
        });
    }
    /// What a manager could have changed of a VMM, by its own monitor.
    json condition(const std::string& vm) {
        json found;
        for (const char* command : {"query-status", "query-migrate-parameters", "query-migrate-capabilities", "query-migrate"})
            found[command] = test::ask(host, vm, command);
        return found;
    }

    /// A TCP port that nobody listens on just now.
    static std::string freePort() {
        static int next = 23'000 + ::getpid() % 20'000;
        return std::to_string(next++);
    }
};

TEST_F(DryRunTest, refusesWhatCanNeverWorkAndTouchesNothing) {
    const std::string image = workspace.path() + "/more.img", socket = workspace.path() + "/more.sock";
    ::chmod(disk("more").c_str(), 0666);
    ::chmod(workspace.path().c_str(), 0777);
    struct Case {
        Vm vm;
        std::vector<std::string> words;  ///< All of them are in the cause.
    };
    const std::string withPrivateMemory = workspace.script(
        "private", "for a; do shift; set -- \"$@\" \"${a%,aux-ram-share=on}\"; done\nexec " + oldQemu() + " \"$@\"");
    const std::string drive = item("if=none,id=more,file=" + image + ",format=raw,file.locking=off");
    const std::vector<Case> cases = {
        {{"nvme", "-drive, " + drive + ", -device, 'nvme,drive=more,serial=1'"},
         {"non-migratable device", "nvme", "power-cycle"}},
        {{"nvme-copy", "-drive, " + drive + ", -device, 'nvme,drive=more,serial=1'", oldQemu(), Design::Copy},
         {"non-migratable device"}},
        {{"two-ports", "-device, 'pci-serial-2x'"}, {"crash", "pci-serial-2x", "power-cycle"}},
        {{"ivshmem", "-object, 'memory-backend-memfd,id=s,size=1M,share=on', -device, 'ivshmem-plain,memdev=s'"},
         {"ivshmem", "power-cycle"}},
        {{"private-memory", "", withPrivateMemory}, {"RAM block", "design 'manager-owned'"}},
        {{"vnc", "-vnc, '127.0.0.1:" + std::to_string(std::stoi(freePort()) - 5900) + "'"},
         {"listens on 'TCP port", "vmm.arguments"}},
        {{"gdb", "-gdb, 'tcp:127.0.0.1:" + freePort() + "'"}, {"listens on 'TCP port", "vmm.arguments"}},
        {{"forward", "-netdev, 'user,id=n,hostfwd=tcp:127.0.0.1:" + freePort() + "-:22', -device, 'e1000e,netdev=n'"},
         {"listens on 'TCP port", "vmm.arguments"}},
        {{"socket", "-chardev, 'socket,id=a,path=" + socket + ",server=on,wait=off', -device, 'isa-serial,chardev=a'"},
         {"listens on '" + socket + "'", "vmm.arguments"}},
        {{"abstract", "-chardev, 'socket,id=a,path=vh-test-" + freePort() +
                          ",abstract=on,server=on,wait=off', -device, 'isa-serial,chardev=a'"},
         {"listens on '@vh-test-", "vmm.arguments"}},
        {{"nvme-bare", "-device, 'nvme,serial=1,id=bare'", newQemu()}, {"NVMe", "/machine/peripheral/bare", "power-cycle"}},
        {{"nvme-json", "-device, '{\"driver\":\"nvme\",\"serial\":\"1\"}'", newQemu(), Design::Copy}, {"NVMe", "power-cycle"}},
        {{"nvme-namespace", "-drive, " + drive + ", -device, 'nvme,serial=1,id=bare', -device, 'nvme-ns,drive=more,bus=bare'",
          newQemu()},
         {"NVMe", "/machine/peripheral/bare"}},
        {{"snapshot", "-drive, 'if=virtio,file=" + image + ",format=raw,snapshot=on,file.locking=off'"},
         {"no name any more", "snapshot=on"}},
    };
    std::vector<Vm> vms;
    for (const Case& one : cases) vms.push_back(one.vm);
    std::vector<json> before;
    ASSERT_NO_FATAL_FAILURE(startAll(vms, before));
    upgrade(vms, newQemu(), true);
    for (std::size_t i = 0; i < cases.size(); ++i) {
        SCOPED_TRACE(vms[i].name);
        EXPECT_EQ(vms[i].answer["outcome"], "refused") << vms[i].answer.dump(2);
        for (const std::string& word : cases[i].words) EXPECT_THAT(whyNot(vms[i].answer), HasSubstr(word));
        const json after = condition(vms[i].name);
        EXPECT_EQ(after, before[i]);
        EXPECT_EQ(after["query-status"]["status"], "running");
    }
}

/// An empty image of format qcow, version 1, of 1 MiB (block/qcow.c:QCowHeader, 11.1).
void writeQcow(const std::string& path) {
    const unsigned char header[48] = {'Q', 'F', 'I', 0xfb, 0, 0,    0, 1, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                      0,   0,   0,   0,    0, 0x10, 0, 0, 12, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 48};
    std::ofstream image(path, std::ios::binary);
    image.write(reinterpret_cast<const char*>(header), sizeof(header));
    image.seekp(4095);
    image.put(0);
}

TEST_F(DryRunTest, refusesATapThatTwoVmmsCannotHave) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a network namespace and taps; run this as root";
    ASSERT_EQ(enterOwnNetwork("vhbr0"), "");
    std::vector<Vm> vms;
    for (const std::string queues : {"", ",queues=2"})
        vms.push_back({.name = queues.empty() ? "one" : "many",
                       .arguments = "-netdev, 'tap,id=n,ifname=dryrun" + std::to_string(queues.size()) +
                                    ",script=no,downscript=no" + queues + "', -device, 'virtio-net-pci,netdev=n'",
                       .user = "root"});
    start(vms);
    for (const Vm& vm : vms) ASSERT_EQ(vm.answer["code"], 0) << vm.answer.dump(2);
    upgrade(vms, newQemu(), true);
    for (const Vm& vm : vms) {
        EXPECT_EQ(vm.answer["outcome"], "refused") << vm.answer.dump(2);
        EXPECT_THAT(whyNot(vm.answer), AllOf(HasSubstr("the tap 'dryrun"), HasSubstr("'networks'"), HasSubstr("power-cycle")));
    }
}

TEST_F(DryRunTest, saysReadyOfWhatBlocksOrdinaryMigrationOnly) {
    const std::string image = workspace.path() + "/old.qcow";
    writeQcow(image);
    ::chmod(image.c_str(), 0666);
    ::chmod(workspace.path().c_str(), 0777);
    const std::string drive = "-drive, 'if=virtio,file=" + image + ",format=qcow,file.locking=off'";
    std::vector<Vm> vms{{"cpr", drive}, {"copy", drive, oldQemu(), Design::Copy}};
    std::vector<json> before;
    ASSERT_NO_FATAL_FAILURE(startAll(vms, before));
    upgrade(vms, newQemu(), true);
    EXPECT_EQ(vms[0].answer["outcome"], "ready") << vms[0].answer.dump(2);
    EXPECT_EQ(vms[1].answer["outcome"], "refused") << vms[1].answer.dump(2);
    EXPECT_THAT(vms[1].answer.value("cause", ""), HasSubstr("does not support live migration"));
    for (std::size_t i = 0; i < vms.size(); ++i) EXPECT_EQ(condition(vms[i].name), before[i]);
    upgrade(vms, newQemu(), false);
    EXPECT_EQ(vms[0].answer["outcome"], "upgraded") << vms[0].answer.dump(2);
}

TEST_F(DryRunTest, refusesAProgramThatOnlyStartsTheVmm) {
    std::vector<Vm> vms{{"vm", ""}};
    start(vms);
    upgrade(vms, workspace.script("wrapper", newQemu() + " \"$@\"\nexit $?"), true);
    EXPECT_EQ(vms[0].answer["outcome"], "refused") << vms[0].answer.dump(2);
    EXPECT_THAT(whyNot(vms[0].answer), AllOf(HasSubstr("starts it as a child"), HasSubstr("exec qemu-system-x86_64")));
    upgrade(vms, workspace.script("wrapper", "true\nexec " + newQemu() + " \"$@\""), true);
    EXPECT_EQ(vms[0].answer["outcome"], "ready") << vms[0].answer.dump(2);
}

/// Device models that start without a backend of their own, and NVMe, without whose backend QEMU 11.1.3 crashes when it saves it;
/// with VH_ALL_DEVICES=1 all that the old QEMU lists as such on this machine.
std::vector<std::string> models() {
    if (!std::getenv("VH_ALL_DEVICES"))
        return {"virtio-rng-pci",
                "virtio-balloon-pci",
                "virtio-scsi-pci",
                "virtio-keyboard-pci",
                "virtio-gpu-pci",
                "e1000e",
                "igb",
                "rtl8139",
                "vmxnet3",
                "qemu-xhci",
                "usb-ehci",
                "nvme",
                "ufs",
                "sdhci-pci",
                "megasas",
                "ich9-ahci",
                "bochs-display",
                "VGA",
                "pvpanic-pci",
                "edu",
                "i6300esb"};
    std::vector<std::string> found;
    FILE* list = ::popen((oldQemu() + " -machine pc-q35-10.0 -device help 2>/dev/null").c_str(), "r");
    char line[512];
    while (list && std::fgets(line, sizeof(line), list)) {
        const std::string text = line;
        if (!text.starts_with("name \"") || text.find("bus PCI") == std::string::npos) continue;
        found.push_back(text.substr(6, text.find('"', 6) - 6));
    }
    if (list) ::pclose(list);
    return found;
}

TEST_F(DryRunTest, saysReadyOfNoDeviceWhoseVmIsThenRolledBack) {
    std::vector<Vm> all;
    int number = 0;
    for (const std::string& model : models())
        for (const std::string& binary : {oldQemu(), newQemu()})
            all.push_back({"vm" + std::to_string(number++),
                           model == "nvme"
                               ? "-drive, 'if=none,id=more,file=null-co://,format=raw', -device, 'nvme,serial=1,drive=more'"
                               : "-device, '" + model + "'",
                           binary});
    constexpr std::size_t atOnce = 12;
    std::size_t ready = 0, refused = 0;
    for (std::size_t first = 0; first < all.size(); first += atOnce) {
        std::vector<Vm> vms(all.begin() + static_cast<std::ptrdiff_t>(first),
                            all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), first + atOnce)));
        start(vms);
        std::erase_if(vms, [](const Vm& vm) { return vm.answer["code"] != 0; });  // Needs a backend after all.
        upgrade(vms, newQemu(), true);
        std::vector<std::string> said;
        for (const Vm& vm : vms) said.push_back(vm.answer.value("outcome", "?"));
        upgrade(vms, newQemu(), false);
        for (std::size_t i = 0; i < vms.size(); ++i) {
            SCOPED_TRACE(vms[i].arguments + " from " + vms[i].binary);
            EXPECT_EQ(vms[i].answer["outcome"], said[i] == "ready" ? "upgraded" : "refused")
                << "the dry run said '" << said[i] << "': " << vms[i].answer.value("cause", "");
            ++(said[i] == "ready" ? ready : refused);
            destroy(vms[i].name);
        }
    }
    EXPECT_GT(ready, 20U);
    EXPECT_GT(refused, 1U) << "NVMe and UFS of QEMU 10.0 cannot be migrated";
}

}  // namespace
}  // namespace vh::test
