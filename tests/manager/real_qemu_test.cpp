// What only a real QEMU can answer. VH_QEMU_OLD names one; a test that cannot run here fails, because nothing else checks this.
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/vmm/binary_probe.h"
#include "tests/support/main_loop.h"

namespace vh {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Key;
using testing::StartsWith;

class RealQemu : public MainLoopTest {
 protected:
    static std::string binary() {
        const char* path = std::getenv("VH_QEMU_OLD");
        return path ? path : "";
    }

    static VmmBinary probed(const Identity& identity) {
        std::optional<VmmBinary> found;
        std::optional<Obstacle> problem;
        const BinaryProbe probe({binary(), identity, {"virtio-blk-pci", "model-of-the-future", "virtio-net-pci"}},
                                [&](const VmmBinary& answer, const std::optional<Obstacle>& why) {
                                    problem = why;
                                    found = answer;
                                });
        EXPECT_TRUE(loopUntil([&] { return found.has_value(); }));
        EXPECT_FALSE(problem.has_value()) << problem->what;
        return found.value_or(VmmBinary());
    }
};

TEST_F(RealQemu, tellsItsVersionMachinesAndWhatItLacks) {
    ASSERT_NE(binary(), "") << "VH_QEMU_OLD is not set: name a QEMU binary there (scripts/setup installs some)";
    const VmmBinary qemu = probed({});
    EXPECT_EQ(qemu.path, binary());
    EXPECT_THAT(qemu.version, testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
    EXPECT_EQ(qemu.majorVersion, std::atoi(qemu.version.c_str()));
    EXPECT_GE(qemu.majorVersion, 8);
    EXPECT_THAT(qemu.machines, Contains("none"));
    EXPECT_THAT(qemu.machines, Contains(StartsWith("pc-q35-")));
    ASSERT_THAT(qemu.aliases, Contains(Key("q35")));
    EXPECT_THAT(qemu.machines, Contains(qemu.aliases.at("q35")));
    EXPECT_THAT(qemu.missingModels, ElementsAre("model-of-the-future"));
}

TEST_F(RealQemu, canBeAskedWithoutPrivileges) {
    ASSERT_NE(binary(), "") << "VH_QEMU_OLD is not set: name a QEMU binary there (scripts/setup installs some)";
    EXPECT_FALSE(probed(Identity::of("nobody")).machines.empty());
}

}  // namespace
}  // namespace vh
