#include "manager/vmm/qemu_command.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "manager/resources/passthrough.h"
#include "tests/support/golden.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

/// Stands in for the descriptors: their names and order are all that the command needs.
Resources named(const std::vector<std::string>& names) {
    Resources resources;
    for (const std::string& name : names) resources.add(name, UniqueFd());
    return resources;
}

VmDefinition fullDefinition() {
    VmDefinition vm;
    vm.name = "web1";
    vm.uuid = "6f1c7a52-0b7e-4c39-9c61-0d5f6d0e8a11";
    vm.machine = "pc-q35-10.0";
    vm.accelerator = Accelerator::Kvm;
    vm.cpu = {.model = "host", .sockets = 1, .cores = 2, .threads = 2};
    vm.memory.sizeBytes = std::uint64_t{512} << 20;
    vm.boot = {.kernel = "/vm/vmlinuz", .initrd = "/vm/initrd", .cmdline = "console=ttyS0, quiet", .firmware = {}, .disk = {}};
    vm.disks = {{.id = "root",
                 .file = "/vm/root.qcow2",
                 .format = DiskFormat::Qcow2,
                 .cache = DiskCache::None,
                 .readOnly = false,
                 .serial = "S1"},
                {.id = "data",
                 .file = "/vm/data.img",
                 .format = DiskFormat::Raw,
                 .cache = DiskCache::Writeback,
                 .readOnly = true,
                 .serial = {}}};
    vm.networks = {{.id = "lan", .type = NetworkType::Tap, .bridge = "br0", .mac = "52:54:00:12:34:56"}, {.id = "wan"}};
    vm.console.log = "/var/log/web1.log";
    vm.heartbeat = true;
    vm.vmm.arguments = {"-device", "virtio-rng-pci,id=rng0"};
    return vm;
}

Resources fullResources() {
    return named(
        {"qmp", "console", "console/log", "heartbeat", "kvm", "disk/root/ro", "disk/root/rw", "disk/data/ro", "tap/lan", "ram0"});
}

std::string lines(const std::vector<std::string>& argv) {
    std::string text;
    for (const std::string& argument : argv) text += argument + "\n";
    return text;
}

/// The values that an option has on a command line.
std::vector<std::string> valuesOf(const std::vector<std::string>& argv, const std::string& option) {
    std::vector<std::string> values;
    for (std::size_t i = 0; i + 1 < argv.size(); ++i)
        if (argv[i] == option) values.push_back(argv[i + 1]);
    return values;
}

class QemuCommand : public testing::Test {
 protected:
    std::vector<std::string> build(Incoming incoming = Incoming::None, bool shareImplicitRam = true) const {
        return qemuCommand({.definition = vm_,
                            .resources = resources_,
                            .binary = "/usr/bin/qemu-system-x86_64",
                            .directory = "/run/virt-handover/web1/1",
                            .incoming = incoming,
                            .shareImplicitRam = shareImplicitRam});
    }

    VmDefinition vm_ = fullDefinition();
    Resources resources_ = fullResources();
};

TEST_F(QemuCommand, givesPassedThroughDevicesTheirDescriptorsOrTheirAddress) {
    VmDefinition vm = fullDefinition();
    vm.vfio = {{.id = "hd0", .address = "0000:00:10.0"}, {.id = "nic0", .address = "0000:01:00.0"}};
    Resources resources = fullResources();
    resources.add(iommufdName, UniqueFd());
    resources.add(vfioResource("hd0"), UniqueFd());
    const std::vector<std::string> argv =
        qemuCommand({.definition = vm, .resources = resources, .binary = "/q", .directory = "/d"});
    const std::string iommufd = std::to_string(resources.numberOf(iommufdName)),
                      device = std::to_string(resources.numberOf(vfioResource("hd0")));
    EXPECT_THAT(argv, Contains("iommufd,id=iommufd0,fd=" + iommufd));
    EXPECT_THAT(argv, Contains("vfio-pci,id=hd0,rombar=0,fd=" + device + ",iommufd=iommufd0"));
    EXPECT_THAT(argv, Contains("vfio-pci,id=nic0,rombar=0,host=0000:01:00.0"));
}

TEST_F(QemuCommand, ofAFullDefinition) {
    expectGolden("full.args", lines(build()));
}

