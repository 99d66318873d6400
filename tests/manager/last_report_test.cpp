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
    EXPECT_FALSE(lastReport(directory_));
}

TEST_F(LastReportTest, isReadAsItWasKeptAndSaysWhen) {
    keepLastReport(directory_, report_);
    const LastReport last = lastReport(directory_).value();
    json value = toJson(last);
    EXPECT_THAT(value["at"].get<std::string>(), testing::MatchesRegex("20[0-9-]+T[0-9:]+Z"));
    EXPECT_THAT(lastReportText(last), testing::AllOf(HasSubstr("last handover, ended 20"), HasSubstr("web1: lost"),
                                                     HasSubstr("cause: nobody answers")));
    EXPECT_EQ(lastReportText(lastReportFromJson(value)), lastReportText(last));
    value.erase("at");
    EXPECT_EQ(value, toJson(report_));
}

TEST_F(LastReportTest, ofARecoverySaysThatItIsOne) {
    report_.recovery = true;
    report_.outcome = State::RolledBack;
    keepLastReport(directory_, report_);
    EXPECT_EQ(toJson(lastReport(directory_).value())["recovery"], true);
    EXPECT_THAT(lastReportText(lastReport(directory_).value()), HasSubstr("what an earlier one had left half done"));
}

TEST_F(LastReportTest, outlivesTheRecordsReplacementAndGoesWithTheDirectory) {
    keepLastReport(directory_, report_);
    directory_.write({});
    report_.cause = "another";
    keepLastReport(directory_, report_);
    directory_.removeOtherGenerations({});
    EXPECT_EQ(lastReport(directory_).value().report.cause, "another");
    EXPECT_FALSE(std::filesystem::exists(file() + ".new"));
    directory_.remove();
    EXPECT_FALSE(lastReport(directory_));
}

TEST_F(LastReportTest, saysSoWhenItCannotBeUnderstood) {
    for (const std::string text : {"", "no JSON", "[]", "{}", "{\"vm\": 5}"}) {
        runtime_.write("web1/last-report.json", text);
        const json value = toJson(lastReport(directory_).value());
        EXPECT_THAT(value["error"].get<std::string>(), HasSubstr("'" + file() + "' cannot be understood"));
        EXPECT_EQ(lastReportText(lastReportFromJson(value)), "last handover: " + value["error"].get<std::string>() + "\n");
    }
    EXPECT_THAT(lastReportText(lastReportFromJson({{"vm", "x"}})), HasSubstr("cannot be understood"))
        << "as of a manager of another version";
}

}  // namespace
}  // namespace vh
