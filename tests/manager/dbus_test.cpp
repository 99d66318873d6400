// The manager's verbs over its D-Bus interface: what goes over unchanged, and what happens with a peer of another version, or
// with one that does not answer.
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/record/vm_directory.h"
#include "manager/service/dbus_client.h"
#include "manager/service/dbus_service.h"
#include "tests/support/golden.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

/// Answers every verb with what it was asked, and an upgrade with a report.
class Recorder : public Verbs {
 public:
    void start(const std::string& what, std::optional<milliseconds> wait, Done done) override {
        take("start " + what + " " + (wait ? std::to_string(wait->count()) : "at once"), done);
    }
    void upgrade(const std::string& vm, const UpgradeOptions& options, Handover::Observer observer, Done done) override {
        options_ = options;
        handOver("upgrade " + vm, observer, done);
    }
    void commit(const std::string& vm, Handover::Observer observer, Done done) override {
        handOver("commit " + vm, observer, done);
    }
    void cancel(const std::string& vm, Done done) override { take("cancel " + vm, done); }
    void shutdown(const std::string& vm, milliseconds timeout, Done done) override {
        take("shutdown " + vm + " " + std::to_string(timeout.count()), done);
    }
    void destroy(const std::string& vm, Done done) override { take("destroy " + vm, done); }
    void list(Done done) override { take("list", done); }
    void show(const std::string& vm, Done done) override { take("show " + vm, done); }
    void console(const std::string& vm, Done done) override { take("console " + vm, done); }

    std::vector<std::string> asked_;
    UpgradeOptions options_;
    bool isSilent_ = false;
    Done left_;

 private:
    void take(const std::string& what, const Done& done) {
        asked_.push_back(what);
        if (isSilent_)
            left_ = done;
        else
            done({ExitCode::Refused, {{"error", what}, {"remedy", "r"}}});
    }
    void handOver(const std::string& what, const Handover::Observer& observer, const Done& done) {
        asked_.push_back(what);
        for (const State state : {State::StandingBy, State::Confirming}) observer({state, 1.5, 4711, 4712, true});
        HandoverReport report{.vm = "web1", .design = Design::VmmExec, .outcome = State::RolledBack, .cause = "because"};
        report.steps = {{State::StandingBy, 1, 2}};
        done(VerbResult::of(report));
    }
};

/// GDBus closes its sockets in a thread of its own, some time later: so no test looks for those that are left, and this is a
/// program of its own.
class DbusTest : public testing::Test {
 protected:
    VerbResult ask(const std::function<void(Verbs::Done)>& verb) {
        std::optional<VerbResult> found;
        verb([&found](const VerbResult& result) { found = result; });
        EXPECT_TRUE(loopUntil([&] { return found.has_value(); }));
        return found.value_or(VerbResult{});
    }
    std::string whyUnreachable() {
        try {
            const DbusClient client(directory_.path(), impatient);
            return "it was reached";
        } catch (const Unreachable& error) {
            return error.what();
        }
    }
    static constexpr DbusClient::Timeouts impatient{milliseconds(300), milliseconds(20)};

    const TemporaryDirectory directory_;
    Recorder verbs_;
};

TEST_F(DbusTest, carriesEveryVerbAndItsAnswer) {
    const DbusService service(verbs_, directory_.path());
    DbusClient client(directory_.path());
    const std::map<std::string, std::function<void(Verbs::Done)>> verbs{
        {"start /a.yaml 250", [&](Verbs::Done done) { client.start("/a.yaml", milliseconds(250), std::move(done)); }},
        {"start b at once", [&](Verbs::Done done) { client.start("b", std::nullopt, std::move(done)); }},
        {"cancel web1", [&](Verbs::Done done) { client.cancel("web1", std::move(done)); }},
        {"shutdown web1 7000", [&](Verbs::Done done) { client.shutdown("web1", milliseconds(7000), std::move(done)); }},
        {"destroy web1", [&](Verbs::Done done) { client.destroy("web1", std::move(done)); }},
        {"list", [&](Verbs::Done done) { client.list(std::move(done)); }},
        {"show web1", [&](Verbs::Done done) { client.show("web1", std::move(done)); }},
        {"console web1", [&](Verbs::Done done) { client.console("web1", std::move(done)); }}};
    for (const auto& [words, verb] : verbs) {
        const VerbResult result = ask(verb);
        EXPECT_EQ(result.code, ExitCode::Refused);
        EXPECT_EQ(result.value, (json{{"error", words}, {"remedy", "r"}}));
        EXPECT_FALSE(result.report);
    }
    EXPECT_EQ(verbs_.asked_.size(), verbs.size());
    EXPECT_THAT(ask([&](Verbs::Done done) { client.show("../etc", std::move(done)); }).value.dump(),
                HasSubstr("cannot be the name"));
    EXPECT_EQ(verbs_.asked_.size(), verbs.size());
}

