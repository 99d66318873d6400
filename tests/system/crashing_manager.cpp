// A manager that dies in the middle of a handover: `crashing-manager RUNTIME_DIRECTORY VM BINARY STATE [DELAY_MS]` begins an
// upgrade, or the adoption that the file VM tells of, and kills itself (SIGKILL) when the state begins, or so much later.

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "manager/service/host.h"

int main(int argc, char** argv) {
    using namespace vh;
    if (argc < 5) return 2;
    const std::string state = argv[4];
    const std::chrono::milliseconds delay(argc > 5 ? std::atoi(argv[5]) : 0);
    Host host(argv[1], "/nonexistent");
    UpgradeOptions options;
    options.binary = argv[3];
    options.standby = state == name(State::StandingBy);
    EventSource later;
    bool ended = false;
    const Handover::Observer dieThen = [&](const HandoverProgress& progress) {
        if (name(progress.state) != state) return;
        if (delay.count() == 0) ::kill(::getpid(), SIGKILL);
        later = EventSource::after(delay, [] { ::kill(::getpid(), SIGKILL); });
    };
    const Verbs::Done done = [&](const VerbResult& result) {
        ended = !result.report || result.report->outcome != State::StandingBy;
        if (ended) std::cerr << "crashing-manager: it ended before '" << state << "': " << toJson(result) << '\n';
    };
    const std::string vm = argv[2];
    vm.find('/') == std::string::npos ? host.upgrade(vm, options, dieThen, done) : host.adopt(vm, dieThen, done);
    while (!ended) g_main_context_iteration(nullptr, TRUE);
    return 0;
}
