// Upgrades of live VMs in a row, while whoever does them is killed at random times: `chaos --rounds N --seed S`. Prints each
// thing that is not as it has to be, and in the end all figures as a JSON object; ends with 0 only when nothing was wrong.
//
// A round takes some of the VMs and upgrades each, by a command (`--embed`) or through virt-handoverd; prepares (`--standby`) and
// commits or cancels; starts or destroys another VM. Meanwhile others list and show them. At a random moment of that somebody is
// killed, asked to end, or frozen for a while: the command, the daemon, or a VMM. Then the next verb has to settle what is half
// done, which may be killed, too. After each round each VM has to be as witness.h sees it: one VMM, which runs the guest, is on
// record and shown as such; the same memory; a guest that beats on and finds nothing wrong; and nothing left over of any other.
//
// Never killed: a VMM that may hold the guest. The new one is killed only while it waits for a commit, or by its own manager
// (`chaos discard`, below), who knows that it has not been told to run the guest. Executed VMMs (vmm-exec) are one process from
// the beginning to the end, so that there the manager alone is killed.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <thread>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "manager/compare/own_network.h"
#include "manager/process/child_process.h"
#include "tests/support/vm_fixture.h"
#include "tests/system/witness.h"
#include "vmm-shim/unix_socket.h"

namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using namespace vh;
using namespace vh::test;
namespace fs = std::filesystem;

