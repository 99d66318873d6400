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

json lastReport(const VmDirectory& directory) {
    const std::string path = directory.path() + "/" + fileName;
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return {};
    try {
        json value = toJson(handoverReportFromJson(json::parse(readFile(path))));
        value["at"] = utc(status.st_mtime);
        return value;
    } catch (const std::exception& error) {
        return {{"error", "'" + path + "' cannot be understood: " + error.what()}};
    }
}

std::string lastReportText(const json& value) {
    if (!value.is_object()) return {};
    try {
        if (value.contains("error")) return "last handover: " + JsonReader(value).shown("/error") + "\n";
        const HandoverReport report = handoverReportFromJson(value);
        return "last handover, ended " + JsonReader(value).shown("/at") +
               (report.recovery ? " by a manager that settled what an earlier one had left half done" : "") + ":\n  " +
               reportText(report);
    } catch (const std::exception& error) {
        return std::string("last handover: cannot be understood: ") + error.what() + "\n";
    }
}

}  // namespace vh
