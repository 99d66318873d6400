// What a whole upgrade answers that is refused before there is anything to hand over: cause and remedy apart, without a VM.
#include <unistd.h>

#include <fstream>
#include <functional>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/service/host.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using testing::HasSubstr;

class RefusedUpgrade : public MainLoopTest {
 protected:
    void write(const std::function<void(VmRecord&)>& change = [](VmRecord&) {}) const {
        VmRecord record{.definitionFile = directory_.file("web1.yaml"),
                        .definitionText = "name: web1\nmachine: q35\nmemory: {size: 256MiB}\nboot: {kernel: /vm/vmlinuz}\n",
                        .uuid = "6f1c7a52-0b7e-4c39-9c61-0d5f6d0e8a11",
                        .machine = "pc-q35-10.0"};
        record.vmm = {.generation = 1, .binary = "/usr/bin/qemu-system-x86_64", .version = "10.0.13"};  // No such process.
        change(record);
        vm_.makeGeneration(1, ::geteuid(), ::getegid());
        vm_.write(record);
    }

    void expectRefused(
        const std::string& cause, const std::string& remedy, const std::function<void(Host&)>& before = [](Host&) {}) const {
        Host host(directory_.path(), "/nonexistent");
        before(host);
        std::optional<HandoverReport> logged;
        host.onEnded([&logged](const HandoverReport& report) { logged = report; });
        std::optional<VerbResult> result;
        host.upgrade("web1", {}, nullptr, [&result](const VerbResult& answer) { result = answer; });
        ASSERT_TRUE(loopUntil([&] { return result.has_value(); }));
        EXPECT_EQ(result->code, ExitCode::Refused);
        ASSERT_TRUE(result->report.has_value());
        EXPECT_THAT(result->report->cause, HasSubstr(cause));
        EXPECT_THAT(result->report->remedy, HasSubstr(remedy));
        ASSERT_TRUE(logged.has_value());
        EXPECT_EQ(logged->remedy, result->report->remedy);
    }

    const TemporaryDirectory directory_;
    const VmDirectory vm_{directory_.path(), "web1"};
};

TEST_F(RefusedUpgrade, ofAVmThatDoesNotRun) {
    write();
    expectRefused("the VM is not running", "start it with the new VMM");
}

TEST_F(RefusedUpgrade, ofAVmWhoseFileHasBecomeInvalid) {
    write();
    directory_.write("web1.yaml", "name: [\n");
    expectRefused("the definition file has become invalid: ", "correct it");
}

TEST_F(RefusedUpgrade, ofAVmWhoseRecordIsDamaged) {
    write();
    std::ofstream(vm_.path() + "/record.json") << "{";
    expectRefused("cannot be used: it is damaged, or cut off, at byte", "put the right record back");
}

TEST_F(RefusedUpgrade, ofAVmOfAnotherManager) {
    write([](VmRecord& record) { record.adopted = AdoptedVm{.title = "web of libvirt"}; });
    expectRefused("vm 'web1' is 'web of libvirt' of another manager", "'virt-handover libvirt'");
}

TEST_F(RefusedUpgrade, isNotAnsweredByAHostThatHasGone) {
    write();
    bool answered = false;
    {
        Host host(directory_.path(), "/nonexistent");
        host.upgrade("web1", {}, nullptr, [&answered](const VerbResult&) { answered = true; });
        host.destroy("web2", [&answered](const VerbResult&) { answered = true; });
        EXPECT_FALSE(answered) << "both answer from the main loop";
    }
    loopWhileBusy();
    EXPECT_FALSE(answered);
    EXPECT_TRUE(vm_.tryLock()) << "its work has gone with it";
}

TEST_F(RefusedUpgrade, ofAVmThatSomebodyIsAtWorkOn) {
    write();
    const UniqueFd lock = vm_.tryLock();
    expectRefused("another command is at work on vm 'web1'; nothing was touched", "try again when it has ended");
}

TEST_F(RefusedUpgrade, ofAVmWhoseUpgradeStandsBy) {
    write([](VmRecord& record) { record.standingBy = true; });
    const UniqueFd lock = vm_.tryLock();
    expectRefused("vm 'web1' has an upgrade that stands by; nothing was touched", "'virt-handover commit web1' switches");
}

TEST_F(RefusedUpgrade, byAManagerThatIsAskedToEnd) {
    write();
    expectRefused("is asked to end", "start it again", [](Host& host) {
        host.beginNothingNew({"the manager is asked to end", "start it again"});
    });
}

TEST_F(RefusedUpgrade, isARefusedStartJustAsWell) {
    Host host(directory_.path(), "/nonexistent");
    host.beginNothingNew({"the manager is asked to end", "start it again"});
    write();
    directory_.write("web1.yaml", vm_.read()->definitionText);
    std::optional<VerbResult> result;
    host.start(directory_.file("web1.yaml"), std::nullopt, [&result](const VerbResult& answer) { result = answer; });
    ASSERT_TRUE(loopUntil([&] { return result.has_value(); }));
    EXPECT_EQ(result->code, ExitCode::Refused);
    EXPECT_EQ(result->obstacle().what, "the manager is asked to end");
    EXPECT_TRUE(vm_.read()) << "what was there of the VM is gone";
}

}  // namespace
}  // namespace vh
