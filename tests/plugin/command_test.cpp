#include "plugin/host/command.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <thread>

#include <gmock/gmock.h>

#include "tests/support/open_descriptors.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/undying.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

bool eventually(const std::function<bool()>& happened) {
    for (int i = 0; i < 3000 && !happened(); ++i) std::this_thread::sleep_for(milliseconds(10));
    return happened();
}

class CommandTest : public NoDescriptorLeaks {};

TEST_F(CommandTest, saysWhatItWroteAndHowItEnded) {
    const CommandResult result = run({.argv = {"sh", "-c", "echo out; echo err >&2; exit 3"}});
    EXPECT_EQ(result.output, "out\n");
    EXPECT_EQ(result.describe(), "exit status 3: err");
    EXPECT_FALSE(result.ok());
    EXPECT_TRUE(run({.argv = {"true"}}).ok());
}

TEST_F(CommandTest, endsOneThatTakesTooLong) {
    const CommandResult result = run({.argv = {"sh", "-c", "trap '' TERM; while :; do sleep 1; done"},
                                      .deadline = milliseconds(100),
                                      .endTimeout = milliseconds(100)});
    EXPECT_EQ(result.status, 128 + SIGKILL);
    EXPECT_TRUE(result.timedOut);
    EXPECT_FALSE(result.left);
    EXPECT_EQ(result.describe(), "it did not end in time");
}

TEST_F(CommandTest, leavesOneThatDoesNotEnd) {
    const TemporaryDirectory directory;
    const std::string file = directory.path() + "/pid";
    std::unique_ptr<Undying> undying;
    pid_t pid = 0;
    // As soon as it has started: it is not known before.
    std::thread keeper([&] {
        if (!eventually([&] { return static_cast<bool>(std::ifstream(file) >> pid); })) return;
        undying = std::make_unique<Undying>(pid);
    });
    const CommandResult result = run({.argv = {"sh", "-c", "echo $$ >" + file + "; exec sleep 1000"},
                                      .deadline = milliseconds(3'000),
                                      .endTimeout = milliseconds(100),
                                      .killTimeout = milliseconds(300)});
    keeper.join();
    EXPECT_TRUE(result.timedOut);
    EXPECT_TRUE(result.left);
    EXPECT_FALSE(result.ok());
    EXPECT_THAT(result.describe(), HasSubstr("does not end, not even by SIGKILL: pid " + std::to_string(pid)));
    undying->release();
    EXPECT_TRUE(eventually([&] { return ::waitpid(pid, nullptr, WNOHANG) < 0 && errno == ECHILD; })) << "it is a zombie";
}

}  // namespace
}  // namespace vh