constexpr const char* bridge = "vhbr0";
constexpr milliseconds verbTimeout{120'000};   ///< No verb may take longer, whatever befalls it.
constexpr milliseconds settleTimeout{60'000};  ///< For processes to be gone and descriptors to be closed, once a verb has ended.

volatile sig_atomic_t stopped = 0;

struct Options {
    unsigned rounds = 40;
    double minutes = 0;
    unsigned upgrades = 0;
    std::uint64_t seed = 1;
    std::string vms = "both";
    unsigned load = 0;
    bool verbose = false;
};

// ------------------------------------------------------------------------------------------------------------- programs

/// A program of ours that runs.
class Program {
 public:
    Program(const Workspace& workspace, const std::string& name, const std::vector<std::string>& command)
        : files_(workspace.path() + "/" + name), begun_(Clock::now()) {
        // Until it has begun to write, there must not be what the last one of that name has written.
        for (const char* kind : {".out", ".err"}) fs::remove(files_ + kind);
        pid_ = spawnProgram(workspace, command, name);
    }
    Program(const Program&) = delete;
    ~Program() {
        if (ended()) return;
        send(SIGKILL);
        int status = 0;
        ::waitpid(pid_, &status, 0);
    }

    bool ended() {
        int status = 0;
        if (pid_ == 0 || ::waitpid(pid_, &status, WNOHANG) != pid_) return pid_ == 0;
        code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        took_ = std::chrono::duration_cast<milliseconds>(Clock::now() - begun_);
        pid_ = 0;
        return true;
    }
    /// False when it has ended already: it is reaped only here, so that no other process can have its pid.
    bool send(int signal) { return !ended() && ::kill(pid_, signal) == 0; }

    pid_t pid() const { return pid_; }
    int code() const { return code_; }
    milliseconds took() const { return took_; }
    Clock::time_point begun() const { return begun_; }
    std::string output() const { return readIfThere(files_ + ".out"); }
    std::string error() const { return readIfThere(files_ + ".err"); }

    /// What it printed last with --json: an upgrade that stood by has printed two documents.
    json answer() const {
        const std::string text = output();
        const std::size_t start = text.rfind("\n{\n");
        const json value = json::parse(start == std::string::npos ? text : text.substr(start + 1), nullptr, false);
        return value.is_object() ? value : json::object();
    }

 private:
    std::string files_;
    Clock::time_point begun_;
    pid_t pid_ = 0;
    int code_ = -1;
    milliseconds took_{0};
};

/// A process that is not our child, to be frozen or killed.
class Target {
 public:
    Target(pid_t pid, std::uint64_t startTime) : process_(ChildProcess::adopt(pid, startTime)) {}
    bool send(int signal) const {
        if (!process_.alive()) return false;
        process_.kill(signal);
        return true;
    }

 private:
    ChildProcess process_;
};

// ---------------------------------------------------------------------------------------------------------------- figures

/// What a round found wrong.
struct Fault {
    std::string kind;  ///< lost, orphaned, twice, damaged, leaked, lied, stuck
    std::string text;
};

struct Figures {
    unsigned rounds = 0, upgrades = 0;
    std::map<std::string, unsigned> outcomes;  ///< upgraded, silent, rolled back, refused, cancelled, interrupted
    std::map<std::string, std::map<std::string, unsigned>> blows;  ///< Whom it met, and in which state of the handover.
    std::map<std::string, unsigned> faults;

    json toJson(const Options& options, double seconds) const {
        return {{"seed", options.seed}, {"rounds", rounds}, {"upgrades", upgrades}, {"outcomes", outcomes},
                {"blows", blows},       {"faults", faults}, {"seconds", seconds}};
    }
};

// -------------------------------------------------------------------------------------------------------------------- VMs

struct Vm {
    std::string name;
    Design design = Design::Relayed;
    bool isReference = false;
    bool hasTap = false;
    std::vector<std::string> binaries;  ///< The first is what it is started with.
    std::size_t firstTarget = 0;        ///< Of those, the ones that it can be upgraded to.
    std::string definition;

    // As it was found at the end of the last round.
    pid_t pid = 0;
    std::uint64_t startTime = 0;
    unsigned generation = 0;
    std::string ram;
    std::uint64_t beat = 0;
    std::set<std::string> entries;  ///< Of its generation's directory.
    std::string record, olderRecord;
    std::map<std::string, std::map<std::string, int>> openFiles;  ///< Of its VMM, by the binary.
    milliseconds typical{800};                                    ///< What an upgrade of it takes.
};

enum class Verb { Upgrade, DryRun, StandbyCommit, StandbyCancel, Discard };

const char* nameOf(Verb verb) {
    switch (verb) {
        case Verb::Upgrade:
            return "upgrade";
        case Verb::DryRun:
            return "upgrade --dry-run";
        case Verb::StandbyCommit:
            return "upgrade --standby, commit";
        case Verb::StandbyCancel:
            return "upgrade --standby, cancel";
        case Verb::Discard:
            return "upgrade whose new VMM is killed";
    }
    return "";
}

/// One VM's part in a round.
struct Attempt {
    Vm* vm = nullptr;
    Verb verb = Verb::Upgrade;
    bool embedded = true;
    std::string binary;
    std::unique_ptr<Program> first;   ///< upgrade
    std::unique_ptr<Program> second;  ///< commit, cancel
    std::optional<Clock::time_point> standingSince;
    milliseconds hold{0};      ///< How long it stands by.
    bool killsNew = false;     ///< Then, its new VMM.
    bool interrupted = false;  ///< Its manager was killed.
    bool askedToEnd = false;   ///< Its manager was.
    std::string recordBefore;

    /// The handover's state as the command was told; the words are handover_table.h's.
    std::string state() const {
        std::string last = "not begun";
        for (const Program* program : {first.get(), second.get()}) {
            if (!program) continue;
            std::istringstream lines(program->error() + program->output());
            for (std::string line; std::getline(lines, line);)
                for (const State state :
                     {State::Preflight, State::Launching, State::Exchanging, State::Verifying, State::StandingBy,
                      State::Switching, State::Proving, State::Confirming, State::Retiring})
                    if (line.starts_with("  " + std::string(vh::name(state)) + " ")) last = vh::name(state);
        }
        // What is printed while the guest stands still is printed later.
        return last == "switching" ? "switching to confirming" : last;
    }
};

struct Blow {
    Clock::time_point at;
    std::function<void()> strike;
};

/// A blow whose time counts from when a VM's new VMM is on record.
struct Ambush {
    const Vm* vm;
    Blow blow;
};

// ------------------------------------------------------------------------------------------------------------------ chaos

class Chaos {
 public:
    explicit Chaos(const Options& options) : options_(options) {}

    int run();

 private:
    // Choices. Each round has a seed of its own, so that it does the same whatever those before it met with.
    unsigned below(unsigned end) { return std::uniform_int_distribution<unsigned>(0, end - 1)(random_); }
    bool chance(unsigned percent) { return below(100) < percent; }
    milliseconds within(milliseconds length) { return milliseconds(below(static_cast<unsigned>(length.count()) + 1)); }

    std::vector<std::string> command(bool embedded, const std::vector<std::string>& verb) const {
        std::vector<std::string> command{required("VH_CLI"), "--runtime-dir", workspace_.runtime(), "--json"};
        if (embedded) command.emplace_back("--embed");
        command.insert(command.end(), verb.begin(), verb.end());
        return command;
    }
    std::unique_ptr<Program> begin(const std::string& name, bool embedded, const std::vector<std::string>& verb) {
        return std::make_unique<Program>(workspace_, name, command(embedded, verb));
    }
    /// Runs a verb to its end; again as long as it is refused because a killed command's child still has the lock.
    std::unique_ptr<Program> complete(const std::string& name, bool embedded, const std::vector<std::string>& verb);

    void addVms();
    std::string definitionOf(const Vm& vm) const;
    void startVm(Vm& vm);
    void startDaemon();
    void awaitDaemon();
    VmDirectory directoryOf(const Vm& vm) const { return {workspace_.runtime(), vm.name}; }

    void round();
    Attempt choose(Vm& vm, bool embedded, bool standbyOnly);
    void beginAttempt(Attempt& attempt);
    bool stepAttempt(Attempt& attempt);
    void giveUp(Attempt& attempt);
    void schedule(const Attempt& attempt, std::size_t crowd, std::function<void()> strike);
    void aim(std::vector<Attempt>& attempts, bool embedded);
    void freeze(const std::string& whom, const std::string& state, std::function<bool(int)> send);
    void strikeDue();
    void visit(bool embedded);
    void endVisit();
    void look();

    void hear(Attempt& attempt);
    void settle(Attempt& attempt);
    void inspect(Vm& vm);
    std::vector<Fault> faultsOf(Vm& vm, bool remember);
    void inspectHost();
    void meddle(Vm& vm);
    void repair(Vm& vm);
    void fault(const std::string& kind, const std::string& text);
    void met(const std::string& whom, const std::string& state) {
        ++figures_.blows[whom][state];
        said(whom + " in '" + state + "'");
    }
    void said(const std::string& text) const {
        if (options_.verbose) std::cerr << "round " << figures_.rounds << ": " << text << std::endl;
    }
    void endAll();

    Options options_;
    Workspace workspace_;
    std::mt19937_64 random_;
    Figures figures_;
    std::vector<std::unique_ptr<Vm>> vms_;
    Vm visitor_;
    bool visitorRuns_ = false, visitorWasMet_ = false;
    std::unique_ptr<Program> visit_;
    std::vector<std::unique_ptr<Program>> onlookers_;
    std::unique_ptr<Program> daemon_;
    std::map<std::string, int> daemonFiles_;
    bool daemonWasMet_ = false;
    std::vector<Blow> blows_, thaws_;
    std::vector<Ambush> ambushes_;
    bool hasNetwork_ = false;
    bool faulty_ = false;  ///< This round.
};

void Chaos::fault(const std::string& kind, const std::string& text) {
    ++figures_.faults[kind];
    faulty_ = true;
    std::cerr << "seed " << options_.seed << ", round " << figures_.rounds << ": " << kind << ": " << text << std::endl;
}

std::unique_ptr<Program> Chaos::complete(const std::string& name, bool embedded, const std::vector<std::string>& verb) {
    const auto end = Clock::now() + settleTimeout;
    for (;;) {
        std::unique_ptr<Program> program = begin(name, embedded, verb);
        if (!turnUntil([&] { return program->ended(); }, verbTimeout)) {
            fault("stuck", "'" + verb.front() + "' of vm '" + name + "' does not end");
            program->send(SIGKILL);
            turnUntil([&] { return program->ended(); }, settleTimeout);
            return program;
        }
        const json answer = program->answer();
        const std::string words = answer.value("error", "") + answer.value("cause", "") + program->error();
        // A daemon that has just come up may say any of these of what it is about to settle.
        const bool isBusy = words.find("another command is at work") != std::string::npos ||
                            words.find("has an upgrade that stands by") != std::string::npos ||
                            words.find("is still being settled") != std::string::npos;
        if (program->code() != 2 || !isBusy || Clock::now() > end) return program;
        std::this_thread::sleep_for(milliseconds(50));
    }
}

void Chaos::addVms() {
    const auto add = [&](const std::string& name, Design design, bool isReference, std::vector<std::string> binaries) {
        Vm vm{.name = name, .design = design, .isReference = isReference, .binaries = std::move(binaries)};
        // There is no way back from 11.1 for VMM-owned memory.
        vm.firstTarget = design == Design::VmmOwned ? 1 : 0;
        vm.hasTap = hasNetwork_ && !isReference && design == Design::Relayed;
        vms_.push_back(std::make_unique<Vm>(std::move(vm)));
    };
    if (options_.vms != "real") {
        std::vector<std::string> references;
        for (const std::string version : {"10.0", "11.1"})
            references.push_back(workspace_.referenceVmm("reference-" + version, "--as " + version));
        add("ref-relayed", Design::Relayed, true, references);
        add("ref-managed", Design::ManagerOwned, true, references);
        add("ref-vmm", Design::VmmOwned, true, references);
        visitor_ = {.name = "visitor", .isReference = true, .binaries = references};
    }
    if (options_.vms != "reference") {
        const std::vector<std::string> qemus{oldQemu(), newQemu()};
        add("relayed", Design::Relayed, false, qemus);
        add("managed", Design::ManagerOwned, false, qemus);
        add("vmm", Design::VmmOwned, false, qemus);
        add("executed", Design::VmmExec, false, {newQemu()});
        if (options_.vms == "real") visitor_ = {.name = "visitor", .binaries = qemus};
    }
    visitor_.definition = definitionOf(visitor_);
    for (const std::unique_ptr<Vm>& vm : vms_) {
        vm->definition = definitionOf(*vm);
        startVm(*vm);
        if (faultsOf(*vm, true).empty()) continue;
        for (const Fault& one : faultsOf(*vm, true)) fault(one.kind, "after the start: " + one.text);
        throw std::runtime_error("vm '" + vm->name + "' is not well before anything was done to it");
    }
}

std::string Chaos::definitionOf(const Vm& vm) const {
    // Deadlines as for a machine that is much busier than it should be. The pause budget is shorter than some freezes.
    const std::string handover =
        "pause_budget: 1s, deadlines: {launch: 40s, exchange: 30s, verify: 30s, switch: 30s, retire: 30s}";
    const std::string owner = vm.design == Design::VmmOwned || vm.design == Design::VmmExec ? "vmm" : "manager";
    if (vm.isReference)
        return workspace_.file(vm.name + ".yaml", referenceDefinition(vm.name, vm.binaries.front(),
                                                                      "handover: {design: " + std::string(vh::name(vm.design)) +
                                                                          ", " + handover + "}\n",
                                                                      "{size: 64MiB, owner: " + owner + "}"));
    VmOptions options{.name = vm.name,
                      .owner = owner,
                      .withLinux = true,
                      .design = vm.design,
                      .binary = vm.binaries.front(),
                      .handover = handover};
    if (vm.hasTap) options.more = std::string("networks: [{id: net0, type: tap, bridge: ") + bridge + "}]\n";
    return writeDefinition(workspace_, options);
}

void Chaos::startVm(Vm& vm) {
    const std::unique_ptr<Program> start =
        complete(vm.name, true, {"start", vm.definition, "--wait-heartbeat", vm.isReference ? "20s" : "120s"});
    // The reference VMM's guest has no RAM to fill that it would tell of.
    if (start->code() != 0) throw std::runtime_error("vm '" + vm.name + "' does not start: " + start->output() + start->error());
    vm.pid = start->answer().value("pid", 0);
    vm.ram.clear();
    vm.beat = 0;
    vm.generation = 0;
    vm.record.clear();
    vm.olderRecord.clear();
    vm.entries.clear();
    vm.openFiles.clear();
}

void Chaos::startDaemon() {
    daemon_ = std::make_unique<Program>(
        workspace_, "daemon",
        std::vector<std::string>{required("VH_DAEMON"), "--runtime-dir", workspace_.runtime(), "--definitions", "/nonexistent"});
    daemonFiles_.clear();
}

void Chaos::awaitDaemon() {
    if (!turnUntil([&] { return isListening(workspace_.runtime() + "/manager.sock") || daemon_->ended(); }, verbTimeout) ||
        daemon_->ended())
        throw std::runtime_error("the daemon does not come up: " + daemon_->error());
}

// ---------------------------------------------------------------------------------------------------------------- a round

Attempt Chaos::choose(Vm& vm, bool embedded, bool killsNew) {
    Attempt attempt{.vm = &vm, .embedded = embedded};
    const unsigned number = static_cast<unsigned>(vm.binaries.size() - vm.firstTarget);
    attempt.binary = vm.binaries[vm.firstTarget + below(number)];
    attempt.hold = milliseconds(below(300));
    const unsigned which = below(100);
    attempt.verb = which < 70   ? Verb::Upgrade
                   : which < 80 ? Verb::DryRun
                   : which < 92 ? Verb::StandbyCommit
                                : Verb::StandbyCancel;
    if (killsNew && vm.design != Design::VmmExec) {
        attempt.verb = embedded && chance(75) ? Verb::Discard : Verb::StandbyCommit;
        attempt.killsNew = true;
    }
    return attempt;
}

void Chaos::beginAttempt(Attempt& attempt) {
    const std::string& vm = attempt.vm->name;
    if (attempt.verb != Verb::DryRun) ++figures_.upgrades;
    said(std::string(nameOf(attempt.verb)) + " of " + vm + (attempt.embedded ? " by a command" : " by the daemon") + " to " +
         attempt.binary);
    if (attempt.verb == Verb::Discard) {
        attempt.first = std::make_unique<Program>(
            workspace_, vm,
            std::vector<std::string>{"/proc/self/exe", "discard", workspace_.runtime(), vm, attempt.binary,
                                     std::to_string(within(attempt.vm->typical).count())});
        return;
    }
    std::vector<std::string> verb{"upgrade", vm, "--to", attempt.binary};
    if (attempt.verb == Verb::DryRun) verb.emplace_back("--dry-run");
    if (attempt.verb == Verb::StandbyCommit || attempt.verb == Verb::StandbyCancel) verb.emplace_back("--standby");
    attempt.first = begin(vm, attempt.embedded, verb);
}

/// Goes on with it; true when all of it has ended.
bool Chaos::stepAttempt(Attempt& attempt) {
    const bool firstEnded = attempt.first->ended();
    if (attempt.verb != Verb::StandbyCommit && attempt.verb != Verb::StandbyCancel) return firstEnded;
    if (!attempt.standingSince) {
        const bool stands = attempt.embedded ? attempt.first->error().find("holding") != std::string::npos
                                             : firstEnded && attempt.first->answer().value("outcome", "") == "standing by";
        if (!stands) return firstEnded;
        attempt.standingSince = Clock::now();
    }
    if (!attempt.second && Clock::now() >= *attempt.standingSince + attempt.hold) {
        if (attempt.killsNew) {
            // Nobody but us commits it, so that it cannot have been told to run the guest.
            const std::optional<VmRecord> record = directoryOf(*attempt.vm).read();
            if (record && record->new_ && Target(record->new_->pid, record->new_->startTime).send(SIGKILL))
                met("new VMM killed", "standing by");
        }
        attempt.second = begin(attempt.vm->name + "-2", attempt.embedded,
                               {attempt.verb == Verb::StandbyCommit ? "commit" : "cancel", attempt.vm->name});
    }
    return firstEnded && attempt.second && attempt.second->ended();
}

void Chaos::giveUp(Attempt& attempt) {
    for (Program* program : {attempt.first.get(), attempt.second.get()}) {
        if (!program || program->ended()) continue;
        std::string text = std::string(nameOf(attempt.verb)) + " of vm '" + attempt.vm->name +
                           "' does not end: " + program->output() + program->error();
        if (attempt.second && program != attempt.second.get())
            text += "; the other, exit status " + std::to_string(attempt.second->code()) + ": " + attempt.second->output() +
                    attempt.second->error();
        fault("stuck", text);
        program->send(SIGKILL);
        turnUntil([&] { return program->ended(); }, settleTimeout);
    }
    attempt.interrupted = true;
}

void Chaos::freeze(const std::string& whom, const std::string& state, std::function<bool(int)> send) {
    if (!send(SIGSTOP)) return;
    met(whom + " frozen", state);
    thaws_.push_back({Clock::now() + milliseconds(50 + below(1'950)), [send] { send(SIGCONT); }});
}

/// Half of the time at any moment of a part that takes a little longer than usual; else so long after its new VMM is on record,
/// for most of the time passes before.
void Chaos::schedule(const Attempt& attempt, std::size_t crowd, std::function<void()> strike) {
    const bool stands = attempt.verb == Verb::StandbyCommit || attempt.verb == Verb::StandbyCancel;
    const milliseconds length = attempt.vm->typical * (crowd + 3) / 4 + (stands ? attempt.hold : milliseconds(0));
    if (chance(50)) return blows_.push_back({Clock::now() + within(length * 115 / 100), std::move(strike)});
    ambushes_.push_back({attempt.vm, {Clock::time_point() + within(length * 60 / 100), std::move(strike)}});
}

/// Who is met in this round, and when.
void Chaos::aim(std::vector<Attempt>& attempts, bool embedded) {
    const unsigned which = below(100);
    for (Attempt& attempt : attempts) {
        Attempt* one = &attempt;
        std::function<void()> strike;
        if (which < 58 && embedded) {
            strike = [this, one, signal = which < 50 ? SIGKILL : SIGTERM] {
                const std::string state = one->state();
                if (!one->first->send(signal)) return;
                met(signal == SIGKILL ? "command killed" : "command asked to end", state);
                (signal == SIGKILL ? one->interrupted : one->askedToEnd) = true;
            };
        } else if (which < 58) {
            strike = [this, &attempts, one, signal = which < 50 ? SIGKILL : SIGTERM] {
                const std::string state = one->state();
                if (!daemon_->send(signal)) return;
                met(signal == SIGKILL ? "daemon killed" : "daemon asked to end", state);
                daemonWasMet_ = true;
                for (Attempt& other : attempts) other.interrupted = true;
            };
        } else if (which < 67) {
            strike = [this, one, embedded] {
                freeze(embedded ? "command" : "daemon", one->state(),
                       [this, one, embedded](int signal) { return embedded ? one->first->send(signal) : daemon_->send(signal); });
            };
        } else if (which < 74) {
            strike = [this, one, old = std::make_shared<Target>(attempt.vm->pid, attempt.vm->startTime)] {
                freeze("old VMM", one->state(), [old](int signal) { return old->send(signal); });
            };
        } else if (which < 81 && attempt.vm->design != Design::VmmExec) {
            strike = [this, one] {
                const std::optional<VmRecord> record = directoryOf(*one->vm).read();
                if (!record || !record->new_) return;
                const auto newVmm = std::make_shared<Target>(record->new_->pid, record->new_->startTime);
                freeze("new VMM", one->state(), [newVmm](int signal) { return newVmm->send(signal); });
            };
        }
        if (strike) schedule(attempt, attempts.size(), strike);
        if (!embedded && which < 67) return;  // There is one daemon.
    }
}

void Chaos::strikeDue() {
    const auto now = Clock::now();
    std::erase_if(ambushes_, [&](Ambush& ambush) {
        const std::optional<VmRecord> record = directoryOf(*ambush.vm).read();
        if (!record || !record->new_) return false;
        blows_.push_back({now + (ambush.blow.at - Clock::time_point()), std::move(ambush.blow.strike)});
        return true;
    });
    for (std::vector<Blow>* blows : {&thaws_, &blows_}) {
        const auto due = std::stable_partition(blows->begin(), blows->end(), [now](const Blow& blow) { return blow.at > now; });
        const std::vector<Blow> struck(std::make_move_iterator(due), std::make_move_iterator(blows->end()));
        blows->erase(due, blows->end());
        for (const Blow& blow : struck) blow.strike();  // Which may add others.
    }
}

/// Another VM comes or goes meanwhile.
void Chaos::visit(bool embedded) {
    visitorWasMet_ = false;
    visit_ = begin(
        "visitor", embedded,
        visitorRuns_ ? std::vector<std::string>{"destroy", "visitor"} : std::vector<std::string>{"start", visitor_.definition});
    if (!embedded || !chance(70)) return;
    const std::string verb = visitorRuns_ ? "destroy" : "start";
    const auto kill = [this, verb] {
        if (!visit_->send(SIGKILL)) return;
        visitorWasMet_ = true;
        met("command killed", verb);
    };
    if (visitorRuns_ || chance(50)) return blows_.push_back({Clock::now() + milliseconds(below(visitorRuns_ ? 150 : 400)), kill});
    // Between the record and `cont` are moments that chance alone finds too seldom.
    const Clock::time_point end = Clock::now() + milliseconds(3'000);
    const std::string record = directoryOf(visitor_).path() + "/record.json";
    while (!fs::exists(record) && !visit_->ended() && Clock::now() < end)
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    kill();
}

void Chaos::endVisit() {
    const bool wasInterrupted = visitorWasMet_ || daemonWasMet_;
    const int code = visit_->code();
    if (!wasInterrupted && code != 0)
        fault("stuck",
              std::string(visitorRuns_ ? "destroy" : "start") + " of vm 'visitor': " + visit_->output() + visit_->error());
    // Half started is to be finished or undone by whatever comes next, and until then shown as what it is.
    const std::unique_ptr<Program> shown = complete("visitor-shown", true, {"show", "visitor"});
    std::vector<SeenVmm> seen;
    turnUntil(
        [&] {
            seen = seenVmms(directoryOf(visitor_), visitor_.ram);
            return wasInterrupted || seen.size() == (visitorRuns_ ? 0U : 1U);
        },
        settleTimeout);
    const bool runs = std::ranges::any_of(seen, [](const SeenVmm& vmm) { return vmm.runState == "running"; });
    if (shown->answer().value("state", "") == "running" && !runs)
        fault("lied", "vm 'visitor' is shown as running, and its VMM is " + (seen.empty() ? "not there" : seen.front().runState));
    const bool wantsStart = !visitorRuns_;
    if (wasInterrupted) {
        if (chance(50)) complete("visitor-looked-at", true, {"upgrade", "visitor", "--dry-run"});
        const std::unique_ptr<Program> again = wantsStart ? complete("visitor", true, {"start", visitor_.definition})
                                                          : complete("visitor", true, {"destroy", "visitor"});
        const std::string said = again->output() + again->error();
        const bool good = again->code() == 0 || (wantsStart && said.find("runs already") != std::string::npos) ||
                          (!wantsStart && said.find("is not running here") != std::string::npos);
        if (!good) fault("stuck", std::string(wantsStart ? "start" : "destroy") + " after one that was killed: " + said);
    }
    visitorRuns_ = wantsStart;
    std::string wrong;
    turnUntil(
        [&] {
            seen = seenVmms(directoryOf(visitor_), visitor_.ram);
            wrong.clear();
            if (seen.size() != (visitorRuns_ ? 1U : 0U)) wrong = std::to_string(seen.size()) + " VMMs";
            for (const SeenVmm& vmm : seen)
                if (vmm.runState != "running") wrong = "its VMM is " + vmm.runState;
            if (!visitorRuns_ && fs::exists(directoryOf(visitor_).path())) wrong = "its directory is there";
            return wrong.empty();
        },
        settleTimeout);
    if (!wrong.empty()) {
        fault(seen.empty() && visitorRuns_ ? "lost" : "leaked",
              "vm 'visitor' is " + std::string(visitorRuns_ ? "started" : "destroyed") + ", and " + wrong);
        repair(visitor_);
        visitorRuns_ = false;
    }
    if (visitorRuns_) visitor_.ram = ramFileOf(seen.front().pid);
    visit_.reset();
}

/// Somebody lists and shows meanwhile.
void Chaos::look() {
    const bool embedded = chance(50);
    const bool lists = chance(50);
    const std::string name = "onlooker" + std::to_string(onlookers_.size());
    onlookers_.push_back(begin(name, embedded,
                               lists ? std::vector<std::string>{"list"}
                                     : std::vector<std::string>{"show", vms_[below(static_cast<unsigned>(vms_.size()))]->name}));
}

void Chaos::round() {
    ++figures_.rounds;
    faulty_ = daemonWasMet_ = false;
    random_.seed(options_.seed * 1'000'003 + figures_.rounds);
    blows_.clear();
    const bool embedded = chance(60);
    const bool killsNew = chance(15);
    const unsigned crowd = below(100);
    const auto most = static_cast<unsigned>(vms_.size());
    std::vector<unsigned> order(most);
    for (unsigned i = 0; i < most; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random_);
    order.resize(crowd < 35 ? 1 : crowd < 75 ? std::min(2U, most) : 1 + below(most));

    std::vector<Attempt> attempts;
    for (const unsigned i : order) attempts.push_back(choose(*vms_[i], embedded, killsNew));
    for (Attempt& attempt : attempts) beginAttempt(attempt);
    if (!killsNew) aim(attempts, embedded);
    const auto now = Clock::now();
    if (chance(35)) blows_.push_back({now + milliseconds(below(60)), [this, embedded] { visit(embedded); }});
    for (unsigned i = below(4); i > 0; --i) blows_.push_back({now + milliseconds(below(800)), [this] { look(); }});

    const auto end = now + verbTimeout;
    for (;;) {
        strikeDue();
        bool allEnded = !visit_ || visit_->ended();
        for (Attempt& attempt : attempts) allEnded = stepAttempt(attempt) && allEnded;
        for (const auto& onlooker : onlookers_) allEnded = onlooker->ended() && allEnded;
        if (allEnded) break;
        if (Clock::now() > end) {
            for (Attempt& attempt : attempts) giveUp(attempt);
            break;
        }
        std::this_thread::sleep_for(milliseconds(1));
    }
    blows_.clear();
    ambushes_.clear();
    for (const Blow& thaw : std::exchange(thaws_, {})) thaw.strike();
    if (visit_) turnUntil([&] { return visit_->ended(); }, verbTimeout);
    turnUntil([&] { return std::ranges::all_of(onlookers_, [](const auto& onlooker) { return onlooker->ended(); }); },
              verbTimeout);
    for (const auto& onlooker : onlookers_)
        if (onlooker->code() != 0 && !(daemonWasMet_ && onlooker->code() == 5))
            fault("lied", "a look at the VMs ends with " + std::to_string(onlooker->code()) + ": " + onlooker->output() +
                              onlooker->error());
        else if (onlooker->answer().value("state", "") == "dead")
            fault("lied", "shown as dead: " + onlooker->answer().value("vm", ""));
    onlookers_.clear();

    for (Attempt& attempt : attempts) hear(attempt);
    if (daemonWasMet_) {
        if (!turnUntil([&] { return daemon_->ended(); }, verbTimeout)) fault("stuck", "the daemon does not end");
        startDaemon();
    }
    if (visit_) endVisit();
    for (Attempt& attempt : attempts) settle(attempt);
    if (daemonWasMet_) awaitDaemon();
    // Those that had no part in it now and then.
    std::set<const Vm*> inspected;
    for (const Attempt& attempt : attempts) inspected.insert(attempt.vm);
    for (const std::unique_ptr<Vm>& vm : vms_)
        if (figures_.rounds % 10 == 0 || inspected.contains(vm.get())) inspect(*vm);
    if (chance(12)) meddle(*vms_[order.front()]);
    inspectHost();
    // An executed VMM has a sandbox more each time, and is refused when there are 200 (in_place.cpp).
    for (const std::unique_ptr<Vm>& vm : vms_)
        if (vm->design == Design::VmmExec && vm->generation >= 150) {
            complete(vm->name, true, {"destroy", vm->name});
            startVm(*vm);
        }
}

/// What a verb said of itself must be so.
void Chaos::hear(Attempt& attempt) {
    Program& last = attempt.second ? *attempt.second : *attempt.first;
    // What ends while it stands by is reported to whoever prepared it, and only then.
    const json report = last.answer().contains("outcome") ? last.answer() : attempt.first->answer();
    const std::string title = std::string(nameOf(attempt.verb)) + " of vm '" + attempt.vm->name + "'";
    // Asked to end before it was listening to that, it ends at once.
    if (attempt.askedToEnd && attempt.first->code() == 128 + SIGTERM) attempt.interrupted = true;
    if (attempt.interrupted) return void(++figures_.outcomes["interrupted"]);
    for (const Program* program : {attempt.first.get(), attempt.second.get()})
        if (program && program->code() >= 128)
            return fault("lied", title + " ends by signal " + std::to_string(program->code() - 128) + ": " + program->error());
    if (attempt.verb == Verb::DryRun) return;
    std::string outcome = report.value("outcome", "");
    if (attempt.verb == Verb::StandbyCancel && attempt.second && attempt.second->code() == 0) outcome = "cancelled";
    const std::optional<VmRecord> record = directoryOf(*attempt.vm).read();
    const std::string words = title + ": exit status " + std::to_string(last.code()) + ", " + report.dump() + last.error();
    if (outcome == "standing by" && attempt.second && attempt.second->code() == 2) outcome = "rolled back";
    // Asked to end before its handover had begun.
    if (outcome.empty() && attempt.askedToEnd && attempt.first->code() == static_cast<int>(ExitCode::Unreachable) &&
        attempt.first->output().empty())
        outcome = "refused";
    ++figures_.outcomes[outcome.empty() ? "no outcome" : outcome];
    said(title + ": " + outcome + " " + report.value("cause", ""));
    if (outcome == "lost" || outcome.empty()) return fault("lied", words);
    const unsigned generation = record ? record->vmm.generation : 0;
    // "Silent" is upgraded, and a guest that was not heard: the inspection will tell whether that is so.
    if ((generation != attempt.vm->generation) != (outcome == "upgraded" || outcome == "silent"))
        fault("lied", "the VMM on record is number " + std::to_string(generation) + " and was number " +
                          std::to_string(attempt.vm->generation) + ", and " + words);
    if (outcome == "upgraded" && record && record->vmm.binary != attempt.binary)
        fault("lied", "it runs on " + record->vmm.binary + "; " + words);
    const json guest = report.value("guest", json());  // One that was asked to end at once has no report.
    if (!guest.is_object()) return;
    if (guest.value("lost", 0) + guest.value("repeated", 0) > 0 || !guest.value("errors", json::array()).empty())
        fault("damaged", words);
    if (outcome == "upgraded" && attempt.verb == Verb::Upgrade && attempt.first->code() == 0)
        attempt.vm->typical = (attempt.vm->typical * 3 + attempt.first->took()) / 4;
}

/// The next verb finishes or undoes what an earlier one left half done; sometimes that is killed as well.
void Chaos::settle(Attempt& attempt) {
    const std::optional<VmRecord> record = directoryOf(*attempt.vm).read();
    if (!attempt.interrupted && !(record && record->new_) && !chance(15)) return;
    Vm& vm = *attempt.vm;
    const std::string binary = vm.binaries[vm.firstTarget + below(static_cast<unsigned>(vm.binaries.size() - vm.firstTarget))];
    std::vector<std::string> verb{"upgrade", vm.name, "--to", binary, "--pause-budget", "60s"};
    const bool isDry = chance(60);
    if (isDry)
        verb.emplace_back("--dry-run");
    else
        ++figures_.upgrades;
    for (unsigned again = 0; again < 3 && chance(30); ++again) {
        const std::unique_ptr<Program> killed = begin(vm.name + "-settles", true, verb);
        std::this_thread::sleep_for(within(vm.typical));
        if (killed->send(SIGKILL)) met("recovering command killed", isDry ? "dry run" : "upgrade");
        if (!turnUntil([&] { return killed->ended(); }, settleTimeout)) fault("stuck", "a killed command does not end");
    }
    const std::unique_ptr<Program> settled = complete(vm.name + "-settles", true, verb);
    const json report = settled->answer();
    said("settled: " + report.value("outcome", "") + " " + report.value("cause", ""));
    if (!isDry) ++figures_.outcomes[report.value("outcome", "no outcome")];
    if (settled->code() != 0)
        fault(settled->code() == 4 ? "lost" : "stuck", "vm '" + vm.name + "' is not settled: exit status " +
                                                           std::to_string(settled->code()) + ", " + report.dump() +
                                                           settled->error());
}

// ------------------------------------------------------------------------------------------------------------- inspection

std::string differenceOf(const std::set<std::string>& found, const std::set<std::string>& expected) {
    std::string text;
    for (const std::string& entry : found)
        if (!expected.contains(entry)) text += " +" + entry;
    for (const std::string& entry : expected)
        if (!found.contains(entry)) text += " -" + entry;
    return text;
}

std::string moreIn(const std::map<std::string, int>& found, const std::map<std::string, int>& expected) {
    std::string text;
    for (const auto& [kind, count] : found) {
        const auto known = expected.find(kind);
        const int before = known == expected.end() ? 0 : known->second;
        if (count > before) text += " " + kind + " (" + std::to_string(before) + " to " + std::to_string(count) + ")";
    }
    return text;
}

/// All that is not as it has to be; with `remember`, what is found becomes what is expected.
std::vector<Fault> Chaos::faultsOf(Vm& vm, bool remember) {
    std::vector<Fault> faults;
    const VmDirectory directory = directoryOf(vm);
    const std::string title = "vm '" + vm.name + "': ";
    std::optional<VmRecord> record;
    try {
        record = directory.read();
    } catch (const std::exception& error) {
        faults.push_back({"lost", error.what()});
    }
    if (!record) return faults.empty() ? std::vector<Fault>{{"lost", title + "there is no record"}} : faults;
    const std::string home = directory.generation(record->vmm.generation);

    const std::vector<SeenVmm> seen = seenVmms(directory, vm.ram);
    std::string all;
    for (const SeenVmm& vmm : seen)
        all += " pid " + std::to_string(vmm.pid) + " ('" + vmm.directory + "') is " + vmm.runState + ";";
    const auto isOnRecord = [&](const SeenVmm& vmm) { return vmm.pid == record->vmm.pid; };
    const auto runs = [](const SeenVmm& vmm) { return vmm.runState == "running"; };
    const auto running = std::ranges::count_if(seen, runs);
    const auto one = std::ranges::find_if(seen, isOnRecord);
    if (running > 1) faults.push_back({"twice", title + all});
    if (running == 0) faults.push_back({"lost", title + "nobody runs the guest:" + all});
    if (running == 1 && (one == seen.end() || !runs(*one)))
        faults.push_back({"orphaned", title + "on record is pid " + std::to_string(record->vmm.pid) + ", and:" + all});
    if (seen.size() > 1) faults.push_back({"leaked", title + "VMMs are left:" + all});
    if (record->new_) faults.push_back({"stuck", title + "a handover is on record, to pid " + std::to_string(record->new_->pid)});
    for (const auto& [isLeft, what] : {std::pair{record->starting, "starting"}, std::pair{record->toldToRun, "toldToRun"},
                                       std::pair{record->retiring.has_value(), "retiring"}})
        if (isLeft) faults.push_back({"stuck", title + "its record says '" + what + "', and nobody is at work on it"});
    if (!faults.empty()) return faults;

    const std::string ram = ramFileOf(record->vmm.pid);
    if (vm.ram.empty()) vm.ram = ram;
    if (ram != vm.ram || ram.empty()) faults.push_back({"damaged", title + "its memory is " + ram + " and was " + vm.ram});
    const Pulse pulse = pulseOf(home, !vm.isReference);
    if (!pulse.beat)
        faults.push_back({"lost", title + "the guest is silent"});
    else if (*pulse.beat <= vm.beat)
        faults.push_back({"damaged", title + "the guest went back, from beat " + std::to_string(vm.beat) + " to " +
                                         std::to_string(*pulse.beat)});
    for (const std::string& error : pulse.errors) faults.push_back({"damaged", title + "the guest reports: " + error});
    if (pulse.status.contains("mismatches") && pulse.status.at("mismatches") > 0)
        faults.push_back(
            {"damaged", title + "the guest has counted " + std::to_string(pulse.status.at("mismatches")) + " errors"});

    std::set<std::string> places;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory.path())) places.insert(entry.path().filename());
    places.erase("last-report.json");  // Which a VM has once a handover of it has come to something.
    const std::string extra = differenceOf(places, {"record.json", std::to_string(record->vmm.generation)});
    if (!extra.empty()) faults.push_back({"leaked", title + "in its directory:" + extra});
    std::set<std::string> entries = entriesOf(home);
    entries.erase("ram-blocks");  // Which a VMM has once a handover has compared its memory.
    if (vm.entries.empty()) vm.entries = entries;
    if (const std::string odd = differenceOf(entries, vm.entries); !odd.empty())
        faults.push_back({"leaked", title + "in its generation's directory:" + odd});
    std::map<std::string, int> files;
    const auto known = vm.openFiles.find(record->vmm.binary);
    std::string more;
    // It may not have noticed yet that we have hung up.
    turnUntil(
        [&] {
            files = openFilesOf(record->vmm.pid);
            if (known != vm.openFiles.end()) more = moreIn(files, known->second);
            return more.empty();
        },
        milliseconds(2'000));
    if (!more.empty()) faults.push_back({"leaked", title + "its VMM has open:" + more});
    if (faults.empty() && remember) {
        vm.pid = record->vmm.pid;
        vm.startTime = record->vmm.startTime;
        if (vm.generation != record->vmm.generation)
            vm.olderRecord = std::exchange(vm.record, readIfThere(directory.path() + "/record.json"));
        vm.generation = record->vmm.generation;
        vm.beat = *pulse.beat;
        vm.openFiles[record->vmm.binary] = files;  // Often fewer than it was first seen with.
    }
    return faults;
}

void Chaos::inspect(Vm& vm) {
    std::vector<Fault> faults;
    const auto end = Clock::now() + settleTimeout;
    do {
        faults = faultsOf(vm, true);
    } while (!faults.empty() && Clock::now() < end && (std::this_thread::sleep_for(milliseconds(100)), true));
    if (faults.empty()) return;
    for (const Fault& one : faults) fault(one.kind, one.text);
    repair(vm);
    startVm(vm);
    for (const Fault& one : faultsOf(vm, true)) throw std::runtime_error("started anew, and: " + one.text);
}

/// What is said of all VMs, and what is left on the host by none in particular.
void Chaos::inspectHost() {
    std::set<std::string> expected;
    for (const std::unique_ptr<Vm>& vm : vms_) expected.insert(vm->name + " running " + std::to_string(vm->pid));
    const bool embedded = chance(50);
    std::string wrong;
    // A VMM that gets no time has no answer within the second that it is asked for.
    const auto end = Clock::now() + settleTimeout;
    do {
        std::set<std::string> running;
        const json answer = complete("list", embedded, {"list"})->answer();
        for (const json& vm : answer.value("vms", json::array()))
            running.insert(vm.value("vm", "") + " " + vm.value("state", "") + " " + std::to_string(vm.value("pid", 0)));
        std::erase_if(running, [](const std::string& entry) { return entry.starts_with("visitor running"); });
        wrong = differenceOf(running, expected);
    } while (wrong.find(" no answer ") != std::string::npos && Clock::now() < end);
    if (!wrong.empty()) fault("lied", "the list says:" + wrong);

    if (hasNetwork_) {
        const auto taps = static_cast<std::size_t>(std::ranges::count_if(vms_, [](const auto& vm) { return vm->hasTap; }));
        std::set<std::string> found;
        turnUntil(
            [&] {
                found = interfacesNamed("vh");
                found.erase(bridge);
                return found.size() == taps;
            },
            settleTimeout);
        if (found.size() != taps) fault("leaked", "taps:" + differenceOf(found, {}));
    }
    std::string more;
    turnUntil(
        [&] {
            std::map<std::string, int> files = openFilesOf(daemon_->pid());
            // One for each VMM that it started and that lives.
            int& children = files["anon_inode:[pidfd]"];
            children = std::max(0, children - static_cast<int>(vms_.size()) - 1);
            // GLib makes one for each of its threads, when it needs them.
            int& wakeUps = files["anon_inode:[eventfd]"];
            wakeUps = std::max(0, wakeUps - 8);
            if (daemonFiles_.empty()) daemonFiles_ = files;
            more = moreIn(files, daemonFiles_);
            return more.empty();
        },
        settleTimeout);
    if (!more.empty()) {
        fault("leaked", "the daemon has open:" + more);
        daemonFiles_.clear();
    }
}

/// Somebody puts an older record back. Whatever verb comes next may refuse, and must leave the guest alone.
void Chaos::meddle(Vm& vm) {
    if (vm.olderRecord.empty()) return;
    const std::string file = directoryOf(vm).path() + "/record.json";
    said("an older record of " + vm.name + " is put back");
    std::ofstream(file) << vm.olderRecord;
    std::vector<std::string> verb{"upgrade", vm.name, "--to", vm.binaries.back()};
    if (chance(50)) verb.emplace_back("--dry-run");
    const std::unique_ptr<Program> program = complete(vm.name + "-meddled", chance(50), verb);
    if (program->code() == 0 || program->code() >= 128)
        fault("lied", "by an older record of vm '" + vm.name + "', an upgrade ends with " + std::to_string(program->code()) +
                          ": " + program->output() + program->error());
    std::ofstream(file) << vm.record;
    inspect(vm);
}

/// After a fault: ends all that is left of a VM, so that the next round begins well.
void Chaos::repair(Vm& vm) {
    const std::string directory = directoryOf(vm).path();
    std::cerr << "  what is there:";
    for (const auto& entry : entriesOf(directory)) std::cerr << " " << entry;
    json record = json::parse(readIfThere(directory + "/record.json"), nullptr, false);
    if (record.is_object()) record.erase("definitionText");
    std::cerr << "\n  its record: " << (record.is_discarded() ? "none" : record.dump()) << std::endl;
    complete(vm.name, true, {"destroy", vm.name});
    for (const SeenVmm& vmm : seenVmms(directoryOf(vm), vm.ram)) Target(vmm.pid, Process(vmm.pid).startTime()).send(SIGKILL);
    turnUntil([&] { return seenVmms(directoryOf(vm), vm.ram).empty(); }, settleTimeout);
    std::error_code ignored;
    fs::remove_all(directoryOf(vm).path(), ignored);
}

void Chaos::endAll() {
    if (daemon_ && daemon_->send(SIGTERM)) turnUntil([&] { return daemon_->ended(); }, verbTimeout);
    std::vector<const Vm*> all{&visitor_};
    for (const std::unique_ptr<Vm>& vm : vms_) all.push_back(vm.get());
    for (const Vm* vm : all)
        if (fs::exists(directoryOf(*vm).path())) complete(vm->name, true, {"destroy", vm->name});
    for (const Vm* vm : all)
        for (const SeenVmm& vmm : seenVmms(directoryOf(*vm), vm->ram)) {
            fault("leaked", "after its end, vm '" + vm->name + "' has pid " + std::to_string(vmm.pid));
            Target(vmm.pid, Process(vmm.pid).startTime()).send(SIGKILL);
        }
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(workspace_.runtime()))
        if (entry.path().extension() != ".lock") fault("leaked", "'" + entry.path().string() + "' after the end of all VMs");
}

int Chaos::run() {
    const auto begin = Clock::now();
    const auto seconds = [begin] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    if (::geteuid() == 0) {
        const std::string problem = enterOwnNetwork(bridge);
        hasNetwork_ = problem.empty();
        if (!hasNetwork_) std::cerr << "chaos: without taps: " << problem << "\n";
    } else {
        std::cerr << "chaos: without taps, which need root\n";
    }
    std::vector<pid_t> busy;
    try {
        addVms();
        startDaemon();
        awaitDaemon();
        for (unsigned i = 0; i < options_.load; ++i) {
            const pid_t child = ::fork();
            if (child == 0)
                while (::getppid() != 1) continue;
            busy.push_back(child);
        }
        while (stopped == 0 && figures_.rounds < options_.rounds &&
               (options_.minutes == 0 || seconds() < options_.minutes * 60) &&
               (options_.upgrades == 0 || figures_.upgrades < options_.upgrades))
            round();
    } catch (const std::exception& error) {
        fault("stuck", error.what());
    }
    for (const pid_t child : busy) {
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
    }
    endAll();
    std::cout << figures_.toJson(options_, seconds()).dump() << std::endl;
    return figures_.faults.empty() && figures_.rounds > 0 ? 0 : 1;
}

// -------------------------------------------------------------------------------------------------------------- the other

/// `discard RUNTIME VM BINARY DELAY_MS`: an upgrade by a manager of its own, who kills the new VMM so long after it has begun,
/// unless it may have been told to run the guest by then. Prints the report, as the command does.
int discard(const std::vector<std::string>& arguments) {
    Host host(arguments.at(0), "/nonexistent");
    UpgradeOptions options;
    options.binary = arguments.at(2);
    State state = State::Preflight;
    pid_t newPid = 0;
    const EventSource later = EventSource::after(milliseconds(std::stoi(arguments.at(3))), [&] {
        if (newPid > 0 && state < State::Confirming) ::kill(newPid, SIGKILL);
    });
    int code = 0;
    bool ended = false;
    host.upgrade(
        arguments.at(1), options,
        [&](const HandoverProgress& progress) {
            state = progress.state;
            newPid = progress.newPid;
        },
        [&](const VerbResult& result) {
            std::cout << jsonText(toJson(result), 2) << std::endl;
            code = static_cast<int>(result.code);
            ended = true;
        });
    while (!ended) g_main_context_iteration(nullptr, TRUE);
    return code;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 6 && std::string(argv[1]) == "discard") return discard({argv + 2, argv + argc});
    Options options;
    CLI::App app("Upgrades VMs while whoever does it is killed at random times.", "chaos");
    app.add_option("--rounds", options.rounds, "how many at most")->capture_default_str();
    app.add_option("--upgrades", options.upgrades, "end after so many upgrades; 0: do not count them")->capture_default_str();
    app.add_option("--minutes", options.minutes, "end after so long; 0: do not look at the clock")->capture_default_str();
    app.add_option("--seed", options.seed, "of all that is random")->capture_default_str();
    app.add_option("--vms", options.vms, "real (QEMU), reference (the reference VMM) or both")
        ->check(CLI::IsMember({"real", "reference", "both"}))
        ->capture_default_str();
    app.add_option("--load", options.load, "so many processes that do nothing but keep a core busy")->capture_default_str();
    app.add_flag("--verbose", options.verbose, "say what is done");
    CLI11_PARSE(app, argc, argv);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, [](int) { stopped = 1; });
    ::signal(SIGPIPE, SIG_IGN);
    try {
        return Chaos(options).run();
    } catch (const std::exception& error) {
        std::cerr << "chaos: " << error.what() << "\n";
        return 1;
    }
}
