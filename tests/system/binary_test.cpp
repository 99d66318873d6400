// A program that is no VMM, or none that can be executed, where a VMM is to be: every verb that meets it says what is wrong with
// it.

#include <fstream>

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class BinaryTest : public HostFixture {
 protected:
    VerbResult start(const std::string& binary) {
        // A launch deadline above that of preflight's questions, as the default one is.
        return test::start(
            host, workspace.file("vm.yaml", referenceDefinition("vm", binary, "handover: {deadlines: {launch: 10500ms}}\n")));
    }
    std::string causeOfUpgrade(const std::string& binary, bool dryRun) {
        const json report = upgrade({.binary = binary, .dryRun = dryRun});
        EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
        EXPECT_NE(report.value("remedy", ""), "") << report.dump(2);
        return report.value("cause", "");
    }

    const std::string good = workspace.referenceVmm("good");
};

TEST_F(BinaryTest, isNamedWithTheReasonWhyItCannotBeExecuted) {
    const std::string bad = workspace.script("bad", "");
    std::ofstream(bad) << "#!/no/such/interpreter\n";
    const auto isExplained = HasSubstr("'" + bad + "' is not a working QEMU: it could not be started: execute '" + bad +
                                       "': No such file or directory (the file, or the interpreter or loader that it names)");
    const VerbResult started = start(bad);
    EXPECT_NE(started.code, ExitCode::Done);
    EXPECT_THAT(started.value.dump(), isExplained);
    ASSERT_EQ(start(good).code, ExitCode::Done);
    EXPECT_THAT(causeOfUpgrade(bad, true), isExplained);
    EXPECT_THAT(causeOfUpgrade(bad, false), isExplained);
}

TEST_F(BinaryTest, isNamedWhenItSaysNothing) {
    ASSERT_EQ(start(good).code, ExitCode::Done);
    const std::string silent = workspace.script("silent", "exec sleep 1000");
    EXPECT_EQ(causeOfUpgrade(silent, false), "the new VMM: '" + silent + "' did not answer as a QEMU within 10500 ms");
}

TEST_F(BinaryTest, isNamedWithItsReasonAndNotWithItsWarnings) {
    ASSERT_EQ(start(good).code, ExitCode::Done);
    const std::string bad =
        workspace.script("bad", "echo 'qemu: warning: CPU model qemu64 is deprecated' >&2\necho 'qemu: no firmware' >&2\nexit 1");
    EXPECT_EQ(causeOfUpgrade(bad, false),
              "the new VMM: '" + bad + "' is not a working QEMU: it exited with status 1: qemu: no firmware");
}

TEST_F(BinaryTest, isWarnedOfWhenAnUpgradeGoesBackToIt) {
    ASSERT_EQ(start(good).code, ExitCode::Done);
    const std::string better = workspace.referenceVmm("better");
    const json there = upgrade({.binary = better});
    EXPECT_EQ(there["outcome"], "upgraded") << there.dump(2);
    EXPECT_EQ(there["warnings"].dump().find("goes back"), std::string::npos) << there.dump(2);
    for (const bool dryRun : {true, false}) {
        const json back = upgrade({.dryRun = dryRun});
        EXPECT_EQ(back["outcome"], dryRun ? "ready" : "upgraded") << back.dump(2);
        EXPECT_THAT(back["warnings"].dump(), HasSubstr("without --to this one goes back to '" + good + "'"));
    }
    EXPECT_EQ(upgrade({})["warnings"].dump().find("goes back"), std::string::npos) << "it is there already";
}

}  // namespace
}  // namespace vh::test
