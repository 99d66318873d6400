// The guarded door to GLib's main loop: sources as owned objects whose callbacks may throw.
//
// An exception that crosses GLib's C frames ends the source without a word (or the process); each callback here catches, says
// what was thrown on stderr as a defect of ours, and keeps the loop alive. Code that can fail for reasons of the outside world
// handles that itself and never relies on this door.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include <glib.h>

namespace vh {

/// A source on the default main context, removed when this goes away, also from within its own callback.
class EventSource {
 public:
    EventSource() = default;
    EventSource(EventSource&& other) noexcept : source_(std::exchange(other.source_, nullptr)) {}
    EventSource& operator=(EventSource&& other) noexcept;
    ~EventSource() { reset(); }

    /// Calls once, from the main loop's next turn: for leaving a deep stack. Whoever answers so keeps this beside what `callback`
    /// uses, so that nobody is answered by what is gone.
    static EventSource soon(std::function<void()> callback);
    /// Calls once after `delay`; the source is gone by then.
    static EventSource after(std::chrono::milliseconds delay, std::function<void()> callback);
    /// Calls whenever the descriptor can be read, has hung up or failed, until reset. Borrows the descriptor.
    static EventSource readable(int fd, std::function<void()> callback);
    /// Calls whenever the descriptor can be written to, likewise.
    static EventSource writable(int fd, std::function<void()> callback);
    /// Calls whenever a Unix signal arrives, as g_unix_signal_add() allows them.
    static EventSource unixSignal(int signal, std::function<void()> callback);
    /// SIGHUP, the end of the terminal; nothing in a process that was started to outlive that, as nohup(1) does.
    static EventSource hangUp(std::function<void()> callback);

    void reset();

 private:
    EventSource(GSource* source, GSourceFunc trampoline, std::function<void()> callback, bool once);
    GSource* source_ = nullptr;
};

/// Turns the main loop until something has happened: for a program that waits for one thing after the other. What it waits for
/// has to have a deadline: a timer, or a command's.
void turnUntil(const std::function<bool()>& happened);

}  // namespace vh
