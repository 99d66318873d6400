// A recovery of design vmm-exec. Old and new VMM may be one process there, in which whichever answers is the one that is there:
//
//   old one answers, no migration          it was never executed over: keep it
//   old one answers, and migrates          have that cancelled, and ask again: the exec may come first
//   new one answers                        let it take the devices' state in if it has not, and run the guest
//   neither answers in time                nobody can know: the process is left, and the answer says so
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "manager/handover/recovery_course.h"

namespace vh {

class ExecRecovery {
 public:
    ExecRecovery(RecoveryCourse& course, std::function<void()> keepOld) : course_(course), keepOld_(std::move(keepOld)) {}

    /// True when both are one process, and that lives.
    static bool isDue(const RecoveryCourse& course);

    /// Asks the monitors of both, until one has answered or it is too late. Calls `keepOld`, or ends the recovery.
    void begin() { askWhich(); }
    /// Takes out of the inbox what a manager that died had put into it. The old VMM is kept, its monitor is connected.
    void emptyInbox();

 private:
    void askWhich();
    void askExecuted();
    void takeStateIn();
    void keepExecuted();
    void againSoon(void (ExecRecovery::*step)(), const std::string& problem);

    RecoveryCourse& course_;
    const std::function<void()> keepOld_;
    const std::chrono::steady_clock::time_point askUntil_ = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    bool cancelled_ = false;
    bool incoming_ = false;
};

}  // namespace vh
