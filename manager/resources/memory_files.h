// The memory of a VMM that has files: guest RAM and implicit blocks in memfds, which an old and a new VMM map both.
//
// A new VMM with larger blocks grows the very files that the old one runs the guest on (system/physmem.c:qemu_ram_alloc_from_fd,
// grow; 10.0 and 11.1). The guest does not notice; the next new VMM would. So a handover that goes back cuts them to the length
// that they had before the new VMM was started, and not to what any VMM says.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "manager/record/vm_record.h"

namespace vh {

/// The memfds that a process has open for writing and maps; empty when it cannot be looked at.
std::vector<MemoryFile> memoryFilesOf(pid_t pid);

/// Cuts files of a process that have grown since back to what they were, and returns what they are called. A file that the
/// process maps beyond that length by now is left: it is its own doing, and would be its end.
std::vector<std::string> cutBackMemoryFiles(pid_t pid, const std::vector<MemoryFile>& before);

}  // namespace vh
