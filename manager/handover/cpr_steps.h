// Designs whose RAM blocks go through QEMU's CPR channel and whose device state is a migration stream: the new VMM is built
// around the old one's memory. vmm-owned lets the two QEMUs do it alone.
//
// With a relay (relayed) the old VMM's CPR state comes to us and not to the new VMM: it is decoded, compared with the old VMM's
// own RAM blocks, adapted and passed on, and the old VMM goes on running the guest until we hang up. An upgrade that stands by
// cancels the old VMM's side at once and leaves its monitor to others, and asks for the state a second time when it is to commit:
// if that is not the same, the new VMM was built for what no longer is, and the handover starts over. A vmm-owned old VMM has
// sent its state to the new one itself and stays in the migration.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "manager/handover/relay.h"
#include "manager/handover/steps.h"

namespace vh {

class CprSteps : public Steps {
 public:
    using Steps::Steps;

    Incoming incoming() const override { return Incoming::Cpr; }
    void awaitStart(Then then) override;
    void exchange() override;
    void switchOver() override;
    void aboutToSwitch() override;
    void migrated() override;
    void undo(Then then) override;

 protected:
    /// Has the old VMM, whose migration mode is set, send its CPR state.
    virtual void sendCprState(Then then) = 0;
    void startMigration(const std::string& cprPath, Then then);

    CprCapture capture_;  ///< What the new VMM was built with, where it came to us.

 private:
    std::set<std::string> eventfdsBefore_;  ///< With devices: the old VMM's, just before it wrote its CPR state.
};

class VmmOwnedSteps : public CprSteps {
 public:
    using CprSteps::CprSteps;

    void hold(Then then) override { then(); }
    void resumeExchange(Then then) override { then(); }

 protected:
    void sendCprState(Then then) override;
};

class RelayedSteps : public CprSteps {
 public:
    using CprSteps::CprSteps;

    void resumeExchange(Then then) override;
    void switchOver() override;
    void letGo() override { relay_.reset(); }

 protected:
    void sendCprState(Then then) override;

 private:
    CprPassthrough expectedDevices() const;
    void take(CprCapture capture, const Then& then);
    void letOldVmmGo(Then then);

    std::unique_ptr<Relay> relay_;  ///< From the exchange on; destroyed, it hangs up.
};

}  // namespace vh
