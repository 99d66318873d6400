#include "manager/compare/summary.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "manager/compare/results_file.h"
#include "manager/compare/statistics.h"
#include "tests/support/sample_results.h"

namespace vh {
namespace {

using nlohmann::json;

json summarize(const json& results) {
    return toJson(vh::summarize(resultsOf(results)));
}

json summaryOf(const std::vector<json>& series) {
    return summarize(sampleResults({sampleCell("c1", series)})).at("cells").at(0);
}

json ratioOf(const json& cell, const std::string& metric, const std::string& design, const std::string& reference) {
    for (const json& ratio : cell.at("ratios"))
        if (ratio.at("metric") == metric && ratio.at("design") == design && ratio.at("reference") == reference) return ratio;
    return nullptr;
}

TEST(Summary, hasEveryMetricOfEachDesignByCell) {
    const json summary = summarize(sampleResults(
        {sampleCell("c1", {sampleSeries("relayed", times(12, 10, 1))}), sampleCell("c2", {sampleSeries("copy", {5, 7, 6})})}));
    ASSERT_EQ(summary.at("cells").size(), 2u);
    EXPECT_EQ(summary["cells"][0].at("id"), "c1");
    const json& copy = summary["cells"][1].at("series").at(0);
    EXPECT_EQ(copy.at("design"), "copy");
    EXPECT_EQ(copy.at("metrics").size(), metrics.size());
    EXPECT_EQ(copy["metrics"]["stopToResumeMs"], json({{"count", 3},
                                                       {"median", 6.0},
                                                       {"low", 5.0},
                                                       {"high", 7.0},
                                                       {"minMax", true},
                                                       {"min", 5.0},
                                                       {"max", 7.0},
                                                       {"p99", nullptr}}));
    EXPECT_EQ(copy["metrics"]["pausePhaseMs"].at("median"), 9.0);
    EXPECT_EQ(copy["metrics"]["minorFaults"].at("median"), 5000.0);
}

TEST(Summary, saysNullOfWhatWasNotMeasured) {
    const json figures = summaryOf({sampleSeries("relayed", times(12, 10, 1))}).at("series").at(0).at("metrics").at("brownOutMs");
    EXPECT_EQ(figures, json({{"count", 0},
                             {"median", nullptr},
                             {"low", nullptr},
                             {"high", nullptr},
                             {"min", nullptr},
                             {"max", nullptr},
                             {"p99", nullptr}}));
}

TEST(Summary, leavesOutRoundsWithoutTheFigure) {
    json series = sampleSeries("relayed", {5, 6, 7});
    series["rounds"][1]["stopToResumeMs"] = nullptr;
    series["rounds"][2]["writeRate"] = {{"beforePagesPerSecond", 1e5},
                                        {"brownOutMs", nullptr},
                                        {"binMs", 25},
                                        {"firstBinMs", -500},
                                        {"curvePercent", json::array()}};
    const json summary = summaryOf({series}).at("series").at(0);
    EXPECT_EQ(summary.at("metrics").at("stopToResumeMs").at("count"), 2);
    EXPECT_EQ(summary["metrics"]["guestPauseMs"].at("count"), 3);
    EXPECT_EQ(summary["metrics"]["brownOutMs"].at("count"), 0);
}

json writing(const json& brownOutMs) {
    // A curve has 80 bins, to 1500 ms after the switch; the window ended at 800 ms.
    json curve = std::vector<double>(52, 100);
    curve.insert(curve.end(), 28, nullptr);
    return {
        {"beforePagesPerSecond", 1e5}, {"brownOutMs", brownOutMs}, {"binMs", 25}, {"firstBinMs", -500}, {"curvePercent", curve}};
}

json seriesWith(const std::string& design, const std::vector<json>& brownOuts) {
    json series = sampleSeries(design, times(10, brownOuts.size(), 1));
    for (std::size_t i = 0; i < brownOuts.size(); ++i) series["rounds"][i]["writeRate"] = writing(brownOuts[i]);
    return series;
}

TEST(Summary, countsWhatOutlastsTheWindowAsLongerThanIt) {
    const json few = summaryOf({seriesWith("relayed", {100, nullptr, 110, 120, nullptr, 130, 140})})["series"][0]["metrics"];
    EXPECT_EQ(few["brownOutMs"]["count"], 7);
    EXPECT_EQ(few["brownOutMs"]["longer"], 2);
    EXPECT_EQ(few["brownOutMs"]["median"], 130.0);
    EXPECT_EQ(few["brownOutMs"]["atLeast"], json({"high", "max"}));
    // The guest was heard for 800 ms: it may have been back for less than the 100 ms that have to be seen.
    EXPECT_EQ(few["brownOutMs"]["max"], 700.0);
    const json most =
        summaryOf({seriesWith("relayed", {100, nullptr, 110, nullptr, nullptr, nullptr, 140})})["series"][0]["metrics"];
    EXPECT_EQ(most["brownOutMs"]["median"], 700.0);
    EXPECT_EQ(most["brownOutMs"]["atLeast"], json({"median", "high", "max"}));
    EXPECT_FALSE(few["stopToResumeMs"].contains("longer"));
}

TEST(Summary, knowsOfAGuestThatWasHeardForAMomentOnlyThatItWasSlowAtAll) {
    json series = seriesWith("relayed", {nullptr, nullptr});
    series["rounds"][0]["writeRate"]["curvePercent"] = std::vector<double>(22, 30);  // To 50 ms.
    series["rounds"][1]["writeRate"]["curvePercent"] = std::vector<double>(20, 30);  // To the switch.
    const json metric = summaryOf({series})["series"][0]["metrics"]["brownOutMs"];
    EXPECT_EQ(metric["count"], 1);
    EXPECT_EQ(metric["longer"], 1);
    EXPECT_EQ(metric["median"], 0.0);
}

TEST(Summary, takesTheWorkThatAGuestLostForTheLeastWhenItWasNotBackAtSpeed) {
    json series = seriesWith("relayed", {100, nullptr, 110, 120, nullptr, 130, 140});
    for (std::size_t i = 0; i < series["rounds"].size(); ++i)
        series["rounds"][i]["writeRate"]["workLostMs"] = 50.0 + 10.0 * static_cast<double>(i);
    const json lost = summaryOf({series})["series"][0]["metrics"]["workLostMs"];
    EXPECT_EQ(lost["count"], 7);
    EXPECT_EQ(lost.value("longer", 0), 2);
    EXPECT_EQ(lost["max"], 110.0);
    // 50, over 60, 70, 80, over 90, 100, 110: the middle one may be anything from 80 to 100, and the greatest has no end.
    EXPECT_EQ(lost["median"], 80.0);
    EXPECT_EQ(lost.value("atLeast", json()), json({"median", "high", "max"}));
}

TEST(Summary, claimsNothingOfWorkLostThatRestsOnABound) {
    const auto ratio = [](const json& brownOut, double lost) {
        json design = seriesWith("vmm-owned", std::vector<json>(12, brownOut)),
             reference = seriesWith("relayed", std::vector<json>(12, 100));
        for (std::size_t i = 0; i < 12; ++i) {
            design["rounds"][i]["writeRate"]["workLostMs"] = lost;
            reference["rounds"][i]["writeRate"]["workLostMs"] = 100;
        }
        return ratioOf(summaryOf({reference, design}), "workLostMs", "vmm-owned", "relayed");
    };
    EXPECT_EQ(ratio(100, 50)["verdict"], "smaller");
    const json open = ratio(nullptr, 50);
    EXPECT_EQ(open["verdict"], "no difference shown");
    EXPECT_EQ(open["tied"], 12);
    EXPECT_EQ(open["low"], 0.5);
    EXPECT_TRUE(open["median"].is_null() && open["high"].is_null()) << open;
    EXPECT_EQ(ratio(nullptr, 200)["verdict"], "larger") << "the least of it is more already";
}

TEST(Summary, claimsNothingThatRestsOnABound) {
    const std::vector<json> known(12, 500), unknown(12, nullptr), quick(12, 100);
    const auto ratio = [&](const std::vector<json>& design, const std::vector<json>& reference) {
        return ratioOf(summaryOf({seriesWith("relayed", reference), seriesWith("vmm-owned", design)}), "brownOutMs", "vmm-owned",
                       "relayed");
    };
    const json longer = ratio(unknown, known);
    EXPECT_EQ(longer["verdict"], "larger");
    EXPECT_EQ(longer["low"], 1.4);
    EXPECT_TRUE(longer["high"].is_null() && longer["median"].is_null()) << longer;
    const json shorter = ratio(quick, unknown);
    EXPECT_EQ(shorter["verdict"], "smaller");
    EXPECT_TRUE(shorter["low"].is_null()) << shorter;
    const json open = ratio(unknown, unknown);
    EXPECT_EQ(open["verdict"], "no difference shown");
    EXPECT_EQ(open["tied"], 12) << "of which nobody knows which is the longer";
    EXPECT_EQ(open["p"], 1.0);
    // As the window's end stood for the rest, this was "larger", and for its absence "smaller".
    std::vector<json> half(12, nullptr);
    for (std::size_t i = 0; i < half.size(); i += 2) half[i] = 100;
    EXPECT_EQ(ratio(half, known)["verdict"], "no difference shown");
}

TEST(Summary, takesNoNetworkThatWasSilentBeforeForAQuickOne) {
    json series = sampleSeries("relayed", {5, 6, 7});
    for (json& round : series["rounds"]) round["network"] = {{"sent", 400}, {"lost", 8}, {"longestGapMs", 40.0}};
    series["rounds"][1]["network"] = {{"sent", 400}, {"lost", 250}, {"longestGapMs", nullptr}, {"silentBefore", true}};
    series["rounds"][2]["network"] = {{"sent", 400}, {"lost", 250}, {"longestGapMs", 900.0}, {"notBack", true}};
    const json metric = summaryOf({series})["series"][0]["metrics"]["networkGapMs"];
    EXPECT_EQ(metric["count"], 2);
    EXPECT_EQ(metric["longer"], 1);
    EXPECT_EQ(metric["max"], 900.0);
}

TEST(Summary, countsFailedAndDisturbedRoundsAndUsesNeither) {
    json series = sampleSeries("relayed", {5, 6, 7, 1000});
    series["rounds"][3]["disturbed"] = true;
    series["rounds"].push_back(failedRound(5, 1, "no"));
    series["rounds"].push_back(failedRound(6, 1, "no"));
    series["rounds"][5]["disturbed"] = true;
    series["rounds"][5]["stopToResumeMs"] = 5000;
    const json summary = summaryOf({series}).at("series").at(0);
    EXPECT_EQ(summary.at("rounds"), 3);
    EXPECT_EQ(summary.at("failed"), 2);
    EXPECT_EQ(summary.at("disturbed"), 1);
    EXPECT_EQ(summary.at("metrics").at("stopToResumeMs").at("max"), 7.0);
}

TEST(Summary, hasAP99FromAHundredValuesOn) {
    std::vector<double> values(100);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i + 1);
    EXPECT_EQ(summaryOf({sampleSeries("relayed", values)})["series"][0]["metrics"]["stopToResumeMs"]["p99"], 99.0);
    values.pop_back();
    EXPECT_TRUE(summaryOf({sampleSeries("relayed", values)})["series"][0]["metrics"]["stopToResumeMs"]["p99"].is_null());
}

TEST(Summary, countsARoundOnceHoweverManyVmsItHas) {
    json series = sampleSeries("relayed", {});
    for (int round = 1; round <= 3; ++round)
        for (int vm = 1; vm <= 40; ++vm) series["rounds"].push_back(sampleRound(round, vm, 10 * round + (vm == 40 ? 500 : 0)));
    const json metric = summaryOf({series})["series"][0]["metrics"]["stopToResumeMs"];
    EXPECT_EQ(metric["count"], 120);
    EXPECT_EQ(metric["median"], 20.0);
    // Three rounds are too few for an interval, though there are 120 values.
    EXPECT_EQ(metric["low"], 10.0);
    EXPECT_EQ(metric["high"], 30.0);
    EXPECT_EQ(metric["max"], 530.0);
    EXPECT_EQ(metric["p99"], 520.0);
    json other = series;
    other["design"] = "copy";
    EXPECT_EQ(ratioOf(summaryOf({series, other}), "stopToResumeMs", "copy", "relayed")["verdict"], "too few rounds to say");
}

TEST(Summary, measuresEveryDesignByRelayed) {
    const std::vector<double> values = times(12, 10, 1);
    const json cell =
        summaryOf({sampleSeries("copy", values), sampleSeries("relayed", values), sampleSeries("vmm-owned", values)});
    for (const char* design : {"copy", "vmm-owned"}) {
        EXPECT_FALSE(ratioOf(cell, "stopToResumeMs", design, "relayed").is_null()) << design;
        EXPECT_TRUE(ratioOf(cell, "stopToResumeMs", "relayed", design).is_null()) << design;
    }
    // Two contrasts, and three metrics that were measured: what was not named beforehand is not compared.
    EXPECT_EQ(cell.at("ratios").size(), 6u);
    // Without it, the first one that ran.
    const json other = summaryOf({sampleSeries("relayed", {}), sampleSeries("copy", values), sampleSeries("vmm-owned", values)});
    EXPECT_FALSE(ratioOf(other, "stopToResumeMs", "vmm-owned", "copy").is_null());
}

TEST(Summary, comparesFirstWhoOwnsGuestRam) {
    const std::vector<double> values = times(12, 12, 1);
    const json ratios = summaryOf({sampleSeries("relayed", values), sampleSeries("manager-owned", values),
                                   sampleSeries("vmm-owned", values), sampleSeries("vmm-exec", values)})["ratios"];
    std::vector<std::string> contrasts;
    for (const json& ratio : ratios)
        if (ratio["metric"] == "stopToResumeMs")
            contrasts.push_back(ratio["design"].get<std::string>() + "/" + ratio["reference"].get<std::string>());
    EXPECT_EQ(contrasts, (std::vector<std::string>{"manager-owned/vmm-owned", "manager-owned/relayed", "vmm-owned/relayed",
                                                   "vmm-exec/relayed"}));
}

TEST(Summary, comparesADesignWithWhatItRestsOnDrivenByHand) {
    const std::vector<double> values = times(12, 12, 1);
    const json ratios =
        summaryOf({sampleSeries("relayed", values), sampleSeries("manager-owned", values), sampleSeries("vmm-owned", values),
                   sampleSeries("cpr-transfer", values), sampleSeries("x-ignore-shared", values)})["ratios"];
    std::vector<std::string> contrasts;
    for (const json& ratio : ratios)
        if (ratio["metric"] == "totalMs")
            contrasts.push_back(ratio["design"].get<std::string>() + "/" + ratio["reference"].get<std::string>());
    EXPECT_EQ(contrasts, (std::vector<std::string>{"manager-owned/vmm-owned", "manager-owned/x-ignore-shared",
                                                   "vmm-owned/cpr-transfer", "manager-owned/relayed", "vmm-owned/relayed",
                                                   "cpr-transfer/relayed", "x-ignore-shared/relayed"}));
    // Each pair once, also where there is nothing else.
    const json two = summaryOf({sampleSeries("cpr-transfer", values), sampleSeries("vmm-owned", values)})["ratios"];
    EXPECT_EQ(std::ranges::count(two, json("totalMs"), [](const json& ratio) { return ratio["metric"]; }), 1);
}

/// Twelve rounds, of which in so many the second design is twice as long, and half as long in the others.
json twelve(int longer) {
    std::vector<double> values(12, 5);
    std::fill_n(values.begin(), longer, 20);
    return summaryOf({sampleSeries("relayed", std::vector<double>(12, 10)), sampleSeries("copy", values)});
}

TEST(Summary, hasThePOfTheSignTestAndHolmsCorrection) {
    const json cell = twelve(11), ratio = ratioOf(cell, "stopToResumeMs", "copy", "relayed");
    EXPECT_EQ(ratio["greater"], 11);
    EXPECT_EQ(ratio["smaller"], 1);
    EXPECT_EQ(ratio["tied"], 0);
    EXPECT_EQ(ratio["rounds"], 12);
    EXPECT_NEAR(ratio["p"], 2 * 13.0 / 4096, 1e-12);
    // Of three metrics, all of which have the same signs.
    EXPECT_NEAR(ratio["pHolm"], 3 * 2 * 13.0 / 4096, 1e-12);
    EXPECT_EQ(ratio["verdict"], "larger");
}

TEST(Summary, claimsOnlyWhatStandsTheCorrectionForAllCells) {
    // p = 0.039: shown were it alone, and not among three.
    const json cell = twelve(10), ratio = ratioOf(cell, "stopToResumeMs", "copy", "relayed");
    EXPECT_LT(ratio["p"], 0.05);
    EXPECT_GT(ratio["pHolm"], 0.05);
    EXPECT_EQ(ratio["verdict"], "no difference shown");
    // What is clear in one cell is no more so among many in which there is nothing.
    std::vector<json> cells;
    for (int i = 0; i < 40; ++i) {
        std::vector<double> values(12, 5);
        std::fill_n(values.begin(), i == 0 ? 11 : 6, 20);
        cells.push_back(sampleCell("c" + std::to_string(i),
                                   {sampleSeries("relayed", std::vector<double>(12, 10)), sampleSeries("copy", values)}));
    }
    EXPECT_EQ(ratioOf(summarize(sampleResults(cells))["cells"][0], "stopToResumeMs", "copy", "relayed")["verdict"],
              "no difference shown");
}

TEST(Summary, saysEquivalentWithinTheMarginThatWasNamed) {
    json results = sampleResults(
        {sampleCell("c1", {sampleSeries("relayed", times(10, 40, 1, 0.03)), sampleSeries("vmm-owned", times(10, 40, 2, 0.03))})});
    const auto ratio = [&] { return ratioOf(summarize(results)["cells"][0], "stopToResumeMs", "vmm-owned", "relayed"); };
    EXPECT_EQ(ratio()["verdict"], "equivalent") << ratio();
    EXPECT_GT(ratio()["low90"], 1 / 1.1);
    EXPECT_LT(ratio()["high90"], 1.1);
    EXPECT_GE(ratio()["low90"], ratio()["low"]);
    results["settings"]["equivalenceMarginPercent"] = 1;
    EXPECT_EQ(ratio()["verdict"], "no difference shown");
    results["settings"].erase("equivalenceMarginPercent");
    EXPECT_EQ(ratio()["verdict"], "equivalent") << "the usual one, of a file that names none";
}

TEST(Summary, poolsTheRoundsOfAllCellsThatHaveBoth) {
    // No cell has enough rounds for itself.
    std::vector<json> cells;
    for (int i = 0; i < 3; ++i)
        cells.push_back(sampleCell("c" + std::to_string(i),
                                   {sampleSeries("relayed", {10, 11, 12, 13, 14}), sampleSeries("copy", {20, 22, 24, 26, 28})}));
    cells.push_back(sampleCell("other", {sampleSeries("relayed", {10})}));
    const json summary = summarize(sampleResults(cells));
    EXPECT_EQ(ratioOf(summary["cells"][0], "stopToResumeMs", "copy", "relayed")["verdict"], "too few rounds to say");
    const json pooled = ratioOf({{"ratios", summary["pooled"]}}, "stopToResumeMs", "copy", "relayed");
    EXPECT_EQ(pooled["cells"], 3);
    EXPECT_EQ(pooled["rounds"], 15);
    EXPECT_EQ(pooled["median"], 2.0);
    EXPECT_EQ(pooled["verdict"], "larger");
    EXPECT_NEAR(pooled["p"], 2 / 32768.0, 1e-12);
    EXPECT_FALSE(summary["cells"][0]["ratios"][0].contains("cells"));
}

json under(const std::string& accelerator, json cell) {
    cell["id"] = accelerator;
    cell["accelerator"] = accelerator;
    return cell;
}

TEST(Summary, poolsNothingOfDifferentAccelerators) {
    const auto cell = [](double copy) {
        return sampleCell("", {sampleSeries("relayed", std::vector<double>(12, 10)),
                               sampleSeries("copy", std::vector<double>(12, copy)), sampleSeries("vmm-exec", {20})});
    };
    const json pooled = summarize(sampleResults({under("tcg", cell(20)), under("kvm", cell(5))}))["pooled"];
    // Beside each other, and each of its own rounds.
    EXPECT_EQ(pooled[0]["accelerator"], "tcg");
    EXPECT_EQ(pooled[1]["accelerator"], "kvm");
    EXPECT_EQ(pooled[0]["design"], pooled[1]["design"]);
    EXPECT_EQ(pooled[0]["rounds"], 12);
    EXPECT_EQ(pooled[0]["verdict"], "larger");
    EXPECT_EQ(pooled[1]["verdict"], "smaller");
    EXPECT_EQ(pooled[1]["cells"], 1);
    // A cell that does not say is under the host's.
    EXPECT_EQ(summarize(sampleResults({cell(20)}))["pooled"][0]["accelerator"], "kvm");
    EXPECT_FALSE(summaryOf({sampleSeries("relayed", {1}), sampleSeries("copy", {1})})["ratios"][0].contains("accelerator"));
}

json owners() {
    json cell = sampleCell("", {sampleSeries("relayed", times(10, 12, 1)), sampleSeries("vmm-owned", std::vector<double>(12, 10)),
                                sampleSeries("manager-owned", std::vector<double>(12, 5))});
    for (std::size_t design : {1u, 2u})
        for (json& round : cell["series"][design]["rounds"]) {
            round["writeRate"] = writing(100);
            round["writeRate"]["workLostMs"] = design == 1 ? 50 : 20;
        }
    return cell;
}

TEST(Summary, correctsThePrimaryFamilyForItselfAlone) {
    const json summary = summarize(sampleResults({under("tcg", owners()), under("kvm", owners())}));
    std::vector<std::string> primary;
    for (const json& ratio : summary["pooled"])
        if (ratio.contains("primary")) {
            primary.push_back(ratio["metric"].get<std::string>() + " " + ratio["accelerator"].get<std::string>());
            EXPECT_EQ(ratio["design"], "manager-owned");
            EXPECT_EQ(ratio["reference"], "vmm-owned");
            // Six tests that all have the same signs.
            EXPECT_NEAR(ratio["p"], 2.0 / 4096, 1e-12);
            EXPECT_NEAR(ratio["pHolm"], 6 * 2.0 / 4096, 1e-12) << ratio;
        } else if (ratio["design"] == "manager-owned" && ratio["reference"] == "vmm-owned" && ratio["metric"] == "totalMs") {
            EXPECT_GT(ratio["pHolm"], 6 * 2.0 / 4096) << "of the others there are more";
        }
    EXPECT_EQ(primary, (std::vector<std::string>{"stopToResumeMs tcg", "stopToResumeMs kvm", "guestPauseMs tcg",
                                                 "guestPauseMs kvm", "workLostMs tcg", "workLostMs kvm"}));
    for (const json& ratio : summary["cells"][0]["ratios"]) EXPECT_FALSE(ratio.contains("primary")) << ratio;
}

TEST(Summary, takesThePrimaryFamilyThatWasNamedBeforeTheRounds) {
    json results = sampleResults({under("kvm", owners())});
    const auto primary = [&results] {
        std::vector<std::string> metrics;
        const json summary = summarize(results);
        for (const json& ratio : summary["pooled"])
            if (ratio.contains("primary")) metrics.push_back(ratio["metric"]);
        return metrics;
    };
    results["settings"]["primaryMetrics"] = {"totalMs"};
    EXPECT_EQ(primary(), std::vector<std::string>{"totalMs"});
    results["settings"].erase("primaryMetrics");
    EXPECT_EQ(primary(), (std::vector<std::string>{"stopToResumeMs", "guestPauseMs", "workLostMs"}));
    results["settings"]["beforeMs"] = 999;
    EXPECT_EQ(primary(), (std::vector<std::string>{"stopToResumeMs", "guestPauseMs"}))
        << "work lost is known as well as the rate before";
}

/// Of each cell how much longer `copy` takes, in most of its rounds.
json pooledClaim(const std::vector<double>& factors) {
    std::vector<json> cells;
    for (const double factor : factors)
        cells.push_back(sampleCell(
            "c" + std::to_string(cells.size()),
            {sampleSeries("relayed", std::vector<double>(12, 10)), sampleSeries("copy", std::vector<double>(12, 10 * factor))}));
    return ratioOf({{"ratios", summarize(sampleResults(cells))["pooled"]}}, "stopToResumeMs", "copy", "relayed");
}

TEST(Summary, saysWhichCellsAClaimRestsOn) {
    const json stands = pooledClaim({2, 2, 2});
    EXPECT_EQ(stands["verdict"], "larger");
    EXPECT_EQ(stands.value("restsOn", json()), json::array());
    const json rests = pooledClaim({2, 2, 2, 0.5});
    EXPECT_EQ(rests["verdict"], "larger");
    EXPECT_EQ(rests.value("restsOn", json()), json({"c0", "c1", "c2"})) << "24 of 36 rounds do not stand the correction";
    EXPECT_FALSE(pooledClaim({2}).contains("restsOn")) << "of one cell";
    EXPECT_FALSE(pooledClaim({2, 0.5}).contains("restsOn")) << "nothing is claimed";
}

TEST(Summary, saysForHowManyTestsAChanceIsCorrected) {
    const json summary = summarize(sampleResults({under("tcg", owners()), under("kvm", owners())}));
    for (const json& ratio : summary["pooled"]) EXPECT_TRUE(!ratio.contains("primary") || ratio["tests"] == 6) << ratio;
    EXPECT_FALSE(summaryOf({sampleSeries("relayed", {1}), sampleSeries("copy", {1})})["ratios"][0].contains("tests"));
}

TEST(Summary, saysChancesInOneForm) {
    EXPECT_EQ(chanceText(0.00009), "p < 0.0001");
    EXPECT_EQ(chanceText(0.00123), "p = 0.0012");
    EXPECT_EQ(chanceText(0.0476), "p = 0.048");
    EXPECT_EQ(chanceText(0.214), "p = 0.21");
    EXPECT_EQ(chanceText(1), "p = 1.00");
}

TEST(Summary, namesAcceleratorsForPeople) {
    HostFacts host;
    EXPECT_EQ(acceleratorTitle("kvm", host), "KVM");
    host.virtualized = true;
    EXPECT_EQ(acceleratorTitle("kvm", host), "KVM (nested)");
    EXPECT_EQ(acceleratorTitle("tcg", host), "TCG");
    EXPECT_EQ(acceleratorTitle("kvm, tcg", host), "KVM (nested), TCG");
}

TEST(Summary, saysSmallerAndLargerWhereTheIntervalLeavesOneOut) {
    const json cell = summaryOf({sampleSeries("relayed", times(10, 20, 1)), sampleSeries("vmm-owned", times(7, 20, 2)),
                                 sampleSeries("copy", times(30, 20, 3))});
    EXPECT_EQ(ratioOf(cell, "stopToResumeMs", "vmm-owned", "relayed")["verdict"], "smaller");
    const json copy = ratioOf(cell, "stopToResumeMs", "copy", "relayed");
    EXPECT_EQ(copy["verdict"], "larger");
    EXPECT_EQ(copy["count"], 20);
    EXPECT_NEAR(copy["median"], 3, 0.3);
    EXPECT_LT(copy["low"], copy["median"]);
    EXPECT_GT(copy["high"], copy["median"]);
}

TEST(Summary, saysNoDifferenceWhereTheIntervalHoldsOne) {
    const json cell =
        summaryOf({sampleSeries("relayed", times(10, 20, 1, 0.4)), sampleSeries("vmm-owned", times(10, 20, 2, 0.4))});
    EXPECT_EQ(ratioOf(cell, "stopToResumeMs", "vmm-owned", "relayed")["verdict"], "no difference shown");
    const std::vector<double> alike(20, 8.0);
    const json same = summaryOf({sampleSeries("relayed", alike), sampleSeries("copy", alike)});
    EXPECT_EQ(ratioOf(same, "stopToResumeMs", "copy", "relayed")["verdict"], "equivalent");
    EXPECT_EQ(ratioOf(same, "stopToResumeMs", "copy", "relayed")["tied"], 20);
}

TEST(Summary, saysNothingOfFewerThanTwelvePairs) {
    std::vector<double> ones(11, 1), rising{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const json eleven = summaryOf({sampleSeries("relayed", ones), sampleSeries("copy", rising)});
    const json ratio = ratioOf(eleven, "stopToResumeMs", "copy", "relayed");
    EXPECT_EQ(ratio["verdict"], "too few rounds to say");
    EXPECT_EQ(ratio["low"], 2.0);
    EXPECT_EQ(ratio["high"], 12.0);
    EXPECT_EQ(ratio["minMax"], true);
    EXPECT_TRUE(ratio["p"].is_null() && ratio["pHolm"].is_null() && ratio["low90"].is_null()) << ratio;
    EXPECT_EQ(eleven["series"][0]["metrics"]["stopToResumeMs"]["minMax"], true);
    ones.push_back(1);
    rising.push_back(13);
    const json twelve = summaryOf({sampleSeries("relayed", ones), sampleSeries("copy", rising)});
    EXPECT_EQ(ratioOf(twelve, "stopToResumeMs", "copy", "relayed")["verdict"], "larger");
    EXPECT_FALSE(ratioOf(twelve, "stopToResumeMs", "copy", "relayed").contains("minMax"));
    EXPECT_FALSE(twelve["series"][0]["metrics"]["stopToResumeMs"].contains("minMax"));
}

TEST(Summary, pairsRoundsByTheirNumbersAndNotByTheirPlace) {
    json relayed = sampleSeries("relayed", {1, 2, 3, 4, 5, 6, 7}), copy = sampleSeries("copy", {2, 4, 6, 8, 10, 12, 14});
    std::reverse(copy["rounds"].begin(), copy["rounds"].end());
    copy["rounds"].erase(0);
    const json ratio = ratioOf(summaryOf({relayed, copy}), "stopToResumeMs", "copy", "relayed");
    EXPECT_EQ(ratio["count"], 6);
    EXPECT_EQ(ratio["low"], 2.0);
    EXPECT_EQ(ratio["high"], 2.0);
}

TEST(Summary, saysWhichIsMoreOfWhatCanBeNothingOrLess) {
    const auto ratio = [](const std::vector<double>& copy, const std::vector<double>& relayed) {
        return ratioOf(summaryOf({sampleSeries("relayed", relayed), sampleSeries("copy", copy)}), "stopToResumeMs", "copy",
                       "relayed");
    };
    const json few = ratio({5, 0, 3, -3, -2}, {0, 0, 1, -1, 1});
    EXPECT_EQ(few["count"], 5);
    EXPECT_EQ(few["greater"], 2);  // 5 than 0, and 3 than 1.
    EXPECT_EQ(few["smaller"], 2);
    EXPECT_EQ(few["tied"], 1);
    EXPECT_TRUE(few["median"].is_null() && few["low"].is_null() && few["high"].is_null()) << few;

    const json more = ratio(std::vector<double>(12, 5), std::vector<double>(12, -5));
    EXPECT_EQ(more["verdict"], "larger");
    EXPECT_TRUE(more["median"].is_null() && more["high"].is_null()) << more;
    EXPECT_NEAR(more["low"], 1, 1e-6) << "more is all that is known";
    const json less = ratio(std::vector<double>(12, -5), std::vector<double>(12, 5));
    EXPECT_EQ(less["verdict"], "smaller");
    EXPECT_TRUE(less["median"].is_null() && less["low"].is_null()) << less;
    EXPECT_NEAR(less["high"], 1, 1e-6);

    // Two that were none have no ratio, and so are not known to be alike within a part of it.
    const json none = ratio(std::vector<double>(12, 0), std::vector<double>(12, 0));
    EXPECT_EQ(none["verdict"], "no difference shown");
    EXPECT_EQ(none["tied"], 12);
    EXPECT_TRUE(none["median"].is_null() && none["low90"].is_null() && none["high90"].is_null()) << none;
    std::vector<double> known(13, 10);
    known.front() = 0;
    EXPECT_EQ(ratio(known, known)["verdict"], "equivalent") << "one of them decides nothing";

    // Two designs of which neither is better: the first is as often the less as the second is.
    std::vector<double> one = times(10, 60, 1), other = times(10, 60, 2);
    for (std::vector<double>* values : {&one, &other})
        for (double& value : *values) value -= 9.5;
    ASSERT_LT(std::ranges::min(one), 0);
    const json there = ratio(one, other), back = ratio(other, one);
    EXPECT_EQ(there["greater"], back["smaller"]);
    EXPECT_EQ(there["smaller"], back["greater"]);
    EXPECT_EQ(there["verdict"], "no difference shown");
}

TEST(Summary, saysSoWhenTheHostWasTooBusy) {
    json relayed = sampleSeries("relayed", times(10, 20, 1)), copy = sampleSeries("copy", times(30, 20, 2));
    for (int i = 0; i < 4; ++i) relayed["rounds"][static_cast<std::size_t>(i)]["disturbed"] = true;
    json cell = summaryOf({relayed, copy});
    EXPECT_FALSE(cell["series"][0].contains("tooDisturbed"));
    EXPECT_EQ(ratioOf(cell, "stopToResumeMs", "copy", "relayed")["verdict"], "larger");
    relayed["rounds"][4]["disturbed"] = true;
    cell = summaryOf({relayed, copy});
    EXPECT_EQ(cell["series"][0].at("tooDisturbed"), true);
    EXPECT_FALSE(cell["series"][1].contains("tooDisturbed"));
    EXPECT_EQ(ratioOf(cell, "stopToResumeMs", "copy", "relayed")["verdict"], "host too busy to say");
}

TEST(Summary, comparesNothingWithADesignThatWasNotRun) {
    json copy = sampleSeries("copy", {});
    copy["notRun"] = "no room";
    const json cell = summaryOf({sampleSeries("relayed", times(10, 20, 1)), copy});
    EXPECT_EQ(cell["series"].size(), 2u);
    EXPECT_EQ(cell["series"][1]["rounds"], 0);
    EXPECT_TRUE(cell["ratios"].empty());
}

TEST(Summary, isTheSameForTheSameRounds) {
    const json results =
        sampleResults({sampleCell("c1", {sampleSeries("relayed", times(10, 20, 1)), sampleSeries("copy", times(11, 20, 2))})});
    EXPECT_EQ(summarize(results).dump(), summarize(results).dump());
}

TEST(Summary, copesWithResultsWithoutCells) {
    EXPECT_EQ(summarize(sampleResults({})), json({{"cells", json::array()}, {"pooled", json::array()}}));
}

}  // namespace
}  // namespace vh
