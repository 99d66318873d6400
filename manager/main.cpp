// virt-handover: the command line. This file is the wiring diagram: which parts there are, and what each verb does with them.

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "config/parse.h"
#include "manager/compare/command.h"
#include "manager/runner.h"
#include "manager/service/dbus_client.h"
#include "manager/service/terminal.h"
#include "vmm-shim/file.h"
#include "vmm-shim/json_text.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/terminal_text.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

/// An answer for people.
using Text = std::function<std::string(const json&)>;

struct Options : Place {
    bool asJson = false;

    std::string vm;
    std::string waitHeartbeat;
    std::string binary;
    std::string design;
    std::string pauseBudget;
    bool dryRun = false;
    bool standby = false;
    std::string timeout = "60s";
    std::string recover;
    std::string forget;
    CompareOptions compare;
};

/// An answer whose words name commands that work as they are typed.
json wordsAsTyped(const Options& options, json value) {
    for (const char* words : {"error", "cause", "remedy"})
        if (const auto found = value.find(words); found != value.end() && found->is_string())
            *found = asTyped(options, found->get<std::string>());
    return value;
}

/// Prints an answer: the object itself for scripts, `text` or the report for people; errors of people go to standard error. The
/// one place where text of others, such as what a VMM said, reaches a person.
int answer(const Options& options, const VerbResult& result, const Text& text = nullptr) {
    const JsonReader value(result.value);
    const auto shown = [&options](const std::string& words) { return forTerminal(asTyped(options, words)); };
    if (options.asJson)
        std::cout << jsonText(wordsAsTyped(options, toJson(result)), 2) << std::endl;
    else if (result.report)
        std::cout << shown(reportText(*result.report)) << std::flush;
    else if (!value.at("/error").is_null())
        std::cerr << "virt-handover: " << shown(value.shown("/error")) << std::endl
                  << (value.text("/remedy").empty() ? "" : "  remedy: " + shown(value.text("/remedy")) + "\n") << std::flush;
    else
        std::cout << shown(text(result.value)) << std::flush;
    return static_cast<int>(result.code);
}

/// The value of an option that takes a duration; none when it was not given.
std::optional<milliseconds> duration(const std::string& option, const std::string& text) {
    if (text.empty()) return std::nullopt;
    try {
        return parseDuration(text);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(option + ": found '" + text + "', expected " + error.what());
    }
}

/// Has the manager do something, and prints its answer.
int ask(const Options& options, const std::function<void(Verbs&, Verbs::Done)>& verb, const Text& text) {
    Runner runner(options);
    return answer(options, runner.wait([&](Verbs::Done done) { verb(runner.verbs(), std::move(done)); }), text);
}

int start(const Options& options) {
    const std::optional<milliseconds> wait = duration("--wait-heartbeat", options.waitHeartbeat);
    // The daemon has its own working directory.
    const bool isFile = options.vm.find('/') != std::string::npos || options.vm.ends_with(".yaml");
    const std::string what = isFile ? absolutePath(options.vm) : options.vm;
    return ask(
        options, [&](Verbs& verbs, Verbs::Done done) { verbs.start(what, wait, std::move(done)); }, startedText);
}

/// Progress of an upgrade, which ends with a report.
class Progress {
 public:
    explicit Progress(const Options& options) : printer_(options.asJson ? std::cerr : std::cout) {}
    Handover::Observer observer() {
        return [this](const HandoverProgress& step) { printer_.show(step); };
    }
    void end(const VerbResult& result) {
        if (result.report) printer_.end(result.report->totalMs);
    }

 private:
    ProgressPrinter printer_;
};

