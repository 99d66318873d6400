// Refusals of what was asked for, and what a person can do about them.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

namespace vh {

/// A reason why nothing is done, as why a VM cannot be handed over as it runs.
struct Obstacle {
    std::string what;    ///< `the TPM 'tpm0' is emulated by swtpm, which has its own process`.
    std::string remedy;  ///< Step for a person to take; empty when there is none to give.

    /// Both, where there is one line for them.
    std::string text() const { return what + (remedy.empty() ? "" : "; " + remedy); }
    bool operator==(const Obstacle&) const = default;
};

/// An obstacle that is thrown; what() is its `what`.
class Refusal : public std::runtime_error {
 public:
    explicit Refusal(Obstacle obstacle) : std::runtime_error(obstacle.what), obstacle_(std::move(obstacle)) {}
    const Obstacle& obstacle() const { return obstacle_; }

 private:
    Obstacle obstacle_;
};

/// What an exception says; with a remedy when it is a refusal.
inline Obstacle obstacleOf(const std::exception& error) {
    const auto* refusal = dynamic_cast<const Refusal*>(&error);
    return refusal ? refusal->obstacle() : Obstacle{error.what(), ""};
}

}  // namespace vh
