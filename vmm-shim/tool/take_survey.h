// Takes a survey (survey.h): starts each QEMU again and again, once for each machine and device, and asks it for its RAM blocks.
//
// Nobody lists the devices that make RAM blocks. So each device that a QEMU lets a user create is tried on one machine, but those
// that reach for the host; what made a block, on any of the QEMUs, is then tried on all machines.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "vmm-shim/tool/survey.h"

namespace vh {

struct SurveyRequest {
    struct Qemu {
        std::string name;    ///< Name in the survey; empty: what it says of its version and its package.
        std::string binary;  ///< A QEMU, or a script that executes one.
    };
    std::vector<Qemu> qemus;
    std::vector<std::string> machines;  ///< Values of `-machine`; none: some that all QEMUs have.
    std::vector<std::string> devices;   ///< Values of `-device`; none: those that are found to make blocks.
    std::chrono::milliseconds timeout{};
};

/// Takes the survey; `progress` is told what is being done. `interrupts` as in Interrupts, or -1. Throws StartFailed when a QEMU
/// does not start at all.
Survey takeSurvey(const SurveyRequest& request, const std::function<void(const std::string&)>& progress, int interrupts);

/// Machine types to look at when nobody names any: of each family of versioned ones the oldest and the newest that all QEMUs
/// have, one of them also with its implicit blocks in shared memory, and those that are each QEMU's own newest.
std::vector<std::string> machinesToSurvey(const std::vector<std::vector<std::string>>& machinesOfEach);

/// The names in the text of `-device help`, without processors.
std::vector<std::string> devicesIn(const std::string& help);

}  // namespace vh
