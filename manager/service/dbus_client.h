// The manager's verbs, asked of virt-handoverd on its private socket.
#pragma once

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <gio/gio.h>

#include "manager/service/verbs.h"

namespace vh {

/// The daemon cannot be asked: it does not answer, or is of another version.
class Unreachable : public std::runtime_error {
    using std::runtime_error::runtime_error;
};
/// No daemon is there, or it does not let us in.
class NotThere : public Unreachable {
    using Unreachable::Unreachable;
};

class DbusClient : public Verbs {
 public:
    /// Time that a daemon may be silent which should answer at once, and interval at which one that is at work is asked whether
    /// it lives.
    struct Timeouts {
        std::chrono::milliseconds answer{15'000};
        std::chrono::milliseconds ping{3'000};
    };

    /// Connects at once. Throws Unreachable.
    explicit DbusClient(const std::string& runtimeDirectory) : DbusClient(runtimeDirectory, Timeouts()) {}
    DbusClient(const std::string& runtimeDirectory, Timeouts timeouts);
    DbusClient(const DbusClient&) = delete;
    ~DbusClient() override;

    void start(const std::string& what, std::optional<std::chrono::milliseconds> waitHeartbeat, Done done) override;
    void upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) override;
    void commit(const std::string& vm, Handover::Observer observer, Done done) override;
    void cancel(const std::string& vm, Done done) override;
    void shutdown(const std::string& vm, std::chrono::milliseconds timeout, Done done) override;
    void destroy(const std::string& vm, Done done) override;
    void list(Done done) override { call("List", nullptr, Answer::AtOnce, std::move(done)); }
    void show(const std::string& vm, Done done) override;
    void console(const std::string& vm, Done done) override;

 private:
    struct Call;
    /// Time of a method's answer: as soon as the daemon has looked, when it is done, or then and by a report.
    enum class Answer { AtOnce, Later, Report };

    void connect(const std::string& socket);
    /// Exchanges protocol versions with the daemon.
    void sayHello();
    /// Calls a method whose answer is (code, JSON text); takes the floating `arguments`.
    void call(const char* method, GVariant* arguments, Answer when, Done done);
    /// Gives a call up when the daemon is silent.
    void pingLater(const std::shared_ptr<Call>& call);
    void callObserved(const char* method, GVariant* arguments, Handover::Observer observer, Done done);

    const Timeouts timeouts_;
    GDBusConnection* connection_ = nullptr;
};

}  // namespace vh