TEST_F(QemuCommand, ofVmmMemoryInHugePagesThatWaitsForCpr) {
    vm_ = {};
    vm_.name = "db1";
    vm_.uuid = "11111111-2222-3333-4444-555555555555";
    vm_.machine = "pc-q35-11.1";
    vm_.accelerator = Accelerator::Tcg;
    vm_.memory = {.sizeBytes = std::uint64_t{2} << 30, .pageSizeBytes = 2 << 20, .owner = MemoryOwner::Vmm};
    vm_.boot = {.kernel = {}, .initrd = {}, .cmdline = {}, .firmware = "/fw/bios.bin", .disk = "root"};
    vm_.disks = {{.id = "root", .file = "/vm/db1.img"}};
    vm_.console.enabled = false;
    vm_.vmm.sandbox = false;
    resources_ = named({"qmp", "disk/root/ro", "disk/root/rw"});
    expectGolden("vmm-memory-cpr.args", lines(build(Incoming::Cpr)));
}

TEST_F(QemuCommand, letsAVmmExecuteItsSuccessorOnlyWhereThatIsTheDesign) {
    EXPECT_THAT(valuesOf(build(), "-sandbox"),
                ElementsAre("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"));
    vm_.handover.design = Design::VmmExec;
    EXPECT_THAT(valuesOf(build(), "-sandbox"), ElementsAre("on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny"));
}

TEST_F(QemuCommand, numbersDescriptorsFromWhereTheyWillBe) {
    vm_ = {};
    vm_.memory.owner = MemoryOwner::Vmm;
    vm_.disks = {{.id = "root", .file = "/vm/root.img"}};
    resources_ = named({"qmp", "console", "disk/root/ro", "disk/root/rw", "inbox", execStateResource});
    resources_.setFirstNumber(96);
    const std::vector<std::string> argv = build(Incoming::Defer);
    EXPECT_THAT(valuesOf(argv, "-chardev"), Contains("socket,id=vh-qmp,fd=96,server=on,wait=off"));
    EXPECT_THAT(valuesOf(argv, "-add-fd"), ElementsAre("fd=98,set=1,opaque=disk/root/ro", "fd=99,set=1,opaque=disk/root/rw",
                                                       "fd=101,set=1000,opaque=exec/state"));
}

TEST_F(QemuCommand, rehearsesWithoutASecondSetOfHugePages) {
    vm_.memory = {.sizeBytes = std::uint64_t{2} << 30, .pageSizeBytes = 2 << 20, .owner = MemoryOwner::Vmm};
    const Resources without =
        named({"qmp", "console", "console/log", "heartbeat", "kvm", "disk/root/ro", "disk/root/rw", "disk/data/ro", "tap/lan"});
    const std::vector<std::string> argv = qemuCommand({.definition = vm_,
                                                       .resources = without,
                                                       .binary = "/q",
                                                       .directory = "/d",
                                                       .incoming = Incoming::Defer,
                                                       .rehearsal = true});
    EXPECT_THAT(valuesOf(argv, "-object"), Contains(HasSubstr("hugetlb=on,hugetlbsize=2097152,reserve=off")));
}

TEST_F(QemuCommand, mapsTheManagersRamWhereAHugePageCanBegin) {
    EXPECT_THAT(valuesOf(build(), "-object"), Contains(HasSubstr(",align=2097152")));
    vm_.memory = {.sizeBytes = std::uint64_t{4} << 30, .pageSizeBytes = std::uint64_t{1} << 30};
    // QEMU refuses less than the file's page size, and begins at such a page by itself.
    EXPECT_THAT(valuesOf(build(), "-object"), Each(Not(HasSubstr("align="))));
}

TEST_F(QemuCommand, neverLetsTheGuestRunByItself) {
    EXPECT_THAT(build(), Contains("-S"));
}

