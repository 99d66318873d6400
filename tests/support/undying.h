// A process that SIGKILL does not end, as one whose last system call the kernel does not finish: a tracer of ours holds it where
// it exits (PTRACE_EVENT_EXIT), with all its memory and files. It never returns to user mode.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include <gtest/gtest.h>

#include "vmm-shim/unique_fd.h"

namespace vh {

class Undying {
 public:
    /// Another process of one thread, or its leader, from now on. A process of its own traces it, or else a wait for the traced
    /// one by its parent would see the tracer's stops.
    explicit Undying(pid_t pid) {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) return;
        UniqueFd told(ends[0]), tell(ends[1]);
        tracer_ = ::fork();
        if (tracer_ == 0) {
            // Locks of VMs, for one, are held as long as somebody has them open.
            if (tell.get() > 3) ::close_range(3, static_cast<unsigned>(tell.get()) - 1, 0);
            ::close_range(static_cast<unsigned>(tell.get()) + 1, ~0U, 0);
            const char error = ::ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACEEXIT) == 0 ? 0 : static_cast<char>(errno);
            (void)!::write(tell.get(), &error, 1);
            letLiveUntilItExits(pid);
            for (;;) ::pause();
        }
        tell.reset();
        char error = EPIPE;
        (void)!::read(told.get(), &error, 1);
        EXPECT_EQ(error, 0) << "trace pid " << pid << ": " << std::strerror(error);
    }
    Undying(const Undying&) = delete;
    ~Undying() { release(); }

    /// With its tracer gone, it ends as it was told to.
    void release() {
        if (tracer_ <= 0) return;
        ::kill(tracer_, SIGKILL);
        ::waitpid(tracer_, nullptr, 0);
        tracer_ = 0;
    }

 private:
    /// A traced process stops at each signal, ignored ones included, until its tracer says how it goes on.
    static void letLiveUntilItExits(pid_t pid) {
        int status = 0;
        while (::waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
            const int event = status >> 16;
            if (event == PTRACE_EVENT_EXIT) return;
            if (event == PTRACE_EVENT_STOP)
                ::ptrace(PTRACE_LISTEN, pid, nullptr, nullptr);
            else
                ::ptrace(PTRACE_CONT, pid, nullptr, static_cast<long>(WSTOPSIG(status)));
        }
    }

    pid_t tracer_ = 0;
};

}  // namespace vh
