#include "manager/compare/disturbance.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using testing::HasSubstr;

/// A tree that looks like /proc.
class Proc : public TemporaryDirectory {
 public:
    void write(const std::string& name, const std::string& text) const {
        const std::filesystem::path file = path() + "/" + name;
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file) << text;
    }
};

BeatIntervals beats(double longestMs) {
    return {.medianMs = 1, .p99Ms = 2, .longestMs = longestMs};
}

TEST(Disturbance, isKnownByTheKernelsTotalOfCpuPressure) {
    const Proc proc;
    EXPECT_EQ(cpuPressureMs(proc.path()), std::nullopt) << "a kernel without it";
    proc.write("pressure/cpu",
               "some avg10=94.53 avg60=74.53 avg300=44.56 total=33072869607\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
    EXPECT_EQ(cpuPressureMs(proc.path()), 33072869.607);
    proc.write("pressure/cpu", "some avg10=94.53\n");
    EXPECT_EQ(cpuPressureMs(proc.path()), std::nullopt);
}

TEST(Disturbance, isKnownByTheWaitOfEachThread) {
    const Proc proc;
    EXPECT_EQ(threadWaits(7, proc.path()), std::nullopt) << "gone, or a kernel that does not count it";
    proc.write("7/task/7/schedstat", "1000000 2000000 3\n");
    proc.write("7/task/9/schedstat", "500 4500000 3\n");
    EXPECT_EQ(threadWaits(7, proc.path()), (ThreadWaits{{7, 2}, {9, 4.5}}));
    ASSERT_TRUE(threadWaits(::getpid()));
    EXPECT_TRUE(threadWaits(::getpid())->contains(::getpid()));
}

TEST(Disturbance, isPercentOfAWindowAndCountsNewThreadsWholly) {
    const CpuWaitCounters first{100, 50, ThreadWaits{{1, 5}}, {ThreadWaits{{7, 2}, {8, 1}}, std::nullopt}};
    const CpuWaitCounters last{300, 150, ThreadWaits{{1, 25}}, {ThreadWaits{{7, 6}, {11, 6}}, ThreadWaits{{3, 1}}}};
    const CpuWait wait = waitBetween(first, last, 0);
    EXPECT_EQ(wait.cpuPressurePercent, 50);
    EXPECT_EQ(wait.managerWaitPercent, 10);
    EXPECT_EQ(wait.vmmWaitPercent, 5);
    EXPECT_EQ(waitBetween(first, last, 1).vmmWaitPercent, std::nullopt);
    EXPECT_EQ(waitBetween(first, first, 0).cpuPressurePercent, std::nullopt) << "no time has passed";
    const CpuWaitCounters late{300, 251, {}, {std::nullopt}};
    EXPECT_EQ(waitBetween(first, late, 0).cpuPressurePercent, 100) << "counted later than it was";
}

TEST(Disturbance, isSaidWithWhatAndHowMuch) {
    const ComparePlan plan;
    EXPECT_EQ(whyDisturbed(plan, 5, {25, 10, 10}, beats(50), false), "") << "at its limits it is none";
    EXPECT_EQ(whyDisturbed(plan, 0, {}, std::nullopt, false), "") << "nothing could be looked at";
    EXPECT_EQ(whyDisturbed(plan, 7.25, {}, std::nullopt, false), "steal: 7.2 %, more than 5 %");
    EXPECT_THAT(whyDisturbed(plan, 0, {60, 0, 0}, beats(3), false),
                HasSubstr("some task waited for a CPU for 60.0 % of the time"));
    EXPECT_THAT(whyDisturbed(plan, 0, {0, 11, 0}, beats(3), false), HasSubstr("the VMM waited for a CPU for 11.0 %"));
    EXPECT_THAT(whyDisturbed(plan, 0, {0, 0, 11}, beats(3), false), HasSubstr("the manager waited for a CPU for 11.0 %"));
    EXPECT_THAT(whyDisturbed(plan, 0, {}, beats(179), false), HasSubstr("did not beat for 179.0 ms, more than 50 ms"));
    const std::string both = whyDisturbed(plan, 6, {60, 0, 0}, std::nullopt, false);
    EXPECT_EQ(std::ranges::count(both, ';'), 1) << both;
}

TEST(Disturbance, ofVmsThatFillTheCpusCanBeToldByStealOnly) {
    Configuration one;
    EXPECT_FALSE(fillCpus(one, 2)) << "one CPU is left";
    EXPECT_TRUE(fillCpus(one, 1));
    one.vms = 2;
    EXPECT_TRUE(fillCpus(one, 2));
    one.load = Load::Idle;
    EXPECT_FALSE(fillCpus(one, 2));
    one.load = Load::Network;
    EXPECT_TRUE(fillCpus(one, 4));
    EXPECT_EQ(whyDisturbed(ComparePlan(), 0, {90, 90, 90}, beats(500), true), "");
    EXPECT_NE(whyDisturbed(ComparePlan(), 6, {}, std::nullopt, true), "");
}

}  // namespace
}  // namespace vh
