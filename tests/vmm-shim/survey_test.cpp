#include "vmm-shim/tool/survey.h"

#include <stdexcept>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"
#include "vmm-shim/tool/stopped_qemu.h"
#include "vmm-shim/tool/take_survey.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

SurveyedBlock surveyedBlock(const std::string& idstr, std::uint64_t kibibytes, const std::string& romFile = {}) {
    SurveyedBlock block;
    block.idstr = idstr;
    block.used_length = block.max_length = kibibytes << 10;
    block.page_size = 4 << 10;
    block.align = 2 << 20;
    block.shared = block.read_only = false;
    block.romFile = romFile;
    return block;
}

SurveyedQemu surveyedQemu(const std::string& name, std::uint64_t romBytes = 200'000) {
    return {name, name, "Made up " + name, true, {{"nic.rom", romBytes}}};
}

/// Two QEMUs that were started with a machine alone, and with a network card.
Survey madeUpSurvey() {
    Survey survey{{surveyedQemu("1.0"), surveyedQemu("2.0")}, {}};
    for (const std::string name : {"1.0", "2.0"}) {
        survey.starts.push_back({name, "pc-1", "", "", {surveyedBlock("pc.bios", 256)}});
        survey.starts.push_back({name, "pc-1", "nic", "", {surveyedBlock("0/nic.rom", 256, "nic.rom")}});
    }
    return survey;
}

/// The starts of the new QEMU.
SurveyedStart& alone(Survey& survey) {
    return survey.starts.at(2);
}
SurveyedStart& withCard(Survey& survey) {
    return survey.starts.at(3);
}

TEST(Survey, hasNoDifferenceWhereAllIsAlike) {
    EXPECT_THAT(differences(madeUpSurvey()), IsEmpty());
    EXPECT_THAT(describe(madeUpSurvey()), HasSubstr("None: every block is the same"));
}

TEST(Survey, namesThePropertyAndTheProgramWhereItDiffers) {
    Survey survey = madeUpSurvey();
    alone(survey).blocks.front().max_length = 512 << 10;
    EXPECT_THAT(differences(survey),
                ElementsAre(SurveyDifference{"", "pc.bios", "max_length", {"pc-1"}, {{"1.0", "262144"}, {"2.0", "524288"}}, ""}));
    const std::string text = describe(survey);
    EXPECT_THAT(text, HasSubstr("| `pc.bios` | the machine | pc-1 | max_length | the program | 256 KiB | 512 KiB |"));
    EXPECT_THAT(text, HasSubstr("| 1.0 |  | 1 + 0 |"));
}

