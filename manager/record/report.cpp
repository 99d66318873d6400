#include "manager/record/report.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "vmm-shim/json_text.h"

namespace vh {
namespace {

using nlohmann::json;

std::string formatted(const char* format, double value) {
    char text[64];
    std::snprintf(text, sizeof(text), format, value);
    return text;
}

json toJson(const VmmIdentity& vmm) {
    return {{"binary", vmm.binary}, {"kind", vmm.kind}, {"version", vmm.version}, {"pid", vmm.pid}, {"alive", vmm.alive}};
}

json toJson(const HeartbeatSummary& guest) {
    json value{{"beats", guest.beats},       {"lost", guest.lost},
               {"repeated", guest.repeated}, {"longestGapMs", guest.longestGapMs},
               {"status", guest.status},     {"errors", guest.errors}};
    value["pauseMs"] = guest.pauseMs ? json(*guest.pauseMs) : json();
    return value;
}

std::string versionOf(const JsonReader& report, const std::string& vmm) {
    const std::string kind = report.text(vmm + "/kind"), version = report.text(vmm + "/version");
    return (kind.empty() ? "QEMU" : kind) + " " + (version.empty() ? "?" : version);
}

std::string megabytes(std::uint64_t bytes) {
    return formatted("%.2f MB", static_cast<double>(bytes) / 1e6);
}
std::string mebibytes(std::uint64_t bytes) {
    return formatted("%.0f", static_cast<double>(bytes) / (1024 * 1024));
}

/// The lines under the first: what the guest felt and what it cost.
std::string figures(const JsonReader& report) {
    std::string line;
    const auto add = [&line](const std::string& text) { line += (line.empty() ? "  " : "   ") + text; };
    if (const auto pause = report.number("/guest/pauseMs"))
        add("guest pause " + formatted("%.1f ms", *pause) + " (heartbeats)");
    else if (const auto gap = report.number("/guest/longestGapMs"))
        add("longest gap " + formatted("%.1f ms", *gap) + " (heartbeats)");
    if (const auto stopped = report.number("/vmm/stopToResumeMs")) add(formatted("%.1f ms", *stopped) + " (STOP to RESUME)");
    if (const std::string outcome = report.text("/outcome");
        outcome == outcomeName(State::Upgraded) || outcome == silentOutcome) {
        add(megabytes(report.count("/bytesSent")) + " sent");
        add(mebibytes(report.count("/ramCopiedBytes")) + " of " + mebibytes(report.count("/ramBytes")) + " MiB RAM copied");
    }
    add("total " + formatted("%.2f s", report.number("/totalMs").value_or(0) / 1000));
    return line + "\n";
}

/// What the comparison of RAM blocks found, but for a fatal difference, which is the cause already.
std::string ramBlocks(const JsonReader& report) {
    if (report.count("/ramBlocks/compared") == 0) return {};
    const json& differences = report.list("/ramBlocks/differences");
    std::string text = "  RAM blocks: " + report.shown("/ramBlocks/compared") + " compared";
    const bool fatal = std::ranges::any_of(
        differences, [](const json& difference) { return JsonReader(difference).text("/severity") == "fatal"; });
    text += differences.empty() ? ", all alike\n" : fatal ? ", not fit for a handover\n" : ", fit for a handover\n";
    constexpr std::size_t shown = 4;
    for (std::size_t i = 0; i < std::min(shown, differences.size()); ++i) {
        const JsonReader difference(differences.at(i));
        text += "    " + difference.shown("/severity") + ": " + difference.shown("/text") + "\n";
    }
    if (differences.size() > shown)
        text += "    and " + std::to_string(differences.size() - shown) + " more; --json has them all\n";
    return text;
}

/// Of a handover that is lost: what a person has to do with the processes that are left, for the first line.
std::string whatIsLeft(const JsonReader& report) {
    const std::uint64_t old = report.count("/old/pid"), fresh = report.count("/new/pid");
    const bool oldLives = report.isTrue("/old/alive"), newLives = report.isTrue("/new/alive");
    if (old == 0 && fresh == 0) return "a person must look; see the cause";
    if (!oldLives && !newLives)
        return "no VMM of it is left, and the guest is gone; 'virt-handover start " + report.shown("/vm") + "' starts it anew";
    if (report.isTrue("/guestIsGone"))
        return "the guest is gone: it ended with the new VMM, and the old one, pid " + std::to_string(old) +
               ", cannot go on with it";
    if (oldLives && newLives && old != fresh)
        return "a person must look: the old VMM is pid " + std::to_string(old) + ", the new one pid " + std::to_string(fresh);
    return "a person must look at pid " + std::to_string(oldLives ? old : fresh) + ", the only VMM of it that is left";
}

/// And how, unless the first line has said all there is to do. Nothing that a later command would refuse.
std::string nextStep(const JsonReader& report) {
    const std::string vm = report.shown("/vm"),
                      givingUp = "'virt-handover destroy " + vm + "' gives the guest up and ends what is left of it\n";
    const bool hasNone = report.count("/old/pid") == 0 && report.count("/new/pid") == 0;
    if (hasNone)
        return "  what to do: see the cause. Every further command on this VM looks again first, and goes on when it can;\n  " +
               givingUp;
    if (!report.isTrue("/old/alive") && !report.isTrue("/new/alive")) return {};
    if (report.isTrue("/guestIsGone"))
        return "  what to do: 'virt-handover destroy " + vm + "' ends the old VMM, and 'virt-handover start " + vm +
               "' then starts the VM anew\n";
    return "  what to do: 'virt-handover upgrade " + vm +
           " --dry-run' asks the VMMs again who has the guest, and settles it when they answer.\n"
           "  Before you end a process, ask its own monitor (query-status): the guest may run there.\n  " +
           givingUp;
}

}  // namespace

std::string_view outcomeName(State finalState) {
    return name(finalState);
}

ExitCode HandoverReport::exitCode() const {
    if (dryRun) return ExitCode::Done;
    if (outcome == State::Upgraded && (silent || oldVmmLeft)) return ExitCode::Lost;
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
            {"design", report.design ? json(name(*report.design)) : json()},
            {"outcome", report.dryRun ? "ready"
                        : silent      ? silentOutcome
                                      : outcomeName(report.outcome)},
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
            {"guestIsGone", report.guestIsGone},
            {"oldVmmLeft", report.oldVmmLeft},
            {"totalMs", report.totalMs},
            {"steps", steps},
            {"warnings", report.warnings}};
}

