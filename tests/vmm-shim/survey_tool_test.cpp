// `vmm-shim survey` on real QEMUs, against the survey that is kept in tests/results.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"
#include "tests/support/required.h"
#include "tests/support/temporary_directory.h"
#include "tests/vmm-shim/tool_process.h"
#include "vmm-shim/proc.h"
#include "vmm-shim/tool/survey.h"

namespace vh {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;
using test::required;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr int done = 0, usage = 1, refused = 2;
const std::vector<std::string> patient{"--timeout-ms", "60000"};

class SurveyTool : public testing::Test {
 protected:
    Answer survey(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), "survey");
        arguments.insert(arguments.end(), patient.begin(), patient.end());
        return runTool(arguments, directory_);
    }
    static std::vector<std::string> qemus() {
        return {required("VH_QEMU_OLDEST"), required("VH_QEMU_OLD"), required("VH_QEMU_NEW")};
    }

    const TemporaryDirectory directory_;
};

std::vector<std::string> operator+(std::vector<std::string> list, const std::vector<std::string>& more) {
    list.insert(list.end(), more.begin(), more.end());
    return list;
}

/// The first in the kept survey of the same package; else of the same version; else of the same release, `10.0`.
const SurveyedQemu* keptLike(const Survey& kept, const SurveyedQemu& now) {
    const auto release = [](const SurveyedQemu& qemu) { return qemu.version.substr(0, qemu.version.rfind('.')); };
    for (const auto& alike : std::vector<std::function<bool(const SurveyedQemu&)>>{
             [&](const SurveyedQemu& one) { return one.package == now.package; },
             [&](const SurveyedQemu& one) { return one.version == now.version; },
             [&](const SurveyedQemu& one) { return release(one) == release(now); }})
        if (const auto found = std::ranges::find_if(kept.qemus, alike); found != kept.qemus.end()) return &*found;
    return nullptr;
}

using Place = std::tuple<std::string, std::string, std::string>;  ///< QEMU, machine, device.
std::map<Place, SurveyedStart> byPlace(const Survey& survey) {
    std::map<Place, SurveyedStart> starts;
    for (const SurveyedStart& start : survey.starts) starts[{start.qemu, start.machine, start.device}] = start;
    return starts;
}

/// What the QEMUs here do today is what is kept of their releases. Devices whose parts are not installed here are left out.
TEST_F(SurveyTool, findsTheBlocksThatAreKeptOfTheseReleases) {
    const Survey kept = surveyFrom(json::parse(fileText(inSourceTree("tests/results/ram-block-survey.json"))));
    std::set<std::string> devices;
    for (const SurveyedStart& start : kept.starts)
        if (!start.device.empty() && !start.blocks.empty()) devices.insert(start.device);
    const std::string machine = "pc-q35-7.2";
    const Answer answer = survey(std::vector<std::string>{"--json", "--machine", machine, "--qemu"} + qemus() +
                                 std::vector<std::string>{"--device"} + std::vector<std::string>(devices.begin(), devices.end()));
    ASSERT_EQ(answer.code, done) << answer.errors;
    const Survey now = surveyFrom(answer.value());
    ASSERT_EQ(now.qemus.size(), 3U);
    const std::map<Place, SurveyedStart> before = byPlace(kept);
    std::map<std::string, unsigned> compared;
    for (const SurveyedQemu& qemu : now.qemus) {
        const SurveyedQemu* like = keptLike(kept, qemu);
        ASSERT_NE(like, nullptr) << qemu.version << " is in no survey: take it anew, as tests/results/README.md says";
        for (const SurveyedStart& start : now.starts) {
            if (start.qemu != qemu.name || !start.failure.empty()) continue;
            const auto was = before.find({like->name, machine, start.device});
            ASSERT_NE(was, before.end()) << start.device;
            EXPECT_EQ(was->second.failure, "") << start.device << " starts on " << qemu.package << " and did not then";
            EXPECT_EQ(toJson(Survey{{}, {{"", "", start.device, "", start.blocks}}}),
                      toJson(Survey{{}, {{"", "", start.device, "", was->second.blocks}}}))
                << qemu.package << ": if that is news, take the survey anew, as tests/results/README.md says";
            ++compared[qemu.name];
        }
    }
    // Half of them: some need packages that scripts/setup does not get, or are not in all releases.
    for (const SurveyedQemu& qemu : now.qemus) EXPECT_GE(compared[qemu.name], devices.size() / 2) << qemu.name;
}

