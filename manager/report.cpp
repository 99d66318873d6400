#include "manager/report.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace vh {
namespace {

using nlohmann::json;

std::string formatted(const char* format, double value) {
    char text[64];
    std::snprintf(text, sizeof(text), format, value);
    return text;
}

json toJson(const VmmIdentity& vmm) {
    return {{"binary", vmm.binary}, {"kind", vmm.kind}, {"version", vmm.version}, {"pid", vmm.pid}};
}

json toJson(const HeartbeatSummary& guest) {
    json value{{"beats", guest.beats},       {"lost", guest.lost},
               {"repeated", guest.repeated}, {"longestGapMs", guest.longestGapMs},
               {"status", guest.status},     {"errors", guest.errors}};
    value["pauseMs"] = guest.pauseMs ? json(*guest.pauseMs) : json();
    return value;
}

std::string versionOf(const json& vmm) {
    const std::string kind = vmm.value("kind", ""), version = vmm.value("version", "");
    return (kind.empty() ? "QEMU" : kind) + " " + (version.empty() ? "?" : version);
}

std::string megabytes(std::uint64_t bytes) {
    return formatted("%.2f MB", static_cast<double>(bytes) / 1e6);
}
std::string mebibytes(std::uint64_t bytes) {
    return formatted("%.0f", static_cast<double>(bytes) / (1024 * 1024));
}

/// The lines under the first: what the guest felt and what it cost.
std::string figures(const json& report) {
    std::string line;
    const auto add = [&line](const std::string& text) { line += (line.empty() ? "  " : "   ") + text; };
    const json guest = report.value("guest", json());
    const bool switched = guest.is_object() && guest["pauseMs"].is_number();
    if (switched) add("guest pause " + formatted("%.1f ms", guest["pauseMs"]) + " (heartbeats)");
    if (!switched && guest.is_object()) add("longest gap " + formatted("%.1f ms", guest["longestGapMs"]) + " (heartbeats)");
    const json stopToResume = report["vmm"]["stopToResumeMs"];
    if (stopToResume.is_number()) add(formatted("%.1f ms", stopToResume) + " (STOP to RESUME)");
    if (report["outcome"] == outcomeName(State::Upgraded) || report["outcome"] == silentOutcome) {
        add(megabytes(report["bytesSent"]) + " sent");
        add(mebibytes(report["ramCopiedBytes"]) + " of " + mebibytes(report["ramBytes"]) + " MiB RAM copied");
    }
    add("total " + formatted("%.2f s", report["totalMs"].get<double>() / 1000));
    return line + "\n";
}

/// What the comparison of RAM blocks found, but for a fatal difference, which is the cause already.
std::string ramBlocks(const json& report) {
    const json& blocks = report["ramBlocks"];
    if (blocks["compared"] == 0) return {};
    std::string text = "  RAM blocks: " + blocks["compared"].dump() + " compared";
    const bool fatal =
        std::ranges::any_of(blocks["differences"], [](const json& difference) { return difference["severity"] == "fatal"; });
    text += blocks["differences"].empty() ? ", all alike\n" : fatal ? ", not fit for a handover\n" : ", fit for a handover\n";
    constexpr std::size_t shown = 4;
    for (std::size_t i = 0; i < std::min(shown, blocks["differences"].size()); ++i) {
        const json& difference = blocks["differences"][i];
        text += "    " + difference["severity"].get<std::string>() + ": " + difference["text"].get<std::string>() + "\n";
    }
    if (blocks["differences"].size() > shown)
        text += "    and " + std::to_string(blocks["differences"].size() - shown) + " more; --json has them all\n";
    return text;
}

}  // namespace

std::string_view name(State state) {
    static constexpr std::array<std::string_view, stateCount> names = {
        "preflight", "launching",  "exchanging", "verifying", "standing by", "switching", "proving", "confirming",
        "retiring",  "discarding", "resuming",   "refused",   "rolled back", "upgraded",  "lost"};
    return names.at(static_cast<std::size_t>(state));
}

std::string_view name(Event event) {
    static constexpr std::array<std::string_view, eventCount> names = {"done",     "failed",   "timed out",
                                                                       "new died", "old died", "cancelled"};
    return names.at(static_cast<std::size_t>(event));
}

std::string_view outcomeName(State finalState) {
    return name(finalState);
}

