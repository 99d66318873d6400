// The test host is what passthrough is tested on; here is what the other tests take for granted.

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/vfio/passthrough_fixture.h"
#include "vmm-shim/unique_fd.h"

namespace vh::test {
namespace {

namespace fs = std::filesystem;

std::string groupOf(const std::string& address) {
    return fs::read_symlink("/sys/bus/pci/devices/" + address + "/iommu_group").filename();
}

TEST(TestHost, hasKvm) {
    const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(kvm);
    EXPECT_EQ(::ioctl(kvm.get(), KVM_GET_API_VERSION, 0), KVM_API_VERSION);
}

TEST(TestHost, hasAnIommufdAndContainers) {
    EXPECT_TRUE(fs::is_character_file("/dev/iommu"));
    EXPECT_TRUE(fs::is_character_file("/dev/vfio/vfio"));
}

TEST(TestHost, hasDevicesInGroupsOfTheirOwnAndTwoInOne) {
    EXPECT_NE(groupOf(disk), groupOf(networkCard));
    EXPECT_NE(groupOf(disk), groupOf(sharedDisk));
    EXPECT_EQ(groupOf(sharedDisk), groupOf("0000:00:12.1"));
    EXPECT_EQ(std::distance(fs::directory_iterator("/sys/bus/pci/devices/" + std::string(disk) + "/iommu_group/devices"), {}), 1);
}

TEST(TestHost, hasACdevForADeviceThatIsBoundToVfio) {
    const fs::path device = fs::path("/sys/bus/pci/devices") / disk;
    ASSERT_EQ(driverOf(disk), "nvme");
    std::ofstream(device / "driver_override") << "vfio-pci";
    std::ofstream(device / "driver/unbind") << disk;
    std::ofstream("/sys/bus/pci/drivers_probe") << disk;
    EXPECT_EQ(driverOf(disk), "vfio-pci");
    ASSERT_TRUE(fs::exists(device / "vfio-dev"));
    EXPECT_TRUE(fs::is_character_file("/dev/vfio/devices" / fs::directory_iterator(device / "vfio-dev")->path().filename()));
    EXPECT_TRUE(fs::is_character_file("/dev/vfio/" + groupOf(disk)));
    std::ofstream(device / "driver/unbind") << disk;
    std::ofstream(device / "driver_override") << "\n";
    std::ofstream("/sys/bus/pci/drivers_probe") << disk;
    EXPECT_EQ(driverOf(disk), "nvme");
}

}  // namespace
}  // namespace vh::test
