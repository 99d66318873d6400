#include "manager/host.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <thread>
#include <utility>

#include "config/parse.h"
#include "vmm-shim/json_text.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// How often an old VMM may change under a handover that was prepared; then it is left alone.
constexpr unsigned mostTimesStartedOver = 3;

VerbResult failure(ExitCode code, const std::string& error) {
    return {code, {{"error", error}}};
}

VerbResult noSuchVm(const std::string& vm) {
    return failure(ExitCode::Usage, "vm '" + vm + "' is not running here; 'virt-handover list' shows those that are");
}

/// What a changed definition file may not change while the VM runs: everything but which VMM to use, confined how, and how to
/// hand over.
bool fixedWhileRunning(const std::string& key) {
    return key != "vmm.binary" && key != "vmm.sandbox" && !key.starts_with("handover.");
}

std::string vmState(const VmRecord& record, const VmDirectory& directory) {
    if (!ChildProcess::adopt(record.vmm.pid, record.vmm.startTime).alive()) return record.fresh ? "handover interrupted" : "dead";
    if (!record.fresh) return "running";
    if (directory.tryLock()) return "handover interrupted";
    return record.standingBy ? "standing by" : "handover";
}

json summary(const std::string& vm, const VmRecord& record, const VmDirectory& directory) {
    json devices = json::array();
    for (const PassedDevice& device : record.passthrough) devices.push_back(toJson(device));
    return {{"vm", vm},
            {"state", vmState(record, directory)},
            {"pid", record.vmm.pid},
            {"vmm", record.vmm.kind},
            {"version", record.vmm.version},
            {"binary", record.vmm.binary},
            {"machine", record.machine},
            {"accelerator", name(record.accelerator)},
            {"uuid", record.uuid},
            {"passthrough", devices}};
}

/// The definition to go by in an upgrade: what the VM was started with, and the file's handover settings and binary of today.
/// Throws with the reason to refuse when the file has come to describe another machine.
VmDefinition definitionForUpgrade(const VmRecord& record) {
    VmDefinition running = record.definition();
    if (!std::filesystem::exists(record.definitionFile)) return running;  // What is running is on record.
    VmDefinition today;
    try {
        today = loadVmDefinition(record.definitionFile);
    } catch (const ConfigErrors& errors) {
        throw std::runtime_error("the definition file has become invalid: " + errors.errors().front().text());
    }
    for (const KeyDifference& difference : differences(parseVmDefinition(record.definitionText, record.definitionFile), today)) {
        if (!fixedWhileRunning(difference.key)) continue;
        const auto shown = [](const std::string& value) { return value.empty() ? std::string("nothing") : "'" + value + "'"; };
        throw std::runtime_error("'" + record.definitionFile + "' was changed while the VM runs: " + difference.key + " was " +
                                 shown(difference.before) + " and is now " + shown(difference.after) +
                                 "; put it back, or power-cycle the VM to apply it");
    }
    running.vmm.binary = today.vmm.binary;
    running.vmm.sandbox = today.vmm.sandbox;
    running.handover = today.handover;
    return running;
}

}  // namespace

Host::Host(std::string runtimeDirectory, std::string definitionDirectory)
    : runtimeDirectory_(std::move(runtimeDirectory)), definitionDirectory_(std::move(definitionDirectory)) {}

Host::~Host() = default;

Host::Operation* Host::beginOn(const std::string& vm, const Done& done) {
    try {
        VmDirectory directory = directoryOf(vm);
        UniqueFd lock = directory.tryLock();
        if (!lock) {
            const std::optional<VmRecord> record = directory.read();
            done(failure(ExitCode::Refused, record && record->standingBy
                                                ? "vm '" + vm + "' has an upgrade that stands by; 'virt-handover commit " + vm +
                                                      "' switches, 'virt-handover cancel " + vm +
                                                      "' undoes it; nothing was touched"
                                                : "another command is at work on vm '" + vm + "'; nothing was touched"));
            return nullptr;
        }
        operations_.emplace_back(new Operation{.vm = vm, .lock = std::move(lock), .directory = directory, .done = done});
        return operations_.back().get();
    } catch (const std::invalid_argument& error) {  // No VM can have that name.
        done(failure(ExitCode::Usage, error.what()));
        return nullptr;
    } catch (const std::exception& error) {
        done(failure(ExitCode::Refused, "vm '" + vm + "': " + error.what()));
        return nullptr;
    }
}

