// Guest memory that QEMU would lose without a word (stock_loss_test.cpp), and that no handover of ours does: each fault is put
// into one, and the guest must stay where it is.
//
// With `relayed`, many more faults of no name follow. One VM lives through all of them, in this order, and is well at the end:
// first on the old release, then, after an upgrade, on the new one.

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "tests/support/failure_matrix.h"
#include "tests/support/vm_fixture.h"
#include "tests/system/cpr_faults.h"
#include "vmm-shim/file_identity.h"
#include "vmm-shim/text.h"

namespace vh::test {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Key;
namespace fs = std::filesystem;

std::vector<FileIdentity> filesOf(const CprTraffic& traffic) {
    std::vector<FileIdentity> files;
    for (const UniqueFd& descriptor : traffic.descriptors) files.push_back(FileIdentity::of(descriptor.get()));
    return files;
}

/// Changes something at random; what, in words. What is left as it was is changed again.
std::string mutate(CprTraffic& traffic, std::mt19937& random) {
    const std::string before = traffic.bytes;
    const std::vector<FileIdentity> filesBefore = filesOf(traffic);
    const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
    std::string& bytes = traffic.bytes;
    std::vector<UniqueFd>& descriptors = traffic.descriptors;
    std::string what;
    while (bytes == before && filesOf(traffic) == filesBefore) {
        const std::size_t at = below(bytes.size()), length = 1 + below(std::min<std::size_t>(64, bytes.size() - at)),
                          one = below(descriptors.size()), other = below(descriptors.size());
        const std::string place = std::to_string(at), extent = std::to_string(length) + " bytes at " + place;
        switch (below(9)) {
            case 0:
                bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
                what = "a bit of byte " + place;
                break;
            case 1:
                bytes[at] = static_cast<char>(below(256));
                what = "byte " + place;
                break;
            case 2:
                bytes.insert(at, length, static_cast<char>(below(256)));
                what = "inserted " + extent;
                break;
            case 3:
                bytes.erase(at, length);
                what = "deleted " + extent;
                break;
            case 4:
                bytes.resize(at);
                what = "cut off at " + place;
                break;
            case 5:
                bytes.insert(below(bytes.size()), bytes.substr(at, length));
                what = "repeated elsewhere: " + extent;
                break;
            case 6:
                std::ranges::shuffle(descriptors, random);
                what = "shuffled descriptors";
                break;
            case 7:
                descriptors.erase(descriptors.begin() + static_cast<std::ptrdiff_t>(one));
                what = "without descriptor " + std::to_string(one);
                break;
            default:
                descriptors[one] = UniqueFd(::fcntl(descriptors[other].get(), F_DUPFD_CLOEXEC, 0));
                what = "descriptor " + std::to_string(other) + " also for " + std::to_string(one);
        }
    }
    return what;
}

/// Where the state is changed on its way.
enum class Leg {
    ToRelay,   ///< What virt-handover is told by the old VMM.
    ToNewVmm,  ///< What the new VMM makes of what virt-handover has found good.
};

class RelayedLoss : public testing::Test {
 protected:
    static void SetUpTestSuite() {
        vm = std::make_unique<OwnHost>();
        // All of its memory goes over the CPR channel. A new VMM may wait for ever for what it thinks is still to come.
        const VerbResult started =
            vm->start({.owner = "vmm", .withLinux = true, .handover = "pause_budget: 10s, deadlines: {exchange: 8s}"}, patience);
        ASSERT_EQ(started.code, ExitCode::Done) << started.value;
        filesAtFirst = filesOfBlocks();
        ASSERT_THAT(filesAtFirst, AllOf(Contains(Key("ram0")), Contains(Key("pc.bios"))));
    }
    static void TearDownTestSuite() {
        EXPECT_EQ(vm->destroy().code, ExitCode::Done);
        vm->end();
        vm.reset();
    }

    void SetUp() override {
        pid = vmmPid(vm->host, "vm");
        ASSERT_GT(pid, 0) << "an earlier test lost the VM";
    }

    static std::string generation() { return vm->show()["directory"]; }

    static json upgradeTo(const std::string& binary, const Handover::Observer& observer = nullptr,
                          Design design = Design::Relayed) {
        return vm->upgrade({.binary = binary, .design = design}, observer);
    }

