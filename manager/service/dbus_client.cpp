#include "manager/service/dbus_client.h"

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

/// An answer of the manager, which may be damaged.
VerbResult resultOf(int code, const char* answer, bool isReport) {
    try {
        json value = json::parse(answer);
        const bool known = code >= static_cast<int>(ExitCode::Done) && code <= static_cast<int>(ExitCode::Unreachable);
        if (!known || !value.is_object()) throw std::runtime_error("code " + std::to_string(code));
        if (isReport && !value.contains("error")) return {static_cast<ExitCode>(code), {}, handoverReportFromJson(value)};
        return {static_cast<ExitCode>(code), std::move(value)};
    } catch (const std::exception& error) {
        return {ExitCode::Unreachable,
                {{"error", std::string("virt-handoverd gave an answer that is not understood: ") + error.what() +
                               "; 'virt-handover show' says how the VM is now"}}};
    }
}

std::string takeText(GError* error) {
    std::string text = error->message;
    g_error_free(error);
    return text;
}

std::string frozen(milliseconds timeout) {
    return "virt-handoverd is there and has not answered for " + std::to_string(timeout.count() / 1000) +
           " s: it is stopped, or hangs; VMs go on without it. 'systemctl status virt-handoverd' shows it, 'systemctl restart "
           "virt-handoverd' ends that";
}

/// What was asked for may have been done or not; a handover in the middle is settled by the next manager.
constexpr const char* whatToDo =
    ". Whether what was asked for was done is not known: 'virt-handover show' says how the VM is, once the manager runs again";

/// What is begun in the main loop's turns, and waited for by turning it.
class Awaited {
 public:
    Awaited() = default;
    Awaited(const Awaited&) = delete;
    ~Awaited() {
        if (result_) g_object_unref(result_);
    }
    static void take(GObject*, GAsyncResult* result, gpointer self) {
        static_cast<Awaited*>(self)->result_ = static_cast<GAsyncResult*>(g_object_ref(result));
    }
    GAsyncResult* result() const {
        turnUntil([this] { return result_ != nullptr; });
        return result_;
    }

 private:
    GAsyncResult* result_ = nullptr;
};

}  // namespace

/// A call that is waited for, with what shows meanwhile that the manager lives.
struct DbusClient::Call {
    explicit Call(Done whenDone) : done(std::move(whenDone)) {}
    Call(const Call&) = delete;
    ~Call() { g_object_unref(cancellable); }

    Done done;
    bool isReport = false;
    GCancellable* cancellable = g_cancellable_new();
    std::chrono::milliseconds timeout{};
    EventSource nextPing;
};

DbusClient::DbusClient(const std::string& runtimeDirectory, Timeouts timeouts) : timeouts_(timeouts) {
    connect(managerSocket(runtimeDirectory));
    try {
        sayHello();
    } catch (...) {
        g_object_unref(connection_);
        throw;
    }
}

DbusClient::~DbusClient() {
    g_object_unref(connection_);
}

void DbusClient::connect(const std::string& socket) {
    char* escaped = g_dbus_address_escape_value(socket.c_str());
    const std::string address = std::string("unix:path=") + escaped;
    g_free(escaped);
    const std::unique_ptr<GCancellable, decltype(&g_object_unref)> cancellable(g_cancellable_new(), g_object_unref);
    const EventSource deadline =
        EventSource::after(timeouts_.answer, [&cancellable] { g_cancellable_cancel(cancellable.get()); });
    Awaited attempt;
    g_dbus_connection_new_for_address(address.c_str(), G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, nullptr, cancellable.get(),
                                      Awaited::take, &attempt);
    GError* error = nullptr;
    connection_ = g_dbus_connection_new_for_address_finish(attempt.result(), &error);
    if (connection_) return;
    const bool isSilent = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    const std::string cause = takeText(error);
    if (isSilent) throw Unreachable(frozen(timeouts_.answer) + ", or work without it: virt-handover --embed ...");
    throw NotThere("the manager cannot be reached: " + cause +
                   "; start virt-handoverd, or work without it: virt-handover --embed ...");
}

void DbusClient::sayHello() {
    Awaited greeting;
    g_dbus_connection_call(connection_, nullptr, dbusPath, dbusInterface, "Hello", g_variant_new("(u)", dbusProtocol),
                           G_VARIANT_TYPE("(us)"), G_DBUS_CALL_FLAGS_NONE, static_cast<int>(timeouts_.answer.count()), nullptr,
                           Awaited::take, &greeting);
    GError* error = nullptr;
    GVariant* value = g_dbus_connection_call_finish(connection_, greeting.result(), &error);
    if (!value) {
        const bool isOlder = g_error_matches(error, G_DBUS_ERROR, G_DBUS_ERROR_UNKNOWN_METHOD);
        const bool isSilent = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
        const std::string cause = takeText(error);
        if (isOlder) throw Unreachable(otherVersion("this command, " VH_VERSION ",", ""));
        throw Unreachable(isSilent ? frozen(timeouts_.answer) : "the manager went away before it answered: " + cause);
    }
    guint32 protocol = 0;
    const char* text = "";
    g_variant_get(value, "(u&s)", &protocol, &text);
    const std::string version = text;
    g_variant_unref(value);
    if (protocol != dbusProtocol) throw Unreachable(otherVersion("this command, " VH_VERSION ",", version));
}