int upgrade(const Options& options) {
    UpgradeOptions request;
    request.binary = absolutePath(options.binary);
    request.design = options.design.empty() ? std::nullopt : designNamed(options.design);
    request.pauseBudget = duration("--pause-budget", options.pauseBudget);
    request.dryRun = options.dryRun;
    request.standby = options.standby;
    Runner runner(options);
    Progress progress(options);
    const VerbResult result =
        runner.wait([&](Verbs::Done done) { runner.verbs().upgrade(options.vm, request, progress.observer(), std::move(done)); });
    progress.end(result);
    if (!runner.embedded() || !result.report || result.report->outcome != State::StandingBy) return answer(options, result);
    // A script gets one document, which says how it ended; until then it sees the state "standing by" in `list` and `show`.
    if (!options.asJson) answer(options, result);
    runner.holdStandby(options.vm);
    const std::optional<HandoverReport> ended = runner.embedded()->endedStandby(options.vm);
    return answer(options, ended ? VerbResult::of(*ended) : result);
}

/// Where an upgrade stands by: in the daemon, or in the command that prepared it.
Options holderOf(const Options& options) {
    Options holder = options;
    if (options.embed) holder.runtimeDirectory += "/" + options.vm;
    holder.embed = false;
    return holder;
}

VerbResult askHolder(const Options& options, const std::function<void(Verbs&, Verbs::Done)>& verb) {
    try {
        Runner runner(holderOf(options));
        return runner.wait([&](Verbs::Done done) { verb(runner.verbs(), std::move(done)); });
    } catch (const NotThere&) {
        if (!options.embed) throw;
        return {ExitCode::Refused,
                {{"error", "no command holds an upgrade of vm '" + options.vm + "' that stands by"},
                 {"remedy",
                  "if virt-handoverd does, leave out --embed; if a command did and was killed, 'virt-handover --embed upgrade " +
                      options.vm + " --dry-run' undoes what it had prepared; 'virt-handover --embed upgrade " + options.vm +
                      " --standby' prepares one"}}};
    }
}

int commit(const Options& options) {
    Progress progress(options);
    const VerbResult result = askHolder(
        options, [&](Verbs& verbs, Verbs::Done done) { verbs.commit(options.vm, progress.observer(), std::move(done)); });
    progress.end(result);
    return answer(options, result);
}

int cancel(const Options& options) {
    return answer(options, askHolder(options, [&](Verbs& verbs, Verbs::Done done) { verbs.cancel(options.vm, std::move(done)); }),
                  stateText);
}

int adopt(const Options& options) {
    Options embedded = options;
    embedded.embed = true;
    Runner runner(embedded);
    Host& host = *runner.embedded();
    if (!options.forget.empty())
        return answer(options, runner.wait([&](Verbs::Done done) { host.forgetAdopted(options.forget, std::move(done)); }),
                      stateText);
    if (!options.recover.empty())
        return answer(options, runner.wait([&](Verbs::Done done) { host.recoverAdopted(options.recover, std::move(done)); }),
                      stateText);
    Progress progress(options);
    const VerbResult result =
        runner.wait([&](Verbs::Done done) { host.adopt(options.vm, progress.observer(), std::move(done)); });
    progress.end(result);
    return answer(options, result);
}

