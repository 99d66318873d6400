#include "manager/service/dbus_service.h"

#include <manager_interface.h>  // Generated.
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>

#include "manager/record/vm_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using std::chrono::milliseconds;

gboolean isWelcome(GDBusAuthObserver*, GIOStream*, GCredentials* peer, gpointer) {
    if (!peer) return FALSE;
    const uid_t uid = g_credentials_get_unix_user(peer, nullptr);
    return uid == 0 || uid == ::geteuid();
}

std::string stringOf(GVariant* options, const char* key) {
    const char* text = nullptr;
    g_variant_lookup(options, key, "&s", &text);
    return text ? text : "";
}

bool boolOf(GVariant* options, const char* key) {
    gboolean value = FALSE;
    g_variant_lookup(options, key, "b", &value);
    return value == TRUE;
}

}  // namespace

std::string otherVersion(const std::string& whose, const std::string& version) {
    return whose + " is of another version than virt-handoverd" + (version.empty() ? "" : ", which is " + version) +
           ": each would misread the other, so nothing was asked for and nothing was touched. Restart virt-handoverd, so "
           "that what is installed runs (no VM notices that), and use the virt-handover that was installed with it";
}

DbusService::DbusService(Verbs& verbs, const std::string& runtimeDirectory)
    : verbs_(verbs), socket_(managerSocket(runtimeDirectory)) {
    if (isListening(socket_)) throw std::runtime_error("another virt-handoverd listens on '" + socket_ + "'");
    ::unlink(socket_.c_str());
    char* guid = g_dbus_generate_guid();
    char* escaped = g_dbus_address_escape_value(socket_.c_str());
    const std::string address = std::string("unix:path=") + escaped;
    GDBusAuthObserver* authority = g_dbus_auth_observer_new();
    g_signal_connect(authority, "authorize-authenticated-peer", G_CALLBACK(isWelcome), nullptr);
    GError* error = nullptr;
    server_ = g_dbus_server_new_sync(address.c_str(), G_DBUS_SERVER_FLAGS_NONE, guid, authority, nullptr, &error);
    g_object_unref(authority);
    g_free(guid);
    g_free(escaped);
    if (!server_) {
        const std::string cause = error->message;
        g_error_free(error);
        throw std::runtime_error("listen on '" + socket_ + "': " + cause);
    }
    ::chmod(socket_.c_str(), 0600);
    g_signal_connect(server_, "new-connection",
                     G_CALLBACK(+[](GDBusServer*, GDBusConnection* connection, gpointer self) -> gboolean {
                         static_cast<DbusService*>(self)->serve(connection);
                         return TRUE;
                     }),
                     this);
    g_dbus_server_start(server_);
}

DbusService::~DbusService() {
    g_dbus_server_stop(server_);
    g_object_unref(server_);
    for (const auto& [connection, protocol] : connections_) {
        g_signal_handlers_disconnect_by_data(connection, this);
        g_dbus_connection_flush_sync(connection, nullptr, nullptr);  // An answer may have been the last thing to do.
        g_object_unref(connection);
    }
    ::unlink(socket_.c_str());
}

void DbusService::serve(GDBusConnection* connection) {
    static const GDBusInterfaceVTable table = {
        [](GDBusConnection* peer, const char*, const char*, const char*, const char* method, GVariant* arguments,
           GDBusMethodInvocation* invocation,
           gpointer self) { static_cast<DbusService*>(self)->handle(peer, method, arguments, invocation); },
        nullptr,
        nullptr,
        {}};
    connections_.emplace(static_cast<GDBusConnection*>(g_object_ref(connection)), 0);
    g_signal_connect(connection, "closed", G_CALLBACK(+[](GDBusConnection* closed, gboolean, GError*, gpointer self) {
                         if (static_cast<DbusService*>(self)->connections_.erase(closed) > 0) g_object_unref(closed);
                     }),
                     this);
    g_dbus_connection_register_object(connection, dbusPath,
                                      const_cast<GDBusInterfaceInfo*>(&org_virt_handover_manager1_interface), &table, this,
                                      nullptr, nullptr);
}

