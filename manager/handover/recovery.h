// Recovery after a manager that died in the middle of a start or a handover: finds the VMM that holds the guest, and ends with
// exactly one.
//
// Whom to ask, and what to do with two VMMs, is recovery_verdict.h's judgement. One that was sent SIGKILL and does not end never
// executes user code again, so it keeps nobody from going on with the other one. The record names it as `retiring` then, and each
// verb tries to end it first. Where both VMMs may be one process, it is exec_recovery.h that finds out which one it is.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>

#include "manager/handover/exec_recovery.h"
#include "manager/handover/recovery_course.h"
#include "manager/handover/recovery_verdict.h"
#include "manager/record/vm_directory.h"
#include "manager/vmm/vmm_process.h"

namespace vh {

class Recovery : private RecoveryCourse {
 public:
    /// Called at the end; `problem` is empty when exactly one VMM is left that may run the guest (or none, when both were dead);
    /// the record is as it is on disk, names as `retiring` one that does not end, and is none when a start was undone.
    using Done = RecoveryCourse::Done;

    /// Recovers what is due; `directory` is locked. Calls `done` from the main loop, once.
    Recovery(VmRecord record, VmDirectory directory, Done done);

 private:
    void begin();
    /// Does what is next by what is known of two VMMs, or of a start.
    void judge();
    /// Asks again before nobody can know: who is silent may be busy with what the dead manager had told it. False when it is too
    /// late.
    bool askTheSilentAgain();
    void askHow(VmmProcess& vmm, RecoveryFacts::Vmm& known);
    void judgeAsRunning();
    void keepStart();
    void undoStart();

    void keepNew();
    void doAfterwards(std::size_t next);
    void endNew();
    void keepOld();
    void letOldRun();
    /// Sends SIGKILL, and calls `otherwise` when the VMM has not ended for as long as a handover waits for that; without it, that
    /// is the end.
    void end(VmmProcess& vmm, std::function<void()> then, std::function<void()> otherwise = nullptr);
    void retireOld();
    void leaveOld();

    RecoveryFacts facts_;
    std::optional<ExecRecovery> exec_;  ///< Used where both VMMs are one process.
    std::chrono::steady_clock::time_point askUntil_;
    int attemptsLeft_ = 250;  ///< Attempts to let the old VMM run the guest, 20 ms apart.
};

}  // namespace vh