    static json tamperedUpgrade(const Change& change, Leg leg = Leg::ToRelay, Design design = Design::Relayed) {
        int changes = 0;
        const auto counted = [&](CprTraffic& traffic) {
            change(traffic);
            ++changes;
        };
        json report;
        if (leg == Leg::ToRelay) {
            const HandoverTamperer tamperer(generation(), counted);
            report = upgradeTo(newQemu());
        } else {
            const fs::path old = generation();
            const std::string newGeneration = old.parent_path() / std::to_string(std::stoul(old.filename()) + 1);
            std::unique_ptr<CprTamperer> tamperer;
            report = upgradeTo(
                newQemu(),
                [&](const HandoverProgress& progress) {
                    if (progress.state != State::Exchanging) return;
                    const std::string path = cprChannelPath(newGeneration);
                    fs::rename(path, path + ".real");
                    tamperer = std::make_unique<CprTamperer>(path, path + ".real", counted);
                },
                design);
        }
        EXPECT_EQ(changes, 1) << "the state did not come by, so the handover met no fault";
        return report;
    }

    /// Block -> its file, how long that is, and a checksum of those that hold firmware and tables, which nobody writes to once
    /// the guest is up. A VM keeps these for life, whichever VMM runs it.
    static std::map<std::string, std::string> filesOfBlocks() {
        constexpr std::uint64_t longestFirmware = 2 * 1024 * 1024;
        const std::string table = vm->ask("x-query-ramblock").value("human-readable-text", "");
        const pid_t vmm = vmmPid(vm->host, "vm");
        std::map<std::string, std::string> files;
        for (const RamBlock& block : gatherRamBlocks({.table = table, .pid = vmm})) {
            std::string& file = files[block.idstr] = "none";
            if (!block.file) continue;
            file = "inode " + std::to_string(block.file->identity.inode) + ", " + std::to_string(block.file->size) + " bytes";
            if (block.max_length > longestFirmware) continue;
            std::string content(block.file->size, '\0');
            std::ifstream("/proc/" + std::to_string(vmm) + "/fd/" + std::to_string(block.file->fd), std::ios::binary)
                .read(content.data(), static_cast<std::streamsize>(content.size()));
            file += ", checksum " + std::to_string(std::hash<std::string>()(content));
        }
        return files;
    }

    void expectNothingLost(const json& report) {
        test::expectNothingLost(report);
        EXPECT_EQ(vm->ask("query-status").value("status", ""), "running");
        EXPECT_EQ(filesOfBlocks(), filesAtFirst);
    }

    /// The guest was not stopped for a moment and runs where it ran.
    void expectGuestStayed(const json& report) {
        ASSERT_EQ(report.value("outcome", ""), "rolled back") << report.dump(2);
        EXPECT_TRUE(report["vmm"]["stopToResumeMs"].is_null()) << report.dump(2);
        ASSERT_EQ(vmmPid(vm->host, "vm"), pid);
        expectNothingLost(report);
    }

    void expectUpgraded(const json& report) {
        ASSERT_EQ(report.value("outcome", ""), "upgraded") << report.dump(2);
        EXPECT_NE(vmmPid(vm->host, "vm"), pid);
        pid = vmmPid(vm->host, "vm");
        expectNothingLost(report);
        expectGuestIsWell(vm->host, "vm");
    }

    void expectFaultsToBeMet();
    void expectMutationsToBeMet(Leg leg, int count);

