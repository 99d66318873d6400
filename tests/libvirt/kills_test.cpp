// The tool, its guardian and the manager that it starts are killed at any moment, on a busy machine and with managers that start
// slowly: whatever was killed, each guest has one QEMU at the end, and libvirt knows it.
//
// VH_KILLS upgrades are killed (few by default), as VH_SEED determines, while VH_LOAD processes (one a processor by default) keep
// the machine busy. One line of figures is printed: `kills 20 seed 1: orphans 0, twice 0, lost 0, silent 0`.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/libvirt/libvirt_fixture.h"
#include "tests/libvirt/upgrade_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds, std::chrono::steady_clock;
using testing::HasSubstr;
namespace fs = std::filesystem;

/// A manager's program (VH_CLI) of which those that are to hand over begin late.
std::string slowManager(milliseconds lateness) {
    const double late = static_cast<double>(lateness.count()) / 1000;
    return writeProgram("/tmp/slow-manager", "#!/bin/sh\ncase \"$*\" in *--recover*|*--forget*) ;; *' adopt '*) sleep " +
                                                 std::to_string(late) + " ;; esac\nexec '" + required("VH_CLI") + "' \"$@\"\n");
}

/// The processes that were started to hand over a domain, those included that have not come to it yet.
std::set<pid_t> managersAtIt() {
    std::set<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        const std::string words = readIfThere(entry.path() / "cmdline");
        if (words.find(std::string("\0adopt\0/", 8)) != std::string::npos) found.insert(std::stoi(entry.path().filename()));
    }
    return found;
}

void awaitLibvirt(LibvirtHost& host) {
    if (!eventually([&] { return host.daemon() != 0; }, seconds(5))) host.start();
    EXPECT_TRUE(eventually([&] { return host.virsh({"version"}).code == 0; })) << "libvirt does not come back";
}

/// A manager's program (VH_CLI) of which the one that is to hand over begins when the guardian has been told that nobody has, and
/// before the guardian goes on.
std::string tooLateManager() {
    for (const char* file : {"/tmp/asked", "/tmp/ended"}) fs::remove(file);
    const std::string manager = "'" + required("VH_CLI") + "' \"$@\"";
    return writeProgram("/tmp/too-late-manager", "#!/bin/sh\ncase \"$*\" in\n*' adopt --recover '*) grep -q 'handing over' " +
                                                     std::string(journalFile) + " || exec " + manager + "\n    " + manager +
                                                     " >/tmp/answer; status=$?; : >/tmp/asked\n"
                                                     "    until [ -e /tmp/ended ]; do sleep 0.02; done\n"
                                                     "    cat /tmp/answer; exit $status ;;\n"
                                                     "*' adopt /'*) until [ -e /tmp/asked ]; do sleep 0.02; done\n    " +
                                                     manager + "; : >/tmp/ended ;;\n*) exec " + manager + " ;;\nesac\n");
}

TEST(KilledUpgrade, doesNotBeginAnyMoreWhenItsGuardianHasAsked) {
    LibvirtHost host;
    const TestDomain domain(host, {.name = "late"});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t vmm = domain.vmm();
    {
        RunningTool upgrading(upgradeOf(domain), {{"VH_CLI", tooLateManager()}});
        ASSERT_TRUE(eventually([] { return phaseNow() == "handing over" && !managersAtIt().empty(); }));
        upgrading.kill();
    }
    ASSERT_TRUE(eventually([] { return fs::exists("/tmp/ended"); })) << "the manager did not come to it: nothing was tried";
    EXPECT_EQ(tool({"recover", "--wait"}).code, 0);
    awaitLibvirt(host);
    EXPECT_EQ(vmmsWithFileOpen(domain.disk()), std::set<pid_t>{vmm}) << "it has handed over behind the guardian's back";
    EXPECT_EQ(domain.vmm(), vmm);
    EXPECT_EQ(domain.state(), "running");
    domain.expectGuestIsWell();
    expectUpgraded(tool(upgradeOf(domain)));
}

