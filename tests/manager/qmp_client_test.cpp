#include "manager/vmm/qmp_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/main_loop.h"
#include "tests/support/receive.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr milliseconds ample{60'000};

const std::string greeting = R"({"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}, "capabilities": ["oob"]}})"
                             "\n";

class QmpClientTest : public MainLoopTest {
 protected:
    QmpClientTest() {
        auto [ours, theirs] = unixPair();
        client_ = std::make_unique<QmpClient>(std::move(ours));
        peer_ = std::move(theirs);
        client_->onEvent([this](const QmpEvent& event) { events_.push_back(event); });
    }

    void say(const std::string& bytes) {
        for (std::size_t at = 0; at < bytes.size();) {
            const std::size_t sent = sendSome(peer_.get(), bytes.data() + at, bytes.size() - at);
            at += sent;
            if (sent > 0) continue;
            ASSERT_TRUE(g_main_context_iteration(nullptr, FALSE)) << "the client does not read";
        }
    }

    /// All that the client has sent so far, a request a line.
    std::vector<json> heard() {
        loopWhileBusy();
        std::string text;
        char buffer[65536];
        for (ssize_t count; (count = ::recv(peer_.get(), buffer, sizeof(buffer), 0)) > 0;) {
            text.append(buffer, static_cast<std::size_t>(count));
            loopWhileBusy();
        }
        std::vector<json> requests;
        for (std::size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
            requests.push_back(json::parse(text.substr(at, end - at)));
        return requests;
    }

    Received receive() const { return vh::receive(peer_.get()); }

    void execute(const std::string& command, json arguments = nullptr, milliseconds deadline = ample, UniqueFd descriptor = {}) {
        client_->execute(
            command, std::move(arguments), deadline, [this](const QmpReply& reply) { replies_.push_back(reply); },
            std::move(descriptor));
    }

    std::vector<std::string> errorClasses() const {
        std::vector<std::string> classes;
        for (const QmpReply& reply : replies_) classes.push_back(reply.error ? reply.error->errorClass : "ok");
        return classes;
    }

    std::unique_ptr<QmpClient> client_;
    UniqueFd peer_;
    std::vector<QmpEvent> events_;
    std::vector<QmpReply> replies_;
};

TEST_F(QmpClientTest, saysNothingBeforeTheGreeting) {
    execute("query-status");
    EXPECT_THAT(heard(), IsEmpty());
}

TEST_F(QmpClientTest, negotiatesAndThenSendsWhatWasAskedMeanwhile) {
    execute("query-status");
    execute("migrate", {{"uri", "x"}});
    say(greeting);
    EXPECT_THAT(heard(),
                ElementsAre(json{{"execute", "qmp_capabilities"}, {"id", 0}}, json{{"execute", "query-status"}, {"id", 1}},
                            json{{"execute", "migrate"}, {"id", 2}, {"arguments", {{"uri", "x"}}}}));
    execute("quit");
    EXPECT_THAT(heard(), ElementsAre(json{{"execute", "quit"}, {"id", 3}}));
}

TEST_F(QmpClientTest, negotiatesOnce) {
    say(greeting + greeting);
    EXPECT_EQ(heard().size(), 1U);
}

TEST_F(QmpClientTest, givesEachReplyToTheCommandThatItNames) {
    std::string first, second;
    client_->execute("a", nullptr, ample, [&](const QmpReply& reply) { first = reply.value; });
    client_->execute("b", nullptr, ample, [&](const QmpReply& reply) { second = reply.value; });
    say(greeting + R"({"return": {}, "id": 0})"
                   "\n"
                   R"({"return": "to b", "id": 2})"
                   "\n"
                   R"({"return": "to a", "id": 1})"
                   "\n");
    EXPECT_TRUE(loopUntil([&] { return !first.empty(); }));
    EXPECT_EQ(first, "to a");
    EXPECT_EQ(second, "to b");
}

TEST_F(QmpClientTest, givesAnErrorWithItsClassAndText) {
    execute("getfd");
    say(greeting + R"({"error": {"class": "DeviceNotFound", "desc": "no such thing"}, "id": 1})"
                   "\n");
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    ASSERT_TRUE(replies_[0].error);
    EXPECT_EQ(replies_[0].error->errorClass, "DeviceNotFound");
    EXPECT_EQ(replies_[0].error->description, "no such thing");
}

TEST_F(QmpClientTest, ignoresRepliesToNobody) {
    execute("a");
    for (const char* line :
         {R"({"return": 1, "id": 99})", R"({"return": 1})", R"({"return": 1, "id": "1"})", R"({"return": 1, "id": 1.0})",
          R"({"return": 1, "id": -1})", R"({"return": 1, "id": null})", R"({"error": {"class": "x"}, "id": {}})",
          R"({"error": "text", "id": 1})", R"({"neither": 1})", R"({"return": 1, "id": 18446744073709551615})"})
        say(std::string(line) + "\n");
    loopWhileBusy();
    EXPECT_THAT(replies_, IsEmpty());
    EXPECT_FALSE(client_->closed());
}

TEST_F(QmpClientTest, survivesAnErrorWithoutClassAndText) {
    execute("a");
    say(greeting + R"({"error": {"class": 7}, "id": 1})"
                   "\n");
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    EXPECT_THAT(errorClasses(), ElementsAre(""));
}

TEST_F(QmpClientTest, passesEventsOnAlsoUnknownOnes) {
    say(greeting +
        R"({"timestamp": {"seconds": 1700000000, "microseconds": 25}, "event": "MIGRATION", "data": {"status": "active"}})"
        "\r\n"
        R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "OF_THE_FUTURE"})"
        "\n");
    EXPECT_TRUE(loopUntil([this] { return events_.size() == 2; }));
    EXPECT_EQ(events_[0].name, "MIGRATION");
    EXPECT_EQ(events_[0].data.value("status", ""), "active");
    EXPECT_EQ(events_[1].name, "OF_THE_FUTURE");
    EXPECT_EQ(events_[1].data, json::object());
}

