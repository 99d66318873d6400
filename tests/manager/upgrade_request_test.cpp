#include "manager/service/upgrade_request.h"

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/is_obstacle.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::ElementsAre;
using testing::Eq;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Optional;

class UpgradeRequest : public testing::Test {
 protected:
    static std::string text(const std::string& binary, const std::string& more = {}) {
        return "name: web1\nmachine: q35\nmemory: {size: 256MiB}\nboot: {kernel: /vm/vmlinuz}\nvmm: {binary: " + binary + "}\n" +
               more;
    }
    std::string file() const { return directory_.file("web1.yaml"); }
    void write(const std::string& definition) const { directory_.write("web1.yaml", definition); }

    /// Started from what is in the file now, with /opt/first; running this.
    VmRecord record(const std::string& running = "/opt/first") const {
        VmRecord record{.definitionFile = file(), .definitionText = text("/opt/first"), .machine = "pc-q35-10.0"};
        record.vmm.binary = running;
        return record;
    }

    const TemporaryDirectory directory_;
};

TEST_F(UpgradeRequest, takesWhatTheFileSaysOfTheVmmAndTheHandoverToday) {
    write(text("/opt/second", "handover: {design: manager-owned, pause_budget: 750ms}\n"));
    const HandoverRequest request = upgradeRequest(record(), {});
    EXPECT_THAT(request.refusal, Eq(std::nullopt));
    EXPECT_EQ(request.binary, "/opt/second");
    EXPECT_EQ(request.design, Design::ManagerOwned);
    EXPECT_EQ(request.definition.handover.pauseBudget, milliseconds(750));
    EXPECT_EQ(request.definition.machine, "pc-q35-10.0") << "and of the machine what runs";
    EXPECT_THAT(request.warnings, IsEmpty());
}

TEST_F(UpgradeRequest, takesTheOptionsBeforeTheFile) {
    write(text("/opt/second", "handover: {design: manager-owned, pause_budget: 750ms}\n"));
    const HandoverRequest request = upgradeRequest(
        record(),
        {.binary = "/opt/third", .design = Design::Copy, .pauseBudget = milliseconds(50), .dryRun = true, .standby = true});
    EXPECT_THAT(request.refusal, Eq(std::nullopt));
    EXPECT_EQ(request.binary, "/opt/third");
    EXPECT_EQ(request.design, Design::Copy);
    EXPECT_EQ(request.definition.handover.pauseBudget, milliseconds(50));
    EXPECT_TRUE(request.dryRun);
    EXPECT_TRUE(request.standby);
}

TEST_F(UpgradeRequest, goesByTheRecordWhenTheFileIsGone) {
    const HandoverRequest request = upgradeRequest(record(), {});
    EXPECT_THAT(request.refusal, Eq(std::nullopt));
    EXPECT_EQ(request.binary, "/opt/first");
}

TEST_F(UpgradeRequest, isRefusedWhenTheFileDescribesAnotherMachine) {
    std::string changed = text("/opt/first");
    changed.replace(changed.find("256MiB"), 6, "512MiB");
    write(changed);
    EXPECT_THAT(
        upgradeRequest(record(), {}).refusal,
        Optional(isObstacle("'" + file() + "' was changed while the VM runs: memory.size was '256MiB' and is now '512MiB'",
                            "put it back, or power-cycle the VM")));
}

TEST_F(UpgradeRequest, isRefusedWhenTheFileHasBecomeInvalid) {
    write(text("/opt/first", "nonsense: 1\n"));
    EXPECT_THAT(
        upgradeRequest(record(), {}).refusal,
        Optional(isObstacle("the definition file has become invalid: " + file() + ":6:1: unknown key 'nonsense'", "correct it")));
}

TEST_F(UpgradeRequest, isWarnedOfWhenItGoesBackToTheVmmOfTheFirstStart) {
    const auto warnings = [](const VmRecord& record, const UpgradeOptions& options = {}) {
        return upgradeRequest(record, options).warnings;
    };
    const auto goesBack = ElementsAre(AllOf(
        HasSubstr("the VM runs '/opt/second' since an earlier upgrade, and without --to this one goes back to '/opt/first'"),
        HasSubstr("name the VMM with --to, or in the definition's vmm.binary")));
    write(text("/opt/first"));
    EXPECT_THAT(warnings(record("/opt/second")), goesBack);
    EXPECT_THAT(warnings(record("/opt/second"), {.dryRun = true}), goesBack);
    EXPECT_THAT(warnings(record("/opt/second"), {.binary = "/opt/first"}), IsEmpty()) << "it was asked for";
    EXPECT_THAT(warnings(record()), IsEmpty()) << "it is there already";
    write(text("/opt/third"));
    EXPECT_THAT(warnings(record("/opt/second")), IsEmpty()) << "somebody has written it down since";
    std::filesystem::remove(file());
    EXPECT_THAT(warnings(record("/opt/second")), goesBack);
}

TEST_F(UpgradeRequest, isNotWarnedOfWhenTheTwoAreOneFile) {
    const std::string program = directory_.write("qemu-11.1", "", 0755), link = directory_.file("qemu");
    std::filesystem::create_symlink(program, link);
    VmRecord linked = record(program);
    linked.definitionText = text(link);
    write(text(link));
    EXPECT_THAT(upgradeRequest(linked, {}).warnings, IsEmpty());
}

}  // namespace
}  // namespace vh