/// A manager's program (VH_CLI) of which the one that is to hand over begins when a file of that name is there.
std::string managerThatWaitsFor(const std::string& file) {
    fs::remove(file);
    return writeProgram(file + "-manager", "#!/bin/sh\ncase \"$*\" in *' adopt /'*) until [ -e " + file +
                                               " ]; do sleep 0.02; done ;; esac\nexec '" + required("VH_CLI") + "' \"$@\"\n");
}

TEST(KilledUpgrade, doesNotBeginWithTheOrderOfTheNextOne) {
    LibvirtHost host;
    const TestDomain domain(host, {.name = "later"});
    domain.start();
    domain.expectGuestIsWell();
    {
        RunningTool upgrading(upgradeOf(domain), {{"VH_CLI", managerThatWaitsFor("/tmp/first")}});
        ASSERT_TRUE(eventually([] { return phaseNow() == "handing over" && !managersAtIt().empty(); }));
        upgrading.kill();
    }
    EXPECT_EQ(tool({"recover", "--wait"}).code, 0);
    awaitLibvirt(host);
    const std::set<pid_t> first = managersAtIt();
    ASSERT_EQ(first.size(), 1U);
    const pid_t vmm = domain.vmm();
    // The next one's manager is later still: the first finds the order of the second, if that is where it looks.
    RunningTool upgrading(upgradeOf(domain), {{"VH_CLI", managerThatWaitsFor("/tmp/second")}});
    ASSERT_TRUE(eventually([] { return phaseNow() == "handing over" && managersAtIt().size() == 2; }));
    std::ofstream("/tmp/first") << "\n";
    ASSERT_TRUE(eventually([&] { return !managersAtIt().contains(*first.begin()); }));
    EXPECT_EQ(vmmsWithFileOpen(domain.disk()), std::set<pid_t>{vmm}) << "it has handed over by the next one's order";
    std::ofstream("/tmp/second") << "\n";
    expectUpgraded(upgrading.wait());
    domain.expectOneVmm();
    domain.expectGuestIsWell();
}

/// A domain of which only the new QEMU is left and libvirt's files speak of the old one, and nobody who would know why.
pid_t orphanedQemu(const TestDomain& domain) {
    domain.start();
    domain.expectGuestIsWell();
    RunningTool upgrading(upgradeOf(domain), {{"VH_STOP_AT", "committed"}}, "VH_STOPPING_TOOL");
    EXPECT_TRUE(upgrading.stands()) << readIfThere("/tmp/tool.out") << readIfThere("/tmp/tool.err");
    for (const pid_t pid : guardians()) endProcess(pid, SIGKILL);
    upgrading.kill();
    fs::remove(journalFile);
    const std::set<pid_t> vmms = vmmsWithFileOpen(domain.disk());
    EXPECT_EQ(vmms.size(), 1U);
    EXPECT_FALSE(vmms.contains(domain.vmm())) << "it is no orphan";
    return vmms.empty() ? 0 : *vmms.begin();
}

json orphanOf(const Ran& checked) {
    const json orphans = json::parse(checked.output, nullptr, false).value("orphans", json::array());
    EXPECT_EQ(orphans.size(), 1U) << checked.output << checked.error;
    return orphans.empty() ? json::object() : orphans[0];
}

