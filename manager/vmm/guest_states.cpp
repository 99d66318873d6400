#include "manager/vmm/guest_states.h"

#include <chrono>
#include <exception>
#include <utility>

namespace vh {
namespace {

constexpr std::chrono::milliseconds timeout{1'000};
/// Each takes a descriptor, and a process has 1024 of them where nobody has raised that.
constexpr std::size_t atOnce = 256;

}  // namespace

GuestStates::GuestStates(std::vector<Question> questions, Done done)
    : questions_(std::move(questions)),
      done_(std::move(done)),
      states_(questions_.size(), "no answer"),
      vmms_(questions_.size()) {
    begin_ = EventSource::after(std::chrono::milliseconds(0), [this] { askMore(); });
}

void GuestStates::askMore() {
    while (next_ < questions_.size() && underWay_ < atOnce) ask(next_++);
    if (underWay_ == 0 && next_ == questions_.size() && done_) std::exchange(done_, nullptr)(std::move(states_));
}

void GuestStates::ask(std::size_t index) {
    try {
        vmms_[index] = std::make_unique<VmmProcess>(questions_[index].vmm, questions_[index].directory);
        vmms_[index]->monitor().execute("query-status", nullptr, timeout,
                                        [this, index](const QmpReply& reply) { take(index, reply.text("status")); });
        ++underWay_;
    } catch (const std::exception&) {
        vmms_[index].reset();  // Its monitor is gone, or we have no descriptor left.
    }
}

void GuestStates::take(std::size_t index, std::string state) {
    if (!state.empty()) states_[index] = std::move(state);
    vmms_[index].reset();
    --underWay_;
    askMore();
}

}  // namespace vh
