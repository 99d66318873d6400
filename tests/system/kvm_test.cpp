// Handovers under KVM, by every design, with a way back and with a manager that dies. The guest is the bare one, which runs also
// where a host's KVM runs no Linux (tests/bare-guest).
#include <signal.h>

#include <string>

#include <gmock/gmock.h>

#include "manager/vmm/kvm_probe.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

class KvmTest : public HostFixture, public testing::WithParamInterface<Design> {
 protected:
    void SetUp() override {
        if (const KvmAbility kvm = probeKvm(); kvm.guests == KvmAbility::Guests::None)
            GTEST_SKIP() << "needs a host whose KVM runs guests: " << kvm.why;
    }

    void startUnderKvm() {
        const DesignRow& design = rowOf(GetParam());
        const VerbResult started = start(
            {.owner = design.owner == MemoryOwner::Vmm ? "vmm" : "manager",
             .accelerator = "kvm",
             .design = GetParam(),
             // Executing a successor needs a QEMU that can; the others leave the older release.
             .binary = design.oldestOld > Release{10, 0} ? newQemu() : oldQemu(),
             .handover = "pause_budget: 5s, deadlines: {launch: 20s, exchange: 20s, verify: 10s, switch: 10s, retire: 20s}"},
            patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        ASSERT_EQ(show()["accelerator"], "kvm");
    }

    void expectUpgraded() {
        const json report = upgrade({.binary = newQemu()});
        ASSERT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectNothingLost(report);
        expectGuestIsWell(host, "vm");
    }
};

class KvmDesignTest : public KvmTest {};

TEST_P(KvmDesignTest, handsOverTheGuestAndHandsItOverAgain) {
    ASSERT_NO_FATAL_FAILURE(startUnderKvm());
    ASSERT_NO_FATAL_FAILURE(expectUpgraded());
    ASSERT_NO_FATAL_FAILURE(expectUpgraded());
}

INSTANTIATE_TEST_SUITE_P(designs, KvmDesignTest,
                         testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned, Design::VmmExec, Design::Copy,
                                         Design::SaveRestore),
                         [](const auto& design) { return testName(design.param); });

class KvmWayBackTest : public KvmTest {};

TEST_P(KvmWayBackTest, isTakenWhenTheNewVmmDiesWithTheGuestStopped) {
    ASSERT_NO_FATAL_FAILURE(startUnderKvm());
    const int old = vmmPid(host, "vm");
    const json report = upgrade({.binary = newQemu()}, [](const HandoverProgress& progress) {
        if (progress.state == State::Switching && progress.newPid) ::kill(progress.newPid, SIGKILL);
    });
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    expectNothingLost(report);
    expectGuestIsWell(host, "vm");
    EXPECT_EQ(vmmPid(host, "vm"), old);
    expectUpgraded();
}

INSTANTIATE_TEST_SUITE_P(designs, KvmWayBackTest, testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned),
                         [](const auto& design) { return testName(design.param); });

class KvmRecoveryTest : public KvmTest {};

TEST_P(KvmRecoveryTest, findsTheGuestWhereverTheManagerDies) {
    ASSERT_NO_FATAL_FAILURE(startUnderKvm());
    for (const State state :
         {State::Launching, State::Exchanging, State::Switching, State::Proving, State::Confirming, State::Retiring}) {
        SCOPED_TRACE(name(state));
        const int old = vmmPid(host, "vm");
        const unsigned generation = VmDirectory(workspace.runtime(), "vm").read()->vmm.generation;
        ASSERT_NO_FATAL_FAILURE(crashManager(workspace, "vm", "vm", newQemu(), std::string(name(state)), "0"));
        std::string problem;
        host.recoverAll([&](const std::string& line) { problem = line; });
        ASSERT_TRUE(turnUntil([&] { return show().value("state", "") == "running" || !problem.empty(); }, patience));
        ASSERT_EQ(problem, "");
        expectGuestIsWell(host, "vm");
        // Nobody but the manager lets the new VMM run the guest, and it had not yet; but for vmm-exec, whose process stays.
        EXPECT_EQ(vmmPid(host, "vm") == old, state != State::Retiring || GetParam() == Design::VmmExec);
        const bool isExecuted = GetParam() == Design::VmmExec && (state == State::Proving || state == State::Confirming);
        EXPECT_EQ(VmDirectory(workspace.runtime(), "vm").read()->vmm.generation != generation,
                  state == State::Retiring || isExecuted)
            << "which QEMU it ended on";
    }
}

INSTANTIATE_TEST_SUITE_P(designs, KvmRecoveryTest,
                         testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned, Design::VmmExec),
                         [](const auto& design) { return testName(design.param); });

}  // namespace
}  // namespace vh::test
