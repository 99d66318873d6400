// What a handover makes of every fault that the reference VMM can be told to have, at every step, on either side. All cases run
// at once, each on a VM of its own; the reference VMM's guest notices memory that is not as it left it, and any second that it
// ran twice. Real QEMUs have their turn in handover_test.cpp and handover_loss_test.cpp.

#include <signal.h>
#include <sys/resource.h>

#include <gmock/gmock.h>

#include "tests/support/failure_matrix.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

enum class Side { Old, New };

struct Case {
    Design design;
    Side side;
    std::string fault;
    std::string vm;
    json report;
};

bool is(const Case& one, const std::vector<std::string>& starts) {
    return std::any_of(starts.begin(), starts.end(), [&](const std::string& start) { return one.fault.starts_with(start); });
}

/// After this the guest may have run on the new VMM, or the old one is gone or deaf: then "lost" is the truth.
bool mayBeLost(const Case& one) {
    if (one.side == Side::New) return is(one, {"cont="});
    if (one.fault == "stream-end=die" || one.fault == "stream-end=exit:3") return false;  // It has sent all there is.
    return one.fault.ends_with("=die") || one.fault.ends_with("=hang") || one.fault.ends_with("=exit:3") || is(one, {"cont="});
}

/// A VMM that says it has loaded its devices, or runs the guest, and does not, cannot be told from one that does; only the guest
/// knows.
bool isForTheGuestToNotice(const Case& one) {
    return one.side == Side::New && (one.fault == "stream-end=lie" || one.fault == "cont=lie");
}

/// The fault does not keep a handover from succeeding.
bool mayBeUpgraded(const Case& one) {
    if (one.fault.find("=slow:") != std::string::npos) return true;
    // The end of the old VMM is its own affair, and so is what it answers once it has handed over.
    return one.side == Side::Old && is(one, {"quit=", "stream-end=", "verify@2=", "migrate=lie"});
}

/// As the failure matrix has it.
void publish(const Case& one) {
    const std::size_t equals = one.fault.find('=');
    std::string outcome = one.report.value("outcome", "");
    if (outcome == "rolled back") {
        // The guest is stopped for the stream: whether that was heard before a new VMM that ends at its start is a race.
        const bool neverStopped = one.report["vmm"]["stopToResumeMs"].is_null() && !is(one, {"stream-"});
        const std::string cause = one.report.value("cause", "");
        // No time is looked at: a deadline that had passed would be the cause.
        const bool timedOut = cause.find(" took longer than ") != std::string::npos || cause.ends_with(", its pause budget");
        outcome += neverStopped ? ", never stopped" : timedOut ? " at a deadline" : " before any deadline";
    }
    expectAsInFailureMatrix({one.design, one.side == Side::Old ? "old VMM" : "new VMM", one.fault.substr(0, equals),
                             one.fault.substr(equals + 1), outcome});
}

class FaultsTest : public HostFixture, public testing::WithParamInterface<Design> {
 protected:
    FaultsTest() {
        const rlimit files{16384, 16384};
        ::setrlimit(RLIMIT_NOFILE, &files);
    }

    void add(Side side, const std::string& fault) {
        cases.push_back({GetParam(), side, fault, "vm" + std::to_string(cases.size()), {}});
    }

    /// A reference VMM with a fault; asked what it can do, it is well.
    std::string faulty(const Case& one, bool isFaulty) {
        const std::string name = one.vm + (isFaulty ? "-faulty" : "-good");
        return workspace.referenceVmm(name, isFaulty ? "--fault '" + one.fault + "'" : "");
    }

    void startAll() {
        std::size_t answered = 0;
        for (const Case& one : cases) {
            const std::string owner = one.design == Design::VmmOwned ? "vmm" : "manager";
            const std::string definition = workspace.file(
                one.vm + ".yaml",
                referenceDefinition(one.vm, faulty(one, one.side == Side::Old),
                                    "handover: {design: " + std::string(name(one.design)) +
                                        ", pause_budget: 6s, deadlines: {launch: 8s, exchange: 4s, verify: 4s, switch: 5s, "
                                        "retire: 6s}}\n",
                                    "{size: 64MiB, owner: " + owner + "}"));
            host.start(definition, std::nullopt, [&](const VerbResult& result) {
                EXPECT_EQ(result.code, ExitCode::Done) << result.value;
                ++answered;
            });
        }
        ASSERT_TRUE(turnUntil([&] { return answered == cases.size(); }, patience));
    }

