#include "config/compare_plan.h"

#include <regex>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/parse.h"
#include "tests/support/golden.h"

namespace vh {
namespace {

using testing::HasSubstr;

std::string textOf(const std::string& name) {
    return fileText(inSourceTree("config/" + name));
}

std::string complaint(const std::string& yaml) {
    try {
        parseComparePlan(yaml, "plan.yaml");
    } catch (const ConfigErrors& errors) {
        return errors.what();
    }
    return "none";
}

TEST(ComparePlan, readsEveryKey) {
    const ComparePlan plan = parseComparePlan(textOf("examples/compare.yaml"), "compare.yaml");
    ASSERT_EQ(plan.pairs.size(), 2u);
    EXPECT_EQ(plan.pairs[0].old, "/opt/qemu-10.0/bin/qemu-system-x86_64");
    EXPECT_EQ(plan.pairs[0].new_, "/opt/qemu-11.1/bin/qemu-system-x86_64");
    EXPECT_EQ(plan.designs, allDesigns());
    EXPECT_EQ(plan.rounds, 30u);
    EXPECT_EQ(plan.baselineRounds, 10u);
    EXPECT_EQ(plan.ram[1], (GuestRam{2304ULL << 20, 2048ULL << 20, false}));
    EXPECT_EQ(plan.pages, (std::vector{Pages{}, Pages{.transparentHuge = true}, Pages{.sizeBytes = 2 << 20}}));
    EXPECT_EQ(plan.hotSets, (std::vector{HotSet{}, HotSet{.percent = 25}, HotSet{.percent = 100}}));
    EXPECT_EQ(plan.accelerators, (std::vector{Accelerator::Tcg, Accelerator::Kvm}));
    EXPECT_EQ(plan.guests, (std::vector{Guest::Auto, Guest::Bare}));
    EXPECT_EQ(plan.bareGuest, (BareGuest{"/srv/probe/bare-guest.elf", "/srv/probe/bare-firmware.bin"}));
    EXPECT_EQ(plan.loads, (std::vector{Load::Idle, Load::Memory}));
    EXPECT_EQ(plan.devices, (std::vector{DeviceSet{true, true}, DeviceSet{true, true, true}}));
    EXPECT_EQ(plan.seed, 4711u);
}

TEST(ComparePlan, hasWhatIsDrivenByHandUnlessItNamesOthers) {
    EXPECT_EQ(ComparePlan().designs.size(), 8u);
    EXPECT_EQ(parseComparePlan("designs: [x-ignore-shared, cpr-transfer]", "plan.yaml").designs,
              (std::vector{Design::IgnoreShared, Design::CprTransfer}));
    EXPECT_THAT(complaint("designs: [cpr]"), HasSubstr("'save-restore', 'cpr-transfer', 'x-ignore-shared'"));
}

TEST(ComparePlan, isWhatItsTextSays) {
    for (ComparePlan plan : {ComparePlan(), parseComparePlan(textOf("examples/compare.yaml"), "compare.yaml")})
        EXPECT_EQ(parseComparePlan(toYaml(plan), "again.yaml"), plan) << toYaml(plan);
}

TEST(ComparePlan, saysWhatIsWrongAndWhere) {
    EXPECT_THAT(complaint("rounds: 0"), HasSubstr("plan.yaml:1:9: rounds: found '0', expected a whole number from 1 to 10000"));
    EXPECT_THAT(complaint("rouns: 3"), HasSubstr("unknown key 'rouns', did you mean 'rounds'?"));
    EXPECT_THAT(complaint("ram: [{size: 512MiB, touched: 512MiB}]"), HasSubstr("expected at least 128MiB less than the size"));
    EXPECT_THAT(complaint("designs: []"), HasSubstr("designs: found an empty list, expected at least one entry"));
    EXPECT_THAT(complaint("devices: [floppy]"), HasSubstr("expected one of 'none', 'disk', 'network', 'disk+network', 'many'"));
    EXPECT_THAT(complaint("page_sizes: [huge]"), HasSubstr("expected 'thp' or one of '4KiB', '2MiB', '1GiB'"));
    for (const char* wrong : {"most", "0%", "101%", "1.5%", "%"})
        EXPECT_THAT(complaint("hot_set: ['" + std::string(wrong) + "']"),
                    HasSubstr("a part of the RAM that is touched such as '25%'"));
    EXPECT_THAT(complaint("accelerators: [xen]"), HasSubstr("expected one of 'kvm', 'tcg', 'auto'"));
    EXPECT_THAT(complaint("accelerators: []"), HasSubstr("expected at least one entry"));
    EXPECT_THAT(complaint("bare_guest: {kernel: /k}"), HasSubstr("the required key 'firmware' is missing"));
    EXPECT_THAT(complaint("pairs: [{old: qemu}]"), HasSubstr("the required key 'new' is missing"));
    EXPECT_THAT(complaint("[]"), HasSubstr("expected a mapping"));
}

TEST(ComparePlan, readsTheAcceleratorOfEarlierPlans) {
    EXPECT_EQ(parseComparePlan("accelerator: kvm", "old.yaml").accelerators, std::vector{Accelerator::Kvm});
    EXPECT_THAT(complaint("accelerator: xen"), HasSubstr("accelerator: found 'xen'"));
    EXPECT_THAT(toYaml(parseComparePlan("accelerator: kvm", "old.yaml")), HasSubstr("accelerators:\n  - kvm"));
}

TEST(HotSets, leaveSomethingToBeChecked) {
    constexpr std::uint64_t MiB = 1ULL << 20;
    EXPECT_EQ(hotBytes(parseHotSet("all"), 512 * MiB), 496 * MiB);
    EXPECT_EQ(hotBytes(parseHotSet("25%"), 512 * MiB), 128 * MiB);
    EXPECT_EQ(hotBytes(parseHotSet("16MiB"), 512 * MiB), 16 * MiB);
    EXPECT_EQ(hotBytes(parseHotSet("1GiB"), 512 * MiB), 496 * MiB);
    EXPECT_EQ(hotBytes(parseHotSet("16MiB"), 16 * MiB), 8 * MiB);
}

TEST(ComparePlan, hasItsKeysInTheReadme) {
    const std::string readme = textOf("README.md");
    const std::string table = readme.substr(readme.find("## Plans"));
    std::set<std::string> documented, known;
    const std::regex key("^\\| (`[^|]*`) \\|");
    std::istringstream lines(table);
    for (std::string text; std::getline(lines, text);) {
        std::smatch match;
        if (!std::regex_search(text, match, key)) continue;
        const std::string keys = match.str(1);
        const std::regex one("`([a-z_]+)");
        for (auto name = std::sregex_iterator(keys.begin(), keys.end(), one); name != std::sregex_iterator(); ++name)
            documented.insert(name->str(1));
    }
    ComparePlan plan;
    plan.pairs = {{"/a", "/b"}};
    plan.guest = {"/k", "/i"};
    plan.bareGuest = {"/k", "/f"};
    plan.seed = 1;
    plan.baselineRounds = 1;
    const std::string yaml = toYaml(plan);
    const std::regex top("(^|\\n)([a-z_]+):");
    for (auto match = std::sregex_iterator(yaml.begin(), yaml.end(), top); match != std::sregex_iterator(); ++match)
        known.insert(match->str(2));
    EXPECT_EQ(documented, known);
}

TEST(GuestRam, isReadFromTheCommandLine) {
    EXPECT_EQ(parseGuestRam("640MiB/512MiB"), (GuestRam{640ULL << 20, 512ULL << 20, true}));
    EXPECT_EQ(parseGuestRam("1GiB"), (GuestRam{1024ULL << 20, 512ULL << 20, true}));
    EXPECT_THROW(parseGuestRam("512MiB/512MiB"), std::invalid_argument);
    EXPECT_THROW(parseGuestRam("lots"), std::invalid_argument);
}

TEST(EmittedDefinition, hasListsOfAnyLength) {
    VmDefinition definition = parseVmDefinition(textOf("examples/minimal.yaml"), "minimal.yaml");
    for (int i = 0; i < 24; ++i) {
        definition.disks.push_back({.id = "disk" + std::to_string(i), .file = "/d"});
        definition.vmm.arguments.push_back("-argument" + std::to_string(i));
    }
    EXPECT_EQ(parseVmDefinition(toYaml(definition), "again.yaml"), definition) << toYaml(definition);
}

TEST(EmittedDefinition, parsesToAnEqualOne) {
    for (const char* name : {"examples/minimal.yaml", "examples/full.yaml"}) {
        const VmDefinition definition = parseVmDefinition(textOf(name), name);
        EXPECT_EQ(parseVmDefinition(toYaml(definition), "again.yaml"), definition) << toYaml(definition);
    }
}

}  // namespace
}  // namespace vh
