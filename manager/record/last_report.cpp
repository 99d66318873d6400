#include "manager/record/last_report.h"

#include <sys/stat.h>

#include "vmm-shim/file.h"
#include "vmm-shim/json_text.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr const char* fileName = "last-report.json";

}  // namespace

std::string utc(std::time_t time) {
    std::tm parts{};
    char text[32];
    ::gmtime_r(&time, &parts);
    return {text, std::strftime(text, sizeof text, "%FT%TZ", &parts)};
}

void keepLastReport(const VmDirectory& directory, const HandoverReport& report) {
    replaceFile(directory.path() + "/" + fileName, jsonText(toJson(report), 2) + "\n", 0600, Outlives::Writer);
}

std::optional<LastReport> lastReport(const VmDirectory& directory) {
    const std::string path = directory.path() + "/" + fileName;
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return std::nullopt;
    try {
        return LastReport{handoverReportFromJson(json::parse(readFile(path))), utc(status.st_mtime), {}};
    } catch (const std::exception& error) {
        return LastReport{{}, {}, "'" + path + "' cannot be understood: " + error.what()};
    }
}

json toJson(const LastReport& last) {
    if (!last.error.empty()) return {{"error", last.error}};
    json value = toJson(last.report);
    value["at"] = last.at;
    return value;
}

LastReport lastReportFromJson(const json& value) {
    const JsonReader reader(value);
    if (!reader.at("/error").is_null()) return {{}, {}, reader.shown("/error")};
    try {
        return {handoverReportFromJson(value), reader.shown("/at"), {}};
    } catch (const std::exception& error) {
        return {{}, {}, std::string("cannot be understood: ") + error.what()};
    }
}

std::string lastReportText(const LastReport& last) {
    if (!last.error.empty()) return "last handover: " + last.error + "\n";
    return "last handover, ended " + last.at +
           (last.report.recovery ? " by a manager that settled what an earlier one had left half done" : "") + ":\n  " +
           reportText(last.report);
}

}  // namespace vh
