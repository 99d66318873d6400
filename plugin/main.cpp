// virt-handover-libvirt: the verbs for libvirt's domains. `virt-handover libvirt ARGUMENTS` executes it.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "config/parse.h"
#include "plugin/domain/domain_xml.h"
#include "plugin/host/libvirt_connection.h"
#include "plugin/upgrade/orphans.h"
#include "plugin/upgrade/prepare.h"
#include "plugin/upgrade/readiness.h"
#include "plugin/upgrade/recover.h"
#include "plugin/upgrade/upgrade.h"
#include "vmm-shim/file.h"
#include "vmm-shim/qmp/monitor.h"
#include "vmm-shim/terminal_text.h"
#include "vmm-shim/text.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds libvirtTimeout{30'000};

struct Options {
    std::string runtimeDirectory = "/run/virt-handover";
    std::string uri = "qemu:///system";
    bool asJson = false;

    UpgradeRequest request;
    std::string domain;
    bool yes = false;
    std::string pauseBudget = "1s";
    std::string stepDeadline = "30s";
    std::string stopDeadline = "5s";
    std::string forget;
    bool wait = false;
    int guard = -1;
};

int answer(const Options& options, ExitCode code, const json& value, const std::string& text) {
    std::cout << (options.asJson ? jsonText(value, 2) + "\n" : forTerminal(text)) << std::flush;
    return static_cast<int>(code);
}

int fail(const Options& options, ExitCode code, const std::string& error) {
    if (options.asJson)
        std::cout << jsonText({{"error", error}}, 2) << std::endl;
    else
        std::cerr << "virt-handover: " << forTerminal(error) << std::endl;
    return static_cast<int>(code);
}

milliseconds duration(const std::string& option, const std::string& text) {
    try {
        return parseDuration(text);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(option + ": found '" + text + "', expected " + error.what());
    }
}

LockOutSettings lockOutOf(const Options& options) {
    LockOutSettings settings = lockOutSettings();
    settings.stopDeadline = duration("--stop-deadline", options.stopDeadline);
    return settings;
}

/// Those of the domains that were asked for, or all; none while an upgrade is at work, or is to be recovered by its journal.
std::vector<Orphan> orphansOf(const Options& options, const std::vector<LibvirtDomain>& asked) {
    std::vector<Orphan> found;
    if (::geteuid() != 0) return found;  // What is to be compared is for root only.
    const JournalDirectory directory(options.runtimeDirectory);
    const UniqueFd lock = directory.tryLock();
    if (!lock || directory.read()) return found;
    for (const Orphan& orphan : findOrphans(HostPaths(), ManagerCommand(options.runtimeDirectory)))
        if (options.request.domains.empty() ||
            std::ranges::any_of(asked, [&](const LibvirtDomain& domain) { return domain.uuid == orphan.domain.uuid; }))
            found.push_back(orphan);
    return found;
}

int check(const Options& options) {
    const LibvirtConnection libvirt(options.uri, libvirtTimeout);
    std::vector<LibvirtDomain> asked;
    for (const std::string& name : options.request.domains) asked.push_back(libvirt.find(name));
    if (options.request.domains.empty()) asked = libvirt.running();
    std::vector<Readiness> domains;
    for (const LibvirtDomain& domain : asked)
        domains.push_back(checkReadiness(libvirt, HostPaths(), domain,
                                         {.emulator = absolutePath(options.request.emulator), .force = options.request.force}));
    const std::vector<Orphan> orphans = orphansOf(options, asked);
    json value{{"libvirt", libvirt.version()}, {"domains", json::array()}, {"orphans", json::array()}};
    for (const Readiness& one : domains) value["domains"].push_back(toJson(one));
    std::string text = asked.empty() ? "no domain is running here\n" : readinessText(domains);
    for (const Orphan& one : orphans) {
        value["orphans"].push_back(toJson(one));
        text += orphanText(one);
    }
    const bool ready = orphans.empty() && std::ranges::all_of(domains, &Readiness::ready);
    return answer(options, ready ? ExitCode::Done : ExitCode::Refused, value, text);
}

