#include "manager/handover/recovery_course.h"

#include <filesystem>
#include <utility>

#include "manager/resources/memory_room.h"
#include "manager/resources/resources.h"

namespace vh {

using std::chrono::milliseconds;

namespace {

const VmmRecord& oldOf(const VmRecord& record) {
    return record.retiring ? *record.retiring : record.vmm;
}

VmmRecord newOf(const VmRecord& record) {
    if (record.retiring) return record.vmm;
    return record.new_.value_or(VmmRecord{});
}

}  // namespace

std::string pidOf(const VmmProcess& vmm) {
    return "pid " + std::to_string(vmm.record().pid);
}

RecoveryCourse::RecoveryCourse(VmRecord known, VmDirectory where, Done done)
    : record(std::move(known)),
      directory(std::move(where)),
      oldVmm(oldOf(record), directory.generation(oldOf(record).generation)),
      newVmm(newOf(record), directory.generation(newOf(record).generation)),
      done_(std::move(done)) {}

void RecoveryCourse::guarded(const std::function<void()>& step) {
    try {
        step();
    } catch (const std::exception& error) {
        finish(error.what());
    }
}

void RecoveryCourse::after(milliseconds delay, std::function<void()> step) {
    timer = EventSource::after(delay, [this, step = std::move(step)] { guarded(step); });
}

void RecoveryCourse::ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, milliseconds timeout,
                         QmpClient::ReplyHandler done) {
    const auto answered = [this, &vmm, command, arguments, timeout, done](const QmpReply& reply) {
        guarded([&] {
            if (command != "query-status" || !reply.ok() || vmm.hasOwnAnswer()) return done(reply);
            // Both VMMs of an adopted VM listen on one monitor socket, and the other one took the call.
            vmm.closeMonitor();
            if (--callsLeft_ <= 0) return done({{}, QmpError{"Closed", "another process answers on its monitor"}});
            after(milliseconds(20),
                  [this, &vmm, command, arguments, timeout, done] { ask(vmm, command, arguments, timeout, done); });
        });
    };
    try {
        vmm.monitor().execute(command, arguments, timeout, answered);
    } catch (const std::exception& error) {
        after(milliseconds(0), [answered, reply = QmpReply{{}, QmpError{"Closed", error.what()}}] { answered(reply); });
    }
}

void RecoveryCourse::letNewRun(const std::string& who, std::function<void()> then) {
    if (!record.guestWasRunning) return then();
    try {
        if (!record.adopted) joinBridges(record.definition(), newVmm.record().pid);
    } catch (const std::exception& error) {
        return finish(who + ": its network: " + error.what());
    }
    ask(newVmm, "cont", nullptr, contTimeout, [this, who, then = std::move(then)](const QmpReply& answer) {
        if (answer.ok()) return announce(then);
        finish(who + " does not start the guest: " + answer.error->description);
    });
}

void RecoveryCourse::announce(std::function<void()> then) {
    if (!record.new_ || std::exchange(announced_, true)) return then();
    ask(newVmm, "announce-self", announcements(), answerTimeout, [then = std::move(then)](const QmpReply&) { then(); });
}

void RecoveryCourse::spare(const VmmRecord& kept) {
    if (const auto score = std::exchange(record.oomScore, std::nullopt); score && Process(kept.pid).startTime() == kept.startTime)
        setOomScore(kept.pid, *score);
}

void RecoveryCourse::settle(const VmmRecord& kept, unsigned goneGeneration) {
    record.vmm = kept;
    spare(kept);
    record.forgetHandover();
    record.retiring = left;
    if (left && record.adopted) record.adopted->afterwards.clear();  // They are the new VMM's.
    try {
        directory.write(record);
        if (!left) directory.removeGeneration(goneGeneration);
        removeSockets(kept);
        finish({});
    } catch (const std::exception& error) {
        const bool lives = Process(kept.pid).startTime() == kept.startTime;
        finish(std::string("it could not be written down: ") + error.what() +
               (lives ? ". The guest is on pid " + std::to_string(kept.pid) : "") +
               "; mend that (is there space left?) and run the command again");
    }
}

void RecoveryCourse::removeSockets(const VmmRecord& kept) const {
    std::error_code ignored;
    for (const std::string& socket : {relayPath(directory.generation(kept.generation)), managerSocket(directory.path())})
        std::filesystem::remove(socket, ignored);
}

void RecoveryCourse::finish(std::string problem) {
    if (!done_) return;
    timer.reset();
    for (VmmProcess* vmm : {&oldVmm, &newVmm}) vmm->process().ignoreExit();
    answer_ =
        EventSource::soon([done = std::exchange(done_, nullptr), settled = startUndone ? std::nullopt : std::optional(record),
                           problem = std::move(problem)] { done(settled, problem); });
}

}  // namespace vh
