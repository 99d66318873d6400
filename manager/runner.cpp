#include "manager/runner.h"

#include <unistd.h>

#include <csignal>
#include <iostream>
#include <regex>

#include "manager/service/dbus_client.h"
#include "manager/service/dbus_service.h"
#include "manager/service/event_log.h"

namespace vh {

std::string asTyped(const Place& place, const std::string& text) {
    std::string options = place.embed ? "--embed " : "$1";
    if (place.runtimeDirectory != defaultRuntimeDirectory()) options += "--runtime-dir " + place.runtimeDirectory + " ";
    // Of the verbs those that ask a manager, and not what a mistake is referred to.
    static const std::regex command(R"(virt-handover (--embed )?(?=(\.\.\.|start|upgrade|commit|cancel|adopt|shutdown|)"
                                    R"(destroy|list|show|console)(\W|$)(?!--help)))");
    return std::regex_replace(text, command, "virt-handover " + options);
}

Runner::Runner(const Place& place) : place_(place), loop_(g_main_loop_new(nullptr, FALSE)) {
    if (!place.embed) {
        verbs_ = std::make_unique<DbusClient>(place.runtimeDirectory);
        return;
    }
    auto host = std::make_unique<Host>(place.runtimeDirectory, place.definitionDirectory);
    host_ = host.get();
    host_->onNotice([](const std::string& line) { std::cerr << "virt-handover: " << line << std::endl; });
    host_->onEnded([](const HandoverReport& report) { tellJournal("virt-handover", logEntryOf(report)); });
    verbs_ = std::move(host);
}

VerbResult Runner::wait(const std::function<void(Verbs::Done)>& verb) {
    // Asking to stop rolls back what still can be; a second time changes nothing, since a guest may be in between.
    const Interruptions interruptions(*this);
    VerbResult answer;
    bool answered = false;
    verb([&](const VerbResult& result) {
        answer = result;
        answered = true;
        g_main_loop_quit(loop_);
    });
    if (!answered) g_main_loop_run(loop_);
    return answer;
}

void Runner::holdStandby(const std::string& vm) {
    const Interruptions interruptions(*this);
    std::unique_ptr<DbusService> service;
    try {
        service = std::make_unique<DbusService>(*host_, place_.runtimeDirectory + "/" + vm);
        std::cerr << "virt-handover: holding; "
                  << asTyped(place_, "'virt-handover --embed commit " + vm + "' in another terminal switches, Ctrl-C undoes")
                  << std::endl;
    } catch (const std::exception& error) {
        host_->cancelHandovers(std::string("nobody could ask for a commit: ") + error.what());
    }
    host_->whenIdle([this] { g_main_loop_quit(loop_); });
    g_main_loop_run(loop_);
}

Runner::Interruptions::Interruptions(Runner& runner)
    : keyboard(EventSource::unixSignal(SIGINT, [&] { runner.interrupted("interrupted from the keyboard"); })),
      terminate(EventSource::unixSignal(SIGTERM, [&] { runner.interrupted("asked to terminate (SIGTERM)"); })),
      hangUp(EventSource::hangUp([&] { runner.interrupted("its terminal is gone (SIGHUP)"); })) {}

void Runner::interrupted(const std::string& why) {
    if (host_ && host_->handoverUnderWay()) return host_->cancelHandovers(why);
    // No guest depends on this process: a start or a shutdown that is under way ends as it will.
    std::cerr << "virt-handover: " << why
              << (host_ ? asTyped(place_, "; 'virt-handover list' shows what runs, and whether something is half done")
                        : "; the manager goes on with what it was asked for: 'list' and 'show' tell how it ends")
              << std::endl;
    ::_exit(static_cast<int>(ExitCode::Unreachable));
}

}  // namespace vh
