// Design vmm-exec: the old QEMU executes the new one in its own process.
//
// Theory of operation. There is one process, so nothing can be prepared beside the one that runs the guest, and from the exec on
// there is no way back. What can be known before is therefore found out by a rehearsal: the new VMM is started as in any other
// design, next to the old one, its RAM blocks are compared with those of the old one, and it is ended again. Then everything
// is made ready: the new VMM's descriptors are posted into the old VMM's inbox (vmm-shim/exec_inbox.h), where they lie whatever
// becomes of us, and the old VMM is told what to execute: `vmm-shim exec`, from a descriptor of ours, which takes them out and
// executes the new VMM. `migrate` writes the devices' state into a memfd; its end is the exec.
//
//     old VMM: migrate -> STOP -> completed -> execve(vmm-shim exec) -> execve(new VMM): monitor, migrate-incoming, cont
//                                    \-> the exec fails: RESUME, rolled back
//
// That the exec has happened is known by the old VMM's monitor, which is closed while the process lives on. Until then whoever
// wants to stop (the pause budget, a person) has the migration cancelled and waits for what comes of it (Withdrawing), since the
// exec may win. The process is not ended by us, whatever happens.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "manager/handover/in_place.h"
#include "manager/handover/steps.h"

namespace vh {

class ExecSteps : public Steps {
 public:
    using Steps::Steps;

    void addFacts(HandoverFacts& facts, Then then) override;
    void exchange() override;
    bool rehearses() const override { return true; }
    void compare(const std::vector<RamBlock>& old, const std::vector<RamBlock>& fresh) override;
    void verified(Then then) override;
    void switchOver() override;
    void migrated() override;
    void withdraw() override;
    void execute() override;
    void proved(Then then) override;
    void retire(Then then) override;
    void undo(Then then) override;
    bool newEnded() override;
    bool oldEnded() override;
    void unheeded(Event event, const std::string& cause) override;
    std::string whenLost() const override;

 private:
    void prepare();
    bool isUnderWay() const;
    bool hasExecuted() const;
    void executed();
    void removeFdsets(VmmProcess& vmm, std::vector<int> fdsets, Then then);

    UniqueFd inbox_;       ///< The old VMM's, shared with it.
    UniqueFd shim_;        ///< The program that the old VMM executes.
    UniqueFd savedState_;  ///< The devices' state, in a file without a name.
    std::unique_ptr<ShimTrial> shimTrial_;
    std::vector<RamBlock> ramBefore_;
    Then rehearsed_;  ///< While the end of the rehearsed VMM is waited for.
    bool executed_ = false;
};

}  // namespace vh
