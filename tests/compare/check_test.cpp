#include "manager/compare/check.h"

#include <algorithm>
#include <stdexcept>

#include <gtest/gtest.h>

#include "manager/compare/results_file.h"
#include "tests/support/sample_results.h"

namespace vh {
namespace {

using nlohmann::json;

json sampleOf(const std::vector<json>& series) {
    return sampleResults({sampleCell("c1", series)});
}

CheckResult check(const json& baseline, const json& now, double tolerance = 1.10) {
    return vh::check(resultsOf(baseline), resultsOf(now), tolerance);
}

bool has(const std::vector<CheckFinding>& findings, const std::string& figure) {
    return std::ranges::any_of(findings, [&](const CheckFinding& finding) { return finding.figure == figure; });
}

bool says(const std::vector<std::string>& lines, const std::string& part) {
    return std::ranges::any_of(lines, [&](const std::string& line) { return line.find(part) != std::string::npos; });
}

/// Sets a figure of every round.
json with(json series, const std::string& pointer, const json& value) {
    for (json& round : series["rounds"]) round[json::json_pointer(pointer)] = value;
    return series;
}

TEST(Check, findsNothingBetweenResultsAndThemselves) {
    const json results = sampleOf({sampleSeries("relayed", times(12, 20, 1)), sampleSeries("copy", times(90, 20, 2))});
    const CheckResult result = check(results, results);
    EXPECT_TRUE(result.regressions.empty());
    EXPECT_TRUE(result.improvements.empty());
    EXPECT_TRUE(result.notCompared.empty());
    EXPECT_TRUE(result.remarks.empty());
    // STOP to RESUME, guest pause, the whole handover, the time without a way back and RAM copied, of two designs.
    EXPECT_EQ(result.comparisons, 10u);
    EXPECT_NEAR(result.confidence, 1 - 0.05 / 10, 1e-12);
    EXPECT_EQ(checkText(result), "0 regressions and 0 improvements in 10 comparisons of figures; tolerance 1.10\n");
}

TEST(Check, findsAMedianThatGrewByMoreThanTheTolerance) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 20, 1))}),
               now = sampleOf({sampleSeries("relayed", times(24, 20, 2))});
    const CheckResult result = check(before, now);
    ASSERT_TRUE(has(result.regressions, "stopToResumeMs"));
    EXPECT_TRUE(has(result.regressions, "guestPauseMs"));
    EXPECT_FALSE(has(result.regressions, "totalMs"));
    const CheckFinding& found = result.regressions.front();
    EXPECT_EQ(found.configuration, "c1");
    EXPECT_EQ(found.design, "relayed");
    ASSERT_TRUE(found.interval);
    EXPECT_NEAR(found.interval->median, 2, 0.2);
    EXPECT_GT(found.interval->low, 1.1);
    EXPECT_NE(found.text.find("512 MiB of RAM, 1 CPU, idle: relayed: STOP to RESUME "), std::string::npos) << found.text;
    EXPECT_NE(found.text.find("(99 % "), std::string::npos) << found.text;
    EXPECT_TRUE(has(check(now, before).improvements, "stopToResumeMs"));
    EXPECT_TRUE(check(now, before).regressions.empty());
}

TEST(Check, letsAMedianGrowWithinTheTolerance) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 40, 1, 0.02))}),
               now = sampleOf({sampleSeries("relayed", times(13.8, 40, 2, 0.02))});
    EXPECT_TRUE(has(check(before, now, 1.10).regressions, "stopToResumeMs"));
    EXPECT_FALSE(has(check(before, now, 1.20).regressions, "stopToResumeMs"));
    EXPECT_THROW(check(before, now, 0.9), std::invalid_argument);
}

TEST(Check, seldomCriesWolfHoweverManyFiguresThereAre) {
    int wolves = 0;
    constexpr int checks = 40;
    for (std::uint64_t i = 0; i < checks; ++i) {
        std::vector<json> before, now;
        for (std::uint64_t cell = 0; cell < 10; ++cell) {
            before.push_back(
                sampleCell("c" + std::to_string(cell), {sampleSeries("relayed", times(12, 12, 1000 + i * 20 + cell, 0.5))}));
            now.push_back(
                sampleCell("c" + std::to_string(cell), {sampleSeries("relayed", times(12, 12, 5000 + i * 20 + cell, 0.5))}));
        }
        wolves += !check(sampleResults(before), sampleResults(now), 1).regressions.empty();
    }
    EXPECT_LE(wolves, 4);
}

TEST(Check, findsADesignThatFailsNow) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 10, 1))});
    json now = before;
    now["cells"][0]["series"][0]["rounds"][3] = failedRound(4, 1, "no answer");
    const CheckResult result = check(before, now);
    ASSERT_TRUE(has(result.regressions, "failures"));
    EXPECT_EQ(result.regressions.front().text,
              "512 MiB of RAM, 1 CPU, idle: relayed: 1 of 10 rounds failed now, 0 of 10 before: rolled back: no answer");
    EXPECT_TRUE(has(check(now, before).improvements, "failures"));
    EXPECT_TRUE(check(now, now).regressions.empty());
}

