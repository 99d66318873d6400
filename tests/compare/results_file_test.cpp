#include "manager/compare/results_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <system_error>

#include <gtest/gtest.h>

#include "manager/compare/summary.h"
#include "manager/compare/text.h"
#include "tests/support/golden.h"
#include "tests/support/sample_results.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"

namespace vh {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json whole() {
    json series = sampleSeries("relayed", {1, 2, 3});
    json& round = series["rounds"][0];
    round["writeRate"] = {{"beforePagesPerSecond", 1e5}, {"brownOutMs", nullptr}, {"binMs", 5},
                          {"firstBinMs", -20},           {"workLostMs", 7.5},     {"curvePercent", {100, nullptr}}};
    round["network"] = {{"sent", 1000}, {"lost", 0}, {"longestGapMs", 4.5}, {"notBack", true}};
    series["rounds"].push_back(failedRound(4, 1, "no"));
    series["inspection"] = {{"memoryOldBytes", 1},
                            {"memoryBothBytes", 2},
                            {"extraMemoryBytes", 1},
                            {"descriptors", {{{"name", "ram0"}, {"createdBy", "manager"}, {"passedBy", "relay"}}}},
                            {"ioctls", {{"KVM", 0}, {"other", 9}}},
                            {"memfds", 0},
                            {"untraced", ""}};
    json results = sampleResults({sampleCell("c1", {series}), sampleCell("c2", {sampleSeries("copy", {})})});
    results["sittings"] = {{{"startedAt", "2026-01-02T03:04:05.678Z"},
                            {"finishedAt", nullptr},
                            {"command", {"virt-handover", "compare"}},
                            {"evenIfBusy", true},
                            {"commit", "0123456789ab"}}};
    return results;
}

std::string problemOf(const json& results) {
    try {
        static_cast<void>(parseResults(results.dump(), "x.json"));
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

/// The problem of results in which something stands at a pointer that does not belong there.
std::string problemWith(const std::string& pointer, const json& value) {
    json results = whole();
    results[json::json_pointer(pointer)] = value;
    return problemOf(results);
}

TEST(ResultsFile, readsWhatItWrote) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/results.json";
    writeResults(path, parseResults(whole().dump(), "x.json"));
    EXPECT_EQ(json::parse(readFile(path)), whole());
    EXPECT_EQ(toJson(readResults(path)), whole());
}

TEST(ResultsFile, keepsWhatCellsOfNewerFilesVary) {
    json results = whole();
    json& cell = results["cells"][0];
    for (const auto& [member, value] : {std::pair<const char*, json>("hotSetBytes", 64 << 20),
                                        {"transparentHuge", true},
                                        {"accelerator", "kvm"},
                                        {"guest", "bare"},
                                        {"devices", {"disk", "many"}}})
        cell[member] = value;
    cell["series"][0]["rounds"][0]["guestClock"] = {
        {"hostGapMs", 50.0}, {"tscGapMs", nullptr}, {"clockGapMs", 12.0}, {"wentBack", false}};
    const Results read = parseResults(results.dump(), "x.json");
    EXPECT_EQ(toJson(read), results);
    EXPECT_NE(read.configurations[0].factors(), read.configurations[1].factors());
    EXPECT_EQ(problemWith("/cells/0/guest", "windows"),
              "'x.json': cells[0].guest: found \"windows\", expected one of 'auto', 'linux', 'bare'");
}

TEST(ResultsFile, writesThePublishedResultsAsTheyAre) {
    const TemporaryDirectory directory;
    const std::string published = inSourceTree("tests/results/results.json"), path = directory.path() + "/results.json";
    const Results results = readResults(published);
    const Summary summary = summarize(results);
    writeResults(path, results, &summary);
    if (std::getenv("VH_ACCEPT")) {  // Statistics have changed: the same rounds, and what is said of them now.
        writeResults(published, results, &summary);
        std::ofstream(inSourceTree("tests/results/results.csv")) << comparisonCsv(results);
    }
    EXPECT_TRUE(readFile(path) == readFile(published)) << "compare '" << published << "' with what becomes of it";
    EXPECT_TRUE(comparisonCsv(results) == readFile(inSourceTree("tests/results/results.csv")));
}

TEST(ResultsFile, makesTheSummaryAnew) {
    json results = whole();
    results["summary"] = {{"cells", "damaged"}};
    EXPECT_EQ(toJson(parseResults(results.dump(), "x.json")), whole());
    results.erase("summary");
    EXPECT_EQ(toJson(parseResults(results.dump(), "x.json")), whole());
}

TEST(ResultsFile, leavesOutMembersThatItDoesNotKnow) {
    json results = whole();
    results["cells"][0]["colour"] = "red";
    EXPECT_EQ(toJson(parseResults(results.dump(), "x.json")), whole());
}

TEST(ResultsFile, takesOlderFilesWithoutWhatCameLater) {
    json results = whole();
    results["settings"] = json::object();
    results.erase("workplace");
    results.erase("sittings");
    json& round = results["cells"][0]["series"][0]["rounds"][0];
    round["beats"].erase("during");
    for (const char* later : {"startedAt", "disturbance"}) round.erase(later);
    EXPECT_EQ(problemOf(results), "");
    const json again = toJson(parseResults(results.dump(), "x.json"))["cells"][0]["series"][0]["rounds"][0];
    EXPECT_FALSE(again.contains("startedAt") || again.contains("disturbance") || again.contains("disturbedBy")) << again;
}

TEST(ResultsFile, keepsWhenARoundBeganAndByWhatItWasDisturbed) {
    json results = whole();
    json& round = results["cells"][0]["series"][0]["rounds"][0];
    round["disturbed"] = true;
    round["disturbedBy"] = "steal: 7.2 %, more than 5 %";
    const Round read = parseResults(results.dump(), "x.json").configurations[0].series[0].rounds[0];
    EXPECT_EQ(read.startedAt, "2026-01-02T03:05:06.789Z");
    EXPECT_EQ(read.disturbedBy, "steal: 7.2 %, more than 5 %");
    EXPECT_EQ(read.disturbance->before.cpuPressurePercent, 1.5);
    EXPECT_EQ(read.disturbance->since.managerWaitPercent, std::nullopt);
    EXPECT_EQ(toJson(read), round);
}

TEST(ResultsFile, tellsADesignThatWasNotRunFromOneThatWasGivenUp) {
    json results = whole();
    results["cells"][0]["series"][0]["notRun"] = "given up after 3 failures in a row: no";
    results["cells"][1]["series"][0]["notRun"] = "it needs 10.2";
    const Results read = parseResults(results.dump(), "x.json");
    EXPECT_EQ(read.configurations[0].of(Design::Relayed)->rounds.size(), 4u);
    EXPECT_FALSE(read.configurations[0].of(Design::Relayed)->isRun());
    EXPECT_EQ(read.configurations[1].of(Design::Copy)->notRun, "it needs 10.2");
    EXPECT_TRUE(read.configurations[1].of(Design::Copy)->rounds.empty());
    EXPECT_EQ(read.configurations[1].of(Design::Relayed), nullptr);
}

TEST(ResultsFile, hasEveryMetricWhereItsPointerLeads) {
    const Results read = parseResults(whole().dump(), "x.json");
    Round round = read.configurations[0].series[0].rounds[0];
    round.writeRate->brownOutMs = 12.5;
    const json file = toJson(round);
    for (const Metric& metric : metrics) {
        ASSERT_TRUE(metric.of(round)) << metric.name;
        EXPECT_EQ(metric.of(round)->value, file.at(json::json_pointer(std::string(metric.pointer))).get<double>()) << metric.name;
        EXPECT_FALSE(metric.of(Round())) << metric.name;
    }
}

TEST(ResultsFile, refusesWhatIsNoJson) {
    try {
        parseResults("{\"format\": ", "x.json");
        FAIL();
    } catch (const std::runtime_error& error) {
        EXPECT_EQ(std::string(error.what()).rfind("'x.json': this is no JSON: parse error at line 1, column 12", 0), 0u)
            << error.what();
    }
    EXPECT_THROW(parseResults("", "x.json"), std::runtime_error);
    EXPECT_THROW(parseResults(std::string(200'000, '['), "x.json"), std::runtime_error);
    EXPECT_THROW(parseResults("{\"format\": \"\xff\"}", "x.json"), std::runtime_error);
}

TEST(ResultsFile, refusesOtherFormats) {
    EXPECT_EQ(problemOf(json::array()), "'x.json': found a list, expected an object");
    EXPECT_EQ(problemOf(json::object()), "'x.json': format: found nothing, expected text");
    EXPECT_EQ(problemWith("/format", "virt-handover-compare/2"),
              "'x.json': format: found \"virt-handover-compare/2\", expected 'virt-handover-compare/1'");
}

TEST(ResultsFile, saysWhereItIsDamaged) {
    EXPECT_EQ(problemOf(whole()), "");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/2", 7),
              "'x.json': cells[0].series[0].rounds[2]: found 7, expected an object");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/2/vm", "one"),
              "'x.json': cells[0].series[0].rounds[2].vm: found \"one\", expected a whole number");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/2/vm", 0),
              "'x.json': cells[0].series[0].rounds[2].vm: found 0, expected a whole number from 1");
    EXPECT_EQ(problemWith("/cells/1/devices", {"network", "many"}),
              "'x.json': cells[1].devices: found a list, expected 'many' with 'disk'");
    EXPECT_EQ(problemWith("/cells/1/devices/0", "floppy"),
              "'x.json': cells[1].devices[0]: found \"floppy\", expected one of 'disk', 'network', 'many'");
    EXPECT_EQ(problemWith("/cells/1/vcpus", 1ULL << 40),
              "'x.json': cells[1].vcpus: found 1099511627776, expected a whole number");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/2/round", 1),
              "'x.json': cells[0].series[0].rounds[2].round: found 1, expected no second entry for this round and VM");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/0/disturbed", nullptr),
              "'x.json': cells[0].series[0].rounds[0].disturbed: found null, expected true or false");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/0/outcome", "fine"),
              "'x.json': cells[0].series[0].rounds[0].outcome: found \"fine\", expected one of 'upgraded', 'rolled back', "
              "'refused', 'lost', 'silent'");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/0/writeRate/curvePercent/1", "x"),
              "'x.json': cells[0].series[0].rounds[0].writeRate.curvePercent[1]: found \"x\", expected a number or null");
    EXPECT_EQ(problemWith("/cells/0/series/0/rounds/0/network", json::object()),
              "'x.json': cells[0].series[0].rounds[0].network.sent: found nothing, expected a whole number or null");
    EXPECT_EQ(problemWith("/cells/0/new", 2), "'x.json': cells[0].new: found 2, expected the place of one of vmms, from 0");
    EXPECT_EQ(problemWith("/cells/1/id", "c1"), "'x.json': cells[1].id: found \"c1\", expected an id that no other cell has");
    EXPECT_EQ(problemWith("/cells/1/ramBytes", -4), "'x.json': cells[1].ramBytes: found -4, expected a whole number");
    EXPECT_EQ(problemWith("/cells/1/title", std::string(500, 'x')), "");
    EXPECT_EQ(problemWith("/cells/1/load", std::string(500, 'x')),
              "'x.json': cells[1].load: found other text, expected one of 'idle', 'memory', 'disk', 'network'");
    EXPECT_EQ(problemWith("/host/cpus", "two"), "'x.json': host.cpus: found \"two\", expected a whole number");
    EXPECT_EQ(problemWith("/notes", "none"), "'x.json': notes: found \"none\", expected a list");
}

