#include "plugin/upgrade/manager_command.h"

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "config/obstacle.h"
#include "plugin/host/command.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/proc.h"

namespace vh {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using std::chrono::milliseconds, std::chrono::steady_clock;

// After being asked to stop, the manager rolls back, which its own deadlines bound (manager/handover/handover_table.h).
constexpr milliseconds rollBackTimeout{30'000};
constexpr milliseconds settleDeadline{120'000};  // A recovery gives 30 s to a single one of its steps.
// Another manager may be at work on this domain, when the tool that started it is dead: at most as long as all deadlines of its
// states together (manager/handover/handover_table.h).
constexpr milliseconds settleTimeout{330'000};
constexpr milliseconds settlePause{250};

enum ManagerCode { refused = 2, personNeeded = 4 };

std::string find() {
    if (const char* given = std::getenv("VH_CLI")) return given;
    return ownProgram({"virt-handover", VH_BINDIR "/virt-handover"});
}

json answerOf(const CommandResult& result) {
    json answer = json::parse(result.output, nullptr, false);
    return answer.is_object() ? answer : json::object();
}

Obstacle obstacleIn(const json& answer, const std::string& otherwise = {}) {
    return {JsonReader(answer).text("/error", otherwise), JsonReader(answer).text("/remedy")};
}

std::string why(const CommandResult& result) {
    return obstacleIn(answerOf(result), result.describe()).text();
}

}  // namespace

ManagerCommand::ManagerCommand(std::string runtimeDirectory) : program_(find()), runtimeDirectory_(std::move(runtimeDirectory)) {
    if (!fs::exists(program_))
        throw std::runtime_error("the manager's program '" + (program_.empty() ? VH_BINDIR "/virt-handover" : program_) +
                                 "' is not there; VH_CLI in the environment can name another");
}

std::vector<std::string> ManagerCommand::command(std::vector<std::string> words) const {
    std::vector<std::string> argv{program_, "--embed", "--runtime-dir", runtimeDirectory_, "--json", "adopt"};
    argv.insert(argv.end(), words.begin(), words.end());
    return argv;
}

std::optional<HandoverReport> ManagerCommand::adopt(const std::string& specFile, milliseconds deadline, int stop) const {
    const CommandResult result =
        run({.argv = command({specFile}), .deadline = deadline, .endTimeout = rollBackTimeout, .stop = stop});
    const json answer = answerOf(result);
    // What it says before it begins is an error and nothing else.
    if (answer.contains("error") && (result.status == refused || result.status == 1)) {
        const Obstacle why = obstacleIn(answer);
        return HandoverReport{.outcome = State::Refused, .cause = why.what, .remedy = why.remedy};
    }
    try {
        return handoverReportFromJson(answer);
    } catch (const std::exception&) {
        // It ended without one: whoever asked finds out what became of the VM.
    }
    if (result.left) throw std::runtime_error("the manager that hands it over: " + result.describe());
    return std::nullopt;
}

Settled ManagerCommand::settle(const std::string& uuid) const {
    const auto deadline = steady_clock::now() + settleTimeout;
    for (;;) {
        const CommandResult result = run({.argv = command({"--recover", nameOfDomain(uuid)}), .deadline = settleDeadline});
        if (result.ok()) {
            const json answer = answerOf(result);
            const std::string state = answer.value("state", "");
            if (state == "running") {
                Settled running{Settled::State::Running, {answer.value("pid", 0), answer.value("startTime", std::uint64_t{0})}};
                for (const json& warning : JsonReader(answer).list("/warnings")) running.left = JsonReader(warning).shown("");
                return running;
            }
            if (state == "dead") return {.state = Settled::State::Dead};
            if (state == "none") return {};
        }
        if (result.status == personNeeded) throw PersonNeeded(why(result));
        if (steady_clock::now() >= deadline) throw std::runtime_error("the manager cannot settle it: " + why(result));
        std::this_thread::sleep_for(settlePause);
    }
}

std::vector<ManagerRecord> ManagerCommand::records() const {
    const CommandResult result =
        run({.argv = {program_, "--embed", "--runtime-dir", runtimeDirectory_, "--json", "list"}, .deadline = settleDeadline});
    if (!result.ok()) throw std::runtime_error("the manager cannot list its records: " + why(result));
    std::vector<ManagerRecord> records;
    for (const json& vm : answerOf(result).value("vms", json::array())) {
        const std::string uuid = vm.value("uuid", "");
        if (vm.value("vm", "") != nameOfDomain(uuid)) continue;
        records.push_back({.uuid = uuid,
                           .pid = vm.value("pid", 0),
                           .binary = vm.value("binary", ""),
                           .interrupted = vm.value("state", "").starts_with("handover")});
    }
    return records;
}

void ManagerCommand::forget(const std::string& uuid) const {
    const CommandResult result = run({.argv = command({"--forget", nameOfDomain(uuid)}), .deadline = settleDeadline});
    if (!result.ok()) throw std::runtime_error("the manager cannot drop its record of it: " + why(result));
}

}  // namespace vh
