#include "manager/compare/command.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <random>

#include "config/parse.h"
#include "config/scalars.h"
#include "manager/compare/build_commit.h"
#include "manager/compare/check.h"
#include "manager/compare/comparison.h"
#include "manager/compare/configurations.h"
#include "manager/compare/host_facts.h"
#include "manager/compare/report_page.h"
#include "manager/compare/results_file.h"
#include "manager/compare/summary.h"
#include "manager/compare/text.h"
#include "manager/record/report.h"
#include "vmm-shim/file.h"
#include "vmm-shim/terminal_text.h"
#include "vmm-shim/text.h"

namespace vh {

namespace {

using nlohmann::json;
using std::chrono::steady_clock;

constexpr int interruptedCode = 130;  ///< As a shell tells it of a program that Ctrl-C ended.

/// One line that changes on a terminal; elsewhere a line now and then.
class ProgressLine {
 public:
    ProgressLine() : onTerminal_(::isatty(STDERR_FILENO) != 0) {}
    ~ProgressLine() {
        if (onTerminal_ && shown_) std::cerr << "\r\033[K" << std::flush;
    }

    void show(const std::string& what, std::size_t done, std::size_t left) {
        const auto now = steady_clock::now();
        std::string line = what;
        if (done > 0 && left > 0) line += "; " + std::to_string(left) + " handovers left, about " + timeLeft(now, done, left);
        if (onTerminal_) {
            std::cerr << "\r\033[K" << line << std::flush;
        } else if (!shown_ || now - lastShown_ > std::chrono::seconds(30)) {
            std::cerr << "compare: " << line << std::endl;
            lastShown_ = now;
        }
        shown_ = true;
    }

 private:
    std::string timeLeft(steady_clock::time_point now, std::size_t done, std::size_t left) {
        if (done == 1) firstDone_ = now;  // What came before, such as booting, is not what the rest is like.
        if (done < 3) return "a while";
        const double seconds =
            std::chrono::duration<double>(now - firstDone_).count() / static_cast<double>(done - 1) * static_cast<double>(left);
        return seconds < 90 ? std::to_string(std::lround(seconds)) + " s" : std::to_string(std::lround(seconds / 60)) + " min";
    }

