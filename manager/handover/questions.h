// Preflight's questions: to the host, the new binary and the old VMM. Touches nothing; each answer is judged as soon as it is
// there (preflight.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "manager/handover/course.h"
#include "manager/handover/preflight.h"
#include "manager/handover/steps.h"

namespace vh {

class Questions {
 public:
    Questions(Course& course, Steps& steps);

    /// What was asked for, and whether there is an old VMM to ask. What stands against the handover is thrown (Refusal).
    void judgeRequest();
    /// Everything else, up to the guest. `then` when nothing stands against the handover.
    void ask(std::function<void()> then);
    /// Asks about the guest once more: it may have changed while the new VMM stood by.
    void askGuestAgain(std::function<void()> then);

    /// The operator asked for what is installed there, and it was proved when it was probed. Committing another, or one that is
    /// gone, would leave the guest on what nobody has looked at, or nobody can start again. What has become of it is thrown.
    void checkStillInstalled() const;

 private:
    void judge() const;
    void askHost();
    void askOldVmm(std::function<void()> then);
    void askGuest(std::function<void()> then);
    void askWhatItHolds();
    void askBlockers(std::function<void()> then);
    void askFatalDevices(std::vector<std::string> places, std::vector<std::string> controllers, std::function<void()> then);
    void askRam(std::function<void()> then);

    Course& course_;
    Steps& steps_;
    HandoverFacts facts_;
    std::unique_ptr<BinaryProbe> probe_;
    FileStamp binaryStamp_{};  ///< Stamp of the file when it was probed.
};

}  // namespace vh
