// What a handover makes of a guest that is heard, heard late, or not heard at all. The reference VMM answers as one that runs a
// guest and does not; a port that is silent to its first clients is what QEMU's virtio-serial ports have been seen to be.

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class HeartbeatTest : public HostFixture, public testing::WithParamInterface<Design> {
 protected:
    void start(const std::string& options, const std::string& heartbeat = "true") {
        const std::string definition = workspace.file(
            "vm.yaml", referenceDefinition("vm", workspace.referenceVmm("old", options),
                                           "handover: {design: " + std::string(name(GetParam())) + ", pause_budget: 6s}\n"));
        replaceIn(definition, "heartbeat: true", "heartbeat: " + heartbeat);
        const VerbResult started = test::start(host, definition);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
    }
    VerbResult upgradeTo(const std::string& options) {
        return wait([&](Verbs::Done done) {
            host.upgrade("vm", {.binary = workspace.referenceVmm("new", options)}, nullptr, std::move(done));
        });
    }
};

TEST_P(HeartbeatTest, isHeardThroughAPortThatWasSilentToItsFirstListener) {
    start("--silent-connections 1");
    const json report = upgradeTo("").value;
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(report["warnings"], json::array());
    expectNothingLost(report);
    EXPECT_TRUE(report["guest"]["pauseMs"].is_number());
}

TEST_P(HeartbeatTest, isHeardOnANewVmmWhosePortWasSilentToItsFirstListener) {
    start("");
    const json report = upgradeTo("--silent-connections 1").value;
    EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
    EXPECT_EQ(report["warnings"], json::array());
    EXPECT_TRUE(report["guest"]["pauseMs"].is_number()) << report.dump(2);
    EXPECT_EQ(report["guest"]["repeated"], 0);
}

TEST_P(HeartbeatTest, thatStopsWithTheSwitchIsAnOutcomeOfItsOwn) {
    start("");
    const VerbResult result = upgradeTo("--fault cont=lie");
    EXPECT_EQ(static_cast<int>(result.code), 4) << result.value.dump(2);
    EXPECT_EQ(result.value["outcome"], "silent");
    EXPECT_EQ(result.value["exitCode"], 4);
    EXPECT_THAT(result.value.value("cause", ""), HasSubstr("beat on the old VMM and has not been heard on the new one"));
    const std::string text = reportText(*result.report);
    EXPECT_THAT(text, HasSubstr("vm: silent"));
    EXPECT_THAT(text, HasSubstr("virt-handover console vm"));
    EXPECT_THAT(text, HasSubstr("virt-handover destroy vm"));
    // Nothing was ended on that suspicion but the old VMM, which could not have the guest back.
    EXPECT_EQ(vmmPid(host, "vm"), result.value["new"]["pid"]);
}

TEST_P(HeartbeatTest, isNotTakenFromWhatTheGuestHadLeftInItsPortsQueue) {
    start("");
    const VerbResult result = upgradeTo("--fault cont=lie --queued-beats 60");
    EXPECT_EQ(result.value["outcome"], "silent") << result.value.dump(2);
    EXPECT_GE(result.value["guest"]["beats"], 60);
}

TEST_P(HeartbeatTest, isNotMissedInAGuestThatWasPaused) {
    start("");
    ask("stop");
    const VerbResult result = upgradeTo("--fault cont=lie");
    EXPECT_EQ(result.value["outcome"], "upgraded") << result.value.dump(2);
    EXPECT_EQ(result.code, ExitCode::Done);
}

TEST_P(HeartbeatTest, isNotMissedInAGuestThatNeverHadOne) {
    start("--silent-connections 1000");
    const VerbResult result = upgradeTo("--silent-connections 1000");
    EXPECT_EQ(result.value["outcome"], "upgraded") << result.value.dump(2);
    EXPECT_THAT(result.value["warnings"].dump(), HasSubstr("no heartbeat from the guest"));
}

TEST_P(HeartbeatTest, isNotMissedWhereNoneIsDefined) {
    start("", "false");
    const VerbResult result = upgradeTo("--fault cont=lie");
    EXPECT_EQ(result.value["outcome"], "upgraded") << result.value.dump(2);
}

INSTANTIATE_TEST_SUITE_P(designs, HeartbeatTest, testing::Values(Design::Relayed, Design::Copy),
                         [](const auto& test) { return testName(test.param); });

}  // namespace
}  // namespace vh::test
