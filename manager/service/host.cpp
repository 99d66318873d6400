#include "manager/service/host.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "config/parse.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds recoveryTimeout{60'000};  ///< Longer than any recovery takes.
constexpr milliseconds lookTimeout{300};         ///< For who holds a lock just to see whether somebody does.

/// What can be said of a VM without asking its VMM; nothing when it has to be asked.
std::string stateOnRecord(const VmRecord& record, const VmDirectory& directory) {
    const bool lives = isAlive(record.vmm);
    const bool isBusy = !directory.tryLock();
    if (record.starting) return isBusy ? "starting" : "start interrupted";
    if (record.new_ && (!lives || !isBusy)) return "handover interrupted";
    if (record.new_) return record.standingBy ? "standing by" : "handover";
    if (!lives) return "dead";
    // A VMM serves one monitor client at a time, and whoever is at work on this VM may be it.
    if (isBusy) return "busy";
    // At first an adopted VM has no monitor but its own manager's.
    return record.adopted && record.vmm.generation == 1 ? "running" : "";
}

VmDetails detailsOf(const std::string& vm, const VmRecord& record, const VmDirectory& directory) {
    return {.summary = summary(vm, record, directory),
            .definitionFile = record.definitionFile,
            .definition = flatten(record.definition()),
            .directory = directory.generation(record.vmm.generation),
            .lastHandover = lastReport(directory),
            .ramBlocks = keptRamBlocks(directory, record.vmm.generation),
            .handoverTo = record.new_};
}

VerbResult consoleOf(const std::string& vm, const VmRecord& record, const VmDirectory& directory) {
    if (!record.definition().console.enabled)
        return failure(ExitCode::Usage, Obstacle{"vm '" + vm + "' has no console: its definition says so", ""});
    if (stateOnRecord(record, directory) == "dead")
        return failure(ExitCode::Refused,
                       {"vm '" + vm + "' is dead", "'virt-handover start " + record.definitionFile + "' starts it anew"});
    return {ExitCode::Done, {{"vm", vm}, {"socket", directory.generation(record.vmm.generation) + "/console.sock"}}};
}

/// Who has a VM's lock, for whoever has to go away.
Obstacle whoIsAtWork(const VmDirectory& directory) {
    const std::string& vm = directory.vm();
    const std::optional<VmRecord> record = directory.read();
    if (record && record->standingBy)
        return {"vm '" + vm + "' has an upgrade that stands by; nothing was touched",
                "'virt-handover commit " + vm + "' switches, 'virt-handover cancel " + vm + "' undoes it"};
    if (directory.isBeingSettled())
        return {"what an earlier manager left half done on vm '" + vm + "' is still being settled; nothing was touched",
                "try again in a minute"};
    return {"another command is at work on vm '" + vm + "'; nothing was touched", "try again when it has ended"};
}

/// Of a directory, however it is called (by a link, from here, with a slash at its end): what a VMM listens on and writes to is
/// known by its path.
std::string onlyNameOf(const std::string& directory) {
    std::error_code unreachable;  // Whoever uses it says so then.
    const std::filesystem::path whole = std::filesystem::weakly_canonical(std::filesystem::absolute(directory), unreachable);
    if (unreachable) return directory;
    return whole.has_filename() ? whole : whole.parent_path();
}

}  // namespace

VerbResult failure(ExitCode code, const Obstacle& why) {
    json value{{"error", why.what}};
    if (!why.remedy.empty()) value["remedy"] = why.remedy;
    return {code, value};
}

VerbResult noSuchVm(const std::string& vm) {
    return failure(ExitCode::Usage, {"vm '" + vm + "' is not running here", "'virt-handover list' shows those that are"});
}

VmSummary summary(const std::string& vm, const VmRecord& record, const VmDirectory& directory) {
    return {.vm = vm,
            .state = stateOnRecord(record, directory),
            .pid = record.vmm.pid,
            .kind = record.vmm.kind,
            .version = record.vmm.version,
            .binary = record.vmm.binary,
            .machine = record.machine,
            .accelerator = std::string(name(record.accelerator)),
            .uuid = record.uuid,
            .passthrough = record.passthrough};
}

Obstacle leftBehind(const VmRecord& record) {
    const std::string pid = std::to_string(record.retiring->pid);
    return {
        "a VMM of an earlier upgrade of vm '" + record.definition().name + "', pid " + pid +
            ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not answer?). The guest "
            "runs on pid " +
            std::to_string(record.vmm.pid) +
            " and that one can never run it again, but it still has the guest's memory and files open",
        "see what it waits for ('/proc/" + pid + "/stack'); every further command on this VM tries to end it first"};
}

Host::Host(const std::string& runtimeDirectory, std::string definitionDirectory)
    : runtimeDirectory_(onlyNameOf(runtimeDirectory)), definitionDirectory_(std::move(definitionDirectory)) {}

Host::~Host() {
    for (const Operation& operation : operations_) operation->parts = {};
}

milliseconds Host::timeoutWith(const std::string& vm) const {
    if (directoryOf(vm).isBeingSettled()) return recoveryTimeout;
    const bool isAtWork = std::ranges::any_of(operations_, [&](const auto& operation) { return operation->vm == vm; });
    return isAtWork ? milliseconds(0) : lookTimeout;
}