void DbusService::handle(GDBusConnection* connection, const std::string& method, GVariant* arguments,
                         GDBusMethodInvocation* invocation) {
    // GDBus checks the arguments' types against the interface before it calls. The invocation holds its connection, so a client
    // that goes away takes nothing with it: the verb goes on, and its answer is dropped.
    const Verbs::Done answer = [invocation](const VerbResult& result) {
        g_dbus_method_invocation_return_value(
            invocation, g_variant_new("(is)", static_cast<int>(result.code), jsonText(toJson(result)).c_str()));
    };
    if (method == "Hello") {
        g_variant_get(arguments, "(u)", &connections_[connection]);
        return g_dbus_method_invocation_return_value(invocation, g_variant_new("(us)", dbusProtocol, VH_VERSION));
    }
    if (method == "Ping") return g_dbus_method_invocation_return_value(invocation, nullptr);
    if (method != "List" && method != "Show" && method != "Console" && connections_[connection] != dbusProtocol)
        return answer({ExitCode::Unreachable, {{"error", otherVersion("this command", VH_VERSION)}}});
    const char* subject = "";
    if (g_variant_n_children(arguments) > 0) g_variant_get_child(arguments, 0, "&s", &subject);
    // The connection outlives its callers' interest in it: an upgrade that stands by goes on when they have gone.
    const std::shared_ptr<GDBusConnection> peer(static_cast<GDBusConnection*>(g_object_ref(connection)), g_object_unref);
    const Handover::Observer observer = [peer, vm = std::string(subject)](const HandoverProgress& step) {
        g_dbus_connection_emit_signal(peer.get(), nullptr, dbusPath, dbusInterface, "Progress",
                                      g_variant_new("(ssdiib)", vm.c_str(), std::string(name(step.state)).c_str(), step.atMs,
                                                    step.oldPid, step.newPid, step.stopped ? TRUE : FALSE),
                                      nullptr);
    };
    guint32 number = 0;
    // A name becomes a path: what is none goes no further.
    if (method != "Start" && method != "List" && !isVmName(subject))
        return answer({ExitCode::Usage, {{"error", noVmName(subject)}}});
    if (method == "Start") {
        g_variant_get_child(arguments, 1, "u", &number);
        verbs_.start(subject, number == 0 ? std::nullopt : std::optional(milliseconds(number)), answer);
    } else if (method == "Upgrade") {
        GVariant* values = g_variant_get_child_value(arguments, 1);
        UpgradeOptions options;
        options.binary = stringOf(values, "binary");
        const std::string design = stringOf(values, "design");
        options.design = designNamed(design);
        if (g_variant_lookup(values, "pause_budget_ms", "u", &number)) options.pauseBudget = milliseconds(number);
        options.dryRun = boolOf(values, "dry_run");
        options.standby = boolOf(values, "standby");
        g_variant_unref(values);
        if (!design.empty() && !options.design)
            return answer({ExitCode::Usage, {{"error", "there is no design '" + design + "'"}}});
        verbs_.upgrade(subject, options, observer, answer);
    } else if (method == "Commit") {
        verbs_.commit(subject, observer, answer);
    } else if (method == "Cancel") {
        verbs_.cancel(subject, answer);
    } else if (method == "Shutdown") {
        g_variant_get_child(arguments, 1, "u", &number);
        verbs_.shutdown(subject, milliseconds(number), answer);
    } else if (method == "Destroy") {
        verbs_.destroy(subject, answer);
    } else if (method == "List") {
        verbs_.list(answer);
    } else if (method == "Show") {
        verbs_.show(subject, answer);
    } else {
        verbs_.console(subject, answer);
    }
}

}  // namespace vh
