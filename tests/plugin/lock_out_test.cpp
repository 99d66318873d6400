#include "plugin/upgrade/lock_out.h"

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

#include "plugin/host/command.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"
#include "vmm-shim/proc.h"

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

/// A process that has, or waits for, a lock on driver.pid as everybody may have it who can read that file; as user 1234 when that
/// is possible. Says its pid in the file `reads`.
constexpr const char* readerScript = R"(
import fcntl, os, sys, time
directory, waits = sys.argv[1:3]
fd = os.open(directory + '/driver.pid', os.O_RDONLY)
out = open(directory + '/reads', 'a')
if os.geteuid() == 0: os.setresuid(1234, 1234, 1234)
out.write(f"{os.getpid()}\n")
out.flush()
fcntl.lockf(fd, fcntl.LOCK_SH | (0 if waits == 'waits' else fcntl.LOCK_NB))
out.write('locked\n')
out.flush()
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
        std::ofstream(scratch_.path() + "/reader.py") << readerScript;
        std::filesystem::permissions(scratch_.path(), std::filesystem::perms(0755));
        settings_.stateDirectory = scratch_.path();
        settings_.daemons = {std::filesystem::canonical("/usr/bin/python3").filename()};
        settings_.stopDeadline = milliseconds(500);
    }
    ~LockOutTest() override {
        for (const char* file : {"started", "reads"})
            for (const std::string& line : lines(file))
                if (const int pid = std::atoi(line.c_str()); pid > 0)
                    if (const UniqueFd process = openPidfd(pid)) signalProcess(process.get(), SIGKILL);
    }

    /// Its pid.
    pid_t startReader(const std::string& manners) {
        startDetached({.program = "/usr/bin/python3",
                       .argv = {"python3", scratch_.path() + "/reader.py", scratch_.path(), manners},
                       .environment = {},
                       .directory = "/"});
        awaitLines("reads", manners == "waits" ? 1 : 2);
        return std::stoi(lines("reads").front());
    }

    void startDaemonThatFails() {
        startDetached({.program = "/usr/bin/python3",
                       .argv = {"python3", scratch_.path() + "/daemon.py", scratch_.path(), "polite"},
                       .environment = {}});
        awaitLines("failed", 1);
    }

    void startDaemon(const std::string& manners = "polite", const std::string& program = "/usr/bin/python3") {
        const std::size_t before = lines("started").size();
        startDetached({.program = program,
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
        EXPECT_EQ(ProcessIdentity::of(before), ProcessIdentity());
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
    EXPECT_EQ(ProcessIdentity::of(before), ProcessIdentity());
    lockOut.release();
    awaitLines("started", 2);
}

TEST_F(LockOutTest, aDaemonThatCameUpAfterThePlanIsStoppedToo) {
    const LockOutPlan plan = planLockOut(settings_);
    startDaemon();
    const LockOut lockOut(settings_, plan);
    EXPECT_EQ(ProcessIdentity::of(daemonPid()), ProcessIdentity());
}

TEST_F(LockOutTest, whoeverReadsTheFileIsNeitherEndedNorExecutedNorInTheWay) {
    std::ofstream(scratch_.path() + "/driver.pid") << "1\n";
    const pid_t reader = startReader("has");
    const LockOutPlan plan = planLockOut(settings_);
    EXPECT_FALSE(plan.daemon) << "'" << plan.daemon->program << "' would be executed";
    LockOut lockOut(settings_, plan);
    EXPECT_NE(ProcessIdentity::of(reader), ProcessIdentity()) << "it was ended";
    startDaemonThatFails();
    EXPECT_EQ(lockOut.release(), "");
    EXPECT_TRUE(lines("started").empty());
    startDaemon();
}

TEST_F(LockOutTest, whoeverWaitsForTheFileDoesNotKeepTheNextDaemonAway) {
    startDaemon("stubborn");  // One that is killed, and leaves its file behind.
    const pid_t reader = startReader("waits");
    LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_EQ(lockOut.release(), "");
    awaitLines("started", 2);
    EXPECT_NE(ProcessIdentity::of(reader), ProcessIdentity());
}

TEST_F(LockOutTest, nobodyElseCanWaitForOurs) {
    startDaemon();
    LockOut lockOut(settings_, planLockOut(settings_));
    struct stat file {};
    ASSERT_EQ(::stat((scratch_.path() + "/driver.pid").c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 07777, 0600U);
    lockOut.release();
    awaitLines("started", 2);
}

TEST_F(LockOutTest, leavesNothingBehind) {
    {
        const LockOut lockOut(settings_, {});
        EXPECT_TRUE(std::filesystem::exists(scratch_.path() + "/driver.pid"));
    }
    EXPECT_FALSE(std::filesystem::exists(scratch_.path() + "/driver.pid"));
    EXPECT_FALSE(std::filesystem::exists(scratch_.path() + "/driver.pid.virt-handover"));
}

TEST_F(LockOutTest, aProcessThatIsNoDaemonIsNamedAndLeftAlone) {
    startDaemon();
    settings_.daemons = {"libvirtd"};
    const auto refusal = [this](const LockOutPlan* plan) {
        try {
            if (plan)
                const LockOut lockOut(settings_, *plan);
            else
                planLockOut(settings_);
        } catch (const std::runtime_error& error) {
            return std::string(error.what());
        }
        return std::string("none");
    };
    const LockOutPlan plan;
    for (const LockOutPlan* given : {static_cast<const LockOutPlan*>(nullptr), &plan})
        EXPECT_THAT(refusal(given), HasSubstr("is locked by pid " + std::to_string(daemonPid())));
    EXPECT_NE(ProcessIdentity::of(daemonPid()), ProcessIdentity());
}

TEST_F(LockOutTest, aProgramThatOthersCanExchangeIsNoDaemon) {
    const std::string place = scratch_.path() + "/everybodys";
    std::filesystem::create_directory(place);
    std::filesystem::copy_file(std::filesystem::canonical("/usr/bin/python3"), place + "/" + settings_.daemons.front());
    std::filesystem::permissions(place, std::filesystem::perms(0777));
    startDaemon("polite", place + "/" + settings_.daemons.front());
    EXPECT_THROW(planLockOut(settings_), std::runtime_error);
    std::filesystem::permissions(place, std::filesystem::perms(0755));
    EXPECT_TRUE(planLockOut(settings_).daemon);
}

TEST_F(LockOutTest, aLinkIsNotFollowed) {
    std::ofstream(scratch_.path() + "/elsewhere") << "kept";
    std::filesystem::create_symlink(scratch_.path() + "/elsewhere", scratch_.path() + "/driver.pid");
    const LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_FALSE(std::filesystem::is_symlink(scratch_.path() + "/driver.pid"));
    EXPECT_EQ(lines("elsewhere"), std::vector<std::string>{"kept"});
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
    EXPECT_THAT(lines("calls"),
                testing::ElementsAre(shown, "mask --runtime " + units, shown, "stop virtqemud.socket virtqemud.service",
                                     "unmask --runtime " + units, "start --no-block virtqemud.socket virtqemud.service"));
}

TEST_F(LockOutTest, aDaemonOfAUnitIsStoppedAndLeftToSystemd) {
    startDaemon("stubborn");
    const pid_t before = daemonPid();
    useSystemctl();
    LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_EQ(ProcessIdentity::of(before), ProcessIdentity());
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
    EXPECT_NE(ProcessIdentity::of(daemonPid()), ProcessIdentity());
}

TEST_F(LockOutTest, whatCannotBeUndoneIsSaidAndTheRestIsDone) {
    useSystemctl("unmask");
    LockOut lockOut(settings_, planLockOut(settings_));
    EXPECT_THAT(lockOut.release(), HasSubstr("unmask"));
    EXPECT_THAT(lines("calls").back(), HasSubstr("start --no-block"));
}

}  // namespace
}  // namespace vh