void Host::tryToBegin(const std::string& vm, const Done& done, const Begun& then, Wait wait) {
    Operation operation;
    try {
        VmDirectory directory = directoryOf(vm);
        if (UniqueFd lock = directory.tryLock()) {
            operation = std::make_shared<Work>(Work{.vm = vm, .lock = std::move(lock), .directory = directory, .done = done});
            operations_.push_back(operation);
        } else if (wait.isEndless || std::chrono::steady_clock::now() - wait.since < timeoutWith(vm)) {
            if (!wait.isEndless && !wait.isTold && directory.isBeingSettled()) {
                wait.isTold = true;
                if (notice_) notice_("vm '" + vm + "': waits until what an earlier manager left half done on it is settled");
            }
            const unsigned attempt = ++lastAttempt_;
            const milliseconds pause(wait.isEndless ? 200 : 20);
            attempts_[attempt] = EventSource::after(pause, [this, attempt, vm, done, then, wait] {
                attempts_.erase(attempt);
                tryToBegin(vm, done, then, wait);
            });
            return;
        } else {
            return done(failure(ExitCode::Refused, whoIsAtWork(directory)));
        }
    } catch (const std::invalid_argument& error) {  // No VM can have that name.
        return done(failure(ExitCode::Usage, obstacleOf(error)));
    } catch (const Refusal& refusal) {
        return done(failure(ExitCode::Refused, refusal.obstacle()));
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Refused, {"vm '" + vm + "': " + error.what(), ""}));
    }
    guarded(operation, [operation, then] { then(operation); });
}

void Host::guarded(const Operation& operation, const std::function<void()>& step) {
    try {
        step();
    } catch (const std::exception& error) {
        end(operation, failure(ExitCode::Refused, obstacleOf(error)));
    }
}

void Host::end(const Operation& operation, VerbResult result) {
    if (std::exchange(operation->isEnded, true)) return;
    for (const std::string& warning : operation->warnings)
        result.report ? result.report->warnings.push_back(warning) : result.value["warnings"].push_back(warning);
    if (!operation->settledFirst.empty())
        result.report ? void(result.report->settledFirst = operation->settledFirst)
                      : result.value["warnings"].push_back(operation->settledFirst);
    // Later, because a part of the operation is on the stack; the lock is gone before the answer is given.
    operation->parts.answer = EventSource::soon([this, operation, result = std::move(result)] {
        operation->parts = {};
        operation->lock.reset();
        std::erase(waiting_, operation);
        operations_.remove(operation);
        if (const Done done = std::move(operation->done)) done(result);
        beginWaiting();
        if (idleCallback_ && !handoverUnderWay()) std::exchange(idleCallback_, nullptr)();
    });
}

void Host::list(Done done) {
    std::vector<VmSummary> vms;
    for (const std::string& vm : recordedVms(runtimeDirectory_)) {
        try {
            if (const auto record = directoryOf(vm).read()) vms.push_back(summary(vm, *record, directoryOf(vm)));
        } catch (const std::exception& error) {
            vms.push_back({.vm = vm, .state = "unreadable", .error = obstacleOf(error).text()});
        }
    }
    fillStates(std::move(vms), [done](const std::vector<VmSummary>& filled) {
        json value{{"vms", json::array()}};
        for (const VmSummary& one : filled) value["vms"].push_back(toJson(one));
        done({ExitCode::Done, value});
    });
}

void Host::show(const std::string& vm, Done done) {
    std::optional<VmDetails> found;
    try {
        if (const auto record = directoryOf(vm).read()) found = detailsOf(vm, *record, directoryOf(vm));
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Refused, obstacleOf(error)));
    }
    if (!found) return done(noSuchVm(vm));
    fillStates({found->summary}, [done, shown = *found](const std::vector<VmSummary>& filled) mutable {
        shown.summary = filled.front();
        done({ExitCode::Done, toJson(shown)});
    });
}

void Host::console(const std::string& vm, Done done) {
    VerbResult place = noSuchVm(vm);
    try {
        if (const auto record = directoryOf(vm).read()) place = consoleOf(vm, *record, directoryOf(vm));
    } catch (const std::exception& error) {
        place = failure(ExitCode::Refused, obstacleOf(error));
    }
    done(place);
}

void Host::fillStates(std::vector<VmSummary> vms, std::function<void(const std::vector<VmSummary>&)> then) {
    std::vector<GuestStates::Question> questions;
    std::vector<std::size_t> unknown;
    for (std::size_t i = 0; i < vms.size(); ++i) {
        if (!vms[i].state.empty()) continue;
        try {
            const VmDirectory directory = directoryOf(vms[i].vm);
            const std::optional<VmRecord> record = directory.read();
            if (!record) continue;
            questions.push_back({record->vmm, directory.generation(record->vmm.generation)});
            unknown.push_back(i);
        } catch (const std::exception&) {  // It has come to be so since its summary was made.
        }
    }
    std::erase_if(questions_, [](const auto& question) { return question->isAnswered(); });
    const auto fill = [vms = std::move(vms), unknown, then = std::move(then)](const std::vector<std::string>& states) {
        std::vector<VmSummary> filled = vms;
        for (std::size_t i = 0; i < unknown.size(); ++i) filled[unknown[i]].state = states[i];
        for (VmSummary& one : filled)
            if (one.state.empty()) one.state = "no answer";
        then(filled);
    };
    questions_.push_back(std::make_unique<GuestStates>(std::move(questions), fill));
}

}  // namespace vh
