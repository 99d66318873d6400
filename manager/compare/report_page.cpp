#include "manager/compare/report_page.h"

#include <string_view>

#include "config/design.h"
#include "manager/compare/summary.h"

namespace vh {

// Made by page/assemble.py: all of the page that is not results.
extern const std::string_view reportPageBeforeData;
extern const std::string_view reportPageAfterData;

namespace {

using nlohmann::json;

/// JSON that a script element may hold: neither `</script>` nor `<!--` can be written without a `<`, and JSON has that within
/// strings only. ASCII alone, since U+2028 and U+2029 end a line for some readers of scripts.
std::string inScriptElement(const json& value) {
    std::string text;
    for (const char c : value.dump(-1, ' ', true, json::error_handler_t::replace)) {
        if (c == '<')
            text += "\\u003c";
        else if (c == '>')
            text += "\\u003e";
        else
            text += c;
    }
    return text;
}

/// The page names metrics as everything else here does.
json metricTitles() {
    json titles = json::array();
    for (const Metric& metric : metrics)
        titles.push_back({{"name", metric.name}, {"pointer", metric.pointer}, {"title", metric.title}, {"unit", metric.unit}});
    return titles;
}

/// What goes from whom to whom in a handover: `from` the old VMM, or the manager to both; `how` and `through` what.
json pathsOf(const DesignRow& row) {
    const bool isOneProcess = row.state == StatePath::Exec;
    const std::string way = row.state == StatePath::File ? "file" : isOneProcess ? "exec" : "";
    const auto path = [](const char* what, const char* from, const char* how, const std::string& through) {
        return json{{"what", what}, {"from", from}, {"how", how}, {"through", through}};
    };
    const bool ofManager = row.ram == RamPath::File || row.relays, copied = row.ram == RamPath::Copied;
    json paths = json::array();
    paths.push_back(ofManager ? path("guest RAM", "manager", "descriptor", "")
                              : path("guest RAM", "old", copied ? "copy" : "descriptor", way));
    paths.push_back(row.ram == RamPath::Descriptors
                        ? path("firmware, ROMs, video memory", "old", "descriptor", row.relays ? "manager" : way)
                        : path("firmware, ROMs, video memory", "old", "copy", way));
    paths.push_back(path("device state", "old", "stream", way));
    paths.push_back(isOneProcess ? path("disks, taps, sockets", "old", "descriptor", way)
                                 : path("disks, taps, sockets", "manager", "descriptor", ""));
    return paths;
}

/// What each design is, for people.
json designs() {
    const auto release = [](Release one) { return one == Release() ? std::string() : text(one); };
    json rows = json::array();
    for (const DesignRow& row : designRows)
        rows.push_back({{"name", row.name},
                        {"owner", row.owner ? json(name(*row.owner)) : json()},
                        {"standsBy", row.standsBy},
                        {"wayBack", row.wayBack},
                        {"baseline", row.baseline},
                        {"byHandOf", row.byHandOf ? json(name(*row.byHandOf)) : json()},
                        {"noDevices", row.noDevices},
                        {"guestRam", row.guestRam},
                        {"implicitRam", row.implicitRam},
                        {"checkedBy", row.checkedBy},
                        {"sameProcess", row.state == StatePath::Exec},
                        {"paths", pathsOf(row)},
                        {"oldestOld", release(row.oldestOld)},
                        {"oldestNew", release(row.oldestNew)}});
    return rows;
}

}  // namespace

std::string reportPage(const json& results) {
    std::string page(reportPageBeforeData);
    page += inScriptElement({{"metrics", metricTitles()}, {"designs", designs()}, {"results", results}});
    page += reportPageAfterData;
    return page;
}

}  // namespace vh
