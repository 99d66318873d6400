#include "manager/vmm/binary_probe.h"

#include <memory>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

class BinaryProbeTest : public MainLoopTest {
 protected:
    /// The problem that a probe ends with.
    Obstacle problemOf(const std::string& path, milliseconds deadline = milliseconds(60'000)) {
        std::optional<Obstacle> problem;
        int answers = 0;
        const auto probe = std::make_unique<BinaryProbe>(BinaryProbe::Question{path, {}, {"virtio-blk-pci"}, deadline},
                                                         [&](const VmmBinary& binary, const std::optional<Obstacle>& found) {
                                                             EXPECT_EQ(binary.path, path);
                                                             ++answers;
                                                             problem = found;
                                                         });
        EXPECT_EQ(answers, 0) << "never before the main loop's turn";
        EXPECT_TRUE(loopUntil([&] { return answers > 0; }));
        loopWhileBusy();
        EXPECT_EQ(answers, 1);
        return problem.value_or(Obstacle{"(none)", ""});
    }
    /// What it is, of one that another binary would not have.
    std::string causeFor(const std::string& path) {
        const Obstacle problem = problemOf(path);
        EXPECT_THAT(problem.remedy, HasSubstr("name a QEMU that works on this host"));
        return problem.what;
    }

    std::string script(const std::string& text) const { return directory_.write("vmm", "#!/bin/sh\n" + text + "\n", 0755); }

    TemporaryDirectory directory_;
};

TEST_F(BinaryProbeTest, namesABinaryThatDoesNotExist) {
    EXPECT_EQ(causeFor("/does/not/exist"), "'/does/not/exist': No such file or directory");
}

TEST_F(BinaryProbeTest, refusesADirectory) {
    EXPECT_EQ(causeFor(directory_.path()), "'" + directory_.path() + "' is not a file");
}

TEST_F(BinaryProbeTest, refusesADevice) {
    EXPECT_EQ(causeFor("/dev/null"), "'/dev/null' is not a file");
}

TEST_F(BinaryProbeTest, refusesAFileThatIsNotExecutable) {
    const std::string path = directory_.write("text", "no program", 0644);
    EXPECT_EQ(causeFor(path), "'" + path + "' is not executable");
}

TEST_F(BinaryProbeTest, refusesAnExecutableThatIsNoProgram) {
    const std::string path = directory_.write("text",
                                              std::string("\x7f"
                                                          "ELF and no more"),
                                              0755);
    EXPECT_THAT(causeFor(path), AllOf(HasSubstr("'" + path + "' is not a working QEMU: it could not be started: execute"),
                                      HasSubstr("Exec format error")));
}

TEST_F(BinaryProbeTest, refusesAProgramThatIsNoQemu) {
    EXPECT_EQ(causeFor("/bin/true"), "'/bin/true' is not a working QEMU: it exited with status 0");
}

TEST_F(BinaryProbeTest, repeatsTheLastOfWhatAFailingProgramSaid) {
    EXPECT_THAT(causeFor(script("echo 'cannot load libfoo.so' >&2; echo more; exit 3")),
                testing::EndsWith("is not a working QEMU: it exited with status 3: cannot load libfoo.so; more"));
}

TEST_F(BinaryProbeTest, doesNotTakeAWarningForTheReason) {
    EXPECT_THAT(causeFor(script("echo 'qemu: warning: this machine is deprecated'; echo 'qemu: cannot open /dev/x'; exit 1")),
                testing::EndsWith("it exited with status 1: qemu: cannot open /dev/x"));
}

TEST_F(BinaryProbeTest, tellsTheSignalThatEndedAProgram) {
    EXPECT_THAT(causeFor(script("kill -SEGV $$")), HasSubstr("was killed by signal 11"));
}

TEST_F(BinaryProbeTest, refusesAProgramThatTalksGarbageOnTheMonitor) {
    EXPECT_THAT(causeFor(script("echo garbage >&3; echo more garbage; exit 1")),
                HasSubstr("it exited with status 1: more garbage"));
}

TEST_F(BinaryProbeTest, refusesAProgramThatDrownsUsInOutput) {
    EXPECT_THAT(causeFor(script("head -c 1000000 /dev/zero | tr '\\0' x; exit 1")), testing::SizeIs(testing::Lt(1000U)));
}

TEST_F(BinaryProbeTest, doesNotWaitForeverForAProgramThatHangs) {
    const std::string path = script("exec sleep 1000");
    EXPECT_EQ(problemOf(path, milliseconds(50)), (Obstacle{"'" + path + "' did not answer as a QEMU within 50 ms",
                                                           "see whether it is one, and whether the host is overloaded"}));
}

TEST_F(BinaryProbeTest, doesNotWaitForeverForAMonitorThatAnswersNonsense) {
    const std::string path =
        script(R"(printf '{"QMP": {}}\n{"id": 1, "return": []}\n{"id": 2, "error": {}}\n' >&3; exec sleep 1000)");
    EXPECT_THAT(problemOf(path, milliseconds(200)).what, HasSubstr("did not answer as a QEMU"));
}

TEST_F(BinaryProbeTest, asksWhoeverSpeaksQmp) {
    const std::string path = script(R"(printf '%s\n' '{"QMP": {}}' \
    '{"id": 1, "return": {"qemu": {"major": 12, "minor": 3, "micro": 4}}}' \
    '{"id": 2, "return": [{"name": "pc-q35-12.3", "alias": "q35"}, {"name": "none"}]}' \
    '{"id": 3, "error": {"class": "DeviceNotFound", "desc": "no"}}' >&3; exec sleep 1000)");
    std::optional<VmmBinary> found;
    const BinaryProbe probe({path, {}, {"virtio-blk-pci"}}, [&](const VmmBinary& binary, const std::optional<Obstacle>& problem) {
        EXPECT_FALSE(problem.has_value());
        found = binary;
    });
    ASSERT_TRUE(loopUntil([&] { return found.has_value(); }));
    EXPECT_TRUE(loopUntil([] { return !haveChildren(); })) << "ended with the answer, not only with the probe";
    EXPECT_EQ(found->version, "12.3.4");
    EXPECT_EQ(found->majorVersion, 12);
    EXPECT_THAT(found->machines, testing::ElementsAre("none", "pc-q35-12.3"));
    EXPECT_THAT(found->aliases, testing::ElementsAre(testing::Pair("q35", "pc-q35-12.3")));
    EXPECT_THAT(found->missingModels, testing::ElementsAre("virtio-blk-pci"));
}

TEST_F(BinaryProbeTest, endsTheProgramWhenDestroyed) {
    auto probe = std::make_unique<BinaryProbe>(BinaryProbe::Question{script("exec sleep 1000"), {}, {}},
                                               [](const VmmBinary&, const std::optional<Obstacle>&) { FAIL() << "answered"; });
    EXPECT_TRUE(haveChildren());
    probe.reset();
    EXPECT_TRUE(loopUntil([] { return !haveChildren(); }));
}

TEST_F(BinaryProbeTest, mayBeDestroyedInItsAnswer) {
    bool answered = false;
    std::unique_ptr<BinaryProbe> probe;
    probe = std::make_unique<BinaryProbe>(BinaryProbe::Question{"/bin/true", {}, {}},
                                          [&](const VmmBinary&, const std::optional<Obstacle>&) {
                                              probe.reset();
                                              answered = true;
                                          });
    EXPECT_TRUE(loopUntil([&] { return answered; }));
}

}  // namespace
}  // namespace vh