void Host::end(Operation* operation, VerbResult result) {
    // Later, because a part of the operation is on the stack; the lock is gone before the answer is given.
    callSoon([this, operation, result = std::move(result)] {
        const Done done = std::move(operation->done);
        std::erase(waiting_, operation);
        operations_.remove_if([operation](const auto& entry) { return entry.get() == operation; });
        if (done) done(result);
        beginWaiting();
        if (idleCallback_ && !handoverUnderWay()) std::exchange(idleCallback_, nullptr)();
    });
}

bool Host::handoverUnderWay() const {
    return std::any_of(operations_.begin(), operations_.end(),
                       [](const auto& operation) { return operation->handover != nullptr; });
}

void Host::whenIdle(std::function<void()> callback) {
    if (!handoverUnderWay()) return callSoon(std::move(callback));
    idleCallback_ = std::move(callback);
}

void Host::withRecord(Operation* operation, const std::string& vm, std::function<void(VmRecord)> then, bool adopted) {
    std::optional<VmRecord> record;
    try {
        record = operation->directory.read();
    } catch (const std::exception& error) {
        return end(operation, failure(ExitCode::Refused, error.what()));
    }
    if (!record) return end(operation, noSuchVm(vm));
    if (record->adopted && !adopted)
        return end(operation, failure(ExitCode::Refused, "vm '" + vm + "' is '" + record->adopted->title +
                                                             "' of another manager, which has to be asked (for libvirt: "
                                                             "'virt-handover libvirt'); nothing was touched"));
    if (record->adopted && record->fresh && record->fresh->pid == 0) {
        // Started, and not written down any more.
        if (const pid_t stray = holderOf(record->adopted->pidFile); stray > 0 && stray != record->vmm.pid)
            ChildProcess::adopt(stray, startTimeOf(stray)).killAll();
    }
    endStrayVmms(operation->directory, {record->vmm.pid, record->fresh ? record->fresh->pid : 0});
    if (!record->fresh) return then(*record);
    operation->recovery = std::make_unique<Recovery>(
        *record, operation->directory,
        [this, operation, vm, then = std::move(then)](VmRecord settled, const std::string& problem) {
            operation->recovery.reset();  // It is connected to the monitors, which serve one client at a time.
            if (problem.empty()) return then(std::move(settled));
            end(operation, failure(ExitCode::Lost, "vm '" + vm + "': an interrupted handover: " + problem));
        });
}

