#include "manager/service/event_log.h"

#include <syslog.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vh {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

HandoverReport ended(State outcome) {
    HandoverReport report{.vm = "web1", .design = Design::Relayed, .outcome = outcome};
    report.old = {"/usr/bin/qemu-10.0", "QEMU", "10.0.13", 4711};
    report.new_ = {"/usr/bin/qemu-11.1", "QEMU", "11.1.3", 4712};
    report.stopToResumeMs = 4.125;
    return report;
}

TEST(EventLog, saysOfAnUpgradeWhatThereIsToKnow) {
    const LogEntry entry = logEntryOf(ended(State::Upgraded));
    EXPECT_EQ(entry.text, "vm 'web1': upgraded, design relayed, paused 4.1 ms, old pid 4711, new pid 4712");
    EXPECT_EQ(entry.fields, (std::map<std::string, std::string>{{"VIRT_HANDOVER_VM", "web1"},
                                                                {"VIRT_HANDOVER_OUTCOME", "upgraded"},
                                                                {"VIRT_HANDOVER_DESIGN", "relayed"},
                                                                {"VIRT_HANDOVER_PAUSE_MS", "4.1"},
                                                                {"VIRT_HANDOVER_OLD_PID", "4711"},
                                                                {"VIRT_HANDOVER_OLD_VERSION", "10.0.13"},
                                                                {"VIRT_HANDOVER_NEW_PID", "4712"},
                                                                {"VIRT_HANDOVER_NEW_VERSION", "11.1.3"}}));
}

TEST(EventLog, saysWhyAndWhatCanBeDone) {
    HandoverReport report{.vm = "web1", .outcome = State::Refused, .cause = "it is too old", .remedy = "install another"};
    const LogEntry entry = logEntryOf(report);
    EXPECT_EQ(entry.text, "vm 'web1': refused; cause: it is too old; remedy: install another");
    EXPECT_EQ(entry.fields.at("VIRT_HANDOVER_CAUSE"), "it is too old");
    EXPECT_FALSE(entry.fields.contains("VIRT_HANDOVER_NEW_PID")) << "there was none";
}

TEST(EventLog, goesByWhatItsReaderShouldDo) {
    EXPECT_EQ(logEntryOf(ended(State::Lost)).priority, LOG_ERR);
    EXPECT_EQ(logEntryOf(ended(State::RolledBack)).priority, LOG_WARNING);
    EXPECT_EQ(logEntryOf(ended(State::Upgraded)).priority, LOG_NOTICE);
    EXPECT_EQ(logEntryOf(ended(State::Refused)).priority, LOG_INFO);
    HandoverReport report = ended(State::Upgraded);
    report.oldVmmLeft = true;
    EXPECT_EQ(logEntryOf(report).priority, LOG_WARNING);
    EXPECT_THAT(logEntryOf(report).text, HasSubstr("the old VMM does not end"));
    report.silent = true;
    EXPECT_EQ(logEntryOf(report).priority, LOG_ERR);
    EXPECT_EQ(logEntryOf(report).fields.at("VIRT_HANDOVER_OUTCOME"), "silent");
}

TEST(EventLog, tellsARecoveryFromAHandover) {
    HandoverReport report = ended(State::RolledBack);
    report.recovery = true;
    EXPECT_THAT(logEntryOf(report).text, HasSubstr("what an earlier manager left half done is settled: rolled back"));
    EXPECT_EQ(logEntryOf(report).fields.at("VIRT_HANDOVER_RECOVERY"), "1");
    report.outcome = State::Lost;
    EXPECT_THAT(logEntryOf(report).text, AllOf(HasSubstr("lost"), Not(HasSubstr("settled"))));
}

TEST(EventLog, isOneLineOnStandardErrorWhereThatIsNotTheJournal) {
    HandoverReport report = ended(State::Lost);
    report.cause = "the new VMM said: a\nb\x1b[31m";
    testing::internal::CaptureStderr();
    log("virt-handoverd", logEntryOf(report));
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_THAT(said, AllOf(testing::StartsWith("virt-handoverd: vm 'web1': lost, "), Not(HasSubstr("\x1b"))));
}

}  // namespace
}  // namespace vh
