#include "manager/service/hook_inbox.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using nlohmann::json;

constexpr const char* uuid = "c7f155c9-26b1-48e9-abba-797e3338bd8a";

std::string notice(const std::string& operation, const std::string& id = uuid) {
    return json{{"name", "web1"}, {"uuid", id}, {"operation", operation}, {"reason", ""}}.dump();
}

class HookInboxTest : public testing::Test {
 protected:
    std::string path() const { return directory_.file("libvirt-hook.sock"); }

    void send(const std::string& text) const {
        const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        std::strcpy(address.sun_path, path().c_str());
        ASSERT_EQ(::sendto(socket.get(), text.data(), text.size(), MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&address),
                           sizeof address),
                  static_cast<ssize_t>(text.size()));
        while (g_main_context_iteration(nullptr, FALSE)) {
        }
    }

    const TemporaryDirectory directory_;
    std::vector<HookNotice> received_;
    std::vector<std::string> reported_;
    HookInbox make() {
        return HookInbox(
            directory_.path(), [this](const HookNotice& got) { received_.push_back(got); },
            [this](const std::string& line) { reported_.push_back(line); });
    }
};

TEST_F(HookInboxTest, handsNoticesOnAndKeepsTheLastOfEachDomain) {
    const HookInbox inbox = make();
    const std::string other = "00000000-0000-0000-0000-00000000000a";
    send(notice("started"));
    send(notice("started", other));
    send(notice("reconnect"));
    send(notice("stopped"));
    send(notice("release"));
    std::vector<std::string> operations;
    for (const HookNotice& one : received_) operations.push_back(one.operation);
    EXPECT_EQ(operations, (std::vector<std::string>{"started", "started", "reconnect", "stopped", "release"}));
    EXPECT_EQ(received_.at(1).uuid, other);
    EXPECT_TRUE(reported_.empty());
}

TEST_F(HookInboxTest, isForItsOwnUserOnly) {
    const HookInbox inbox = make();
    struct stat status {};
    ASSERT_EQ(::stat(path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600U);
}

TEST_F(HookInboxTest, replacesTheSocketOfADeadManagerAndLeavesNone) {
    {
        const UniqueFd dead(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        std::strcpy(address.sun_path, path().c_str());
        ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    }
    {
        const HookInbox inbox = make();
        send(notice("started"));
        EXPECT_EQ(received_.size(), 1U);
    }
    EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(HookInboxTest, dropsWhatItDoesNotUnderstandWithOneLine) {
    const HookInbox inbox = make();
    json missing = json::parse(notice("started")), wrongType = missing;
    missing.erase("reason");
    wrongType["name"] = 5;
    std::size_t lines = 0;
    for (const std::string& text :
         {std::string("x"), std::string("[]"), std::string("{}"), std::string(3000, '['), missing.dump(), wrongType.dump(),
          notice("begin"), notice("started", ""), notice("started", "../../../../etc/passwd-and-more-of-it"),
          notice("started", "C7F155C9-26B1-48E9-ABBA-797E3338BD8A"), notice(std::string(5000, 'x')), std::string("\xff\xff")}) {
        send(text);
        EXPECT_EQ(reported_.size(), ++lines) << text;
        EXPECT_EQ(reported_.back().find('\n'), std::string::npos);
    }
    EXPECT_TRUE(received_.empty());
    send(notice("started"));
    EXPECT_EQ(received_.size(), 1U) << "it goes on";
}

TEST_F(HookInboxTest, takesManyAtOnce) {
    const HookInbox inbox = make();
    for (int i = 0; i < 300; ++i) send(notice("started"));
    EXPECT_EQ(received_.size(), 300U);
}

}  // namespace
}  // namespace vh
