// virt-handoverd: the manager as a service. It may be killed, restarted and upgraded at any moment; every VM goes on.

#include <sys/stat.h>
#include <syslog.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include <CLI/CLI.hpp>

#include "manager/service/dbus_service.h"
#include "manager/service/event_log.h"
#include "manager/service/hook_inbox.h"
#include "manager/service/host.h"

namespace {

constexpr const char* program = "virt-handoverd";

/// What is left of a libvirt domain that was handed over and has now ended: nobody else would ever ask for it.
void forgetEndedDomain(vh::Host& host, const std::string& runtimeDirectory, const vh::HookNotice& notice,
                       const std::function<void(const std::string&)>& say) {
    if (notice.operation != "stopped" && notice.operation != "release") return;
    const std::string vm = vh::nameOfDomain(notice.uuid);
    if (!std::filesystem::exists(vh::VmDirectory(runtimeDirectory, vm).path())) return;
    host.forgetAdopted(vm, [notice, say](const vh::VerbResult& result) {
        const std::string domain = "libvirt's domain '" + notice.name + "' has ended";
        say(result.code == vh::ExitCode::Done ? domain + "; what was kept of its handovers is removed"
                                              : domain + ", but: " + result.obstacle().text());
    });
}

}  // namespace

int main(int argc, char** argv) {
    using namespace vh;
    std::signal(SIGPIPE, SIG_IGN);
    std::string runtimeDirectory = defaultRuntimeDirectory();
    std::string definitionDirectory = "/etc/virt-handover/vms";
    CLI::App app("Serves the manager of virt-handover on a private D-Bus socket.", "virt-handoverd");
    app.add_option("--runtime-dir", runtimeDirectory, "where running VMs have their sockets and records")->capture_default_str();
    app.add_option("--definitions", definitionDirectory, "where 'start NAME' looks for NAME.yaml")->capture_default_str();
    app.set_version_flag("--version", std::string("virt-handoverd ") + VH_VERSION);
    CLI11_PARSE(app, argc, argv);

    ServiceLog log(program);
    const auto say = [&log](const std::string& line) { log.tell({LOG_INFO, line, {}}); };
    const auto warn = [&log](const std::string& line) { log.tell({LOG_WARNING, line, {}}); };
    try {
        ::mkdir(runtimeDirectory.c_str(), 0755);
        Host host(runtimeDirectory, definitionDirectory);
        host.onNotice(say);
        host.onEnded([&log](const HandoverReport& report) { log.tell(logEntryOf(report)); });
        host.recoverAll(warn);
        const DbusService service(host, runtimeDirectory);
        const HookInbox inbox(
            runtimeDirectory, [&](const HookNotice& notice) { forgetEndedDomain(host, runtimeDirectory, notice, say); }, warn);
        say("ready on '" + managerSocket(runtimeDirectory) + "'");

        GMainLoop* loop = g_main_loop_new(nullptr, FALSE);
        bool ending = false;
        const auto end = [&](const char* why) {
            if (ending) return;
            ending = true;
            say(std::string(why) + ": the VMs go on without a manager");
            host.beginNothingNew({"virt-handoverd is asked to end and begins nothing new",
                                  "ask again when it has been started again, or work without it: virt-handover --embed ..."});
            host.cancelHandovers("the manager is asked to end");
            host.whenIdle([loop] { g_main_loop_quit(loop); });
        };
        const EventSource terminate = EventSource::unixSignal(SIGTERM, [&] { end("SIGTERM"); });
        const EventSource interrupt = EventSource::unixSignal(SIGINT, [&] { end("SIGINT"); });
        const EventSource hangUp = EventSource::hangUp([&] { end("SIGHUP"); });
        g_main_loop_run(loop);
        g_main_loop_unref(loop);
        return 0;
    } catch (const std::exception& error) {
        log.tell({LOG_ERR, error.what(), {}});
        return 1;
    }
}