TEST(KilledUpgrade, whoseJournalIsGoneIsFoundAndPutRight) {
    for (const bool libvirtCameBack : {false, true}) {
        SCOPED_TRACE(libvirtCameBack ? "libvirt was started before" : "libvirt was not started before");
        LibvirtHost host;
        const TestDomain domain(host, {.name = "forgotten by all"}), other(host, {.name = "other"});
        other.start();
        const pid_t qemu = orphanedQemu(domain);
        if (libvirtCameBack) {
            host.start();
            const Ran checked = tool({"--json", "check"});
            EXPECT_EQ(checked.code, 2);
            const json orphan = orphanOf(checked);
            EXPECT_EQ(orphan["domain"], domain.name());
            EXPECT_EQ(orphan["pid"], qemu);
            EXPECT_EQ(orphan["libvirtsPid"], domain.vmm());
            EXPECT_THAT(orphan["remedy"].get<std::string>(), HasSubstr("'virt-handover libvirt recover'"));
        }
        const Ran recovered = tool({"--json", "recover"});
        EXPECT_EQ(recovered.code, 0) << recovered.output << recovered.error;
        EXPECT_EQ(outcomeOf(recovered)["outcome"], "upgraded");
        awaitLibvirt(host);
        EXPECT_EQ(domain.state(), "running");
        EXPECT_EQ(domain.vmm(), qemu);
        domain.expectOneVmm();
        other.expectOneVmm();
        domain.expectGuestIsWell();
        EXPECT_THAT(tool({"recover"}).output, HasSubstr("nothing to recover"));
        EXPECT_EQ(json::parse(tool({"--json", "check"}).output)["orphans"], json::array());
    }
}

TEST(KilledUpgrade, ofADomainThatLibvirtHasGivenUpIsSaidAndLeftToAPerson) {
    LibvirtHost host;
    const TestDomain domain(host, {.name = "given up"});
    const pid_t qemu = orphanedQemu(domain);
    const std::string status = readIfThere(domain.statusFile());
    fs::remove(domain.statusFile());  // As libvirt does with a domain whose process it does not find.
    host.start();
    EXPECT_EQ(domain.state(), "shut off");
    const pid_t daemon = host.daemon();
    EXPECT_THAT(orphanOf(tool({"--json", "check"}))["remedy"].get<std::string>(), HasSubstr("Do not start it"));
    const Ran recovered = tool({"--json", "recover"});
    EXPECT_EQ(recovered.code, 4);
    EXPECT_EQ(outcomeOf(recovered)["pid"], qemu);
    EXPECT_THAT(outcomeOf(recovered)["cause"].get<std::string>(), HasSubstr("QEMU pid " + std::to_string(qemu) + " runs it"));
    EXPECT_EQ(host.daemon(), daemon) << "libvirt was stopped for nothing";
    EXPECT_EQ(vmmsWithFileOpen(domain.disk()), std::set<pid_t>{qemu});
    domain.expectGuestIsWell();

    // A person who has the status XML gives it back.
    host.stop();
    std::ofstream(domain.statusFile()) << status;
    EXPECT_EQ(tool({"recover"}).code, 0);
    host.start();
    EXPECT_EQ(domain.state(), "running");
    domain.expectOneVmm();
}

/// Processes that keep processors busy, for as long as it lives.
class Load {
 public:
    explicit Load(unsigned long count) {
        for (unsigned long i = 0; i < count; ++i) {
            pids_.push_back(::fork());
            if (pids_.back() != 0) continue;
            ::execl("/bin/sh", "sh", "-c", "while :; do :; done", nullptr);
            ::_exit(127);
        }
    }
    Load(const Load&) = delete;
    ~Load() {
        for (const pid_t pid : pids_) {
            ::kill(pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
        }
    }

 private:
    std::vector<pid_t> pids_;
};

/// Three domains whose upgrades are killed, and what became of their guests.
class Kills {
 public:
    explicit Kills(unsigned long seed) : random_(seed) {
        for (const char* name : {"one", "two", "three"})
            domains_.push_back(std::make_unique<TestDomain>(host_, DomainOptions{.name = name}));
        for (const auto& domain : domains_) domain->start();
        for (const auto& domain : domains_) domain->expectGuestIsWell();
        const auto began = steady_clock::now();
        upgrade("");
        whole_ = std::chrono::duration_cast<milliseconds>(steady_clock::now() - began);
    }

