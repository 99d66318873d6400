// The states of many VMs' guests, by their VMMs' own word, asked of all at once: one that is silent costs its deadline and no
// other's.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "manager/process/event_loop.h"
#include "manager/vmm/vmm_process.h"

namespace vh {

class GuestStates {
 public:
    struct Question {
        VmmRecord vmm;
        std::string directory;
    };
    /// A state for each question: QEMU's own word (`running`, `paused`, `io-error`, ...), or `no answer`.
    using Done = std::function<void(std::vector<std::string> states)>;

    /// Asks the VMMs, whose monitors must be free: they serve one client at a time. Calls `done` from the main loop, once.
    GuestStates(std::vector<Question> questions, Done done);

    bool isAnswered() const { return !done_; }

 private:
    void askMore();
    void ask(std::size_t index);
    void take(std::size_t index, std::string state);

    std::vector<Question> questions_;
    Done done_;
    std::vector<std::string> states_;
    std::vector<std::unique_ptr<VmmProcess>> vmms_;
    std::size_t next_ = 0;
    std::size_t underWay_ = 0;
    EventSource begin_;
};

}  // namespace vh
