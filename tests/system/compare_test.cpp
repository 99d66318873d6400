// `virt-handover compare` on real QEMUs, as a person or a script meets it: what it writes, and what is left when it is cut short.

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include <gmock/gmock.h>

#include "manager/record/vm_record.h"
#include "manager/vmm/kvm_probe.h"
#include "tests/support/golden.h"
#include "tests/support/sample_results.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::AnyOf;
using testing::Ge;
using testing::HasSubstr;
using testing::Le;
namespace fs = std::filesystem;

/// The directories that comparisons make for their VMs.
std::set<std::string> workplaces() {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator("/tmp"))
        if (entry.path().filename().string().starts_with("vhc-")) found.insert(entry.path());
    return found;
}

class CompareTest : public testing::Test {
 protected:
    void TearDown() override {
        EXPECT_EQ(workplaces(), workplacesBefore_);
        workspace.expectNothingLeft();
    }

    std::vector<std::string> command(const std::vector<std::string>& arguments) const {
        std::vector<std::string> all{required("VH_CLI"), "compare", "--even-if-busy"};
        all.insert(all.end(), arguments.begin(), arguments.end());
        return all;
    }
    /// Tests run on busy hosts.
    static inline const std::string disturbedByNothing =
        "steal_limit_percent: 100\ncpu_pressure_limit_percent: 100\nrun_queue_limit_percent: 100000\nbeat_limit: 60s\n";
    /// Of a small plan: two binaries, the smallest guest.
    std::vector<std::string> smallPlan(const std::string& keys, const std::string& old = oldQemu()) const {
        const std::string plan = workspace.file("plan.yaml", "pairs: [{old: \"" + old + "\", new: \"" + newQemu() + "\"}]\n" +
                                                                 "ram: [{size: 256MiB, touched: 64MiB}]\nwarm_up_rounds: 0\n"
                                                                 "before: 300ms\nafter: 500ms\n" +
                                                                 disturbedByNothing + keys);
        return {"--plan", plan, "--output", output()};
    }
    /// Of reference VMMs, which boot nothing.
    std::vector<std::string> referencePlan(const std::string& keys, const std::string& old, const std::string& newVmm) const {
        const std::string plan = workspace.file("plan.yaml", "pairs: [{old: \"" + old + "\", new: \"" + newVmm + "\"}]\n" +
                                                                 "ram: [{size: 192MiB, touched: 16MiB}]\ndevices: [none]\n"
                                                                 "loads: [idle]\nwarm_up_rounds: 0\nafter: 500ms\n" +
                                                                 disturbedByNothing + keys);
        return {"--plan", plan, "--kernel", "/dev/null", "--initrd", "/dev/null", "--design", "relayed", "--output", output()};
    }
    /// A key of a plan; where any user can read it.
    std::string bareGuest() const {
        const std::string kernel = workspace.path() + "/bare-guest.elf", firmware = workspace.path() + "/bare-firmware.bin";
        fs::copy_file(required("VH_BARE_GUEST"), kernel, fs::copy_options::skip_existing);
        fs::copy_file(required("VH_BARE_FIRMWARE"), firmware, fs::copy_options::skip_existing);
        return "bare_guest: {kernel: " + kernel + ", firmware: " + firmware + "}\n";
    }
    std::string output() const { return workspace.path() + "/results"; }
    json results() const { return json::parse(readFile(output() + "/results.json")); }

    Ran run(const std::vector<std::string>& arguments) {
        return collectProgram(workspace, spawnProgram(workspace, command(arguments), "compare"), "compare");
    }

    /// What an inspection calls the manager's, each once: QEMU keeps several duplicates of some.
    static std::set<std::string> ofTheManager(const json& inspection) {
        std::set<std::string> names;
        for (const json& one : inspection["descriptors"])
            if (one["createdBy"] == "manager") names.insert(one["name"].get<std::string>());
        return names;
    }
    static std::set<std::string> passedByTheManager(const std::string& design) {
        std::set<std::string> names{"qmp", "console", "heartbeat", "disk/root/ro", "disk/root/rw"};
        if (::geteuid() == 0) names.insert("tap/net0");
        names.insert(design == "vmm-owned" || design == "vmm-exec" || design == "cpr-transfer" ? "inbox" : "ram0");
        if (design == "vmm-exec") names.insert("exec/state");
        return names;
    }

    /// On a host with too much to do a beat may be missing, and such a round is not called intact.
    static void expectRightMemory(const json& round) {
        EXPECT_EQ(round["patterns"]["mismatches"], 0) << round;
        EXPECT_GT(round["patterns"]["pagesChecked"], 0) << round;
        if (round["beats"]["lost"] == 0) {
            EXPECT_EQ(round["patterns"]["intact"], true) << round;
        }
    }

