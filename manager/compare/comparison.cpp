#include "manager/compare/comparison.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <gio/gio.h>

#include "config/emit.h"
#include "manager/compare/host_facts.h"
#include "manager/compare/inspection.h"
#include "manager/compare/memory_use.h"
#include "manager/compare/own_network.h"
#include "manager/compare/results_file.h"
#include "manager/resources/resources.h"
#include "vmm-shim/elf_file.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr const char* bridgeName = "vhbr0";
constexpr const char* addressPrefix = "10.77.0.";
constexpr const char* workplacePrefix = "/tmp/vhc-";  ///< Short: there are sockets in it.
constexpr unsigned sittingRounds = 10;
constexpr unsigned firstWarmUpTurn = 1'000'000;  ///< No round has that number.
constexpr unsigned failuresInARow = 3;           ///< After so many, a design is given up in its cell.
constexpr milliseconds monitorPatience{10'000};
constexpr milliseconds bootPatience{1'800'000};  ///< Without KVM and on a busy machine RAM is filled at some 100 MiB/s or less.
constexpr milliseconds settling{300};
constexpr std::uint64_t spareBytes = 1ULL << 30;  ///< For the VMMs themselves and the host.

/// Whether that is a directory that a comparison of this user made. A results file may say anything, and it is to be removed.
bool isWorkplace(const std::string& directory) {
    struct stat status {};
    return directory.starts_with(workplacePrefix) && directory.find('/', std::string(workplacePrefix).size()) == directory.npos &&
           ::lstat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == ::geteuid();
}

std::string utcNow() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    ::gmtime_r(&now, &parts);
    char text[32];
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

json phasesOf(const json& report, Design design) {
    // What a reader calls the steps, by the states of handover_table.h.
    static const std::map<std::string, const char*> phases{
        {"preflight", "prepare"},  {"launching", "launch"}, {"exchanging", "exchange"},
        {"verifying", "verify"},   {"switching", "pause"},  {"proving", "pause"},
        {"confirming", "confirm"}, {"retiring", "retire"},  {"ending", "retire"}};
    json times;
    for (const char* phase : {"prepare", "launch", "exchange", "verify", "pause", "confirm", "retire"}) times[phase] = nullptr;
    for (const json& step : report.value("steps", json::array())) {
        const auto phase = phases.find(step.value("state", ""));
        if (phase == phases.end()) continue;
        json& time = times[phase->second];
        time = (time.is_null() ? 0.0 : time.get<double>()) + step.value("durationMs", 0.0);
    }
    // `copy` sends RAM while it is switching, and the guest runs all the while but for the end.
    const json stopped = report.value("vmm", json::object()).value("stopToResumeMs", json());
    if (design == Design::Copy && stopped.is_number() && times["pause"].is_number() && times["exchange"].is_number()) {
        const double sending = std::max(0.0, times["pause"].get<double>() - stopped.get<double>());
        times["exchange"] = times["exchange"].get<double>() + sending;
        times["pause"] = times["pause"].get<double>() - sending;
    }
    return times;
}

/// What is read from /proc of a process that may end at any moment; what could not be read stays `null`.
template <typename Read>
void unlessImpossible(Read read) {
    try {
        read();
    } catch (const std::exception&) {
    }
}

void copyDisk(const std::string& from, const std::string& to) {
    const char* const argv[] = {"cp", "--reflink=auto", "--sparse=always", "--", from.c_str(), to.c_str(), nullptr};
    GError* error = nullptr;
    GSubprocess* process = g_subprocess_newv(argv, G_SUBPROCESS_FLAGS_STDERR_SILENCE, &error);
    const bool copied = process && g_subprocess_wait_check(process, nullptr, &error);
    const std::string problem = error ? error->message : "";
    g_clear_error(&error);
    if (process) g_object_unref(process);
    if (!copied) throw std::runtime_error("cannot copy the disk '" + from + "' for the comparison: " + problem);
}

void makeDisk(const std::string& file) {
    std::ofstream(file).close();
    std::filesystem::resize_file(file, 64ULL << 20);
}

/// The designs in the order of their turns in a round: the same for the same seed, however the run was interrupted.
std::vector<Design> turns(std::vector<Design> designs, std::uint64_t seed, std::size_t cell, unsigned round) {
    std::seed_seq sequence{seed & 0xffffffff, seed >> 32, std::uint64_t{cell}, std::uint64_t{round}};
    std::mt19937_64 random(sequence);
    std::map<std::uint64_t, Design> ordered;
    for (const Design design : designs) ordered.emplace(random(), design);
    designs.clear();
    for (const auto& [key, design] : ordered) designs.push_back(design);
    return designs;
}

std::string titleOf(const Cell& cell, const std::vector<Cell>& all, const json& vmms, const json& entry) {
    const auto varies = [&](auto factor) {
        return std::ranges::any_of(all, [&](const Cell& other) { return factor(other) != factor(cell); });
    };
    std::string title = formatSize(cell.ram.sizeBytes) + " of RAM";
    if (cell.ram.touchedBytes != 0) title = formatSize(cell.ram.touchedBytes) + " of RAM touched";
    const auto version = [&](const char* side) {
        const std::string known = vmms[entry[side].get<std::size_t>()].value("version", "");
        return known.empty() ? "?" : known;
    };
    title += ", " + version("old") + " -> " + version("new");
    if (varies([](const Cell& one) { return one.pageSizeBytes; })) title += ", pages of " + formatSize(cell.pageSizeBytes);
    if (varies([](const Cell& one) { return one.vcpus; })) title += ", " + std::to_string(cell.vcpus) + " CPUs";
    if (varies([](const Cell& one) { return name(one.devices); })) title += ", devices: " + name(cell.devices);
    if (varies([](const Cell& one) { return one.load; })) title += ", load: " + std::string(name(cell.load));
    if (varies([](const Cell& one) { return one.vms; })) title += ", " + std::to_string(cell.vms) + " VMs at once";
    return title;
}

}  // namespace

