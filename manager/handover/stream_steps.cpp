#include "manager/handover/stream_steps.h"

#include <fcntl.h>

#include "vmm-shim/throw_errno.h"

namespace vh {

using nlohmann::json;

void StreamSteps::addFacts(HandoverFacts& facts, Then then) {
    copiesStopped_ = course_.design.ram == RamPath::Copied && losesWritesOfRunningGuest(facts);
    if (copiesStopped_)
        course_.warn("the guest is stopped while its RAM is copied: under TCG, QEMU " + facts.old.version +
                     " does not notice all that a running guest writes, and it would crash on the new VMM");
    then();
}

void StreamSteps::exchange() {
    std::vector<Course::Command> commands = settingsOfNewVmm();
    commands.push_back({course_.newVmm.get(), "migrate-incoming", mainChannel()});
    course_.run(commands, [this] { course_.done(); });
}

void StreamSteps::switchOver() {
    // A guest that runs while its RAM is copied has its network until it is stopped.
    if (course_.sharesRam()) holdNetwork();
    course_.migrateSent = true;
    const bool knowsChannels = releaseOf(course_.report.old.version) >= firstWithChannels || course_.report.old.kind != "QEMU";
    std::vector<Course::Command> commands{
        {course_.oldVmm.get(), "migrate",
         knowsChannels ? mainChannel() : json{{"uri", "unix:" + mainChannelPath(course_.newVmm->directory())}}}};
    if (copiesStopped_ && course_.wasRunning) commands.insert(commands.begin(), {course_.oldVmm.get(), "stop", nullptr});
    course_.run(std::move(commands), [] {});
}

void StreamSteps::migrated() {
    if (course_.oldMigration == "completed" && course_.newMigration == "completed") course_.done();
}

void StreamSteps::guestStopped() {
    if (!course_.sharesRam()) holdNetwork();
}

void FileSteps::exchange() {
    course_.run(settingsOfNewVmm(), [this] { course_.done(); });
}

void FileSteps::switchOver() {
    holdNetwork();
    course_.run({{course_.oldVmm.get(), "stop", nullptr}}, [this] { save(); });
}

void FileSteps::save() {
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

void FileSteps::restore() {
    course_.ask(
        *course_.newVmm, "add-fd", {{"fdset-id", stateFdset}},
        [this](const QmpReply&) {
            course_.run({{course_.newVmm.get(), "migrate-incoming", fdsetChannel(stateFdset)}}, [] {});
        },
        reopen(saved_.get(), O_RDONLY));
    saved_.reset();
}

void FileSteps::migrated() {
    if (course_.oldMigration != "completed") return;
    if (saved_) return restore();
    if (course_.newMigration == "completed") course_.done();
}

/// The file has no name, and all of the guest's RAM in it, as long as somebody has it open: a manager that comes after the record
/// would not know of it.
void FileSteps::retire(Then then) {
    course_.tidy(*course_.newVmm, "remove-fd", {{"fdset-id", stateFdset}}, std::move(then));
}

void FileSteps::undo(Then then) {
    course_.tidy(*course_.oldVmm, "remove-fd", {{"fdset-id", stateFdset}}, std::move(then));
}

}  // namespace vh