    /// Hands all VMs over at once and gives each report to `take`.
    void upgradeAll(const std::vector<Case*>& which, const std::function<std::string(const Case&)>& binary,
                    const std::function<void(Case&, const json&)>& take) {
        std::size_t answered = 0;
        for (Case* one : which)
            host.upgrade(one->vm, {.binary = binary(*one)}, nullptr, [&, one](const VerbResult& result) {
                take(*one, toJson(result));
                ++answered;
            });
        ASSERT_TRUE(turnUntil([&] { return answered == which.size(); }, milliseconds(300'000)));
    }

    std::vector<Case> cases;
};

TEST_P(FaultsTest, neverCostTheGuestThatAGoodVmmIsLeftFor) {
    const bool usesCpr = GetParam() != Design::ManagerOwned;
    for (const std::string action : {"die", "exit:3", "hang", "slow:50", "garbage", "lie"}) {
        const bool general = action != "garbage" && action != "lie";
        // A VMM that hangs takes its deadlines' time: at every step of the default design, and at one of the others.
        if (action == "hang" && GetParam() != Design::Relayed) {
            add(Side::New, "stream-middle=hang");
            continue;
        }
        for (const std::string step :
             {"start", "monitor", "verify", "incoming", "stream-begin", "stream-middle", "stream-end", "cont"})
            if (general || (step != "start" && !(action == "lie" && step.starts_with("stream-") && step != "stream-end")))
                add(Side::New, step + "=" + action);
        if (general && usesCpr)
            for (const std::string step : {"cpr-received", "hang-up"}) add(Side::New, step + "=" + action);
        for (const std::string step : {"verify", "migrate", "stream-begin", "stream-middle", "stream-end", "quit"})
            if (general || !step.starts_with("stream-")) add(Side::Old, step + "=" + action);
        if (usesCpr && action != "lie") add(Side::Old, "cpr-sent=" + action);
    }
    if (usesCpr) {
        add(Side::New, "cpr-received=lie");
        add(Side::New, "hang-up=lie");
        for (const std::string fault :
             {"drop:ref.bios", "rename:ref.bios:ref.nios", "swap:ref.bios:0000:00:01.0/ref.vram", "replace:ref.bios",
              "truncate:40", "trailing:7", "bad-service-byte:ref.bios", "missing-descriptor"})
            add(Side::Old, "cpr-sent=" + fault);
    }
    startAll();
    std::vector<Case*> all, goOn;
    for (Case& one : cases) all.push_back(&one);
    upgradeAll(
        all, [&](const Case& one) { return faulty(one, one.side == Side::New); },
        [](Case& one, const json& report) { one.report = report; });

    for (Case& one : cases) {
        SCOPED_TRACE(std::string(one.side == Side::Old ? "old" : "new") + " VMM with " + one.fault + ": " +
                     one.report.value("outcome", "?") + ": " + one.report.value("cause", ""));
        const std::string outcome = one.report.value("outcome", "");
        publish(one);
        if (isForTheGuestToNotice(one)) {
            EXPECT_EQ(outcome, one.fault == "cont=lie" ? "silent" : "upgraded");
            EXPECT_TRUE(outcome == "silent" || !one.report["guest"]["errors"].empty());
            continue;
        }
        if (outcome == "lost") {
            EXPECT_TRUE(mayBeLost(one));
            continue;
        }
        goOn.push_back(&one);
        if (outcome == "upgraded") {
            EXPECT_TRUE(mayBeUpgraded(one));
        }
        const bool diedWithAllSent = one.side == Side::Old && (one.fault == "stream-end=die" || one.fault == "stream-end=exit:3");
        if (one.fault.find("=slow:") != std::string::npos || diedWithAllSent) {
            EXPECT_EQ(outcome, "upgraded");
        }
        if (outcome == "rolled back" || outcome == "upgraded") expectNothingLost(one.report);
        if (outcome == "rolled back" && one.fault.starts_with("cpr-sent=")) {
            EXPECT_TRUE(one.report["vmm"]["stopToResumeMs"].is_null()) << "the guest was stopped for it";
        }
    }
    // Every guest that was not lost is as it was, on one VMM, and ready for the next.
    upgradeAll(
        goOn, [&](const Case& one) { return faulty(one, false); }, [](Case& one, const json& report) { one.report = report; });
    for (const Case* one : goOn) {
        SCOPED_TRACE(std::string(one->side == Side::Old ? "old" : "new") + " VMM with " + one->fault);
        // An old VMM keeps its fault.
        if (one->side == Side::Old && one->report["outcome"] == "rolled back") continue;
        if (one->side == Side::Old && one->report["outcome"] == "lost" && mayBeLost(*one)) continue;
        if (one->side == Side::Old && one->report["outcome"] == "refused") continue;
        EXPECT_EQ(one->report["outcome"], "upgraded") << one->report.dump(2);
        expectNothingLost(one->report);
    }
}

INSTANTIATE_TEST_SUITE_P(designs, FaultsTest, testing::Values(Design::Relayed, Design::ManagerOwned, Design::VmmOwned),
                         [](const auto& test) { return testName(test.param); });

class AnOldVmmThatHasSentAll : public HostFixture {};

/// Nobody else has the guest then: no pause is too long for it.
TEST_F(AnOldVmmThatHasSentAll, mayDieBeforeTheNewOneHasTakenItIn) {
    for (const std::string design : {"manager-owned", "save-restore"}) {
        SCOPED_TRACE(design);
        const std::string definition = workspace.file(
            "vm.yaml",
            referenceDefinition("vm", workspace.referenceVmm("right"), "handover: {design: " + design + ", pause_budget: 1s}\n"));
        ASSERT_EQ(test::start(host, definition).code, ExitCode::Done);
        EventSource death;
        const json report = upgrade(
            {.binary = workspace.referenceVmm("slow", "--fault stream-end=slow:3000")}, [&](const HandoverProgress& progress) {
                if (progress.state == State::Switching)
                    death = EventSource::after(milliseconds(300), [old = progress.oldPid] { ::kill(old, SIGKILL); });
            });
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectNothingLost(report);
        destroy();
    }
}

/// Its last word and its death come together, most often before the new VMM was told to read the file.
TEST_F(AnOldVmmThatHasSentAll, mayDieAsSoonAsItHasSavedItToAFile) {
    const std::string definition =
        workspace.file("vm.yaml", referenceDefinition("vm", workspace.referenceVmm("dying", "--fault completed=die"),
                                                      "handover: {design: save-restore, pause_budget: 5s}\n"));
    const std::string right = workspace.referenceVmm("right");
    for (int attempt = 0; attempt < 5; ++attempt) {
        ASSERT_EQ(test::start(host, definition).code, ExitCode::Done);
        const json report = upgrade({.binary = right});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        expectNothingLost(report);
        destroy();
    }
}

class AClockThatIsSet : public HostFixture {};

/// The wall clock is set by a day while the guest is handed over, as by NTP on a host that came up with a wrong one.
TEST_F(AClockThatIsSet, isNoPauseOfTheGuest) {
    const std::string definition = workspace.file("vm.yaml", referenceDefinition("vm", workspace.referenceVmm("right")));
    ASSERT_EQ(test::start(host, definition).code, ExitCode::Done);
    for (const std::string clock : {"--clock-ahead 86400", "--clock-behind 86400", "--clock-ahead 0"}) {
        const json report = upgrade({.binary = workspace.referenceVmm("new" + clock.substr(7, 4), clock)});
        EXPECT_EQ(report["outcome"], "upgraded") << report.dump(2);
        ASSERT_TRUE(report["vmm"]["stopToResumeMs"].is_number()) << report.dump(2);
        EXPECT_GT(report["vmm"]["stopToResumeMs"], 0) << clock;
        EXPECT_LE(report["vmm"]["stopToResumeMs"], report["totalMs"]) << clock;
    }
}

}  // namespace
}  // namespace vh::test
