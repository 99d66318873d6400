// Recovery's judgement of two VMMs: a pure function from what is known of them to what is to be done next. Whom to ask comes out
// of it as well, so that nobody is asked whose answer makes no difference; what was not asked yet is empty.
//
//   a start, and the VMM says `prelaunch`  it never ran: undo the start
//   a start, and it runs the guest         the start was as good as finished: keep it
//   the guest has gone over (on record),   end the old one
//     and the new one lives
//   new VMM runs the guest, and the old    the handover had been confirmed: end the old one, keep the new one
//     one says that it does not
//   new VMM is gone, and was never told    keep the old one, and let it run the guest again if it does not
//     to run the guest (on record)
//   new VMM holds a complete, stopped      nobody else has it: let the new one run it
//     guest; the old one is gone, or the
//     new one had been told to run it
//   both live, new one was never told to   end the new one for certain, then let the old one run the guest
//     and does not run it
//   the same, with passed-through devices, let the new one run it, the old one cannot any more
//     and the old one has handed over
//   the old one runs the guest and the     it was given back, and nobody wrote that down: end the new one
//     new one does not
//   anything else                          nobody can know: both are left, and the answer says so
//
// No VMM is ended for its silence. What lets one be ended is the record, or that it says itself that it does not have the guest;
// see "Who is ever signalled" in README.md.
#pragma once

#include <optional>
#include <string>

#include "vmm-shim/qmp/vmm_state.h"

namespace vh {

struct RecoveryFacts {
    // Facts on record.
    std::string vm;
    bool starting = false;          ///< A start was interrupted; the VMM is the old one here.
    bool retiring = false;          ///< The guest has gone over.
    bool toldToRun = false;         ///< The new VMM had been told to run the guest, or was just about to be.
    bool hasDevicesPassed = false;  ///< Devices are passed through from the host.

    // Facts by the kernel and by what the VMMs say.
    struct Vmm {
        int pid = 0;
        bool isAlive = false;
        std::optional<RunState> says;
        std::string word;  ///< State in its own word.
    } oldVmm, newVmm;
};

struct RecoveryVerdict {
    enum Step {
        AskOld,
        AskNew,
        KeepStart,
        UndoStart,
        EndAndUndoStart,
        KeepOld,    ///< Keeps the old one; there is no new one.
        KeepNew,    ///< Ends the old one.
        EndNew,     ///< Ends the new one, and keeps the old one.
        LetNewRun,  ///< Says afterwards that the new one runs, and has the old one asked.
        LeaveBoth,  ///< A person has to decide.
    } step = LeaveBoth;
    std::string why;  ///< Reason for LetNewRun and LeaveBoth.
};

RecoveryVerdict judgeRecovery(const RecoveryFacts& facts);

}  // namespace vh