    static inline std::unique_ptr<OwnHost> vm;
    static inline std::map<std::string, std::string> filesAtFirst;
    int pid = 0;
};

void RelayedLoss::expectFaultsToBeMet() {
    struct Fault {
        const char* name;
        Change change;
        testing::Matcher<std::string> whenRelayMeetsIt, whenNewVmmMeetsIt;
    };
    const auto missing = HasSubstr("RAM block 'ram0' is not in the CPR state"),
               foreign = HasSubstr("is another file than the one that the old VMM has mapped"),
               otherRam = HasSubstr("the new VMM maps another file"),
               unmapped = HasSubstr("the new VMM has memory of its own for it");
    const auto everything = AllOf(otherRam, HasSubstr("(and 7 more)"));
    const Fault faults[] = {
        {"an entry removed", removedEntry, missing, otherRam},
        {"an entry renamed", renamedEntry, missing, otherRam},
        {"two descriptors swapped", swappedDescriptors, foreign,
         HasSubstr("maps the file of the old VMM's block '/rom@etc/table-loader'")},
        {"another file", anotherFile, foreign, otherRam},
        // The file is the right one; what the new VMM makes of it is not.
        {"a descriptor that is read-only", readOnlyDescriptor, HasSubstr("vga.vram' in the CPR state cannot be written to"),
         unmapped},
        {"a malformed service byte", badServiceByte, HasSubstr("should be 32 and is 88"), everything},
        {"a missing descriptor", missingDescriptor, AllOf(HasSubstr("the CPR state names"), HasSubstr("came with it")),
         everything},
        {"a truncated state", truncated, AllOf(HasSubstr("service byte of"), HasSubstr("0 are left")), everything},
    };
    for (const Fault& fault : faults) {
        SCOPED_TRACE(fault.name);
        const json relayMetIt = tamperedUpgrade(fault.change);
        EXPECT_THAT(relayMetIt.value("cause", ""), fault.whenRelayMeetsIt);
        expectAsInLossMatrix("relayed", fault.name, relayMetIt);
        expectGuestStayed(relayMetIt);
        const json newVmmMetIt = tamperedUpgrade(fault.change, Leg::ToNewVmm);
        EXPECT_THAT(newVmmMetIt.value("cause", ""), fault.whenNewVmmMeetsIt);
        expectAsInLossMatrix("relayed, behind the relay", fault.name, newVmmMetIt);
        expectGuestStayed(newVmmMetIt);
        if (HasFatalFailure()) return;
    }
    const json goesOnReport = tamperedUpgrade(goesOn);
    EXPECT_THAT(goesOnReport.value("cause", ""), AnyOf(HasSubstr("byte after the descriptor entries should be 5 and is 97"),
                                                       HasSubstr("8 bytes after the end of the CPR state")));
    expectAsInLossMatrix("relayed", "bytes after the end", goesOnReport);
    expectGuestStayed(goesOnReport);
    const json unshared = upgradeTo(vm->workspace.impostor(withoutAuxRamShare()));
    EXPECT_THAT(unshared.value("cause", ""), HasSubstr("aux-ram-share=on, or share=on of its backend, is missing"));
    expectAsInLossMatrix("relayed", "`aux-ram-share` missing", unshared);
    expectGuestStayed(unshared);
    expectGuestIsWell(vm->host, "vm");
}

void RelayedLoss::expectMutationsToBeMet(Leg leg, int count) {
    const auto seed = static_cast<std::mt19937::result_type>(numberFrom("VH_TEST_SEED", 20'250'801));
    std::mt19937 random(seed);
    int upgrades = 0;
    for (int i = 1; i <= count; ++i) {
        std::string mutation;
        const json report = tamperedUpgrade([&](CprTraffic& traffic) { mutation = mutate(traffic, random); }, leg);
        const std::string cause = report.value("cause", "");
        SCOPED_TRACE("mutation " + std::to_string(i) + ": " + mutation + "; " + cause);
        if (leg == Leg::ToNewVmm && report.value("outcome", "") == "upgraded") {
            // The new VMM understood what it was told, as the files of its blocks prove.
            ++upgrades;
            std::cout << "without effect: " << mutation << std::endl;
            expectUpgraded(report);
        } else {
            // QEMU may wait for ever for what it thinks is still to come, which is what the deadline is for; the relay may not.
            EXPECT_THAT(cause, leg == Leg::ToRelay ? testing::Matcher<std::string>(HasSubstr("CPR state"))
                                                   : AnyOf(HasSubstr("new VMM"), HasSubstr("exchanging took longer")));
            expectGuestStayed(report);
        }
        if (i % 50 == 0) expectGuestIsWell(vm->host, "vm");
        if (HasFailure()) break;
    }
    std::cout << count << " mutations with VH_TEST_SEED=" << seed << ": " << upgrades << " without effect, the rest rolled back"
              << std::endl;
}

TEST_F(RelayedLoss, isMetAndNamed) {
    expectFaultsToBeMet();
}

// Nobody of ours stands in the channel of vmm-owned: what QEMU made of the fault is found by comparing both VMMs' blocks.
TEST_F(RelayedLoss, isMetInVmmOwnedToo) {
    for (const auto& [name, change] : std::map<std::string, Change>{{"an entry removed", removedEntry},
                                                                    {"an entry renamed", renamedEntry},
                                                                    {"two descriptors swapped", swappedDescriptors},
                                                                    {"another file", anotherFile},
                                                                    {"a descriptor that is read-only", readOnlyDescriptor},
                                                                    {"a malformed service byte", badServiceByte},
                                                                    {"a missing descriptor", missingDescriptor},
                                                                    {"a truncated state", truncated}}) {
        SCOPED_TRACE(name);
        const json report = tamperedUpgrade(change, Leg::ToNewVmm, Design::VmmOwned);
        // A new VMM that gives up what it is told may be gone when the old one would go on, or just then.
        const bool givesUp = name == "a malformed service byte" || name == "a missing descriptor" || name == "a truncated state";
        expectAsInLossMatrix("vmm-owned", name, report, givesUp ? "the old QEMU, or comparison: file" : "");
        expectGuestStayed(report);
        if (HasFatalFailure()) return;
    }
    const json unshared = upgradeTo(vm->workspace.impostor(withoutAuxRamShare()), nullptr, Design::VmmOwned);
    expectAsInLossMatrix("vmm-owned", "`aux-ram-share` missing", unshared);
    expectGuestStayed(unshared);
    const json larger = upgradeTo(vm->workspace.impostor(withLargerVideoMemory()), nullptr, Design::VmmOwned);
    expectAsInLossMatrix("vmm-owned", "larger video memory", larger);
    expectGuestStayed(larger);
    expectGuestIsWell(vm->host, "vm");
}

TEST_F(RelayedLoss, isUndoneWhereTheNewVmmGrewTheOldOnesMemory) {
    const json report = upgradeTo(vm->workspace.impostor(withLargerVideoMemory()));
    EXPECT_THAT(report.value("cause", ""), HasSubstr("vga.vram"));
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("it was cut back to what the old VMM has"));
    expectAsInLossMatrix("relayed", "larger video memory", report);
    expectGuestStayed(report);
    expectGuestIsWell(vm->host, "vm");
}

