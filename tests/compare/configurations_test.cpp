// Which cells a plan has on a host, and the VMs of them.
#include "manager/compare/configurations.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/compare/results.h"

namespace vh {
namespace {

using Guests = KvmAbility::Guests;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t MiB = 1ULL << 20;

ComparePlan plan() {
    ComparePlan plan;
    plan.pairs = {{"/old", "/new"}};
    plan.designs = {Design::Relayed, Design::Copy};
    plan.ram = {{512 * MiB, 256 * MiB}};
    plan.guest = {"/linux", "/initrd"};
    plan.bareGuest = {"/bare", "/firmware"};
    return plan;
}

Results cellsOf(const ComparePlan& plan, Guests kvm, const std::optional<VmDefinition>& own = std::nullopt) {
    Results results;
    addConfigurations(plan, own, kvm, results);
    for (Configuration& one : results.configurations) one.title = titleOf(one, results);
    return results;
}

VmDefinition guestOf(const Configuration& one, const ComparePlan& plan) {
    return guestFor(one, plan, "/old", "/tmp/x", MemoryOwner::Manager, 3, one.devices.network);
}

template <typename Member>
auto valuesOf(const Results& results, Member member) {
    std::vector<std::remove_cvref_t<decltype(results.configurations.front().*member)>> all;
    for (const Configuration& one : results.configurations) all.push_back(one.*member);
    return all;
}

TEST(Configurations, growTheWorkingSetWithTheRamThatIsTouched) {
    ComparePlan plan = vh::plan();
    plan.ram.push_back({2304 * MiB, 2048 * MiB});
    plan.hotSets = {HotSet{}, HotSet{.percent = 25}, HotSet{.percent = 100}};
    const Results found = cellsOf(plan, Guests::None);
    EXPECT_THAT(valuesOf(found, &Configuration::hotSetBytes),
                ElementsAre(16 * MiB, 16 * MiB, 64 * MiB, 512 * MiB, 240 * MiB, 2032 * MiB));
    EXPECT_EQ(found.configurations[3].id, "2304MiB-2GiB-512MiB-4KiB-1cpu-disk+network-memory-1vm-tcg-linux-1");
    EXPECT_THAT(found.configurations[3].title, HasSubstr("512MiB written again and again"));
    // What is checked and what is written are together what is touched.
    EXPECT_THAT(guestOf(found.configurations[3], plan).boot.cmdline, HasSubstr(" probe.ram_mib=1536 "));
    EXPECT_THAT(guestOf(found.configurations[3], plan).boot.cmdline, HasSubstr(" probe.write_mib=512"));
}

TEST(Configurations, haveAWorkingSetOnlyWhereTheGuestWritesMemory) {
    ComparePlan plan = vh::plan();
    plan.hotSets = {HotSet{}, HotSet{.percent = 100}};
    plan.loads = {Load::Idle};
    const Results found = cellsOf(plan, Guests::None);
    EXPECT_THAT(valuesOf(found, &Configuration::hotSetBytes), ElementsAre(std::nullopt));
    EXPECT_THAT(guestOf(found.configurations[0], plan).boot.cmdline, Not(HasSubstr("write_mib")));
}

TEST(Configurations, takeTheBareGuestWhereKvmRunsNoOther) {
    ComparePlan plan = vh::plan();
    plan.accelerators = {Accelerator::Tcg, Accelerator::Kvm};
    const Results plain = cellsOf(plan, Guests::Plain);
    EXPECT_THAT(valuesOf(plain, &Configuration::guest), ElementsAre(Guest::Linux, Guest::Bare));
    EXPECT_THAT(valuesOf(plain, &Configuration::accelerator), ElementsAre(Accelerator::Tcg, Accelerator::Kvm));
    EXPECT_EQ(plain.host.accelerator, "kvm, tcg");
    EXPECT_THAT(plain.configurations[1].title, HasSubstr(", kvm, bare guest"));
    EXPECT_FALSE(plain.configurations[1].devices.network);
    EXPECT_THAT(plain.notes, ElementsAre(HasSubstr("the bare guest has no network")));
    const VmDefinition bare = guestOf(plain.configurations[1], plan);
    EXPECT_EQ(bare.accelerator, Accelerator::Kvm);
    EXPECT_EQ(bare.boot.kernel, "/bare");
    EXPECT_EQ(bare.boot.firmware, "/firmware");
    EXPECT_EQ(bare.boot.initrd, "");
    EXPECT_EQ(bare.cpu.model, "kvm64");
    const Results all = cellsOf(plan, Guests::All);
    EXPECT_THAT(valuesOf(all, &Configuration::guest), ElementsAre(Guest::Linux, Guest::Linux));
    EXPECT_THAT(all.notes, ElementsAre());
}

TEST(Configurations, areThereOnceHoweverThePlanSaysThem) {
    ComparePlan plan = vh::plan();
    plan.guests = {Guest::Auto, Guest::Linux, Guest::Bare};
    plan.devices = {DeviceSet{true, true}, DeviceSet{true, false}};
    const Results found = cellsOf(plan, Guests::Plain);
    EXPECT_THAT(valuesOf(found, &Configuration::guest), ElementsAre(Guest::Linux, Guest::Linux, Guest::Bare));
    EXPECT_EQ(found.host.accelerator, "tcg") << "auto is TCG where KVM runs no Linux";
    EXPECT_EQ(found.notes.size(), 1u);
}

TEST(Configurations, varyOneFactorAtATime) {
    ComparePlan plan = vh::plan();
    plan.combine = Combine::OneAtATime;
    plan.pairs.push_back({"/older", "/new"});
    plan.accelerators = {Accelerator::Tcg, Accelerator::Kvm};
    plan.ram.push_back({2304 * MiB, 2048 * MiB});
    plan.hotSets = {HotSet{}, HotSet{.percent = 100}};
    plan.pages = {Pages{}, Pages{.transparentHuge = true}};
    plan.vcpus = {1, 4};
    const Results found = cellsOf(plan, Guests::All);
    // The usual one and one for each of the others, under both accelerators.
    ASSERT_EQ(found.configurations.size(), 2u * (1 + 5));
    EXPECT_EQ(std::ranges::count(found.configurations, 2304 * MiB, &Configuration::ramBytes), 2);
    EXPECT_EQ(std::ranges::count(found.configurations, 240 * MiB, &Configuration::hotSetBytes), 2);
    EXPECT_EQ(std::ranges::count(found.configurations, true, &Configuration::transparentHuge), 2);
    EXPECT_EQ(std::ranges::count(found.configurations, 4u, &Configuration::vcpus), 2);
    EXPECT_EQ(std::ranges::count(found.configurations, 2u, &Configuration::old), 2);
}

TEST(Configurations, sayWhichGuestIsMissing) {
    ComparePlan plan = vh::plan();
    plan.accelerators = {Accelerator::Kvm};
    plan.bareGuest = {};
    EXPECT_THAT(missingGuest(plan, cellsOf(plan, Guests::Plain).configurations), HasSubstr("bare_guest: {kernel:"));
    EXPECT_EQ(missingGuest(plan, cellsOf(plan, Guests::All).configurations), "");
    plan.guest.initrd = "";
    EXPECT_THAT(missingGuest(plan, cellsOf(plan, Guests::All).configurations), HasSubstr("--initrd"));
    VmDefinition own{.name = "own", .memory = {.sizeBytes = 512 * MiB}};
    EXPECT_EQ(missingGuest(plan, cellsOf(plan, Guests::All, own).configurations), "");
}

TEST(Configurations, doNotCopyIntoPagesOfAnotherKind) {
    ComparePlan plan = vh::plan();
    plan.pages = {Pages{}, Pages{.transparentHuge = true}};
    const Results found = cellsOf(plan, Guests::None);
    EXPECT_THAT(valuesOf(found, &Configuration::transparentHuge), ElementsAre(false, true));
    EXPECT_THAT(found.configurations[1].title, HasSubstr("transparent huge pages"));
    EXPECT_EQ(found.configurations[0].of(Design::Copy)->notRun, "");
    EXPECT_THAT(found.configurations[1].of(Design::Copy)->notRun, HasSubstr("pages of 4KiB"));
    EXPECT_EQ(found.configurations[1].of(Design::Relayed)->notRun, "");
}

TEST(Configurations, haveManyDevicesInTheArgumentList) {
    ComparePlan plan = vh::plan();
    plan.devices = {DeviceSet{true, true, true}};
    plan.guests = {Guest::Linux, Guest::Bare};
    const Results found = cellsOf(plan, Guests::None);
    EXPECT_THAT(found.configurations[0].id, HasSubstr("-many-"));
    EXPECT_THAT(found.configurations[1].id, HasSubstr("-many-disks-"));
    const VmDefinition linux = guestOf(found.configurations[0], plan), bare = guestOf(found.configurations[1], plan);
    EXPECT_EQ(linux.disks.size(), 8u);
    EXPECT_EQ(linux.networks.size(), 8u);
    EXPECT_EQ(bare.disks.size(), 8u);
    EXPECT_EQ(bare.networks.size(), 0u);
    EXPECT_EQ(
        std::ranges::count_if(linux.vmm.arguments, [](const std::string& word) { return word.starts_with("pcie-root-port,"); }),
        8);
    EXPECT_THAT(linux.vmm.arguments, Contains("virtio-rng-pci,bus=port8"));
}

TEST(Configurations, driveNothingByHandThatHasPassedThroughDevices) {
    VmDefinition own{.name = "own", .memory = {.sizeBytes = 512 * MiB}};
    ComparePlan plan = vh::plan();
    plan.designs = {Design::VmmOwned, Design::CprTransfer};
    EXPECT_EQ(cellsOf(plan, Guests::None, own).configurations[0].of(Design::CprTransfer)->notRun, "");
    own.vfio.push_back({.id = "gpu", .address = "0000:01:00.0"});
    const Results found = cellsOf(plan, Guests::None, own);
    EXPECT_THAT(found.configurations[0].of(Design::CprTransfer)->notRun, HasSubstr("for VMs without them"));
    EXPECT_EQ(found.configurations[0].of(Design::VmmOwned)->notRun, "");
}

TEST(Configurations, ofAVmOfTheUsersOwnAreAsItIs) {
    VmDefinition own{.name = "own", .accelerator = Accelerator::Tcg, .memory = {.sizeBytes = 512 * MiB}};
    ComparePlan plan = vh::plan();
    plan.accelerators = {Accelerator::Kvm, Accelerator::Tcg};
    plan.guests = {Guest::Bare, Guest::Linux};
    plan.hotSets = {HotSet{}, HotSet{.percent = 25}};
    const Results found = cellsOf(plan, Guests::All, own);
    ASSERT_EQ(found.configurations.size(), 1u);
    EXPECT_EQ(found.configurations[0].accelerator, Accelerator::Tcg);
    EXPECT_EQ(found.configurations[0].guest, std::nullopt);
    EXPECT_EQ(found.configurations[0].hotSetBytes, std::nullopt);
}

}  // namespace
}  // namespace vh