struct Comparison::Vm {
    unsigned number = 0;
    VmDefinition definition;
    std::string directory;  ///< Of its present VMM process.
    std::string binary;     ///< Of the same.
    pid_t pid = 0;
    bool running = false;
    GuestWatch watch;
};

struct Comparison::Stand {
    MemoryOwner owner = MemoryOwner::Manager;
    std::vector<Design> designs;
    std::vector<Vm> vms;
};

Comparison::Comparison(ComparisonSettings settings, json results, Progress progress)
    : settings_(std::move(settings)), results_(std::move(results)), progress_(std::move(progress)) {
    cells_ = settings_.base ? cellsOf(settings_.plan, *settings_.base) : cellsOf(settings_.plan);
    if (const json& left = results_["workplace"]; left.is_string() && isWorkplace(left)) clearAway(left);
    if (!settings_.evenIfBusy) {
        progress_("looking whether this host is idle enough to measure", 0, 0);
        std::vector<unsigned> runnableSamples;
        const CpuTimes before = CpuTimes::now();
        for (int sample = 0; sample < 20; ++sample) {
            runLoop(milliseconds(100));
            runnableSamples.push_back(runnable());
        }
        if (const auto why = tooBusy(before, CpuTimes::now(), runnableSamples, settings_.plan.stealLimitPercent))
            throw std::runtime_error("this host is too busy to measure: " + *why +
                                     "; wait, or measure all the same with --even-if-busy");
    }
    traceProblem_ = whyNoTrace();
    if (!traceProblem_.empty()) note("ioctls were not counted: " + traceProblem_);
    if (std::ranges::any_of(cells_, [](const Cell& cell) { return cell.devices.network; })) {
        networkProblem_ = enterOwnNetwork(bridgeName);
        if (!networkProblem_.empty()) note("the VMs had no network: " + networkProblem_);
    }
    if (!networkProblem_.empty())
        for (Cell& cell : cells_) cell.devices.network = false;

    std::string directory = workplacePrefix + std::string("XXXXXX");
    if (!::mkdtemp(directory.data())) throwErrno("make a directory in '/tmp'");
    ::chmod(directory.c_str(), 0755);  // The VMMs run as another user.
    workplace_ = {directory, bridgeName, addressPrefix};
    results_["workplace"] = directory;
    host_ = std::make_unique<Host>(directory + "/run", directory);
}

Comparison::~Comparison() {
    host_.reset();
    clearAway(workplace_.directory);
}

void Comparison::interrupt() {
    interrupted_ = true;
    if (host_) host_->cancelHandovers("interrupted");
}

void Comparison::throwIfInterrupted() const {
    if (interrupted_) throw Cancelled{};
}