TEST_F(SurveyTool, findsTheDevicesThatMakeBlocksByItself) {
    // The smallest QEMU that can be had: one that lists three devices.
    const std::string few = directory_.write("few",
                                             "#!/bin/sh\n"
                                             "[ \"$*\" != '-device help' ] || { echo 'Devices:'; for one in edu VGA vfio-pci\n"
                                             "do echo \"name \\\"$one\\\", bus PCI\"; done; exit 0; }\n"
                                             "exec " +
                                                 required("VH_QEMU_NEW") + " \"$@\"\n",
                                             0755);
    const Answer answer = survey({"--json", "--machine", "q35", "pc", "--qemu", "few=" + few});
    ASSERT_EQ(answer.code, done) << answer.errors;
    const Survey found = surveyFrom(answer.value());
    const std::map<Place, SurveyedStart> starts = byPlace(found);
    EXPECT_EQ(found.qemus.front().name, "few");
    EXPECT_THAT(starts.at({"few", "q35", "edu"}).blocks, IsEmpty());
    EXPECT_EQ(starts.at({"few", "q35", "vfio-pci"}).failure, notTriedReason);
    EXPECT_FALSE(starts.contains({"few", "pc", "edu"})) << "what makes no block is tried on one machine only";
    for (const std::string machine : {"q35", "pc"}) EXPECT_EQ(starts.at({"few", machine, "VGA"}).blocks.size(), 2U) << machine;
}

TEST_F(SurveyTool, seesThatTheRomFileAndNotTheReleaseMakesTheDifference) {
    const std::string rom = directory_.write("efi-virtio.rom", std::string(300 * 1024, '\0'));
    const std::string other = directory_.write(
        "other", "#!/bin/sh\nexec " + required("VH_QEMU_NEW") + " \"$@\" -global virtio-net-pci.romfile=" + rom + "\n", 0755);
    const Answer answer = survey(
        {"--json", "--machine", "q35", "--device", "virtio-net-pci", "--qemu", "old=" + required("VH_QEMU_NEW"), "new=" + other});
    ASSERT_EQ(answer.code, done) << answer.errors;
    const json differences = answer.value().at("differences");
    ASSERT_EQ(differences.size(), 2U) << differences.dump(2);
    for (const json& difference : differences) {
        EXPECT_EQ(difference.at("romFile"), rom + ", efi-virtio.rom");
        EXPECT_EQ(difference.at("values"), json({{"old", "262144"}, {"new", "524288"}}));
    }
}

TEST_F(SurveyTool, recordsWhatDoesNotStartWithItsReason) {
    const Answer answer =
        survey({"--json", "--qemu", required("VH_QEMU_OLDEST"), "--machine", "q35", "pc-q35-99.9", "--device", "no-such-thing"});
    ASSERT_EQ(answer.code, done) << answer.errors;
    std::map<std::pair<std::string, std::string>, std::string> failures;
    for (const SurveyedStart& start : surveyFrom(answer.value()).starts) failures[{start.machine, start.device}] = start.failure;
    EXPECT_EQ(failures.at({"q35", ""}), "");
    EXPECT_EQ(failures.at({"q35", "no-such-thing"}), "'no-such-thing' is not a valid device model name");
    EXPECT_THAT(failures.at({"pc-q35-99.9", ""}), HasSubstr("unsupported machine type"));
}

TEST_F(SurveyTool, saysThatAProgramIsNoQemu) {
    const Answer answer = survey({"--qemu", "/bin/true"});
    EXPECT_EQ(answer.code, refused);
    EXPECT_THAT(answer.errors, StartsWith("vmm-shim: '/bin/true' does not start: "));
    EXPECT_THAT(survey({"--qemu", "/no/such"}).errors, HasSubstr("cannot be executed: No such file"));
    EXPECT_EQ(survey({}).code, usage);
    EXPECT_THAT(survey({"--from", directory_.write("noise", "[]")}).errors, HasSubstr("is no survey"));
}

class EndedSurvey : public SurveyTool, public testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(By, EndedSurvey, testing::Values(SIGINT, SIGKILL),
                         [](const auto& instance) { return instance.param == SIGINT ? "interrupt" : "kill"; });

TEST_P(EndedSurvey, leavesNoQemu) {
    const std::string device = "edu,id=of-" + std::to_string(::getpid());
    std::vector<std::string> command{required("VH_SHIM"), "survey", "--qemu", required("VH_QEMU_NEW"), "--machine", "q35"};
    for (int i = 0; i < 200; ++i) command.insert(command.end(), {"--device", device + "-" + std::to_string(i)});
    ToolProcess tool(command, directory_.file("out"), directory_.file("err"));
    const auto deadline = steady_clock::now() + std::chrono::seconds(60);
    const auto anyQemu = [&] {
        return std::ranges::any_of(allProcesses(), [&](pid_t pid) {
            try {
                const std::vector<std::string> line = Process(pid).commandLine();
                return std::ranges::find(line, "-nodefaults") != line.end() &&
                       std::ranges::any_of(line, [&](const std::string& word) { return word.starts_with(device); });
            } catch (const std::system_error&) {
                return false;
            }
        });
    };
    while (!anyQemu()) {
        ASSERT_LT(steady_clock::now(), deadline) << readIfThere(directory_.file("err"));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    tool.signal(GetParam());
    tool.wait();
    while (anyQemu()) {
        ASSERT_LT(steady_clock::now(), deadline) << "a QEMU is left";
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace
}  // namespace vh
