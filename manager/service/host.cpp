#include "manager/service/host.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include "config/parse.h"
#include "manager/resources/passthrough.h"
#include "vmm-shim/json_text.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// How often an old VMM may change under a handover that was prepared; then it is left alone.
constexpr unsigned mostTimesStartedOver = 3;

constexpr milliseconds recoveryPatience{60'000};  ///< Longer than any recovery takes.
constexpr milliseconds lookPatience{300};         ///< For who holds a lock just to see whether somebody does.

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

/// What can be said of a VM without asking its VMM; nothing when it has to be asked.
std::string stateOnRecord(const VmRecord& record, const VmDirectory& directory) {
    const bool isAlive = ChildProcess::adopt(record.vmm.pid, record.vmm.startTime).alive();
    const bool isBusy = !directory.tryLock();
    if (record.starting) return isBusy ? "starting" : "start interrupted";
    if (record.fresh && (!isAlive || !isBusy)) return "handover interrupted";
    if (record.fresh) return record.standingBy ? "standing by" : "handover";
    if (!isAlive) return "dead";
    // A VMM serves one monitor client at a time, and whoever is at work on this VM may be it.
    if (isBusy) return "busy";
    // At first an adopted VM has no monitor but its own manager's.
    return record.adopted && record.vmm.generation == 1 ? "running" : "";
}

json summary(const std::string& vm, const VmRecord& record, const VmDirectory& directory) {
    json devices = json::array();
    for (const PassedDevice& device : record.passthrough) devices.push_back(toJson(device));
    return {{"vm", vm},
            {"state", stateOnRecord(record, directory)},
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

/// Of a VMM that was sent SIGKILL and has not ended.
std::string leftText(const VmRecord& record) {
    const std::string pid = std::to_string(record.retiring->pid);
    return "a VMM of an earlier upgrade of vm '" + record.definition().name + "', pid " + pid +
           ", does not end, not even by SIGKILL, so the kernel holds it (a disk or a device that does not answer? '/proc/" + pid +
           "/stack' says what it waits for). The guest runs on pid " + std::to_string(record.vmm.pid) +
           " and that one can never run it again, but it still has the guest's memory and files open; every further command on "
           "this "
           "VM tries to end it first";
}

}  // namespace

Host::Host(std::string runtimeDirectory, std::string definitionDirectory)
    : runtimeDirectory_(std::move(runtimeDirectory)), definitionDirectory_(std::move(definitionDirectory)) {}

Host::~Host() = default;

milliseconds Host::patienceWith(const std::string& vm) const {
    if (directoryOf(vm).isBeingSettled()) return recoveryPatience;
    const bool isAtWork = std::ranges::any_of(operations_, [&](const auto& operation) { return operation->vm == vm; });
    return isAtWork ? milliseconds(0) : lookPatience;
}

void Host::tryToBegin(const std::string& vm, const Done& done, const Begun& then, Wait wait) {
    Operation* operation = nullptr;
    try {
        VmDirectory directory = directoryOf(vm);
        if (UniqueFd lock = directory.tryLock()) {
            operations_.emplace_back(new Operation{.vm = vm, .lock = std::move(lock), .directory = directory, .done = done});
            operation = operations_.back().get();
        } else if (wait.isEndless || std::chrono::steady_clock::now() - wait.since < patienceWith(vm)) {
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
            const std::optional<VmRecord> record = directory.read();
            return done(failure(
                ExitCode::Refused,
                record && record->standingBy ? "vm '" + vm + "' has an upgrade that stands by; 'virt-handover commit " + vm +
                                                   "' switches, 'virt-handover cancel " + vm + "' undoes it; nothing was touched"
                : directory.isBeingSettled() ? "what an earlier manager left half done on vm '" + vm +
                                                   "' is still being settled; nothing was touched; try again in a minute"
                                             : "another command is at work on vm '" + vm + "'; nothing was touched"));
        }
    } catch (const std::invalid_argument& error) {  // No VM can have that name.
        return done(failure(ExitCode::Usage, error.what()));
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Refused, "vm '" + vm + "': " + error.what()));
    }
    guarded(operation, [operation, then] { then(operation); });
}

void Host::saySettling(const Operation& operation, bool isSo) {
    if (isSo || !operation.isRecovery) VmDirectory::sayBeingSettled(operation.lock.get(), isSo);
}