TEST_F(RelayedLoss, doesNotComeOfMutatedStates) {
    expectMutationsToBeMet(Leg::ToRelay, 75);
}

TEST_F(RelayedLoss, isNotSuspectedInEntriesOfAnotherOrder) {
    expectUpgraded(tamperedUpgrade(inState([](CprState& state, std::vector<UniqueFd>& descriptors) {
        std::ranges::reverse(state.fds);
        std::ranges::reverse(descriptors);
    })));
}

TEST_F(RelayedLoss, isMetAndNamedFromTheNewRelease) {
    expectFaultsToBeMet();
}

TEST_F(RelayedLoss, doesNotComeOfMutatedStatesOfTheNewRelease) {
    expectMutationsToBeMet(Leg::ToRelay, 75);
}

TEST_F(RelayedLoss, doesNotComeOfAStateThatTheNewVmmMisunderstands) {
    expectMutationsToBeMet(Leg::ToNewVmm, 150);
}

TEST_F(RelayedLoss, leavesAGuestThatIsUpgradedAsEver) {
    expectUpgraded(upgradeTo(newQemu()));
}

// manager-owned tells the new VMM one file and its length, by its arguments; nothing else of RAM is told at all.
class ManagerOwnedLoss : public HostFixture {
 protected:
    /// An upgrade to a QEMU that was told something else than the manager said.
    void expectMet(const std::string& fault, const std::string& script) {
        SCOPED_TRACE(fault);
        const int pid = vmmPid(host, "vm");
        const json report = upgrade({.binary = workspace.impostor(script), .design = Design::ManagerOwned});
        expectAsInLossMatrix("manager-owned", fault, report);
        EXPECT_EQ(report.value("outcome", ""), "rolled back") << report.dump(2);
        EXPECT_EQ(vmmPid(host, "vm"), pid);
        std::cout << fault << ": " << report.value("cause", "") << std::endl;
        expectGuestIsWell(host, "vm");
    }

    /// Changes each argument by a command of sed, and starts the new QEMU with that.
    static std::string changed(const std::string& command) {
        return "for argument; do shift; set -- \"$@\" \"$(printf %s \"$argument\" | sed '" + command + "')\"; done\nexec " +
               newQemu() + " \"$@\"";
    }
};

TEST_F(ManagerOwnedLoss, isMetAndNamed) {
    ASSERT_EQ(start({}, patience).code, ExitCode::Done);
    const std::string other = workspace.file("somebody-elses", "");
    std::filesystem::resize_file(other, 192 * 1024 * 1024);
    ASSERT_EQ(::chmod(other.c_str(), 0666), 0);
    expectMet("another file", changed("s#mem-path=[^,]*#mem-path=" + other + "#"));
    expectMet("a private mapping", changed("/mem-path/s/share=on/share=off/"));
    expectMet("a file of another size", changed("/mem-path/s/size=201326592/size=134217728/"));
    expectMet("larger video memory", withLargerVideoMemory());
}

}  // namespace
}  // namespace vh::test