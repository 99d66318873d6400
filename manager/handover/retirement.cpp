#include "manager/handover/retirement.h"

#include <csignal>

#include "manager/resources/memory_room.h"
#include "manager/vmm/strays.h"
#include "vmm-shim/json_text.h"

namespace vh {

void Retirement::retire() {
    // By now it is the old VMM that is to go.
    if (!course_.isOneProcess()) setOomScore(course_.oldVmm->record().pid, firstToBeEnded);
    steps_.letGo();
    course_.network.reset();
    // As often as QEMU does by itself. The bridge has been told already; this is for whoever else has to know.
    course_.newVmm->monitor().execute("announce-self", announcements(), stepTimeout, nullptr);
    steps_.retire([this] { retireOld(); });
}

void Retirement::retireOld() {
    recordOnlyNewVmm();
    beats_.afterFirstOnNew([this] {
        if (course_.isOneProcess() || !course_.oldVmm->alive()) return course_.done();
        const auto counted = [this](const QmpReply& reply) {
            if (!reply.ok()) return course_.done();
            const JsonReader migration(reply.value);
            course_.report.bytesSent = migration.count("/ram/transferred");
            if (course_.stoppedByMigration) course_.report.qemuDowntimeMs = migration.number("/downtime");
            if (!sharesRam(course_.request.design)) course_.report.ramCopiedBytes = migration.count("/ram/normal-bytes");
            askOldToEnd();
        };
        course_.oldVmm->monitor().execute("query-migrate", nullptr, tidyTimeout, course_.within(counted));
    });
}

/// From here on the record says that the guest has gone over, and whoever finds the old VMM alive may end it.
void Retirement::recordOnlyNewVmm() {
    VmRecord& record = course_.record();
    if (!record.new_) return;
    if (!course_.isOneProcess()) record.retiring = record.vmm;
    record.vmm = *record.new_;
    record.forgetHandover();
    course_.keepRecord();
}

void Retirement::askOldToEnd() {
    // At its exit QEMU removes the sockets that it listens on, which are the new VMM's as well.
    if (course_.record().adopted) return course_.done();
    companions_ = companionsOf(course_.oldVmm->record().pid);
    const std::chrono::milliseconds deadline = course_.deadlineOf(State::Retiring);
    course_.oldVmm->monitor().execute("quit", nullptr, deadline, nullptr);
    course_.after(deadline / 2, [this] { course_.done(); });
}

/// The guest has been confirmed on the new VMM: whatever the old one says, or does not say, it has the guest no more, and would
/// be the second VMM for one guest's memory, disks and network.
void Retirement::end() {
    recordOnlyNewVmm();  // Unless it was, before Retiring took too long.
    if (course_.isOneProcess() || !course_.oldVmm->alive()) return oldGone();
    course_.oldVmm->process().killAll();  // Its exit is met by oldGone().
}

void Retirement::oldGone() {
    for (const ChildProcess& companion : companions_) companion.kill(SIGKILL);
    course_.directory.removeGeneration(course_.oldVmm->record().generation);
    doAfterwards(0);
}

void Retirement::doAfterwards(std::size_t next) {
    VmRecord& record = course_.record();
    if (!record.adopted || next == record.adopted->afterwards.size()) {
        if (std::exchange(record.retiring, std::nullopt)) course_.keepRecord();
        return course_.done();
    }
    const AdoptedVm::Command& command = record.adopted->afterwards[next];
    course_.send(*course_.newVmm, command.execute, command.arguments,
                 [this, next, name = command.execute](const QmpReply& reply) {
                     if (!reply.ok()) course_.warn(course_.errorText(*course_.newVmm, name, *reply.error));
                     doAfterwards(next + 1);
                 });
}

}  // namespace vh