void Host::guarded(Operation* operation, const std::function<void()>& step) {
    try {
        step();
    } catch (const std::exception& error) {
        end(operation, failure(ExitCode::Refused, error.what()));
    }
}

void Host::end(Operation* operation, VerbResult result) {
    for (const std::string& warning : operation->warnings)
        result.report ? result.report->warnings.push_back(warning) : result.value["warnings"].push_back(warning);
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
    const std::optional<VmRecord> record = operation->directory.read();
    if (!record) return end(operation, noSuchVm(vm));
    if (record->adopted && !adopted)
        return end(operation, failure(ExitCode::Refused, "vm '" + vm + "' is '" + record->adopted->title +
                                                             "' of another manager, which has to be asked (for libvirt: "
                                                             "'virt-handover libvirt'); nothing was touched"));
    if (Recovery::isDue(*record)) saySettling(*operation, true);
    settleStrays(operation, record, [this, operation, vm, record, then = std::move(then)] {
        recover(operation, *record, [this, operation, vm, then](const std::optional<VmRecord>& settled) {
            saySettling(*operation, false);
            if (settled) return then(*settled);
            removeEnded(*operation);
            end(operation,
                failure(ExitCode::Usage,
                        "vm '" + vm + "' is not running: its start had been interrupted, and was undone; " + "start it again"));
        });
    });
}

void Host::settleStrays(Operation* operation, const std::optional<VmRecord>& record, std::function<void()> then) {
    operation->strays = std::make_unique<StrayCheck>(
        operation->directory, record, [this, operation, record, then = std::move(then)](const std::string& problem) {
            operation->strays.reset();
            if (problem.empty()) return guarded(operation, then);
            const std::string& vm = operation->vm;
            std::string remedy = "; put the record ";
            if (const std::set<pid_t> pids = record ? livePids(*record) : std::set<pid_t>(); !pids.empty())
                remedy = "; 'virt-handover show " + vm + "' says how the VMM on record is, " + processText(*pids.begin()) +
                         ": if that one runs the guest, end only the other one ('kill PID'). Else put the record ";
            end(operation,
                failure(ExitCode::Refused, "vm '" + vm + "': " + problem + remedy + (record ? "that names it " : "") +
                                               "back, or end it, and its guest, with 'virt-handover destroy " + vm + "'"));
        });
}

