// The request that an upgrade makes of a handover: from the definition that the VM was started with, the file as it is today,
// and the options.
#pragma once

#include "manager/handover/course.h"
#include "manager/record/vm_record.h"
#include "manager/service/verbs.h"

namespace vh {

/// Reads the definition file, and nothing else. An obstacle that is known already is the request's `refusal`; what a person
/// should know before is among its `warnings`.
HandoverRequest upgradeRequest(const VmRecord& record, const UpgradeOptions& options);

}  // namespace vh