    /// Of both designs that are driven by hand, on the smallest guest.
    static constexpr const char* byHand =
        "accelerators: [tcg]\nguests: [bare]\ndevices: [disk]\ndesigns: [cpr-transfer, x-ignore-shared]\n";
    /// Drives both ways by hand, to a VMM that does not take the guest: it runs on in the old one, round by round.
    void expectGuestIsGivenBack(const std::string& newVmm, const std::function<void(const json& round)>& check) {
        const std::vector<std::string> plan = smallPlan(std::string("rounds: 2\n") + byHand + bareGuest(), newQemu());
        replaceIn(plan[1], "new: \"" + newQemu(), "new: \"" + newVmm);
        replaceIn(plan[1], "before: 300ms", "before: 1s");  // A guest that is not heard in that time counts as lost.
        const Ran ran = run(plan);
        ASSERT_EQ(ran.code, 0) << ran.error;
        const json found = results();
        for (const char* design : {"cpr-transfer", "x-ignore-shared"}) {
            const json& one = series(found, design);
            ASSERT_EQ(one["rounds"].size(), 2u) << one;
            for (const json& round : one["rounds"]) {
                EXPECT_EQ(round["outcome"], "rolled back") << round;
                check(round);
            }
        }
        EXPECT_EQ(found["notes"].dump().find("started anew"), std::string::npos) << "the guest ran on: " << found["notes"];
    }

    static const json& series(const json& results, const std::string& design, std::size_t cell = 0) {
        for (const json& one : results["cells"][cell]["series"])
            if (one["design"] == design) return one;
        throw std::out_of_range(design);
    }

    Workspace workspace;

 private:
    std::set<std::string> workplacesBefore_ = workplaces();
};

TEST_F(CompareTest, measuresEveryDesignAndListsThoseThatCannotRun) {
    const Ran ran = run(smallPlan("rounds: 1\nseed: 7\n"));
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    EXPECT_TRUE(found["finishedAt"].is_string());
    EXPECT_EQ(found["seed"], 7);
    EXPECT_EQ(found["vmms"][0]["version"], "10.0.2");
    EXPECT_EQ(found["vmms"][1]["version"].get<std::string>().substr(0, 4), "11.1");
    for (const json& vmm : found["vmms"]) EXPECT_GE(vmm["buildId"].get<std::string>().size(), 16u) << vmm;
    bool hasRate = false;
    for (const char* design :
         {"relayed", "manager-owned", "vmm-owned", "copy", "save-restore", "cpr-transfer", "x-ignore-shared"}) {
        const json& one = series(found, design);
        EXPECT_EQ(one["notRun"], "") << design;
        ASSERT_EQ(one["rounds"].size(), 1u) << design;
        for (const json& round : one["rounds"]) {
            EXPECT_EQ(round["outcome"], "upgraded") << round;
            expectRightMemory(round);
            EXPECT_THAT(round["startedAt"].get<std::string>(), AllOf(Ge(found["startedAt"]), Le(found["finishedAt"])));
            EXPECT_GE(round["disturbance"]["before"]["cpuPressurePercent"], 0) << round;
            EXPECT_GE(round["disturbance"]["since"]["vmmWaitPercent"], 0) << round;
            EXPECT_GE(round["disturbance"]["since"]["managerWaitPercent"], 0) << round;
            EXPECT_GT(round["stopToResumeMs"], 0) << round;
            EXPECT_GT(round["guestPauseMs"], 0) << round;
            EXPECT_EQ(round.contains("qemuDowntimeMs"), std::string(design) != "save-restore") << round;
            EXPECT_GT(round["preparationMs"], 0) << round;
            EXPECT_GT(round["noWayBackMs"], 0) << round;
            EXPECT_LT(round["preparationMs"].get<double>() + round["noWayBackMs"].get<double>(), round["totalMs"]) << round;
            EXPECT_GT(round["beats"]["during"]["p99Ms"], 0) << round;
            for (const char* process : {"manager", "old", "new"}) EXPECT_GT(round["cpuMs"][process], 0) << process << round;
            // On a busy host the guest may not come to say it in so short a window.
            hasRate = hasRate || round["writeRate"]["beforePagesPerSecond"].is_number();
            EXPECT_TRUE(round["pageFaults"].is_object()) << round;
            if (::geteuid() == 0) {
                EXPECT_GT(round["network"]["sent"], 50) << round;
            }
        }
        ASSERT_TRUE(one["inspection"].is_object()) << design;
        EXPECT_GT(one["inspection"]["memoryBothBytes"], one["inspection"]["memoryOldBytes"]) << design;
        EXPECT_EQ(one["inspection"]["memoryPeakBytes"], one["inspection"]["memoryOldBytes"].get<std::uint64_t>() +
                                                            one["inspection"]["extraMemoryBytes"].get<std::uint64_t>());
        EXPECT_GE(one["inspection"]["memorySamples"], 3) << design;
        EXPECT_EQ(ofTheManager(one["inspection"]), passedByTheManager(design)) << one["inspection"]["descriptors"];
        // Nothing of a script that a shell left open. What save-restore is given by its monitor counts as the VMM's.
        for (const json& other : one["inspection"]["descriptors"]) {
            const std::string what = other["name"];
            EXPECT_TRUE(other["createdBy"] != "new VMM" || !what.starts_with("/") || what.starts_with("/var/tmp/#"))
                << design << ": " << other;
        }
    }
    EXPECT_TRUE(hasRate) << "no guest said how fast it writes";
    // vmm-exec needs 10.2: it is listed, and says why it was not run.
    EXPECT_THAT(series(found, "vmm-exec")["notRun"].get<std::string>(), HasSubstr("10.2"));
    EXPECT_THAT(ran.output, HasSubstr("vmm-exec"));
    EXPECT_THAT(ran.output, HasSubstr("10.2"));
    // Guest RAM is copied by the baselines only, and only they need it twice.
    EXPECT_EQ(series(found, "relayed")["rounds"][0]["ramCopiedBytes"], 0);
    EXPECT_GT(series(found, "copy")["rounds"][0]["ramCopiedBytes"], 64 << 20);
    EXPECT_GT(series(found, "copy")["inspection"]["extraMemoryBytes"],
              series(found, "relayed")["inspection"]["extraMemoryBytes"]);
    // One round is too few to claim anything.
    for (const json& ratio : found["summary"]["cells"][0]["ratios"])
        EXPECT_EQ(ratio["verdict"], "too few rounds to say") << ratio;
    EXPECT_THAT(readFile(output() + "/report.html"), HasSubstr("relayed"));
    EXPECT_THAT(readFile(output() + "/results.csv"), HasSubstr("stopToResumeMs"));

    EXPECT_NE(run({"--check", output() + "/results.json", "--with", output() + "/results.json"}).code, 0)
        << "one round compares nothing";
    const Ran again = run(smallPlan("rounds: 1\n"));
    EXPECT_EQ(again.code, 1) << "results are never overwritten";
    EXPECT_THAT(again.error, HasSubstr("--resume"));
}

