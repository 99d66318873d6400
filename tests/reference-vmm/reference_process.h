// The reference VMM's process: one loop that serves the monitor and the ports, lets the guest count, and migrates it.
//
// Everything waits in poll() but two things that come before there is a monitor, as in QEMU: `slow` at the first steps, and the
// CPR state.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/reference-vmm/reference_guest.h"
#include "tests/reference-vmm/reference_options.h"
#include "tests/reference-vmm/reference_stream.h"
#include "vmm-shim/cpr_channel.h"
#include "vmm-shim/unique_fd.h"
#include "vmm-shim/unix_socket.h"

namespace vh {

/// What ends the process, or stops it, at once; other actions are the step's own.
void actFinally(const Fault& fault);

/// Bytes that are no text, no JSON, and the same in each run.
std::string noise(std::size_t length);

void waitFor(int fd, short events);

/// One client at a time on a socket that was inherited, as QEMU's socket chardev has it.
struct SocketPort {
    SocketPort() = default;
    explicit SocketPort(const SocketChardev& chardev);
    void accept();

    UniqueFd listener, client;
    unsigned connections = 0;  ///< So far.
};

struct MigrationChannels {
    std::string main;   ///< A unix path.
    int mainFile = -1;  ///< Borrowed from a descriptor set.
    std::string cpr;
};

/// A migration that is under way from here.
struct OutgoingMigration {
    MigrationChannels channels;
    StreamSettings settings;
    UniqueFd cpr;
    std::optional<CprCapture> capture;
    std::optional<CprSender> sender;  ///< While the state has not gone out.
    Fault cprFault;
    UniqueFd main;
    std::string bytes;  ///< To be sent on main.
    std::function<void()> sent;
    bool awaitsAnswer = false;
    std::string answer;
};

/// A migration that is awaited, or under way, to here.
struct IncomingMigration {
    UniqueFd cpr;  ///< Its being closed lets the old VMM go ahead.
    std::optional<PathListener> listener;
    UniqueFd main;
    std::optional<IncomingStream> stream;
    bool busy = false;  ///< Nothing is read meanwhile.
    bool announced = false;
};

class ReferenceVmm {
 public:
    /// Takes the inherited sockets. Throws std::system_error.
    explicit ReferenceVmm(ReferenceOptions options);

    /// Serves until it is told to end.
    void run();

 private:
    using Clock = std::chrono::steady_clock;

    // The loop.

    struct Watch {
        int fd;
        short events;
        std::function<void()> ready;
    };
    struct Timer {
        Clock::time_point at;
        std::function<void()> call;
    };

    void turn();
    std::vector<Watch> watches();
    void after(std::uint64_t ms, std::function<void()> call);
    /// Goes on, at once or after what a `slow` asks for.
    void proceed(const Fault& fault, std::function<void()> then);
    /// A step that may be the last one.
    Fault reach(Step step);
    static void drain(SocketPort& port);

    // The monitor.

    void greet();
    void monitorReadable();
    void takeLines();
    void takeCommand(const nlohmann::json& request);
    void answer(const nlohmann::json& request, const Fault& first, const Fault& second);
    nlohmann::json execute(const std::string& command, const nlohmann::json& arguments, const Fault& fault);
    void say(nlohmann::json message) { output_ += message.dump() + "\n"; }
    void event(const std::string& name, nlohmann::json data = nullptr);
    void flushMonitor();
    void closeMonitor();
    nlohmann::json version() const;
    nlohmann::json queryMigrate() const;
    nlohmann::json machines() const;
    MigrationChannels channelsOf(const nlohmann::json& arguments) const;
    void addDescriptor(const nlohmann::json& arguments);

    // The guest.

    bool running() const { return runState_ == "running"; }
    void start();
    void stop(const std::string& runState);

    // Both sides of a migration.

    bool capability(const std::string& name) const { return capabilities_.value(name, false); }
    StreamSettings settings(bool cpr) const;
    void setStatus(const std::string& status);

    // From here.

    void migrate(const nlohmann::json& arguments);
    void sendCprState();
    void sendBrokenCprState();
    void sendCprSome();
    void hungUp();
    void connectMain();
    void sendMain(std::string bytes, std::function<void()> sent);
    void sendMainSome();
    void receiveAnswer();
    void stopForMigration();
    void sendRam();
    void sendDevice();
    void allSent();
    void completeOutgoing();
    void endOutgoing(const std::string& status, const std::string& description);
    /// Goes on if the migration is still the same.
    void proceedOutgoing(const Fault& fault, std::function<void()> then);

    // To here.

    CprCapture receiveCprState();
    void migrateIncoming(const nlohmann::json& arguments);
    void acceptMain();
    void beginIncoming();
    void readIncoming();
    void load();
    void completeIncoming(const Fault& fault);
    void answerOnReturnPath(std::uint32_t value);
    [[noreturn]] void failIncoming(const std::string& why);

    const ReferenceOptions options_;
    Faults faults_;
    SocketPort monitor_, console_, heartbeat_;
    std::vector<Timer> timers_;
    bool ended_ = false;

    std::string input_, output_;
    std::vector<UniqueFd> receivedFds_;
    bool negotiated_ = false;
    bool commanded_ = false;
    bool monitorBusy_ = false;
    unsigned clients_ = 0;
    std::map<std::int64_t, std::vector<UniqueFd>> fdsets_;

    std::optional<ReferenceGuest> guest_;
    std::string runState_ = "prelaunch";
    bool startWhenLoaded_ = false;
    bool frozen_ = false;  ///< The guest is said to run and does not.
    Clock::time_point nextTick_;

    nlohmann::json capabilities_ = nlohmann::json::object();
    nlohmann::json parameters_{{"mode", "normal"}, {"max-bandwidth", 134217728}, {"downtime-limit", 300}};
    std::string status_ = "none";
    std::string errorText_;
    std::uint64_t transferred_ = 0, copied_ = 0;
    Clock::time_point downtimeBegan_;
    std::chrono::milliseconds downtime_{};
    unsigned migrations_ = 0;
    std::optional<OutgoingMigration> outgoing_;
    std::optional<IncomingMigration> incoming_;
};

}  // namespace vh
