// What a recovery does with the two VMMs that it finds: each case of the table in recovery_verdict.h, and what must hold in all
// of the some 10,000 situations that there are.
#include "manager/handover/recovery_verdict.h"

#include <array>
#include <functional>
#include <ostream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vh {

void PrintTo(const RecoveryFacts& facts, std::ostream* stream) {
    const auto print = [&](const RecoveryFacts::Vmm& vmm) {
        *stream << (vmm.isAlive ? "lives" : "is gone") << ", says "
                << (vmm.says ? std::to_string(static_cast<int>(*vmm.says)) : "-");
    };
    *stream << (facts.starting ? "starting " : "") << (facts.retiring ? "retiring " : "")
            << (facts.toldToRun ? "told to run " : "") << (facts.hasDevicesPassed ? "devices " : "") << "| old ";
    print(facts.oldVmm);
    *stream << " | new ";
    print(facts.newVmm);
}

namespace {

using testing::HasSubstr;

constexpr std::array states{RunState::Unsaid,  RunState::Prelaunch,     RunState::InMigrate,   RunState::Paused,
                            RunState::Running, RunState::FinishMigrate, RunState::PostMigrate, RunState::Other};

RecoveryFacts twoVmms() {
    return {.vm = "web", .oldVmm = {.pid = 11, .isAlive = true}, .newVmm = {.pid = 22, .isAlive = true}};
}

/// Goes on as a recovery does until something is to be done: whoever is to be asked says what `facts` have of it.
RecoveryVerdict settled(const RecoveryFacts& facts, std::string* asked = nullptr) {
    RecoveryFacts known = facts;
    known.oldVmm.says.reset();
    known.newVmm.says.reset();
    for (int turn = 0; turn < 4; ++turn) {
        const RecoveryVerdict verdict = judgeRecovery(known);
        if (verdict.step == RecoveryVerdict::AskOld && !known.oldVmm.says)
            known.oldVmm.says = facts.oldVmm.says;
        else if (verdict.step == RecoveryVerdict::AskNew && !known.newVmm.says)
            known.newVmm.says = facts.newVmm.says;
        else
            return verdict;
        if (asked) *asked += verdict.step == RecoveryVerdict::AskOld ? "old " : "new ";
    }
    ADD_FAILURE() << "asks the same again";
    return {};
}

void forEachSituation(const std::function<void(const RecoveryFacts&)>& look) {
    for (int bits = 0; bits < 64; ++bits)
        for (const RunState oldSays : states)
            for (const RunState newSays : states) {
                RecoveryFacts facts = twoVmms();
                facts.starting = bits & 1;
                facts.retiring = bits & 2;
                facts.toldToRun = bits & 4;
                facts.hasDevicesPassed = bits & 8;
                facts.oldVmm.isAlive = bits & 16;
                facts.newVmm.isAlive = bits & 32;
                facts.oldVmm.says = oldSays;
                facts.newVmm.says = newSays;
                look(facts);
                if (testing::Test::HasFailure()) return;
            }
}

struct Case {
    const char* name;
    std::function<void(RecoveryFacts&)> change;
    RecoveryVerdict::Step step;
    const char* why = "";
};

void PrintTo(const Case& one, std::ostream* stream) {
    *stream << one.name;
}

void say(RecoveryFacts& facts, RunState oldSays, RunState newSays) {
    facts.oldVmm.says = oldSays;
    facts.newVmm.says = newSays;
}

const Case cases[] = {
    {"undoesAStartWhoseVmmIsGone",
     [](RecoveryFacts& facts) {
         facts.starting = true;
         facts.oldVmm.isAlive = false;
     },
     RecoveryVerdict::UndoStart},
    {"undoesAStartThatHasRunNothing",
     [](RecoveryFacts& facts) {
         facts.starting = true;
         facts.oldVmm.says = RunState::Prelaunch;
     },
     RecoveryVerdict::EndAndUndoStart},
    {"keepsAStartThatRunsItsGuest",
     [](RecoveryFacts& facts) {
         facts.starting = true;
         facts.oldVmm.says = RunState::Running;
     },
     RecoveryVerdict::KeepStart},
    {"leavesAStartThatIsSilent",
     [](RecoveryFacts& facts) {
         facts.starting = true;
         facts.oldVmm.says = RunState::Unsaid;
     },
     RecoveryVerdict::LeaveBoth, "its start was interrupted, and the VMM, pid 11, does not answer"},
    {"endsTheOldOneWhenTheGuestHasGoneOverOnRecord", [](RecoveryFacts& facts) { facts.retiring = true; },
     RecoveryVerdict::KeepNew},
    {"endsNoOldOneThatRunsTheGuestThoughTheRecordSaysThatItHasGoneOver",
     [](RecoveryFacts& facts) {
         facts.retiring = true;
         facts.newVmm.isAlive = false;
         facts.oldVmm.says = RunState::Running;
     },
     RecoveryVerdict::KeepOld},
    {"leavesAnOldOneWhoseGuestHasGoneOverAndEndedThere",
     [](RecoveryFacts& facts) {
         facts.retiring = true;
         facts.newVmm.isAlive = false;
         facts.oldVmm.says = RunState::PostMigrate;
     },
     RecoveryVerdict::LeaveBoth, "the guest with it"},
    {"keepsTheOldOneWhenTheNewOneIsGone", [](RecoveryFacts& facts) { facts.newVmm.isAlive = false; }, RecoveryVerdict::KeepOld},
    {"forgetsTwoVmmsThatAreGone",
     [](RecoveryFacts& facts) {
         facts.newVmm.isAlive = facts.oldVmm.isAlive = false;
         facts.toldToRun = true;
     },
     RecoveryVerdict::KeepOld},
    {"goesOnWithNoOldGuestThatMayHaveRunElsewhere",
     [](RecoveryFacts& facts) {
         facts.newVmm.isAlive = false;
         facts.toldToRun = true;
         facts.oldVmm.says = RunState::PostMigrate;
     },
     RecoveryVerdict::LeaveBoth, "what the old one, pid 11, has of it is out of date; 'virt-handover destroy web'"},
    {"keepsAGuestThatTheOldOneRunsThoughTheNewOneHadBeenToldTo",
     [](RecoveryFacts& facts) {
         facts.newVmm.isAlive = false;
         facts.toldToRun = true;
         facts.oldVmm.says = RunState::Running;
     },
     RecoveryVerdict::KeepOld},
    {"endsANewOneThatWaitsForTheGuest", [](RecoveryFacts& facts) { say(facts, RunState::Running, RunState::InMigrate); },
     RecoveryVerdict::EndNew},
    {"endsANewOneThatHasTheGuestAndWasNeverToldToRunIt",
     [](RecoveryFacts& facts) { say(facts, RunState::PostMigrate, RunState::Paused); }, RecoveryVerdict::EndNew},
    {"letsANewOneRunThatHadBeenToldTo",
     [](RecoveryFacts& facts) {
         say(facts, RunState::PostMigrate, RunState::Paused);
         facts.toldToRun = true;
     },
     RecoveryVerdict::LetNewRun, "it had been told to"},
    {"letsANewOneRunThatHadBeenToldToWhenTheOldOneIsSilent",
     [](RecoveryFacts& facts) {
         say(facts, RunState::Unsaid, RunState::Paused);
         facts.toldToRun = true;
     },
     RecoveryVerdict::LetNewRun, "it had been told to"},
    {"letsNoNewOneRunWhatTheOldOneRuns",
     [](RecoveryFacts& facts) {
         say(facts, RunState::Running, RunState::Paused);
         facts.toldToRun = true;
     },
     RecoveryVerdict::EndNew},
    {"letsTheOnlyVmmRunTheGuest",
     [](RecoveryFacts& facts) {
         facts.oldVmm.isAlive = false;
         facts.newVmm.says = RunState::Paused;
     },
     RecoveryVerdict::LetNewRun, "the old VMM is gone"},
    {"leavesANewOneThatNeverReceivedTheGuestOfAnOldOneThatIsGone",
     [](RecoveryFacts& facts) {
         facts.oldVmm.isAlive = false;
         facts.newVmm.says = RunState::InMigrate;
     },
     RecoveryVerdict::LeaveBoth, "never received the guest"},
    {"keepsTheNewOneThatRunsTheGuest", [](RecoveryFacts& facts) { say(facts, RunState::PostMigrate, RunState::Running); },
     RecoveryVerdict::KeepNew},
    {"keepsTheNewOneWhoseGuestHasStoppedOnADiskError",
     [](RecoveryFacts& facts) { say(facts, RunState::PostMigrate, RunState::Other); }, RecoveryVerdict::KeepNew},
    {"leavesTwoThatBothSayThatTheyRunTheGuest",
     [](RecoveryFacts& facts) {
         say(facts, RunState::Running, RunState::Running);
         facts.oldVmm.word = "running";
     },
     RecoveryVerdict::LeaveBoth, "the old one, pid 11, is in the state 'running'"},
    {"endsNoSilentOldOneForANewOneThatSaysItRuns", [](RecoveryFacts& facts) { say(facts, RunState::Unsaid, RunState::Running); },
     RecoveryVerdict::LeaveBoth, "pid 11, does not answer"},
    {"endsASilentNewOneWhenTheOldOneRunsTheGuest", [](RecoveryFacts& facts) { say(facts, RunState::Running, RunState::Unsaid); },
     RecoveryVerdict::EndNew},
    {"leavesTwoOfWhichNoneCanBeShownToHoldTheGuest", [](RecoveryFacts& facts) { say(facts, RunState::Paused, RunState::Unsaid); },
     RecoveryVerdict::LeaveBoth, "neither VMM can be shown to hold the guest"},
    {"leavesASilentNewOneWhoseOldOneIsGone",
     [](RecoveryFacts& facts) {
         facts.oldVmm.isAlive = false;
         facts.newVmm.says = RunState::Unsaid;
     },
     RecoveryVerdict::LeaveBoth, "a person must look at pid 22"},
    {"letsTheNewOneRunWithTheDevicesThatTheOldOneHasHandedOver",
     [](RecoveryFacts& facts) {
         say(facts, RunState::PostMigrate, RunState::Paused);
         facts.hasDevicesPassed = true;
     },
     RecoveryVerdict::LetNewRun, "the old VMM has handed over"},
    {"goesBackToAnOldOneThatHasItsDevices",
     [](RecoveryFacts& facts) {
         say(facts, RunState::Paused, RunState::Paused);
         facts.hasDevicesPassed = true;
     },
     RecoveryVerdict::EndNew},
    {"leavesTwoWhenNobodyCanSayWhoHasTheDevices",
     [](RecoveryFacts& facts) {
         say(facts, RunState::Unsaid, RunState::Paused);
         facts.hasDevicesPassed = true;
     },
     RecoveryVerdict::LeaveBoth, "does not say whether it has given the guest's devices away"},
};

class RecoveryVerdictTest : public testing::TestWithParam<Case> {};

TEST_P(RecoveryVerdictTest, isTheOneOfTheTable) {
    RecoveryFacts facts = twoVmms();
    GetParam().change(facts);
    const RecoveryVerdict verdict = settled(facts);
    EXPECT_EQ(verdict.step, GetParam().step);
    EXPECT_THAT(verdict.why, HasSubstr(GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(Recovery, RecoveryVerdictTest, testing::ValuesIn(cases),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(RecoveryVerdict, isReachedAfterEachVmmWasAskedOnceAtMost) {
    forEachSituation([](const RecoveryFacts& facts) {
        std::string asked;
        settled(facts, &asked);
        EXPECT_THAT(asked, testing::AnyOf("", "old ", "new ", "new old ")) << testing::PrintToString(facts);
    });
}

/// In each situation that ends with `step`, `holds` is true.
void expectWith(RecoveryVerdict::Step step, const std::function<bool(const RecoveryFacts&)>& holds) {
    int situations = 0;
    forEachSituation([&](const RecoveryFacts& facts) {
        if (settled(facts).step != step) return;
        ++situations;
        EXPECT_TRUE(holds(facts)) << testing::PrintToString(facts);
    });
    EXPECT_GT(situations, 0);
}

bool runsTheGuest(const RecoveryFacts::Vmm& vmm) {
    return vmm.isAlive && vmm.says == RunState::Running;
}

TEST(RecoveryVerdict, endsTheNewOneOnlyWhenItDoesNotHaveTheGuestOrTheOldOneRunsIt) {
    expectWith(RecoveryVerdict::EndNew, [](const RecoveryFacts& facts) {
        if (runsTheGuest(facts.newVmm) || facts.newVmm.says == RunState::Other) return false;
        if (facts.newVmm.says == RunState::Unsaid) return runsTheGuest(facts.oldVmm);
        if (facts.newVmm.says == RunState::Paused && facts.toldToRun) return runsTheGuest(facts.oldVmm);
        return facts.oldVmm.isAlive;
    });
}

TEST(RecoveryVerdict, endsTheOldOneOnlyWhenTheRecordOrItselfSaysThatItDoesNotRunTheGuest) {
    expectWith(RecoveryVerdict::KeepNew, [](const RecoveryFacts& facts) {
        if (!facts.newVmm.isAlive) return false;
        return facts.retiring || !facts.oldVmm.isAlive || facts.oldVmm.says == RunState::PostMigrate ||
               facts.oldVmm.says == RunState::Paused;
    });
}

TEST(RecoveryVerdict, endsAStartedOneOnlyWhenItHasNeverRun) {
    expectWith(RecoveryVerdict::EndAndUndoStart,
               [](const RecoveryFacts& facts) { return facts.starting && facts.oldVmm.says == RunState::Prelaunch; });
}

TEST(RecoveryVerdict, letsNoNewOneRunAGuestThatTheOldOneRuns) {
    expectWith(RecoveryVerdict::LetNewRun, [](const RecoveryFacts& facts) {
        return facts.newVmm.isAlive && facts.newVmm.says == RunState::Paused && !runsTheGuest(facts.oldVmm);
    });
}

/// EndNew waits for the new one's end first; with KeepOld there is no new one.
TEST(RecoveryVerdict, goesOnWithAnOldOneOnlyWithoutANewOneAndWithAGuestThatHasNotRunElsewhere) {
    expectWith(RecoveryVerdict::KeepOld, [](const RecoveryFacts& facts) {
        const bool mayHaveRunElsewhere = facts.toldToRun || facts.retiring;
        return !facts.newVmm.isAlive && (!mayHaveRunElsewhere || !facts.oldVmm.isAlive || runsTheGuest(facts.oldVmm));
    });
}

TEST(RecoveryVerdict, saysWhyAPersonMustLook) {
    forEachSituation([](const RecoveryFacts& facts) {
        const RecoveryVerdict verdict = settled(facts);
        EXPECT_EQ(verdict.why.empty(), verdict.step != RecoveryVerdict::LeaveBoth && verdict.step != RecoveryVerdict::LetNewRun)
            << testing::PrintToString(facts);
    });
}

}  // namespace
}  // namespace vh
