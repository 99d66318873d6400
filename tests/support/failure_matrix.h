// The failure matrix that is published (tests/results/failure-matrix.json, and as a table in failure-matrix.md): what became of a
// handover in which the manager, the old VMM or the new one failed, by design and step. Each of its lines was seen by a test, and
// is seen by it again in every run.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "config/design.h"

namespace vh::test {

struct SeenFailure {
    Design design = Design::Relayed;
    std::string victim;   ///< `manager`, `old VMM`, `new VMM`.
    std::string step;     ///< A state of the handover, or a step of the reference VMM (reference_vmm.h).
    std::string kind;     ///< `die`, `hang`: an action of the reference VMM.
    std::string outcome;  ///< In words.
};

/// Fails the test when the matrix has another outcome for this; with VH_ACCEPT=1 it is put in.
void expectAsInFailureMatrix(const SeenFailure& seen);

/// What became of guest memory when something of what the new VMM must be told was wrong; published in the same way
/// (tests/results/silent-loss.json, and in question.md).
struct SeenLoss {
    std::string design;  ///< Of ours, or `cpr-transfer to 11.1` and the like: QEMU's own, driven by its monitors alone.
    std::string fault;
    std::string outcome;   ///< In words.
    std::string caughtBy;  ///< Who gave the handover up; empty of QEMU's own, driven by its monitors alone.
};

void expectAsInLossMatrix(const SeenLoss& seen);

/// The same of a handover of ours, by its report; fails the test when the report does not say who gave it up. `either` where it
/// is chance which of several does, in words.
void expectAsInLossMatrix(const std::string& design, const std::string& fault, const nlohmann::json& report,
                          const std::string& either = "");

}  // namespace vh::test
