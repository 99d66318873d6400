// After a manager that died in the middle of a handover: find out which VMM holds the guest, and end with exactly one.
//
//   new VMM runs the guest                 the handover had been confirmed: end the old one, keep the new one
//   new VMM is gone                        keep the old one, and let it run the guest again if it does not
//   old VMM is gone, new one holds a       nobody else has it: let the new one run it
//     complete, stopped guest
//   both live, new one does not run        end the new one for certain, then let the old one run the guest
//   old VMM stopped for good, new silent   nobody can know: both are left, and the answer says so
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "manager/vm_record.h"
#include "manager/vmm_process.h"

namespace vh {

class Recovery {
 public:
    /// `problem` is empty when exactly one VMM is left (or none, when both were dead); the record is as it is on disk.
    using Done = std::function<void(VmRecord, std::string problem)>;

    /// `record.fresh` is there and `directory` is locked. Calls `done` from the main loop, once.
    Recovery(VmRecord record, VmDirectory directory, Done done);

 private:
    /// A monitor that cannot be connected to answers with an error, as one that does not answer in time.
    void ask(VmmProcess& vmm, const std::string& command, nlohmann::json arguments, QmpClient::ReplyHandler done);
    void askNew();
    void askOld();
    void keepNew();
    void endNew();
    void keepOld();
    void letOldRun();
    void end(VmmProcess& vmm, std::function<void()> then);
    void settle(const VmmRecord& kept, unsigned goneGeneration);
    void finish(std::string problem);

    VmRecord record_;
    VmDirectory directory_;
    Done done_;
    VmmProcess old_;
    VmmProcess new_;
    EventSource timer_;
    int attemptsLeft_ = 250;  ///< To let the old VMM run the guest, 20 ms apart.
};

}  // namespace vh
