// Design vmm-exec: the old QEMU executes the new one in its own process.
//
// Theory of operation. There is one process, so nothing can be prepared beside the one that runs the guest, and from the exec on
// there is no way back. What can be known before is therefore found out by a rehearsal: the new VMM is started as in any other
// design, next to the old one, its RAM blocks are compared with those of the old one, and it is ended again. Then everything
// is made ready: the new VMM's descriptors are posted into the old VMM's inbox (vmm-shim/exec_inbox.h), where they lie whatever
// becomes of us, and the old VMM is told what to execute: `vmm-shim exec`, from a descriptor of ours, which takes them out and
// executes the new VMM. `migrate` writes the devices' state into a memfd; its end is the exec.
//
//     old VMM: migrate -> STOP -> completed -> execve(vmm-shim exec) -> execve(new VMM): monitor, migrate-incoming, cont
//                                    \-> the exec fails: RESUME, rolled back
//
// That the exec has happened is known by the old VMM's monitor, which is closed while the process lives on. Until then whoever
// wants to stop (the pause budget, a person) has the migration cancelled and waits for what comes of it (Withdrawing), since the
// exec may win. The process is not ended by us, whatever happens.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "manager/handover/in_place.h"
#include "manager/handover/steps.h"
#include "vmm-shim/exec_inbox.h"
#include "vmm-shim/text.h"
#include "vmm-shim/throw_errno.h"

namespace vh {
namespace {

using nlohmann::json;

/// As if the new VMM had the old one's files, which a rehearsed one cannot have and an executed one will.
std::vector<RamBlock> withFilesOf(const std::vector<RamBlock>& old, std::vector<RamBlock> rehearsed) {
    for (RamBlock& block : rehearsed) {
        const auto before = std::ranges::find(old, block.idstr, &RamBlock::idstr);
        if (block.file && before != old.end() && before->file) block.file = before->file;
    }
    return rehearsed;
}

class ExecSteps : public Steps {
 public:
    using Steps::Steps;

    bool rehearses() const override { return true; }

    void addFacts(HandoverFacts& facts, Then then) override {
        facts.execProblem = obstacleToExec(course_.record().vmm.pid);
        if (facts.execProblem) return then();
        inbox_ = takeInbox(course_.oldVmm->record(), course_.oldVmm->directory());
        const std::string program = shimProgram();
        shim_ = UniqueFd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
        if (!shim_) throwErrno("open '" + program + "'");
        const auto tried = [this, &facts, then](const std::optional<Obstacle>& problem) {
            facts.execProblem = problem;
            if (!problem)
                course_.warn(quoted(course_.request.design) +
                             " has no way back once the new VMM has been executed, just after the guest is stopped");
            then();
        };
        course_.gatherRam(*course_.oldVmm, [this, &facts, then, program, tried](const std::vector<RamBlock>& blocks) {
            facts.guest.privateRamBlock = blockLostByExec(blocks);
            if (!facts.guest.privateRamBlock.empty()) return then();
            shimTrial_ = std::make_unique<ShimTrial>(shim_.get(), program, course_.identity(), course_.within(tried));
        });
    }

    void exchange() override {
        setMode([this] { course_.done(); });
    }

    void compare(const std::vector<RamBlock>& old, const std::vector<RamBlock>& newBlocks) override {
        if (const std::string lost = blockLostByExec(old); !lost.empty())
            throw std::runtime_error("RAM block '" + lost + "' of the old VMM would be lost by an exec");
        Steps::compare(old, withFilesOf(old, newBlocks));
        ramBefore_ = old;
    }

    /// The rehearsal is over; the end of its VMM is met by newEnded().
    void verified(Then then) override {
        rehearsed_ = std::move(then);
        course_.newVmm->process().killAll();
    }

    bool newEnded() override {
        if (!rehearsed_ || course_.state() != State::Verifying) return false;
        course_.within([this] { prepare(); })();
        return true;
    }