void Host::start(const std::string& what, std::optional<milliseconds> waitHeartbeat, Done done) {
    const bool isFile = what.find('/') != std::string::npos || what.ends_with(".yaml");
    StartRequest request;
    request.waitHeartbeat = waitHeartbeat;
    try {
        request.definitionFile = std::filesystem::absolute(isFile ? what : definitionDirectory_ + "/" + what + ".yaml");
        request.definitionText = readDefinitionFile(request.definitionFile);
        request.definition = parseVmDefinition(request.definitionText, request.definitionFile);
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Usage, error.what()));
    }
    const std::string vm = request.definition.name;
    Operation* operation = beginOn(vm, done);
    if (!operation) return;
    try {
        const std::optional<VmRecord> record = operation->directory.read();
        const auto alive = [](const VmmRecord& vmm) { return ChildProcess::adopt(vmm.pid, vmm.startTime).alive(); };
        if (record && (alive(record->vmm) || (record->fresh && alive(*record->fresh))))
            return end(operation,
                       failure(ExitCode::Refused, "vm '" + vm + "' runs already, as pid " + std::to_string(record->vmm.pid)));
    } catch (const std::exception& error) {
        return end(operation, failure(ExitCode::Refused, error.what()));
    }
    settleStrays(operation, vm, 30, [this, operation, vm, request] {
        removeEnded(*operation);
        operation->start =
            std::make_unique<Start>(request, operation->directory, [this, operation, vm](const Start::Result& result) {
                json value = summary(vm, result.record, operation->directory);
                value["state"] = result.guestRuns ? "running" : "not started";
                if (!result.warnings.empty()) value["warnings"] = result.warnings;
                if (result.problem.empty()) return end(operation, {ExitCode::Done, value});
                value["error"] = "vm '" + vm + "': " + result.problem;
                end(operation, {ExitCode::Refused, value});
            });
    });
}

void Host::settleStrays(Operation* operation, const std::string& vm, int attemptsLeft, std::function<void()> then) {
    const std::vector<StrayVmm> strays = strayVmms(operation->directory, {});
    if (strays.empty()) return then();
    const StrayVmm& stray = strays.front();
    operation->vmm =
        std::make_unique<VmmProcess>(VmmRecord{.pid = stray.pid, .startTime = startTimeOf(stray.pid)}, stray.directory);
    const auto again = [this, operation, vm, attemptsLeft, then](bool patient) {
        operation->timer =
            EventSource::after(milliseconds(patient ? 100 : 0), [this, operation, vm, attemptsLeft, patient, then] {
                operation->vmm.reset();
                settleStrays(operation, vm, attemptsLeft - (patient ? 1 : 0), then);
            });
    };
    const auto refuse = [this, operation, vm, pid = stray.pid](const std::string& why) {
        end(operation, failure(ExitCode::Refused, "vm '" + vm + "': pid " + std::to_string(pid) + " " + why +
                                                      "; put the record back, or end that process yourself"));
    };
    if (stray.directory.empty() || !std::filesystem::exists(stray.directory + "/qmp.sock")) {
        // A VMM that was told to end a moment ago looks like that, too.
        if (attemptsLeft > 0) return again(true);
        return refuse("is a VMM of it whose files in '" + operation->directory.path() + "' were removed; it may run the guest");
    }
    try {
        operation->vmm->monitor().execute(
            "query-status", nullptr, milliseconds(3'000), [operation, again, refuse](const QmpReply& reply) {
                if (!operation->vmm->alive()) return again(false);
                const std::string runState = reply.ok() ? reply.value.value("status", "") : "";
                if (runState != "prelaunch" && runState != "inmigrate")
                    return refuse("is a VMM of it that no record names, and it " +
                                  (reply.ok() ? "holds a guest ('" + runState + "')" : std::string("does not answer")));
                // It never ran the guest: an earlier start that was cut short left it.
                operation->vmm->process().onExit([again] { again(false); });
                operation->vmm->process().killAll();
            });
    } catch (const std::exception&) {  // Its monitor is closed: it is ending, or another client will be gone soon.
        if (attemptsLeft > 0) return again(true);
        refuse("is a VMM of it that no record names, and its monitor cannot be reached");
    }
}

Host::Operation* Host::beginUpgrade(const std::string& vm, const Done& done) {
    return beginOn(vm, [vm, done](const VerbResult& result) {
        if (result.value.contains("outcome") || result.code == ExitCode::Usage) return done(result);
        HandoverReport report;
        report.vm = vm;
        report.outcome = result.code == ExitCode::Lost ? State::Lost : State::Refused;
        report.cause = result.value.value("error", "");
        done({report.exitCode(), toJson(report)});
    });
}

