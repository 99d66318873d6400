#include "manager/compare/report_page.h"

#include <filesystem>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "config/design.h"
#include "manager/compare/summary.h"
#include "tests/support/golden.h"
#include "tests/support/sample_results.h"

namespace vh {
namespace {

using nlohmann::json;

json results() {
    return sampleResults(
        {sampleCell("one", {sampleSeries("relayed", times(12, 10, 1)), sampleSeries("copy", times(190, 10, 2))})});
}

std::vector<std::size_t> placesOf(std::string_view wanted, std::string_view text) {
    std::vector<std::size_t> places;
    for (std::size_t at = text.find(wanted); at != text.npos; at = text.find(wanted, at + 1)) places.push_back(at);
    return places;
}

/// What the page's element `data` has in it.
std::string dataOf(const std::string& page) {
    const std::string start = R"(<script type="application/json" id="data">)";
    const std::size_t from = page.find(start) + start.size();
    return page.substr(from, page.find("</script>", from) - from);
}

/// The page but for what is within its scripts and its style: its markup.
std::string markupOf(const std::string& page) {
    std::string markup;
    std::size_t at = 0;
    for (;;) {
        const std::size_t script = page.find("<script", at), style = page.find("<style", at), element = std::min(script, style);
        if (element == page.npos) return markup + page.substr(at);
        const std::size_t content = page.find('>', element) + 1;
        markup += page.substr(at, content - at);
        at = page.find(element == script ? "</script>" : "</style>", content);
    }
}

const std::string notUtf8 = "\xff\xfe is not UTF-8";
const std::vector<std::string> hostile{"</script><script>alert(1)</script>",
                                       "<!--<script>",
                                       "]]><img src=x onerror=alert(1)>",
                                       "{{data}}{{script}}",
                                       "a\u2028b\u2029c",
                                       "\"'\\",
                                       "</SCRIPT >",
                                       notUtf8,
                                       std::string("a\0b", 3)};

TEST(ReportPage, holdsTheResultsAsTheyAre) {
    EXPECT_EQ(json::parse(dataOf(reportPage(results())))["results"], results());
}

TEST(ReportPage, holdsTheTitlesOfAllMetrics) {
    const json titles = json::parse(dataOf(reportPage(results())))["metrics"];
    ASSERT_EQ(titles.size(), metrics.size());
    EXPECT_EQ(titles[0]["name"], metrics[0].name);
    EXPECT_EQ(titles[0]["pointer"], metrics[0].pointer);
}

TEST(ReportPage, knowsOfTheDesignsWhatTheirRowsSay) {
    const json rows = json::parse(dataOf(reportPage(results())))["designs"];
    ASSERT_EQ(rows.size(), designRows.size());
    for (const DesignRow& row : designRows) {
        const json& shown = rows[static_cast<std::size_t>(row.design)];
        EXPECT_EQ(shown["name"], row.name);
        EXPECT_EQ(shown["checkedBy"], row.checkedBy);
        EXPECT_EQ(shown["noDevices"], row.noDevices);
        EXPECT_EQ(shown["wayBack"], row.wayBack);
        EXPECT_EQ(shown["baseline"], row.baseline);
        EXPECT_EQ(shown["byHandOf"], row.byHandOf ? json(name(*row.byHandOf)) : json());
    }
    EXPECT_EQ(rows[0]["oldestOld"], "10.0");
    EXPECT_EQ(rows[4]["oldestOld"], "") << "any";
}

TEST(ReportPage, knowsWhatTravelsInEachDesign) {
    const json rows = json::parse(dataOf(reportPage(results())))["designs"];
    const auto path = [&rows](Design design, std::size_t which) {
        const json& one = rows[static_cast<std::size_t>(design)]["paths"][which];
        return one["from"].get<std::string>() + " " + one["how"].get<std::string>() + " " + one["through"].get<std::string>();
    };
    for (const DesignRow& row : designRows) {
        const json& paths = rows[static_cast<std::size_t>(row.design)]["paths"];
        ASSERT_EQ(paths.size(), 4u);
        EXPECT_EQ(paths[0]["how"] == "copy", !sharesRam(row.design)) << row.name;
        EXPECT_EQ(paths[2]["how"], "stream") << row.name;
    }
    EXPECT_EQ(path(Design::Relayed, 0), "manager descriptor ");
    EXPECT_EQ(path(Design::Relayed, 1), "old descriptor manager");
    EXPECT_EQ(path(Design::ManagerOwned, 0), "manager descriptor ");
    EXPECT_EQ(path(Design::ManagerOwned, 1), "old copy ");
    EXPECT_EQ(path(Design::VmmOwned, 0), "old descriptor ");
    EXPECT_EQ(path(Design::VmmOwned, 1), "old descriptor ");
    EXPECT_EQ(path(Design::VmmExec, 3), "old descriptor exec");
    EXPECT_EQ(path(Design::SaveRestore, 0), "old copy file");
}

TEST(ReportPage, hasColoursForAllDesigns) {
    const std::string page = reportPage(results());
    const std::size_t from = page.find("const LOOKS = ["), to = page.find("];", from);
    ASSERT_NE(from, page.npos);
    EXPECT_GE(placesOf("light:", std::string_view(page).substr(from, to - from)).size(), designRows.size());
}

/// Nothing of compare/ but what it is told by the rows knows more than one design by its name.
TEST(ReportPage, andTheRestOfCompareHaveNoListOfDesigns) {
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(inSourceTree("manager/compare"))) {
        if (!entry.is_regular_file() || entry.path().extension() == ".md") continue;
        ++files;
        const std::string text = fileText(entry.path());
        std::size_t known = 0;
        for (const auto& [name, enumerator] : {std::pair("relayed", "Relayed"),
                                               {"manager-owned", "ManagerOwned"},
                                               {"vmm-owned", "VmmOwned"},
                                               {"vmm-exec", "VmmExec"},
                                               {"copy", "Copy"},
                                               {"save-restore", "SaveRestore"},
                                               {"cpr-transfer", "CprTransfer"},
                                               {"x-ignore-shared", "IgnoreShared"}})
            if (text.find('"' + std::string(name) + '"') != text.npos ||
                text.find("Design::" + std::string(enumerator)) != text.npos)
                ++known;
        EXPECT_LE(known, 1u) << entry.path();
    }
    EXPECT_GT(files, 30u);
}

TEST(ReportPage, letsNoTextBreakOutOfTheData) {
    const std::string harmless = reportPage(results());
    for (const std::string& text : hostile) {
        json value = results();
        value["notes"].push_back(text);
        value["cells"][0]["title"] = text;
        value["cells"][0]["series"][0]["rounds"][0]["cause"] = text;
        value["host"][text == notUtf8 ? "key" : text] = text;
        const std::string page = reportPage(value);
        EXPECT_EQ(markupOf(page), markupOf(harmless)) << text;
        const std::string data = dataOf(page);
        for (const char* never : {"<", ">", "\u2028", "\u2029", "\xff"})
            EXPECT_EQ(data.find(never), data.npos) << never << " of " << text;
        const json read = json::parse(data)["results"];
        EXPECT_TRUE(read == value || text == notUtf8) << data;
    }
}

TEST(ReportPage, leavesNoPlaceUnfilled) {
    const std::string page = reportPage(results());
    EXPECT_EQ(page.find("{{"), page.npos);
    EXPECT_EQ(placesOf("</html>", page).size(), 1u);
    EXPECT_EQ(placesOf("</script>", page).size(), 3u);
    EXPECT_NE(page.find("Chart.js v3"), page.npos);
}

TEST(ReportPage, refersToNothingOutsideOfItself) {
    const std::string page = reportPage(results()), markup = markupOf(page);
    EXPECT_FALSE(std::regex_search(markup, std::regex(R"((src|href|action|data|poster|srcset)\s*=\s*["'](?!#))"))) << markup;
    EXPECT_FALSE(std::regex_search(markup, std::regex("<(link|img|iframe|object|embed|base|form[^>]*action)[ >]"))) << markup;
    for (const char* way : {"@import", "url(", "fetch(", "XMLHttpRequest", "WebSocket", "EventSource", "sendBeacon", "import("})
        EXPECT_EQ(page.find(way), page.npos) << way;
    // Addresses are only in Chart.js's own comments, which say whose it is.
    for (const char* address : {"http://", "https://"})
        for (const std::size_t at : placesOf(address, page))
            EXPECT_GT(page.rfind("/*", at) + 1, page.rfind("*/", at) + 1) << page.substr(at, 60);
}

TEST(ReportPage, allowsNothingButItsOwnScriptsAndStyle) {
    const std::string page = reportPage(results());
    std::smatch policy;
    ASSERT_TRUE(std::regex_search(page, policy, std::regex(R"(Content-Security-Policy" content="([^"]*)\")")));
    const std::string text = policy[1];
    EXPECT_EQ(text.find("default-src 'none';"), 0u) << text;
    EXPECT_EQ(placesOf("'sha256-", text).size(), 3u) << text;
    EXPECT_EQ(text.find("unsafe"), text.npos) << text;
    EXPECT_LT(page.find("Content-Security-Policy"), page.find("<style"));
}

TEST(ReportPage, isMadeOfWhateverResultsThereAre) {
    for (const json& value : {json(), json::object(), json::array(), json("text"), json{{"cells", nullptr}}})
        EXPECT_EQ(json::parse(dataOf(reportPage(value)))["results"], value);
}

}  // namespace
}  // namespace vh