TEST_F(QmpClientTest, tellsWhenAnEventHappenedAndNotWhenItWasRead) {
    using std::chrono::duration_cast, std::chrono::microseconds;
    const auto stamp = [](milliseconds ago) {
        const auto us = duration_cast<microseconds>((std::chrono::system_clock::now() - ago).time_since_epoch()).count();
        return R"(, "timestamp": {"seconds": )" + std::to_string(us / 1'000'000) + R"(, "microseconds": )" +
               std::to_string(us % 1'000'000) + "}}\n";
    };
    const auto before = std::chrono::steady_clock::now();
    say(greeting + R"({"event": "A")" + stamp(milliseconds(2'000)) + R"({"event": "B")" + stamp(milliseconds(-86'400'000)));
    EXPECT_TRUE(loopUntil([this] { return events_.size() == 2; }));
    EXPECT_LT(events_[0].at, before - milliseconds(1'000));
    EXPECT_GE(events_[1].at, before) << "a time that is still to come is none";
    EXPECT_LE(events_[1].at, std::chrono::steady_clock::now());
}

TEST_F(QmpClientTest, survivesEventsOfOddShapes) {
    const std::vector<std::string> odd = {
        R"({"event": "A"})",
        R"({"event": 5})",
        R"({"event": null, "data": null, "timestamp": null})",
        R"({"event": "A", "data": "text", "timestamp": "text"})",
        R"({"event": "A", "data": [1], "timestamp": [1]})",
        R"({"event": "A", "timestamp": {"seconds": "x", "microseconds": {}}})",
        R"({"event": "A", "timestamp": {"seconds": -1, "microseconds": -1}})",
        R"({"event": "A", "timestamp": {"seconds": 9223372036854775807, "microseconds": 9223372036854775807}})",
        R"({"event": "A", "timestamp": {"seconds": -9223372036854775808, "microseconds": 1}})",
        R"({"event": "A", "timestamp": {"seconds": 1.5e300, "microseconds": 1}})",
    };
    say(greeting);
    for (const std::string& line : odd) say(line + "\n");
    EXPECT_TRUE(loopUntil([&] { return events_.size() == odd.size(); }));
    EXPECT_FALSE(client_->closed());
    // Whoever listens looks into the data of an event without asking first.
    for (const QmpEvent& event : events_) EXPECT_TRUE(event.data.is_object()) << event.data;
}

TEST_F(QmpClientTest, answersTimeoutOnceAndIgnoresALateAnswer) {
    say(greeting);
    execute("cont", nullptr, milliseconds(0));
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    EXPECT_THAT(errorClasses(), ElementsAre("Timeout"));
    EXPECT_THAT(replies_[0].error->description, HasSubstr("'cont'"));
    execute("query-status");
    say(R"({"return": "late", "id": 1})"
        "\n"
        R"({"return": "in time", "id": 2})"
        "\n");
    EXPECT_TRUE(loopUntil([this] { return replies_.size() == 2; }));
    EXPECT_EQ(replies_[1].value, "in time");
    client_.reset();
    EXPECT_EQ(replies_.size(), 2U);
}

/// A whole conversation, as a QEMU has it.
const std::string conversation = greeting + R"({"return": {}, "id": 0})"
                                            "\n"
                                            R"({"return": {"status": "running"}, "id": 1})"
                                            "\n"
                                            R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"})"
                                            "\n"
                                            R"({"error": {"class": "GenericError", "desc": "no"}, "id": 2})"
                                            "\n"
                                            R"({"return": {}, "id": 3})"
                                            "\n";

TEST(QmpClientAndADyingPeer, givesEachCommandOneAnswerWhereverTheConversationEnds) {
    const auto before = openDescriptors();
    for (std::size_t cut = 0; cut <= conversation.size(); ++cut) {
        auto [ours, theirs] = unixPair();
        QmpClient client(std::move(ours));
        std::vector<int> answers(3);
        for (int& count : answers) client.execute("command", nullptr, ample, [&count](const QmpReply&) { ++count; });
        // All at once when the cut is even, else with a turn of the main loop in between, so that it falls on a read's end, too.
        if (cut > 0) {
            const std::size_t half = cut % 2 ? cut / 2 : 0;
            if (half > 0) sendSome(theirs.get(), conversation.data(), half);
            loopWhileBusy();
            sendSome(theirs.get(), conversation.data() + half, cut - half);
        }
        theirs.reset();
        EXPECT_TRUE(loopUntil([&] { return client.closed(); }));
        loopWhileBusy();
        EXPECT_THAT(answers, ElementsAre(1, 1, 1)) << "cut after " << cut << " bytes";
    }
    EXPECT_EQ(openDescriptors(), before);
}

TEST_F(QmpClientTest, answersClosedToWhatIsAskedAfterTheEnd) {
    peer_.reset();
    EXPECT_TRUE(loopUntil([this] { return client_->closed(); }));
    execute("quit");
    EXPECT_THAT(replies_, IsEmpty()) << "never before the call returns";
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    EXPECT_THAT(errorClasses(), ElementsAre("Closed"));
    EXPECT_EQ(replies_[0].error->description, "the VMM closed its monitor");
}

TEST_F(QmpClientTest, doesNotGoRoundWhenEveryAnswerIsFollowedByTheNextCommand) {
    int asked = 0;
    std::function<void(const QmpReply&)> askAgain = [&](const QmpReply&) {
        if (++asked < 1000) client_->execute("query-status", nullptr, ample, askAgain);
    };
    client_->execute("query-status", nullptr, ample, askAgain);
    peer_.reset();
    EXPECT_TRUE(loopUntil([this] { return client_->closed(); }));
    EXPECT_LT(asked, 10) << "each answer has a turn of the main loop to itself";
}

class Garbage : public QmpClientTest, public testing::WithParamInterface<const char*> {};

TEST_P(Garbage, insteadOfJsonClosesTheMonitor) {
    execute("query-status");
    say(std::string(GetParam()) + "\n" + R"({"event": "AFTER_THE_GARBAGE"})" + "\n");
    EXPECT_TRUE(loopUntil([this] { return client_->closed(); }));
    EXPECT_THAT(errorClasses(), ElementsAre("Closed"));
    EXPECT_THAT(replies_[0].error->description, StartsWith("the monitor sent something that is not QMP: '"));
    EXPECT_THAT(events_, IsEmpty()) << "nothing that comes after it is believed";
}

INSTANTIATE_TEST_SUITE_P(Qmp, Garbage,
                         testing::Values("QEMU 11.1.3 monitor - type 'help' for more information",
                                         "{\"return\": ", "{\"return\": {}} x", "[]", "5", "\"QMP\"", "null", "\xff\xfe", "\x01",
                                         "{\"return\": \"\xc3\x28\"}"));

TEST_F(QmpClientTest, cutsOffALineThatNeverEnds) {
    execute("query-status");
    const std::string block(65536, 'x');
    for (int i = 0; i < 20 * 16 && !client_->closed(); ++i) {
        sendSome(peer_.get(), block.data(), block.size());
        loopWhileBusy();
    }
    EXPECT_TRUE(client_->closed());
    EXPECT_THAT(errorClasses(), ElementsAre("Closed"));
    EXPECT_THAT(replies_[0].error->description, HasSubstr("without a line end"));
}

TEST_F(QmpClientTest, readsALineOfAMegabyte) {
    execute("query-qmp-schema");
    const std::string text(1 << 20, 'x');
    say(greeting + R"({"id": 1, "return": ")" + text + "\"}\n");
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    EXPECT_EQ(replies_[0].value, text);
}

/// Deep enough for a stack overflow in anything that walks the value by recursion, such as copying it.
std::string nestedLists(std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
}

class JsonBomb : public QmpClientTest, public testing::WithParamInterface<std::string> {};

TEST_P(JsonBomb, doesNotBlowTheStack) {
    execute("query-status");
    say(greeting + GetParam() + "\n");
    EXPECT_TRUE(loopUntil([this] { return client_->closed(); }));
    EXPECT_THAT(errorClasses(), ElementsAre("Closed"));
}

INSTANTIATE_TEST_SUITE_P(Qmp, JsonBomb,
                         testing::Values(std::string(100'000, '['), nestedLists(1'000'000),
                                         R"({"id": 1, "return": )" + nestedLists(1'000'000) + "}",
                                         R"({"event": "A", "data": {"x": )" + nestedLists(1'000'000) + "}}"),
                         [](const auto& bomb) { return "number" + std::to_string(bomb.index); });

TEST_F(QmpClientTest, readsWhatIsNestedAsMuchAsQemuDoes) {
    execute("qom-get");
    say(greeting + R"({"id": 1, "return": )" + nestedLists(40) + "}\n");
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    EXPECT_EQ(replies_[0].value, json::parse(nestedLists(40)));
}

TEST_F(QmpClientTest, passesADescriptorWithItsCommand) {
    UniqueFd given(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    struct stat before {};
    ASSERT_EQ(::fstat(given.get(), &before), 0);
    execute("query-status");
    execute("getfd", {{"fdname", "a"}}, ample, std::move(given));
    say(greeting);
    loopWhileBusy();

    std::vector<std::string> withDescriptor;
    for (Received part = receive(); !part.bytes.empty(); part = receive()) {
        if (part.descriptors.empty()) continue;
        ASSERT_EQ(part.descriptors.size(), 1U);
        struct stat after {};
        ASSERT_EQ(::fstat(part.descriptors.front().get(), &after), 0);
        EXPECT_EQ(after.st_rdev, before.st_rdev);
        withDescriptor.push_back(part.bytes);
    }
    // The kernel ends a read at the message that has a descriptor, so that it is known whose it is.
    EXPECT_THAT(withDescriptor, ElementsAre(HasSubstr("getfd")));
}

TEST_F(QmpClientTest, passesADescriptorOnceThoughItsCommandGoesInPieces) {
    say(greeting);
    loopWhileBusy();
    execute("getfd", {{"text", std::string(1 << 20, 'x')}}, ample, UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)));
    std::size_t bytes = 0, descriptors = 0;
    for (Received part = receive(); !part.bytes.empty(); part = receive()) {
        bytes += part.bytes.size();
        descriptors += part.descriptors.size();
        loopWhileBusy();
    }
    EXPECT_GT(bytes, 1U << 20);
    EXPECT_EQ(descriptors, 1U);
}

TEST_F(QmpClientTest, mayBeDestroyedInAReplyHandler) {
    const auto held = std::make_shared<std::string>("held by the handler");
    std::string seen;
    client_->execute("a", nullptr, ample, [this, held, &seen](const QmpReply&) {
        client_.reset();
        seen = *held;
    });
    execute("b");
    say(greeting + R"({"return": {}, "id": 1})"
                   "\n"
                   R"({"return": {}, "id": 2})"
                   "\n");
    EXPECT_TRUE(loopUntil([&] { return !seen.empty(); }));
    EXPECT_EQ(seen, *held);
    EXPECT_THAT(replies_, IsEmpty()) << "a client that is gone answers nobody";
}

TEST_F(QmpClientTest, mayBeDestroyedInAnEventHandler) {
    const auto held = std::make_shared<std::string>("held by the handler");
    std::string seen;
    client_->onEvent([this, held, &seen](const QmpEvent&) {
        client_.reset();
        seen = *held;
    });
    execute("b");
    say(greeting + R"({"event": "A"})"
                   "\n"
                   R"({"event": "B"})"
                   "\n"
                   R"({"return": {}, "id": 1})"
                   "\n");
    EXPECT_TRUE(loopUntil([&] { return !seen.empty(); }));
    EXPECT_EQ(seen, *held);
    EXPECT_THAT(replies_, IsEmpty());
}

TEST_F(QmpClientTest, mayGetAnotherEventHandlerInAnEventHandler) {
    client_->onEvent([this](const QmpEvent&) { client_->onEvent([this](const QmpEvent& event) { events_.push_back(event); }); });
    say(greeting + R"({"event": "A"})"
                   "\n"
                   R"({"event": "B"})"
                   "\n");
    EXPECT_TRUE(loopUntil([this] { return !events_.empty(); }));
    EXPECT_EQ(events_[0].name, "B");
}

TEST_F(QmpClientTest, mayBeDestroyedWhileItAnswersTheEndOfItsPeer) {
    client_->execute("a", nullptr, ample, [this](const QmpReply& reply) {
        replies_.push_back(reply);
        client_.reset();
    });
    execute("b");
    peer_.reset();
    EXPECT_TRUE(loopUntil([this] { return !replies_.empty(); }));
    loopWhileBusy();
    EXPECT_EQ(replies_.size(), 1U);
}

TEST_F(QmpClientTest, doesNotBlockOnAPeerThatDoesNotRead) {
    say(greeting);
    loopWhileBusy();
    const std::string large(100'000, 'x');
    for (int i = 0; i < 30; ++i) execute("a", {{"text", large}});
    execute("last");
    const std::vector<json> requests = heard();
    ASSERT_EQ(requests.size(), 32U) << "and when it reads after all, everything comes";
    EXPECT_EQ(requests.back()["execute"], "last");
    for (int i = 1; i <= 30; ++i) EXPECT_EQ(requests[static_cast<std::size_t>(i)]["arguments"]["text"], large);
}

TEST_F(QmpClientTest, forgetsEverythingWhenDestroyed) {
    execute("a");
    say(greeting);
    client_.reset();
    loopWhileBusy();
    EXPECT_THAT(replies_, IsEmpty());
}

}  // namespace
}  // namespace vh
