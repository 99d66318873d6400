#include "plugin/lock_out.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugin/command.h"
#include "plugin/durable_file.h"
#include "plugin/process.h"
#include "tests/manager/temporary_directory.h"

namespace vh {
namespace {

using std::chrono::milliseconds, std::chrono::steady_clock;
using testing::HasSubstr, testing::Not;

/// What libvirt's QEMU driver does with driver.pid (src/util/virpidfile.c): create, lock, remove at an orderly end. Says its pid
/// and one word of its environment in the file `started`, a line each time.
constexpr const char* daemonScript = R"(
import fcntl, os, signal, sys, time
directory, manners = sys.argv[1:3]
path = directory + '/driver.pid'
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    with open(directory + '/failed', 'a') as out: out.write('locked out\n')
    sys.exit(1)
def end(*_):
    os.unlink(path)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if manners == 'stubborn' else end)
with open(directory + '/started', 'a') as out: out.write(f"{os.getpid()} {os.environ.get('MARK')} {os.getcwd()}\n")
while True: time.sleep(60)
)";

constexpr const char* systemctlScript = R"(#!/bin/sh
echo "$@" >>DIR/calls
case "$1" in
show)
    printf 'Id=virtqemud.socket\nLoadState=loaded\nActiveState=active\n\n'
    printf 'Id=virtqemud-ro.socket\nLoadState=loaded\nActiveState=inactive\n\n'
    printf 'Id=libvirtd.socket\nLoadState=not-found\nActiveState=inactive\n\n'
    printf 'Id=virtqemud.service\nLoadState=loaded\nActiveState=active\n' ;;
FAIL) echo 'Failed to do that: it is forbidden' >&2; exit 1 ;;
esac
)";

class LockOutTest : public testing::Test {
 protected:
    LockOutTest() {
        std::ofstream(scratch_.path() + "/daemon.py") << daemonScript;
        settings_.stateDirectory = scratch_.path();
        settings_.stopDeadline = milliseconds(500);
    }
    ~LockOutTest() override {
        for (const std::string& line : lines("started"))
            if (const UniqueFd process = openProcess(std::stoi(line))) signalProcess(process.get(), SIGKILL);
    }

    void startDaemon(const std::string& manners = "polite") {
        const std::size_t before = lines("started").size();
        startDetached({.program = "/usr/bin/python3",
                       .argv = {"python3", scratch_.path() + "/daemon.py", scratch_.path(), manners},
                       .environment = {"MARK=kept", "PATH=/usr/bin"},
                       .directory = scratch_.path()});
        awaitLines("started", before + 1);
    }

    void useSystemctl(const std::string& failing = "nothing") {
        std::string script = systemctlScript;
        script.replace(script.find("DIR"), 3, scratch_.path());
        script.replace(script.find("FAIL"), 4, failing);
        settings_.systemctl = scratch_.path() + "/systemctl";
        std::ofstream(settings_.systemctl) << script;
        ::chmod(settings_.systemctl.c_str(), 0755);
        settings_.systemd = true;
    }

    std::vector<std::string> lines(const std::string& file) const {
        std::ifstream input(scratch_.path() + "/" + file);
        std::vector<std::string> all;
        for (std::string line; std::getline(input, line);) all.push_back(line);
        return all;
    }

