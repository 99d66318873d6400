// Designs whose device state is QEMU's ordinary migration stream, over a socket (manager-owned, copy) or in a file
// (save-restore). Guest RAM is the manager's file, which both VMMs map, or goes along.
#pragma once

#include "manager/handover/steps.h"
#include "vmm-shim/unique_fd.h"

namespace vh {

class StreamSteps : public Steps {
 public:
    using Steps::Steps;

    void addFacts(HandoverFacts& facts, Then then) override;
    void exchange() override;
    void switchOver() override;
    void migrated() override;
    void guestStopped() override;

 private:
    bool copiesStopped_ = false;
};

class FileSteps : public Steps {
 public:
    using Steps::Steps;

    void exchange() override;
    void switchOver() override;
    void migrated() override;
    void retire(Then then) override;
    void undo(Then then) override;

 private:
    void save();
    void restore();

    UniqueFd saved_;  ///< The file, which has no name, until the new VMM has it.
};

}  // namespace vh
