// What upgrade and recover answer of what became of the domains.
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugin/upgrade/recover.h"
#include "plugin/upgrade/upgrade.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json upgradedReport(bool oldVmmLeft) {
    return {{"outcome", "upgraded"},
            {"new", {{"pid", ::getpid()}, {"alive", true}}},
            {"old", {{"pid", 4711}, {"alive", oldVmmLeft}}},
            {"oldVmmLeft", oldVmmLeft},
            {"warnings", oldVmmLeft ? json{"the old VMM, pid 4711, does not end"} : json::array()}};
}

UpgradeSummary summaryOf(const json& report) {
    JournalDomain domain{.uuid = "u", .title = "web1", .phase = DomainPhase::HandingOver};
    DomainOutcome outcome{.domain = "web1", .uuid = "u", .outcome = "upgraded"};
    takeReport(report, domain, outcome);
    EXPECT_EQ(domain.phase, DomainPhase::Committed);
    EXPECT_EQ(domain.fresh, identityOf(::getpid()));
    return {.domains = {outcome}, .libvirtAwayMs = {}, .warnings = {}};
}

TEST(UpgradeAnswer, needsAPersonWhenTheOldQemuDoesNotEnd) {
    const UpgradeSummary left = summaryOf(upgradedReport(true)), ended = summaryOf(upgradedReport(false));
    EXPECT_EQ(left.exitCode(), ExitCode::Lost);
    EXPECT_EQ(toJson(left)["domains"][0]["oldQemuLeft"], true);
    EXPECT_THAT(upgradeText(toJson(left)), HasSubstr("note: the old VMM, pid 4711, does not end"));
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
    const std::string text = recoverText(toJson(summary));
    EXPECT_THAT(text, HasSubstr("web1: ended\n"));
    EXPECT_THAT(text, HasSubstr("web2: upgraded   pid 4711\n"));
}

}  // namespace
}  // namespace vh
