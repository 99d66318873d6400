#include <filesystem>
#include <stdexcept>
#include <utility>

#include "manager/service/host.h"

namespace vh {

using nlohmann::json;
using std::chrono::milliseconds;

void Host::adopt(const std::string& file, Handover::Observer observer, Done done) {
    std::string vm;
    try {
        vm = readAdoptOrder(file).vm;
    } catch (const std::exception& error) {
        return done(failure(ExitCode::Usage, obstacleOf(error)));
    }
    beginUpgrade(vm, done, [this, vm, file, observer = std::move(observer)](const Operation& operation) {
        // Only now is it believed, see adopt() in the header.
        const AdoptOrder order = readAdoptOrder(file);
        if (order.vm != vm) throw std::runtime_error("'" + file + "' has become an order for vm '" + order.vm + "'");
        const std::optional<VmRecord> known = operation->directory.read();
        if (known && known->retiring && isAlive(*known->retiring)) throw Refusal(leftBehind(*known));
        if (known && known->isHalfDone())
            throw Refusal(
                {"an earlier handover of it was interrupted", "'virt-handover adopt --recover " + order.vm + "' comes first"});
        const auto is = [&](const VmmRecord& vmm) { return vmm.pid == order.pid && vmm.startTime == order.startTime; };
        if (known && !is(known->vmm) && isAlive(known->vmm))
            throw std::runtime_error("pid " + std::to_string(known->vmm.pid) +
                                     " is on record as its VMM and lives, and not pid " + std::to_string(order.pid));
        VmRecord record;
        if (known && is(known->vmm)) {
            record.vmm = known->vmm;
        } else {
            operation->directory.remove();
            record.vmm = {.generation = 1, .pid = order.pid, .startTime = order.startTime};
            const std::string directory = operation->directory.makeGeneration(1, 0, 0);
            std::filesystem::create_symlink(order.monitor, directory + "/qmp.sock");
        }
        record.uuid = order.uuid;
        record.machine = order.machine;
        record.adopted = order;
        operation->directory.write(record);
        HandoverRequest request{.record = record,
                                .definition = record.definition(),
                                .design = defaultDesign,
                                .binary = order.binary,
                                .dryRun = order.dryRun};
        HandoverSettings& settings = request.definition.handover;
        settings.pauseBudget = milliseconds(order.pauseBudgetMs);
        settings.deadlines.launch = settings.deadlines.exchange = settings.deadlines.verify = milliseconds(order.stepDeadlineMs);
        runHandover(operation, request, observer, 0);
    });
}

void Host::recoverAdopted(const std::string& vm, Done done) {
    const auto found = [this, vm](const Operation& operation, const VmRecord& record) {
        json value{{"vm", vm}, {"state", "dead"}};
        if (isAlive(record.vmm))
            value = {{"vm", vm},
                     {"state", "running"},
                     {"pid", record.vmm.pid},
                     {"startTime", record.vmm.startTime},
                     {"binary", record.vmm.binary}};
        end(operation, {ExitCode::Done, value});
    };
    on(vm, done, [this, vm, found](const Operation& operation) {
        operation->isRecovery = true;
        saySettling(operation, true);
        try {
            if (!operation->directory.read()) return end(operation, {ExitCode::Done, {{"vm", vm}, {"state", "none"}}});
        } catch (const std::exception& error) {
            return end(operation, failure(ExitCode::Lost, obstacleOf(error)));
        }
        withRecord(
            operation, vm, [operation, found](const VmRecord& record) { found(operation, record); }, Whose::Anybodys);
    });
}

void Host::forgetAdopted(const std::string& vm, Done done) {
    on(vm, done, [this, vm](const Operation& operation) {
        const std::optional<VmRecord> record = operation->directory.read();
        if (record && (!record->adopted || !livePids(*record).empty()))
            return end(operation, failure(ExitCode::Refused, {"vm '" + vm + "' runs; what is known of it is kept", ""}));
        operation->directory.remove();
        end(operation, {ExitCode::Done, {{"vm", vm}, {"state", "forgotten"}}});
    });
}

}  // namespace vh