TEST_F(DbusTest, carriesAnUpgradeItsProgressAndItsReport) {
    const DbusService service(verbs_, directory_.path());
    DbusClient client(directory_.path());
    std::vector<HandoverProgress> steps;
    const Handover::Observer observer = [&](const HandoverProgress& step) { steps.push_back(step); };
    const UpgradeOptions options{
        .binary = "/opt/qemu", .design = Design::SaveRestore, .pauseBudget = milliseconds(250), .dryRun = true, .standby = true};
    const VerbResult result = ask([&](Verbs::Done done) { client.upgrade("web1", options, observer, std::move(done)); });
    EXPECT_EQ(verbs_.options_.binary, options.binary);
    EXPECT_EQ(verbs_.options_.design, options.design);
    EXPECT_EQ(verbs_.options_.pauseBudget, options.pauseBudget);
    EXPECT_TRUE(verbs_.options_.dryRun && verbs_.options_.standby);
    EXPECT_EQ(result.code, ExitCode::RolledBack);
    ASSERT_TRUE(result.report);
    EXPECT_EQ(result.report->cause, "because");
    EXPECT_EQ(result.report->design, Design::VmmExec);
    EXPECT_EQ(result.report->steps.at(0).state, State::StandingBy);
    ASSERT_EQ(steps.size(), 2U);
    EXPECT_EQ(steps[0].state, State::StandingBy);
    EXPECT_EQ(steps[1].state, State::Confirming);
    EXPECT_EQ(steps[1].atMs, 1.5);
    EXPECT_EQ(steps[1].oldPid, 4711);
    EXPECT_EQ(steps[1].newPid, 4712);
    EXPECT_TRUE(steps[1].stopped);
    EXPECT_EQ(ask([&](Verbs::Done done) { client.commit("web1", observer, std::move(done)); }).code, ExitCode::RolledBack);
    EXPECT_EQ(steps.size(), 4U);
    // What was not asked for is not said.
    ask([&](Verbs::Done done) { client.upgrade("web1", {}, observer, std::move(done)); });
    EXPECT_FALSE(verbs_.options_.design || verbs_.options_.pauseBudget || verbs_.options_.dryRun || verbs_.options_.standby);
}

/// A connection that speaks as a command does that was installed before there was a Hello.
class Caller {
 public:
    explicit Caller(const std::string& runtimeDirectory) {
        g_dbus_connection_new_for_address(("unix:path=" + managerSocket(runtimeDirectory)).c_str(),
                                          G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, nullptr, nullptr,
                                          [](GObject*, GAsyncResult* result, gpointer self) {
                                              static_cast<Caller*>(self)->connection_ =
                                                  g_dbus_connection_new_for_address_finish(result, nullptr);
                                          },
                                          this);
        EXPECT_TRUE(loopUntil([this] { return connection_ != nullptr; }));
    }
    Caller(const Caller&) = delete;
    ~Caller() { g_object_unref(connection_); }

    /// The answer, printed.
    std::string call(const char* method, GVariant* arguments) {
        std::string answer;
        g_dbus_connection_call(
            connection_, nullptr, dbusPath, dbusInterface, method, arguments, nullptr, G_DBUS_CALL_FLAGS_NONE, 30'000, nullptr,
            [](GObject* source, GAsyncResult* result, gpointer data) {
                GError* error = nullptr;
                GVariant* value = g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &error);
                if (!value) {
                    *static_cast<std::string*>(data) = error->message;
                    return g_error_free(error);
                }
                char* text = g_variant_print(value, FALSE);
                *static_cast<std::string*>(data) = text;
                g_free(text);
                g_variant_unref(value);
            },
            &answer);
        EXPECT_TRUE(loopUntil([&] { return !answer.empty(); }));
        return answer;
    }

 private:
    GDBusConnection* connection_ = nullptr;
};