std::string jsonText(const json& value, int indent) {
    return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

std::string reportText(const json& value) {
    const JsonReader report(value);
    const std::string outcome = report.shown("/outcome"), cause = report.text("/cause");
    const std::string vm = report.shown("/vm");
    std::string text = vm + ": " + outcome + "   ";
    if (outcome == outcomeName(State::Upgraded) || outcome == silentOutcome || outcome == outcomeName(State::StandingBy) ||
        outcome == "ready")
        text +=
            versionOf(report, "/old") + " -> " +
            (report.text("/old/kind") == report.text("/new/kind") ? report.text("/new/version", "?") : versionOf(report, "/new"));
    else if (outcome == outcomeName(State::Lost))
        text += whatIsLeft(report);
    else if (outcome == outcomeName(State::RolledBack))
        text += "the guest runs on " + versionOf(report, "/old") + " as before";
    else if (outcome == outcomeName(State::Refused))
        text += "nothing was touched";
    if (const std::string design = report.text("/design"); !design.empty()) text += "   design " + design;
    text += "\n";
    if (!cause.empty()) text += "  cause: " + cause + "\n";
    if (outcome == outcomeName(State::Lost)) text += nextStep(report);
    if (outcome == silentOutcome)
        text += "  a person must look whether the guest is alive: 'virt-handover console " + vm +
                "', and its network. If it is not, " + "'virt-handover destroy " + vm +
                "' and 'start' begin it anew; the old VMM could not have it back\n";
    if (outcome == "ready")
        text += "  dry run: preflight found nothing in the way\n";
    else if (outcome == outcomeName(State::StandingBy))
        text += "  everything is prepared and the guest runs on the old VMM; 'virt-handover commit " + vm +
                "' switches, 'cancel' undoes\n";
    else if (outcome != outcomeName(State::Refused))
        text += figures(report);
    text += ramBlocks(report);
    for (const json& entry : report.list("/passthrough")) {
        const JsonReader device(entry);
        text += "  passed through: " + device.shown("/id") + ", " + device.shown("/address") + ", by its " +
                device.shown("/interface") + "\n";
    }
    for (const json& error : report.list("/guest/errors"))
        text += "  the guest probe reports: " + JsonReader(error).shown("") + "\n";
    for (const json& warning : report.list("/warnings")) text += "  warning: " + JsonReader(warning).shown("") + "\n";
    return text;
}

}  // namespace vh