void DbusClient::call(const char* method, GVariant* arguments, Answer when, Done done) {
    const auto waiting = std::make_shared<Call>(std::move(done));
    waiting->isReport = when == Answer::Report;
    const auto answered = [](GObject* source, GAsyncResult* result, gpointer data) {
        const std::unique_ptr<std::shared_ptr<Call>> owned(static_cast<std::shared_ptr<Call>*>(data));
        Call& call = **owned;
        call.nextPing.reset();
        GError* error = nullptr;
        GVariant* value = g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &error);
        if (!value) {
            const bool isSilent = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED) ||
                                  g_error_matches(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
            const std::string cause = takeText(error);
            const std::string why = isSilent ? frozen(call.timeout) : "the manager went away before it answered: " + cause;
            return call.done({ExitCode::Unreachable, {{"error", why + whatToDo}}});
        }
        int code = 0;
        const char* object = "";
        g_variant_get(value, "(i&s)", &code, &object);
        const VerbResult found = resultOf(code, object, call.isReport);
        g_variant_unref(value);
        call.done(found);
    };
    waiting->timeout = timeouts_.answer;
    g_dbus_connection_call(connection_, nullptr, dbusPath, dbusInterface, method, arguments, G_VARIANT_TYPE("(is)"),
                           G_DBUS_CALL_FLAGS_NONE, when == Answer::AtOnce ? static_cast<int>(timeouts_.answer.count()) : G_MAXINT,
                           waiting->cancellable, answered, new std::shared_ptr<Call>(waiting));
    if (when != Answer::AtOnce) pingLater(waiting);
}

void DbusClient::pingLater(const std::shared_ptr<Call>& call) {
    call->nextPing = EventSource::after(timeouts_.ping, [this, waiting = std::weak_ptr<Call>(call)] {
        struct Ping {
            DbusClient* client;
            std::weak_ptr<Call> call;
        };
        g_dbus_connection_call(
            connection_, nullptr, dbusPath, dbusInterface, "Ping", nullptr, nullptr, G_DBUS_CALL_FLAGS_NONE,
            static_cast<int>(timeouts_.answer.count()), nullptr,
            [](GObject* source, GAsyncResult* result, gpointer data) {
                const std::unique_ptr<Ping> ping(static_cast<Ping*>(data));
                GVariant* answer = g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, nullptr);
                if (answer) g_variant_unref(answer);
                const std::shared_ptr<Call> asked = ping->call.lock();
                if (!asked) return;  // It has been answered meanwhile.
                answer ? ping->client->pingLater(asked) : g_cancellable_cancel(asked->cancellable);
            },
            new Ping{this, waiting});
    });
}

void DbusClient::start(const std::string& what, std::optional<milliseconds> waitHeartbeat, Done done) {
    call("Start", g_variant_new("(@su)", text(what), static_cast<guint32>(waitHeartbeat.value_or(milliseconds(0)).count())),
         Answer::Later, std::move(done));
}

void DbusClient::callObserved(const char* method, GVariant* arguments, Handover::Observer observer, Done done) {
    const guint subscription = g_dbus_connection_signal_subscribe(
        connection_, nullptr, dbusInterface, "Progress", dbusPath, nullptr, G_DBUS_SIGNAL_FLAGS_NONE,
        [](GDBusConnection*, const char*, const char*, const char*, const char*, GVariant* values, gpointer data) {
            const char* state = "";
            HandoverProgress step{};
            gboolean stopped = FALSE;
            if (!g_variant_is_of_type(values, G_VARIANT_TYPE("(ssdiib)"))) return;
            g_variant_get(values, "(&s&sdiib)", nullptr, &state, &step.atMs, &step.oldPid, &step.newPid, &stopped);
            step.stopped = stopped == TRUE;
            const std::optional<State> entered = stateNamed(state);
            if (!entered) return;
            step.state = *entered;
            (*static_cast<Handover::Observer*>(data))(step);
        },
        new Handover::Observer(std::move(observer)), [](gpointer data) { delete static_cast<Handover::Observer*>(data); });
    call(method, arguments, Answer::Report, [this, subscription, done = std::move(done)](const VerbResult& result) {
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
    call("Cancel", g_variant_new("(@s)", text(vm)), Answer::Later, std::move(done));
}

void DbusClient::shutdown(const std::string& vm, milliseconds timeout, Done done) {
    call("Shutdown", g_variant_new("(@su)", text(vm), static_cast<guint32>(timeout.count())), Answer::Later, std::move(done));
}

void DbusClient::destroy(const std::string& vm, Done done) {
    call("Destroy", g_variant_new("(@s)", text(vm)), Answer::Later, std::move(done));
}
void DbusClient::show(const std::string& vm, Done done) {
    call("Show", g_variant_new("(@s)", text(vm)), Answer::AtOnce, std::move(done));
}
void DbusClient::console(const std::string& vm, Done done) {
    call("Console", g_variant_new("(@s)", text(vm)), Answer::AtOnce, std::move(done));
}

}  // namespace vh