void Host::adopt(const std::string& file, Handover::Observer observer, Done done) {
    std::string vm;
    try {
        vm = readAdoption(file).vm;
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Usage, error.what()));
    }
    Operation* operation = beginUpgrade(vm, done);
    if (!operation) return;
    try {
        // Only now is it believed, see adopt() in the header.
        const Adoption adoption = readAdoption(file);
        if (adoption.vm != vm) throw std::runtime_error("'" + file + "' has become an order for vm '" + adoption.vm + "'");
        const std::optional<VmRecord> known = operation->directory.read();
        if (known && known->fresh)
            throw std::runtime_error("an earlier handover of it was interrupted; 'virt-handover adopt --recover " + adoption.vm +
                                     "' comes first");
        const auto is = [&](const VmmRecord& vmm) { return vmm.pid == adoption.pid && vmm.startTime == adoption.startTime; };
        if (known && !is(known->vmm) && ChildProcess::adopt(known->vmm.pid, known->vmm.startTime).alive())
            throw std::runtime_error("pid " + std::to_string(known->vmm.pid) + " is on record as its VMM and lives, and not pid " +
                                     std::to_string(adoption.pid));
        VmRecord record;
        if (known && is(known->vmm)) {
            record.vmm = known->vmm;
        } else {
            operation->directory.remove();
            record.vmm = {.generation = 1, .pid = adoption.pid, .startTime = adoption.startTime};
            const std::string directory = operation->directory.makeGeneration(1, 0, 0);
            std::filesystem::create_symlink(adoption.adopted.monitor, directory + "/qmp.sock");
        }
        record.uuid = adoption.uuid;
        record.machine = adoption.machine;
        record.adopted = adoption.adopted;
        operation->directory.write(record);
        HandoverRequest request{.record = record,
                                .definition = record.definition(),
                                .design = Design::Relayed,
                                .binary = adoption.binary,
                                .dryRun = adoption.dryRun};
        request.definition.handover.pauseBudget = milliseconds(adoption.pauseBudgetMs);
        runHandover(operation, request, observer, 0);
    } catch (const std::exception& error) {
        end(operation, failure(ExitCode::Refused, error.what()));
    }
}

void Host::recoverAdopted(const std::string& vm, Done done) {
    Operation* operation = beginOn(vm, done);
    if (!operation) return;
    try {
        if (!operation->directory.read()) return end(operation, {ExitCode::Done, {{"vm", vm}, {"state", "none"}}});
    } catch (const std::exception& error) {
        return end(operation, failure(ExitCode::Lost, error.what()));
    }
    withRecord(
        operation, vm,
        [this, operation, vm](const VmRecord& record) {
            json value{{"vm", vm}, {"state", "dead"}};
            if (ChildProcess::adopt(record.vmm.pid, record.vmm.startTime).alive())
                value = {{"vm", vm},
                         {"state", "running"},
                         {"pid", record.vmm.pid},
                         {"startTime", record.vmm.startTime},
                         {"binary", record.vmm.binary}};
            end(operation, {ExitCode::Done, value});
        },
        true);
}

void Host::forgetAdopted(const std::string& vm, Done done) {
    Operation* operation = beginOn(vm, done);
    if (!operation) return;
    try {
        const std::optional<VmRecord> record = operation->directory.read();
        const auto alive = [](const VmmRecord& vmm) { return ChildProcess::adopt(vmm.pid, vmm.startTime).alive(); };
        if (record && (!record->adopted || alive(record->vmm) || (record->fresh && alive(*record->fresh))))
            return end(operation, failure(ExitCode::Refused, "vm '" + vm + "' runs; what is known of it is kept"));
        operation->directory.remove();
        end(operation, {ExitCode::Done, {{"vm", vm}, {"state", "forgotten"}}});
    } catch (const std::exception& error) {
        end(operation, failure(ExitCode::Refused, error.what()));
    }
}

