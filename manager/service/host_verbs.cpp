#include <set>
#include <stdexcept>

#include "config/parse.h"
#include "manager/resources/passthrough.h"
#include "manager/service/host.h"
#include "vmm-shim/file.h"
#include "vmm-shim/text.h"

namespace vh {

using nlohmann::json;
using std::chrono::milliseconds;

void Host::start(const std::string& what, std::optional<milliseconds> waitHeartbeat, Done done) {
    const bool isFile = what.find('/') != std::string::npos || what.ends_with(".yaml");
    StartRequest request;
    request.waitHeartbeat = waitHeartbeat;
    try {
        request.definitionFile = absolutePath(isFile ? what : definitionDirectory_ + "/" + what + ".yaml");
        request.definitionText = readDefinitionFile(request.definitionFile);
        request.definition = parseVmDefinition(request.definitionText, request.definitionFile);
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Usage, obstacleOf(error)));
    }
    const std::string vm = request.definition.name;
    on(vm, done, [this, vm, request](const Operation& operation) {
        const std::optional<VmRecord> record = operation->directory.read();
        const auto runs = [](const VmRecord& known) { return isAlive(known.vmm) || (known.new_ && isAlive(*known.new_)); };
        const auto refuse = [vm](const VmRecord& known) {
            throw std::runtime_error("vm '" + vm + "' runs already, as pid " + std::to_string(known.vmm.pid));
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

void Host::startAnew(const Operation& operation, const StartRequest& request) {
    if (beginsNothing_) throw Refusal(*beginsNothing_);
    removeEnded(operation);
    operation->parts.start =
        std::make_unique<Start>(request, operation->directory, [this, operation](const Start::Result& result) {
            VmSummary started = summary(operation->vm, result.record, operation->directory);
            started.state = result.guestRuns ? "running" : "not started";
            json value = toJson(started);
            if (!result.warnings.empty()) value["warnings"] = result.warnings;
            if (!result.problem) return end(operation, {ExitCode::Done, value});
            VerbResult failed = failure(result.guestRuns ? ExitCode::Lost : ExitCode::Refused,
                                        {"vm '" + operation->vm + "': " + result.problem->what, result.problem->remedy});
            failed.value.update(value);
            end(operation, failed);
        });
}

std::vector<std::string> Host::removeEnded(const Operation& operation) {
    std::vector<std::string> problems;
    try {
        if (const std::optional<VmRecord> record = operation->directory.read()) problems = releaseDevices(record->passthrough);
    } catch (const std::exception&) {
        problems.push_back("its record could not be used: if it had passed-through devices, they are as the VM left them");
    }
    operation->directory.remove();
    return problems;
}

void Host::endWith(const Operation& operation, const std::string& state, json value) {
    operation->parts.timer.reset();
    value["vm"] = operation->vm;
    value["state"] = state;
    if (const std::vector<std::string> problems = removeEnded(operation); !problems.empty()) value["warnings"] = problems;
    end(operation, {ExitCode::Done, value});
}

void Host::shutdown(const std::string& vm, milliseconds timeout, Done done) {
    const auto press = [this, vm, timeout](const Operation& operation, const VmRecord& record) {
        operation->parts.vmm = std::make_unique<VmmProcess>(record.vmm, operation->directory.generation(record.vmm.generation));
        VmmProcess& vmm = *operation->parts.vmm;
        if (!vmm.alive()) return endWith(operation, "ended before");
        vmm.process().onExit([this, operation] { endWith(operation, "shut down"); });
        const auto giveUp = [this, operation, vm](const std::string& why) {
            operation->parts.vmm->process().ignoreExit();
            operation->parts.timer.reset();
            end(operation,
                failure(ExitCode::Refused, {"vm '" + vm + "': " + why, "'virt-handover destroy " + vm + "' ends it at once"}));
        };
        operation->parts.timer = EventSource::after(timeout, [giveUp, timeout] {
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
    on(vm, done, [this, vm, press](const Operation& operation) {
        withRecord(operation, vm, [operation, press](const VmRecord& record) { press(operation, record); });
    });
}

void Host::destroy(const std::string& vm, Done done) {
    on(vm, done, [this, vm](const Operation& operation) {
        std::optional<VmRecord> record;
        bool isUsable = true;
        try {
            record = operation->directory.read();
        } catch (const std::exception&) {
            isUsable = false;
        }
        if (record && record->adopted)
            throw Refusal({"vm '" + vm + "' is '" + record->adopted->title + "' of another manager", "ask that one to end it"});
        // Without recovery first: whichever VMM holds the guest, it is to end.
        const std::set<pid_t> onRecord = record ? livePids(*record) : std::set<pid_t>();
        std::set<pid_t> pids = onRecord;
        for (const pid_t pid : onRecord)
            if (!isVmmOf(operation->directory, pid))
                throw Refusal({"vm '" + vm + "': its record names " + processText(pid) +
                                   ", which is no VMM of it: it neither listens nor writes in '" + operation->directory.path() +
                                   "'; nothing was ended",
                               "put the right record back, or remove that directory"});
        for (const StrayVmm& stray : strayVmms(operation->directory, onRecord)) pids.insert(stray.pid);
        if (pids.empty() && !isUsable)
            throw Refusal({"vm '" + vm + "' has a record that cannot be used ('virt-handover show " + vm +
                               "' says why), and no VMM of it was found",
                           "when you are sure that there is none, remove '" + operation->directory.path() + "'"});
        if (pids.empty() && !record) {
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

void Host::endAll(const Operation& operation, const std::set<pid_t>& pids, const json& names) {
    for (const pid_t pid : pids) operation->parts.ending.push_back(ChildProcess::of(pid));
    std::erase_if(operation->parts.ending, [](const ChildProcess& process) { return !process.alive(); });
    if (operation->parts.ending.empty()) return endWith(operation, "destroyed", {{"ended", names}});
    const auto ended = [this, operation, names] {
        if (operation->parts.ending.empty()) return;  // Two have ended at once.
        std::erase_if(operation->parts.ending, [](const ChildProcess& process) { return !process.alive(); });
        if (operation->parts.ending.empty()) endWith(operation, "destroyed", {{"ended", names}});
    };
    operation->parts.timer = EventSource::after(milliseconds(10'000), [this, operation] {
        std::string text;
        for (ChildProcess& process : operation->parts.ending) {
            process.ignoreExit();
            if (process.alive()) append(text, processText(process.pid()));
        }
        end(operation, failure(ExitCode::Lost, {"vm '" + operation->vm + "': does not end, not even by SIGKILL: " + text, ""}));
    });
    for (ChildProcess& process : operation->parts.ending) {
        process.onExit([operation, ended] { operation->parts.ended = EventSource::soon(ended); });
        process.killAll();
    }
}

}  // namespace vh
