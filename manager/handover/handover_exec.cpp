// Design vmm-exec, the parts of a handover that are its own: the old QEMU executes the new one in its own process.
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
// wants to stop (the pause budget, a person) has the migration cancelled and waits for what comes of it, since the exec may win;
// after it nothing stops the handover but a failure, which is told as lost. The process is not ended by us then, whatever
// happens.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "manager/handover/handover.h"
#include "manager/handover/in_place.h"
#include "vmm-shim/exec_inbox.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds cancelPatience{10'000};

/// As if the new VMM had the old one's files, which a rehearsed one cannot have and an executed one will.
std::vector<RamBlock> withFilesOf(const std::vector<RamBlock>& old, std::vector<RamBlock> fresh) {
    for (RamBlock& block : fresh) {
        const auto before = std::ranges::find(old, block.idstr, &RamBlock::idstr);
        if (block.file && before != old.end() && before->file) block.file = before->file;
    }
    return fresh;
}

}  // namespace

void Handover::checkExec(std::function<void()> then) {
    if (const std::string forbidden = whyExecIsForbidden(old_->record().pid); !forbidden.empty())
        throw std::runtime_error(forbidden);
    inbox_ = takeInbox(old_->record(), old_->directory());
    const std::string program = shimProgram();
    shim_ = UniqueFd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
    if (!shim_) throw std::system_error(errno, std::generic_category(), "open '" + program + "'");
    gatherRam(*old_, [this, program, then = std::move(then)](const std::vector<RamBlock>& blocks) {
        if (const std::string lost = blockLostByExec(blocks); !lost.empty())
            throw std::runtime_error(
                "RAM block '" + lost +
                "' of the old VMM is no shared file that it keeps open: an exec would lose its content; give its "
                "memory backend share=on, or use design 'copy'");
        shimTrial_ = std::make_unique<ShimTrial>(
            shim_.get(), program, Identity::of(request_.definition.vmm.user), within([this, then](const std::string& problem) {
                if (!problem.empty()) throw std::runtime_error(problem);
                report_.warnings.push_back(
                    "design 'vmm-exec' has no way back once the new VMM has been executed, just "
                    "after the guest is stopped");
                then();
            }));
    });
}

void Handover::verifyRehearsal() {
    gatherRam(*old_, [this](const std::vector<RamBlock>& old) {
        if (const std::string lost = blockLostByExec(old); !lost.empty())
            throw std::runtime_error("RAM block '" + lost + "' of the old VMM would be lost by an exec");
        gatherRam(*new_, [this, old](const std::vector<RamBlock>& fresh) {
            compareRam(old, withFilesOf(old, fresh));
            ramBeforeExec_ = old;
            rehearsalEnds_ = true;
            new_->process().killAll();  // Its exit is met by newExited().
        });
    });
}

void Handover::prepareExec() {
    const VmmRecord& old = old_->record();
    const DescriptorPlan plan = planDescriptors(old.pid, ramBeforeExec_, new_->parcel().size() + 1);
    new_.reset();
    // On disk before it can be executed: from here on the old VMM's process may turn out to be the new one.
    const unsigned generation = old.generation + 1;
    request_.record.fresh =
        VmmRecord{.generation = generation, .pid = old.pid, .startTime = old.startTime, .binary = request_.binary};
    directory_.write(request_.record);
    savedState_ = UniqueFd(::memfd_create((request_.definition.name + "/state").c_str(), MFD_CLOEXEC));
    if (!savedState_) throw std::system_error(errno, std::generic_category(), "create a file for the devices' state");
    // As the VMM's user opens it again, in /dev/fdset.
    if (::fchmod(savedState_.get(), 0600) != 0)
        throw std::system_error(errno, std::generic_category(), "set the mode of a memfd");
    const bool listensToGuest = request_.definition.heartbeat && wasRunning_;
    new_ = VmmProcess::prepare({.definition = request_.definition,
                                .directory = directory_,
                                .generation = generation,
                                .binary = request_.binary,
                                .ram = {},
                                .incoming = Incoming::Defer,
                                .shareImplicitRam = true,
                                .connectHeartbeat = listensToGuest},
                               old, plan.first, reopen(savedState_.get(), O_RDONLY));
    report_.fresh.pid = old.pid;
    checkDisks();
    recordNewVmm();
    new_->monitor().onEvent([this](const QmpEvent& event) { newEvent(event); });
    if (listensToGuest) heartbeat_.listen(new_->takeHeartbeat());

    takeParcels(inbox_.get());  // Of attempts that came to nothing.
    const std::string label = request_.definition.name + "/" + std::to_string(generation);
    postParcel(old_->directory() + "/exec.sock", label, new_->parcel());
    new_->release();
    std::string close;
    for (const int fd : plan.close) close += (close.empty() ? "" : ",") + std::to_string(fd);
    execArguments_ = {"exec",
                      "--inbox",
                      std::to_string(old.inboxDescriptor.value()),
                      "--label",
                      label,
                      "--first",
                      std::to_string(plan.first),
                      "--close",
                      close,
                      "--"};
    execArguments_.insert(execArguments_.end(), new_->command().begin(), new_->command().end());
    const auto added = [this](const QmpReply& reply) {
        if (!reply.ok()) return post(Event::Failed, errorText(*old_, "add-fd", *reply.error));
        std::vector<std::string> command = execArguments_;
        command.insert(command.begin(), "/proc/self/fd/" + std::to_string(reply.value.at("fd").get<int>()));
        run({{old_.get(), "migrate-set-parameters", {{"cpr-exec-command", command}}}}, [this] { done(); });
    };
    send(
        *old_, "add-fd", {{"fdset-id", stateFdset}},
        [this, added](const QmpReply& reply) {
            if (!reply.ok()) return post(Event::Failed, errorText(*old_, "add-fd", *reply.error));
            send(*old_, "add-fd", {{"fdset-id", shimFdset}}, added, reopen(shim_.get(), O_RDONLY));
        },
        reopen(savedState_.get(), O_WRONLY));
}

