#include "manager/record/adopted_vm.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/process/child_process.h"
#include "manager/process/held_by_process.h"
#include "manager/process/process_traits.h"
#include "manager/resources/tap_guard.h"
#include "tests/support/main_loop.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

AdoptedVm exampleVm() {
    return {.title = "web 1",
            .monitor = "/var/lib/libvirt/qemu/domain-1-web 1/monitor.sock",
            .memoryBytes = 1 << 30,
            .arguments = {"-name", "guest=web 1"},
            .models = {"virtio-net-pci"},
            .descriptors = {{31, 31, false, {}}, {32, 34, true, {12, TUN_F_CSUM}}},
            .afterwards = {{"display-update", {{"type", "vnc"}}}},
            .pidFile = "/run/libvirt/qemu/web 1.pid.new",
            .logFile = "/var/log/libvirt/qemu/web 1.log",
            .socketDirectory = "/var/lib/libvirt/qemu/domain-1-web 1"};
}

TEST(AdoptedVmTest, isTheSameAfterItWasWrittenDown) {
    EXPECT_EQ(adoptedVmFromJson(toJson(exampleVm())), exampleVm());
}

class AdoptionTest : public testing::Test {
 protected:
    std::string write(const std::string& text) const {
        const std::string file = directory_.path() + "/adoption.json";
        std::ofstream(file) << text;
        return file;
    }
    static json example() {
        json value = toJson(exampleVm());
        value.update(
            {{"vm", "libvirt-1"}, {"uuid", "u"}, {"machine", "pc-q35-10.0"}, {"pid", 4711}, {"startTime", 1}, {"binary", "/q"}});
        return value;
    }
    std::string errorOf(const std::string& text) const {
        try {
            readAdoptOrder(write(text));
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return "(read)";
    }
    TemporaryDirectory directory_;
};

TEST_F(AdoptionTest, isReadFromAFile) {
    const AdoptOrder adoption = readAdoptOrder(write(example().dump()));
    EXPECT_EQ(adoption.vm, "libvirt-1");
    EXPECT_EQ(adoption.pid, 4711);
    EXPECT_EQ(adoption, exampleVm());
}

TEST_F(AdoptionTest, isRefusedWithTheFileAndWhatIsWrong) {
    EXPECT_THAT(errorOf("{"), AllOf(HasSubstr("adoption.json"), HasSubstr("parse error")));
    const json whole = example();
    for (const auto& [key, ignored] : whole.items()) {
        if (key == "afterwards") continue;  // Most have none.
        json value = example();
        value.erase(key);
        EXPECT_THAT(errorOf(value.dump()), HasSubstr("'" + key + "'"));
    }
    for (const char* name : {"", "..", "a/b", ".hidden"}) {
        json value = example();
        value["vm"] = name;
        EXPECT_THAT(errorOf(value.dump()), HasSubstr("cannot be the name of a directory"));
    }
    EXPECT_THROW(readAdoptOrder(directory_.path() + "/nothing"), std::runtime_error);
}

/// For what no event tells.
bool comesTrue(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!condition() && std::chrono::steady_clock::now() < deadline) {
        loopWhileBusy();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return condition();
}

class LikenessTest : public MainLoopTest {};

TEST_F(LikenessTest, aPidFileNamesTheProcessThatHoldsItAndNobodyWhenThatIsGone) {
    const TemporaryDirectory directory;
    const std::string file = directory.path() + "/pid";
    EXPECT_FALSE(lockHolder(file));
    std::ofstream(file) << "1\n";
    EXPECT_FALSE(lockHolder(file)) << "what is in it does not count";
    ChildProcess child = ChildProcess::launch({.argv = {"/bin/sleep", "60"}, .pidFile = file});
    ASSERT_TRUE(comesTrue([&] { return lockHolder(file) == child.pid(); }));
    std::string text;
    std::getline(std::ifstream(file), text);
    EXPECT_EQ(text, std::to_string(child.pid()));
    child.killAll();
    EXPECT_TRUE(comesTrue([&] { return !lockHolder(file); }));
}

/// What /proc/PID/status and the like say of a process.
std::string traitsText(pid_t pid) {
    const std::string directory = "/proc/" + std::to_string(pid);
    std::string text;
    std::ifstream status(directory + "/status");
    for (std::string line; std::getline(status, line);)
        for (const char* field : {"Umask:", "Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Cpus_allowed:"})
            if (line.starts_with(field)) text += line + "\n";
    for (const char* file : {"/limits", "/environ", "/cgroup"}) {
        std::ifstream input(directory + file);
        text.append(std::istreambuf_iterator<char>(input), {});
    }
    char place[4096];
    const ssize_t length = ::readlink((directory + "/cwd").c_str(), place, sizeof(place));
    text.append(place, static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
    const ssize_t mounts = ::readlink((directory + "/ns/mnt").c_str(), place, sizeof(place));
    return text.append(place, static_cast<std::size_t>(std::max<ssize_t>(mounts, 0)));
}

TEST_F(LikenessTest, aProcessIsMadeLikeAnotherOneInAllThatTheKernelTells) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
    // As little like us as a shell and util-linux can make it.
    ChildProcess model = ChildProcess::launch(
        {.argv = {"/usr/bin/unshare", "--mount", "/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--groups=65534,7",
                  "--bounding-set=-sys_admin,-net_admin", "--no-new-privs", "/bin/sh", "-c",
                  "umask 027; ulimit -Sn 100; ulimit -c 0; cd /usr; export ODD='a b'; "
                  "exec taskset 1 sleep 60"}});
    ASSERT_TRUE(comesTrue([&] {
        std::string name;
        std::getline(std::ifstream("/proc/" + std::to_string(model.pid()) + "/comm"), name);
        return name == "sleep";
    }));
    const ProcessTraits traits = ProcessTraits::of(model.pid());
    EXPECT_EQ(traits.uid(), 65534U);
    ChildProcess twin = ChildProcess::launch({.argv = {"/bin/sleep", "60"}, .traits = &traits});
    EXPECT_TRUE(comesTrue([&] { return traitsText(twin.pid()) == traitsText(model.pid()); }))
        << traitsText(twin.pid()) << "\nis not\n"
        << traitsText(model.pid());
    model.killAll();
    twin.killAll();
    EXPECT_TRUE(comesTrue([&] { return !model.alive() && !twin.alive(); }));
}

TEST(ProcessTraitsTest, ofNoProcessIsAnError) {
    EXPECT_THROW(ProcessTraits::of(0x3fffffff), std::system_error);
}

/// In a network namespace of its own. Returns the step that failed, 0 for none.
[[noreturn]] void useATap() {
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(1);
    const UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request{};
    std::strcpy(request.ifr_name, "vhtest");
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) ::_exit(2);
    const TapSettings plain{10, 0}, wanted{12, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN};
    if (tapSettingsOf(tap.get()) != plain) ::_exit(3);
    setTap(tap.get(), wanted);
    if (tapSettingsOf(tap.get()) != wanted) ::_exit(4);
    setTap(tap.get(), plain);
    ::_exit(tapSettingsOf(tap.get()) == plain ? 0 : 5);
}

TEST(TapSettingsTest, areReadAndGivenBack) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a tap";
    EXPECT_EXIT(useATap(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace vh