void Host::upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) {
    endedStandbys_.erase(vm);
    Operation* operation = beginUpgrade(vm, done);
    if (!operation) return;
    withRecord(operation, vm, [this, operation, options, observer = std::move(observer)](const VmRecord& record) {
        HandoverRequest request{.record = record, .dryRun = options.dryRun, .standby = options.standby};
        try {
            request.definition = definitionForUpgrade(record);
        } catch (const std::exception& error) {
            request.definition = record.definition();
            request.refusal = error.what();
        }
        request.binary =
            options.binary.empty() ? request.definition.vmm.binary : std::filesystem::absolute(options.binary).string();
        HandoverSettings& settings = request.definition.handover;
        request.design = options.design.value_or(settings.design);
        if (options.pauseBudget) settings.pauseBudget = *options.pauseBudget;
        request.heard = [this, vm = operation->vm](const std::string& line, std::chrono::steady_clock::time_point at,
                                                   std::size_t port) {
            if (guestListener_) guestListener_(vm, line, at, port);
        };
        runHandover(operation, request, observer, settings.onFailure == OnFailure::Retry ? 1 : 0);
    });
}

void Host::runHandover(Operation* operation, const HandoverRequest& request, const Handover::Observer& observer,
                       int attemptsLeft) {
    operation->handover =
        std::make_unique<Handover>(request, operation->directory, observer,
                                   [this, operation, request, observer, attemptsLeft](const HandoverReport& report) {
                                       handedOver(operation, request, observer, attemptsLeft, report);
                                   });
    operation->handover->onStandby([this, operation](const HandoverReport& report) {
        operation->stoodBy = true;
        if (const Done done = std::exchange(operation->done, nullptr)) done({report.exitCode(), toJson(report)});
        beginWaiting();
    });
    waiting_.push_back(operation);
    beginWaiting();
}

void Host::beginWaiting() {
    // A handover is mostly two processes' waiting for each other.
    const std::size_t atOnce = 8 * std::max(1U, std::thread::hardware_concurrency());
    const auto underWay = [this] {
        const auto unfinished = std::ranges::count_if(
            operations_, [](const auto& operation) { return operation->handover && !operation->handover->standsBy(); });
        return static_cast<std::size_t>(unfinished) - waiting_.size();
    };
    while (!waiting_.empty() && underWay() < atOnce) {
        Operation* operation = waiting_.front();
        waiting_.pop_front();
        operation->handover->begin();
    }
}

void Host::handedOver(Operation* operation, const HandoverRequest& request, const Handover::Observer& observer, int attemptsLeft,
                      const HandoverReport& report) {
    if (report.outcome == State::RolledBack && report.shouldStartOver && request.timesStartedOver < mostTimesStartedOver) {
        HandoverRequest again = request;
        again.standby = false;
        ++again.timesStartedOver;
        again.warnings.push_back("the new VMM was discarded, and another one prepared: " + report.cause);
        return runHandover(operation, again, operation->observer ? operation->observer : observer, attemptsLeft);
    }
    if (report.outcome == State::RolledBack && !report.cancelled && operation->done && attemptsLeft > 0)
        return runHandover(operation, request, observer, attemptsLeft - 1);
    // Of an adopted VM that is as it was nothing is to be kept: its monitor was only pointed to.
    if (request.record.adopted && request.record.vmm.generation == 1 &&
        (report.outcome == State::Refused || report.outcome == State::RolledBack))
        operation->directory.remove();
    if (operation->stoodBy) endedStandbys_[operation->vm] = report;
    end(operation, {report.exitCode(), toJson(report)});
}