/// Whatever is missing or of another type, it is said; nothing that the schema names may be passed over.
TEST(ResultsFile, missesEveryMember) {
    const json complete = whole().flatten();
    for (const auto& [pointer, value] : complete.items()) {
        if (pointer.rfind("/settings", 0) == 0 || pointer == "/summary" || pointer == "/workplace") continue;
        const json::json_pointer where(pointer);
        json results = whole();
        json& parent = results[where.parent_pointer()];
        // Earlier files do not have them.
        static const std::set<std::string> later{"during",        "workLostMs",  "notBack",        "cpuMs",
                                                 "preparationMs", "noWayBackMs", "qemuDowntimeMs", "commit"};
        if (!parent.is_object() || pointer.find("/ioctls/") != std::string::npos || later.contains(where.back()) ||
            (where.back() == "startedAt" && pointer.find("/rounds/") != std::string::npos))
            continue;
        parent.erase(where.back());
        EXPECT_NE(problemOf(results).find("found nothing"), std::string::npos) << pointer << ": " << problemOf(results);
        const json other = value.is_object() ? json("text") : json::object();
        EXPECT_NE(problemWith(pointer, other), "") << pointer;
    }
}

TEST(ResultsFile, takesEveryFigureThatWasNotMeasured) {
    for (const char* figure : {"stealPercent", "phasesMs", "totalMs", "stopToResumeMs", "guestPauseMs", "beats", "writeRate",
                               "network", "bytesSent", "ramCopiedBytes", "pageFaults", "patterns"})
        EXPECT_EQ(problemWith("/cells/0/series/0/rounds/0/" + std::string(figure), nullptr), "") << figure;
    EXPECT_EQ(problemWith("/cells/0/series/0/inspection/ioctls", nullptr), "");
    EXPECT_EQ(problemWith("/finishedAt", nullptr), "");
    EXPECT_EQ(problemWith("/seed", UINT64_MAX), "");
    EXPECT_EQ(problemWith("/command", {"virt-handover", 1}), "'x.json': command[1]: found 1, expected text");
}

TEST(ResultsFile, namesAFileThatItCannotRead) {
    const TemporaryDirectory directory;
    try {
        readResults(directory.path() + "/none.json");
        FAIL();
    } catch (const std::system_error& error) {
        EXPECT_EQ(error.what(), "open '" + directory.path() + "/none.json': No such file or directory");
    }
    EXPECT_THROW(readResults(directory.path()), std::system_error);
}

TEST(ResultsFile, refusesFilesThatAreTooLarge) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/large.json";
    std::ofstream(path).close();
    fs::resize_file(path, greatestResultsBytes + 1);  // Sparse.
    try {
        readResults(path);
        FAIL();
    } catch (const std::runtime_error& error) {
        EXPECT_EQ(error.what(), "'" + path + "': more than 256 MiB are no results of a comparison");
    }
}

}  // namespace
}  // namespace vh