TEST_F(QemuCommand, waitsForAMigrationWhenItShould) {
    EXPECT_THAT(valuesOf(build(Incoming::None), "-incoming"), IsEmpty());
    EXPECT_THAT(valuesOf(build(Incoming::Defer), "-incoming"), ElementsAre("defer"));
    const auto cpr = valuesOf(build(Incoming::Cpr), "-incoming");
    ASSERT_EQ(cpr.size(), 2U);
    EXPECT_EQ(cpr[0], "defer");
    EXPECT_EQ(
        json::parse(cpr[1]),
        (json{{"channel-type", "cpr"},
              {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", "/run/virt-handover/web1/1/incoming/cpr.sock"}}}}));
}

TEST_F(QemuCommand, waitsForNothingAfterTheCprStateWhenItIsDrivenByHand) {
    const auto channels = valuesOf(build(Incoming::CprAtOnce), "-incoming");
    ASSERT_EQ(channels.size(), 2U);
    EXPECT_EQ(
        json::parse(channels[0]),
        (json{{"channel-type", "main"},
              {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", "/run/virt-handover/web1/1/incoming/main.sock"}}}}));
    EXPECT_EQ(channels[1], valuesOf(build(Incoming::Cpr), "-incoming")[1]);
}

TEST_F(QemuCommand, isTheSameMachineWithAndWithoutIncoming) {
    // Whatever a guest can see must not depend on how the VMM was started.
    const std::vector<std::string> first = build(Incoming::None);
    std::vector<std::string> second = build(Incoming::Defer);
    ASSERT_GT(second.size(), first.size());
    second.resize(first.size());
    EXPECT_EQ(second, first);
}

TEST_F(QemuCommand, doesNotAskAnOldQemuForSharedImplicitRam) {
    EXPECT_THAT(valuesOf(build(Incoming::None, false), "-machine"), ElementsAre("pc-q35-10.0,memory-backend=ram0"));
}

TEST_F(QemuCommand, givesANetworkWithoutAMacTheSameOneAtEveryStart) {
    const auto macs = [this] {
        std::vector<std::string> found;
        for (const std::string& device : valuesOf(build(), "-device"))
            if (const std::size_t at = device.find("mac="); at != std::string::npos) found.push_back(device.substr(at + 4));
        return found;
    };
    const auto before = macs();
    ASSERT_EQ(before.size(), 2U);
    EXPECT_THAT(before[1], HasSubstr("52:54:00:"));
    EXPECT_EQ(macs(), before);
    vm_.uuid = "00000000-0000-0000-0000-000000000000";
    EXPECT_EQ(macs()[0], before[0]) << "the definition's own";
    EXPECT_NE(macs()[1], before[1]) << "another VM has another one";
}

TEST_F(QemuCommand, doesNotOfferAReadOnlyDiskForWriting) {
    for (const std::string& set : valuesOf(build(), "-add-fd")) EXPECT_THAT(set, Not(HasSubstr("disk/data/rw")));
    for (const std::string& text : valuesOf(build(), "-blockdev")) {
        const json node = json::parse(text);
        const bool readOnly = node["node-name"] == "data" || node["node-name"] == "data-file";
        EXPECT_EQ(node["read-only"], readOnly) << text;
    }
}

TEST_F(QemuCommand, hasTheExtraArgumentsAfterAllOfOurs) {
    const std::vector<std::string> argv = build();
    ASSERT_GE(argv.size(), 2U);
    EXPECT_EQ(argv[argv.size() - 2], "-device");
    EXPECT_EQ(argv.back(), "virtio-rng-pci,id=rng0");
}

TEST_F(QemuCommand, failsByNameWhenADescriptorIsMissing) {
    resources_ = named({"qmp"});
    try {
        build();
        FAIL() << "built";
    } catch (const std::out_of_range& error) {
        EXPECT_THAT(error.what(), HasSubstr("no descriptor is called '"));
    }
}

std::vector<std::string> modelsIn(const std::vector<std::string>& arguments) {
    VmDefinition vm;
    vm.vmm.arguments = arguments;
    return deviceModels(vm);
}

TEST(DeviceModels, areThoseThatTheDefinitionNeeds) {
    EXPECT_THAT(deviceModels(VmDefinition{}), IsEmpty());
    EXPECT_THAT(deviceModels(fullDefinition()),
                AllOf(Contains("virtio-serial-pci"), Contains("virtserialport"), Contains("virtio-blk-pci"),
                      Contains("virtio-net-pci"), Contains("virtio-rng-pci")));
}

TEST(DeviceModels, areFoundInEveryFormOfTheOption) {
    EXPECT_THAT(modelsIn({"-device", "VGA"}), ElementsAre("VGA"));
    EXPECT_THAT(modelsIn({"-device", "virtio-gpu-pci,id=g,max_outputs=1"}), ElementsAre("virtio-gpu-pci"));
    EXPECT_THAT(modelsIn({"--device", "VGA,id=v"}), ElementsAre("VGA"));
    EXPECT_THAT(modelsIn({"-device", "driver=VGA,id=v"}), ElementsAre("VGA"));
    EXPECT_THAT(modelsIn({"-device", R"({"driver": "qxl", "id": "q"})"}), ElementsAre("qxl"));
    EXPECT_THAT(modelsIn({"-device", "a", "-cpu", "max", "-device", "b"}), ElementsAre("a", "b"));
}

TEST(DeviceModels, areNotInventedFromOtherText) {
    EXPECT_THAT(modelsIn({"-device"}), IsEmpty());
    EXPECT_THAT(modelsIn({"-device", "help"}), IsEmpty());
    EXPECT_THAT(modelsIn({"-name", "-device"}), IsEmpty());
    EXPECT_THAT(modelsIn({"-device", "{}"}), IsEmpty());
    EXPECT_THAT(modelsIn({"-device", R"({"driver": 5})"}), IsEmpty());
    EXPECT_THAT(modelsIn({"-device", R"({"driver": ["VGA"]})"}), IsEmpty());
}

TEST(DeviceModels, areQemusToJudgeWhenTheTextIsGarbage) {
    // What is no JSON object is a model's name to us; that no VMM has it is found, and said, in preflight.
    EXPECT_THAT(modelsIn({"-device", R"({"driver": )"}), ElementsAre(R"({"driver": )"));
    EXPECT_THAT(modelsIn({"-device", "[1]"}), ElementsAre("[1]"));
    EXPECT_THAT(modelsIn({"-device", ""}), ElementsAre(""));
    EXPECT_EQ(modelsIn({"-device", std::string(1'000'000, '[')}).size(), 1U);
}

TEST_F(QemuCommand, isUnderstoodWhenItSpeaksOfItsDescriptors) {
    const VmDefinition vm = fullDefinition();
    const Resources resources = fullResources();
    const std::vector<std::string> argv =
        qemuCommand({.definition = vm, .resources = resources, .binary = "q", .directory = "/run/1"});
    // Whatever set the command gives a file, a message is about that file.
    unsigned sets = 0;
    const std::map<std::string, std::string> files{{"kvm", "/dev/kvm"},
                                                   {"console/log", "/var/log/web1.log"},
                                                   {"disk/root/ro", "/vm/root.qcow2"},
                                                   {"disk/root/rw", "/vm/root.qcow2"},
                                                   {"disk/data/ro", "/vm/data.img"}};
    for (std::size_t i = 1; i < argv.size(); ++i) {
        if (argv[i - 1] != "-add-fd") continue;
        const std::size_t set = argv[i].find("set=") + 4, opaque = argv[i].find("opaque=") + 7;
        const std::string name = "/dev/fdset/" + argv[i].substr(set, argv[i].find(',', set) - set);
        EXPECT_EQ(withFileNames("using the image [" + name + "]?", vm),
                  "using the image [" + files.at(argv[i].substr(opaque)) + "]?");
        ++sets;
    }
    EXPECT_EQ(sets, files.size());
    EXPECT_EQ(withFileNames("/dev/fdset/77, /dev/fdset/ and /dev/fdset/99999999999999999999999", vm),
              "/dev/fdset/77, /dev/fdset/ and /dev/fdset/99999999999999999999999");
    EXPECT_EQ(withFileNames("/dev/fdset/3: no; /dev/fdset/4: no", vm), "/vm/root.qcow2: no; /vm/data.img: no");
}

TEST_F(QemuCommand, namesABackingFileThatQemuWouldNotFind) {
    const VmDefinition vm = fullDefinition();
    const Resources resources = fullResources();
    const std::vector<std::string> argv = qemuCommand({.definition = vm,
                                                       .resources = resources,
                                                       .binary = "q",
                                                       .directory = "/run/1",
                                                       .backing = {{"root", {"/vm/base.img", "raw"}}}});
    EXPECT_THAT(argv, Contains(AllOf(HasSubstr("\"node-name\":\"root\""), HasSubstr("\"filename\":\"/vm/base.img\""),
                                     HasSubstr("\"driver\":\"raw\""))));
}

TEST_F(QemuCommand, givesGuestRamToTheNodeThatAsksForIt) {
    VmDefinition vm = fullDefinition();
    vm.vmm.arguments = {"-numa", "node,nodeid=0,memdev=ram0"};
    const Resources resources = fullResources();
    const std::vector<std::string> argv =
        qemuCommand({.definition = vm, .resources = resources, .binary = "q", .directory = "/run/1"});
    EXPECT_THAT(argv, Contains("pc-q35-10.0"));
    EXPECT_THAT(argv, Contains(HasSubstr("id=ram0")));
}

}  // namespace
}  // namespace vh
