#include "manager/record/report.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"
#include "tests/support/json_places.h"

namespace vh {
namespace {

using nlohmann::json;

HandoverReport upgraded() {
    HandoverReport report;
    report.vm = "web1";
    report.design = Design::ManagerOwned;
    report.outcome = State::Upgraded;
    report.old = {"/usr/bin/qemu-10.0", "QEMU", "10.0.13", 4711};
    report.new_ = {"/usr/bin/qemu-11.1", "QEMU", "11.1.3", 4712};
    report.steps = {{State::Preflight, 0, 51.5}, {State::Launching, 51.5, 20.25}, {State::Switching, 71.75, 4}};
    report.stopToResumeMs = 4.125;
    report.qemuDowntimeMs = 3;
    report.guest = HeartbeatSummary{.beats = 120,
                                    .lost = 0,
                                    .repeated = 0,
                                    .longestGapMs = 17.25,
                                    .pauseMs = 12.5,
                                    .status = {{"ram_filled", 1}, {"mismatches", 0}},
                                    .errors = {}};
    report.bytesSent = 341'000;
    report.ramBytes = std::uint64_t{512} << 20;
    report.totalMs = 1234.5;
    return report;
}

HandoverReport rolledBack() {
    HandoverReport report = upgraded();
    report.outcome = State::RolledBack;
    report.cause = "the new VMM exited with status 1: cannot load 'vga'";
    report.qemuDowntimeMs.reset();  // Nobody has asked: the old VMM has the guest back.
    report.guest->pauseMs.reset();
    report.guest->errors = {"page 7 differs"};
    report.warnings = {"the old VMM was slow"};
    return report;
}

HandoverReport refused() {
    HandoverReport report;
    report.vm = "web1";
    report.design = Design::VmmOwned;
    report.outcome = State::Refused;
    report.cause = "the new VMM '/opt/qemu' (QEMU 9.0.1) has no machine type 'pc-q35-10.0'";
    report.old = {"/usr/bin/qemu-10.0", "QEMU", "", 4711};
    report.new_ = {"/opt/qemu", "QEMU", "9.0.1", 0};
    report.totalMs = 12;
    return report;
}

RamBlockDifference difference(const std::string& block, Severity severity) {
    return {block, "max_length", "16 MiB", "32 MiB", severity, "the file would grow"};
}

/// Of a reference VMM, for a change: a report always says what it speaks of.
HandoverReport rolledBackForItsMemory() {
    HandoverReport report = upgraded();
    report.outcome = State::RolledBack;
    report.design = Design::Relayed;
    report.old.kind = report.new_.kind = "reference VMM";
    report.cause = "RAM block " + describe(difference("vga.vram", Severity::Fatal));
    report.stopToResumeMs.reset();
    report.qemuDowntimeMs.reset();
    report.guest.reset();
    report.ramBlocksCompared = 9;
    report.ramBlockDifferences = {difference("vga.vram", Severity::Fatal), difference("a", Severity::Harmless),
                                  difference("b", Severity::Adaptable),    difference("c", Severity::Harmless),
                                  difference("d", Severity::Harmless),     difference("e", Severity::Harmless)};
    return report;
}

HandoverReport standingBy() {
    HandoverReport report = upgraded();
    report.passthrough = {{.id = "hd0", .address = "0000:00:10.0", .group = 7, .node = "/dev/vfio/devices/vfio0"}};
    report.outcome = State::StandingBy;
    report.design = Design::Relayed;
    report.new_.kind = "reference VMM";
    report.ramBlocksCompared = 9;
    return report;
}

HandoverReport lost() {
    HandoverReport report = upgraded();
    report.outcome = State::Lost;
    report.cause = "confirming took longer than 10000 ms";
    report.old.alive = report.new_.alive = true;
    report.stopToResumeMs.reset();
    report.qemuDowntimeMs.reset();
    report.guest.reset();
    return report;
}

HandoverReport silent() {
    HandoverReport report = upgraded();
    report.silent = true;
    report.cause = "the guest beat on the old VMM and has not been heard on the new one for 6000 ms, which says of it: 'running'";
    report.guest->pauseMs.reset();
    return report;
}

HandoverReport lostWithItsVmms() {
    HandoverReport report = lost();
    report.cause = "the old VMM was killed by signal 9; the new VMM was ended, since nobody has the guest's memory any more";
    report.old.alive = report.new_.alive = false;
    report.guestIsGone = true;
    return report;
}

/// The new VMM was told to run the guest and died.
HandoverReport lostWithTheNewVmm() {
    HandoverReport report = lost();
    report.cause = "the new VMM was killed by signal 9 by itself";
    report.new_.alive = false;
    report.guestIsGone = true;
    return report;
}

/// As of a VM whose record cannot be read.
HandoverReport lostBeforeItBegan() {
    HandoverReport report;
    report.vm = "web1";
    report.outcome = State::Lost;
    report.cause = "an interrupted handover: nobody answers";
    return report;
}

HandoverReport refusedBeforeItBegan() {
    HandoverReport report = lostBeforeItBegan();
    report.outcome = State::Refused;
    report.cause = "another command is at work on vm 'web1'";
    return report;
}

HandoverReport ready() {
    HandoverReport report = refused();
    report.dryRun = true;
    report.cause = {};
    report.old.version = "10.0.13";
    report.warnings = {"no heartbeat from the guest"};
    return report;
}

std::vector<HandoverReport> all() {
    return {upgraded(),          rolledBack(), rolledBackForItsMemory(), standingBy(),
            refused(),           lost(),       lostWithItsVmms(),        lostWithTheNewVmm(),
            lostBeforeItBegan(), ready(),      refusedBeforeItBegan(),   silent()};
}

std::string shown(const HandoverReport& report) {
    return reportText(report) + "\n" + toJson(report).dump(2) + "\n";
}

TEST(Report, ofAnUpgrade) {
    expectGolden("report-upgraded.txt", shown(upgraded()));
}
TEST(Report, ofARollback) {
    expectGolden("report-rolled-back.txt", shown(rolledBack()));
}
TEST(Report, ofARollbackForRamBlocksThatDiffer) {
    expectGolden("report-ram-blocks.txt", shown(rolledBackForItsMemory()));
}
TEST(Report, ofAStandby) {
    expectGolden("report-standing-by.txt", shown(standingBy()));
}
TEST(Report, ofARefusal) {
    expectGolden("report-refused.txt", shown(refused()));
}
TEST(Report, ofALostVm) {
    expectGolden("report-lost.txt", shown(lost()));
}
TEST(Report, ofAnUpgradeAfterWhichTheGuestIsSilent) {
    expectGolden("report-silent.txt", shown(silent()));
}
TEST(Report, ofAVmThatIsGone) {
    expectGolden("report-gone.txt", shown(lostWithItsVmms()));
}
TEST(Report, ofAGuestThatEndedWithTheNewVmm) {
    expectGolden("report-gone-with-the-new.txt", shown(lostWithTheNewVmm()));
}
TEST(Report, ofAVmThatIsLostBeforeAHandoverBegan) {
    expectGolden("report-lost-before.txt", shown(lostBeforeItBegan()));
}
TEST(Report, ofARefusalBeforeAHandoverBegan) {
    expectGolden("report-refused-before.txt", shown(refusedBeforeItBegan()));
}
TEST(Report, ofADryRun) {
    expectGolden("report-ready.txt", shown(ready()));
}

TEST(Report, isTextWhateverAVmmHasSaid) {
    HandoverReport report = refused();
    report.cause = "the new VMM said: \xff\xfe";
    const nlohmann::json read = nlohmann::json::parse(jsonText(toJson(report)));
    EXPECT_THAT(read["cause"].get<std::string>(), testing::StartsWith("the new VMM said: "));
}

TEST(Report, exitsWithWhatScriptsRelyOn) {
    EXPECT_EQ(static_cast<int>(upgraded().exitCode()), 0);
    EXPECT_EQ(static_cast<int>(refused().exitCode()), 2);
    EXPECT_EQ(static_cast<int>(rolledBack().exitCode()), 3);
    EXPECT_EQ(static_cast<int>(lost().exitCode()), 4);
    EXPECT_EQ(static_cast<int>(silent().exitCode()), 4);
    EXPECT_EQ(static_cast<int>(ready().exitCode()), 0);
    EXPECT_EQ(static_cast<int>(standingBy().exitCode()), 0);
}

TEST(Report, callsALostGuestLostThoughItWasSilentBefore) {
    HandoverReport report = silent();
    report.outcome = State::Lost;
    EXPECT_EQ(toJson(report)["outcome"], "lost");
}

TEST(Report, needsAPersonWhenTheOldVmmDoesNotEnd) {
    HandoverReport report = upgraded();
    report.oldVmmLeft = true;
    EXPECT_EQ(static_cast<int>(report.exitCode()), 4);
    EXPECT_EQ(toJson(report)["outcome"], "upgraded") << "for the guest runs on the new VMM";
}

TEST(Report, ofALostVmPointsAtWhatIsLeftAndAtNothingElse) {
    HandoverReport report = lost();
    const auto firstLine = [&] {
        const std::string text = reportText(report);
        return text.substr(0, text.find('\n'));
    };
    const std::string old = std::to_string(report.old.pid), newPid = std::to_string(report.new_.pid);
    EXPECT_THAT(firstLine(), testing::AllOf(testing::HasSubstr(old), testing::HasSubstr(newPid)));
    report.new_.alive = false;
    EXPECT_THAT(firstLine(), testing::AllOf(testing::HasSubstr("look at pid " + old), testing::Not(testing::HasSubstr(newPid))));
    report.guestIsGone = true;
    EXPECT_THAT(reportText(report),
                testing::AllOf(testing::HasSubstr("the guest is gone"), testing::HasSubstr("'virt-handover destroy web1'"),
                               testing::HasSubstr("'virt-handover start web1'"), testing::Not(testing::HasSubstr("--dry-run")),
                               testing::Not(testing::HasSubstr("may run there")), testing::Not(testing::HasSubstr(newPid))));
    report.old.alive = false;
    EXPECT_THAT(firstLine(), testing::HasSubstr("the guest is gone; 'virt-handover start web1' starts it anew"));
    report.old.pid = report.new_.pid = 0;
    EXPECT_THAT(firstLine(), testing::Not(testing::HasSubstr("pid")));
}

TEST(Report, namesItsOutcomes) {
    EXPECT_EQ(outcomeName(State::Refused), "refused");
    EXPECT_EQ(outcomeName(State::RolledBack), "rolled back");
    EXPECT_EQ(outcomeName(State::Upgraded), "upgraded");
    EXPECT_EQ(outcomeName(State::Lost), "lost");
}

TEST(Report, readsTheSameWhenItCameOverTheWire) {
    for (const HandoverReport& report : all()) {
        const HandoverReport there = handoverReportFromJson(json::parse(toJson(report).dump()));
        EXPECT_EQ(toJson(there), toJson(report));
        EXPECT_EQ(reportText(there), reportText(report));
        EXPECT_EQ(there.exitCode(), report.exitCode());
    }
}

TEST(Report, isReadThoughALaterVersionSaysMore) {
    json value = toJson(upgraded());
    value["moon"] = "full";
    value["old"]["mood"] = 7;
    EXPECT_EQ(reportText(handoverReportFromJson(value)), reportText(upgraded()));
    value.erase("remedy");
    value["vmm"].erase("qemuDowntimeMs");
    HandoverReport earlier = upgraded();
    earlier.qemuDowntimeMs.reset();
    EXPECT_EQ(reportText(handoverReportFromJson(value)), reportText(earlier)) << "as of an earlier version";
}

TEST(Report, saysWhatCanBeDoneAboutTheCause) {
    HandoverReport report = refused();
    report.remedy = "install QEMU 10.0 or later";
    EXPECT_THAT(reportText(report), testing::HasSubstr("\n  remedy: install QEMU 10.0 or later\n"));
    EXPECT_EQ(toJson(report)["remedy"], "install QEMU 10.0 or later");
    EXPECT_EQ(handoverReportFromJson(toJson(report)).remedy, report.remedy);
    EXPECT_THAT(reportText(refused()), testing::Not(testing::HasSubstr("remedy")));
}

/// A daemon of another version answers, or one that has been damaged: it is understood or refused, and nothing else happens.
TEST(Report, isReadOrRefusedWhateverIsInIt) {
    const std::vector<json> others{nullptr,
                                   true,
                                   -1,
                                   18446744073709551615U,
                                   1e308,
                                   "text",
                                   "",
                                   "\xff",
                                   json::array(),
                                   json::array({nullptr, 5, "x"}),
                                   json::object(),
                                   json{{"a", 1}}};
    const auto isRead = [](const json& value) {
        try {
            return !reportText(handoverReportFromJson(value)).empty();
        } catch (const std::exception& error) {
            EXPECT_STRNE(error.what(), "");
            return false;
        }
    };
    for (const HandoverReport& report : all()) {
        const json whole = toJson(report);
        EXPECT_TRUE(isRead(whole));
        for (const json::json_pointer& place : places(whole)) {
            for (const json& other : others) {
                json changed = whole;
                changed[place] = other;
                isRead(changed);
            }
            if (!place.empty()) isRead(without(whole, place));
        }
        for (const char* key : {"/outcome", "/old", "/steps", "/warnings"}) {
            json changed = whole;
            changed[json::json_pointer(key)] = 5;
            EXPECT_FALSE(isRead(changed)) << key;
        }
    }
}

}  // namespace
}  // namespace vh
