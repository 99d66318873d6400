#include "manager/record/report.h"

#include <algorithm>
#include <stdexcept>

#include "vmm-shim/json_text.h"
#include "vmm-shim/text.h"

namespace vh {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(VmmIdentity, binary, kind, version, pid, alive)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HeartbeatSummary, beats, lost, repeated, longestGapMs, pauseMs, status, errors)

namespace {

using nlohmann::json;

constexpr std::string_view readyOutcome = "ready";  ///< Of a dry run.

std::string versionOf(const VmmIdentity& vmm) {
    return (vmm.kind.empty() ? "QEMU" : vmm.kind) + " " + (vmm.version.empty() ? "?" : vmm.version);
}

std::string mebibytes(std::uint64_t bytes) {
    return fixed(static_cast<double>(bytes) / (1024 * 1024), 0);
}

bool isUpgraded(const HandoverReport& report) {
    return !report.dryRun && report.outcome == State::Upgraded;
}

/// The lines under the first: what the guest felt and what it cost.
std::string figures(const HandoverReport& report) {
    std::string line;
    const auto add = [&line](const std::string& text) { line += (line.empty() ? "  " : "   ") + text; };
    if (report.guest && report.guest->pauseMs)
        add("guest pause " + fixed(*report.guest->pauseMs, 1) + " ms (heartbeats)");
    else if (report.guest)
        add("longest gap " + fixed(report.guest->longestGapMs, 1) + " ms (heartbeats)");
    if (report.stopToResumeMs) add(fixed(*report.stopToResumeMs, 1) + " ms (STOP to RESUME)");
    if (report.qemuDowntimeMs) add(fixed(*report.qemuDowntimeMs, 0) + " ms (QEMU's downtime)");
    if (isUpgraded(report)) {
        add(fixed(static_cast<double>(report.bytesSent) / 1e6, 2) + " MB sent");
        add(mebibytes(report.ramCopiedBytes) + " of " + mebibytes(report.ramBytes) + " MiB RAM copied");
    }
    add("total " + fixed(report.totalMs / 1000, 2) + " s");
    return line + "\n";
}

/// What the comparison of RAM blocks found, but for a fatal difference, which is the cause already.
std::string ramBlocks(const HandoverReport& report) {
    if (report.ramBlocksCompared == 0) return {};
    const std::vector<RamBlockDifference>& differences = report.ramBlockDifferences;
    std::string text = "  RAM blocks: " + std::to_string(report.ramBlocksCompared) + " compared";
    const bool fatal =
        std::ranges::any_of(differences, [](const RamBlockDifference& one) { return one.severity == Severity::Fatal; });
    text += differences.empty() ? ", all alike\n" : fatal ? ", not fit for a handover\n" : ", fit for a handover\n";
    constexpr std::size_t shown = 4;
    for (std::size_t i = 0; i < std::min(shown, differences.size()); ++i)
        text += "    " + std::string(name(differences[i].severity)) + ": " + describe(differences[i]) + "\n";
    if (differences.size() > shown)
        text += "    and " + std::to_string(differences.size() - shown) + " more; --json has them all\n";
    return text;
}

/// Of a handover that is lost: what a person has to do with the processes that are left, for the first line.
std::string whatIsLeft(const HandoverReport& report) {
    const VmmIdentity &old = report.old, &newVmm = report.new_;
    if (old.pid == 0 && newVmm.pid == 0) return "a person must look; see the cause";
    if (!old.alive && !newVmm.alive)
        return "no VMM of it is left, and the guest is gone; 'virt-handover start " + report.vm + "' starts it anew";
    if (report.guestIsGone)
        return "the guest is gone: it ended with the new VMM, and the old one, pid " + std::to_string(old.pid) +
               ", cannot go on with it";
    if (old.alive && newVmm.alive && old.pid != newVmm.pid)
        return "a person must look: the old VMM is pid " + std::to_string(old.pid) + ", the new one pid " +
               std::to_string(newVmm.pid);
    return "a person must look at pid " + std::to_string(old.alive ? old.pid : newVmm.pid) + ", the only VMM of it that is left";
}

/// And how, unless the first line has said all there is to do. Nothing that a later command would refuse.
std::string nextStep(const HandoverReport& report) {
    const std::string givingUp = "'virt-handover destroy " + report.vm + "' gives the guest up and ends what is left of it\n";
    if (report.old.pid == 0 && report.new_.pid == 0)
        return "  what to do: see the cause. Every further command on this VM looks again first, and goes on when it can;\n  " +
               givingUp;
    if (!report.old.alive && !report.new_.alive) return {};
    if (report.guestIsGone)
        return "  what to do: 'virt-handover destroy " + report.vm + "' ends the old VMM, and 'virt-handover start " + report.vm +
               "' then starts the VM anew\n";
    return "  what to do: 'virt-handover upgrade " + report.vm +
           " --dry-run' asks the VMMs again who has the guest, and settles it when they answer.\n"
           "  Before you end a process, ask its own monitor (query-status): the guest may run there.\n  " +
           givingUp;
}

/// The rest of the first line: what that outcome means.
std::string meaning(const HandoverReport& report) {
    const VmmIdentity &old = report.old, &newVmm = report.new_;
    const bool isOneKind = old.kind == newVmm.kind;
    const std::string change = versionOf(old) + " -> " +
                               (!isOneKind               ? versionOf(newVmm)
                                : newVmm.version.empty() ? "?"
                                                         : newVmm.version);
    if (report.dryRun || report.outcome == State::Upgraded || report.outcome == State::StandingBy) return change;
    if (report.outcome == State::Lost) return whatIsLeft(report);
    if (report.outcome == State::RolledBack) return "the guest runs on " + versionOf(old) + " as before";
    return report.settledFirst.empty() ? "nothing was touched" : "nothing more was touched";
}

json toJson(const RamBlockDifference& difference) {
    return {{"block", difference.idstr},   {"field", difference.field}, {"old", difference.old},
            {"new", difference.new_},      {"why", difference.why},     {"severity", name(difference.severity)},
            {"text", describe(difference)}};
}

template <class Value, class... Values>
Value named(const json& text, Value first, Values... others) {
    for (const Value value : {first, others...})
        if (text == name(value)) return value;
    throw std::runtime_error("'" + text.dump() + "' is not known here");
}

RamBlockDifference differenceFrom(const json& value) {
    return {value.at("block"),
            value.at("field"),
            value.at("old"),
            value.at("new"),
            named(value.at("severity"), Severity::Harmless, Severity::Adaptable, Severity::Fatal),
            value.at("why")};
}

}  // namespace

