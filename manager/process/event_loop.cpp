#include "manager/process/event_loop.h"

#include <signal.h>

#include <exception>

#include <glib-unix.h>

namespace vh {
namespace {

using Callback = std::function<void()>;

void guarded(const Callback& callback) {
    try {
        callback();
    } catch (const std::exception& error) {
        g_critical("defect: an exception reached the main loop: %s", error.what());
    }
}

struct Target {
    Callback callback;
    bool once;
};

gboolean dispatch(gpointer data) {
    // A copy: the callback may reset its own source, which frees the original under its feet.
    const Target target = *static_cast<Target*>(data);
    guarded(target.callback);
    return target.once ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

gboolean dispatchFd(gint, GIOCondition, gpointer data) {
    return dispatch(data);
}

void freeTarget(gpointer data) {
    delete static_cast<Target*>(data);
}

}  // namespace

EventSource::EventSource(GSource* source, GSourceFunc trampoline, Callback callback, bool once) : source_(source) {
    g_source_set_callback(source_, trampoline, new Target{std::move(callback), once}, freeTarget);
    g_source_attach(source_, nullptr);
}

EventSource& EventSource::operator=(EventSource&& other) noexcept {
    if (this != &other) {
        reset();
        source_ = std::exchange(other.source_, nullptr);
    }
    return *this;
}

void EventSource::reset() {
    if (!source_) return;
    GSource* source = std::exchange(source_, nullptr);
    g_source_destroy(source);
    g_source_unref(source);
}

EventSource EventSource::soon(Callback callback) {
    GSource* idle = g_idle_source_new();
    g_source_set_priority(idle, G_PRIORITY_DEFAULT);
    return EventSource(idle, dispatch, std::move(callback), true);
}

EventSource EventSource::after(std::chrono::milliseconds delay, Callback callback) {
    return EventSource(g_timeout_source_new(static_cast<guint>(delay.count())), dispatch, std::move(callback), true);
}

EventSource EventSource::readable(int fd, Callback callback) {
    return EventSource(g_unix_fd_source_new(fd, static_cast<GIOCondition>(G_IO_IN | G_IO_HUP | G_IO_ERR)),
                       G_SOURCE_FUNC(dispatchFd), std::move(callback), false);
}

EventSource EventSource::writable(int fd, Callback callback) {
    return EventSource(g_unix_fd_source_new(fd, G_IO_OUT), G_SOURCE_FUNC(dispatchFd), std::move(callback), false);
}

EventSource EventSource::unixSignal(int signal, Callback callback) {
    return EventSource(g_unix_signal_source_new(signal), dispatch, std::move(callback), false);
}

EventSource EventSource::hangUp(Callback callback) {
    struct sigaction inherited {};
    const bool isIgnored = ::sigaction(SIGHUP, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN;
    return isIgnored ? EventSource() : unixSignal(SIGHUP, std::move(callback));
}

void turnUntil(const std::function<bool()>& happened) {
    while (!happened()) g_main_context_iteration(nullptr, TRUE);
}

}  // namespace vh
