// An old VMM that means harm: what root does for it, it does not do to anybody else.

#include <unistd.h>

#include <filesystem>

#include <gmock/gmock.h>

#include "tests/support/vm_fixture.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;

class HostileTest : public testing::Test {
 protected:
    HostileTest() {
        const std::string definition =
            workspace.file("vm.yaml",
                           "name: vm\nmachine: pc-q35-10.0\naccelerator: tcg\nmemory: {size: 64MiB}\nboot: {kernel: /dev/null}\n"
                           "heartbeat: true\nvmm: {binary: " +
                               vmm("") + "}\n");
        const VerbResult started = wait([&](Verbs::Done done) { host.start(definition, std::nullopt, std::move(done)); });
        EXPECT_EQ(started.code, ExitCode::Done) << started.value;
    }
    void TearDown() override {
        wait([&](Verbs::Done done) { host.destroy("vm", std::move(done)); });
        workspace.expectNothingLeft();
    }

    std::string vmm(const std::string& more) const {
        return workspace.script("vmm" + std::to_string(std::hash<std::string>{}(more)), "exec " + shim + " \"$@\" " + more);
    }

    /// Has the VMM do what no QEMU does.
    void tell(const std::string& command, const json& arguments) {
        const json shown = wait([&](Verbs::Done done) { host.show("vm", std::move(done)); }).value;
        QmpClient monitor(connectUnix(shown["directory"].get<std::string>() + "/qmp.sock"));
        bool answered = false;
        monitor.execute(command, arguments, milliseconds(10'000), [&](const QmpReply& reply) {
            EXPECT_TRUE(reply.ok()) << reply.error->description;
            answered = true;
        });
        ASSERT_TRUE(turnUntil([&] { return answered; }, milliseconds(10'000)));
    }

    json upgrade(const std::string& binary) {
        return wait([&](Verbs::Done done) { host.upgrade("vm", {.binary = binary}, nullptr, std::move(done)); }).value;
    }

    Workspace workspace;
    Host host{workspace.runtime(), "/nonexistent"};
    const std::string shim = required("VH_SHIM");
};

TEST_F(HostileTest, cannotHaveAFileCutThatItMayOnlyRead) {
    const std::string image = workspace.file("image-of-another.raw", std::string(100'000, 'x'));
    tell("x-ref-claim", {{"name", "claimed"}, {"path", image}});
    const json report = upgrade(vmm(""));
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report.value("cause", ""), HasSubstr("claimed"));
    EXPECT_EQ(std::filesystem::file_size(image), 100'000U) << report.dump(2);
}

TEST_F(HostileTest, hasItsOwnMemoryCutBackThatTheNewVmmHasGrown) {
    const json report = upgrade(vmm("--vram-mib 8"));
    EXPECT_EQ(report["outcome"], "rolled back") << report.dump(2);
    EXPECT_THAT(report["warnings"].dump(), HasSubstr("ref.vram'; it was cut back to what the old VMM has"));
    EXPECT_EQ(upgrade(vmm("")).value("outcome", ""), "upgraded");
}

TEST_F(HostileTest, hasItsMemoryCutBackByTheNextManagerToo) {
    crashManager(workspace, "vm", "vm", vmm("--vram-mib 8"), "verifying", "0");
    const std::string files = "/proc/" + std::to_string(vmmPid(host, "vm")) + "/fd/";
    const auto vramBytes = [&] {
        for (const auto& entry : std::filesystem::directory_iterator(files))
            if (std::filesystem::read_symlink(entry.path()).string().find("ref.vram") != std::string::npos)
                return std::filesystem::file_size(entry.path());
        return std::uintmax_t{0};
    };
    ASSERT_EQ(vramBytes(), 8U << 20) << "the new VMM is to have grown it";
    const json report = upgrade("/nonexistent");  // Settles first what was interrupted.
    EXPECT_EQ(report["outcome"], "refused") << report.dump(2);
    EXPECT_EQ(vramBytes(), 4U << 20);
}

}  // namespace
}  // namespace vh::test
