// The manager's verbs on D-Bus: a private server on a unix socket, no bus daemon needed. The interface is in
// org.virt_handover.Manager1.xml, from which gdbus-codegen makes what GDBus checks calls against. It makes no more of it: its
// proxies and skeletons would have a function of each method's own where one serves all here, since all answers are alike.
#pragma once

#include <map>
#include <string>

#include <gio/gio.h>

#include "manager/service/verbs.h"

namespace vh {

constexpr const char* dbusInterface = "org.virt_handover.Manager1";
constexpr const char* dbusPath = "/org/virt_handover/Manager1";
/// Protocol that both sides of a connection must have in common. 1 had no Hello, and numbers for states.
constexpr guint32 dbusProtocol = 2;

/// The message about sides of other versions; `version` is the manager's, where it has said that.
std::string otherVersion(const std::string& whose, const std::string& version);

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
    GDBusServer* server_ = nullptr;
    std::map<GDBusConnection*, guint32> connections_;  ///< Connections, with the protocol of each; 0 before it has said so.
};

}  // namespace vh
