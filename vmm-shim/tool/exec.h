// `vmm-shim exec`: executed by an old QEMU in its place (cpr-exec-command), and executes the new QEMU.
//
//     old QEMU --execve--> vmm-shim exec: takes the parcel out of the inbox, closes what the old QEMU was started with, puts the
//                          new QEMU's descriptors where its command line expects them --execve--> new QEMU
//
// The guest is stopped, and there is no way back: whatever can be checked was checked by the manager before, and what is left to
// go wrong ends the process with a word on its standard error. QEMU's own descriptors, which stay open across the exec, and
// QEMU_CPR_EXEC_STATE in the environment, which says where they are told of, are not touched.
#pragma once

#include <string>
#include <vector>

namespace vh {

/// The command line behind `exec`.
struct ExecRequest {
    int inbox = -1;          ///< The inbox's number in this process.
    std::string label;       ///< Label of the parcel to take.
    int first = -1;          ///< Number for the parcel's second descriptor, and so on; the first is the new VMM's log.
    std::vector<int> close;  ///< Descriptors that the new VMM has no use for; the inbox is among them.
    std::vector<std::string> command;
};

/// `--inbox N --label TEXT --first N --close N,N,... -- PROGRAM ARGUMENTS...`; throws std::invalid_argument with what is wrong.
ExecRequest parseExec(const std::vector<std::string>& arguments);

/// Executes the request, or ends with a status and a reason on the standard error. `--check` alone does nothing, and succeeds.
int serveExec(const std::vector<std::string>& arguments);

}  // namespace vh
