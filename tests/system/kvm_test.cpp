// Handovers under KVM, by every design, with a way back and with a manager that dies. The guest is the bare one, which runs also
// where a host's KVM runs no Linux (tests/bare-guest).
#include <signal.h>

#include <string>

#include <gmock/gmock.h>

#include "manager/vmm/kvm_probe.h"
#include "tests/system/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;

class KvmTest : public testing::Test {
 protected:
    void SetUp() override {
        if (const KvmAbility kvm = probeKvm(); kvm.guests == KvmAbility::Guests::None)
            GTEST_SKIP() << "needs a host whose KVM runs guests: " << kvm.why;
    }
    void TearDown() override {
        wait([&](Verbs::Done done) { host.destroy("vm", std::move(done)); });
        workspace.expectNothingLeft();
    }

    void start(Design design, const std::string& binary = oldQemu(), const std::string& budget = "5s") {
        const std::string definition =
            writeDefinition(workspace, {.owner = rowOf(design).owner == MemoryOwner::Vmm ? "vmm" : "manager",
                                        .accelerator = "kvm",
                                        .design = design,
                                        .binary = binary,
                                        .handover = "pause_budget: " + budget +
                                                    ", deadlines: {launch: 20s, exchange: 20s, verify: 10s, switch: 10s, "
                                                    "retire: 20s}"});
        const VerbResult started = wait([&](Verbs::Done done) { host.start(definition, milliseconds(90'000), std::move(done)); });
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        ASSERT_EQ(wait([&](Verbs::Done done) { host.show("vm", std::move(done)); }).value["accelerator"], "kvm");
    }
    json upgrade(const Handover::Observer& observer = nullptr) {
        return wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = newQemu()}, observer, std::move(done)); }).value;
    }
    void expectUpgraded(const json& report) {
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        EXPECT_EQ(report["guest"]["lost"], 0) << report.dump(2);
        EXPECT_EQ(report["guest"]["repeated"], 0) << report.dump(2);
        EXPECT_THAT(report["guest"]["errors"], testing::IsEmpty()) << report.dump(2);
        expectGuestIsWell(host, "vm");
    }

    Workspace workspace;
    Host host{workspace.runtime(), "/nonexistent"};
};

class KvmDesignTest : public KvmTest, public testing::WithParamInterface<Design> {};

TEST_P(KvmDesignTest, handsOverTheGuestAndHandsItOverAgain) {
    // Executing a successor needs a QEMU that can; the others leave the older release.
    const std::string first = rowOf(GetParam()).oldestOld > Release{10, 0} ? newQemu() : oldQemu();
    ASSERT_NO_FATAL_FAILURE(start(GetParam(), first));
    expectUpgraded(upgrade());
    expectUpgraded(upgrade());
}

INSTANTIATE_TEST_SUITE_P(Designs, KvmDesignTest,
                         testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned, Design::VmmExec, Design::Copy,
                                         Design::SaveRestore),
                         [](const auto& design) { return testName(design.param); });

TEST_F(KvmTest, goesBackWhenTheNewVmmDiesWithTheGuestStopped) {
    ASSERT_NO_FATAL_FAILURE(start(Design::Relayed));
    const json report = upgrade([](const HandoverProgress& progress) {
        if (progress.state == State::Switching && progress.newPid) ::kill(progress.newPid, SIGKILL);
    });
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_EQ(report["guest"]["lost"], 0) << report.dump(2);
    expectGuestIsWell(host, "vm");
    expectUpgraded(upgrade());
}

TEST_F(KvmTest, goesOnWhereverTheManagerDies) {
    ASSERT_NO_FATAL_FAILURE(start(Design::Relayed));
    for (const State state :
         {State::Launching, State::Exchanging, State::Switching, State::Proving, State::Confirming, State::Retiring}) {
        SCOPED_TRACE(name(state));
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "vm", "vm", newQemu(), std::string(name(state)), "0"));
        std::string problem;
        host.recoverAll([&](const std::string& line) { problem = line; });
        const auto runState = [&] {
            return wait([&](Verbs::Done done) { host.show("vm", std::move(done)); }).value.value("state", "");
        };
        ASSERT_TRUE(turnUntil([&] { return runState() == "running" || !problem.empty(); }, milliseconds(30'000)));
        ASSERT_EQ(problem, "");
        expectGuestIsWell(host, "vm");
    }
}

}  // namespace
}  // namespace vh::test
