// Passed-through devices in a tree of files that looks like the kernel's. What a kernel does with them is seen in tests/vfio.
#include "manager/resources/passthrough.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"
#include "tests/support/is_obstacle.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Optional;
using testing::Pair;
using testing::UnorderedElementsAre;

class PassthroughTest : public testing::Test {
 protected:
    PassthroughTest() {
        for (const char* directory : {"sys/bus/pci/devices", "sys/class/net", "sys/class/block", "dev/vfio/devices", "proc/self"})
            fs::create_directories(root_.file(directory));
        root_.write("sys/bus/pci/drivers_probe", "");
        root_.write("proc/self/mountinfo", "");
        root_.write("dev/vfio/vfio", "", 0666);
        root_.write("dev/iommu", "");
        addDevice("0000:00:10.0", "1b36:0010", 7, "vfio-pci");
    }

    std::string device(const std::string& address, const std::string& name = {}) const {
        return root_.file("sys/bus/pci/devices/" + address + (name.empty() ? "" : "/" + name));
    }
    void setDriver(const std::string& address, const std::string& driver) {
        fs::remove(device(address, "driver"));
        if (driver.empty()) return;
        fs::create_directories(root_.file("sys/bus/pci/drivers/" + driver));
        root_.write("sys/bus/pci/drivers/" + driver + "/unbind", "");
        fs::create_directory_symlink("../../drivers/" + driver, device(address, "driver"));
    }
    /// With a cdev `vfioGROUP` and a node of its group.
    void addDevice(const std::string& address, const std::string& kind, unsigned group, const std::string& driver) {
        const std::string number = std::to_string(group), path = "sys/bus/pci/devices/" + address;
        fs::create_directories(device(address, "vfio-dev/vfio" + number));
        root_.write(path + "/vendor", "0x" + kind.substr(0, 4) + "\n");
        root_.write(path + "/device", "0x" + kind.substr(5) + "\n");
        root_.write(path + "/driver_override", "");
        setDriver(address, driver);
        fs::create_directories(root_.file("sys/kernel/iommu_groups/" + number + "/devices/" + address));
        fs::create_directory_symlink("../../../../kernel/iommu_groups/" + number, device(address, "iommu_group"));
        root_.write("dev/vfio/devices/vfio" + number, "");
        root_.write("dev/vfio/" + number, "", 0600);
    }

    ClaimedDevices claim(VfioDevice wanted = {.id = "hd0", .address = "0000:00:10.0"}) { return claimAll({std::move(wanted)}); }
    ClaimedDevices claimAll(std::vector<VfioDevice> wanted) {
        VmDefinition vm;
        vm.accelerator = Accelerator::Kvm;
        vm.vfio = std::move(wanted);
        return claimDevices(vm, identity_, roots_);
    }
    std::string refusal(const VfioDevice& wanted = {.id = "hd0", .address = "0000:00:10.0"}) {
        try {
            claim(wanted);
            return {};
        } catch (const std::exception& error) {
            return error.what();
        }
    }
    std::string text(const std::string& name) const { return fileText(root_.file(name)); }

    TemporaryDirectory root_;
    const KernelRoots roots_{root_.file("sys"), root_.file("dev"), root_.file("proc")};
    Identity identity_{::geteuid(), ::getegid(), false};
};

TEST_F(PassthroughTest, findsACdevByItsAddress) {
    const ClaimedDevices claimed = claim();
    ASSERT_EQ(claimed.devices.size(), 1U);
    EXPECT_EQ(claimed.devices[0], (PassedDevice{.id = "hd0",
                                                .address = "0000:00:10.0",
                                                .interface = VfioInterface::Cdev,
                                                .group = 7,
                                                .node = root_.file("dev/vfio/devices/vfio7")}));
    EXPECT_THAT(claimed.warnings, IsEmpty());
    const std::vector<NamedDescriptor> opened = openDevices(claimed.devices, roots_);
    ASSERT_EQ(opened.size(), 2U);
    EXPECT_EQ(opened[0].name, "iommufd0");
    EXPECT_EQ(opened[1].name, "vfio/hd0");
    EXPECT_EQ(fs::read_symlink("/proc/self/fd/" + std::to_string(opened[1].fd.get())), claimed.devices[0].node);
}

