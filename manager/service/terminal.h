// Output of the command line on a terminal: answers, a handover's progress, and a VM's console.
#pragma once

#include <functional>
#include <ostream>
#include <string>

#include <nlohmann/json.hpp>

#include "manager/handover/handover.h"

namespace vh {

/// Writes a line a state, with the time it took once it is over; coloured on a terminal only. Nothing is written while the guest
/// may be stopped: a terminal that does not take its output (Ctrl-S, a full pipe) would keep it stopped.
class ProgressPrinter {
 public:
    explicit ProgressPrinter(std::ostream& out);
    void show(const HandoverProgress& step);
    /// Ends the line of the last state.
    void end(double atMs);

 private:
    void closeLine(double atMs);
    void flush();

    std::ostream& out_;
    std::string pending_;
    bool colour_ = false;
    bool open_ = false;
    double startedMs_ = 0;
};

/// Connects the terminal to a console socket until Ctrl-] or the end of the VM, and follows the VM to its next VMM. `whereNow`
/// gives the socket's path, or nothing when the VM is gone. Returns an exit code.
int runConsole(const std::string& vm, const std::function<std::string()>& whereNow);

// The answers of `start`, `list`, `show` and the verbs that only say a state, for people. What a daemon has said may be anything.
std::string startedText(const nlohmann::json& value);
std::string listText(const nlohmann::json& value);
std::string showText(const nlohmann::json& value);
std::string stateText(const nlohmann::json& value);
/// A line for each of an answer's warnings.
std::string warningsText(const nlohmann::json& value);

}  // namespace vh