TEST_F(CompareTest, saysWhyADesignIsNotRunAlsoWhereMemoryIsNotEnough) {
    const std::string plan = workspace.file("plan.yaml", "pairs: [{old: \"" + oldQemu() + "\", new: \"" + newQemu() +
                                                             "\"}]\nram: [{size: 8TiB, touched: 64MiB, baselines: false}]\n" +
                                                             "rounds: 1\ndesigns: [relayed, copy]\n" + disturbedByNothing);
    const Ran ran = run({"--plan", plan, "--output", output()});
    EXPECT_EQ(ran.code, 2) << "no round was measured: " << ran.output;
    EXPECT_THAT(series(results(), "relayed")["notRun"].get<std::string>(), HasSubstr("of memory")) << ran.error;
    EXPECT_THAT(series(results(), "copy")["notRun"].get<std::string>(), HasSubstr("the plan leaves it out"));
}

TEST_F(CompareTest, measuresVmmExecWhereBothCan) {
    const Ran ran = run(smallPlan("rounds: 1\ndesigns: [vmm-exec, relayed]\n", newQemu()));
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    EXPECT_EQ(series(found, "vmm-exec")["notRun"], "");
    EXPECT_EQ(series(found, "vmm-exec")["rounds"][0]["outcome"], "upgraded") << found;
    const json round = series(found, "vmm-exec")["rounds"][0], inspection = series(found, "vmm-exec")["inspection"];
    EXPECT_EQ(round["ramCopiedBytes"], 0);
    EXPECT_FALSE(round.contains("qemuDowntimeMs")) << "the program that knew it is gone";
    for (const char* process : {"manager", "old", "new"}) EXPECT_GT(round["cpuMs"][process], 0) << process << round;
    // The new VMM is rehearsed beside the old one, and gone when the guest runs.
    EXPECT_GT(inspection["extraMemoryBytes"], 8 << 20) << inspection;
    EXPECT_EQ(ofTheManager(inspection), passedByTheManager("vmm-exec")) << inspection["descriptors"];
}

TEST_F(CompareTest, measuresWhatIsDrivenByHandInTheSameRounds) {
    const std::vector<std::string> plan = smallPlan(std::string("rounds: 2\nseed: 7\n") + byHand + bareGuest());
    replaceIn(plan[1], "after: 500ms", "after: 2s");
    replaceIn(plan[1], "designs: [", "designs: [manager-owned, vmm-owned, ");
    replaceIn(plan[1], "pairs: [", "pairs: [{old: \"" + newQemu() + "\", new: \"" + newQemu() + "\"}, ");
    const Ran ran = run(plan);
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    ASSERT_EQ(found["cells"].size(), 2u);
    for (std::size_t cell = 0; cell < 2; ++cell) {
        for (const char* design : {"manager-owned", "vmm-owned", "cpr-transfer", "x-ignore-shared"}) {
            const json& one = series(found, design, cell);
            EXPECT_EQ(one["notRun"], "") << design;
            ASSERT_EQ(one["rounds"].size(), 2u) << design;
            for (const json& round : one["rounds"]) {
                EXPECT_EQ(round["outcome"], "upgraded") << design << round;
                expectRightMemory(round);
                EXPECT_EQ(round["beats"]["repeated"], 0) << round;
                EXPECT_TRUE(round["beats"]["after"].is_object()) << "not heard on the new VMM: " << round;
                EXPECT_EQ(round["ramCopiedBytes"], 0) << round;
                for (const char* figure : {"stopToResumeMs", "guestPauseMs", "preparationMs", "noWayBackMs", "totalMs"})
                    EXPECT_GT(round[figure], 0) << design << ": " << figure << round;
                for (const char* process : {"manager", "old", "new"}) EXPECT_GT(round["cpuMs"][process], 0) << process << round;
            }
            EXPECT_TRUE(one["inspection"].is_object()) << design;
        }
        EXPECT_EQ(found["notes"].dump().find("started anew"), std::string::npos) << found["notes"];
        std::set<std::string> contrasts;
        for (const json& ratio : found["summary"]["cells"][cell]["ratios"])
            contrasts.insert(ratio["design"].get<std::string>() + "/" + ratio["reference"].get<std::string>());
        EXPECT_TRUE(contrasts.contains("vmm-owned/cpr-transfer") && contrasts.contains("manager-owned/x-ignore-shared"));
    }
    const Ran again = collectProgram(
        workspace,
        spawnProgram(workspace, {"/usr/bin/python3", inSourceTree("tests/results/figures.py"), output() + "/results.json"},
                     "figures"),
        "figures");
    EXPECT_EQ(again.code, 0) << "an independent program makes other figures of it: " << again.output;
}