ExitCode HandoverReport::exitCode() const {
    if (dryRun) return ExitCode::Done;
    if (silent && outcome == State::Upgraded) return ExitCode::Lost;
    if (outcome == State::Upgraded || outcome == State::StandingBy) return ExitCode::Done;
    if (outcome == State::Refused) return ExitCode::Refused;
    return outcome == State::RolledBack ? ExitCode::RolledBack : ExitCode::Lost;
}

json toJson(const HandoverReport& report) {
    json devices = json::array();
    for (const PassedDevice& device : report.passthrough)
        devices.push_back({{"id", device.id}, {"address", device.address}, {"interface", name(device.interface)}});
    json steps = json::array();
    for (const StepTime& step : report.steps)
        steps.push_back({{"state", name(step.state)}, {"startMs", step.startMs}, {"durationMs", step.durationMs}});
    json blocks = json::array();
    for (const RamBlockDifference& difference : report.ramBlockDifferences)
        blocks.push_back({{"block", difference.idstr},
                          {"field", difference.field},
                          {"old", difference.old},
                          {"new", difference.fresh},
                          {"severity", name(difference.severity)},
                          {"why", difference.why},
                          {"text", describe(difference)}});
    const bool silent = report.silent && report.outcome == State::Upgraded;
    return {{"vm", report.vm},
            {"design", name(report.design)},
            {"outcome", report.dryRun ? "ready" : silent ? silentOutcome : outcomeName(report.outcome)},
            {"exitCode", static_cast<int>(report.exitCode())},
            {"cause", report.cause},
            {"old", toJson(report.old)},
            {"new", toJson(report.fresh)},
            {"vmm", {{"stopToResumeMs", report.stopToResumeMs ? json(*report.stopToResumeMs) : json()}}},
            {"guest", report.guest ? toJson(*report.guest) : json()},
            {"bytesSent", report.bytesSent},
            {"ramBytes", report.ramBytes},
            {"ramCopiedBytes", report.ramCopiedBytes},
            {"ramBlocks", {{"compared", report.ramBlocksCompared}, {"differences", blocks}}},
            {"passthrough", devices},
            {"totalMs", report.totalMs},
            {"steps", steps},
            {"warnings", report.warnings}};
}

std::string jsonText(const json& value, int indent) {
    return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

std::string reportText(const json& report) {
    const std::string outcome = report["outcome"], cause = report["cause"];
    const std::string vm = report["vm"];
    std::string text = vm + ": " + outcome + "   ";
    if (outcome == outcomeName(State::Upgraded) || outcome == silentOutcome || outcome == outcomeName(State::StandingBy) ||
        outcome == "ready")
        text += versionOf(report["old"]) + " -> " +
                (report["old"]["kind"] == report["new"]["kind"] ? report["new"].value("version", "?") : versionOf(report["new"]));
    else if (outcome == outcomeName(State::Lost))
        text += report["old"]["pid"] == report["new"]["pid"]
                    ? "a person must look at pid " + report["old"]["pid"].dump()
                    : "a person must look: the old VMM is pid " + report["old"]["pid"].dump() + ", the new one pid " +
                          report["new"]["pid"].dump();
    else if (outcome == outcomeName(State::RolledBack))
        text += "the guest runs on " + versionOf(report["old"]) + " as before";
    else
        text += "nothing was touched";
    text += "   design " + report["design"].get<std::string>() + "\n";
    if (!cause.empty()) text += "  cause: " + cause + "\n";
    if (outcome == silentOutcome)
        text += "  a person must look whether the guest is alive: 'virt-handover console " + vm + "', and its network. If it is not, " +
                "'virt-handover destroy " + vm + "' and 'start' begin it anew; the old VMM could not have it back\n";
    if (outcome == "ready")
        text += "  dry run: preflight found nothing in the way\n";
    else if (outcome == outcomeName(State::StandingBy))
        text += "  everything is prepared and the guest runs on the old VMM; 'virt-handover commit " +
                vm + "' switches, 'cancel' undoes\n";
    else if (outcome != outcomeName(State::Refused))
        text += figures(report);
    text += ramBlocks(report);
    for (const json& device : report.value("passthrough", json::array()))
        text += "  passed through: " + device["id"].get<std::string>() + ", " + device["address"].get<std::string>() + ", by its " +
                device["interface"].get<std::string>() + "\n";
    for (const json& error : report["guest"].is_object() ? report["guest"]["errors"] : json::array())
        text += "  the guest probe reports: " + error.get<std::string>() + "\n";
    for (const json& warning : report["warnings"]) text += "  warning: " + warning.get<std::string>() + "\n";
    return text;
}

}  // namespace vh