TEST(Survey, namesTheRomFileWhereItIsAnotherOne) {
    Survey survey = madeUpSurvey();
    withCard(survey).blocks.front().max_length = 512 << 10;
    ASSERT_EQ(differences(survey).size(), 1U);
    EXPECT_EQ(differences(survey).front().romFile, "") << "the file is as long in both: the program does it";
    survey.qemus.back() = surveyedQemu("2.0", 300'000);
    ASSERT_EQ(differences(survey).size(), 1U);
    EXPECT_EQ(differences(survey).front().romFile, "nic.rom");
    EXPECT_THAT(describe(survey), HasSubstr("| 1.0 |  | 0 + 1 |"));
}

TEST(Survey, takesABlockThatOneDoesNotMakeForADifference) {
    Survey survey = madeUpSurvey();
    withCard(survey).blocks.clear();
    EXPECT_THAT(differences(survey),
                ElementsAre(SurveyDifference{"nic", "0/nic.rom", "block", {"pc-1"}, {{"1.0", "made"}, {"2.0", "absent"}}, ""}));
}

TEST(Survey, takesWhatIsNotKnownForNoDifference) {
    Survey survey = madeUpSurvey();
    withCard(survey).blocks.clear();
    withCard(survey).failure = "'nic' is not a valid device model name";
    for (SurveyedBlock& unseen : alone(survey).blocks) unseen.align = {}, unseen.shared = {}, unseen.read_only = {};
    EXPECT_THAT(differences(survey), IsEmpty());
}

TEST(Survey, showsTheFlagsOfEachBlock) {
    Survey survey = madeUpSurvey();
    const std::string card = "| `nic.rom` | `nic` | implicit, of `nic.rom` | 256 KiB | 256 KiB | 2 MiB | ";
    EXPECT_THAT(describe(survey), HasSubstr("| shared | read_only | resizable |\n"));
    EXPECT_THAT(describe(survey), HasSubstr(card + "no | no | no |\n"));
    withCard(survey).machine = "pc-1,aux-ram-share=on";
    withCard(survey).blocks.front().shared = true;
    EXPECT_THAT(describe(survey), HasSubstr(card + "yes on `pc-1,aux-ram-share=on`, no on others | no | no |\n"));
    for (SurveyedStart& start : survey.starts)
        for (SurveyedBlock& block : start.blocks) block.shared = {}, block.read_only = true, block.resizable = true;
    EXPECT_THAT(describe(survey), HasSubstr(card + "not told | yes | yes |\n"));
    survey.starts.at(1).blocks.front().shared = false;
    withCard(survey).machine = "pc-1";
    withCard(survey).blocks.front().shared = true;
    EXPECT_THAT(describe(survey), HasSubstr(card + "yes or no | yes | yes |\n"));
}

TEST(Survey, isReadAsItWasWritten) {
    Survey survey = madeUpSurvey();
    survey.starts.push_back({"1.0", "pc-1", "tpm", "no backend", {}});
    survey.starts.push_back({"2.0", "pc-1", "tpm", "no backend", {}});
    alone(survey).blocks.front().resizable = true;
    const json value = toJson(survey);
    EXPECT_EQ(toJson(surveyFrom(value)), value);
    EXPECT_EQ(describe(surveyFrom(value)), describe(survey));
    EXPECT_EQ(surveyFrom(value).starts.size(), survey.starts.size());
    EXPECT_EQ(value.at("starts").size(), 4U) << "both QEMUs failed alike with the tpm, and have the same card";
}

TEST(Survey, isRefusedWhenItIsNone) {
    EXPECT_THROW(surveyFrom(json::object()), json::exception);
    EXPECT_THROW(surveyFrom({{"format", 2}}), std::runtime_error);
    json value = toJson(madeUpSurvey());
    value.at("starts").at(0).at("blocks").at(0).erase("max_length");
    EXPECT_THROW(surveyFrom(value), json::exception);
}

TEST(Survey, looksAtTheOldestAndTheNewestMachineThatAllHave) {
    EXPECT_THAT(machinesToSurvey({{"pc-q35-9.2", "pc-q35-10.0", "pc-q35-11.1", "pc-i440fx-9.2", "q35", "x-remote"},
                                  {"pc-q35-2.8", "pc-q35-9.2", "pc-q35-9.1", "pc-q35-10.0", "pc-i440fx-9.2", "q35", "microvm"}}),
                ElementsAre("pc-q35-10.0", "pc-q35-10.0,aux-ram-share=on", "pc-q35-9.2", "pc-i440fx-9.2", "q35"));
    EXPECT_THAT(machinesToSurvey({{"virt-9.2"}, {"virt-9.2"}}), IsEmpty());
}

TEST(Survey, findsDevicesButProcessorsInTheHelp) {
    EXPECT_THAT(devicesIn("Display devices:\nname \"VGA\", bus PCI\nname \"virtio-vga\", bus PCI, alias \"x\"\n\nCPU devices:\n"
                          "name \"EPYC-x86_64-cpu\"\n\nMisc devices:\nname \"edu\", bus PCI\n"),
                ElementsAre("VGA", "virtio-vga", "edu"));
}

TEST(Survey, tellsTheReasonThatAQemuGave) {
    EXPECT_EQ(
        reasonIn("qemu-system-x86_64: warning: old machine\nqemu-system-x86_64: -device x: 'x' is not a valid device\nmore\n"),
        "'x' is not a valid device");
    EXPECT_EQ(reasonIn("cannot be executed: No such file or directory\n"), "cannot be executed: No such file or directory");
    EXPECT_EQ(reasonIn("\n"), "");
}

/// The survey of the QEMUs that Debian's suites had; tests/results/README.md says how it was taken.
TEST(RamBlockSurvey, isWholeAndSaysWhatItsBlocksSay) {
    const json value = json::parse(fileText(inSourceTree("tests/results/ram-block-survey.json")));
    const Survey survey = surveyFrom(value);
    EXPECT_EQ(toJson(survey), value) << "the differences are others than those that are written down";
    EXPECT_GE(survey.qemus.size(), 7U);
    for (const SurveyedStart& start : survey.starts)
        if (start.device.empty() && start.failure.empty()) {
            EXPECT_THAT(start.blocks, Not(IsEmpty())) << start.qemu << " " << start.machine;
        }
}

TEST(RamBlockSurvey, hasTheTableThatItsDataMake) {
    const json value = json::parse(fileText(inSourceTree("tests/results/ram-block-survey.json")));
    expectGolden("ram-block-survey.md", describe(surveyFrom(value)), "tests/results");
}

}  // namespace
}  // namespace vh
