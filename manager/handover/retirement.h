// A handover that was confirmed: the old VMM is asked to end (Retiring), and ended for certain whatever it said or did not say
// (Ending). The guest runs on the new VMM; nothing here stops it.
#pragma once

#include <cstddef>
#include <vector>

#include "manager/handover/course.h"
#include "manager/handover/guest_beats.h"
#include "manager/handover/steps.h"

namespace vh {

class Retirement {
 public:
    Retirement(Course& course, Steps& steps, GuestBeats& beats) : course_(course), steps_(steps), beats_(beats) {}

    void retire();
    /// Does the rest, which every VMM that was left needs, however that was done: the record, a look at the guest, and `quit`.
    void retireOld();
    void end();
    /// Called when the old VMM's process has ended, in Ending.
    void oldGone();

 private:
    void recordOnlyNewVmm();
    void askOldToEnd();
    /// Gives an adopted VM's new VMM the commands that it can take only now.
    void doAfterwards(std::size_t next);

    Course& course_;
    Steps& steps_;
    GuestBeats& beats_;
    std::vector<ChildProcess> companions_;  ///< Processes that the old VMM's wrapper script had started beside it.
};

}  // namespace vh
