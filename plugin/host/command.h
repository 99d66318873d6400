// Programs that this one starts: one whose answer it waits for, with a deadline, and one that goes on alone.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace vh {

struct Command {
    std::vector<std::string> argv;  ///< argv[0] is looked for in PATH when it has no slash.
    std::chrono::milliseconds deadline{30'000};
    /// Time from SIGTERM to SIGKILL, for a program that has not ended by the deadline, or when `stop` becomes readable.
    std::chrono::milliseconds endTimeout{2'000};
    /// Time from SIGKILL until it is left alone: one that the kernel holds ends when the kernel lets it.
    std::chrono::milliseconds killTimeout{10'000};
    int stop = -1;  ///< Borrowed.
};

struct CommandResult {
    pid_t pid = 0;
    int status = 0;  ///< Exit status; 128 + N when signal N ended it.
    bool timedOut = false;
    /// The program has not ended, not even by SIGKILL: it does nothing more by itself, but keeps what it holds, locks too.
    bool left = false;
    std::string output;
    std::string errors;

    bool ok() const { return status == 0 && !timedOut && !left; }
    /// The end in words: `exit status 3: what it wrote last on its standard error`.
    std::string describe() const;
};

/// Starts a program in a process group of its own, so that a Ctrl-C is ours to pass on, and waits for its end, or until all its
/// deadlines have passed. Throws std::system_error when it cannot be started.
CommandResult run(const Command& command);

struct DetachedCommand {
    std::string program;
    std::vector<std::string> argv;
    std::vector<std::string> environment;
    std::string directory = "/";
    std::map<int, int> descriptors;  ///< Number in the program -> ours. Standard streams that are not here are /dev/null.
};

/// Starts a program in a session of its own and leaves it alone. Throws std::system_error when it cannot be started.
pid_t startDetached(const DetachedCommand& command);

}  // namespace vh
