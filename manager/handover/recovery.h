// After a manager that died in the middle of a start or a handover: find out which VMM holds the guest, and end with exactly one.
//
// Whom to ask, and what to do with two VMMs, is recovery_verdict.h's judgement. One that was sent SIGKILL and does not end never
// executes user code again, so it keeps nobody from going on with the other one. The record names it as `retiring` then, and each
// verb tries to end it first.
//
// Old and new may be one process (design vmm-exec), in which whichever VMM answers is the one that is there:
//
//   old one answers, no migration          it was never executed over: keep it
//   old one answers, and migrates          have that cancelled, and ask again: the exec may come first
//   new one answers                        let it take the devices' state in if it has not, and run the guest
//   neither answers in time                nobody can know: the process is left, and the answer says so
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "manager/handover/recovery_verdict.h"
#include "manager/record/vm_record.h"
#include "manager/vmm/vmm_process.h"

namespace vh {

class Recovery {
 public:
    /// `problem` is empty when exactly one VMM is left that may run the guest (or none, when both were dead); the record is as it
    /// is on disk, names as `retiring` one that does not end, and is none when a start was undone.
    using Done = std::function<void(std::optional<VmRecord>, std::string problem)>;

    /// Whether a manager has left this half done.
    static bool isDue(const VmRecord& record) { return record.starting || record.new_ || record.retiring; }

    /// It is due, and `directory` is locked. Calls `done` from the main loop, once.
    Recovery(VmRecord record, VmDirectory directory, Done done);

 private:
    /// A monitor that cannot be connected to answers with an error, as one that does not answer in time.
    void ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, QmpClient::ReplyHandler done);
    /// Runs a step; what it throws is the recovery's failure.
    void guarded(const std::function<void()>& step);
    void begin();
    /// Of two VMMs, or of a start: does what is next by what is known.
    void judge();
    /// Before nobody can know: who is silent may be busy with what the dead manager had told it. False when it is too late.
    bool askTheSilentAgain();
    void askHow(VmmProcess& vmm, RecoveryFacts::Vmm& known);
    void keepStart();
    void undoStart();
    void letNewRun(const std::string& why);
    /// One process: asks the monitors of both generations, until one has answered or askUntil_ has come.
    void askWhich();
    void askExecuted();
    void takeStateIn();
    void runExecuted();
    void keepExecuted();
    void emptyInbox();
    bool isOneProcess() const { return old_.record().pid == new_.record().pid; }
    void announce(std::function<void()> then);
    void againSoon(void (Recovery::*step)(), const std::string& problem);

    void keepNew();
    void doAfterwards(std::size_t next);
    void endNew();
    void keepOld();
    void letOldRun();
    /// SIGKILL, and `otherwise` when it has not ended for as long as a handover waits for that; without it, that is the end.
    void end(VmmProcess& vmm, std::function<void()> then, std::function<void()> otherwise = nullptr);
    void retireOld();
    void leaveOld();
    void spare(const VmmRecord& kept);
    void settle(const VmmRecord& kept, unsigned goneGeneration);
    void removeSockets(const VmmRecord& kept) const;
    void finish(std::string problem);

    VmRecord record_;
    VmDirectory directory_;
    Done done_;
    VmmProcess old_;
    VmmProcess new_;
    RecoveryFacts facts_;
    EventSource timer_;
    int attemptsLeft_ = 250;  ///< To let the old VMM run the guest, 20 ms apart.
    int callsLeft_ = 50;      ///< Until the right one of two VMMs takes a call, 20 ms apart.
    std::chrono::steady_clock::time_point askUntil_;
    bool announced_ = false;
    bool cancelled_ = false;
    bool incoming_ = false;
    bool undone_ = false;
    std::optional<VmmRecord> left_;  ///< The new VMM, which was to end and has not.
};

}  // namespace vh
