#include "manager/compare/answer.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/compare/results_file.h"
#include "tests/support/sample_results.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;
using testing::StartsWith;

std::vector<std::string> answerTo(const std::vector<json>& cells) {
    const Results results = resultsOf(sampleResults(cells));
    return answerOf(results, summarize(results));
}

std::vector<std::string> answerTo(const json& cell) {
    return answerTo(std::vector{cell});
}

/// As long as `reference`, times `factor`, in each round but for some noise that falls on both.
json seriesOf(const std::string& design, double factor, std::size_t rounds, double guestFactor = 1) {
    json series = sampleSeries(design, times(40, rounds, 7, 0.2));
    const std::vector<double> noise = times(1, rounds, design.size(), 0.01);
    for (std::size_t i = 0; i < rounds; ++i) {
        json& round = series["rounds"][i];
        round["guestPauseMs"] = (round["stopToResumeMs"].get<double>() + 50) * noise[i] * guestFactor;
        round["stopToResumeMs"] = round["stopToResumeMs"].get<double>() * noise[i] * factor;
    }
    return series;
}

void loses(json& series, int lost) {
    for (json& round : series["rounds"]) round["network"] = {{"sent", 400}, {"lost", lost}, {"longestGapMs", 50}};
}

TEST(Answer, saysWhoShouldOwnGuestRamByWhatWasShown) {
    const auto answer = answerTo(
        sampleCell("c", {seriesOf("relayed", 1, 30), seriesOf("manager-owned", 0.93, 30), seriesOf("vmm-owned", 1, 30)}));
    ASSERT_THAT(answer, SizeIs(3));
    EXPECT_THAT(answer[0], StartsWith("By STOP to RESUME the guest loses less time when the manager owns its RAM: by STOP to "
                                      "RESUME manager-owned takes 0.93 times as long as vmm-owned under KVM (nested) (95 % 0.9"));
    EXPECT_THAT(answer[0], EndsWith(", p < 0.0001), p corrected for 2 tests."));
    EXPECT_THAT(answer[0], Not(HasSubstr("heartbeats"))) << "what the claim does not rest on";
}

TEST(Answer, saysThatItsTestsWereChosenAfterTheRounds) {
    json results = sampleResults({sampleCell("c", {seriesOf("manager-owned", 1, 30), seriesOf("vmm-owned", 1, 30)})});
    results["settings"].erase("primaryMetrics");
    const Results earlier = resultsOf(results);
    EXPECT_THAT(answerOf(earlier, summarize(earlier))[0],
                AllOf(StartsWith("To the guest it makes no difference beyond 10 %"), HasSubstr(" (90 % "),
                      EndsWith("); its tests were chosen after the rounds.")));
}

TEST(Answer, claimsNothingByTestsThatWereChosenAfterTheRounds) {
    json results = sampleResults({sampleCell("c", {seriesOf("manager-owned", 0.5, 30), seriesOf("vmm-owned", 1, 30)})});
    results["settings"].erase("primaryMetrics");
    const Results earlier = resultsOf(results);
    EXPECT_THAT(
        answerOf(earlier, summarize(earlier))[0],
        AllOf(StartsWith("Nothing is claimed of who should own guest RAM, the manager or the VMM, as its tests were chosen after "
                         "the rounds: by STOP to RESUME manager-owned takes 0.5"),
              EndsWith(", p < 0.0001), p corrected for 2 tests.")));
}

TEST(Answer, saysWhichClaimsNeedSingleCells) {
    std::vector<json> cells;
    for (const double factor : {2., 2., 2., 0.5})
        cells.push_back(sampleCell("c" + std::to_string(cells.size()),
                                   {sampleSeries("vmm-owned", std::vector<double>(12, 10)),
                                    sampleSeries("manager-owned", std::vector<double>(12, 10 * factor))}));
    EXPECT_THAT(answerTo(cells)[0], HasSubstr(", not without each of 3 of its 4 cells)"));
    cells.pop_back();
    EXPECT_THAT(answerTo(cells)[0], Not(HasSubstr("not without")));
}

json under(const std::string& accelerator, const std::vector<json>& series) {
    json cell = sampleCell(accelerator, series);
    cell["accelerator"] = accelerator;
    return cell;
}