TEST_F(PassthroughTest, findsADeviceByItsKindIfThereIsOne) {
    EXPECT_EQ(claim({.id = "hd0", .device = "1b36:0010"}).devices.at(0).address, "0000:00:10.0");
    EXPECT_EQ(refusal({.id = "hd0", .device = "8086:10c9"}),
              "vfio 'hd0': the host has no PCI device '8086:10c9' (lspci -nn shows what it has)");
    addDevice("0000:00:11.0", "1b36:0010", 8, "vfio-pci");
    EXPECT_EQ(refusal({.id = "hd0", .device = "1b36:0010"}),
              "vfio 'hd0': the host has 2 PCI devices '1b36:0010': 0000:00:10.0, 0000:00:11.0; name one by its address");
}

TEST_F(PassthroughTest, takesTheGroupWhereTheKernelHasNoCdev) {
    fs::remove(root_.file("dev/vfio/devices/vfio7"));
    ClaimedDevices claimed = claim();
    EXPECT_EQ(claimed.devices.at(0).interface, VfioInterface::Group);
    EXPECT_EQ(claimed.devices.at(0).node, root_.file("dev/vfio/7"));
    EXPECT_THAT(openDevices(claimed.devices, roots_), IsEmpty());
    claimed.locks.clear();
    EXPECT_THAT(refusal({.id = "hd0", .address = "0000:00:10.0", .interface = VfioInterface::Cdev}),
                HasSubstr("this kernel has no cdev for '0000:00:10.0'"));
    fs::remove(root_.file("dev/vfio/vfio"));
    EXPECT_THAT(refusal(), HasSubstr("modprobe vfio_iommu_type1"));
}

TEST_F(PassthroughTest, takesTheGroupWhereToldTo) {
    EXPECT_EQ(claim({.id = "hd0", .address = "0000:00:10.0", .interface = VfioInterface::Group}).devices.at(0).node,
              root_.file("dev/vfio/7"));
}

