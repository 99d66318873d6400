// Threads beside the main one.
#pragma once

#include <signal.h>

#include <thread>
#include <utility>

namespace vh {

/// Starts a thread that gets no signals: they are for the main thread, which waits for them. Throws std::system_error when there
/// can be none.
template <class Work>
std::jthread threadWithoutSignals(Work&& work) {
    struct SignalsBlocked {  // A thread begins with those blocked that are blocked where it is started.
        SignalsBlocked() {
            sigset_t all;
            ::sigfillset(&all);
            ::pthread_sigmask(SIG_SETMASK, &all, &before);
        }
        SignalsBlocked(const SignalsBlocked&) = delete;
        ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before, nullptr); }
        sigset_t before{};
    };
    const SignalsBlocked here;
    return std::jthread(std::forward<Work>(work));
}

}  // namespace vh