TEST_F(CompareTest, leavesAGuestOnTheOldVmmWhenWhatIsDrivenByHandFails) {
    // Answers every question that is asked beforehand, and ends when it is to take a guest over.
    const std::string unfit =
        workspace.script("unfit", "case \" $* \" in *' -incoming '*) exit 1 ;; esac\nexec '" + newQemu() + "' \"$@\"\n");
    expectGuestIsGivenBack(unfit, [](const json& round) {
        EXPECT_THAT(round["cause"].get<std::string>(), HasSubstr("the new VMM exited with status 1"));
        EXPECT_TRUE(round["stopToResumeMs"].is_null());
        EXPECT_EQ(round["beats"]["lost"], 0) << "of a guest that was never stopped: " << round;
    });
}

TEST_F(CompareTest, givesAGuestBackThatTheNewVmmDiesWithWhenItIsDrivenByHand) {
    // Builds its machine and ends when the guest's state comes: the old VMM has stopped the guest by then.
    const std::string dying = workspace.script("dying", "case \" $* \" in *' -incoming '*) exec '" + newQemu() +
                                                            "' \"$@\" -global virtio-blk-device.queue-size=16 ;; esac\nexec '" +
                                                            newQemu() + "' \"$@\"\n");
    expectGuestIsGivenBack(dying, [](const json& round) {
        // On a busy host the old VMM knows of it for long before the new one has ended.
        EXPECT_THAT(round["cause"].get<std::string>(),
                    AnyOf(HasSubstr("exceeds allocated max 16"), HasSubstr("the old VMM could not hand over")));
    });
}

TEST_F(CompareTest, measuresAGuestUnderKvmBesideOneWithoutIt) {
    if (const KvmAbility kvm = probeKvm(); kvm.guests == KvmAbility::Guests::None)
        GTEST_SKIP() << "needs a host whose KVM runs guests: " << kvm.why;
    const std::vector<std::string> plan = smallPlan(
        "rounds: 1\ndesigns: [relayed, manager-owned, vmm-owned, vmm-exec]\nguests: [bare]\n"
        "accelerators: [tcg, kvm]\nvcpus: [2]\ndevices: [many]\n" +
            bareGuest(),
        newQemu());
    replaceIn(plan[1], "after: 500ms", "after: 2s");
    const Ran ran = run(plan);
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    ASSERT_EQ(found["cells"].size(), 2u);
    EXPECT_EQ(found["host"]["accelerator"], "kvm, tcg");
    EXPECT_THAT(found["notes"].dump(), HasSubstr("the bare guest has no network"));
    int known = 0;
    for (std::size_t cell = 0; cell < 2; ++cell) {
        EXPECT_EQ(found["cells"][cell]["accelerator"], cell == 0 ? "tcg" : "kvm");
        EXPECT_EQ(found["cells"][cell]["guest"], "bare");
        for (const char* design : {"relayed", "manager-owned", "vmm-owned", "vmm-exec"}) {
            const json& one = series(found, design, cell);
            ASSERT_EQ(one["rounds"].size(), 1u) << one;
            const json& round = one["rounds"][0];
            EXPECT_EQ(round["outcome"], "upgraded") << round;
            expectRightMemory(round);
            // On a busy host the guest may not come to say it in so short a window.
            known += round["writeRate"]["beforePagesPerSecond"].is_number() ? 1 : 0;
            ASSERT_TRUE(round.contains("guestClock")) << round;
            EXPECT_EQ(round["guestClock"]["wentBack"], false) << round;
            EXPECT_GT(round["guestClock"]["hostGapMs"], 0) << round;
            // KVM's clock is there under KVM only.
            EXPECT_EQ(round["guestClock"]["clockGapMs"].is_number(), cell == 1) << round;
        }
    }
    EXPECT_GE(known, 6) << "of 8 rounds in which the guest says how fast it writes";
}

