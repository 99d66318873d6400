#include <array>
#include <cstdlib>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/parse.h"
#include "config/vm_definition.h"
#include "tests/support/golden.h"
#include "tests/support/required.h"

namespace vh {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

std::string example(const std::string& name) {
    return inSourceTree("config/examples/" + name);
}

/// A good definition, with more lines at the end.
VmDefinition parsed(const std::string& more = "", const std::string& memory = "{size: 64MiB}") {
    return parseVmDefinition("name: web1\nmachine: q35\nboot: {kernel: /k}\nmemory: " + memory + "\n" + more, "web1.yaml");
}

TEST(VmDefinition, takesTheDefaultsOfItsHeader) {
    VmDefinition expected;
    expected.name = "web1";
    expected.machine = "pc-q35-10.0";
    expected.memory.sizeBytes = 512u << 20;
    expected.boot.kernel = "/boot/vmlinuz";
    EXPECT_EQ(loadVmDefinition(example("minimal.yaml")), expected);
}

TEST(VmDefinition, takesEveryKeyOfTheFullExample) {
    VmDefinition expected;
    expected.name = "db-1";
    expected.uuid = "0f5a1c52-6a7e-4d53-9a0e-3c1f2b4d5e6f";
    expected.machine = "pc-q35-10.0";
    expected.accelerator = Accelerator::Kvm;
    expected.cpu = {"host,migratable=off", 1, 4, 2};
    expected.memory = {4ull << 30, 2u << 20, MemoryOwner::Manager};
    expected.boot.firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd";
    expected.boot.disk = "root";
    expected.disks = {
        {"root", "/var/lib/vms/db-1/root.qcow2", DiskFormat::Qcow2, DiskCache::None, false, "DB1-ROOT"},
        {"seed", "/var/lib/vms/db-1/seed.img", DiskFormat::Raw, DiskCache::Writeback, true, ""},
    };
    expected.networks = {{"lan", NetworkType::Tap, "br0", "52:54:00:12:34:56"}, {"outside", NetworkType::User, "", ""}};
    expected.console = {true, "/var/log/vms/db-1.log"};
    expected.heartbeat = true;
    expected.vfio = {{"nic0", "0000:01:00.0", "", true, VfioInterface::Cdev}, {"accelerator", "", "1234:11e8"}};
    expected.vmm = {"/opt/qemu/bin/qemu-system-x86_64", "qemu", true, {"-device", "virtio-rng-pci,id=rng0"}};
    expected.handover = {Design::Relayed, 250ms, {20s, 15s, 2500ms, 15min, 2min, 30s}, OnFailure::Retry, "/var/lib/vms/db-1"};
    EXPECT_EQ(loadVmDefinition(example("full.yaml")), expected);
}

TEST(VmDefinition, storesHexadecimalInLowerCase) {
    const VmDefinition definition = parsed(
        "uuid: 0F5A1C52-6A7E-4D53-9A0E-3C1F2B4D5E6F\n"
        "networks: [{id: n, type: user, mac: 52:54:00:AB:CD:EF}]\n"
        "vfio: [{id: v, address: 0000:0A:1F.7}, {id: w, device: 8086:10C9}]\n");
    EXPECT_EQ(definition.uuid, "0f5a1c52-6a7e-4d53-9a0e-3c1f2b4d5e6f");
    EXPECT_EQ(definition.networks.at(0).mac, "52:54:00:ab:cd:ef");
    EXPECT_EQ(definition.vfio.at(0).address, "0000:0a:1f.7");
    EXPECT_EQ(definition.vfio.at(1).device, "8086:10c9");
}

TEST(VmDefinition, relaysUnlessToldOtherwiseWhoeverOwnsMemory) {
    EXPECT_EQ(parsed().handover.design, Design::Relayed);
    EXPECT_EQ(parsed("", "{size: 64MiB, owner: vmm}").handover.design, Design::Relayed);
    EXPECT_EQ(parsed("handover: {design: vmm-owned}", "{size: 64MiB, owner: vmm}").handover.design, Design::VmmOwned);
    EXPECT_EQ(parsed("handover: {design: vmm-exec}", "{size: 64MiB, owner: vmm}").handover.design, Design::VmmExec);
    EXPECT_EQ(parsed("handover: {design: copy}", "{size: 64MiB, owner: vmm}").handover.design, Design::Copy);
    EXPECT_EQ(parsed("handover: {design: save-restore}").handover.design, Design::SaveRestore);
}

TEST(VmDefinition, takesPlainWordsThatYamlWouldReadAsSomethingElse) {
    const VmDefinition definition =
        parseVmDefinition("{name: 123, machine: 1.5, boot: {kernel: /k, cmdline: true}, memory: {size: \"64MiB\"}}", "web1.yaml");
    EXPECT_EQ(definition.name, "123");
    EXPECT_EQ(definition.machine, "1.5");
    EXPECT_EQ(definition.boot.cmdline, "true");
    EXPECT_EQ(definition.memory.sizeBytes, 64u << 20);
}

TEST(VmDefinition, allowsArgumentsThatOnlyLookLikeRefusedOnes) {
    const VmDefinition definition = parsed("vmm: {arguments: [-vga, none, -display, none, m, -names, '-global', 'a.b=c']}");
    EXPECT_EQ(definition.vmm.arguments.size(), 8u);
    for (const std::string refused : {"-m", "--m", "-S", "--incoming", "-readconfig"}) {
        EXPECT_THROW(parsed("vmm: {arguments: ['" + refused + "']}"), ConfigErrors) << refused;
    }
}

TEST(Names, findsEachDesignByItsName) {
    for (const Design design : designsOfUpgrades()) {
        EXPECT_EQ(designNamed(name(design)), design);
    }
    EXPECT_EQ(designNamed("Copy"), std::nullopt);
    EXPECT_EQ(designNamed(""), std::nullopt);
}

TEST(Names, offersNoUpgradeWhatOnlyAComparisonHas) {
    EXPECT_EQ(designsOfUpgrades().size(), 6u);
    for (const char* byHand : {"cpr-transfer", "x-ignore-shared"}) {
        ASSERT_TRUE(valueNamed<Design>(byHand)) << byHand;
        EXPECT_TRUE(rowOf(*valueNamed<Design>(byHand)).byHandOf) << byHand;
        EXPECT_EQ(designNamed(byHand), std::nullopt) << byHand;
        EXPECT_THROW(parsed("handover: {design: " + std::string(byHand) + "}", "{size: 64MiB, owner: vmm}"), ConfigErrors);
    }
}

TEST(FormatSize, usesTheLargestUnitThatDivides) {
    EXPECT_EQ(formatSize(0), "0B");
    EXPECT_EQ(formatSize(1000), "1000B");
    EXPECT_EQ(formatSize(4096), "4KiB");
    EXPECT_EQ(formatSize(512u << 20), "512MiB");
    EXPECT_EQ(formatSize(1536u << 20), "1536MiB");
    EXPECT_EQ(formatSize(1ull << 40), "1TiB");
    EXPECT_EQ(formatSize(1ull << 60), "1048576TiB");
}

TEST(ParseDuration, readsWholeAndDecimalNumbersOfEachUnit) {
    EXPECT_EQ(parseDuration("1ms"), 1ms);
    EXPECT_EQ(parseDuration("250ms"), 250ms);
    EXPECT_EQ(parseDuration("10s"), 10s);
    EXPECT_EQ(parseDuration("2min"), 2min);
    EXPECT_EQ(parseDuration("60min"), 1h);
    EXPECT_EQ(parseDuration("1.5s"), 1500ms);
    EXPECT_EQ(parseDuration("1.005s"), 1005ms);
    EXPECT_EQ(parseDuration("1.0000000000000000000000000000s"), 1s);
    EXPECT_EQ(parseDuration("0.00005min"), 3ms);
    EXPECT_EQ(parseDuration("250.0ms"), 250ms);
}

TEST(ParseDuration, saysWhatItExpected) {
    const auto complaint = [](std::string_view text) -> std::string {
        try {
            parseDuration(text);
            return "";
        } catch (const std::invalid_argument& expected) {
            return expected.what();
        }
    };
    for (const char* text : {"", "s", ".5s", "1.s", "1..5s", "-1s", "+1s", "1 s", "1h", "1S", "1e3ms", "0x1s", "inf"}) {
        EXPECT_EQ(complaint(text), "a duration such as '250ms', '1.5s' or '2min'") << text;
    }
    EXPECT_EQ(complaint("10"), "a unit after the number (ms, s or min), such as in '10s'");
    for (const char* text : {"0.5ms", "1.0001s", "0.00001min", "1.0000000000000000000001s", "0.99999999999999999999999999s"}) {
        EXPECT_EQ(complaint(text), "a duration in whole milliseconds") << text;
    }
    for (const char* text :
         {"0s", "0.000ms", "60.001min", "61min", "3600001ms", "99999999999999999999999s", "18446744073709551615min"}) {
        EXPECT_THAT(complaint(text),
                    testing::AnyOf("a duration above zero and of at most 60min", "a duration in whole milliseconds"))
            << text;
    }
}

TEST(Flatten, hasEachKeyWithAValueThatAFileWouldHave) {
    const auto keys = flatten(loadVmDefinition(example("full.yaml")));
    EXPECT_EQ(keys.at("memory.size"), "4GiB");
    EXPECT_EQ(keys.at("memory.page_size"), "2MiB");
    EXPECT_EQ(keys.at("disks[1].file"), "/var/lib/vms/db-1/seed.img");
    EXPECT_EQ(keys.at("disks[1].read_only"), "true");
    EXPECT_EQ(keys.at("vmm.arguments[1]"), "virtio-rng-pci,id=rng0");
    EXPECT_EQ(keys.at("handover.pause_budget"), "250ms");
    EXPECT_EQ(keys.at("handover.deadlines.switch"), "120s");
    EXPECT_EQ(keys.at("boot.kernel"), "");
}

TEST(Differences, isEmptyForEqualDefinitions) {
    EXPECT_THAT(differences(parsed(), parsed("cpu: {cores: 1}")), ElementsAre());
}

TEST(Differences, namesChangedAddedAndRemovedValues) {
    const VmDefinition before = parsed("cpu: {cores: 2}\nvmm: {arguments: [a, b]}\n");
    const VmDefinition after = parsed("cpu: {cores: 4}\nvmm: {arguments: [a]}\nnetworks: [{id: net0, type: user}]\n");
    const std::vector<KeyDifference> expected{
        {"cpu.cores", "2", "4"},
        {"networks[0].id", "", "net0"},
        {"networks[0].type", "", "user"},
        {"vmm.arguments[1]", "b", ""},
    };
    EXPECT_EQ(differences(before, after), expected);
}

TEST(ConfigErrors, saysPlaceAndMessageOfEachErrorInTheOrderOfTheText) {
    try {
        parseVmDefinition("name: web1\nmemory: {size: -1}\nboot: {kernel: /k}\nfoo: 1\n", "web1.yaml");
        FAIL() << "accepted";
    } catch (const ConfigErrors& errors) {
        ASSERT_EQ(errors.errors().size(), 3u);
        EXPECT_EQ(errors.errors()[1].line, 2);
        EXPECT_EQ(errors.errors()[1].column, 16);
        EXPECT_EQ(
            errors.errors()[1].text(),
            "web1.yaml:2:16: memory.size: found '-1', expected a size such as '512MiB' (a whole number and a unit: B, KiB, MiB, "
            "GiB or TiB)");
        EXPECT_THAT(errors.what(), HasSubstr(errors.errors()[0].text() + "\n" + errors.errors()[1].text() + "\n"));
    }
}

TEST(Mutations, giveADefinitionOrConfigErrorsAndNothingElse) {
    const std::string original = fileText(example("full.yaml"));
    ASSERT_FALSE(original.empty());
    const auto seed = static_cast<std::mt19937::result_type>(test::numberFrom("VH_SEED", 20250101));
    const unsigned long rounds = test::numberFrom("VH_MUTATIONS", 5000);
    std::cout << "VH_SEED=" << seed << " VH_MUTATIONS=" << rounds << "\n";

    std::mt19937 random(seed);
    const auto below = [&](std::size_t end) { return random() % end; };
    constexpr std::array pieces{
        "[",   "]",    "{",  "}", "- ", "? ",    ": ",    "&a ", "*a", "!!x ", "'",    "\"", "|\n",
        ">\n", "\n",   "  ", "#", "%",  "---\n", "...\n", "\t",  "\\", "\xff", "\x04", "-1", "99999999999999999999",
        "~",   "<<: ", ",",  "\r"};
    unsigned long good = 0;
    for (unsigned long round = 0; round < rounds; ++round) {
        std::string text = original;
        for (std::size_t change = 0; change <= below(4) && !text.empty(); ++change) {
            const std::size_t at = below(text.size());
            switch (below(5)) {
                case 0:
                    text[at] = static_cast<char>(below(256));
                    break;
                case 1:
                    text.erase(at, below(20));
                    break;
                case 2:
                    text.insert(at, pieces[below(pieces.size())]);
                    break;
                case 3:
                    text.insert(at, original.substr(below(original.size()), below(40)));
                    break;
                default:
                    text.resize(at + 1);
                    break;
            }
        }
        try {
            const VmDefinition definition = parseVmDefinition(text, "mutation.yaml");
            EXPECT_FALSE(definition.name.empty());
            ++good;
        } catch (const ConfigErrors& errors) {
            EXPECT_FALSE(errors.errors().empty());
        } catch (const std::exception& other) {
            FAIL() << "round " << round << " threw '" << other.what() << "' for:\n" << text;
        }
    }
    EXPECT_GT(good, 0u) << "no mutation is harmless: the test does not reach the reading of values";
    EXPECT_LT(good, rounds);
}

TEST(Release, isReadFromAVersion) {
    EXPECT_EQ(releaseOf("10.0.2"), (Release{10, 0}));
    EXPECT_EQ(releaseOf("11.1"), (Release{11, 1}));
    EXPECT_EQ(releaseOf("11"), Release{});
    EXPECT_EQ(releaseOf(""), Release{});
    EXPECT_LT(releaseOf("9.2.0"), releaseOf("10.0.0")) << "by number, not by letter";
}

}  // namespace
}  // namespace vh
