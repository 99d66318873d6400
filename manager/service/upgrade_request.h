// From what a person asks of an upgrade to what its handover goes by: the definition that the VM was started with, the file as it
// is today, and the options.
#pragma once

#include "manager/handover/course.h"
#include "manager/record/vm_record.h"
#include "manager/service/verbs.h"

namespace vh {

/// What stands against it already is its `refusal`; what a person should know before, among its `warnings`. Reads the definition
/// file, and nothing else.
HandoverRequest upgradeRequest(const VmRecord& record, const UpgradeOptions& options);

}  // namespace vh