void Handover::executeNew() {
    old_->monitor().onClosed([this] {
        if (hasExecuted()) newExecuted();
    });
    migrateSent_ = true;
    run({{old_.get(), "migrate", fdsetChannel(stateFdset)}}, [] {});
}

/// Whether the old VMM, which has let go of its monitor or ended, has executed the new one. A new one that has ended again
/// already runs no program any more, but has said why, in a log of its own.
bool Handover::hasExecuted() const {
    if (executed_ || isFinal(state_) || !isOneProcess() || !migrateSent_) return false;
    return runsAProgram(old_->record().pid) || !new_->lastWords().empty();
}

void Handover::newExecuted() {
    executed_ = true;
    pauseBudget_.reset();  // The guest's only way is on.
    old_->process().ignoreExit();
    new_->process().onExit([this] { newExited(); });
    if (state_ != State::Switching) return post(Event::Failed, "the new VMM was executed after all");
    if (stopAsked_) report_.warnings.push_back("too late to stop, since the new VMM was being executed: " + stopAsked_->second);
    if (!new_->alive()) return;  // newExited() is next.
    within([this] {
        std::vector<Command> commands = settingsOfNewVmm();
        commands.push_back({new_.get(), "migrate-incoming", fdsetChannel(stateFdset)});
        run(commands, [] {});
    })();
}

/// While the old VMM may execute the new one at any moment, nobody can say that it will not: has its migration cancelled, and
/// lets what comes of it decide. Returns whether the event has been dealt with.
bool Handover::stopBeforeExec(Event event, const std::string& cause) {
    if (executed_ && event == Event::Cancelled && isBeforePointOfNoReturn(state_)) {
        report_.warnings.push_back("too late to stop, since the new VMM has been executed: " + cause);
        return true;
    }
    const bool isUnderWay = isOneProcess() && state_ == State::Switching && migrateSent_ && !executed_ &&
                            oldMigration_ != "failed" && oldMigration_ != "cancelled";
    if (!isUnderWay || (event != Event::TimedOut && event != Event::Cancelled)) return false;
    if (stopAsked_) return event == Event::Cancelled;  // What was asked for does not come either.
    stopAsked_ = {event, cause};
    pauseBudget_.reset();
    deadline_ = EventSource::after(cancelPatience, within([this, cause] { post(Event::TimedOut, cause); }));
    old_->monitor().execute("migrate_cancel", nullptr, cancelPatience, nullptr);
    return true;
}

std::string Handover::noWayBack() const {
    const std::string pid = std::to_string(old_->record().pid);
    return "the new VMM had been executed in the old one's place, from where there is no way back; " +
           (new_->alive() ? "pid " + pid + " is left as it is" : "pid " + pid + " has ended, and the guest with it");
}

/// As found, and nothing of ours is left in it: without effect on the guest, so a refusal does not matter.
void Handover::undoExecSettings(std::function<void()> then) {
    takeParcels(inbox_.get());
    old_->monitor().execute("migrate-set-parameters", {{"cpr-exec-command", json::array()}}, cancelPatience, nullptr);
    removeFdsets(*old_, {stateFdset, shimFdset}, std::move(then));
}

/// Waits for the answers: a monitor that hangs up takes back what it has asked for and QEMU has not begun with
/// (monitor/qmp.c:monitor_qmp_event, 11.1).
void Handover::removeFdsets(VmmProcess& vmm, std::vector<int> fdsets, std::function<void()> then) {
    if (fdsets.empty()) return then();
    const int fdset = fdsets.back();
    fdsets.pop_back();
    send(vmm, "remove-fd", {{"fdset-id", fdset}},
         [this, &vmm, fdsets, then = std::move(then)](const QmpReply&) { removeFdsets(vmm, fdsets, then); });
}

void Handover::measureState() {
    struct stat status {};
    if (savedState_ && ::fstat(savedState_.get(), &status) == 0) report_.bytesSent = static_cast<std::uint64_t>(status.st_size);
    done();
}

}  // namespace vh
