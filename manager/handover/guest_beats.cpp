#include "manager/handover/guest_beats.h"

#include <system_error>

#include "vmm-shim/unix_socket.h"

namespace vh {

using std::chrono::milliseconds;

namespace {

// How long a guest's beat is waited for on the first connection to its port; twice as long on each further one. A port whose
// listener changes may stay silent for its next one, for ever (seen with QEMU 10.0 and 11.1; it is throttled by
// hw/char/virtio-console.c:flush_buf after the listener has gone), and is not for the one after that.
constexpr milliseconds timeoutBefore{150}, timeoutAfter{400};
constexpr unsigned connectionsBefore = 3, connectionsAfter = 4;
static_assert(silenceTimeout == timeoutAfter * ((1 << connectionsAfter) - 1));
constexpr milliseconds recently{2'000};  ///< A guest that beats does so a thousand times a second; this is for a busy host.

}  // namespace

void GuestBeats::listenToOld(std::function<void()> then) {
    if (!course_.listensToGuest()) return then();
    course_.heartbeat.listen(connectUnix(course_.oldVmm->directory() + "/heartbeat.sock"));
    await(*course_.oldVmm, timeoutBefore, connectionsBefore, [this, then = std::move(then)](bool heard) {
        if (!heard) course_.warn("no heartbeat from the guest; its pause is known by STOP to RESUME only");
        then();
    });
}

void GuestBeats::noteBeforeSwitch() {
    beatBefore_ = course_.heartbeat.hasBeatWithin(recently);
}

void GuestBeats::await(const VmmProcess& vmm, milliseconds longest, unsigned connections, std::function<void(bool)> then) {
    HeartbeatMonitor& heartbeat = course_.heartbeat;
    const std::size_t port = &vmm == course_.oldVmm.get() ? 0 : heartbeat.ports() - 1;
    const auto settle = [this, port, then] {
        course_.cancelTimer();
        course_.heartbeat.onLine(nullptr);
        then(course_.heartbeat.goesOn(port));
    };
    heartbeat.onLine(course_.within([this, port, settle] {
        if (course_.heartbeat.goesOn(port)) settle();
    }));
    course_.after(longest, [this, &vmm, port, settle, longest, connections, then] {
        HeartbeatMonitor& again = course_.heartbeat;
        again.onLine(nullptr);
        again.catchUp();
        if (again.goesOn(port) || connections <= 1) return settle();
        try {
            again.listenAgain(port, connectUnix(vmm.directory() + "/heartbeat.sock"));
        } catch (const std::system_error&) {
            // Nobody listens there just now: what is connected may still speak.
        }
        await(vmm, longest * 2, connections - 1, then);
    });
}

void GuestBeats::afterFirstOnNew(std::function<void()> then) {
    const HeartbeatMonitor& heartbeat = course_.heartbeat;
    if (!course_.wasRunning || heartbeat.summary().beats == 0) return then();
    if (!beatBefore_) {
        course_.warn("no heartbeat from the guest just before the switch: nothing tells how it is on the new VMM");
        return then();
    }
    if (heartbeat.goesOn(heartbeat.ports() - 1)) return then();
    await(*course_.newVmm, timeoutAfter, connectionsAfter,
          [this, then = std::move(then)](bool heard) { heard ? then() : reportSilence(then); });
}

/// No reason to end anything: the guest may only be slow, or its port broken. But nothing says that it lives.
void GuestBeats::reportSilence(std::function<void()> then) {
    HandoverReport& report = course_.report;
    report.silent = true;
    report.cause = "the guest beat on the old VMM and has not been heard on the new one for " + inMilliseconds(silenceTimeout);
    course_.newVmm->monitor().execute(
        "query-status", nullptr, tidyTimeout, course_.within([&report, then = std::move(then)](const QmpReply& reply) {
            report.cause += reply.ok() ? ", which says of it: '" + reply.text("status") + "'"
                                       : ", which does not say how it is: " + reply.error->description;
            then();
        }));
}

void GuestBeats::afterNextOnOld(std::function<void()> then) {
    if (course_.heartbeat.summary().beats == 0 || !course_.wasRunning) return then();
    course_.heartbeat.watchAfresh(0);
    await(*course_.oldVmm, timeoutBefore, connectionsBefore, [this, then = std::move(then)](bool heard) {
        if (!heard) course_.warn("the old VMM says that it runs the guest, and no heartbeat has come from there yet; look at it");
        then();
    });
}

}  // namespace vh