TEST(Answer, saysByNameWhatHoldsUnderWhichAccelerator) {
    const auto answer = answerTo(std::vector{
        under("tcg", {seriesOf("relayed", 1, 30), seriesOf("manager-owned", 1, 30), seriesOf("vmm-owned", 1, 30, 1.5)}),
        under("kvm", {seriesOf("relayed", 1, 30), seriesOf("manager-owned", 0.5, 30), seriesOf("vmm-owned", 1, 30)})});
    ASSERT_THAT(answer, SizeIs(3));
    EXPECT_THAT(answer[0],
                StartsWith("By STOP to RESUME under KVM (nested) and guest pause (heartbeats) under TCG the guest loses "
                           "less time when the manager owns its RAM: by STOP to RESUME manager-owned takes 1.0"));
    EXPECT_THAT(answer[0], HasSubstr(" times as long as vmm-owned under TCG (9"));
    EXPECT_THAT(answer[0], HasSubstr(" times under KVM (nested) (95 % "));
    EXPECT_THAT(answer[0], HasSubstr("; by guest pause (heartbeats) 0.6"));
    EXPECT_THAT(answer[0], EndsWith(", p corrected for 4 tests."));
    // A nested guest beats too unevenly for its pause to go before what QEMU says.
    EXPECT_THAT(answer[1],
                StartsWith("vmm-owned under TCG pauses the guest for longer and manager-owned under KVM (nested) pauses "
                           "the guest for a shorter time than relayed: under TCG by heartbeats 1.5"));
    EXPECT_THAT(answer[1], HasSubstr("; under KVM (nested), where beats come too unevenly, by STOP to RESUME 0.5"));
    EXPECT_THAT(answer[1],
                EndsWith(" tests; no difference is shown with manager-owned under TCG and vmm-owned under KVM (nested)."));
}

TEST(Answer, turnsWithTheResult) {
    const auto first = [](double factor, double guestFactor) {
        return answerTo(sampleCell("c", {seriesOf("manager-owned", factor, 30, guestFactor), seriesOf("vmm-owned", 1, 30)}))[0];
    };
    EXPECT_THAT(first(2, 1.5), StartsWith("By STOP to RESUME and guest pause (heartbeats) the guest loses less time when the VMM "
                                          "owns its RAM: by STOP to RESUME manager-owned takes 1.99 times"));
    EXPECT_THAT(first(0.5, 2), StartsWith("Who should own guest RAM, the manager or the VMM, depends on what counts: "));
    EXPECT_THAT(first(1, 1), StartsWith("To the guest it makes no difference beyond 10 % who owns its RAM"));
}

TEST(Answer, saysNoMoreThanRoundsShow) {
    json wild = sampleSeries("vmm-owned", times(40, 30, 3, 1.5)), other = sampleSeries("manager-owned", times(40, 30, 4, 1.5));
    EXPECT_THAT(answerTo(sampleCell("c", {other, wild}))[0], StartsWith("No difference is shown between guest RAM that"));
    EXPECT_THAT(
        answerTo(sampleCell("c", {seriesOf("manager-owned", 1, 5), seriesOf("vmm-owned", 9, 5)}))[0],
        StartsWith("Too few rounds to say who should own guest RAM, the manager or the VMM: by STOP to RESUME manager-owned "
                   "takes 0.11 times as long as vmm-owned under KVM (nested) (few rounds: min 0.1"));
    for (std::size_t i = 0; i < 20; ++i) wild["rounds"][i]["disturbed"] = true;
    EXPECT_THAT(answerTo(sampleCell("c", {other, wild}))[0], StartsWith("The host was too busy to say who should own"));
}

TEST(Answer, isNotGivenByDesignsThatDoNotDifferInIt) {
    EXPECT_THAT(answerTo(sampleCell("c", {seriesOf("relayed", 1, 12), seriesOf("copy", 4, 12)}))[0],
                EndsWith("is not answered here: no two designs that differ in it were measured."));
}

