#include "manager/compare/text.h"

#include <algorithm>
#include <sstream>

#include <gtest/gtest.h>

#include "manager/compare/results_file.h"
#include "tests/support/golden.h"
#include "tests/support/sample_results.h"

namespace vh {
namespace {

using nlohmann::json;

std::string comparisonText(const json& results) {
    const Results typed = resultsOf(results);
    return vh::comparisonText(typed, summarize(typed));
}

std::string comparisonCsv(const json& results) {
    return vh::comparisonCsv(resultsOf(results));
}

/// Every design around its own time, with a network and a guest that writes.
json busySeries(const std::string& design, double ms, std::uint64_t ramCopiedBytes) {
    json series = sampleSeries(design, {});
    for (int i = 0; i < 16; ++i) {
        const double noise = (i * 5 % 16) * 0.0625;  // Exact in binary, so that the text is the same everywhere.
        json round = sampleRound(i + 1, 1, ms * (1 + noise / 4));
        round["writeRate"] = {{"beforePagesPerSecond", 1e5},
                              {"brownOutMs", ms * 2 + noise},
                              {"binMs", 5},
                              {"firstBinMs", -20},
                              {"curvePercent", {100, nullptr, 96}}};
        round["network"] = {{"sent", 1000}, {"lost", i == 3 ? 2 : 0}, {"longestGapMs", ms + 4 + noise}};
        round["ramCopiedBytes"] = ramCopiedBytes;
        round["bytesSent"] = ramCopiedBytes + 1'250'000;
        series["rounds"].push_back(round);
    }
    series["inspection"] = {{"memoryOldBytes", 300 << 20},
                            {"memoryBothBytes", (300 << 20) + ramCopiedBytes + (12 << 20)},
                            {"extraMemoryBytes", ramCopiedBytes + (12 << 20)},
                            {"descriptors", json::array()},
                            {"ioctls", nullptr},
                            {"memfds", nullptr},
                            {"untraced", "no strace here"}};
    return series;
}

json wholeResults() {
    json busy = sampleCell(
        "busy", {busySeries("relayed", 12, 0), busySeries("manager-owned", 12.25, 0), busySeries("copy", 151, 400 << 20)});
    busy["title"] = "512MiB, 10.0.2 -> 10.1.0, load: memory";
    busy["load"] = "memory";
    busy["devices"] = {"disk", "network"};
    busy["series"][1]["rounds"][2] = failedRound(3, 1, "the new VMM ended: \"exit code 1\", see its log");
    busy["series"][1]["rounds"][5] = failedRound(6, 1, "the new VMM ended: \"exit code 1\", see its log");
    for (std::size_t i : {0u, 4u, 5u, 6u}) busy["series"][2]["rounds"][i]["disturbed"] = true;
    busy["series"][2]["rounds"][1]["patterns"] = {{"intact", false}, {"pagesChecked", 65536}, {"mismatches", 3}};
    json saved = sampleSeries("save-restore", {});
    saved["notRun"] = "'/var/tmp' has 100 MiB left,\nand 512 MiB are needed";
    busy["series"].push_back(saved);

    json idle = sampleCell("idle", {sampleSeries("relayed", {12, 13, 14}), sampleSeries("vmm-exec", {})});
    idle["old"] = 1;
    json results = sampleResults({busy, idle});
    results["finishedAt"] = nullptr;
    results["notes"] = {"KVM is not usable on this host: TCG ran the guest", "a note with an \033[31mescape"};
    return results;
}

TEST(ComparisonText, isOneTableForEachCellAndASentenceForEachRatio) {
    expectGolden("comparison.txt", comparisonText(wholeResults()), "tests/compare/golden");
}

TEST(ComparisonText, isOneLineForEachRoundInCsv) {
    json results = wholeResults();
    // Two lines show all of it.
    for (json& cell : results["cells"])
        for (json& series : cell["series"])
            while (series["rounds"].size() > 3) series["rounds"].erase(3);
    expectGolden("comparison.csv", comparisonCsv(results), "tests/compare/golden");
}

TEST(ComparisonText, saysThatADesignWasGivenUp) {
    json series = sampleSeries("copy", {});
    for (int i = 1; i <= 3; ++i) series["rounds"].push_back(failedRound(i, 1, "no"));
    series["notRun"] = "given up after 3 failures in a row: no";
    const std::string text = comparisonText(sampleResults({sampleCell("c1", {series})}));
    EXPECT_NE(text.find("  copy: not run any more: given up after 3 failures in a row: no\n"), std::string::npos) << text;
    EXPECT_NE(text.find("  copy: 3 of 3 failed: rolled back: no\n"), std::string::npos) << text;
    EXPECT_NE(text.find("0/3/0"), std::string::npos);
}

TEST(ComparisonText, saysOfWhichHostAndAcceleratorItIs) {
    EXPECT_EQ(comparisonText(sampleResults({}))
                  .rfind("Accelerator: KVM (nested). Host: Some CPU @ 2.50GHz, 2 CPUs, 8.00 GiB, itself a virtual "
                         "machine, Linux 6.1.0.\n",
                         0),
              0u)
        << comparisonText(sampleResults({}));
}

TEST(ComparisonText, callsTheSmallestAndTheGreatestNoInterval) {
    const std::string text = comparisonText(sampleResults({sampleCell("c1", {sampleSeries("relayed", times(12, 11, 1))})}));
    EXPECT_NE(text.find(" (min "), std::string::npos) << text;
    EXPECT_EQ(text.find(" ["), std::string::npos) << text;
    const std::string enough = comparisonText(sampleResults({sampleCell("c1", {sampleSeries("relayed", times(12, 12, 1))})}));
    EXPECT_EQ(enough.find(" (min "), std::string::npos) << enough;
}

TEST(ComparisonText, saysOnceThatThereAreTooFewRounds) {
    const std::string text = comparisonText(sampleResults({sampleCell(
        "c1", {sampleSeries("relayed", {1, 2, 3}), sampleSeries("vmm-owned", {1, 2, 3}), sampleSeries("copy", {4, 5, 6})})}));
    EXPECT_NE(text.find("  too few rounds to say (fewer than 12 in common): vmm-owned / relayed, copy / relayed\n"),
              std::string::npos)
        << text;
    EXPECT_EQ(text.find("too few"), text.rfind("too few")) << text;
}

TEST(ComparisonText, saysWhatAllCellsShowTogetherAndHowSmallADifferenceIs) {
    std::vector<json> cells;
    for (int i = 0; i < 2; ++i)
        cells.push_back(sampleCell("c" + std::to_string(i), {sampleSeries("relayed", std::vector<double>(12, 10)),
                                                             sampleSeries("copy", std::vector<double>(12, 10.5))}));
    const std::string text = comparisonText(sampleResults(cells));
    EXPECT_NE(text.find("All cells under KVM (nested) together\n\n  copy / relayed: STOP to RESUME 1.05x (95 % 1.05 - 1.05, p < "
                        "0.0001): larger, by less than "
                        "10 %\n"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("\n\n  Smaller and larger stand when any one cell is left out.\n"), std::string::npos) << text;
    EXPECT_NE(text.find("for all 6 comparisons\n"), std::string::npos) << text;
    std::vector<json> other = cells;
    other.push_back(sampleCell("c2", {sampleSeries("relayed", {10, 10, 10, 10}), sampleSeries("copy", {9, 9, 9, 9})}));
    for (json& cell : other)
        for (json& series : cell["series"])
            while (series["rounds"].size() > 9) series["rounds"].erase(9);
    EXPECT_NE(comparisonText(sampleResults(other))
                  .find("  Smaller and larger stand when any one cell is left out, but for: copy / "
                        "relayed by STOP to RESUME (in 1 of 3), copy"),
              std::string::npos)
        << comparisonText(sampleResults(other));
    cells.pop_back();
    EXPECT_EQ(comparisonText(sampleResults(cells)).find("All cells under"), std::string::npos);
}

TEST(ComparisonText, saysHowManySittingsItTook) {
    json results = sampleResults({});
    EXPECT_EQ(comparisonText(results).find("sittings"), std::string::npos);
    for (int i = 1; i <= 2; ++i)
        results["sittings"].push_back({{"startedAt", "2026-01-0" + std::to_string(i) + "T03:04:05.678Z"},
                                       {"finishedAt", i == 1 ? json() : json("2026-01-02T04:00:00.000Z")},
                                       {"command", {"virt-handover", "compare"}},
                                       {"evenIfBusy", i == 2}});
    EXPECT_NE(
        comparisonText(results).find("Measured in 2 sittings: 2026-01-01T03:04:05.678Z (cut short); 2026-01-02T03:04:05.678Z to "
                                     "2026-01-02T04:00:00.000Z (--even-if-busy).\n"),
        std::string::npos)
        << comparisonText(results);
}

TEST(ComparisonText, saysThatOfADisturbedHostRoundsWereLeftOut) {
    json series = sampleSeries("relayed", times(12, 12, 1));
    EXPECT_NE(comparisonText(sampleResults({sampleCell("c1", {series})}))
                  .find("Left out because of a disturbed host: 0 of 12 handovers.\n"),
              std::string::npos);
    series["rounds"][3]["disturbed"] = true;
    series["rounds"][3]["disturbedBy"] = "steal: 7.2 %, more than 5 %";
    EXPECT_NE(comparisonText(sampleResults({sampleCell("c1", {series})}))
                  .find("disturbed host: 1 of 12 handovers, such as for steal: 7.2 %, more than 5 %.\n"),
              std::string::npos);
}

TEST(ComparisonText, hasTheP99OnlyWhereThereIsOne) {
    const json few = sampleResults({sampleCell("c1", {sampleSeries("relayed", times(12, 99, 1))})});
    const json many = sampleResults({sampleCell("c1", {sampleSeries("relayed", times(12, 100, 1))})});
    EXPECT_EQ(comparisonText(few).find("p99"), std::string::npos);
    EXPECT_NE(comparisonText(many).find("p99"), std::string::npos);
}

TEST(ComparisonText, staysWithin120ColumnsWhateverIsMeasured) {
    json series = busySeries("manager-owned", 123456.7, 400 << 20);
    for (int i = 16; i < 100; ++i) {
        series["rounds"].push_back(series["rounds"][static_cast<std::size_t>(i % 8)]);
        series["rounds"].back()["round"] = i + 1;
    }
    std::istringstream lines(comparisonText(sampleResults({sampleCell("c1", {series})})));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120u) << line;
}

TEST(ComparisonText, givesATerminalNothingToObey) {
    EXPECT_EQ(printable("a\033[2Jb\nc\x7f"), "a\\x1b[2Jb c\\x7f");
    EXPECT_EQ(printable("a\xc2\x9b"
                        "2J"),
              "a\\xc2\\x9b"
              "2J");
    EXPECT_EQ(printable("f\xc3\xbcr \xe2\x82\xac"), "f\xc3\xbcr \xe2\x82\xac");
    const std::string text = comparisonText(wholeResults());
    EXPECT_EQ(text.find('\033'), std::string::npos);
}

TEST(ComparisonText, saysSizesForPeople) {
    EXPECT_EQ(sizeText(0), "0 B");
    EXPECT_EQ(sizeText(512), "512 B");
    EXPECT_EQ(sizeText(1023), "1023 B");
    EXPECT_EQ(sizeText(1024), "1.00 KiB");
    EXPECT_EQ(sizeText(1536), "1.50 KiB");
    EXPECT_EQ(sizeText(1'250'000), "1.19 MiB");
    EXPECT_EQ(sizeText((1 << 20) - 1), "1.00 MiB");
    EXPECT_EQ(sizeText(64.0 * (1 << 20)), "64.0 MiB");
    EXPECT_EQ(sizeText(5e15), "4547 TiB");
}

TEST(ComparisonText, saysFiguresWithThreeDigits) {
    EXPECT_EQ(figureText(0), "0.00");
    EXPECT_EQ(figureText(1.234), "1.23");
    EXPECT_EQ(figureText(9.996), "10.0");
    EXPECT_EQ(figureText(99.96), "100");
    EXPECT_EQ(figureText(12345.6), "12346");
    EXPECT_EQ(figureText(-12.34), "-12.3");
}

TEST(ComparisonCsv, quotesWhatWouldBreakALine) {
    json results = sampleResults({sampleCell("c,1", {sampleSeries("relayed", {1})})});
    results["cells"][0]["title"] = "a \"b\"\nc";
    results["cells"][0]["series"][0]["rounds"][0]["cause"] = "plain";
    const std::string csv = comparisonCsv(results);
    EXPECT_NE(csv.find("\r\n\"c,1\",\"a \"\"b\"\"\nc\",/opt/old/qemu-system-x86_64,"), std::string::npos) << csv;
    EXPECT_NE(csv.find(",plain,"), std::string::npos);
}

TEST(ComparisonCsv, hasAsManyFieldsInEachLine) {
    json results = wholeResults();
    for (json& cell : results["cells"])
        for (json& series : cell["series"])
            for (json& round : series["rounds"]) round["cause"] = "";
    for (json& cell : results["cells"]) cell["title"] = "t";
    std::istringstream lines(comparisonCsv(results));
    std::string line;
    std::getline(lines, line);
    const auto commas = std::ranges::count(line, ',');
    std::size_t rounds = 0;
    for (; std::getline(lines, line); ++rounds) {
        EXPECT_EQ(std::ranges::count(line, ','), commas) << line;
        EXPECT_EQ(line.back(), '\r');
    }
    EXPECT_EQ(rounds, 51u);
}

}  // namespace
}  // namespace vh