int shutdown(const Options& options) {
    const milliseconds timeout = duration("--timeout", options.timeout).value_or(milliseconds(60'000));
    return ask(
        options, [&](Verbs& verbs, Verbs::Done done) { verbs.shutdown(options.vm, timeout, std::move(done)); }, stateText);
}

int destroy(const Options& options) {
    return ask(
        options, [&](Verbs& verbs, Verbs::Done done) { verbs.destroy(options.vm, std::move(done)); }, stateText);
}

int list(const Options& options) {
    return ask(
        options, [&](Verbs& verbs, Verbs::Done done) { verbs.list(std::move(done)); }, listText);
}

int show(const Options& options) {
    return ask(
        options, [&](Verbs& verbs, Verbs::Done done) { verbs.show(options.vm, std::move(done)); }, showText);
}

int console(const Options& options) {
    Runner runner(options);
    const auto whereNow = [&] {
        return runner.wait([&](Verbs::Done done) { runner.verbs().console(options.vm, std::move(done)); });
    };
    const VerbResult first = whereNow();
    if (first.code != ExitCode::Done || options.asJson) return answer(options, first, [](const json&) { return std::string(); });
    return runConsole(options.vm, [&]() -> std::string {
        const VerbResult place = whereNow();
        return place.code == ExitCode::Done ? JsonReader(place.value).text("/socket") : std::string();
    });
}

std::vector<std::string> designNames() {
    std::vector<std::string> names;
    for (const Design design : designsOfUpgrades()) names.emplace_back(name(design));
    return names;
}

/// Where the verb is among the command line's words; behind the last one when there is none. What stands before it is for all
/// verbs.
int verbPosition(int argc, char** argv) {
    int position = 1;
    for (; position < argc && argv[position][0] == '-'; ++position)
        if (const std::string option = argv[position]; option == "--runtime-dir" || option == "--definitions") ++position;
    return std::min(position, argc);
}

/// Becomes the program for libvirt's domains, which is apart because it needs libvirt's library.
int runForLibvirt(const Options& options, int verb, int argc, char** argv) {
    std::vector<char*> arguments{argv[verb]};
    for (int i = 1; i < argc; ++i)
        if (i != verb) arguments.push_back(argv[i]);
    arguments.push_back(nullptr);
    ::execv(ownProgram({"../plugin/virt-handover-libvirt", VH_LIBEXECDIR "/virt-handover-libvirt"}).c_str(), arguments.data());
    return answer(options, {ExitCode::Usage,
                            {{"error", "cannot run '" VH_LIBEXECDIR "/virt-handover-libvirt'"},
                             {"remedy", "install virt-handover's libvirt plugin"}}});
}

std::vector<std::string> verbsOf(const CLI::App& app) {
    std::vector<std::string> names;
    for (const CLI::App* verb : app.get_subcommands(nullptr)) names.push_back(verb->get_name());
    return names;
}

/// What to say to a word that is no verb, or to none.
std::string noSuchVerb(const std::string& word, const std::vector<std::string>& verbs) {
    return (word.empty() ? std::string("no verb is given") : "there is no verb '" + word + "'") + "; there are: " + joined(verbs);
}

int version(const Options& options) {
    return answer(options, {ExitCode::Done, {{"version", VH_VERSION}}},
                  [](const json& value) { return "virt-handover " + JsonReader(value).text("/version") + "\n"; });
}

}  // namespace
}  // namespace vh