void Comparison::clearAway(const std::string& directory) {
    const std::string runtime = directory + "/run";
    std::error_code ignored;
    // VMs whose start was cut short have no record, but a directory.
    for (const auto& entry : std::filesystem::directory_iterator(runtime, ignored)) {
        if (!entry.is_directory(ignored)) continue;
        const VmDirectory vm(runtime, entry.path().filename());
        for (int attempt = 0; attempt < 200 && !strayVmms(vm, {}).empty(); ++attempt) {
            // Of VMs that this comparison has made for itself.
            for (const StrayVmm& stray : strayVmms(vm, {})) ChildProcess::of(stray.pid).killAll();
            while (g_main_context_iteration(nullptr, FALSE)) continue;  // Reaps them.
            ::usleep(50'000);
        }
    }
    std::filesystem::remove_all(directory, ignored);
}

void Comparison::runLoop(milliseconds time) {
    bool over = false;
    const EventSource timer = EventSource::after(time, [&over] { over = true; });
    while (!over && !interrupted_) g_main_context_iteration(nullptr, TRUE);
    throwIfInterrupted();
}

VerbResult Comparison::wait(const std::function<void(Verbs::Done)>& verb) {
    // Shared, for an interrupted wait leaves the verb behind.
    const auto answer = std::make_shared<std::optional<VerbResult>>();
    verb([answer](const VerbResult& result) { *answer = result; });
    // A handover that was interrupted goes back by itself; anything else may take long.
    while (!*answer && (!interrupted_ || host_->handoverUnderWay())) g_main_context_iteration(nullptr, TRUE);
    throwIfInterrupted();
    return **answer;
}

void Comparison::note(const std::string& text) {
    for (const json& known : results_["notes"])
        if (known == text) return;
    results_["notes"].push_back(text);
}

void Comparison::write() {
    writeResults(settings_.resultsFile, results_);
}

const json& Comparison::seriesOf(std::size_t cell, Design design) const {
    for (const json& series : results_["cells"][cell]["series"])
        if (series["design"] == name(design)) return series;
    throw std::out_of_range("no series for design '" + std::string(name(design)) + "'");
}

json& Comparison::seriesOf(std::size_t cell, Design design) {
    return const_cast<json&>(std::as_const(*this).seriesOf(cell, design));
}

unsigned Comparison::roundsOf(Design design) const {
    const ComparePlan& plan = settings_.plan;
    return rowOf(design).baseline && plan.baselineRounds != 0 ? std::min(plan.baselineRounds, plan.rounds) : plan.rounds;
}

std::vector<unsigned> Comparison::missing(std::size_t cell, Design design, unsigned first, unsigned last) const {
    const json& series = seriesOf(cell, design);
    std::vector<unsigned> rounds;
    if (series["notRun"] != "") return rounds;
    std::set<unsigned> done;
    for (const json& entry : series["rounds"]) done.insert(entry["round"].get<unsigned>());
    for (unsigned round = first; round <= std::min(last, roundsOf(design)); ++round)
        if (!done.contains(round)) rounds.push_back(round);
    return rounds;
}

void Comparison::tell(const std::string& what) {
    std::size_t left = 0;
    for (std::size_t cell = 0; cell < cells_.size(); ++cell)
        for (const Design design : settings_.plan.designs) left += missing(cell, design, 1, settings_.plan.rounds).size();
    progress_(what, handoversDone_, left);
}

bool Comparison::run() {
    bool complete = true;
    try {
        for (std::size_t cell = 0; cell < cells_.size(); ++cell) runCell(cell);
        if (results_["finishedAt"].is_null()) results_["finishedAt"] = utcNow();
    } catch (const Cancelled&) {
        complete = false;
    }
    host_.reset();
    clearAway(workplace_.directory);
    results_["workplace"] = nullptr;
    return complete;
}

std::vector<Comparison::Stand> Comparison::standsOf(std::size_t index) const {
    const Cell& cell = cells_[index];
    std::vector<Stand> stands;
    for (const MemoryOwner owner : {MemoryOwner::Manager, MemoryOwner::Vmm}) {
        Stand stand{.owner = owner, .designs = {}, .vms = {}};
        for (const Design design : settings_.plan.designs)
            if (ownerFor(design) == owner) stand.designs.push_back(design);
        if (stand.designs.empty()) continue;
        for (unsigned i = 0; i < cell.vms; ++i) {
            const auto number = static_cast<unsigned>(stands.size()) * cell.vms + i;
            Vm vm;
            vm.number = number;
            vm.definition = settings_.base ? guestLike(*settings_.base, cell, workplace_, owner, number)
                                           : guestFor(cell, settings_.plan, workplace_, owner, number);
            stand.vms.push_back(std::move(vm));
        }
        stands.push_back(std::move(stand));
    }
    return stands;
}

void Comparison::runCell(std::size_t index) {
    const Cell& cell = cells_[index];
    const unsigned rounds = settings_.plan.rounds;
    std::vector<Stand> stands = standsOf(index);
    const auto anyMissing = [&](const std::vector<Design>& designs, unsigned first, unsigned last) {
        return std::ranges::any_of(designs, [&](Design design) { return !missing(index, design, first, last).empty(); });
    };
    // What one stand needs, and a design that copies RAM once more.
    const std::uint64_t standBytes = cell.vms * cell.ram.sizeBytes;
    const bool copies =
        cell.ram.baselines && std::ranges::any_of(settings_.plan.designs, [](Design one) { return rowOf(one).baseline; });
    const std::uint64_t needed = (stands.size() + (copies ? 1 : 0)) * standBytes + spareBytes;
    if (standBytes + spareBytes > availableMemoryBytes()) {
        for (const Design design : settings_.plan.designs)
            seriesOf(index, design)["notRun"] = "the VMs of this cell need " + formatSize(standBytes + spareBytes) +
                                                " of memory, and the host has not that much available";
        return;
    }
    const bool hasDevices = settings_.base && !settings_.base->vfio.empty();  // Which only one VM can have at a time.
    if ((needed <= availableMemoryBytes() && !hasDevices) || stands.size() == 1) {
        if (anyMissing(settings_.plan.designs, 1, rounds)) runSitting(index, stands, 1, rounds);
        return;
    }
    note("in cells of " + formatSize(cell.ram.sizeBytes) +
         " the designs that need RAM of the manager's and those that need RAM of the VMM's own "
         "were measured in turns of " +
         std::to_string(sittingRounds) + " rounds and not within each round: " +
         (hasDevices ? "passed-through devices are there only once" : "memory is not enough for both"));
    for (unsigned first = 1; first <= rounds; first += sittingRounds)
        for (Stand& stand : stands) {
            const unsigned last = std::min(rounds, first + sittingRounds - 1);
            if (anyMissing(stand.designs, first, last)) runSitting(index, std::span(&stand, 1), first, last);
        }
}

void Comparison::runSitting(std::size_t cell, std::span<Stand> stands, unsigned first, unsigned last) {
    std::map<Design, Stand*> standOf;
    std::vector<Design> designs;
    for (Stand& stand : stands) {
        for (const Design design : stand.designs) {
            standOf[design] = &stand;
            designs.push_back(design);
        }
        startOrGiveUp(cell, stand);
    }
    write();
    // With VMs that are not what they should be any more, started anew, once more.
    const auto attempt = [&](Design design, const std::function<void(Stand&)>& what) {
        Stand& stand = *standOf[design];
        for (int tries = 0; tries < 2 && seriesOf(cell, design)["notRun"] == ""; ++tries) {
            try {
                return what(stand);
            } catch (const GuestLost&) {
                end(stand);
                if (!startOrGiveUp(cell, stand)) return;
            }
        }
    };
    for (unsigned warmUp = 0; warmUp < settings_.plan.warmUpRounds; ++warmUp)
        for (const Design design : turns(designs, results_["seed"], cell, firstWarmUpTurn + warmUp))
            attempt(design, [&](Stand& stand) { runRound(cell, stand, design, 0, 0); });
    for (const Design design : designs)
        if (seriesOf(cell, design)["inspection"].is_null())
            attempt(design, [&](Stand& stand) { inspectOnce(cell, stand, design); });
    for (unsigned round = first; round <= last; ++round) {
        unsigned order = 0;
        for (const Design design : turns(designs, results_["seed"], cell, round)) {
            ++order;
            attempt(design, [&](Stand& stand) {
                if (!missing(cell, design, round, round).empty()) runRound(cell, stand, design, round, order);
            });
            if (!missing(cell, design, round, round).empty())
                seriesOf(cell, design)["notRun"] = "given up in round " + std::to_string(round) + ": its VMs do not stay alive";
        }
    }
    for (Stand& stand : stands) end(stand);
}

bool Comparison::startOrGiveUp(std::size_t cell, Stand& stand) {
    try {
        start(stand);
        findOutWhichRun(cell, stand);
        return true;
    } catch (const std::runtime_error& error) {
        for (const Design design : stand.designs)
            if (seriesOf(cell, design)["notRun"] == "") seriesOf(cell, design)["notRun"] = error.what();
        end(stand);
        return false;
    }
}

void Comparison::findOutWhichRun(std::size_t cell, Stand& stand) {
    Vm& vm = stand.vms.front();
    setRunning(vm, true);
    for (const Design design : stand.designs) {
        if (seriesOf(cell, design)["notRun"] != "" || !seriesOf(cell, design)["rounds"].empty()) continue;  // It is known.
        const VerbResult result = wait([&](Verbs::Done done) {
            host_->upgrade(
                vm.definition.name, {.binary = cells_[cell].pair.fresh, .design = design, .dryRun = true},
                [](const HandoverProgress&) {}, std::move(done));
        });
        learn(toJson(result), cells_[cell].pair.old, vm.pid);
        learn(toJson(result), cells_[cell].pair.fresh, 0);
        seriesOf(cell, design)["notRun"] = result.report ? result.report->cause : "";
    }
    setRunning(vm, false);
    json& entry = results_["cells"][cell];
    entry["title"] = titleOf(cells_[cell], cells_, results_["vmms"], entry);
}

void Comparison::learn(const json& report, const std::string& binary, pid_t pid) {
    for (json& vmm : results_["vmms"]) {
        if (vmm["binary"] != binary) continue;
        for (const char* side : {"old", "new"})
            if (vmm["version"] == "" && report.contains(side) && report[side].value("binary", "") == binary)
                vmm["version"] = report[side].value("version", "");
        if (vmm["buildId"] == "" && pid != 0) vmm["buildId"] = buildIdOf(Process(pid).program().file);
    }
}

void Comparison::start(Stand& stand) {
    for (Vm& vm : stand.vms) {
        tell("starting a VM with " + formatSize(vm.definition.memory.sizeBytes) + " of RAM");
        for (std::size_t disk = 0; disk < vm.definition.disks.size(); ++disk) {
            const std::string& file = vm.definition.disks[disk].file;
            if (settings_.base)
                copyDisk(settings_.base->disks[disk].file, file);
            else
                makeDisk(file);
        }
        const std::string file = workplace_.directory + "/" + vm.definition.name + ".yaml";
        std::ofstream(file) << toYaml(vm.definition);
        const VerbResult result = wait([&](Verbs::Done done) {
            host_->start(file, vm.definition.heartbeat ? std::optional(bootPatience) : std::nullopt, std::move(done));
        });
        if (result.code != ExitCode::Done) throw std::runtime_error(result.value.value("error", "the VM did not start"));
        results_["host"]["accelerator"] = result.value.value("accelerator", "");
        vm.pid = result.value.value("pid", 0);
        vm.binary = vm.definition.vmm.binary;
        vm.running = true;
        vm.directory =
            wait([&](Verbs::Done done) { host_->show(vm.definition.name, std::move(done)); }).value.value("directory", "");
        if (!vm.definition.heartbeat) runLoop(settings_.bootWait);
        setRunning(vm, false);
    }
}

void Comparison::end(Stand& stand) {
    for (Vm& vm : stand.vms) {
        vm.watch.stopListening();
        wait([&](Verbs::Done done) { host_->destroy(vm.definition.name, std::move(done)); });
        vm.pid = 0;
        std::error_code ignored;
        for (const Disk& disk : vm.definition.disks) std::filesystem::remove(disk.file, ignored);
    }
}

void Comparison::setRunning(Vm& vm, bool running) {
    if (vm.running == running) return;
    try {
        QmpClient monitor(connectUnix(vm.directory + "/qmp.sock"));
        std::optional<QmpReply> answer;
        monitor.execute(running ? "cont" : "stop", nullptr, monitorPatience,
                        [&answer](QmpReply reply) { answer = std::move(reply); });
        while (!answer) g_main_context_iteration(nullptr, TRUE);
        if (!answer->ok()) throw GuestLost{};
    } catch (const std::system_error&) {
        throw GuestLost{};
    }
    vm.running = running;
}

void Comparison::watch(Vm& vm, GuestWatch::Session session) {
    if (!vm.definition.heartbeat) return;
    try {
        vm.watch.listen(vm.directory + "/heartbeat.sock", session);
    } catch (const std::system_error&) {
        throw GuestLost{};
    }
}

/// One handover of every VM of a stand. Round 0 is a warm-up, of which nothing is kept.
void Comparison::runRound(std::size_t index, Stand& stand, Design design, unsigned round, unsigned order) {
    const Cell& cell = cells_[index];
    const ComparePlan& plan = settings_.plan;
    tell("cell " + std::to_string(index + 1) + " of " + std::to_string(cells_.size()) + ", " +
         (round == 0 ? std::string("warm-up") : "round " + std::to_string(round) + " of " + std::to_string(plan.rounds)) + ", " +
         std::string(name(design)));
    if (round > 0) ++handoversDone_;
    struct Attempt {
        std::optional<VerbResult> result;
        std::unique_ptr<Pinger> pinger;
        std::optional<PageFaults> faultsAtSwitch;
        bool guestLost = false;
    };
    std::vector<Attempt> attempts(stand.vms.size());
    std::map<std::string, Vm*> byName;
    for (std::size_t i = 0; i < stand.vms.size(); ++i) {
        Vm& vm = stand.vms[i];
        byName[vm.definition.name] = &vm;
        vm.watch = GuestWatch();
        setRunning(vm, true);
        watch(vm, GuestWatch::Session::Before);
        if (cell.devices.network && !settings_.base) {
            const bool loaded = cell.load == Load::Network;
            try {
                attempts[i].pinger = std::make_unique<Pinger>(guestAddress(workplace_, vm.number), milliseconds(loaded ? 1 : 5),
                                                              loaded ? 1400 : 8);
                attempts[i].pinger->start();
            } catch (const std::system_error& error) {
                note(std::string("the VMs were not asked for echoes: ") + error.what());
            }
        }
    }
    runLoop(plan.before);
    for (Vm& vm : stand.vms) {
        if (vm.definition.heartbeat && vm.watch.beats(GuestWatch::Session::Before) == 0) throw GuestLost{};
        vm.watch.stopListening();
    }

    const CpuTimes cpuBefore = CpuTimes::now();
    const double beganAtMs = steadyMs();
    host_->onGuestHeard(
        [&](const std::string& vm, const std::string& line, std::chrono::steady_clock::time_point at, std::size_t port) {
            byName.at(vm)->watch.heard(line, at, port == 0 ? GuestWatch::Session::Old : GuestWatch::Session::New);
        });
    for (std::size_t i = 0; i < stand.vms.size(); ++i) {
        Vm& vm = stand.vms[i];
        Attempt& attempt = attempts[i];
        host_->upgrade(
            vm.definition.name, {.binary = cell.pair.fresh, .design = design},
            [&attempt](const HandoverProgress& step) {
                if (step.state == State::Retiring) unlessImpossible([&] { attempt.faultsAtSwitch = pageFaults(step.newPid); });
            },
            [this, &attempt, &vm, &cell](const VerbResult& result) {
                attempt.result = result;
                const std::string_view outcome = result.report ? result.report->outcomeText() : "";
                const bool upgraded = outcome == outcomeName(State::Upgraded);
                if (!upgraded && outcome != outcomeName(State::RolledBack)) return;
                host_->show(vm.definition.name, [&vm](const VerbResult& shown) {
                    vm.directory = shown.value.value("directory", "");
                    vm.pid = shown.value.value("pid", 0);
                });
                if (upgraded) vm.binary = cell.pair.fresh;
                try {
                    watch(vm, upgraded ? GuestWatch::Session::After : GuestWatch::Session::Before);
                } catch (const GuestLost&) {
                    attempt.guestLost = true;
                }
            });
    }
    const auto allAnswered = [&] {
        return std::ranges::all_of(attempts, [](const Attempt& attempt) { return attempt.result.has_value(); });
    };
    while (!allAnswered()) g_main_context_iteration(nullptr, TRUE);
    host_->onGuestHeard(nullptr);
    throwIfInterrupted();

    double until = steadyMs();
    for (const Vm& vm : stand.vms)
        if (const auto switchedAt = vm.watch.switchedAtMs())
            until = std::max(until, *switchedAt + static_cast<double>(plan.after.count()));
    runLoop(milliseconds(std::lround(std::max(0.0, until - steadyMs()))));

    const double steal = stealPercent(cpuBefore, CpuTimes::now());
    bool lost = false;
    for (std::size_t i = 0; i < stand.vms.size(); ++i) {
        Vm& vm = stand.vms[i];
        Attempt& attempt = attempts[i];
        vm.watch.stopListening();
        const json report = toJson(*attempt.result);
        const bool upgraded = report.value("outcome", "") == "upgraded";
        learn(report, upgraded ? cell.pair.fresh : "", vm.pid);
        json entry = vm.watch.figures(beganAtMs, cell.writes() && vm.definition.heartbeat, upgraded);
        if (!vm.definition.heartbeat) entry["beats"] = entry["patterns"] = nullptr;
        entry["round"] = round;
        entry["vm"] = i + 1;
        entry["order"] = order;
        entry["outcome"] = report.value("outcome", "lost");
        entry["cause"] = report.value("cause", "");
        entry["stealPercent"] = steal;
        entry["disturbed"] = steal > plan.stealLimitPercent;
        entry["phasesMs"] = phasesOf(report, design);
        entry["totalMs"] = report.value("totalMs", json());
        entry["stopToResumeMs"] = upgraded ? report["vmm"]["stopToResumeMs"] : json();
        entry["guestPauseMs"] = upgraded && report["guest"].is_object() ? report["guest"]["pauseMs"] : json();
        entry["bytesSent"] = upgraded ? report["bytesSent"] : json();
        entry["ramCopiedBytes"] = upgraded ? report["ramCopiedBytes"] : json();
        entry["pageFaults"] = nullptr;
        if (upgraded && attempt.faultsAtSwitch)
            unlessImpossible([&] {
                const PageFaults now = pageFaults(vm.pid), then = *attempt.faultsAtSwitch;
                if (now.minor >= then.minor && now.major >= then.major)
                    entry["pageFaults"] = {{"minor", now.minor - then.minor}, {"major", now.major - then.major}};
            });
        entry["network"] = nullptr;
        if (attempt.pinger) {
            const PingResult pings = attempt.pinger->stop(milliseconds(200));
            entry["network"] = {{"sent", pings.sent},
                                {"lost", pings.lost},
                                {"longestGapMs", pings.longestGapMs ? json(*pings.longestGapMs) : json()}};
        }
        lost = lost || attempt.guestLost || entry["outcome"] == outcomeName(State::Lost) || entry["outcome"] == silentOutcome;
        if (round > 0) seriesOf(index, design)["rounds"].push_back(std::move(entry));
    }
    if (round > 0) {
        json& series = seriesOf(index, design);
        const json& entries = series["rounds"];
        const bool hopeless =
            entries.size() >= failuresInARow && std::all_of(entries.end() - failuresInARow, entries.end(),
                                                            [](const json& entry) { return entry["outcome"] != "upgraded"; });
        if (hopeless)
            series["notRun"] =
                "given up after " + std::to_string(failuresInARow) + " failures in a row: " + entries.back().value("cause", "");
        write();
    }
    if (lost) throw GuestLost{};
    goBack(stand);
}

/// To where the next round begins: on the pair's old VMM, stopped.
void Comparison::goBack(Stand& stand) {
    for (Vm& vm : stand.vms) {
        const std::string old = vm.definition.vmm.binary;
        if (vm.binary != old) {
            const VerbResult result = wait([&](Verbs::Done done) {
                host_->upgrade(
                    vm.definition.name, {.binary = old, .design = Design::Relayed}, [](const HandoverProgress&) {},
                    std::move(done));
            });
            if (result.code != ExitCode::Done) {
                note("VMs had to be started anew in place of going back from " + vm.binary + " to " + old + ": " +
                     (result.report ? result.report->cause : ""));
                throw GuestLost{};
            }
            const VerbResult shown = wait([&](Verbs::Done done) { host_->show(vm.definition.name, std::move(done)); });
            vm.directory = shown.value.value("directory", "");
            vm.pid = shown.value.value("pid", 0);
            vm.binary = old;
            runLoop(settling);
        }
        setRunning(vm, false);
    }
}

/// A handover that is looked at closely, and therefore not timed.
void Comparison::inspectOnce(std::size_t index, Stand& stand, Design design) {
    const Cell& cell = cells_[index];
    Vm& vm = stand.vms.front();
    tell("cell " + std::to_string(index + 1) + " of " + std::to_string(cells_.size()) + ", looking closely at " +
         std::string(name(design)));
    setRunning(vm, true);
    runLoop(settling);
    std::unique_ptr<TraceWrapper> trace;
    if (traceProblem_.empty())
        trace = std::make_unique<TraceWrapper>(workplace_.directory, cell.pair.fresh, Identity::of(vm.definition.vmm.user));
    json found{{"memoryOldBytes", nullptr},    {"memoryBothBytes", nullptr}, {"extraMemoryBytes", nullptr},
               {"descriptors", json::array()}, {"ioctls", nullptr},          {"memfds", nullptr},
               {"untraced", traceProblem_}};
    std::uint64_t before = 0;
    unlessImpossible([&] {
        before = memoryInUse({vm.pid});
        found["memoryOldBytes"] = before;
    });
    const char* passedBy = design == Design::Relayed ? "relay" : design == Design::VmmExec ? "exec" : "CPR channel";
    const VerbResult result = wait([&](Verbs::Done done) {
        host_->upgrade(
            vm.definition.name, {.binary = trace ? trace->program() : cell.pair.fresh, .design = design},
            [&](const HandoverProgress& step) {
                if (step.state != State::Retiring || !step.inherited) return;
                unlessImpossible([&] {
                    const std::uint64_t both = memoryInUse({step.oldPid, step.newPid});
                    found["memoryBothBytes"] = both;
                    if (before != 0) found["extraMemoryBytes"] = both > before ? both - before : 0;
                    found["descriptors"] = descriptorsOf(step.oldPid, step.newPid, *step.inherited, passedBy);
                });
            },
            std::move(done));
    });
    if (result.report && result.report->outcomeText() == outcomeName(State::Upgraded)) {
        vm.binary = trace ? trace->program() : cell.pair.fresh;
        const VerbResult shown = wait([&](Verbs::Done done) { host_->show(vm.definition.name, std::move(done)); });
        vm.directory = shown.value.value("directory", "");
        vm.pid = shown.value.value("pid", 0);
        if (trace)
            unlessImpossible([&] {
                const TraceCount count = trace->countOf(vm.pid);
                found["ioctls"] = count.ioctls;
                found["memfds"] = count.memfds;
            });
        seriesOf(index, design)["inspection"] = found;
        write();
        // Off the traced VMM, also where old and new are the same binary.
        if (vm.binary != vm.definition.vmm.binary) goBack(stand);
        return;
    }
    if (result.code == ExitCode::Lost) throw GuestLost{};
    setRunning(vm, false);
}

json newResults(const ComparisonSettings& settings, const std::vector<std::string>& command, const std::string& version) {
    const ComparePlan& plan = settings.plan;
    const std::vector<Cell> cells = settings.base ? cellsOf(plan, *settings.base) : cellsOf(plan);
    json vmms = json::array();
    const auto indexOf = [&vmms](const std::string& binary) {
        for (std::size_t i = 0; i < vmms.size(); ++i)
            if (vmms[i]["binary"] == binary) return i;
        vmms.push_back({{"binary", binary}, {"version", ""}, {"buildId", ""}});
        return vmms.size() - 1;
    };
    json entries = json::array();
    for (const Cell& cell : cells) {
        json entry = toJson(cell);
        entry["id"] = idOf(cell, plan);
        entry["old"] = indexOf(cell.pair.old);
        entry["new"] = indexOf(cell.pair.fresh);
        entry["title"] = entry["id"];
        json series = json::array();
        for (const Design design : plan.designs)
            series.push_back(
                {{"design", name(design)},
                 {"notRun", rowOf(design).baseline && !cell.ram.baselines ? "the plan leaves it out at this size" : ""},
                 {"rounds", json::array()},
                 {"inspection", nullptr}});
        entry["series"] = series;
        entries.push_back(entry);
    }
    json host = hostFacts();
    host["accelerator"] = "";
    return {{"format", "virt-handover-compare/1"},
            {"version", version},
            {"command", command},
            {"startedAt", utcNow()},
            {"finishedAt", nullptr},
            {"seed", *plan.seed},
            {"settings",
             {{"plan", toYaml(plan)},
              {"definition", settings.base ? json(toYaml(*settings.base)) : json()},
              {"bootWaitMs", settings.bootWait.count()},
              {"rounds", plan.rounds},
              {"baselineRounds", plan.baselineRounds == 0 ? plan.rounds : plan.baselineRounds},
              {"warmUpRounds", plan.warmUpRounds},
              {"beforeMs", plan.before.count()},
              {"afterMs", plan.after.count()},
              {"stealLimitPercent", plan.stealLimitPercent}}},
            {"host", host},
            {"vmms", vmms},
            {"cells", entries},
            {"summary", nullptr},
            {"workplace", nullptr},
            {"notes", json::array()}};
}

}  // namespace vh