TEST_F(CompareTest, putsGuestRamIntoHugePagesOrSaysWhyNot) {
    const Ran ran =
        run(smallPlan("rounds: 1\ndesigns: [relayed, vmm-owned, copy]\nguests: [bare]\naccelerators: [tcg]\n"
                      "page_sizes: [4KiB, thp]\nhot_set: [all]\ndevices: [none]\n" +
                          bareGuest(),
                      newQemu()));
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    EXPECT_EQ(found["cells"][0]["hotSetBytes"], 48 << 20);
    EXPECT_FALSE(found["cells"][0].contains("transparentHuge"));
    EXPECT_TRUE(found["cells"][1]["transparentHuge"]);
    EXPECT_THAT(series(found, "vmm-owned", 1)["notRun"].get<std::string>(), HasSubstr("where no huge page can begin"));
    EXPECT_THAT(series(found, "copy", 1)["notRun"].get<std::string>(), HasSubstr("pages of 4KiB"));
    const json &small = series(found, "relayed", 0), &huge = series(found, "relayed", 1);
    ASSERT_EQ(small["rounds"].size(), 1u) << small;
    EXPECT_EQ(small["rounds"][0]["outcome"], "upgraded") << small;
    if (huge["rounds"].empty()) GTEST_SKIP() << "needs root and Linux 6.1: " << huge["notRun"];
    EXPECT_EQ(huge["rounds"][0]["outcome"], "upgraded") << huge;
    // What it is for: the new VMM maps 2 MiB at once. The guest touches 64 MiB, that is 16384 pages.
    EXPECT_LT(huge["rounds"][0]["pageFaults"]["minor"], 2'000) << huge;
    EXPECT_GT(small["rounds"][0]["pageFaults"]["minor"], huge["rounds"][0]["pageFaults"]["minor"]);
}

TEST_F(CompareTest, writesWhatItHasWhenInterruptedAndGoesOnLater) {
    const std::vector<std::string> small = smallPlan("rounds: 3\nseed: 7\ndesigns: [relayed, manager-owned]\n");
    const pid_t child = spawnProgram(workspace, command(small), "compare");
    EXPECT_TRUE(turnUntil(
        [&] {
            std::error_code ignored;
            if (!fs::exists(output() + "/results.json", ignored)) return false;
            return series(results(), "relayed")["rounds"].size() + series(results(), "manager-owned")["rounds"].size() >= 2;
        },
        patience));
    ::kill(child, SIGINT);
    const Ran ran = collectProgram(workspace, child, "compare");
    EXPECT_EQ(ran.code, 130) << ran.error;
    EXPECT_THAT(ran.output, HasSubstr("--resume"));
    const json first = results();
    EXPECT_TRUE(first["finishedAt"].is_null());
    EXPECT_TRUE(first["workplace"].is_null());
    EXPECT_TRUE(fs::exists(output() + "/report.html"));

    const Ran resumed = run({"--resume", output()});
    ASSERT_EQ(resumed.code, 0) << resumed.error;
    const json whole = results();
    EXPECT_TRUE(whole["finishedAt"].is_string());
    for (const char* design : {"relayed", "manager-owned"}) {
        std::multiset<unsigned> rounds;
        for (const json& round : series(whole, design)["rounds"]) rounds.insert(round["round"].get<unsigned>());
        EXPECT_EQ(rounds, (std::multiset<unsigned>{1, 2, 3})) << design;
    }
    EXPECT_EQ(whole["startedAt"], first["startedAt"]);
}

TEST_F(CompareTest, clearsAwayWhatAKilledOneLeft) {
    const pid_t child = spawnProgram(workspace, command(smallPlan("rounds: 2\ndesigns: [relayed]\n")), "compare");
    EXPECT_TRUE(turnUntil(
        [&] {
            std::error_code ignored;
            return fs::exists(output() + "/results.json", ignored) && !series(results(), "relayed")["rounds"].empty();
        },
        patience));
    ::kill(child, SIGKILL);
    EXPECT_EQ(collectProgram(workspace, child, "compare").code, 128 + SIGKILL);
    const Ran resumed = run({"--resume", output()});
    EXPECT_EQ(resumed.code, 0) << resumed.error;
    EXPECT_EQ(series(results(), "relayed")["rounds"].size(), 2u);
}

TEST_F(CompareTest, keepsRoundsThatFailAndGivesUpOnADesignThatOnlyFails) {
    // Answers every question of the preflight, and ends when it is to take a guest over.
    const std::string unfit =
        workspace.script("unfit", "case \" $* \" in *' -incoming '*) exit 1 ;; esac\nexec '" + newQemu() + "' \"$@\"\n");
    const Ran ran = run({"--old", newQemu(), "--new", unfit, "--ram", "256MiB/64MiB", "--rounds", "5", "--design", "relayed",
                         "--output", output()});
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    const json& relayed = series(found, "relayed");
    ASSERT_EQ(relayed["rounds"].size(), 3u);
    for (const json& round : relayed["rounds"]) {
        EXPECT_EQ(round["outcome"], "rolled back");
        EXPECT_THAT(round["cause"].get<std::string>(), HasSubstr("exited with status 1"));
        EXPECT_TRUE(round["stopToResumeMs"].is_null());
    }
    EXPECT_THAT(relayed["notRun"].get<std::string>(), HasSubstr("given up after 3 failures in a row"));
    EXPECT_THAT(ran.output, HasSubstr("given up"));
}

TEST_F(CompareTest, takesAGuestThatDoesNotRunAgainForNoSuccess) {
    const Ran ran = run(
        referencePlan("rounds: 1\n", workspace.referenceVmm("good", ""), workspace.referenceVmm("lying", "--fault cont=lie")));
    EXPECT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    ASSERT_EQ(series(found, "relayed")["rounds"].size(), 1u) << series(found, "relayed");
    for (const json& round : series(found, "relayed")["rounds"]) {
        EXPECT_EQ(round["outcome"], "silent") << round;
        EXPECT_NE(round["patterns"]["intact"], true) << round;
    }
    EXPECT_THAT(ran.output, HasSubstr("1 of 1 failed: silent"));
}

TEST_F(CompareTest, chargesADeadGuestToTheHandoverThatItHadLast) {
    // Each VMM has somebody who ends it when a file is there.
    const std::string flag = workspace.path() + "/end", vmm = workspace.referenceVmm("reference", "");
    const std::string mortal = workspace.script("mortal", "case \"$*\" in *'-machine none'*) exec " + vmm + " \"$@\";; esac\n" +
                                                              "(exec >/dev/null 2>&1; while kill -0 $$; do sleep 0.02; [ -e " +
                                                              flag + " ] && kill -9 $$; done) &\nexec " + vmm + " \"$@\"");
    const pid_t child = spawnProgram(workspace, command(referencePlan("rounds: 2\nbefore: 3s\n", mortal, mortal)), "compare");
    EXPECT_TRUE(turnUntil(
        [&] {
            const json now = json::parse(readIfThere(output() + "/results.json"), nullptr, false);
            return now.is_object() && !series(now, "relayed")["rounds"].empty();
        },
        patience));
    std::ofstream(flag).close();
    turnUntil([] { return false; }, milliseconds(500));
    fs::remove(flag);  // Before the next VM is started, which is when the window of 3 s has ended.
    const Ran ran = collectProgram(workspace, child, "compare");
    EXPECT_EQ(ran.code, 0) << ran.error;
    const json found = results(), rounds = series(found, "relayed")["rounds"];
    ASSERT_EQ(rounds.size(), 2u) << found.dump(2);
    EXPECT_EQ(rounds[0]["outcome"], "lost") << rounds;
    EXPECT_EQ(rounds[0]["cause"], "the guest was found dead before its next round");
    EXPECT_EQ(rounds[1]["outcome"], "upgraded") << rounds;
    EXPECT_THAT(found["notes"].dump(), HasSubstr("started anew after round 1 of relayed"));
}

TEST_F(CompareTest, waitsForAGuestThatABusyHostGivesNoTime) {
    const std::string vmm = workspace.referenceVmm("reference", "");
    const pid_t child = spawnProgram(workspace, command(referencePlan("rounds: 2\nbefore: 2s\n", vmm, vmm)), "compare");
    json now;
    EXPECT_TRUE(turnUntil(
        [&] {
            now = json::parse(readIfThere(output() + "/results.json"), nullptr, false);
            return now.is_object() && !series(now, "relayed")["rounds"].empty();
        },
        patience));
    // It does not go back to its first VMM, which is the same binary: so before the next round it is listened to at once.
    const pid_t held = VmDirectory(now["workplace"].get<std::string>() + "/run", "vm-0").read().value().vmm.pid;
    turnUntil([] { return false; }, milliseconds(300));
    EXPECT_EQ(::kill(held, SIGSTOP), 0);
    turnUntil([] { return false; }, milliseconds(6'000));
    EXPECT_EQ(::kill(held, SIGCONT), 0);
    const Ran ran = collectProgram(workspace, child, "compare");
    EXPECT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    for (const json& round : series(found, "relayed")["rounds"]) EXPECT_EQ(round["outcome"], "upgraded") << round;
    EXPECT_EQ(found["notes"].dump().find("started anew"), std::string::npos) << found["notes"];
}

TEST_F(CompareTest, measuresAVmOfTheUsersOwnOnCopiesOfItsDisks) {
    const std::string file = writeDefinition(workspace, {.withLinux = true, .more = "console: {enabled: true}\n"});
    replaceIn(file, "heartbeat: true", "heartbeat: false");
    std::string disk;
    for (const auto& entry : fs::directory_iterator(workspace.path()))
        if (entry.path().extension() == ".img") disk = entry.path();
    ASSERT_FALSE(disk.empty());
    const auto written = fs::last_write_time(disk);
    const Ran ran =
        run({file, "--new", newQemu(), "--rounds", "1", "--design", "relayed,copy", "--boot-wait", "6s", "--output", output()});
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    for (const char* design : {"relayed", "copy"}) {
        const json& round = series(found, design)["rounds"].at(0);
        EXPECT_EQ(round["outcome"], "upgraded") << round;
        EXPECT_GT(round["stopToResumeMs"], 0);
        // Without a guest that tells there is nothing to say of the guest.
        for (const char* unknown : {"guestPauseMs", "beats", "writeRate", "patterns"})
            EXPECT_TRUE(round[unknown].is_null()) << unknown;
    }
    EXPECT_EQ(fs::last_write_time(disk), written);
}

TEST_F(CompareTest, refusesToMeasureOnABusyHost) {
    std::atomic<bool> stop = false;
    std::vector<std::jthread> burners;
    for (unsigned i = 0; i < 2 * std::max(1U, std::thread::hardware_concurrency()); ++i)
        burners.emplace_back([&stop] {
            while (!stop) continue;
        });
    std::vector<std::string> arguments = smallPlan("rounds: 1\n");
    arguments.insert(arguments.begin(), {required("VH_CLI"), "compare"});
    const Ran ran = collectProgram(workspace, spawnProgram(workspace, arguments, "compare"), "compare");
    stop = true;
    EXPECT_EQ(ran.code, 2);
    EXPECT_THAT(ran.error, HasSubstr("too busy to measure"));
    EXPECT_THAT(ran.error, HasSubstr("--even-if-busy"));
    EXPECT_FALSE(fs::exists(output() + "/report.html"));
    EXPECT_FALSE(fs::exists(output() + "/results.json")) << "the next try would find it in its way";
}

TEST_F(CompareTest, saysHowToGoOnWhenInterruptedBeforeTheFirstRoundAndShowsNothing) {
    const pid_t child = spawnProgram(
        workspace,
        command(referencePlan("rounds: 1\nbefore: 60s\n", workspace.referenceVmm("good", ""), workspace.referenceVmm("new", ""))),
        "compare");
    EXPECT_TRUE(turnUntil([&] { return fs::exists(output() + "/results.json"); }, patience));
    ::kill(child, SIGINT);
    const Ran ran = collectProgram(workspace, child, "compare");
    EXPECT_EQ(ran.code, 130) << ran.error;
    EXPECT_EQ(ran.output,
              "no round was measured yet: interrupted; go on with: virt-handover compare --resume '" + output() + "'\n");
    EXPECT_FALSE(fs::exists(output() + "/report.html"));
    EXPECT_FALSE(fs::exists(output() + "/results.csv"));
    EXPECT_EQ(results()["settings"]["primaryMetrics"], json({"stopToResumeMs", "guestPauseMs", "workLostMs"}))
        << "named before anything is measured";
    replaceIn(output() + "/results.json", "before: 60000ms", "before: 100ms");
    // As it was printed, which is without --even-if-busy.
    const Ran resumed = collectProgram(
        workspace, spawnProgram(workspace, {required("VH_CLI"), "compare", "--resume", output()}, "compare"), "compare");
    EXPECT_EQ(resumed.code, 0) << resumed.error;
    const json found = results();
    EXPECT_EQ(series(found, "relayed")["rounds"].size(), 1u);
    ASSERT_EQ(found["sittings"].size(), 2u) << found["sittings"];
    for (const json& sitting : found["sittings"]) {
        EXPECT_EQ(sitting["evenIfBusy"], true) << sitting;
        EXPECT_TRUE(sitting["finishedAt"].is_string()) << sitting;
    }
    EXPECT_EQ(found["sittings"][1]["command"][2], "--resume");
    EXPECT_THAT(resumed.output, HasSubstr("Measured in 2 sittings"));
}

TEST_F(CompareTest, goesOnOnlyOnTheHostAndWithTheVmmsThatItWasBegunWith) {
    const std::string old = workspace.referenceVmm("good", ""), newVmm = workspace.referenceVmm("new", "");
    ASSERT_EQ(run(referencePlan("rounds: 1\n", old, newVmm)).code, 0);
    json begun = results();
    for (const json& vmm : begun["vmms"]) ASSERT_NE(vmm["buildId"], "") << vmm;
    begun["finishedAt"] = nullptr;
    begun["settings"]["plan"] = begun["settings"]["plan"].get<std::string>() + "rounds: 2\n";
    std::string& plan = begun["settings"]["plan"].get_ref<std::string&>();
    plan.erase(plan.find("rounds: 1\n"), std::string("rounds: 1\n").size());
    const auto resumed = [&](const json& from) {
        std::ofstream(output() + "/results.json") << from;
        return run({"--resume", output()});
    };
    json elsewhere = begun;
    elsewhere["host"]["kernel"] = "2.4.37";
    Ran ran = resumed(elsewhere);
    EXPECT_EQ(ran.code, 1);
    EXPECT_THAT(ran.error,
                AllOf(HasSubstr("it was begun on another host: kernel '2.4.37' there"), HasSubstr("another --output")));

    for (const std::size_t vmm : {0u, 1u}) {
        const std::string binary = begun["vmms"][vmm]["binary"];
        json replaced = begun;
        replaced["vmms"][vmm]["buildId"] = "00ff";
        ran = resumed(replaced);
        EXPECT_EQ(ran.code, 2) << binary;
        EXPECT_THAT(ran.error, AllOf(HasSubstr("'" + binary + "' was replaced since"), HasSubstr("build id '00ff'"),
                                     HasSubstr("begin anew")));
        EXPECT_EQ(series(results(), "relayed")["rounds"].size(), 1u);

        replaced["vmms"][vmm] = {{"binary", binary}, {"version", "0.0.1"}, {"buildId", ""}};
        ran = resumed(replaced);
        EXPECT_EQ(ran.code, 2) << binary;
        EXPECT_THAT(ran.error, AllOf(HasSubstr("'" + binary + "' was replaced since"), HasSubstr("version '0.0.1'")));
        EXPECT_EQ(series(results(), "relayed")["rounds"].size(), 1u);
    }

    EXPECT_EQ(resumed(begun).code, 0);
    EXPECT_EQ(series(results(), "relayed")["rounds"].size(), 2u);
    // What is finished is only drawn again, wherever.
    elsewhere["finishedAt"] = "2026-01-02T03:04:05Z";
    EXPECT_EQ(resumed(elsewhere).code, 0);
    EXPECT_EQ(results()["sittings"], elsewhere["sittings"]);
}

TEST_F(CompareTest, stopsWhenTheDiskIsFullAndLosesNothing) {
    if (::geteuid() != 0) GTEST_SKIP() << "mounts a small file system: run as root";
    fs::create_directory(output());
    ASSERT_EQ(::mount("tmpfs", output().c_str(), "tmpfs", 0, "size=64k"), 0);
    const Ran ran = run(smallPlan("rounds: 30\ndesigns: [relayed]\n"));
    EXPECT_EQ(ran.code, 2);
    EXPECT_THAT(ran.error, HasSubstr("No space left on device"));
    EXPECT_THAT(ran.error, HasSubstr("results.json"));
    const json kept = results();  // Whole, as of the last round that went in.
    EXPECT_FALSE(series(kept, "relayed")["rounds"].empty());
    ::umount(output().c_str());
}

TEST_F(CompareTest, leavesTheNetworkOutWhereItHasNoRightToOne) {
    if (::geteuid() != 0) GTEST_SKIP() << "gives up its rights: run as root";
    const std::vector<std::string> small = command(smallPlan("rounds: 1\ndesigns: [relayed]\n"));
    std::string line = "exec setpriv --bounding-set=-sys_admin,-net_admin --inh-caps=-sys_admin,-net_admin";
    for (const std::string& argument : small) line += " '" + argument + "'";
    const std::string script = workspace.script("without-rights", line + "\n");
    const Ran ran = collectProgram(workspace, spawnProgram(workspace, {script}, "compare"), "compare");
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    EXPECT_TRUE(series(found, "relayed")["rounds"][0]["network"].is_null());
    EXPECT_THAT(found["notes"].dump(), HasSubstr("had no network"));
    EXPECT_THAT(ran.output, HasSubstr("had no network"));
}

TEST_F(CompareTest, exitsWithThreeOnARegression) {
    const auto file = [&](const std::string& name, double medianMs) {
        return workspace.file(name, sampleResults({sampleCell("one", {sampleSeries("relayed", times(medianMs, 30, 1))})}).dump());
    };
    const std::string before = file("before.json", 10), same = file("same.json", 10), slower = file("slower.json", 20);
    EXPECT_EQ(run({"--check", before, "--with", same}).code, 0);
    const Ran worse = run({"--check", before, "--with", slower});
    EXPECT_EQ(worse.code, 3);
    EXPECT_THAT(worse.output, HasSubstr("STOP to RESUME"));
    EXPECT_EQ(run({"--check", slower, "--with", before}).code, 0) << "faster is no regression";
    EXPECT_EQ(run({"--check", before, "--with", slower, "--tolerance", "3"}).code, 0);
}

TEST_F(CompareTest, leavesOutARoundBeforeWhichTheHostWasBusyAndSaysWhy) {
    std::vector<std::string> plan =
        referencePlan("rounds: 1\n", workspace.referenceVmm("good", ""), workspace.referenceVmm("new", ""));
    replaceIn(workspace.path() + "/plan.yaml", "cpu_pressure_limit_percent: 100", "cpu_pressure_limit_percent: 50");
    std::atomic<bool> stop = false;
    std::vector<std::jthread> burners;
    for (unsigned i = 0; i < 2 * std::max(1U, std::thread::hardware_concurrency()); ++i)
        burners.emplace_back([&stop] {
            while (!stop) continue;
        });
    const Ran ran = run(plan);
    stop = true;
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results(), round = series(found, "relayed")["rounds"].at(0);
    EXPECT_EQ(round["disturbed"], true) << round;
    EXPECT_THAT(round["disturbedBy"].get<std::string>(), HasSubstr("before the handover some task waited for a CPU for"));
    EXPECT_EQ(found["summary"]["cells"][0]["series"][0]["disturbed"], 1);
    EXPECT_THAT(ran.output, HasSubstr("Left out because of a disturbed host: 1 of 1 handovers"));
}

TEST_F(CompareTest, handsSeveralVmsOverAtOnce) {
    const Ran ran = run(smallPlan("rounds: 1\ndesigns: [relayed]\nvms: [2]\n"));
    ASSERT_EQ(ran.code, 0) << ran.error;
    const json found = results();
    const json& rounds = series(found, "relayed")["rounds"];
    ASSERT_EQ(rounds.size(), 2u);
    for (const json& round : rounds) {
        EXPECT_EQ(round["outcome"], "upgraded");
        expectRightMemory(round);
    }
    EXPECT_EQ(rounds[0]["vm"], 1);
    EXPECT_EQ(rounds[1]["vm"], 2);
}

TEST_F(CompareTest, saysWhatIsWrongWithWhatWasAsked) {
    const auto complaint = [&](const std::vector<std::string>& arguments) {
        const Ran ran = run(arguments);
        EXPECT_EQ(ran.code, 1) << ran.error;
        return ran.error;
    };
    EXPECT_THAT(complaint({"--ram", "lots"}), HasSubstr("--ram: found 'lots', expected a size"));
    EXPECT_THAT(complaint({"--design", "magic"}), HasSubstr("--design: found 'magic'"));
    EXPECT_THAT(complaint({"--with", "x.json"}), HasSubstr("--check"));
    EXPECT_THAT(complaint({"--hot-set", "most"}), HasSubstr("--hot-set: found 'most', expected a size such as '16MiB'"));
    EXPECT_THAT(complaint({"--accelerator", "xen"}), HasSubstr("--accelerator: found 'xen'"));
    EXPECT_THAT(complaint(smallPlan("rounds: many\n")), HasSubstr("plan.yaml:10:9: rounds: found 'many'"));
    EXPECT_THAT(complaint({"--resume", workspace.path() + "/nothing"}), HasSubstr("nothing/results.json"));
    const std::string damaged = workspace.file("damaged.json", "{\"format\": \"something\"}");
    EXPECT_THAT(complaint({"--check", damaged, "--with", damaged}), HasSubstr("damaged.json"));
}

}  // namespace
}  // namespace vh::test