int prepare(const Options& options) {
    const LibvirtConnection libvirt(options.uri, libvirtTimeout);
    const LibvirtDomain domain = libvirt.find(options.domain);
    const Preparation preparation = planPreparation(libvirt, domain);
    const bool change = !preparation.diff.empty(), define = change && options.yes;
    if (define) libvirt.define(preparation.xml);
    const std::string text = !change  ? "domain '" + domain.name + "': its definition is ready already\n"
                             : define ? preparation.diff + "defined; " + waysToApply(domain)
                                      : preparation.diff + "nothing was changed; '--yes' defines it so\n";
    return answer(options, ExitCode::Done,
                  {{"domain", domain.name}, {"uuid", domain.uuid}, {"diff", preparation.diff}, {"defined", define}}, text);
}

int import(const Options& options) {
    const LibvirtConnection libvirt(options.uri, libvirtTimeout);
    const LibvirtDomain domain = libvirt.find(options.domain);
    const ImportedDomain imported = importDomain(libvirt.inactiveXml(domain.uuid));
    std::string yaml;
    for (const std::string& line : imported.lost) yaml += "# not imported: " + line + "\n";
    yaml += toYaml(imported.definition);
    return answer(options, ExitCode::Done, {{"domain", domain.name}, {"yaml", yaml}, {"lost", imported.lost}}, yaml);
}

int upgradeDomains(const Options& options) {
    if (options.request.all == !options.request.domains.empty()) throw std::invalid_argument("name domains, or give '--all'");
    const Interrupts interrupts;
    UpgradeRequest request = options.request;
    request.emulator = absolutePath(request.emulator);
    request.pauseBudget = duration("--pause-budget", options.pauseBudget);
    request.stepDeadline = duration("--step-deadline", options.stepDeadline);
    const UpgradeSummary summary = upgrade(request, {.uri = options.uri,
                                                     .runtimeDirectory = options.runtimeDirectory,
                                                     .paths = {},
                                                     .lockOut = lockOutOf(options),
                                                     .interrupts = interrupts.descriptor(),
                                                     .say = [](const std::string& line) {
                                                         std::cerr << "virt-handover: " + forTerminal(line) + "\n" << std::flush;
                                                     }});
    return answer(options, summary.exitCode(), toJson(summary), upgradeText(summary));
}

int recoverDomains(const Options& options) {
    RecoverEnvironment environment{.runtimeDirectory = options.runtimeDirectory,
                                   .paths = {},
                                   .lockOut = lockOutOf(options),
                                   .inheritedLock = UniqueFd(options.guard),
                                   .wait = options.wait || options.guard >= 0};
    if (options.guard >= 0) ::fcntl(options.guard, F_SETFD, FD_CLOEXEC);
    if (!options.forget.empty()) {
        forgetLost(environment, options.forget);
        return answer(options, ExitCode::Done, {{"forgotten", options.forget}}, "forgotten\n");
    }
    const RecoverSummary summary = recover(std::move(environment));
    if (options.guard < 0) return answer(options, summary.exitCode(), toJson(summary), recoverText(summary));
    if (!summary.nothing)
        std::cerr << "virt-handover: the upgrade was killed; recovered:\n" << forTerminal(recoverText(summary)) << std::flush;
    return static_cast<int>(summary.exitCode());
}

}  // namespace
}  // namespace vh