TEST(Answer, saysHowTheOtherDesignsCompare) {
    const auto pause = [](std::vector<json> series) { return answerTo(under("tcg", series))[1]; };
    const std::string text = pause({seriesOf("relayed", 1, 30), seriesOf("manager-owned", 1, 30), seriesOf("vmm-owned", 1, 30),
                                    seriesOf("vmm-exec", 6, 30, 3), seriesOf("copy", 4, 6)});
    EXPECT_THAT(text, StartsWith("vmm-exec pauses the guest for longer than relayed: under TCG by heartbeats 3.0"));
    EXPECT_THAT(text, HasSubstr(" times as long with vmm-exec (95 % "));
    EXPECT_THAT(text,
                EndsWith(", p < 0.0001), p corrected for 10 tests; no difference is shown with manager-owned and vmm-owned."));
    EXPECT_THAT(text, Not(HasSubstr("copy"))) << "of few rounds, beside others of enough";
    EXPECT_THAT(pause({seriesOf("relayed", 1, 6), seriesOf("copy", 4, 6)}),
                HasSubstr(" times as long with copy (few rounds: min "));

    EXPECT_THAT(pause({seriesOf("relayed", 1, 30), seriesOf("vmm-owned", 1, 30)}),
                AllOf(StartsWith("vmm-owned pauses the guest for as long as relayed does, within 10 %: under TCG by heartbeats "),
                      HasSubstr(" times as long with vmm-owned (90 % "), Not(HasSubstr("p ="))));
    EXPECT_THAT(pause({seriesOf("relayed", 1, 30), seriesOf("vmm-owned", 1, 30), seriesOf("manager-owned", 1, 30)}),
                StartsWith("No design pauses the guest for longer or for a shorter time than relayed, by more than 10 %: "));
    EXPECT_THAT(pause({seriesOf("relayed", 1, 30), seriesOf("vmm-owned", 1, 30), seriesOf("cpr-transfer", 9, 30)}),
                AllOf(StartsWith("vmm-owned pauses the guest for as long as relayed does"), Not(HasSubstr("cpr-transfer"))));
    EXPECT_THAT(pause({seriesOf("relayed", 1, 3), seriesOf("vmm-owned", 1, 3)}),
                StartsWith("Too few rounds to say which design pauses the guest for longer than relayed: "));
    EXPECT_THAT(pause({seriesOf("relayed", 1, 12), seriesOf("vmm-owned", 1, 12, 0.5), seriesOf("vmm-exec", 6, 12, 3),
                       seriesOf("copy", 6, 12, 4)}),
                StartsWith("vmm-exec and copy pause the guest for longer and vmm-owned pauses the guest for a shorter time than "
                           "relayed: "));

    json silent = seriesOf("vmm-exec", 6, 12), reference = seriesOf("relayed", 1, 12);
    for (json* series : {&silent, &reference})
        for (json& round : (*series)["rounds"]) round["guestPauseMs"] = nullptr;
    EXPECT_THAT(pause({reference, silent}),
                StartsWith("vmm-exec pauses the guest for longer than relayed: under TCG by STOP to RESUME 5.9"));
}

TEST(Answer, hasThreeSentencesThatAPersonReads) {
    std::vector<json> cells;
    for (const char* accelerator : {"tcg", "kvm"})
        cells.push_back(
            under(accelerator, {seriesOf("relayed", 1, 30), seriesOf("manager-owned", 1, 30), seriesOf("vmm-owned", 1, 30),
                                seriesOf("vmm-exec", 6, 30, 3), seriesOf("cpr-transfer", 1, 30)}));
    for (const std::string& sentence : answerTo(cells)) EXPECT_LE(sentence.size(), 420u) << sentence;
}

TEST(Answer, comparesNothingWhereThereIsOneDesign) {
    const auto answer = answerTo(sampleCell("c", {sampleSeries("copy", {10, 10, 10})}));
    ASSERT_THAT(answer, SizeIs(3));
    EXPECT_EQ(answer[0], "Only copy has handovers that count, so no designs are compared.");
    EXPECT_EQ(answer[1], "The guest pauses for a median of 10.0 ms with copy, by STOP to RESUME.") << "KVM, nested";
    EXPECT_EQ(answerTo(under("tcg", {sampleSeries("copy", {10, 10, 10})}))[1],
              "The guest pauses for a median of 11.5 ms with copy, by heartbeats.");
}