TEST_F(DbusTest, tellsAnEarlierCommandThatItIsOneInsteadOfBeingMisread) {
    const DbusService service(verbs_, directory_.path());
    Caller earlier(directory_.path());
    const auto options = [] { return g_variant_new("a{sv}", nullptr); };
    const std::string refused = earlier.call("Upgrade", g_variant_new("(s@a{sv})", "web1", options()));
    EXPECT_THAT(refused, AllOf(testing::StartsWith("(5, "), HasSubstr("this command is of another version than virt-handoverd"),
                               HasSubstr("nothing was touched"), HasSubstr("Restart virt-handoverd")));
    EXPECT_THAT(earlier.call("Destroy", g_variant_new("(s)", "web1")), HasSubstr("another version"));
    EXPECT_TRUE(verbs_.asked_.empty());
    EXPECT_THAT(earlier.call("List", nullptr), HasSubstr("list")) << "what anybody reads alike is not kept from him";
    EXPECT_THAT(earlier.call("Hello", g_variant_new("(u)", dbusProtocol + 1)), HasSubstr("(2, '")) << "a later one finds out";
    EXPECT_THAT(earlier.call("Destroy", g_variant_new("(s)", "web1")), HasSubstr("another version"));
    earlier.call("Hello", g_variant_new("(u)", dbusProtocol));
    EXPECT_THAT(earlier.call("Destroy", g_variant_new("(s)", "web1")), HasSubstr("destroy web1"));
}

/// A manager that answers some methods, with what it is told to, and is silent on all others.
class OtherManager {
 public:
    using Answers = std::map<std::string, std::function<GVariant*()>>;

    OtherManager(const std::string& runtimeDirectory, const std::string& xml, Answers answers)
        : node_(g_dbus_node_info_new_for_xml(xml.c_str(), nullptr)), answers_(std::move(answers)) {
        char* guid = g_dbus_generate_guid();
        server_ = g_dbus_server_new_sync(("unix:path=" + managerSocket(runtimeDirectory)).c_str(), G_DBUS_SERVER_FLAGS_NONE, guid,
                                         nullptr, nullptr, nullptr);
        g_free(guid);
        g_signal_connect(server_, "new-connection",
                         G_CALLBACK(+[](GDBusServer*, GDBusConnection* connection, gpointer self) -> gboolean {
                             static_cast<OtherManager*>(self)->serve(connection);
                             return TRUE;
                         }),
                         this);
        g_dbus_server_start(server_);
    }
    OtherManager(const OtherManager&) = delete;
    ~OtherManager() {
        for (GDBusMethodInvocation* invocation : unanswered_)
            g_dbus_method_invocation_return_dbus_error(invocation, "a.b", "gone");
        loopWhileBusy();
        for (GDBusConnection* connection : connections_) g_object_unref(connection);
        g_dbus_server_stop(server_);
        g_object_unref(server_);
        g_dbus_node_info_unref(node_);
    }

 private:
    void serve(GDBusConnection* connection) {
        static const GDBusInterfaceVTable table = {[](GDBusConnection*, const char*, const char*, const char*, const char* method,
                                                      GVariant*, GDBusMethodInvocation* invocation, gpointer self) {
                                                       auto& manager = *static_cast<OtherManager*>(self);
                                                       const auto found = manager.answers_.find(method);
                                                       if (found == manager.answers_.end())
                                                           return manager.unanswered_.push_back(invocation);
                                                       g_dbus_method_invocation_return_value(invocation, found->second());
                                                   },
                                                   nullptr,
                                                   nullptr,
                                                   {}};
        connections_.push_back(static_cast<GDBusConnection*>(g_object_ref(connection)));
        g_dbus_connection_register_object(connection, dbusPath, node_->interfaces[0], &table, this, nullptr, nullptr);
    }

    GDBusNodeInfo* node_;
    Answers answers_;
    GDBusServer* server_ = nullptr;
    std::vector<GDBusConnection*> connections_;
    std::vector<GDBusMethodInvocation*> unanswered_;
};

const std::string xmlOfToday = fileText(inSourceTree("manager/service/org.virt_handover.Manager1.xml"));
constexpr const char* earlierXml =
    "<node><interface name='org.virt_handover.Manager1'><method name='List'><arg type='i' direction='out'/>"
    "<arg type='s' direction='out'/></method></interface></node>";
OtherManager::Answers hello(guint32 protocol) {
    return {{"Hello", [protocol] { return g_variant_new("(us)", protocol, "9.8.7"); }}};
}

