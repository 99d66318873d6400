#include "manager/service/event_log.h"

#include <syslog.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <glib.h>

#include "vmm-shim/terminal_text.h"
#include "vmm-shim/text.h"
#include "vmm-shim/thread.h"

namespace vh {
namespace {

constexpr std::size_t mostWaiting = 1'000;

int priorityOf(const HandoverReport& report) {
    if (report.outcome == State::Lost || report.silent) return LOG_ERR;
    if (report.outcome == State::RolledBack || report.oldVmmLeft) return LOG_WARNING;
    return report.outcome == State::Upgraded ? LOG_NOTICE : LOG_INFO;
}

}  // namespace

LogEntry logEntryOf(const HandoverReport& report) {
    LogEntry entry{priorityOf(report), "vm '" + report.vm + "': ", {}};
    if (report.recovery && report.outcome != State::Lost) entry.text += "what an earlier manager left half done is settled: ";
    entry.text += report.outcomeText();
    const auto add = [&entry](const char* field, const std::string& value, const std::string& words = {}) {
        if (value.empty() || value == "0") return;
        entry.fields[std::string("VIRT_HANDOVER_") + field] = value;
        if (!words.empty()) entry.text += words + value;
    };
    add("VM", report.vm);
    add("OUTCOME", std::string(report.outcomeText()));
    add("RECOVERY", report.recovery ? "1" : "");
    add("DESIGN", report.design ? std::string(name(*report.design)) : "", ", design ");
    if (report.stopToResumeMs) {
        add("PAUSE_MS", fixed(*report.stopToResumeMs, 1));
        entry.text += ", paused " + fixed(*report.stopToResumeMs, 1) + " ms";
    }
    add("OLD_VERSION", report.old.version);
    add("OLD_PID", std::to_string(report.old.pid), ", old pid ");
    add("NEW_VERSION", report.new_.version);
    add("NEW_PID", std::to_string(report.new_.pid), ", new pid ");
    add("OLD_VMM_LEFT", report.oldVmmLeft ? "1" : "");
    if (report.oldVmmLeft) entry.text += "; the old VMM does not end";
    add("CAUSE", report.cause, "; cause: ");
    add("REMEDY", report.remedy, "; remedy: ");
    return entry;
}

bool tellJournal(const char* program, const LogEntry& entry) {
    const std::string priority = std::to_string(entry.priority);
    std::vector<GLogField> fields{
        {"MESSAGE", entry.text.c_str(), -1}, {"PRIORITY", priority.c_str(), -1}, {"SYSLOG_IDENTIFIER", program, -1}};
    for (const auto& [field, value] : entry.fields) fields.push_back({field.c_str(), value.c_str(), -1});
    // The level that GLib is told is not used: the priority is in the fields, and G_LOG_LEVEL_ERROR would end the process.
    return g_log_writer_journald(G_LOG_LEVEL_MESSAGE, fields.data(), fields.size(), nullptr) == G_LOG_WRITER_HANDLED;
}

namespace {

void writeLine(const char* program, const LogEntry& entry) {
    if (g_log_writer_is_journald(STDERR_FILENO) && tellJournal(program, entry)) return;
    // Not by a stream: who writes by that has its lock, for which the end of the program would wait.
    const std::string line = std::string(program) + ": " + forTerminal(entry.text) + "\n";
    for (std::size_t at = 0; at < line.size();) {
        const ssize_t written = ::write(STDERR_FILENO, line.data() + at, line.size() - at);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return;
        at += static_cast<std::size_t>(written);
    }
}

}  // namespace

struct ServiceLog::Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<LogEntry> entries;  ///< The first is the one that is being written.
    std::size_t lost = 0;
    bool isClosed = false;

    LogEntry tellLost() {
        return {LOG_WARNING, "lines that nobody read, and that are lost: " + std::to_string(std::exchange(lost, 0)), {}};
    }
};

ServiceLog::ServiceLog(const char* program) : queue_(std::make_shared<Queue>()) {
    // Detached: a write that does not return must not keep the service from its end.
    threadWithoutSignals([queue = queue_, program] {
        std::unique_lock guard(queue->mutex);
        for (;;) {
            queue->changed.wait(guard, [&] { return !queue->entries.empty() || queue->isClosed; });
            if (queue->entries.empty()) return;
            const LogEntry entry = queue->entries.front();
            guard.unlock();
            writeLine(program, entry);
            guard.lock();
            queue->entries.pop_front();
            if (queue->entries.empty() && queue->lost > 0) queue->entries.push_back(queue->tellLost());
            queue->changed.notify_all();
        }
    }).detach();
}

ServiceLog::~ServiceLog() {
    std::unique_lock guard(queue_->mutex);
    queue_->changed.wait_for(guard, std::chrono::seconds(2), [this] { return queue_->entries.empty(); });
    queue_->isClosed = true;
    queue_->changed.notify_all();
}

void ServiceLog::tell(LogEntry entry) {
    const std::lock_guard guard(queue_->mutex);
    // What a person is needed for is not what is lost: there is little of it.
    if (queue_->entries.size() >= mostWaiting && entry.priority > LOG_ERR) {
        ++queue_->lost;
        return;
    }
    if (queue_->lost > 0) queue_->entries.push_back(queue_->tellLost());
    queue_->entries.push_back(std::move(entry));
    queue_->changed.notify_all();
}

}  // namespace vh