int main(int argc, char** argv) {
    using namespace vh;
    std::signal(SIGPIPE, SIG_IGN);
    Options options;
    CLI::App app("Upgrades the QEMU under running libvirt domains.", "virt-handover libvirt");
    app.require_subcommand(0, 1);  // That there is one is asked below, where the answer can name what is there.
    app.fallthrough();
    app.footer(
        "Exit codes: 0 done; 1 usage error; 2 refused, nothing was touched; 3 rolled back, the guest runs on the old QEMU; 4 a "
        "person is\n"
        "needed: lost, or upgraded and the old QEMU does not end; 5 libvirt cannot be reached; 6 a domain ended by itself during "
        "the\nupgrade, nothing to recover. For several domains the worst counts: 4, 5, 3, 2, 6. check: 2 when a domain is not "
        "ready.");
    app.add_flag("--json", options.asJson, "answer with a JSON object");
    app.add_option("--runtime-dir", options.runtimeDirectory, "where sockets and records are")->capture_default_str();
    app.add_option("--connect", options.uri, "libvirt's URI")->capture_default_str();

    int (*verb)(const Options&) = nullptr;
    const auto add = [&](const char* name, const char* what, int (*run)(const Options&)) {
        CLI::App* command = app.add_subcommand(name, what);
        command->callback([&verb, run] { verb = run; });
        return command;
    };
    // Empty is what a script gives whose variable is not set.
    const CLI::Validator notEmpty([](const std::string& text) { return text.empty() ? std::string("is empty") : std::string(); },
                                  "PATH");
    CLI::App* checking = add("check", "say which domains can be upgraded, and which QEMU each really runs", check);
    checking->add_option("DOMAIN", options.request.domains, "names or UUIDs; without any, all that run");
    checking->add_option("--to", options.request.emulator, "the new QEMU; without it the one in the domain's XML")
        ->check(notEmpty);
    checking->add_flag("--force", options.request.force, "take untested versions for a note only");
    CLI::App* preparing = add("prepare", "make a domain's definition ready for upgrades", prepare);
    preparing->add_option("DOMAIN", options.domain, "name or UUID")->required();
    preparing->add_flag("--yes", options.yes, "define it; without this the change is only shown");
    add("import", "print a domain as a definition of virt-handover's own", import)
        ->add_option("DOMAIN", options.domain, "name or UUID")
        ->required();
    CLI::App* upgrading = add("upgrade", "replace the QEMU under running domains", upgradeDomains);
    upgrading->add_option("DOMAIN", options.request.domains, "names or UUIDs");
    upgrading->add_flag("--all", options.request.all, "all domains that run, are ready, and do not run the new QEMU yet");
    upgrading->add_option("--to", options.request.emulator, "the new QEMU; without it the one in each domain's XML")
        ->check(notEmpty);
    upgrading->add_option("--parallel", options.request.parallel, "how many domains at once")
        ->capture_default_str()
        ->check(CLI::Range(1, 64));
    upgrading->add_flag("--dry-run", options.request.dryRun, "check only, and leave libvirt alone");
    upgrading->add_flag("--force", options.request.force, "also with untested versions");
    upgrading->add_option("--pause-budget", options.pauseBudget, "the longest that a guest may be stopped")
        ->capture_default_str();
    upgrading
        ->add_option("--step-deadline", options.stepDeadline, "the longest that a QEMU may take over a step while the guest runs")
        ->capture_default_str();
    CLI::App* recovering = add("recover", "finish or undo what a killed upgrade has left", recoverDomains);
    recovering->add_option("--forget", options.forget, "drop a lost domain that a person has put in order");
    recovering->add_flag("--wait", options.wait, "wait for the end of an upgrade that is under way");
    recovering->add_option("--guard", options.guard, "stand by for the upgrade that started this")->group("");
    for (CLI::App* command : {upgrading, recovering})
        command->add_option("--stop-deadline", options.stopDeadline, "how long libvirt may take to stop; then it is killed")
            ->capture_default_str();

    // Also a mistake is answered in the form that was asked for, wherever in the line that was.
    options.asJson = std::find(argv, argv + argc, std::string("--json")) != argv + argc;
    const auto noVerb = [&](const std::string& word) {
        std::string verbs;
        for (const CLI::App* command : app.get_subcommands(nullptr)) append(verbs, command->get_name());
        return fail(
            options, ExitCode::Usage,
            (word.empty() ? std::string("no verb is given") : "there is no verb '" + word + "'") + "; there are: " + verbs);
    };
    try {
        app.parse(argc, argv);
        return verb ? verb(options) : noVerb("");
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);
        const std::vector<std::string> rest = app.remaining();
        const auto word = std::ranges::find_if(rest, [](const std::string& one) { return !one.starts_with("-"); });
        if (app.get_subcommands().empty() && word != rest.end()) return noVerb(*word);
        return fail(options, ExitCode::Usage, std::string(error.what()) + "; see 'virt-handover libvirt --help'");
    } catch (const LibvirtUnreachable& error) {
        return fail(options, ExitCode::Unreachable, error.what());
    } catch (const std::invalid_argument& error) {
        return fail(options, ExitCode::Usage, error.what());
    } catch (const std::exception& error) {
        return fail(options, ExitCode::Refused, error.what());
    }
}