TEST_F(DbusTest, saysThatAnEarlierManagerIsOne) {
    const OtherManager earlier(directory_.path(), earlierXml, {});
    EXPECT_THAT(whyUnreachable(), AllOf(HasSubstr("this command, "), HasSubstr("is of another version than virt-handoverd"),
                                        HasSubstr("nothing was touched"), HasSubstr("Restart virt-handoverd")));
}

TEST_F(DbusTest, saysThatALaterManagerIsOneAndWhich) {
    const OtherManager later(directory_.path(), xmlOfToday, hello(dbusProtocol + 1));
    EXPECT_THAT(whyUnreachable(), HasSubstr("of another version than virt-handoverd, which is 9.8.7"));
}

TEST_F(DbusTest, givesUpOnAManagerThatTakesTheCallAndIsSilent) {
    const UniqueFd socket = listenUnix(managerSocket(directory_.path()));
    EXPECT_THAT(whyUnreachable(),
                AllOf(HasSubstr("has not answered for"), HasSubstr("VMs go on"), HasSubstr("systemctl restart")));
}

TEST_F(DbusTest, givesUpOnAManagerThatDoesNotSayHello) {
    const OtherManager frozen(directory_.path(), xmlOfToday, {});
    EXPECT_THAT(whyUnreachable(), HasSubstr("has not answered for"));
}

TEST_F(DbusTest, givesUpOnAManagerThatFreezesLater) {
    const OtherManager frozen(directory_.path(), xmlOfToday, hello(dbusProtocol));
    DbusClient client(directory_.path(), impatient);
    const auto isNoAnswer = [](const VerbResult& result) {
        EXPECT_EQ(result.code, ExitCode::Unreachable);
        EXPECT_FALSE(result.report);
        EXPECT_THAT(result.value.dump(),
                    AllOf(HasSubstr("has not answered for"), HasSubstr("'virt-handover show' says how the VM is")));
    };
    isNoAnswer(ask([&](Verbs::Done done) { client.list(std::move(done)); }));
    isNoAnswer(ask([&](Verbs::Done done) { client.show("web1", std::move(done)); }));
    isNoAnswer(ask([&](Verbs::Done done) { client.destroy("web1", std::move(done)); }));
    isNoAnswer(ask([&](Verbs::Done done) {
        client.upgrade(
            "web1", {}, [](const HandoverProgress&) {}, std::move(done));
    }));
}

TEST_F(DbusTest, waitsForAManagerThatIsAtWorkAndAnswersItsPings) {
    verbs_.isSilent_ = true;
    const DbusService service(verbs_, directory_.path());
    DbusClient client(directory_.path(), impatient);
    std::optional<VerbResult> found;
    client.shutdown("web1", milliseconds(1), [&found](const VerbResult& result) { found = result; });
    bool isOver = false;
    // For several times as long as one that is silent is waited for.
    const EventSource later = EventSource::after(4 * impatient.answer, [&isOver] { isOver = true; });
    EXPECT_TRUE(loopUntil([&] { return isOver; }));
    EXPECT_FALSE(found);
    verbs_.left_({ExitCode::Done, {{"vm", "web1"}}});
    EXPECT_TRUE(loopUntil([&] { return found.has_value(); }));
    EXPECT_EQ(found->code, ExitCode::Done);
}

TEST_F(DbusTest, saysThatAnAnswerIsNotUnderstood) {
    for (const auto& [code, text] :
         std::map<int, std::string>{{0, "no JSON"}, {2, "[]"}, {9, "{}"}, {3, "{\"outcome\": \"fine\"}"}}) {
        OtherManager::Answers answers = hello(dbusProtocol);
        answers["Upgrade"] = [&code = code, &text = text] { return g_variant_new("(is)", code, text.c_str()); };
        const OtherManager damaged(directory_.path(), xmlOfToday, answers);
        DbusClient client(directory_.path());
        const VerbResult result = ask([&](Verbs::Done done) {
            client.upgrade(
                "web1", {}, [](const HandoverProgress&) {}, std::move(done));
        });
        EXPECT_EQ(result.code, ExitCode::Unreachable);
        EXPECT_THAT(result.value.dump(), HasSubstr("gave an answer that is not understood"));
    }
}

TEST_F(DbusTest, saysThatThereIsNoManager) {
    EXPECT_THROW(DbusClient client(directory_.path()), NotThere);
    EXPECT_THAT(whyUnreachable(), AllOf(HasSubstr("cannot be reached"), HasSubstr("virt-handover --embed")));
}

}  // namespace
}  // namespace vh
