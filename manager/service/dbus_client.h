// The manager's verbs, asked of virt-handoverd on its private socket.
#pragma once

#include <stdexcept>
#include <string>

#include <gio/gio.h>

#include "manager/service/verbs.h"

namespace vh {

/// The daemon is not there, or does not let us in.
class Unreachable : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

class DbusClient : public Verbs {
 public:
    /// Connects at once. Throws Unreachable.
    explicit DbusClient(const std::string& runtimeDirectory);
    DbusClient(const DbusClient&) = delete;
    ~DbusClient() override;

    void start(const std::string& what, std::optional<std::chrono::milliseconds> waitHeartbeat, Done done) override;
    void upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) override;
    void commit(const std::string& vm, Handover::Observer observer, Done done) override;
    void cancel(const std::string& vm, Done done) override;
    void shutdown(const std::string& vm, std::chrono::milliseconds timeout, Done done) override;
    void destroy(const std::string& vm, Done done) override;
    void list(Done done) override;
    void show(const std::string& vm, Done done) override;
    void console(const std::string& vm, Done done) override;

 private:
    /// Calls a method whose answer is (code, JSON text); takes the floating `arguments`.
    void call(const char* method, GVariant* arguments, Done done);

    void callObserved(const char* method, GVariant* arguments, Handover::Observer observer, Done done);

    GDBusConnection* connection_ = nullptr;
};

}  // namespace vh