    void switchOver() override {
        holdNetwork();
        course_.oldVmm->monitor().onClosed([this] {
            if (hasExecuted()) executed();
        });
        course_.migrateSent = true;
        course_.run({{course_.oldVmm.get(), "migrate", fdsetChannel(stateFdset)}}, [] {});
    }

    bool oldEnded() override {
        if (!hasExecuted()) return false;
        executed();
        return true;
    }

    /// Nobody can say that the old VMM will not execute the new one: has its migration cancelled, and lets what comes of it
    /// decide.
    void withdraw() override {
        course_.dropPauseBudget();
        if (!isUnderWay()) return course_.done();
        course_.oldVmm->monitor().execute("migrate_cancel", nullptr, stepTimeout, nullptr);
    }

    void execute() override {
        if (!course_.newVmm->alive()) return;  // Its exit is what comes next.
        std::vector<Course::Command> commands = settingsOfNewVmm();
        commands.push_back({course_.newVmm.get(), "migrate-incoming", fdsetChannel(stateFdset)});
        course_.run(commands, [] {});
    }

    void migrated() override {
        if (course_.state() == State::Withdrawing && !isUnderWay()) course_.done();
        if (course_.state() == State::Executing && course_.newMigration == MigrationStatus::Completed) course_.done();
    }

    /// Only now can it be seen whether the new VMM has the memory that the old one had.
    void proved(Then then) override {
        course_.exchangeRam(*course_.newVmm, [this, then = std::move(then)](const std::vector<RamBlock>& blocks) {
            Steps::compare(ramBefore_, blocks);
            then();
        });
    }

    void retire(Then then) override {
        struct stat status {};
        if (savedState_ && ::fstat(savedState_.get(), &status) == 0)
            course_.report.bytesSent = static_cast<std::uint64_t>(status.st_size);
        course_.tidy(*course_.newVmm, "remove-fd", {{"fdset-id", stateFdset}}, std::move(then));
    }

    /// As found, and nothing of ours is left in it: without effect on the guest, so a refusal does not matter.
    void undo(Then then) override {
        takeParcels(inbox_.get());
        VmmProcess& old = *course_.oldVmm;
        course_.tidy(old, "migrate-set-parameters", {{"mode", "normal"}}, [this, &old, then = std::move(then)] {
            old.monitor().execute("migrate-set-parameters", {{"cpr-exec-command", json::array()}}, stepTimeout, nullptr);
            removeFdsets(old, {stateFdset, shimFdset}, then);
        });
    }

    void unheeded(Event event, const std::string& cause) override {
        if (executed_ && event == Event::Cancelled && course_.state() < State::Confirming)
            course_.warn("too late to stop, since the new VMM has been executed: " + cause);
    }

    std::string whenLost() const override {
        if (!executed_) return {};
        const std::string pid = std::to_string(course_.oldVmm->record().pid);
        return "the new VMM had been executed in the old one's place, from where there is no way back; " +
               (course_.newVmm->alive() ? "pid " + pid + " is left as it is"
                                        : "pid " + pid + " has ended, and the guest with it");
    }

