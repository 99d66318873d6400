#include "manager/record/last_report.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class LastReportTest : public testing::Test {
 protected:
    LastReportTest() {
        std::filesystem::create_directory(directory_.path());
        report_.old.pid = 4711;
    }
    std::string file() const { return directory_.path() + "/last-report.json"; }

    const TemporaryDirectory runtime_;
    const VmDirectory directory_{runtime_.path(), "web1"};
    HandoverReport report_{.vm = "web1", .design = Design::Relayed, .outcome = State::Lost, .cause = "nobody answers"};
};

TEST_F(LastReportTest, isNoneBeforeThereIsOne) {
    EXPECT_TRUE(lastReport(directory_).is_null());
    EXPECT_EQ(lastReportText(json()), "");
}

TEST_F(LastReportTest, isReadAsItWasKeptAndSaysWhen) {
    keepLastReport(directory_, report_);
    json value = lastReport(directory_);
    EXPECT_THAT(value["at"].get<std::string>(), testing::MatchesRegex("20[0-9-]+T[0-9:]+Z"));
    EXPECT_THAT(lastReportText(value), testing::AllOf(HasSubstr("last handover, ended 20"), HasSubstr("web1: lost"),
                                                      HasSubstr("cause: nobody answers")));
    value.erase("at");
    EXPECT_EQ(value, toJson(report_));
}

TEST_F(LastReportTest, ofARecoverySaysThatItIsOne) {
    report_.recovery = true;
    report_.outcome = State::RolledBack;
    keepLastReport(directory_, report_);
    EXPECT_EQ(lastReport(directory_)["recovery"], true);
    EXPECT_THAT(lastReportText(lastReport(directory_)), HasSubstr("what an earlier one had left half done"));
}

TEST_F(LastReportTest, outlivesTheRecordsReplacementAndGoesWithTheDirectory) {
    keepLastReport(directory_, report_);
    directory_.write({});
    report_.cause = "another";
    keepLastReport(directory_, report_);
    directory_.removeOtherGenerations({});
    EXPECT_EQ(lastReport(directory_)["cause"], "another");
    EXPECT_FALSE(std::filesystem::exists(file() + ".new"));
    directory_.remove();
    EXPECT_TRUE(lastReport(directory_).is_null());
}

TEST_F(LastReportTest, saysSoWhenItCannotBeUnderstood) {
    for (const std::string text : {"", "no JSON", "[]", "{}", "{\"vm\": 5}"}) {
        runtime_.write("web1/last-report.json", text);
        EXPECT_THAT(lastReport(directory_)["error"].get<std::string>(), HasSubstr("cannot be understood"));
        EXPECT_THAT(lastReportText(lastReport(directory_)), HasSubstr("'" + file() + "' cannot be understood"));
    }
    EXPECT_THAT(lastReportText(json{{"vm", "x"}}), HasSubstr("cannot be understood")) << "as of a manager of another version";
}

}  // namespace
}  // namespace vh
