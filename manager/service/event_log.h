// Journal entries of a manager: one line for each handover and each recovery that it has ended, with fields to search by.
//
//     journalctl -u virt-handoverd -p err                 which VMs need a person
//     journalctl VIRT_HANDOVER_VM=web1                    all that was done to it, also without a daemon and for libvirt
//     journalctl VIRT_HANDOVER_OUTCOME=lost -o verbose    with cause, pids, design, pause
//
// GLib writes to the journal; there is no logger of our own. Only programs log, and only when something has become an event.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "manager/record/report.h"

namespace vh {

struct LogEntry {
    int priority;  ///< Priority of syslog(3), by what the reader should do: LOG_ERR asks for a person, LOG_WARNING for a look.
    std::string text;
    std::map<std::string, std::string> fields;
};

/// The entry of a handover or a recovery that has ended.
LogEntry logEntryOf(const HandoverReport& report);

/// Writes to the journal, and nowhere else: for a command, which says on its terminal how it ended. No journal, no entry.
bool tellJournal(const char* program, const LogEntry& entry);

/// The log of a service: entries go to the journal when standard error leads there, which would lose the fields; else each is a
/// line on standard error. They are written by a thread of its own, so that a reader who does not read stops no handover; what is
/// too much to wait is lost, and a line says how much that was.
class ServiceLog {
 public:
    explicit ServiceLog(const char* program);
    ServiceLog(const ServiceLog&) = delete;
    /// Gives what was told two seconds to be read.
    ~ServiceLog();

    void tell(LogEntry entry);

 private:
    struct Queue;
    std::shared_ptr<Queue> queue_;
};

}  // namespace vh