TEST_F(PassthroughTest, givesTheGroupsNodeToTheVmmsUserAndTakesItBack) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to give a file to another user";
    identity_ = {65534, 65534, true};
    const ClaimedDevices claimed = claim({.id = "hd0", .address = "0000:00:10.0", .interface = VfioInterface::Group});
    struct stat status {};
    ASSERT_EQ(::stat(claimed.devices.at(0).node.c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 65534U);
    EXPECT_THAT(releaseDevices(claimed.devices, roots_), IsEmpty());
    ASSERT_EQ(::stat(claimed.devices[0].node.c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 0U);
}

TEST_F(PassthroughTest, refusesWhatIsNotThere) {
    EXPECT_EQ(refusal({.id = "hd0", .address = "0000:00:1f.0"}), "vfio 'hd0': the host has no PCI device '0000:00:1f.0'");
    fs::remove(device("0000:00:10.0", "iommu_group"));
    EXPECT_THAT(refusal(), HasSubstr("'0000:00:10.0' is in no IOMMU group: turn the IOMMU on"));
}

TEST_F(PassthroughTest, refusesADeviceOfAnotherDriver) {
    setDriver("0000:00:10.0", "nvme");
    EXPECT_THAT(refusal(), AllOf(HasSubstr("has the driver 'nvme', not vfio-pci"), HasSubstr("bind: true")));
    setDriver("0000:00:10.0", "");
    EXPECT_THAT(refusal(), HasSubstr("has no driver, not vfio-pci"));
    EXPECT_EQ(text("sys/bus/pci/devices/0000:00:10.0/driver_override"), "");
}

TEST_F(PassthroughTest, undoesABindingThatFails) {
    setDriver("0000:00:10.0", "nvme");  // Which files that only look like a kernel do not change.
    EXPECT_THAT(refusal({.id = "hd0", .address = "0000:00:10.0", .bind = true}),
                HasSubstr("could not be bound to vfio-pci (it has driver 'nvme'); is the module there?"));
    EXPECT_EQ(text("sys/bus/pci/drivers/nvme/unbind"), "0000:00:10.0");
    EXPECT_THAT(text("sys/bus/pci/drivers_probe"), HasSubstr("0000:00:10.0"));
    EXPECT_EQ(text("sys/bus/pci/devices/0000:00:10.0/driver_override").substr(0, 1), "\n");
}

TEST_F(PassthroughTest, givesABoundDeviceBackToItsDriver) {
    const ClaimedDevices claimed = claim({.id = "hd0", .address = "0000:00:10.0", .bind = true});
    EXPECT_TRUE(claimed.devices.at(0).bound);
    EXPECT_THAT(releaseDevices(claimed.devices, roots_), IsEmpty());
    EXPECT_EQ(text("sys/bus/pci/drivers/vfio-pci/unbind"), "0000:00:10.0");
    EXPECT_EQ(text("sys/bus/pci/drivers_probe"), "0000:00:10.0");
    EXPECT_EQ(text("sys/bus/pci/devices/0000:00:10.0/driver_override"), "\n");
}

TEST_F(PassthroughTest, leavesADeviceAloneThatWasBoundByOthers) {
    EXPECT_THAT(releaseDevices(claim().devices, roots_), IsEmpty());
    EXPECT_EQ(text("sys/bus/pci/drivers/vfio-pci/unbind"), "");
}

TEST_F(PassthroughTest, doesNotTakeADiskOrANetworkFromTheHost) {
    setDriver("0000:00:10.0", "nvme");
    const VfioDevice wanted{.id = "hd0", .address = "0000:00:10.0", .bind = true};
    const std::string disk = "sys/devices/pci0000:00/0000:00:10.0/nvme/nvme0/nvme0n1";
    fs::create_directories(root_.file(disk));
    root_.write(disk + "/dev", "259:3\n");
    fs::create_directory_symlink("../../devices/pci0000:00/0000:00:10.0/nvme/nvme0/nvme0n1",
                                 root_.file("sys/class/block/nvme0n1"));
    root_.write("proc/self/mountinfo", "36 35 259:3 / /srv rw - ext4 /dev/nvme0n1 rw\n");
    EXPECT_EQ(refusal(wanted), "vfio 'hd0': its block device 'nvme0n1' is mounted; unmount it first");
    root_.write("proc/self/mountinfo", "36 35 259:31 / /srv rw - ext4 /dev/nvme9n1 rw\n");
    fs::create_directories(root_.file(disk + "/holders/dm-0"));
    EXPECT_EQ(refusal(wanted), "vfio 'hd0': its block device 'nvme0n1' is in use by 'dm-0'");
    fs::remove_all(root_.file(disk + "/holders"));
    const std::string nic = "sys/devices/pci0000:00/0000:00:10.0/net/eth1";
    fs::create_directories(root_.file(nic));
    root_.write(nic + "/flags", "0x1003\n");
    fs::create_directory_symlink("../../devices/pci0000:00/0000:00:10.0/net/eth1", root_.file("sys/class/net/eth1"));
    EXPECT_EQ(refusal(wanted), "vfio 'hd0': its network interface 'eth1' is up; take it down first (ip link set eth1 down)");
    root_.write(nic + "/flags", "0x1002\n");
    EXPECT_THAT(refusal(wanted), HasSubstr("could not be bound"));
    EXPECT_EQ(text("sys/bus/pci/drivers/nvme/unbind"), "0000:00:10.0");
}

TEST_F(PassthroughTest, refusesAGroupThatTheHostUses) {
    addDevice("0000:00:10.1", "8086:0001", 9, "ahci");
    fs::create_directories(root_.file("sys/kernel/iommu_groups/7/devices/0000:00:10.1"));
    EXPECT_THAT(refusal(), HasSubstr("IOMMU group 7 of '0000:00:10.0' is in use by the host: 0000:00:10.1 (driver ahci)"));
    for (const char* harmless : {"pcieport", "pci-stub", "vfio-pci", ""}) {
        setDriver("0000:00:10.1", harmless);
        EXPECT_EQ(refusal(), "") << harmless;
    }
}

TEST_F(PassthroughTest, takesSeveralDevicesOfOneGroup) {
    addDevice("0000:00:10.1", "8086:0001", 9, "vfio-pci");
    fs::create_directories(root_.file("sys/kernel/iommu_groups/7/devices/0000:00:10.1"));
    fs::remove(device("0000:00:10.1", "iommu_group"));
    fs::create_directory_symlink("../../../../kernel/iommu_groups/7", device("0000:00:10.1", "iommu_group"));
    const ClaimedDevices claimed = claimAll({{.id = "f0", .address = "0000:00:10.0"}, {.id = "f1", .address = "0000:00:10.1"}});
    ASSERT_EQ(claimed.devices.size(), 2U);
    EXPECT_EQ(claimed.devices[1].group, 7U);
    EXPECT_EQ(openDevices(claimed.devices, roots_).size(), 3U);
}

TEST_F(PassthroughTest, saysWhoUsesADevice) {
    fs::create_directories(root_.file("proc/4711/fd"));
    root_.write("proc/4711/comm", "qemu-system-x86\n");
    fs::create_symlink(root_.file("dev/vfio/devices/vfio7"), root_.file("proc/4711/fd/9"));
    EXPECT_EQ(refusal(), "vfio 'hd0': '0000:00:10.0' is in use: pid 4711 (qemu-system-x86) has '" +
                             root_.file("dev/vfio/devices/vfio7") + "' open");
}

TEST_F(PassthroughTest, doesNotTouchADeviceThatSomebodyUsesOrIsAboutToUse) {
    const VfioDevice wanted{.id = "hd0", .address = "0000:00:10.0", .bind = true};
    {
        const ClaimedDevices first = claim(wanted);
        EXPECT_THAT(refusal(wanted), HasSubstr("is being given to another VM just now"));
    }
    EXPECT_EQ(text("sys/bus/pci/devices/0000:00:10.0/driver_override"), "");
    fs::create_directories(root_.file("proc/4711/fd"));
    fs::create_symlink(root_.file("dev/vfio/7"), root_.file("proc/4711/fd/9"));
    EXPECT_THAT(refusal(wanted), HasSubstr("is in use: pid 4711"));
    EXPECT_EQ(text("sys/bus/pci/devices/0000:00:10.0/driver_override"), "");
    EXPECT_EQ(text("sys/bus/pci/drivers/vfio-pci/unbind"), "");
}

TEST_F(PassthroughTest, warnsOfATcgVm) {
    VmDefinition vm;
    vm.accelerator = Accelerator::Tcg;
    vm.vfio = {{.id = "hd0", .address = "0000:00:10.0"}};
    EXPECT_THAT(claimDevices(vm, identity_, roots_).warnings, ElementsAre(HasSubstr("cannot be handed over")));
}

TEST_F(PassthroughTest, saysWhenADeviceIsGoneOrTaken) {
    const std::vector<PassedDevice> devices = claim().devices;
    setDriver("0000:00:10.0", "nvme");
    EXPECT_THAT(obstacleToDevices(devices, ::getpid(), roots_),
                Optional(isObstacle("no longer bound to vfio-pci but to 'nvme'", "bound to vfio-pci again")));
    setDriver("0000:00:10.0", "");
    EXPECT_THAT(obstacleToDevices(devices, ::getpid(), roots_),
                Optional(isObstacle("is being taken away by the host", "power-cycle the VM")));
    fs::remove_all(device("0000:00:10.0"));
    EXPECT_THAT(obstacleToDevices(devices, ::getpid(), roots_),
                Optional(isObstacle("vfio 'hd0' (0000:00:10.0) is gone from the host", "when it is back")));
}

TEST_F(PassthroughTest, saysWhatTheKernelLacks) {
    // A file that answers ENOTTY to everything, as an older kernel does to what it does not know.
    EXPECT_THAT(obstacleToDevices(claim().devices, ::getpid(), roots_),
                Optional(isObstacle("this kernel's iommufd has no IOMMU_IOAS_MAP_FILE", "use a newer kernel")));
    const ClaimedDevices group = claim({.id = "hd0", .address = "0000:00:10.0", .interface = VfioInterface::Group});
    EXPECT_THAT(obstacleToDevices(group.devices, ::getpid(), roots_),
                Optional(isObstacle("vfio container has no VFIO_UNMAP_ALL", "use a newer kernel")));
}

TEST_F(PassthroughTest, saysWhatItCannotOpen) {
    const std::vector<PassedDevice> cdev = claim().devices;
    const std::vector<PassedDevice> group =
        claim({.id = "hd0", .address = "0000:00:10.0", .interface = VfioInterface::Group}).devices;
    fs::remove(root_.file("dev/iommu"));
    EXPECT_THAT(obstacleToDevices(cdev, ::getpid(), roots_),
                Optional(isObstacle("dev/iommu': No such file", "modprobe iommufd")));
    fs::remove(root_.file("dev/vfio/vfio"));
    EXPECT_THAT(obstacleToDevices(group, ::getpid(), roots_),
                Optional(isObstacle("dev/vfio/vfio': No such file", "modprobe vfio_iommu_type1")));
}

TEST_F(PassthroughTest, refusesArgumentsThatRuleAHandoverOut) {
    EXPECT_EQ(obstacleToPassthrough({"-device", "virtio-rng-pci,id=rng0"}), std::nullopt);
    for (const auto& [argument, why] : {std::pair{"vfio-pci,sysfsdev=/sys/bus/mdev/devices/x", "mdev"},
                                        {"vfio-user-pci,socket=/s", "vfio-user"},
                                        {"vfio-pci,host=0000:01:00.0", "does not know of"},
                                        {"intel-iommu,intremap=on", "virtual IOMMU"},
                                        {"virtio-iommu-pci", "virtual IOMMU"},
                                        {"sev-snp-guest,id=s", "guest_memfd"},
                                        {"tdx-guest,id=t", "guest_memfd"}})
        EXPECT_THAT(obstacleToPassthrough({"-device", argument}),
                    AllOf(Optional(isObstacle(argument, "power-cycle the VM")), Optional(isObstacle(why, "power-cycle the VM"))));
    EXPECT_THAT(obstacleToPassthrough({"-device", "vfio-pci,host=0000:01:00.0"}),
                Optional(isObstacle("", "list the device under 'vfio'")));
}

TEST_F(PassthroughTest, expectsTheInterruptsThatTheKernelDelivers) {
    root_.write("proc/interrupts",
                "           CPU0       CPU1\n"
                "  24:          0         12  IR-PCI-MSIX-0000:00:10.0    0-edge      vfio-msix[0](0000:00:10.0)\n"
                "  25:          7          0  IR-PCI-MSIX-0000:00:10.0    3-edge      vfio-msix[3](0000:00:10.0)\n"
                "  26:          7          0  IR-PCI-MSIX-0000:00:1f.0    0-edge      vfio-msix[0](0000:00:1f.0)\n"
                "  27:          7          0  IR-PCI-MSI-0000:00:11.0    0-edge      vfio-msi[1](0000:00:11.0)\n"
                "  16:          1          0  IR-IO-APIC   16-fasteoi   vfio-intx(0000:00:12.0)\n");
    std::vector<PassedDevice> devices{
        {.id = "hd0", .address = "0000:00:10.0"},
        {.id = "g0", .address = "0000:00:11.0", .interface = VfioInterface::Group, .group = 11},
        {.id = "g1", .address = "0000:00:12.0", .interface = VfioInterface::Group, .group = 12},
    };
    const CprPassthrough expected = cprPassthrough(devices, {{"iommufd0", 5}, {"vfio/hd0", 6}}, roots_);
    EXPECT_EQ(expected.iommufd, "iommufd0");
    EXPECT_EQ(expected.iommufdDescriptor, 5);
    EXPECT_THAT(expected.groups, ElementsAre(11, 12));
    ASSERT_EQ(expected.devices.size(), 3U);
    EXPECT_EQ(expected.devices[0].name, "hd0");
    EXPECT_EQ(expected.devices[0].descriptor, 6);
    EXPECT_THAT(expected.devices[0].interrupts, ElementsAre(Pair("interrupt", 0), Pair("interrupt", 3)));
    EXPECT_EQ(expected.devices[1].name, "0000:00:11.0");
    EXPECT_EQ(expected.devices[1].descriptor, -1);
    EXPECT_THAT(expected.devices[1].interrupts, ElementsAre(Pair("interrupt", 1)));
    EXPECT_THAT(expected.devices[2].interrupts, ElementsAre(Pair("intx-interrupt", 0)));
}

TEST_F(PassthroughTest, seesTheEventfdsOfAProcess) {
    const std::set<std::string> before = eventfdsOf(::getpid());
    const UniqueFd fd(::eventfd(0, EFD_CLOEXEC)), again(::dup(fd.get()));
    std::set<std::string> after = eventfdsOf(::getpid());
    EXPECT_EQ(after.size(), before.size() + 1);
    EXPECT_THAT(after, Contains(eventfdId(fd.get())));
    EXPECT_EQ(eventfdId(again.get()), eventfdId(fd.get()));
}

}  // namespace
}  // namespace vh