Host::Operation* Host::standingBy(const std::string& vm, const Done& done) {
    for (const auto& operation : operations_)
        if (operation->vm == vm && operation->handover && operation->handover->standsBy()) return operation.get();
    std::string why = "has no upgrade that stands by";
    try {
        const std::optional<VmRecord> record = directoryOf(vm).read();
        if (!record) {
            done(noSuchVm(vm));
            return nullptr;
        }
        if (const auto ended = endedStandbys_.find(vm); ended != endedStandbys_.end())
            why = "has no upgrade that stands by any more: " + (ended->second.cause.empty() ? "it was committed" : ended->second.cause);
        if (record->standingBy && !directoryOf(vm).tryLock())
            why = "stands by under a manager that is not this one: the command 'virt-handover --embed upgrade " + vm +
                  " --standby'; use --embed";
    } catch (const std::exception& error) {
        why = error.what();
    }
    done(failure(ExitCode::Refused, "vm '" + vm + "' " + why));
    return nullptr;
}

std::optional<HandoverReport> Host::endedStandby(const std::string& vm) const {
    const auto found = endedStandbys_.find(vm);
    return found == endedStandbys_.end() ? std::nullopt : std::optional(found->second);
}

void Host::commit(const std::string& vm, Handover::Observer observer, Done done) {
    Operation* operation = standingBy(vm, done);
    if (!operation) return;
    operation->done = std::move(done);
    operation->observer = observer;
    operation->handover->commit(std::move(observer));
}

void Host::cancel(const std::string& vm, Done done) {
    Operation* operation = standingBy(vm, done);
    if (!operation) return;
    operation->done = [vm, done](const VerbResult& result) {
        if (JsonReader(result.value).text("/outcome") == outcomeName(State::RolledBack))
            return done({ExitCode::Done, {{"vm", vm}, {"state", "cancelled; the guest runs on the old VMM as before"}}});
        done({result.code, {{"vm", vm}, {"error", "vm '" + vm + "': " + result.value.value("cause", "")}}});
    };
    operation->handover->cancel("cancelled");
}

std::vector<std::string> Host::removeEnded(Operation& operation) {
    std::vector<std::string> problems;
    try {
        if (const std::optional<VmRecord> record = operation.directory.read()) problems = releaseDevices(record->passthrough);
    } catch (const std::exception& error) {
        problems.push_back(error.what());
    }
    operation.directory.remove();
    return problems;
}

void Host::endWith(Operation* operation, const std::string& state) {
    operation->timer.reset();
    json value{{"vm", operation->vm}, {"state", state}};
    if (const std::vector<std::string> problems = removeEnded(*operation); !problems.empty()) value["warnings"] = problems;
    end(operation, {ExitCode::Done, value});
}

void Host::shutdown(const std::string& vm, milliseconds timeout, Done done) {
    Operation* operation = beginOn(vm, done);
    if (!operation) return;
    withRecord(operation, vm, [this, operation, vm, timeout](const VmRecord& record) {
        operation->vmm = std::make_unique<VmmProcess>(record.vmm, operation->directory.generation(record.vmm.generation));
        VmmProcess& vmm = *operation->vmm;
        if (!vmm.alive()) return endWith(operation, "ended before");
        vmm.process().onExit([this, operation] { endWith(operation, "shut down"); });
        const auto giveUp = [this, operation, vm](const std::string& why) {
            operation->vmm->process().ignoreExit();
            operation->timer.reset();
            end(operation,
                failure(ExitCode::Refused, "vm '" + vm + "': " + why + "; 'virt-handover destroy " + vm + "' ends it at once"));
        };
        operation->timer = EventSource::after(timeout, [giveUp, timeout] {
            giveUp("the guest did not power off within " + std::to_string(timeout.count()) + " ms");
        });
        try {
            vmm.monitor().execute("system_powerdown", nullptr, timeout, [giveUp](const QmpReply& reply) {
                if (!reply.ok() && reply.error->errorClass != "Closed" && reply.error->errorClass != "Timeout")
                    giveUp("system_powerdown: " + reply.error->description);
            });
        } catch (const std::exception& error) {
            giveUp(error.what());
        }
    });
}