    void awaitLines(const std::string& file, std::size_t count) {
        for (const auto deadline = steady_clock::now() + milliseconds(20'000); lines(file).size() < count;) {
            ASSERT_LT(steady_clock::now(), deadline) << "nothing came in '" << file << "'";
            std::this_thread::sleep_for(milliseconds(5));
        }
    }

    pid_t daemonPid() const { return std::stoi(lines("started").back()); }

    TemporaryDirectory scratch_;
    LockOutSettings settings_;
};

TEST_F(LockOutTest, withoutADaemonThereIsNothingToStartAgain) {
    const LockOutPlan plan = planLockOut(settings_);
    EXPECT_EQ(plan, LockOutPlan());
    LockOut lockOut(settings_, plan);
    EXPECT_EQ(lockOut.release(), "");
    EXPECT_TRUE(lines("started").empty());
}

TEST_F(LockOutTest, theDaemonIsStoppedKeptOutAndStartedAsItWas) {
    startDaemon();
    const pid_t before = daemonPid();
    const LockOutPlan plan = planLockOut(settings_);
    ASSERT_TRUE(plan.daemon);
    {
        LockOut lockOut(settings_, plan);
        EXPECT_EQ(identityOf(before), ProcessIdentity());
        startDetached({.program = plan.daemon->program, .argv = plan.daemon->argv, .environment = plan.daemon->environment});
        awaitLines("failed", 1);
        EXPECT_EQ(lines("started").size(), 1U);
        EXPECT_EQ(lockOut.release(), "");
        awaitLines("started", 2);
    }
    EXPECT_NE(daemonPid(), before);
    EXPECT_EQ(lines("started").back(), std::to_string(daemonPid()) + " kept " + scratch_.path());
}

TEST_F(LockOutTest, aDaemonThatDoesNotStopIsKilled) {
    startDaemon("stubborn");
    const pid_t before = daemonPid();
    LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_EQ(identityOf(before), ProcessIdentity());
    lockOut.release();
    awaitLines("started", 2);
}

TEST_F(LockOutTest, aDaemonThatCameUpAfterThePlanIsStoppedToo) {
    const LockOutPlan plan = planLockOut(settings_);
    startDaemon();
    const LockOut lockOut(settings_, plan);
    EXPECT_EQ(identityOf(daemonPid()), ProcessIdentity());
}

TEST_F(LockOutTest, isLetInByTheEndOfTheScope) {
    startDaemon();
    { const LockOut lockOut(settings_, planLockOut(settings_)); }
    awaitLines("started", 2);
}

TEST_F(LockOutTest, lastsInAChildThatHasTheDescriptor) {
    const UniqueFd kept = [&] {
        LockOut lockOut(settings_, {});
        return UniqueFd(::dup(lockOut.descriptor()));  // As fork() does: the same open file description.
    }();
    // The end of the scope released it by name, for all who have it.
    EXPECT_NO_THROW(LockOut(settings_, {}));

    auto killed = std::make_unique<LockOut>(settings_, LockOutPlan());
    UniqueFd inherited(::dup(killed->descriptor()));
    EXPECT_THROW(LockOut(settings_, {}), std::runtime_error);
    LockOut successor(settings_, {}, std::move(inherited));
    EXPECT_EQ(successor.release(), "");
}

TEST_F(LockOutTest, unitsAreMaskedStoppedAndPutBack) {
    useSystemctl();
    const LockOutPlan plan = planLockOut(settings_);
    EXPECT_THAT(plan.maskedUnits, testing::ElementsAre("virtqemud.socket", "virtqemud-ro.socket", "virtqemud.service"));
    EXPECT_THAT(plan.startedUnits, testing::ElementsAre("virtqemud.socket", "virtqemud.service"));
    EXPECT_FALSE(plan.daemon);
    LockOut lockOut(settings_, plan);
    EXPECT_EQ(lockOut.release(), "");
    const std::string units = "virtqemud.socket virtqemud-ro.socket virtqemud.service";
    const auto shown = testing::StartsWith("show ");
    EXPECT_THAT(lines("calls"), testing::ElementsAre(shown, "mask --runtime " + units, shown, "stop virtqemud.socket virtqemud.service",
                                                     "unmask --runtime " + units,
                                                     "start --no-block virtqemud.socket virtqemud.service"));
}

TEST_F(LockOutTest, aDaemonOfAUnitIsStoppedAndLeftToSystemd) {
    startDaemon("stubborn");
    const pid_t before = daemonPid();
    useSystemctl();
    LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_EQ(identityOf(before), ProcessIdentity());
    EXPECT_EQ(lockOut.release(), "");
    EXPECT_EQ(lines("started").size(), 1U);
}

TEST_F(LockOutTest, aFailureOnTheWayLetsLibvirtInAgain) {
    startDaemon();
    useSystemctl("mask");
    const LockOutPlan plan = planLockOut(settings_);
    try {
        LockOut lockOut(settings_, plan);
        FAIL() << "it was locked out";
    } catch (const std::runtime_error& error) {
        EXPECT_THAT(error.what(), HasSubstr("it is forbidden"));
    }
    EXPECT_THAT(lines("calls").back(), HasSubstr("start --no-block virtqemud.socket"));
    EXPECT_NE(identityOf(daemonPid()), ProcessIdentity());
}

TEST_F(LockOutTest, whatCannotBeUndoneIsSaidAndTheRestIsDone) {
    useSystemctl("unmask");
    LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_THAT(lockOut.release(), HasSubstr("unmask"));
    EXPECT_THAT(lines("calls").back(), HasSubstr("start --no-block"));
}

}  // namespace
}  // namespace vh