    bool onTerminal_;
    bool shown_ = false;
    steady_clock::time_point lastShown_;
    steady_clock::time_point firstDone_;
};

std::string environmentOr(const char* variable, const std::string& otherwise) {
    const char* value = std::getenv(variable);
    return value && *value ? value : otherwise;
}

template <typename Value, typename Read>
void factor(const char* option, const std::vector<std::string>& texts, std::vector<Value>& target, Read read) {
    if (texts.empty()) return;
    target.clear();
    for (const std::string& text : texts) {
        try {
            target.push_back(read(text));
        } catch (const std::invalid_argument& expected) {
            throw std::invalid_argument(std::string(option) + ": found '" + text + "', expected " + expected.what());
        }
    }
}

/// What the options say goes before what a plan says.
void apply(const CompareOptions& options, ComparePlan& plan, const std::optional<VmDefinition>& own) {
    if (plan.pairs.empty() || !options.old.empty() || !options.newBinary.empty()) {
        const std::string usual = own ? own->vmm.binary : VmDefinition().vmm.binary;
        BinaryPair pair = plan.pairs.size() == 1 ? plan.pairs.front() : BinaryPair{usual, ""};
        if (!options.old.empty()) pair.old = absolutePath(options.old);
        if (!options.newBinary.empty()) pair.new_ = absolutePath(options.newBinary);
        if (pair.new_.empty()) pair.new_ = pair.old;
        plan.pairs = {pair};
    }
    factor("--design", options.designs, plan.designs, oneOf<Design>());
    factor("--ram", options.ram, plan.ram, [](const std::string& text) { return parseGuestRam(text); });
    factor("--load", options.loads, plan.loads, [](const std::string& text) {
        if (const auto load = loadNamed(text)) return *load;
        throw std::invalid_argument("one of 'idle', 'memory', 'disk', 'network'");
    });
    factor("--devices", options.devices, plan.devices, [](const std::string& text) { return parseDeviceSet(text); });
    factor("--hot-set", options.hotSets, plan.hotSets, [](const std::string& text) { return parseHotSet(text); });
    factor("--accelerator", options.accelerators, plan.accelerators, oneOf<Accelerator>());
    if (!options.vms.empty()) plan.vms = options.vms;
    if (options.rounds) plan.rounds = *options.rounds;
    if (options.baselineRounds) plan.baselineRounds = *options.baselineRounds;
    if (options.seed) plan.seed = *options.seed;
    if (!plan.seed) plan.seed = std::random_device{}();
    if (own) return;
    if (!options.kernel.empty()) plan.guest.kernel = absolutePath(options.kernel);
    if (!options.initrd.empty()) plan.guest.initrd = absolutePath(options.initrd);
    if (plan.guest.kernel.empty()) plan.guest.kernel = environmentOr("VH_GUEST_KERNEL", "");
    if (plan.guest.initrd.empty()) plan.guest.initrd = environmentOr("VH_GUEST_INITRAMFS", "");
    if (plan.bareGuest.kernel.empty()) plan.bareGuest.kernel = environmentOr("VH_BARE_GUEST", "");
    if (plan.bareGuest.firmware.empty()) plan.bareGuest.firmware = environmentOr("VH_BARE_FIRMWARE", "");
}

std::string newOutputDirectory() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    ::localtime_r(&now, &parts);
    char name[64];
    std::strftime(name, sizeof(name), "virt-handover-compare-%Y%m%d-%H%M%S", &parts);
    return absolutePath(name);
}

/// A results file that was named on the command line.
Results namedResults(const std::string& file) {
    try {
        return readResults(file);
    } catch (const std::runtime_error& error) {
        throw std::invalid_argument(error.what());
    }
}

struct Begun {
    ComparisonSettings settings;
    Results results;
};

/// What earlier results were measured with.
void takePlan(const MeasurementSettings& from, ComparisonSettings& to, const std::string& file) {
    to.plan = parseComparePlan(from.plan, file);
    if (from.definition) to.own = parseVmDefinition(*from.definition, file);
}

Begun resumed(const std::string& directory, bool evenIfBusy) {
    Begun begun;
    begun.settings.resultsFile = directory + "/results.json";
    begun.results = namedResults(begun.settings.resultsFile);
    const Results& results = begun.results;
    const std::string difference = differenceOf(results.host, hostFacts());
    if (!results.finishedAt && !difference.empty())
        throw std::invalid_argument("cannot go on with '" + begun.settings.resultsFile + "': it was begun on another host: " +
                                    difference + "; go on there, or begin anew here with another --output");
    begun.settings.evenIfBusy =
        evenIfBusy || (results.sittings.empty() ? std::ranges::count(results.command, "--even-if-busy") > 0
                                                : results.sittings.back().evenIfBusy);
    takePlan(begun.results.settings, begun.settings, begun.settings.resultsFile);
    begun.settings.bootWait = std::chrono::milliseconds(begun.results.settings.bootWaitMs);
    return begun;
}

Begun begunAnew(const CompareOptions& options, const std::string& directory) {
    Begun begun;
    ComparisonSettings& settings = begun.settings;
    if (!options.plan.empty()) {
        settings.plan = parseComparePlan(readDefinitionFile(options.plan), options.plan);
    } else if (!options.baseline.empty()) {
        takePlan(namedResults(options.baseline).settings, settings, options.baseline);
    }
    if (!options.definition.empty()) settings.own = loadVmDefinition(options.definition);
    settings.bootWait = parseDuration(options.bootWait);
    settings.evenIfBusy = options.evenIfBusy;
    apply(options, settings.plan, settings.own);
    settings.resultsFile = directory + "/results.json";
    begun.results = newResults(settings, options.commandLine, VH_VERSION);
    const std::string missing = missingGuest(settings.plan, begun.results.configurations);
    if (!missing.empty()) throw std::invalid_argument(missing);
    return begun;
}

bool hasRounds(const Results& results) {
    return std::ranges::any_of(results.configurations, [](const Configuration& one) {
        return std::ranges::any_of(one.series, [](const Series& series) { return !series.rounds.empty(); });
    });
}

int exitCode(const CheckResult& check) {
    if (!check.regressions.empty()) return static_cast<int>(ExitCode::RolledBack);
    // A check that could compare nothing has passed nothing.
    return static_cast<int>(check.comparisons > 0 ? ExitCode::Done : ExitCode::Refused);
}

void print(const json& value) {
    std::cout << jsonText(value, 2) << std::endl;
}

}  // namespace

