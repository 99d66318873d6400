// The manager's verbs on D-Bus: a private server on a unix socket, no bus daemon needed. The interface is in dbus_service.cpp, in
// D-Bus's own notation.
#pragma once

#include <set>
#include <string>

#include <gio/gio.h>

#include "manager/service/verbs.h"

namespace vh {

constexpr const char* dbusInterface = "org.virt_handover.Manager1";
constexpr const char* dbusPath = "/org/virt_handover/Manager1";

class DbusService {
 public:
    /// Listens. Serves root and the user it runs as; the kernel says who a peer is (SO_PEERCRED). Throws std::runtime_error, also
    /// when another daemon listens there already.
    DbusService(Verbs& verbs, const std::string& runtimeDirectory);
    DbusService(const DbusService&) = delete;
    ~DbusService();

 private:
    void serve(GDBusConnection* connection);
    void handle(GDBusConnection* connection, const std::string& method, GVariant* arguments, GDBusMethodInvocation* invocation);

    Verbs& verbs_;
    std::string socket_;
    GDBusNodeInfo* interface_ = nullptr;
    GDBusServer* server_ = nullptr;
    std::set<GDBusConnection*> connections_;
};

}  // namespace vh
