#include "manager/service/dbus_client.h"

#include <memory>
#include <stdexcept>
#include <utility>

#include "manager/service/dbus_service.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// D-Bus carries UTF-8 and nothing else; a path may be anything. Throws std::invalid_argument.
GVariant* text(const std::string& value) {
    if (!g_utf8_validate(value.data(), static_cast<gssize>(value.size()), nullptr))
        throw std::invalid_argument("'" + value +
                                    "' is not UTF-8, and the manager can be asked in that only; rename it, or work without "
                                    "the manager: virt-handover --embed ...");
    return g_variant_new_string(value.c_str());
}

/// An answer of the manager, which may be of another version, or damaged.
VerbResult resultOf(int code, const char* answer) {
    json value = json::parse(answer, nullptr, false);
    const bool known = code >= static_cast<int>(ExitCode::Done) && code <= static_cast<int>(ExitCode::Unreachable);
    if (known && value.is_object()) return {static_cast<ExitCode>(code), std::move(value)};
    return {ExitCode::Unreachable,
            {{"error", "the manager gave an answer that is not understood (code " + std::to_string(code) +
                           "); is virt-handoverd of another version than this command?"}}};
}

}  // namespace

DbusClient::DbusClient(const std::string& runtimeDirectory) {
    const std::string socket = managerSocket(runtimeDirectory);
    char* escaped = g_dbus_address_escape_value(socket.c_str());
    const std::string address = std::string("unix:path=") + escaped;
    g_free(escaped);
    GError* error = nullptr;
    connection_ = g_dbus_connection_new_for_address_sync(address.c_str(), G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, nullptr,
                                                         nullptr, &error);
    if (connection_) return;
    const std::string cause = error->message;
    g_error_free(error);
    throw Unreachable("the manager cannot be reached: " + cause +
                      "; start virt-handoverd, or work without it: virt-handover --embed ...");
}

DbusClient::~DbusClient() {
    g_object_unref(connection_);
}

void DbusClient::call(const char* method, GVariant* arguments, Done done) {
    g_dbus_connection_call(
        connection_, nullptr, dbusPath, dbusInterface, method, arguments, G_VARIANT_TYPE("(is)"), G_DBUS_CALL_FLAGS_NONE,
        G_MAXINT, nullptr,
        [](GObject* source, GAsyncResult* result, gpointer data) {
            const std::unique_ptr<Done> answer(static_cast<Done*>(data));
            GError* error = nullptr;
            GVariant* value = g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &error);
            if (!value) {
                const std::string cause = error->message;
                g_error_free(error);
                // What was asked for may have been done or not; a handover in the middle is settled by the next manager.
                return (*answer)({ExitCode::Unreachable, {{"error", "the manager went away before it answered: " + cause}}});
            }
            int code = 0;
            const char* object = "";
            g_variant_get(value, "(i&s)", &code, &object);
            (*answer)(resultOf(code, object));
            g_variant_unref(value);
        },
        new Done(std::move(done)));
}

void DbusClient::start(const std::string& what, std::optional<milliseconds> waitHeartbeat, Done done) {
    call("Start", g_variant_new("(@su)", text(what), static_cast<guint32>(waitHeartbeat.value_or(milliseconds(0)).count())),
         std::move(done));
}

void DbusClient::callObserved(const char* method, GVariant* arguments, Handover::Observer observer, Done done) {
    const guint subscription = g_dbus_connection_signal_subscribe(
        connection_, nullptr, dbusInterface, "Progress", dbusPath, nullptr, G_DBUS_SIGNAL_FLAGS_NONE,
        [](GDBusConnection*, const char*, const char*, const char*, const char*, GVariant* values, gpointer data) {
            guint32 state = 0;
            HandoverProgress step{};
            gboolean stopped = FALSE;
            g_variant_get(values, "(&sudiib)", nullptr, &state, &step.atMs, &step.oldPid, &step.newPid, &stopped);
            step.stopped = stopped == TRUE;
            step.state = static_cast<State>(state);
            if (state < stateCount) (*static_cast<Handover::Observer*>(data))(step);
        },
        new Handover::Observer(std::move(observer)), [](gpointer data) { delete static_cast<Handover::Observer*>(data); });
    call(method, arguments, [this, subscription, done = std::move(done)](const VerbResult& result) {
        g_dbus_connection_signal_unsubscribe(connection_, subscription);
        done(result);
    });
}

void DbusClient::upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) {
    GVariantBuilder values;
    g_variant_builder_init(&values, G_VARIANT_TYPE_VARDICT);
    const auto add = [&values](const char* key, GVariant* value) { g_variant_builder_add(&values, "{sv}", key, value); };
    if (!options.binary.empty()) add("binary", text(options.binary));
    if (options.design) add("design", text(std::string(name(*options.design))));
    if (options.pauseBudget) add("pause_budget_ms", g_variant_new_uint32(static_cast<guint32>(options.pauseBudget->count())));
    if (options.dryRun) add("dry_run", g_variant_new_boolean(TRUE));
    if (options.standby) add("standby", g_variant_new_boolean(TRUE));
    callObserved("Upgrade", g_variant_new("(@sa{sv})", text(vm), &values), std::move(observer), std::move(done));
}

void DbusClient::commit(const std::string& vm, Handover::Observer observer, Done done) {
    callObserved("Commit", g_variant_new("(@s)", text(vm)), std::move(observer), std::move(done));
}
void DbusClient::cancel(const std::string& vm, Done done) {
    call("Cancel", g_variant_new("(@s)", text(vm)), std::move(done));
}

void DbusClient::shutdown(const std::string& vm, milliseconds timeout, Done done) {
    call("Shutdown", g_variant_new("(@su)", text(vm), static_cast<guint32>(timeout.count())), std::move(done));
}

void DbusClient::destroy(const std::string& vm, Done done) {
    call("Destroy", g_variant_new("(@s)", text(vm)), std::move(done));
}
void DbusClient::list(Done done) {
    call("List", nullptr, std::move(done));
}
void DbusClient::show(const std::string& vm, Done done) {
    call("Show", g_variant_new("(@s)", text(vm)), std::move(done));
}
void DbusClient::console(const std::string& vm, Done done) {
    call("Console", g_variant_new("(@s)", text(vm)), std::move(done));
}

}  // namespace vh