std::string_view outcomeName(State finalState) {
    return name(finalState);
}

std::string_view HandoverReport::outcomeText() const {
    return dryRun ? readyOutcome : silent && outcome == State::Upgraded ? silentOutcome : outcomeName(outcome);
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
    for (const RamBlockDifference& difference : report.ramBlockDifferences) blocks.push_back(toJson(difference));
    json value{{"vm", report.vm},
               {"design", report.design ? json(name(*report.design)) : json()},
               {"outcome", report.outcomeText()},
               {"exitCode", static_cast<int>(report.exitCode())},
               {"cause", report.cause},
               {"remedy", report.remedy},
               {"old", report.old},
               {"new", report.new_},
               {"vmm", {{"stopToResumeMs", report.stopToResumeMs}, {"qemuDowntimeMs", report.qemuDowntimeMs}}},
               {"guest", report.guest},
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
    if (report.recovery) value["recovery"] = true;
    if (!report.settledFirst.empty()) value["settledFirst"] = report.settledFirst;
    return value;
}

HandoverReport handoverReportFromJson(const json& value) {
    HandoverReport report;
    value.at("vm").get_to(report.vm);
    const auto design = value.at("design").get<std::optional<std::string>>();
    if (design && !(report.design = designNamed(*design))) throw std::runtime_error("there is no design '" + *design + "'");
    const std::string outcome = value.at("outcome");
    report.dryRun = outcome == readyOutcome;
    report.silent = outcome == silentOutcome;
    const std::optional<State> state = report.dryRun ? State::Refused : report.silent ? State::Upgraded : stateNamed(outcome);
    if (!state) throw std::runtime_error("there is no outcome '" + outcome + "'");
    report.outcome = *state;
    value.at("cause").get_to(report.cause);
    report.remedy = value.value("remedy", "");
    report.recovery = value.value("recovery", false);
    report.settledFirst = value.value("settledFirst", "");
    value.at("old").get_to(report.old);
    value.at("new").get_to(report.new_);
    value.at("vmm").at("stopToResumeMs").get_to(report.stopToResumeMs);
    report.qemuDowntimeMs = value.at("vmm").value("qemuDowntimeMs", json()).get<std::optional<double>>();
    value.at("guest").get_to(report.guest);
    value.at("bytesSent").get_to(report.bytesSent);
    value.at("ramBytes").get_to(report.ramBytes);
    value.at("ramCopiedBytes").get_to(report.ramCopiedBytes);
    value.at("ramBlocks").at("compared").get_to(report.ramBlocksCompared);
    for (const json& one : value.at("ramBlocks").at("differences")) report.ramBlockDifferences.push_back(differenceFrom(one));
    for (const json& one : value.at("passthrough"))
        report.passthrough.push_back(
            {.id = one.at("id"),
             .address = one.at("address"),
             .interface = named(one.at("interface"), VfioInterface::Cdev, VfioInterface::Group, VfioInterface::Auto)});
    report.guestIsGone = value.value("guestIsGone", false);
    report.oldVmmLeft = value.value("oldVmmLeft", false);
    value.at("totalMs").get_to(report.totalMs);
    for (const json& step : value.at("steps")) {
        const std::optional<State> entered = stateNamed(step.at("state").get<std::string>());
        if (!entered) throw std::runtime_error("there is no state " + step.at("state").dump());
        report.steps.push_back({*entered, step.at("startMs"), step.at("durationMs")});
    }
    value.at("warnings").get_to(report.warnings);
    return report;
}

std::string jsonText(const json& value, int indent) {
    return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

std::string reportText(const HandoverReport& report) {
    const std::string outcome(report.outcomeText());
    std::string text = report.vm + ": " + outcome + "   " + meaning(report);
    if (report.design) text += "   design " + std::string(name(*report.design));
    text += "\n";
    if (!report.settledFirst.empty()) text += "  first: " + report.settledFirst + "\n";
    if (!report.cause.empty()) text += "  cause: " + report.cause + "\n";
    if (!report.remedy.empty()) text += "  remedy: " + report.remedy + "\n";
    if (outcome == outcomeName(State::Lost)) text += nextStep(report);
    if (outcome == silentOutcome)
        text += "  a person must look whether the guest is alive: 'virt-handover console " + report.vm +
                "', and its network. If it is not, " + "'virt-handover destroy " + report.vm +
                "' and 'start' begin it anew; the old VMM could not have it back\n";
    if (report.dryRun)
        text += "  dry run: preflight found nothing in the way\n";
    else if (report.outcome == State::StandingBy)
        text += "  everything is prepared and the guest runs on the old VMM; 'virt-handover commit " + report.vm +
                "' switches, 'cancel' undoes\n";
    else if (report.outcome != State::Refused && !report.recovery)
        text += figures(report);
    text += ramBlocks(report);
    for (const PassedDevice& device : report.passthrough)
        text +=
            "  passed through: " + device.id + ", " + device.address + ", by its " + std::string(name(device.interface)) + "\n";
    if (report.guest)
        for (const std::string& error : report.guest->errors) text += "  the guest probe reports: " + error + "\n";
    for (const std::string& warning : report.warnings) text += "  warning: " + warning + "\n";
    return text;
}

}  // namespace vh
