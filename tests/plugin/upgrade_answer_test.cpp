// What upgrade and recover answer of what became of the domains.
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugin/upgrade/recover.h"
#include "plugin/upgrade/upgrade.h"

namespace vh {
namespace {

using testing::HasSubstr;

HandoverReport upgradedReport(bool oldVmmLeft) {
    HandoverReport report{.vm = "libvirt-u", .outcome = State::Upgraded, .oldVmmLeft = oldVmmLeft};
    report.new_ = {.pid = ::getpid(), .alive = true};
    report.old = {.pid = 4711, .alive = oldVmmLeft};
    if (oldVmmLeft) report.warnings = {"the old VMM, pid 4711, does not end"};
    return report;
}

UpgradeSummary summaryOf(const HandoverReport& report) {
    JournalDomain domain{.uuid = "u", .title = "web1", .phase = DomainPhase::HandingOver};
    DomainOutcome outcome{.domain = "web1", .uuid = "u", .outcome = "upgraded"};
    // As the manager's process gives it.
    takeReport(handoverReportFromJson(nlohmann::json::parse(toJson(report).dump())), domain, outcome);
    EXPECT_EQ(domain.phase, DomainPhase::Committed);
    EXPECT_EQ(domain.new_, ProcessIdentity::of(::getpid()));
    return {.domains = {outcome}, .libvirtAwayMs = {}, .warnings = {}};
}

TEST(UpgradeAnswer, saysWhatTheManagerSaysCanBeDone) {
    JournalDomain domain{.uuid = "u", .title = "web1", .phase = DomainPhase::HandingOver};
    DomainOutcome outcome{.domain = "web1", .uuid = "u", .notes = {"as before"}};
    takeReport(
        {.vm = "libvirt-u", .outcome = State::Refused, .cause = "it is too old", .remedy = "install another", .warnings = {"w"}},
        domain, outcome);
    EXPECT_EQ(domain.phase, DomainPhase::HandingOver) << "another manager may be at work on it";
    const std::string text = upgradeText({.domains = {outcome}, .libvirtAwayMs = {}, .warnings = {}});
    EXPECT_THAT(text, HasSubstr("web1: refused   nothing was touched\n  cause: it is too old\n  remedy: install another\n"
                                "  note: as before\n  note: w\n"));
}

TEST(UpgradeAnswer, leavesItToBeFoundOutWhenTheGuestIsLostOrSilent) {
    for (const bool silent : {false, true}) {
        JournalDomain domain{.uuid = "u", .title = "web1", .phase = DomainPhase::HandingOver};
        DomainOutcome outcome{.domain = "web1", .uuid = "u"};
        takeReport({.vm = "libvirt-u", .outcome = silent ? State::Upgraded : State::Lost, .silent = silent}, domain, outcome);
        EXPECT_EQ(domain.phase, DomainPhase::HandingOver);
        EXPECT_EQ(outcome.outcome, "");
    }
}

TEST(UpgradeAnswer, needsAPersonWhenTheOldQemuDoesNotEnd) {
    const UpgradeSummary left = summaryOf(upgradedReport(true)), ended = summaryOf(upgradedReport(false));
    EXPECT_EQ(left.exitCode(), ExitCode::Lost);
    EXPECT_EQ(toJson(left)["domains"][0]["oldQemuLeft"], true);
    EXPECT_THAT(upgradeText(left), HasSubstr("note: the old VMM, pid 4711, does not end"));
    EXPECT_EQ(ended.exitCode(), ExitCode::Done);
    EXPECT_EQ(toJson(ended)["domains"][0]["oldQemuLeft"], false);
}

TEST(RecoverAnswer, needsAPersonWhenTheOldQemuDoesNotEnd) {
    RecoverSummary summary{.domains = {{"web1", "u", "upgraded", "", 4712}}, .warnings = {}};
    EXPECT_EQ(summary.exitCode(), ExitCode::Done);
    summary.domains.front().oldQemuLeft = true;
    EXPECT_EQ(summary.exitCode(), ExitCode::Lost);
    EXPECT_EQ(toJson(summary)["domains"][0]["oldQemuLeft"], true);
}

TEST(RecoverAnswer, namesNoProcessWhereThereIsNone) {
    const RecoverSummary summary{.domains = {{"web1", "u", "ended", "", 0}, {"web2", "v", "upgraded", "", 4711}}, .warnings = {}};
    const std::string text = recoverText(summary);
    EXPECT_THAT(text, HasSubstr("web1: ended\n"));
    EXPECT_THAT(text, HasSubstr("web2: upgraded   pid 4711\n"));
}

}  // namespace
}  // namespace vh
