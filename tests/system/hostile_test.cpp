// An old VMM that means harm: what root does for it, it does not do to anybody else.

#include <filesystem>

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class HostileTest : public HostFixture {
 protected:
    HostileTest() {
        const VerbResult started = test::start(host, workspace.file("vm.yaml", referenceDefinition("vm", vmm(""))));
        EXPECT_EQ(started.code, ExitCode::Done) << started.value;
    }

    std::string vmm(const std::string& more) const {
        return workspace.referenceVmm("vmm" + std::to_string(std::hash<std::string>{}(more)), more);
    }
};

TEST_F(HostileTest, cannotHaveAFileCutThatItMayOnlyRead) {
    const std::string image = workspace.file("image-of-another.raw", std::string(100'000, 'x'));
    // Which no QEMU does.
    ask("x-ref-claim", {{"name", "claimed"}, {"path", image}});
    const json report = upgrade({.binary = vmm("")});
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report.value("cause", ""), HasSubstr("claimed"));
    EXPECT_EQ(std::filesystem::file_size(image), 100'000U) << report.dump(2);
}

TEST_F(HostileTest, hasItsOwnMemoryCutBackThatTheNewVmmHasGrown) {
    const json report = upgrade({.binary = vmm("--vram-mib 8")});
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("ref.vram'; it was cut back to what the old VMM has"));
    EXPECT_EQ(upgrade({.binary = vmm("")}).value("outcome", ""), "upgraded");
}

/// One that stood by has let go of the old VMM's monitor, and need not get at it again.
TEST_F(HostileTest, goesOnAsBeforeAnUpgradeThatStoodByAlsoWithoutAMonitor) {
    ASSERT_EQ(upgrade({.binary = vmm(""), .standby = true}).value("outcome", ""), "standing by");
    const std::string monitor = show()["directory"].get<std::string>() + "/qmp.sock";
    std::filesystem::rename(monitor, monitor + ".away");
    const VerbResult cancelled = wait([&](Verbs::Done done) { host.cancel("vm", std::move(done)); });
    EXPECT_EQ(cancelled.code, ExitCode::Done) << cancelled.value.dump(2);
    std::filesystem::rename(monitor + ".away", monitor);
    EXPECT_EQ(upgrade({.binary = vmm("")}).value("outcome", ""), "upgraded");
}

TEST_F(HostileTest, hasItsMemoryCutBackByTheNextManagerToo) {
    crashManager(workspace, "vm", "vm", vmm("--vram-mib 8"), "verifying", "0");
    const std::string files = "/proc/" + std::to_string(vmmPid(host, "vm")) + "/fd/";
    const auto vramBytes = [&] {
        for (const auto& entry : std::filesystem::directory_iterator(files))
            if (std::filesystem::read_symlink(entry.path()).string().find("ref.vram") != std::string::npos)
                return std::filesystem::file_size(entry.path());
        return std::uintmax_t{0};
    };
    ASSERT_EQ(vramBytes(), 8U << 20) << "the new VMM is to have grown it";
    const json report = upgrade({.binary = "/nonexistent"});  // Settles first what was interrupted.
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_EQ(vramBytes(), 4U << 20);
}

}  // namespace
}  // namespace vh::test