TEST(Check, findsADesignThatLostItsWayBack) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 12, 1))});
    json rolledBack = before, lost = before, later = before;
    for (json* results : {&rolledBack, &lost}) (*results)["cells"][0]["series"][0]["rounds"][3] = failedRound(4, 1, "no answer");
    lost["cells"][0]["series"][0]["rounds"][3]["outcome"] = "lost";
    EXPECT_FALSE(has(check(before, rolledBack).regressions, "wayBack"));
    EXPECT_TRUE(has(check(before, lost).regressions, "wayBack"));
    EXPECT_TRUE(has(check(lost, lost).regressions, "wayBack")) << "no number of them is fine";

    // It switched before it had heard that the new VMM is well.
    for (json& round : later["cells"][0]["series"][0]["rounds"]) round["noWayBackMs"] = round["noWayBackMs"].get<double>() * 1.5;
    EXPECT_TRUE(has(check(before, later).regressions, "noWayBackMs"));
    EXPECT_TRUE(has(check(later, before).improvements, "noWayBackMs"));
}

TEST(Check, findsADesignThatFailsMuchMoreOften) {
    json before = sampleOf({sampleSeries("relayed", times(12, 30, 1))}), now = before, little = before;
    before["cells"][0]["series"][0]["rounds"][0] = failedRound(1, 1, "no");
    for (int i = 0; i < 15; ++i)
        now["cells"][0]["series"][0]["rounds"][static_cast<std::size_t>(i)] = failedRound(i + 1, 1, "no");
    for (int i = 0; i < 3; ++i)
        little["cells"][0]["series"][0]["rounds"][static_cast<std::size_t>(i)] = failedRound(i + 1, 1, "no");
    EXPECT_TRUE(has(check(before, now).regressions, "failures"));
    EXPECT_FALSE(has(check(before, little).regressions, "failures"));
}

TEST(Check, findsADesignThatIsNotRunAnyMore) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 10, 1))});
    json now = before;
    now["cells"][0]["series"][0]["rounds"] = json::array();
    now["cells"][0]["series"][0]["notRun"] = "QEMU has no cpr-transfer";
    const CheckResult result = check(before, now);
    ASSERT_TRUE(has(result.regressions, "failures"));
    EXPECT_NE(result.regressions.front().text.find("not run now: QEMU has no cpr-transfer"), std::string::npos);
    EXPECT_TRUE(says(check(now, before).notCompared, "not run in the baseline"));
    EXPECT_TRUE(check(now, now).notCompared.empty());
}

TEST(Check, findsMemoryThatIsNotIntact) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 10, 1))});
    json now = before;
    now["cells"][0]["series"][0]["rounds"][2]["patterns"]["intact"] = false;
    now["cells"][0]["series"][0]["rounds"][2]["disturbed"] = true;
    EXPECT_TRUE(has(check(before, now).regressions, "patterns"));
    EXPECT_TRUE(has(check(now, now).regressions, "patterns"));
    EXPECT_TRUE(has(check(now, before).improvements, "patterns"));
}

TEST(Check, findsRamThatIsCopiedWhereNoneWas) {
    const json series = sampleSeries("relayed", times(12, 10, 1));
    const CheckResult result = check(sampleOf({series}), sampleOf({with(series, "/ramCopiedBytes", 64 << 20)}));
    ASSERT_TRUE(has(result.regressions, "ramCopiedBytes"));
    EXPECT_NE(result.regressions.front().text.find("RAM copied 0 B -> 64.0 MiB: +64.0 MiB ("), std::string::npos)
        << result.regressions.front().text;
}

TEST(Check, findsRequestsThatAreLost) {
    const json series =
        with(sampleSeries("relayed", times(12, 10, 1)), "/network", {{"sent", 1000}, {"lost", 0}, {"longestGapMs", 5.0}});
    const json now = with(series, "/network/lost", 3);
    const CheckResult result = check(sampleOf({series}), sampleOf({now}));
    EXPECT_TRUE(has(result.regressions, "networkLost"));
    EXPECT_FALSE(has(result.regressions, "networkGapMs"));
    EXPECT_TRUE(has(check(sampleOf({now}), sampleOf({series})).improvements, "networkLost"));
}

TEST(Check, matchesCellsByTheirFactorsAndTheirPairsByPlace) {
    json one = sampleCell("a", {sampleSeries("relayed", times(12, 10, 1))}),
         other = sampleCell("b", {sampleSeries("relayed", times(50, 10, 2))});
    json big = sampleCell("c", {sampleSeries("relayed", times(99, 10, 3))});
    big["ramBytes"] = 8LL << 30;
    big["devices"] = {"disk", "network"};
    const json before = sampleResults({one, other, big});
    // The same pairs in the same order, other ids, other versions, the other factor first.
    json now = sampleResults({big, one, other});
    now["cells"][0]["devices"] = {"network", "disk"};
    for (json& cell : now["cells"]) cell["id"] = "new-" + cell["id"].get<std::string>();
    now["vmms"][1]["version"] = "10.2.0";
    const CheckResult result = check(before, now);
    EXPECT_TRUE(result.regressions.empty()) << checkText(result);
    EXPECT_TRUE(result.improvements.empty());
    EXPECT_EQ(result.comparisons, 15u);
}