int main(int argc, char** argv) {
    using namespace vh;
    std::signal(SIGPIPE, SIG_IGN);
    Options options;
    CLI::App app("Replaces the VMM (QEMU) under running virtual machines.", "virt-handover");
    app.require_subcommand(0, 1);  // That there is one is asked below, where the answer can name what is there.
    app.set_version_flag("--version", std::string("virt-handover ") + VH_VERSION);
    app.fallthrough();  // Global options are understood behind the verb, too.
    app.footer(
        "Exit codes: 0 done; 1 usage or definition error; 2 refused, nothing was touched; 3 rolled back, the guest runs on the\n"
        "old VMM; 4 a person is needed: lost, the guest is silent, or upgraded and the old VMM does not end; 5 the manager\n"
        "cannot be reached, or the command was interrupted before it answered. compare: 2 nothing was measured; 3 a regression\n"
        "against --check; 130 interrupted, and what was measured is written.");
    app.add_flag("--embed", options.embed, "work in this process instead of asking virt-handoverd");
    app.add_flag("--json", options.asJson, "answer with a JSON object");
    app.add_option("--runtime-dir", options.runtimeDirectory, "where running VMs have their sockets and records")
        ->capture_default_str();
    app.add_option("--definitions", options.definitionDirectory, "where 'start NAME' looks for NAME.yaml (with --embed)")
        ->capture_default_str();

    // A name becomes a path: what is none goes no further.
    const CLI::Validator vmName([](const std::string& name) { return isVmName(name) ? std::string() : noVmName(name); }, "");
    int (*verb)(const Options&) = nullptr;
    const auto add = [&](const char* name, const char* what, int (*run)(const Options&), bool onVm = true) {
        CLI::App* command = app.add_subcommand(name, what);
        command->callback([&verb, run] { verb = run; });
        if (onVm) command->add_option("VM", options.vm, "the VM's name")->required()->check(vmName);
        return command;
    };
    CLI::App* starting = add("start", "start a VM from its definition", start, false);
    starting->add_option("DEFINITION", options.vm, "a YAML file, or the name of a definition")->required();
    starting->add_option("--wait-heartbeat", options.waitHeartbeat, "wait this long (such as 60s) until the guest probe ticks");
    CLI::App* upgrading = add("upgrade", "replace the VMM under a running VM", upgrade);
    // Empty is what a script gives whose variable is not set.
    upgrading->add_option("--to", options.binary, "the new VMM's binary; without it the definition's vmm.binary")
        ->check(CLI::Validator([](const std::string& text) { return text.empty() ? std::string("is empty") : std::string(); },
                               "PATH"));
    upgrading->add_option("--design", options.design, "how to hand over; without it the definition's handover.design")
        ->check(CLI::IsMember(designNames()));
    upgrading->add_option("--pause-budget", options.pauseBudget, "the longest that the guest may be stopped, such as 500ms");
    upgrading->add_flag("--standby", options.standby, "prepare everything and hold; 'commit' switches, 'cancel' undoes");
    upgrading->add_flag(
        "--dry-run", options.dryRun,
        "preflight only: say whether an upgrade would begin; what an earlier manager left half done is settled before");
    add("commit", "switch a VM whose upgrade stands by", commit);
    add("cancel", "undo an upgrade that stands by", cancel);
    CLI::App* adopting =
        add("adopt", "replace the VMM under a VM of another manager; 'virt-handover libvirt' calls this", adopt, false);
    CLI::Option_group* which = adopting->add_option_group("which");
    which->add_option("FILE", options.vm, "what that manager knows of it, as JSON; see manager/record/adopted_vm.h");
    which->add_option("--recover", options.recover, "finish or undo an interrupted one, and say which VMM this VM has")
        ->check(vmName);
    which->add_option("--forget", options.forget, "remove what is kept of this VM, which has ended")->check(vmName);
    which->require_option(1);
    add("shutdown", "press the VM's power button and wait until it is off", shutdown)
        ->add_option("--timeout", options.timeout, "how long to wait")
        ->capture_default_str();
    add("destroy", "end a VM at once, as by pulling its plug", destroy);
    app.add_subcommand("libvirt", "the same for domains of libvirt: check, prepare, import, upgrade, recover");
    add("list", "the VMs that run here", list, false);
    add("show", "all that is known of a VM", show);
    add("console", "connect this terminal to a VM's serial console", console);
    addCompareOptions(*add(
                          "compare", "measure the designs side by side, on VMs of its own on this host",
                          [](const Options& given) { return compare(given.compare, given.asJson); }, false),
                      options.compare);
    options.compare.commandLine.assign(argv, argv + argc);
    add("version", "print the version", version, false);

    const auto failed = [&options](ExitCode code, const std::string& error) {
        return answer(options, {code, {{"error", error}}});
    };
    // Also a mistake is answered in the form that was asked for, wherever in the line that was.
    options.asJson = std::find(argv, argv + argc, std::string("--json")) != argv + argc;
    const int position = verbPosition(argc, argv);
    const std::string word = position < argc ? argv[position] : "";
    try {
        if (word == "libvirt") return runForLibvirt(options, position, argc, argv);
        const std::vector<std::string> verbs = verbsOf(app);
        if (!word.empty() && std::ranges::find(verbs, word) == verbs.end()) throw std::invalid_argument(noSuchVerb(word, verbs));
        app.parse(argc, argv);
        if (!verb) throw std::invalid_argument(noSuchVerb(word, verbs));
        return verb(options);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);
        return failed(ExitCode::Usage,
                      std::string(error.what()) + "; see 'virt-handover " + (word.empty() ? "" : word + " ") + "--help'");
    } catch (const Unreachable& error) {
        return failed(ExitCode::Unreachable, error.what());
    } catch (const ConfigErrors& error) {
        return failed(ExitCode::Usage, error.what());
    } catch (const std::invalid_argument& error) {
        return failed(ExitCode::Usage, error.what());
    } catch (const std::exception& error) {
        return failed(ExitCode::Refused, error.what());
    }
}
