// Many reference VMs handed over at once by one manager: `fleet REFERENCE_VMM COUNT`. Prints what it took as a JSON object, and
// ends with 0 only when every handover was one, without a lost or repeated heartbeat or a byte of memory that is not as it was.

#include <sys/resource.h>

#include <cstdlib>
#include <iostream>

#include <nlohmann/json.hpp>

#include "tests/support/vm_fixture.h"

namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using namespace vh;

double secondsSince(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Asks the host something for every VM, all at once, and waits for all answers.
std::vector<VerbResult> forAll(int count, const std::function<void(int, Verbs::Done)>& verb) {
    std::vector<VerbResult> results(static_cast<std::size_t>(count));
    int answered = 0;
    // Each in a turn of the main loop, as requests come over D-Bus.
    std::vector<EventSource> requests;
    for (int i = 0; i < count; ++i)
        requests.push_back(EventSource::soon([&, i] {
            verb(i, [&, i](const VerbResult& result) {
                results[static_cast<std::size_t>(i)] = {result.code, toJson(result)};
                ++answered;
            });
        }));
    if (!test::turnUntil([&] { return answered == count; }, milliseconds(300'000)))
        throw std::runtime_error("no answer for " + std::to_string(count - answered) + " VMs within 300 s");
    return results;
}

json handAllOver(Host& host, const test::Workspace& workspace, const std::string& referenceVmm, int count) {
    const auto name = [](int i) { return "vm" + std::to_string(i); };
    const std::vector<VerbResult> started = forAll(count, [&](int i, Verbs::Done done) {
        const std::string definition = workspace.file(
            name(i) + ".yaml", test::referenceDefinition(name(i), referenceVmm, "handover: {pause_budget: 20s}\n"));
        host.start(definition, std::nullopt, std::move(done));
    });
    for (const VerbResult& result : started)
        if (result.code != ExitCode::Done) throw std::runtime_error("start: " + result.value.dump());

    const auto begin = std::chrono::steady_clock::now();
    const std::vector<VerbResult> reports = forAll(
        count, [&](int i, Verbs::Done done) { host.upgrade(name(i), {.binary = referenceVmm}, nullptr, std::move(done)); });
    json result{{"vms", count}, {"seconds", secondsSince(begin)}, {"lost", 0}, {"repeated", 0}, {"longestPauseMs", 0.0}};
    for (const VerbResult& report : reports) {
        const json& guest = report.value["guest"];
        if (report.value["outcome"] != "upgraded" || !guest.is_object() || !guest["errors"].empty() ||
            !guest["pauseMs"].is_number())
            throw std::runtime_error("not a good handover: " + report.value.dump(2));
        result["lost"] = result["lost"].get<int>() + guest["lost"].get<int>();
        result["repeated"] = result["repeated"].get<int>() + guest["repeated"].get<int>();
        result["longestPauseMs"] = std::max(result["longestPauseMs"].get<double>(), guest["pauseMs"].get<double>());
    }
    return result;
}

int run(const std::string& referenceVmm, int count) {
    // A VM under a handover has some dozen descriptors in the manager.
    const rlimit files{16384, 16384};
    ::setrlimit(RLIMIT_NOFILE, &files);
    test::Workspace workspace;
    Host host(workspace.runtime(), "/nonexistent");
    const auto destroyAll = [&] {
        forAll(count, [&](int i, Verbs::Done done) { host.destroy("vm" + std::to_string(i), std::move(done)); });
    };
    try {
        const json result = handAllOver(host, workspace, referenceVmm, count);
        destroyAll();
        std::cout << result.dump() << std::endl;
        return result["lost"] == 0 && result["repeated"] == 0 ? 0 : 1;
    } catch (const std::exception&) {
        destroyAll();
        throw;
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::cerr << "usage: fleet REFERENCE_VMM COUNT\n";
        return 1;
    }
    try {
        return run(argv[1], std::atoi(argv[2]));
    } catch (const std::exception& error) {
        std::cerr << "fleet: " << error.what() << "\n";
        return 1;
    }
}
