// What the verbs of a Host have in common to say.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "manager/record/vm_record.h"
#include "manager/service/verbs.h"

namespace vh {

VerbResult failure(ExitCode code, const std::string& error);
VerbResult noSuchVm(const std::string& vm);

/// What `list` says of a VM, and `show` and `start` among other things. Its `state` is empty where the VMM has to be asked.
nlohmann::json summary(const std::string& vm, const VmRecord& record, const VmDirectory& directory);

/// Of a VMM that was sent SIGKILL and has not ended.
std::string leftText(const VmRecord& record);

}  // namespace vh
