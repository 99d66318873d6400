#include "manager/handover/recovery_verdict.h"

namespace vh {
namespace {

using Verdict = RecoveryVerdict;

std::string pidOf(const RecoveryFacts::Vmm& vmm) {
    return "pid " + std::to_string(vmm.pid);
}

Verdict judgeStart(const RecoveryFacts& facts) {
    if (!facts.oldVmm.isAlive) return {Verdict::UndoStart};
    if (!facts.oldVmm.says) return {Verdict::AskOld};
    if (facts.oldVmm.says == RunState::Prelaunch) return {Verdict::EndAndUndoStart};
    if (facts.oldVmm.says != RunState::Unsaid) return {Verdict::KeepStart};
    return {Verdict::LeaveBoth, "its start was interrupted, and the VMM, " + pidOf(facts.oldVmm) +
                                    ", does not answer; 'virt-handover destroy " + facts.vm + "' ends it"};
}

/// The new VMM has ended. It may have run the guest when it had been told to; it did not when the old one runs it: that was given
/// back, and nobody wrote it down, or a person has decided so.
Verdict judgeWithoutNew(const RecoveryFacts& facts) {
    if ((!facts.toldToRun && !facts.retiring) || !facts.oldVmm.isAlive) return {Verdict::KeepOld};
    if (!facts.oldVmm.says) return {Verdict::AskOld};
    if (facts.oldVmm.says == RunState::Running) return {Verdict::KeepOld};
    return {Verdict::LeaveBoth,
            "the new VMM had been told to run the guest and has ended, and the guest with it: what the old one, " +
                pidOf(facts.oldVmm) + ", has of it is out of date; 'virt-handover destroy " + facts.vm +
                "' ends that one, and 'start' starts the VM anew"};
}

/// A new VMM without a monitor, as while it waits for CPR state, is known to be harmless by the old one running the guest.
Verdict judgeSilentNew(const RecoveryFacts& facts) {
    if (!facts.oldVmm.isAlive)
        return {Verdict::LeaveBoth,
                "the old VMM is gone and the new one does not answer; a person must look at " + pidOf(facts.newVmm)};
    if (!facts.oldVmm.says) return {Verdict::AskOld};
    if (facts.oldVmm.says == RunState::Running) return {Verdict::EndNew};
    return {Verdict::LeaveBoth, "neither VMM can be shown to hold the guest: the new one, " + pidOf(facts.newVmm) +
                                    ", does not answer, and the old one, " + pidOf(facts.oldVmm) +
                                    ", does not run it; a person must look"};
}

/// The new VMM says that it has run the guest. An old one that still runs it says that this is not so.
Verdict judgeUsedNew(const RecoveryFacts& facts) {
    if (!facts.oldVmm.isAlive) return {Verdict::KeepNew};
    if (!facts.oldVmm.says) return {Verdict::AskOld};
    if (facts.oldVmm.says == RunState::PostMigrate || facts.oldVmm.says == RunState::Paused) return {Verdict::KeepNew};
    return {Verdict::LeaveBoth,
            "the new VMM, " + pidOf(facts.newVmm) + ", says that it has the guest, and the old one, " + pidOf(facts.oldVmm) +
                ", " + (facts.oldVmm.word.empty() ? "does not answer" : "is in the state '" + facts.oldVmm.word + "'") +
                "; a person must look, and end the one that does not have it"};
}

/// The new VMM holds the guest, complete and stopped.
Verdict judgeFilledNew(const RecoveryFacts& facts) {
    if (!facts.oldVmm.isAlive) return {Verdict::LetNewRun, facts.toldToRun ? "it had been told to" : "the old VMM is gone"};
    if (!facts.toldToRun && !facts.hasDevicesPassed) return {Verdict::EndNew};
    if (!facts.oldVmm.says) return {Verdict::AskOld};
    if (facts.oldVmm.says == RunState::Running) return {Verdict::EndNew};
    // What it holds is the guest as it is by now, whether or not it came to run it.
    if (facts.toldToRun) return {Verdict::LetNewRun, "it had been told to"};
    // An old VMM that has handed its devices over cannot run the guest any more (handover_table.h), nobody but the new one can.
    if (facts.oldVmm.says == RunState::PostMigrate) return {Verdict::LetNewRun, "the old VMM has handed over"};
    if (facts.oldVmm.says != RunState::Unsaid) return {Verdict::EndNew};
    return {Verdict::LeaveBoth, "the new VMM holds the guest, stopped, and the old one, " + pidOf(facts.oldVmm) +
                                    ", does not say whether it has given the guest's devices away; a person must look"};
}

}  // namespace

RecoveryVerdict judgeRecovery(const RecoveryFacts& facts) {
    if (facts.starting) return judgeStart(facts);
    if (!facts.newVmm.isAlive) return judgeWithoutNew(facts);
    if (facts.retiring) return {Verdict::KeepNew};
    if (!facts.newVmm.says) return {Verdict::AskNew};
    switch (*facts.newVmm.says) {
        case RunState::Unsaid:
            return judgeSilentNew(facts);
        case RunState::Paused:
            return judgeFilledNew(facts);
        case RunState::Prelaunch:
        case RunState::InMigrate:
            if (facts.oldVmm.isAlive) return {Verdict::EndNew};
            return {Verdict::LeaveBoth, "the old VMM is gone and the new one never received the guest; destroy the VM"};
        case RunState::Running:
        case RunState::FinishMigrate:
        case RunState::PostMigrate:
        case RunState::Other:
            break;  // io-error, shutdown, guest-panicked, ...: it has run the guest.
    }
    return judgeUsedNew(facts);
}

}  // namespace vh