void Host::recover(Operation* operation, const VmRecord& record, std::function<void(std::optional<VmRecord>)> then) {
    const auto goOn = [operation, then = std::move(then)](const std::optional<VmRecord>& settled) {
        if (settled) operation->directory.removeOtherGenerations(*settled);
        then(settled);
    };
    if (!Recovery::isDue(record)) return goOn(record);
    operation->recovery = std::make_unique<Recovery>(
        record, operation->directory,
        [this, operation, goOn](const std::optional<VmRecord>& settled, const std::string& problem) {
            operation->recovery.reset();  // It is connected to the monitors, which serve one client at a time.
            if (problem.empty() && settled && settled->retiring) operation->warnings.push_back(leftText(*settled));
            if (problem.empty()) return guarded(operation, [goOn, settled] { goOn(settled); });
            end(operation,
                failure(ExitCode::Lost, "vm '" + operation->vm + "': an earlier manager left it half done: " + problem));
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
    beginOn(vm, done, [this, vm, request](Operation* operation) {
        const std::optional<VmRecord> record = operation->directory.read();
        const auto runs = [](const VmRecord& known) {
            const auto alive = [](const VmmRecord& vmm) { return ChildProcess::adopt(vmm.pid, vmm.startTime).alive(); };
            return alive(known.vmm) || (known.fresh && alive(*known.fresh));
        };
        const auto refuse = [this, operation, vm](const VmRecord& known) {
            end(operation, failure(ExitCode::Refused, "vm '" + vm + "' runs already, as pid " + std::to_string(known.vmm.pid)));
        };
        if (record && runs(*record) && !record->starting) return refuse(*record);
        settleStrays(operation, record, [this, operation, record, request, runs, refuse] {
            if (!record || !(record->starting || record->retiring)) return startAnew(operation, request);
            recover(operation, *record, [this, operation, request, runs, refuse](const std::optional<VmRecord>& settled) {
                settled&& runs(*settled) ? refuse(*settled) : startAnew(operation, request);
            });
        });
    });
}

void Host::startAnew(Operation* operation, const StartRequest& request) {
    removeEnded(*operation);
    operation->start = std::make_unique<Start>(request, operation->directory, [this, operation](const Start::Result& result) {
        json value = summary(operation->vm, result.record, operation->directory);
        value["state"] = result.guestRuns ? "running" : "not started";
        if (!result.warnings.empty()) value["warnings"] = result.warnings;
        if (result.problem.empty()) return end(operation, {ExitCode::Done, value});
        value["error"] = "vm '" + operation->vm + "': " + result.problem;
        end(operation, {ExitCode::Refused, value});
    });
}

void Host::beginUpgrade(const std::string& vm, const Done& done, const Begun& then) {
    const auto reported = [vm, done](const VerbResult& result) {
        if (result.report || result.code == ExitCode::Usage) return done(result);
        HandoverReport report;
        report.vm = vm;
        report.outcome = result.code == ExitCode::Lost ? State::Lost : State::Refused;
        report.cause = JsonReader(result.value).text("/error");
        done(VerbResult::of(std::move(report)));
    };
    beginOn(vm, reported, then);
}

void Host::adopt(const std::string& file, Handover::Observer observer, Done done) {
    std::string vm;
    try {
        vm = readAdoption(file).vm;
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Usage, error.what()));
    }
    beginUpgrade(vm, done, [this, vm, file, observer = std::move(observer)](Operation* operation) {
        // Only now is it believed, see adopt() in the header.
        const Adoption adoption = readAdoption(file);
        if (adoption.vm != vm) throw std::runtime_error("'" + file + "' has become an order for vm '" + adoption.vm + "'");
        const std::optional<VmRecord> known = operation->directory.read();
        if (known && known->retiring && ChildProcess::adopt(known->retiring->pid, known->retiring->startTime).alive())
            throw std::runtime_error(leftText(*known));
        if (known && Recovery::isDue(*known))
            throw std::runtime_error("an earlier handover of it was interrupted; 'virt-handover adopt --recover " + adoption.vm +
                                     "' comes first");
        const auto is = [&](const VmmRecord& vmm) { return vmm.pid == adoption.pid && vmm.startTime == adoption.startTime; };
        if (known && !is(known->vmm) && ChildProcess::adopt(known->vmm.pid, known->vmm.startTime).alive())
            throw std::runtime_error("pid " + std::to_string(known->vmm.pid) +
                                     " is on record as its VMM and lives, and not pid " + std::to_string(adoption.pid));
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
    });
}

void Host::recoverAdopted(const std::string& vm, Done done) {
    const auto found = [this, vm](Operation* operation, const VmRecord& record) {
        json value{{"vm", vm}, {"state", "dead"}};
        if (ChildProcess::adopt(record.vmm.pid, record.vmm.startTime).alive())
            value = {{"vm", vm},
                     {"state", "running"},
                     {"pid", record.vmm.pid},
                     {"startTime", record.vmm.startTime},
                     {"binary", record.vmm.binary}};
        end(operation, {ExitCode::Done, value});
    };
    beginOn(vm, done, [this, vm, found](Operation* operation) {
        operation->isRecovery = true;
        saySettling(*operation, true);
        try {
            if (!operation->directory.read()) return end(operation, {ExitCode::Done, {{"vm", vm}, {"state", "none"}}});
        } catch (const std::exception& error) {
            return end(operation, failure(ExitCode::Lost, error.what()));
        }
        withRecord(
            operation, vm, [operation, found](const VmRecord& record) { found(operation, record); }, true);
    });
}

void Host::forgetAdopted(const std::string& vm, Done done) {
    beginOn(vm, done, [this, vm](Operation* operation) {
        const std::optional<VmRecord> record = operation->directory.read();
        if (record && (!record->adopted || !livePids(*record).empty()))
            return end(operation, failure(ExitCode::Refused, "vm '" + vm + "' runs; what is known of it is kept"));
        operation->directory.remove();
        end(operation, {ExitCode::Done, {{"vm", vm}, {"state", "forgotten"}}});
    });
}

