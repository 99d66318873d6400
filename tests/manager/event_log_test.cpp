#include "manager/service/event_log.h"

#include <fcntl.h>
#include <poll.h>
#include <syslog.h>
#include <unistd.h>

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vmm-shim/unique_fd.h"

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
    ServiceLog("virt-handoverd").tell(logEntryOf(report));
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_THAT(said, AllOf(testing::StartsWith("virt-handoverd: vm 'web1': lost, "), Not(HasSubstr("\x1b"))));
}

/// Has standard error lead into a pipe that nobody reads until it is asked what came.
class UnreadErrors {
 public:
    UnreadErrors() : before_(::dup(STDERR_FILENO)) {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
        reading_ = UniqueFd(ends[0]);
        const UniqueFd writing(ends[1]);
        const std::string page(4096, '.');
        while (::write(writing.get(), page.data(), page.size()) > 0) continue;
        ::fcntl(writing.get(), F_SETFL, 0);
        ::dup2(writing.get(), STDERR_FILENO);
    }
    UnreadErrors(const UnreadErrors&) = delete;
    ~UnreadErrors() { ::dup2(before_.get(), STDERR_FILENO); }

    /// What is read until `last` has come; for a minute at most.
    std::string readUntil(const std::string& last) const {
        std::string text;
        for (int second = 0; second < 60 && text.find(last) == std::string::npos; ++second) {
            pollfd entry{reading_.get(), POLLIN, 0};
            char buffer[4096];
            for (ssize_t length; ::poll(&entry, 1, 1000) > 0 && (length = ::read(reading_.get(), buffer, sizeof buffer)) > 0;)
                text.append(buffer, static_cast<std::size_t>(length));
        }
        return text;
    }

 private:
    UniqueFd before_, reading_;
};

TEST(EventLog, keepsNobodyWaitingForAReader) {
    const UnreadErrors errors;
    ServiceLog log("tester");
    for (int i = 0; i < 1'500; ++i) log.tell({LOG_INFO, "line " + std::to_string(i), {}});
    log.tell({LOG_ERR, "a person is needed", {}});
    EXPECT_THAT(errors.readUntil("are lost: 500\n"),
                AllOf(HasSubstr("tester: line 0\n"), HasSubstr("tester: line 999\n"), HasSubstr("tester: a person is needed\n"),
                      HasSubstr("tester: lines that nobody read, and that are lost: 500\n")));
}

TEST(EventLog, endsAlthoughNobodyReads) {
    const UnreadErrors errors;
    ServiceLog("tester").tell({LOG_INFO, "a line", {}});
    EXPECT_THAT(errors.readUntil("a line\n"), HasSubstr("tester: a line\n"));
}

}  // namespace
}  // namespace vh
