// The abilities of a VMM binary, found out by asking it: it is started without a machine, as unprivileged as a VM would be, and
// ended.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/obstacle.h"
#include "manager/process/child_process.h"
#include "manager/vmm/qmp_client.h"

namespace vh {

struct VmmBinary {
    std::string path;
    std::string kind;     ///< See vmmKind().
    std::string version;  ///< `11.1.3`
    int majorVersion = 0;
    std::set<std::string> machines;
    std::map<std::string, std::string> aliases;  ///< `q35` -> `pc-q35-11.1`
    std::set<std::string> missingModels;         ///< Models that were asked for and are not there.
};

class BinaryProbe {
 public:
    struct Question {
        std::string path;
        Identity identity;
        std::vector<std::string> deviceModels;  ///< Device models that must be there.
        std::chrono::milliseconds deadline{10'000};
    };
    /// No problem when the binary answered, else a sentence part such as `'/bin/true' is not a working QEMU: it exited with ...`.
    using Answer = std::function<void(VmmBinary, std::optional<Obstacle> problem)>;

    /// Answers from the main loop, once; the process has been killed by then. Destroying the probe ends it without an answer.
    BinaryProbe(Question question, Answer answer);
    ~BinaryProbe();

 private:
    void ask();
    void askModels(std::size_t index);
    void finish(std::optional<Obstacle> problem);
    Question question_;
    Answer answer_;
    VmmBinary binary_;
    UniqueFd log_;
    ChildProcess process_;
    std::unique_ptr<QmpClient> monitor_;
    EventSource deadline_;
};

}  // namespace vh
