// What an upgrade under libvirt costs: the guest's pause, against that of a VM of the manager's own in the same run, and for how long
// libvirt is away. Runs in the test root; `meson test --benchmark` calls it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/libvirt/libvirt_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds;

constexpr int rounds = 10;
constexpr int domainsAtOnce = 10;
/// Nearly idle. Ten guests that tick a thousand times a second keep two cores busy under TCG all the same, so those are paused.
constexpr const char* idle = " probe.ram_mib=64 probe.rate_mib_s=1 probe.disk_per_s=1";

json upgrade(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {required("VH_LIBVIRT_TOOL"), "--json", "upgrade", "--to", newQemu()});
    const Ran ran = runProgram(std::move(arguments), seconds(120));
    EXPECT_EQ(ran.code, 0) << ran.output << ran.error;
    return json::parse(ran.output, nullptr, false);
}

void print(const char* what, std::vector<double> values) {
    if (values.empty()) return;
    std::ranges::sort(values);
    std::printf("%-44s median %8.1f   least %8.1f   most %8.1f   of %zu\n", what, values[values.size() / 2], values.front(),
                values.back(), values.size());
    std::fflush(stdout);
}

TEST(Benchmark, oneDomainAgainstAVmOfTheManagersOwn) {
    const LibvirtHost libvirt;
    const TestDomain domain(libvirt, {.name = "one", .cmdline = idle});
    domain.start();
    domain.expectGuestIsWell();
    Workspace workspace;
    std::vector<double> pauses, ownPauses, ratios, away;
    {
        Host host(workspace.runtime(), "/nonexistent");
        const std::string file = writeDefinition(workspace, {.cmdline = idle});
        ASSERT_EQ(wait([&](Verbs::Done done) { host.start(file, milliseconds(90'000), std::move(done)); }).code, ExitCode::Done);
        for (int round = 0; round < rounds; ++round) {
            const json own = wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = newQemu()}, nullptr, std::move(done)); }).value;
            const json theirs = upgrade({domain.name()});
            const json pause = theirs.value("/domains/0/stopToResumeMs"_json_pointer, json()), ownPause = own["vmm"]["stopToResumeMs"];
            ASSERT_TRUE(pause.is_number() && ownPause.is_number()) << theirs.dump(2) << own.dump(2);
            pauses.push_back(pause);
            ownPauses.push_back(ownPause);
            ratios.push_back(pause.get<double>() / ownPause.get<double>());
            away.push_back(theirs["libvirtAwayMs"]);
        }
        wait([&](Verbs::Done done) { host.destroy("vm", std::move(done)); });
    }
    print("libvirt domain, STOP to RESUME, ms", pauses);
    print("manager's own VM, STOP to RESUME, ms", ownPauses);
    print("ratio, paired by round", ratios);
    print("libvirt away, one domain, ms", away);
    domain.expectGuestIsWell();
}

TEST(Benchmark, tenDomainsInOneAbsence) {
    const LibvirtHost libvirt;
    std::vector<std::unique_ptr<TestDomain>> domains;
    for (int i = 0; i < domainsAtOnce; ++i) {
        domains.push_back(std::make_unique<TestDomain>(libvirt, DomainOptions{.name = "d" + std::to_string(i), .cmdline = idle}));
        domains.back()->start();
    }
    for (const auto& domain : domains) {
        domain->guestStatus();  // It is up.
        libvirt.must({"suspend", domain->name()});
    }
    std::vector<double> away;
    for (int round = 0; round < 2; ++round) {
        std::vector<std::string> names{"--pause-budget", "10s"};
        for (const auto& domain : domains) names.push_back(domain->name());
        const json answer = upgrade(names);
        away.push_back(answer.value("libvirtAwayMs", 0.0));
    }
    print("libvirt away, ten paused domains, ms", away);
}

}  // namespace
}  // namespace vh::test
