// Things of a running VMM that no second process can have beside it, as the kernel tells them: so whatever option or monitor
// command they came from, they are found.
#pragma once

#include <sys/types.h>

#include <set>
#include <string>

namespace vh {

/// Addresses that it listens on: `/path/of.sock`, `@abstract`, `TCP port 5900`. Empty where the kernel does not tell.
std::set<std::string> listenersOf(pid_t pid);

/// Files that it writes to and that have no name any more: nobody can open them again.
std::set<std::string> deletedFilesOf(pid_t pid);

/// Names of the taps and tuns that it has a queue of, in whatever network namespace: no second process gets a queue of one that
/// has one queue only, and one that has more gives what comes to all who have one.
std::set<std::string> tapsHeldBy(pid_t pid);

/// A mapped program or library that was deleted or replaced since, if any; empty when all are what is installed.
std::string replacedCodeOf(pid_t pid);

}  // namespace vh