void addCompareOptions(CLI::App& command, CompareOptions& options) {
    std::vector<std::string_view> baselines;
    for (const DesignRow& row : designRows)
        if (row.baseline) baselines.push_back(row.name);
    command.add_option("VM.yaml", options.definition,
                       "a VM of your own to measure with, on copies of its disks; without it, the probe guest");
    command.add_option("--plan", options.plan, "what to measure; every key is in config/README.md");
    command.add_option("--old", options.old, "the old VMM's binary");
    command.add_option("--new", options.newBinary, "the new VMM's binary; without it the old one's, for a handover to the same");
    command.add_option("--design", options.designs, "only these of " + joined(namesOf<Design>))->delimiter(',');
    command.add_option("--rounds", options.rounds, "measured rounds of each design (12, the fewest that anything is said of)")
        ->check(CLI::Range(1U, 10'000U));
    command
        .add_option("--baseline-rounds", options.baselineRounds,
                    "those of " + joined(baselines, " and ") + ", which take long (as many)")
        ->check(CLI::Range(1U, 10'000U));
    command
        .add_option(
            "--ram", options.ram,
            "guest RAM, and how much of it is touched (half), such as 640MiB/512MiB: at least 128MiB less, which the guest "
            "needs for itself")
        ->delimiter(',');
    command.add_option("--load", options.loads, "what the guest does: idle, memory, disk, network (memory)")->delimiter(',');
    command.add_option("--devices", options.devices, "none, disk, network, disk+network, many (disk+network)")->delimiter(',');
    command.add_option("--hot-set", options.hotSets, "what load memory writes again and again: 16MiB, 25%, all (16MiB)")
        ->delimiter(',');
    command.add_option("--accelerator", options.accelerators, "auto, tcg, kvm (auto)")->delimiter(',');
    command.add_option("--vms", options.vms, "how many VMs are handed over at once (1)")
        ->delimiter(',')
        ->check(CLI::Range(1U, 100U));
    command.add_option("--kernel", options.kernel, "the probe guest's kernel");
    command.add_option("--initrd", options.initrd, "the probe guest's initramfs");
    command.add_option("--seed", options.seed, "of the order of rounds; without it, chosen and printed");
    command.add_option("--boot-wait", options.bootWait, "how long a VM of your own without a heartbeat takes to boot")
        ->capture_default_str();
    command.add_option("--output", options.output, "the directory for results.json, results.csv and report.html");
    command.add_option("--resume", options.resume, "go on with an interrupted comparison: the directory of its results");
    command.add_option("--check", options.baseline, "compare with an earlier results.json; exit with 3 on a regression");
    command.add_option("--with", options.with, "with --check: compare this results.json, and measure nothing");
    command.add_option("--tolerance", options.tolerance, "with --check: how many times as much is no regression yet")
        ->capture_default_str()
        ->check(CLI::Range(1.0, 100.0));
    command.add_flag("--even-if-busy", options.evenIfBusy, "measure although other work disturbs it");
}

int compare(const CompareOptions& options, bool asJson) {
    if (!options.with.empty()) {
        if (options.baseline.empty()) throw std::invalid_argument("--with goes with --check BASELINE.json");
        const CheckResult result = check(namedResults(options.baseline), namedResults(options.with), options.tolerance);
        if (asJson)
            print(toJson(result));
        else
            std::cout << forTerminal(checkText(result));
        return exitCode(result);
    }
    const std::string directory = !options.resume.empty()   ? absolutePath(options.resume)
                                  : !options.output.empty() ? absolutePath(options.output)
                                                            : newOutputDirectory();
    const std::string resultsFile = directory + "/results.json";
    if (options.resume.empty() && std::filesystem::exists(resultsFile))
        throw std::invalid_argument("'" + resultsFile + "' exists already; go on with it (--resume '" + directory +
                                    "'), or choose another --output");
    Begun begun = options.resume.empty() ? begunAnew(options, directory) : resumed(directory, options.evenIfBusy);
    std::filesystem::create_directories(directory);
    std::cerr << "compare: seed " << begun.results.seed << ", results in '" << directory << "'" << std::endl;

    Results results = begun.results;
    bool complete = results.finishedAt.has_value();  // It is only drawn again then.
    if (!complete) {
        results.sittings.push_back(
            {utcNow(), std::nullopt, options.commandLine, begun.settings.evenIfBusy, std::string(buildCommit)});
        ProgressLine line;
        complete = runComparison(begun.settings, results, [&line](const std::string& what, std::size_t done, std::size_t left) {
            line.show(what, done, left);
        });
    }
    const std::string goOn = "interrupted; go on with: virt-handover compare --resume '" + directory + "'\n";
    if (!complete && !hasRounds(results)) {
        writeResults(resultsFile, results);
        if (asJson)
            print({{"complete", false}, {"results", resultsFile}, {"report", nullptr}, {"summary", nullptr}});
        else
            std::cout << "no round was measured yet: " << goOn;
        return interruptedCode;
    }
    const Summary summary = summarize(results);
    writeResults(resultsFile, results, &summary);
    replaceFile(directory + "/results.csv", comparisonCsv(results), 0666);
    replaceFile(directory + "/report.html", reportPage(toJson(results, &summary)), 0666);
    const std::string report = directory + "/report.html";
    std::optional<CheckResult> checked;
    if (complete && !options.baseline.empty()) checked = check(namedResults(options.baseline), results, options.tolerance);
    if (asJson) {
        json value{{"complete", complete}, {"results", resultsFile}, {"report", report}, {"summary", toJson(summary)}};
        if (checked) value["check"] = toJson(*checked);
        print(value);
    } else {
        std::cout << forTerminal(comparisonText(results, summary)) << "\n"
                  << (complete ? "" : goOn) << "report: " << report << "\n"
                  << (checked ? forTerminal(checkText(*checked)) : "");
    }
    if (!complete) return interruptedCode;
    if (checked) return exitCode(*checked);
    return static_cast<int>(hasRounds(results) ? ExitCode::Done : ExitCode::Refused);
}

}  // namespace vh