void Host::destroy(const std::string& vm, Done done) {
    Operation* operation = beginOn(vm, done);
    if (!operation) return;
    try {
        const std::optional<VmRecord> record = operation->directory.read();
        if (!record) return end(operation, noSuchVm(vm));
        if (record->adopted)
            return end(operation, failure(ExitCode::Refused, "vm '" + vm + "' is '" + record->adopted->title +
                                                                 "' of another manager, which has to be asked to end it"));
        // Without recovery first: whichever VMM holds the guest, it is to end.
        endStrayVmms(operation->directory, {record->vmm.pid});
        operation->vmm = std::make_unique<VmmProcess>(record->vmm, operation->directory.generation(record->vmm.generation));
    } catch (const std::exception& error) {
        return end(operation, failure(ExitCode::Refused, error.what()));
    }
    const auto ended = [this, operation] { endWith(operation, "destroyed"); };
    if (!operation->vmm->alive()) return ended();
    operation->vmm->process().onExit(ended);
    operation->timer = EventSource::after(milliseconds(10'000), [this, operation, vm] {
        operation->vmm->process().ignoreExit();
        end(operation,
            failure(ExitCode::Lost, "vm '" + vm + "': pid " + std::to_string(operation->vmm->record().pid) + " does not end"));
    });
    operation->vmm->process().killAll();
}

void Host::list(Done done) {
    done(listed());
}
void Host::show(const std::string& vm, Done done) {
    done(shown(vm));
}
void Host::console(const std::string& vm, Done done) {
    done(consoleOf(vm));
}

VerbResult Host::listed() const {
    json vms = json::array();
    for (const std::string& vm : recordedVms(runtimeDirectory_)) {
        try {
            if (const auto record = directoryOf(vm).read()) vms.push_back(summary(vm, *record, directoryOf(vm)));
        } catch (const std::exception& error) {
            vms.push_back({{"vm", vm}, {"state", "unreadable"}, {"error", error.what()}});
        }
    }
    return {ExitCode::Done, {{"vms", vms}}};
}

VerbResult Host::shown(const std::string& vm) const {
    try {
        const auto record = directoryOf(vm).read();
        if (!record) return noSuchVm(vm);
        json value = summary(vm, *record, directoryOf(vm));
        value["definitionFile"] = record->definitionFile;
        value["definition"] = flatten(record->definition());
        value["directory"] = directoryOf(vm).generation(record->vmm.generation);
        if (record->fresh) value["handoverTo"] = {{"pid", record->fresh->pid}, {"binary", record->fresh->binary}};
        return {ExitCode::Done, value};
    } catch (const std::exception& error) {
        return failure(ExitCode::Refused, error.what());
    }
}

VerbResult Host::consoleOf(const std::string& vm) const {
    const VerbResult show = shown(vm);
    if (show.code != ExitCode::Done) return show;
    if (JsonReader(show.value).text("/definition/console.enabled") != "true")
        return failure(ExitCode::Usage, "vm '" + vm + "' has no console: its definition says so");
    if (JsonReader(show.value).text("/state") == "dead") return failure(ExitCode::Refused, "vm '" + vm + "' is dead");
    return {ExitCode::Done, {{"vm", vm}, {"socket", JsonReader(show.value).text("/directory") + "/console.sock"}}};
}

void Host::cancelHandovers(const std::string& why) {
    for (const auto& operation : operations_)
        if (operation->handover) operation->handover->cancel(why);
}

void Host::recoverAll(const std::function<void(const std::string&)>& report) {
    for (const std::string& vm : recordedVms(runtimeDirectory_)) {
        Operation* operation = beginOn(vm, [report](const VerbResult& result) {
            if (result.value.contains("error")) report(JsonReader(result.value).shown("/error"));
        });
        if (operation)
            withRecord(
                operation, vm, [this, operation](const VmRecord&) { end(operation, {ExitCode::Done, json::object()}); }, true);
    }
}

}  // namespace vh
