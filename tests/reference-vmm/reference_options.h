// The reference VMM's command line: QEMU's, as far as a manager writes it, and the faults that a test asks for.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vh {

/// Where something may go wrong on demand; reference_vmm.h says when each is reached.
enum class Step {
    Start,
    CprSent,
    CprReceived,
    Monitor,
    Verify,
    Migrate,
    Incoming,
    HangUp,
    StreamBegin,
    StreamMiddle,
    StreamEnd,
    Completed,
    Cont,
    Quit,
};

enum class Action {
    None,
    Die,
    Exit,
    Hang,
    Slow,
    Garbage,
    Lie,
    Drop,
    Rename,
    Swap,
    Replace,
    Truncate,
    Trailing,
    BadServiceByte,
    MissingDescriptor,
};

struct Fault {
    Step step = Step::Start;
    unsigned visit = 0;  ///< The fault happens on this visit of its step; 0 for every one.
    Action action = Action::None;
    std::uint64_t number = 0;  ///< Of `exit:N` and its like.
    std::string names;         ///< Of `drop:NAME`, `swap:A:B` and theirs.
    std::string text;          ///< As it was written.
};

/// A character device on a unix socket that was inherited.
struct SocketChardev {
    int fd = -1;
    bool listens = false;
};

struct MemoryBackend {
    std::string id;
    std::string type;  ///< `memory-backend-file` or `memory-backend-memfd`.
    std::string path;  ///< Of a file.
    std::uint64_t size = 0;
    bool shared = true;
};

struct ReferenceOptions {
    std::string standsFor = "11.1";
    std::string machine;  ///< `none` when only questions are to be answered.
    std::optional<MemoryBackend> memory;
    bool auxRamShare = false;
    bool startPaused = false;
    bool incoming = false;
    std::string cprPath;  ///< Where to listen for CPR state; empty for none.
    std::optional<SocketChardev> monitor, console, heartbeat;
    std::uint64_t vramBytes = 4 << 20;
    unsigned beatsPerSecond = 100;
    std::int64_t clockAheadSeconds = 0;  ///< Of the wall clock by which its events tell their time.
    unsigned queuedBeats = 0;            ///< Sent at `cont` whether the guest runs or not.
    unsigned silentConnections = 0;      ///< The first ones to the heartbeat port: no line of the guest gets through to them.
    std::vector<Fault> faults;
    std::map<std::string, std::string> answers;  ///< To commands, whatever comes of them; JSON.
};

/// Throws std::invalid_argument that names the option. What QEMU knows and the reference VMM has no use for is passed over.
ReferenceOptions parseReferenceOptions(const std::vector<std::string>& arguments);

/// The machine types of the QEMU that is stood in for; the second is an alias's name, or empty.
const std::vector<std::pair<std::string, std::string>>& machinesOf(const std::string& standsFor);

/// Which faults are due.
class Faults {
 public:
    explicit Faults(std::vector<Fault> faults) : faults_(std::move(faults)) {}

    /// Counts a visit of the step.
    Fault dueAt(Step step);

 private:
    std::vector<Fault> faults_;
    std::map<Step, unsigned> visits_;
};

}  // namespace vh
