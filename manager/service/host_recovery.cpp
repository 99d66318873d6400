#include <set>
#include <utility>

#include "manager/service/host.h"
#include "vmm-shim/json_text.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

VmmIdentity identityOf(const VmmRecord& vmm) {
    return {vmm.binary, vmm.kind, vmm.version, vmm.pid, vmm.pid != 0 && isAlive(vmm)};
}

/// How a recovery ended, in the words of a handover: what it found, and which VMM it has kept.
HandoverReport recoveryReport(const std::string& vm, const VmRecord& before, const std::optional<VmRecord>& settled,
                              const std::string& problem) {
    HandoverReport report{.vm = before.adopted ? before.adopted->title : vm, .outcome = State::Lost, .recovery = true};
    const VmmRecord old = before.retiring.value_or(before.vmm),
                    newVmm = before.retiring ? before.vmm : before.new_.value_or(VmmRecord{});
    report.old = identityOf(old);
    report.new_ = identityOf(newVmm);
    report.passthrough = before.passthrough;
    if (!problem.empty()) {
        report.cause = "an earlier manager left it half done: " + problem;
        return report;
    }
    if (!before.retiring) report.cause = "the manager that had begun it died";
    const bool isNew = settled && settled->vmm.pid == newVmm.pid && settled->vmm.generation == newVmm.generation;
    if (settled && !isAlive(settled->vmm)) {
        report.cause = "no VMM of it is left: both had ended when an earlier manager's handover was settled";
        report.guestIsGone = true;
        return report;
    }
    report.outcome = isNew ? State::Upgraded : State::RolledBack;
    report.oldVmmLeft = isNew && settled->retiring.has_value();
    return report;
}

/// The same for whoever asked for something else; empty when nothing was done.
std::string settledText(const VmRecord& before, const VmRecord& settled) {
    if (settled.retiring) return {};  // It is as it was, see leftBehind().
    const std::string begun = "an earlier manager had left a handover half done; it was ";
    if (!isAlive(settled.vmm)) return begun + "settled, and no VMM of the guest is left";
    const std::string pid = ", pid " + std::to_string(settled.vmm.pid);
    if (before.retiring) return begun + "finished: the guest is on the VMM that has it" + pid + ", and the other one has ended";
    const bool isNew = before.new_ && settled.vmm.generation == before.new_->generation;
    return begun + (isNew ? "finished: the guest is on the new VMM" : "undone: the guest is on the old VMM") + pid;
}

}  // namespace

void Host::saySettling(const Operation& operation, bool isSo) {
    if (isSo || !operation->isRecovery) VmDirectory::sayBeingSettled(operation->lock.get(), isSo);
}

void Host::withRecord(const Operation& operation, const std::string& vm, std::function<void(VmRecord)> then, Whose whose) {
    const std::optional<VmRecord> record = operation->directory.read();
    if (!record) return end(operation, noSuchVm(vm));
    if (record->adopted && whose == Whose::Ours)
        return end(operation, failure(ExitCode::Refused, {"vm '" + vm + "' is '" + record->adopted->title +
                                                              "' of another manager; nothing was touched",
                                                          "ask that one (for libvirt: 'virt-handover libvirt')"}));
    if (record->isHalfDone()) saySettling(operation, true);
    settleStrays(operation, record, [this, operation, vm, record, then = std::move(then)] {
        recover(operation, *record, [this, operation, vm, then](const std::optional<VmRecord>& settled) {
            saySettling(operation, false);
            if (settled) return then(*settled);
            removeEnded(operation);
            end(operation,
                failure(ExitCode::Usage,
                        {"vm '" + vm + "' is not running: its start had been interrupted, and was undone", "start it again"}));
        });
    });
}

void Host::settleStrays(const Operation& operation, const std::optional<VmRecord>& record, std::function<void()> then) {
    operation->parts.strays = std::make_unique<StrayCheck>(
        operation->directory, record, [this, operation, record, then = std::move(then)](const std::string& problem) {
            operation->parts.strays.reset();
            if (problem.empty()) return guarded(operation, then);
            const std::string& vm = operation->vm;
            std::string remedy = "put the record ";
            if (const std::set<pid_t> pids = record ? livePids(*record) : std::set<pid_t>(); !pids.empty())
                remedy = "'virt-handover show " + vm + "' says how the VMM on record is, " + processText(*pids.begin()) +
                         ": if that one runs the guest, end only the other one ('kill PID'). Else put the record ";
            remedy += (record ? "that names it " : "") + std::string("back, or end it, and its guest, with ") +
                      "'virt-handover destroy " + vm + "'";
            end(operation, failure(ExitCode::Refused, {"vm '" + vm + "': " + problem, remedy}));
        });
}

void Host::recover(const Operation& operation, const VmRecord& record, std::function<void(std::optional<VmRecord>)> then) {
    const auto goOn = [operation, then = std::move(then)](const std::optional<VmRecord>& settled) {
        if (settled) operation->directory.removeOtherGenerations(*settled);
        then(settled);
    };
    if (!record.isHalfDone()) return goOn(record);
    operation->parts.recovery = std::make_unique<Recovery>(
        record, operation->directory,
        [this, operation, record, goOn](const std::optional<VmRecord>& settled, const std::string& problem) {
            operation->parts.recovery.reset();  // It is connected to the monitors, which serve one client at a time.
            HandoverReport report = recoveryReport(operation->vm, record, settled, problem);
            if (!record.starting || !problem.empty()) keepReport(operation->directory, report);
            if (problem.empty() && settled && !record.starting && !operation->isRecovery)
                operation->settledFirst = settledText(record, *settled);
            if (problem.empty() && settled && settled->retiring) operation->warnings.push_back(leftBehind(*settled).text());
            if (problem.empty()) return guarded(operation, [goOn, settled] { goOn(settled); });
            end(operation,
                failure(ExitCode::Lost, {"vm '" + operation->vm + "': an earlier manager left it half done: " + problem, ""}));
        });
}

void Host::recoverAll(const std::function<void(const std::string&)>& report) {
    const Done told = [this, report](const VerbResult& result) {
        // One that nobody could settle has been told of.
        if (result.value.contains("error") && !(ended_ && result.code == ExitCode::Lost)) report(result.obstacle().text());
        for (const json& warning : JsonReader(result.value).list("/warnings")) report(JsonReader(warning).shown(""));
    };
    // Whoever is at work on a VM settles it himself, or leaves it half done when he dies: so it is looked at when he has ended.
    for (const std::string& vm : recordedVms(runtimeDirectory_))
        tryToBegin(vm, told,
                   [this, vm](const Operation& operation) {
                       operation->isRecovery = true;
                       saySettling(operation, true);
                       const auto nothing = [this, operation] { end(operation, {ExitCode::Done, json::object()}); };
                       if (!operation->directory.read()) return nothing();  // It has ended meanwhile.
                       withRecord(
                           operation, vm, [nothing](const VmRecord&) { nothing(); }, Whose::Anybodys);
                   },
                   {.isEndless = true});
}

}  // namespace vh