TEST(Check, saysWhatCannotBeCompared) {
    json one = sampleCell("a", {sampleSeries("relayed", times(12, 10, 1)), sampleSeries("copy", {1, 2, 3, 4, 5})});
    json other = sampleCell("b", {sampleSeries("relayed", times(12, 10, 1))});
    other["vcpus"] = 4;
    other["title"] = "4 CPUs";
    json now = one;
    now["series"].push_back(sampleSeries("vmm-exec", {1}));
    const CheckResult result = check(sampleResults({one, other}), sampleResults({now}));
    EXPECT_TRUE(says(result.notCompared, "4 CPUs: only the baseline has this cell"));
    EXPECT_TRUE(says(result.notCompared, "copy: STOP to RESUME: too few rounds to say: 5 before, 5 now"));
    EXPECT_TRUE(says(result.notCompared, "vmm-exec: the baseline does not have this design"));
    EXPECT_EQ(result.comparisons, 5u);
    EXPECT_TRUE(
        says(check(sampleResults({now}), sampleResults({one, other})).notCompared, "4 CPUs: the baseline has no such cell"));
    EXPECT_TRUE(says(check(sampleResults({now}), sampleResults({one})).notCompared,
                     "vmm-exec: the newer results do not have this design"));
}

TEST(Check, wantsMoreRoundsTheMoreIsCompared) {
    std::vector<json> cells;
    for (int i = 0; i < 20; ++i) cells.push_back(sampleCell("c" + std::to_string(i), {sampleSeries("relayed", times(12, 6, 1))}));
    const json results = sampleResults(cells);
    // Six values all lie above six others once in 924 times by chance, and 100 comparisons may be wrong once in 4000 times each.
    const CheckResult result = check(results, results);
    EXPECT_EQ(result.comparisons, 0u);
    EXPECT_TRUE(says(result.notCompared, "too few rounds to say: 6 before, 6 now, for as many comparisons"));
}

TEST(Check, comparesNoTimesOfDifferentProcessors) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 10, 1))});
    json now = sampleOf({with(sampleSeries("relayed", times(48, 10, 1)), "/ramCopiedBytes", 4096)});
    now["host"]["cpu"] = "Another CPU";
    const CheckResult result = check(before, now);
    EXPECT_FALSE(has(result.regressions, "stopToResumeMs"));
    EXPECT_TRUE(has(result.regressions, "ramCopiedBytes"));
    EXPECT_TRUE(says(result.remarks, "CPU 'Some CPU @ 2.50GHz' before, 'Another CPU' now"));
    EXPECT_TRUE(says(result.notCompared, "times: another CPU"));
    now = before;
    now["host"]["accelerator"] = "tcg";
    EXPECT_TRUE(says(check(before, now).notCompared, "times: another accelerator"));
}

TEST(Check, saysThatTheKernelIsAnotherAndComparesAllTheSame) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 10, 1))});
    json now = sampleOf({sampleSeries("relayed", times(48, 10, 1))});
    now["host"]["kernel"] = "6.12.0";
    const CheckResult result = check(before, now);
    EXPECT_TRUE(has(result.regressions, "stopToResumeMs"));
    EXPECT_TRUE(says(result.remarks, "kernel '6.1.0' before, '6.12.0' now"));
}

TEST(Check, comparesNothingThatABusyHostMeasured) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 20, 1))});
    json now = sampleOf({sampleSeries("relayed", times(48, 20, 1))});
    for (int i = 0; i < 10; ++i) now["cells"][0]["series"][0]["rounds"][static_cast<std::size_t>(i)]["disturbed"] = true;
    EXPECT_TRUE(check(before, now).regressions.empty());
    EXPECT_TRUE(says(check(before, now).notCompared, "the host was too busy now"));
}

TEST(Check, isAValueForScripts) {
    const json before = sampleOf({sampleSeries("relayed", times(12, 20, 1))}),
               now = sampleOf({sampleSeries("relayed", times(24, 20, 2))});
    const json value = toJson(check(before, now));
    EXPECT_EQ(value.at("regressions"), 2);
    EXPECT_EQ(value.at("comparisons"), 5);
    EXPECT_EQ(value.at("tolerance"), 1.10);
    EXPECT_EQ(value.at("found").at("regressions").at(0).at("figure"), "stopToResumeMs");
    EXPECT_TRUE(value["found"]["regressions"][0].at("low").is_number());
    EXPECT_TRUE(value.at("found").at("improvements").empty());
    EXPECT_TRUE(value.at("notCompared").empty());
    const std::string text = checkText(check(before, now));
    EXPECT_EQ(text.rfind("regression: ", 0), 0u) << text;
    EXPECT_NE(text.find("2 regressions and 0 improvements in 5 comparisons of figures; tolerance 1.10\n"), std::string::npos);
}

}  // namespace
}  // namespace vh
