// Designs whose device state is QEMU's ordinary migration stream, over a socket (manager-owned, copy) or in a file
// (save-restore). Guest RAM is the manager's file, which both VMMs map, or goes along.

#include <fcntl.h>

#include "manager/handover/steps.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

using nlohmann::json;

class StreamSteps : public Steps {
 public:
    using Steps::Steps;

    void addFacts(HandoverFacts& facts, Then then) override {
        copiesStopped_ = course_.design.ram == RamPath::Copied && losesWritesOfRunningGuest(facts);
        if (copiesStopped_)
            course_.warn("the guest is stopped while its RAM is copied: under TCG, QEMU " + facts.old.version +
                         " does not notice all that a running guest writes, and it would crash on the new VMM");
        then();
    }

    void exchange() override {
        std::vector<Course::Command> commands = settingsOfNewVmm();
        commands.push_back({course_.newVmm.get(), "migrate-incoming", mainChannel()});
        course_.run(commands, [this] { course_.done(); });
    }

    void switchOver() override {
        // A guest that runs while its RAM is copied has its network until it is stopped.
        if (!copiesRunningGuest(course_.request.design)) holdNetwork();
        course_.migrateSent = true;
        const bool knowsChannels =
            releaseOf(course_.report.old.version) >= firstWithChannels || course_.report.old.kind != "QEMU";
        std::vector<Course::Command> commands{
            {course_.oldVmm.get(), "migrate",
             knowsChannels ? mainChannel() : json{{"uri", "unix:" + mainChannelPath(course_.newVmm->directory())}}}};
        if (copiesStopped_ && course_.wasRunning) commands.insert(commands.begin(), {course_.oldVmm.get(), "stop", nullptr});
        course_.run(std::move(commands), [] {});
    }

    void migrated() override {
        if (course_.oldMigration == MigrationStatus::Completed && course_.newMigration == MigrationStatus::Completed)
            course_.done();
    }

    void guestStopped() override {
        if (copiesRunningGuest(course_.request.design)) holdNetwork();
    }

 private:
    bool copiesStopped_ = false;
};

class FileSteps : public Steps {
 public:
    using Steps::Steps;

    void exchange() override {
        course_.run(settingsOfNewVmm(), [this] { course_.done(); });
    }

    void switchOver() override {
        holdNetwork();
        course_.run({{course_.oldVmm.get(), "stop", nullptr}}, [this] { save(); });
    }

    void migrated() override {
        if (course_.oldMigration != MigrationStatus::Completed) return;
        if (saved_) return restore();
        if (course_.newMigration == MigrationStatus::Completed) course_.done();
    }

    /// A file that is whole has all of the guest, and the new VMM needs nobody but us to read it. Whether it is whole is known
    /// when what the old VMM said last has been read.
    bool oldEnded() override {
        if (course_.state() != State::Switching) return false;
        course_.dropPauseBudget();  // Nobody is left who could run the guest sooner.
        if (course_.oldMigration == MigrationStatus::Completed) {
            course_.warn("the old VMM " + course_.oldVmm->process().howItEnded() + " by itself when it had saved the guest");
            return true;
        }
        QmpClient& monitor = course_.oldVmm->monitor();
        if (monitor.closed()) return false;
        monitor.onClosed(course_.within([this] {
            if (!oldEnded()) course_.postOldDied();
        }));
        return true;
    }

    /// The file has no name, and all of the guest's RAM in it, as long as somebody has it open: a manager that comes after the
    /// record would not know of it.
    void retire(Then then) override { course_.tidy(*course_.newVmm, "remove-fd", {{"fdset-id", stateFdset}}, std::move(then)); }

    void undo(Then then) override { course_.tidy(*course_.oldVmm, "remove-fd", {{"fdset-id", stateFdset}}, std::move(then)); }

 private:
    void save() {
        const std::string& directory = course_.definition().handover.saveDirectory;
        saved_ = UniqueFd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
        if (!saved_) throwErrno("create a file in '" + directory + "'");
        course_.migrateSent = true;
        course_.ask(
            *course_.oldVmm, "add-fd", {{"fdset-id", stateFdset}},
            [this](const QmpReply&) {
                course_.run({{course_.oldVmm.get(), "migrate", fdsetChannel(stateFdset)}}, [] {});
            },
            reopen(saved_.get(), O_WRONLY));
    }

    void restore() {
        course_.ask(
            *course_.newVmm, "add-fd", {{"fdset-id", stateFdset}},
            [this](const QmpReply&) {
                course_.run({{course_.newVmm.get(), "migrate-incoming", fdsetChannel(stateFdset)}}, [] {});
            },
            reopen(saved_.get(), O_RDONLY));
        saved_.reset();
    }

    UniqueFd saved_;  ///< The file, which has no name, until the new VMM has it.
};

}  // namespace

std::unique_ptr<Steps> streamSteps(Course& course) {
    return std::make_unique<StreamSteps>(course);
}

std::unique_ptr<Steps> fileSteps(Course& course) {
    return std::make_unique<FileSteps>(course);
}

}  // namespace vh