TEST(Answer, saysWhatEveryDesignLoses) {
    json one = seriesOf("relayed", 1, 12), other = seriesOf("vmm-exec", 6, 12), again = one;
    loses(one, 8);
    loses(again, 10);
    loses(other, 54);
    const auto third = [&] { return answerTo(std::vector{sampleCell("a", {one, other}), sampleCell("b", {again})})[2]; };
    EXPECT_THAT(third(), StartsWith("Every design loses packets: of echo requests, a median in each handover of 8 - 10 with "
                                    "relayed and 54 with vmm-exec; of 36 handovers 0 failed, 0 are left out"));
    loses(one, 0);
    loses(other, 0);
    EXPECT_THAT(third(), StartsWith("relayed loses packets: of echo requests, a median in each handover of 0 - 10 with relayed, "
                                    "and 0 with all others; "));
    loses(again, 0);
    EXPECT_THAT(third(), StartsWith("As a rule no packet is lost: of echo requests, a median in each handover of 0 with relayed "
                                    "and vmm-exec; "));
    EXPECT_THAT(answerTo(sampleCell("c", {sampleSeries("copy", {10})}))[2],
                StartsWith("What the network lost was not measured;"));
}

TEST(Answer, saysWhereAloneThereIsANetwork) {
    json with = seriesOf("relayed", 1, 12), without = with;
    loses(with, 2);
    const auto third = [&] { return answerTo(std::vector{under("tcg", {with}), under("kvm", {without})})[2]; };
    EXPECT_THAT(third(), StartsWith("Under TCG, where alone the guest has a network, every design loses packets: of echo "));
    loses(with, 0);
    EXPECT_THAT(third(), StartsWith("Under TCG, where alone the guest has a network, as a rule no packet is lost: "));
    loses(without, 0);
    EXPECT_THAT(third(), StartsWith("As a rule no packet is lost: "));
}

TEST(Answer, hidesNothingThatWentWrong) {
    json series = seriesOf("relayed", 1, 12), missing = sampleSeries("vmm-exec", {});
    missing["notRun"] = "QEMU 10.0 has no cpr-exec";
    series["rounds"][0] = failedRound(1, 1, "it ended");
    series["rounds"][1]["disturbed"] = true;
    series["rounds"][2]["network"] = {{"sent", 9}, {"lost", 8}, {"longestGapMs", 900}, {"notBack", true}};
    const json cell = sampleCell("c", {series, missing});
    EXPECT_THAT(answerTo(cell)[2],
                EndsWith("; of 12 handovers 1 failed, 1 is left out since the host was disturbed, and after 1 the guest or its "
                         "network was not "
                         "back at speed when the window ended; not run, or not to the end: vmm-exec in 1 of 1 cell."));
    EXPECT_THAT(answerTo(cell)[2], Not(HasSubstr("WRONG")));
    series["rounds"][3]["patterns"]["intact"] = false;
    EXPECT_THAT(answerTo(sampleCell("c", {series}))[2],
                StartsWith("THE GUEST'S DATA OR TIME WAS WRONG after 1 handover. Every design loses packets: "));
}

TEST(Answer, saysNothingOfDesignsWithoutAHandoverThatCounts) {
    EXPECT_EQ(answerTo(std::vector<json>{}),
              std::vector<std::string>{"There is no handover yet, so nothing can be said of the designs."});
    json series = sampleSeries("relayed", {1, 2});
    for (int i : {0, 1}) series["rounds"][static_cast<std::size_t>(i)] = failedRound(i + 1, 1, "it ended");
    const auto answer = answerTo(sampleCell("c", {series}));
    ASSERT_THAT(answer, SizeIs(2));
    EXPECT_EQ(answer[0], "Of 2 handovers none can be counted, so nothing can be said of what a design costs.");
    EXPECT_THAT(answer[1], HasSubstr("; of 2 handovers 2 failed, "));
}

TEST(Answer, isInTheSummaryThatFilesHave) {
    const Results results = resultsOf(sampleResults({sampleCell("c", {sampleSeries("copy", {10})})}));
    const Summary summary = summarize(results);
    EXPECT_EQ(toJson(results, &summary).at("summary").at("answer"), json(answerOf(results, summary)));
    EXPECT_EQ(toJson(results).at("summary"), nullptr);
}

}  // namespace
}  // namespace vh