void Host::upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) {
    endedStandbys_.erase(vm);
    const auto handOver = [this, options, observer = std::move(observer)](Operation* operation, const VmRecord& record) {
        HandoverRequest request{.record = record, .dryRun = options.dryRun, .standby = options.standby};
        try {
            request.definition = definitionForUpgrade(record);
        } catch (const std::exception& error) {
            request.definition = record.definition();
            request.refusal = error.what();
        }
        // The record has room for one that does not end.
        if (record.retiring) {
            request.refusal = leftText(record);
            operation->warnings.clear();  // It is the cause.
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
    };
    beginUpgrade(vm, done, [this, vm, handOver](Operation* operation) {
        withRecord(operation, vm, [operation, handOver](const VmRecord& record) { handOver(operation, record); });
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
        if (const Done done = std::exchange(operation->done, nullptr)) done(VerbResult::of(report));
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
    end(operation, VerbResult::of(report));
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
            why = "has no upgrade that stands by any more: " +
                  (ended->second.cause.empty() ? "it was committed" : ended->second.cause);
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
        if (result.code == ExitCode::RolledBack)
            return done({ExitCode::Done, {{"vm", vm}, {"state", "cancelled; the guest runs on the old VMM as before"}}});
        const std::string why = result.report ? result.report->cause : JsonReader(result.value).text("/error");
        done({result.code, {{"vm", vm}, {"error", "vm '" + vm + "': " + why}}});
    };
    operation->handover->cancel("cancelled");
}

std::vector<std::string> Host::removeEnded(Operation& operation) {
    std::vector<std::string> problems;
    try {
        if (const std::optional<VmRecord> record = operation.directory.read()) problems = releaseDevices(record->passthrough);
    } catch (const std::exception&) {
        problems.push_back("its record could not be used: if it had passed-through devices, they are as the VM left them");
    }
    operation.directory.remove();
    return problems;
}

void Host::endWith(Operation* operation, const std::string& state, json value) {
    operation->timer.reset();
    value["vm"] = operation->vm;
    value["state"] = state;
    if (const std::vector<std::string> problems = removeEnded(*operation); !problems.empty()) value["warnings"] = problems;
    end(operation, {ExitCode::Done, value});
}

void Host::shutdown(const std::string& vm, milliseconds timeout, Done done) {
    const auto press = [this, vm, timeout](Operation* operation, const VmRecord& record) {
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
    };
    beginOn(vm, done, [this, vm, press](Operation* operation) {
        withRecord(operation, vm, [operation, press](const VmRecord& record) { press(operation, record); });
    });
}

void Host::destroy(const std::string& vm, Done done) {
    beginOn(vm, done, [this, vm](Operation* operation) {
        std::set<pid_t> pids, onRecord;
        bool hasRecord = false, isUsable = true;
        try {
            const std::optional<VmRecord> record = operation->directory.read();
            if (record && record->adopted)
                return end(operation, failure(ExitCode::Refused, "vm '" + vm + "' is '" + record->adopted->title +
                                                                     "' of another manager, which has to be asked to end it"));
            hasRecord = record.has_value();
            if (record) onRecord = livePids(*record);
        } catch (const std::exception&) {
            isUsable = false;
        }
        // Without recovery first: whichever VMM holds the guest, it is to end.
        pids = onRecord;
        for (const pid_t pid : onRecord)
            if (!isVmmOf(operation->directory, pid))
                return end(operation,
                           failure(ExitCode::Refused, "vm '" + vm + "': its record names " + processText(pid) +
                                                          ", which is no VMM of it: it neither listens nor writes in '" +
                                                          operation->directory.path() + "'; nothing was ended. Put the " +
                                                          "right record back, or remove that directory"));
        for (const StrayVmm& stray : strayVmms(operation->directory, onRecord)) pids.insert(stray.pid);
        if (pids.empty() && !isUsable)
            return end(operation,
                       failure(ExitCode::Refused, "vm '" + vm + "' has a record that cannot be used ('virt-handover show " + vm +
                                                      "' says why), and no VMM of it was found; when you are sure that " +
                                                      "there is none, remove '" + operation->directory.path() + "'"));
        if (pids.empty() && !hasRecord) {
            operation->directory.remove();  // An earlier one may have been killed half way.
            return end(operation, noSuchVm(vm));
        }
        json ending = json::array();
        for (const pid_t pid : pids) {
            const bool isOnRecord = onRecord.contains(pid);
            ending.push_back({{"pid", pid}, {"process", processText(pid)}, {"onRecord", isOnRecord}});
            if (notice_)
                notice_("vm '" + vm + "': ends " + processText(pid) + (isOnRecord ? "" : ", which is on no record of it"));
        }
        endAll(operation, pids, ending);
    });
}

void Host::endAll(Operation* operation, const std::set<pid_t>& pids, const json& names) {
    for (const pid_t pid : pids) operation->ending.push_back(ChildProcess::of(pid));
    std::erase_if(operation->ending, [](const ChildProcess& process) { return !process.alive(); });
    if (operation->ending.empty()) return endWith(operation, "destroyed", {{"ended", names}});
    const auto ended = [this, operation, names] {
        if (operation->ending.empty()) return;  // Two have ended at once.
        std::erase_if(operation->ending, [](const ChildProcess& process) { return !process.alive(); });
        if (operation->ending.empty()) endWith(operation, "destroyed", {{"ended", names}});
    };
    operation->timer = EventSource::after(milliseconds(10'000), [this, operation] {
        std::string text;
        for (ChildProcess& process : operation->ending) {
            process.ignoreExit();
            if (process.alive()) text += (text.empty() ? "" : ", ") + processText(process.pid());
        }
        end(operation, failure(ExitCode::Lost, "vm '" + operation->vm + "': does not end, not even by SIGKILL: " + text));
    });
    for (ChildProcess& process : operation->ending) {
        process.onExit([ended] { callSoon(ended); });
        process.killAll();
    }
}

void Host::list(Done done) {
    json vms = json::array();
    for (const std::string& vm : recordedVms(runtimeDirectory_)) {
        try {
            if (const auto record = directoryOf(vm).read()) vms.push_back(summary(vm, *record, directoryOf(vm)));
        } catch (const std::exception& error) {
            vms.push_back({{"vm", vm}, {"state", "unreadable"}, {"error", error.what()}});
        }
    }
    fillStates(vms, [done](const json& filled) { done({ExitCode::Done, {{"vms", filled}}}); });
}

void Host::show(const std::string& vm, Done done) {
    const VerbResult known = recorded(vm);
    if (known.code != ExitCode::Done) return done(known);
    fillStates(json::array({known.value}), [done](const json& filled) { done({ExitCode::Done, filled.front()}); });
}

void Host::console(const std::string& vm, Done done) {
    done(consoleOf(vm));
}

void Host::fillStates(json summaries, std::function<void(json)> then) {
    std::vector<GuestStates::Question> questions;
    std::vector<std::size_t> unknown;
    for (std::size_t i = 0; i < summaries.size(); ++i) {
        if (summaries[i].at("state") != "") continue;
        try {
            const VmDirectory directory = directoryOf(summaries[i].at("vm"));
            const std::optional<VmRecord> record = directory.read();
            if (!record) continue;
            questions.push_back({record->vmm, directory.generation(record->vmm.generation)});
            unknown.push_back(i);
        } catch (const std::exception&) {  // It has come to be so since its summary was made.
        }
    }
    std::erase_if(questions_, [](const auto& question) { return question->isAnswered(); });
    const auto fill = [summaries = std::move(summaries), unknown,
                       then = std::move(then)](const std::vector<std::string>& states) {
        json filled = summaries;
        for (std::size_t i = 0; i < unknown.size(); ++i) filled[unknown[i]]["state"] = states[i];
        for (json& summary : filled)
            if (summary.at("state") == "") summary["state"] = "no answer";
        then(filled);
    };
    questions_.push_back(std::make_unique<GuestStates>(std::move(questions), fill));
}

VerbResult Host::recorded(const std::string& vm) const {
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
    const VerbResult show = recorded(vm);
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
    const Done told = [report](const VerbResult& result) {
        if (result.value.contains("error")) report(JsonReader(result.value).shown("/error"));
        for (const json& warning : JsonReader(result.value).list("/warnings")) report(JsonReader(warning).shown(""));
    };
    // Whoever is at work on a VM settles it himself, or leaves it half done when he dies: so it is looked at when he has ended.
    for (const std::string& vm : recordedVms(runtimeDirectory_))
        tryToBegin(vm, told,
                   [this, vm](Operation* operation) {
                       operation->isRecovery = true;
                       saySettling(*operation, true);
                       const auto nothing = [this, operation] { end(operation, {ExitCode::Done, json::object()}); };
                       if (!operation->directory.read()) return nothing();  // It has ended meanwhile.
                       withRecord(
                           operation, vm, [nothing](const VmRecord&) { nothing(); }, true);
                   },
                   {.isEndless = true});
}

}  // namespace vh