    void killOne() {
        const bool slow = chance(2);
        const milliseconds lateness = slow ? upTo(whole_) : milliseconds(0);
        RunningTool upgrading(upgradeOf({"one", "two", "three"}),
                              slow ? Environment{{"VH_CLI", slowManager(lateness)}} : Environment());
        std::this_thread::sleep_for(upTo(whole_ + whole_ / 4 + lateness));
        const bool managersToo = chance(4), guardianToo = chance(4);
        if (guardianToo && chance(2)) killAll(guardians());  // Before the tool, or after it.
        upgrading.kill();
        if (guardianToo) killAll(guardians());
        if (managersToo) {
            std::this_thread::sleep_for(upTo(milliseconds(300)));
            killAll(managersAtIt());
        }
        recover();
        look("lateness " + std::to_string(lateness.count()) + " ms" + (managersToo ? ", managers killed, too" : "") +
             (guardianToo ? ", guardian killed, too" : ""));
    }

    void lookAtGuests() {
        for (const auto& domain : domains_) {
            const bool failed = testing::Test::HasFailure();
            domain->expectGuestIsWell();
            if (!failed && testing::Test::HasFailure()) ++silent_;
        }
    }

    void upgradeAtTheEnd() { upgrade("the last one"); }

    std::string figures() const {
        return "orphans " + std::to_string(orphans_) + ", twice " + std::to_string(twice_) + ", lost " + std::to_string(lost_) +
               ", silent " + std::to_string(silent_);
    }

 private:
    using Environment = std::map<std::string, std::string>;

    bool chance(int in) { return std::uniform_int_distribution(1, in)(random_) == 1; }
    milliseconds upTo(milliseconds most) {
        return milliseconds(std::uniform_int_distribution<milliseconds::rep>(0, most.count())(random_));
    }

    static void killAll(const std::set<pid_t>& pids) {
        for (const pid_t pid : pids) endProcess(pid, SIGKILL);
    }

    void upgrade(const std::string& which) {
        const Ran ran = tool(upgradeOf({"one", "two", "three"}));
        EXPECT_EQ(ran.code, 0) << which << ran.output << ran.error;
    }

    void recover() {
        const Ran recovered = tool({"--json", "recover", "--wait"});
        if (recovered.code != 0) ++lost_;
        EXPECT_EQ(recovered.code, 0) << recovered.output << recovered.error;
        EXPECT_TRUE(eventually([] { return guardians().empty() && managersAtIt().empty(); }));
        awaitLibvirt(host_);
    }

    void look(const std::string& after) {
        SCOPED_TRACE(after);
        for (const auto& domain : domains_) {
            const std::set<pid_t> vmms = vmmsWithFileOpen(domain->disk());
            if (vmms.size() > 1) ++twice_;
            if (vmms.empty()) ++lost_;
            if (vmms.size() == 1 && (domain->state() != "running" || !vmms.contains(domain->vmm()))) ++orphans_;
            EXPECT_EQ(domain->state(), "running");
            domain->expectOneVmm();
        }
    }

    std::mt19937_64 random_;
    LibvirtHost host_;
    std::vector<std::unique_ptr<TestDomain>> domains_;
    milliseconds whole_{0};  ///< How long an upgrade takes that nobody kills.
    unsigned orphans_ = 0, twice_ = 0, lost_ = 0, silent_ = 0;
};

TEST(KilledUpgrade, leavesEachGuestOneQemuThatLibvirtKnows) {
    const unsigned long count = numberFrom("VH_KILLS", 15), seed = numberFrom("VH_SEED", 1);
    const Load load(numberFrom("VH_LOAD", std::max(1U, std::thread::hardware_concurrency())));
    Kills kills(seed);
    unsigned long done = 0;
    while (done < count && !testing::Test::HasFatalFailure()) {
        kills.killOne();
        if (++done % 10 != 0) continue;
        kills.lookAtGuests();
        std::cout << "after " << done << " kills: " << kills.figures() << std::endl;
    }
    kills.lookAtGuests();
    kills.upgradeAtTheEnd();
    std::cout << "kills " << done << " seed " << seed << ": " << kills.figures() << std::endl;
}

}  // namespace
}  // namespace vh::test