 private:
    void prepare() {
        const Then then = std::exchange(rehearsed_, nullptr);
        const VmmRecord& old = course_.oldVmm->record();
        const DescriptorPlan plan = planDescriptors(old.pid, ramBefore_, course_.newVmm->parcel().size() + 1);
        course_.newVmm.reset();
        // On disk before it can be executed: from here on the old VMM's process may turn out to be the new one.
        const unsigned generation = old.generation + 1;
        course_.record().new_ =
            VmmRecord{.generation = generation, .pid = old.pid, .startTime = old.startTime, .binary = course_.request.binary};
        course_.directory.write(course_.record());
        savedState_ = UniqueFd(::memfd_create((course_.definition().name + "/state").c_str(), MFD_CLOEXEC));
        if (!savedState_) throwErrno("create a file for the devices' state");
        // As the VMM's user opens it again, in /dev/fdset.
        if (::fchmod(savedState_.get(), 0600) != 0) throwErrno("set the mode of a memfd");
        course_.newVmm = VmmProcess::prepare({.definition = course_.definition(),
                                              .directory = course_.directory,
                                              .generation = generation,
                                              .binary = course_.request.binary,
                                              .ram = {},
                                              .incoming = Incoming::Defer,
                                              .shareImplicitRam = true,
                                              .connectHeartbeat = course_.listensToGuest()},
                                             old, plan.first, reopen(savedState_.get(), O_RDONLY));
        course_.newVmmIsThere();

        takeParcels(inbox_.get());  // Of attempts that came to nothing.
        const std::string label = course_.definition().name + "/" + std::to_string(generation);
        postParcel(course_.oldVmm->directory() + "/exec.sock", label, course_.newVmm->parcel());
        course_.newVmm->release();
        std::string close;
        for (const int fd : plan.close) append(close, std::to_string(fd), ",");
        std::vector<std::string> command{"exec",
                                         "--inbox",
                                         std::to_string(old.inboxDescriptor.value()),
                                         "--label",
                                         label,
                                         "--first",
                                         std::to_string(plan.first),
                                         "--close",
                                         close,
                                         "--"};
        command.insert(command.end(), course_.newVmm->command().begin(), course_.newVmm->command().end());
        const auto added = [this, command, then](const QmpReply& reply) mutable {
            command.insert(command.begin(), "/proc/self/fd/" + std::to_string(reply.value.at("fd").get<int>()));
            course_.run({{course_.oldVmm.get(), "migrate-set-parameters", {{"cpr-exec-command", command}}}}, then);
        };
        course_.ask(
            *course_.oldVmm, "add-fd", {{"fdset-id", stateFdset}},
            [this, added](const QmpReply&) {
                course_.ask(*course_.oldVmm, "add-fd", {{"fdset-id", shimFdset}}, added, reopen(shim_.get(), O_RDONLY));
            },
            reopen(savedState_.get(), O_WRONLY));
    }

    /// Whether the old VMM, which has let go of its monitor or ended, has executed the new one. A new one that has ended again
    /// already runs no program any more, but has said why, in a log of its own.
    bool hasExecuted() const {
        if (executed_ || isFinal(course_.state()) || !course_.isOneProcess() || !course_.migrateSent) return false;
        return runsAProgram(course_.oldVmm->record().pid) || !course_.newVmm->stderrTail().empty();
    }

    void executed() {
        executed_ = true;
        course_.oldVmm->process().ignoreExit();
        course_.newVmm->process().onExit([this] { course_.newVmmEnded(); });
        if (course_.state() == State::Withdrawing) {  // The guest's only way is on.
            course_.warn("too late to stop, since the new VMM was being executed: " + course_.report.cause);
            course_.report.cause.clear();
            course_.report.cancelled = false;
        }
        course_.post(Event::Executed, "the new VMM was executed after all");
    }

    bool isUnderWay() const {
        return course_.migrateSent && !executed_ && course_.oldMigration != MigrationStatus::Failed &&
               course_.oldMigration != MigrationStatus::Cancelled;
    }

    /// Waits for the answers: a monitor that hangs up takes back what it has asked for and QEMU has not begun with
    /// (monitor/qmp.c:monitor_qmp_event, 11.1).
    void removeFdsets(VmmProcess& vmm, std::vector<int> fdsets, Then then) {
        if (fdsets.empty()) return then();
        const int fdset = fdsets.back();
        fdsets.pop_back();
        course_.tidy(vmm, "remove-fd", {{"fdset-id", fdset}},
                     [this, &vmm, fdsets, then = std::move(then)] { removeFdsets(vmm, fdsets, then); });
    }

    UniqueFd inbox_;       ///< The old VMM's, shared with it.
    UniqueFd shim_;        ///< The program that the old VMM executes.
    UniqueFd savedState_;  ///< The devices' state, in a file without a name.
    std::unique_ptr<ShimTrial> shimTrial_;
    std::vector<RamBlock> ramBefore_;
    Then rehearsed_;  ///< While the end of the rehearsed VMM is waited for.
    bool executed_ = false;
};

}  // namespace

std::unique_ptr<Steps> execSteps(Course& course) {
    return std::make_unique<ExecSteps>(course);
}

}  // namespace vh
