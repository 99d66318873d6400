// The private libvirt itself: everything that the other tests in here take for granted.
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <string>

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include "manager/compare/own_network.h"
#include "tests/libvirt/libvirt_fixture.h"

namespace vh::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class LibvirtFixture : public testing::TestWithParam<VmmUser> {};
INSTANTIATE_TEST_SUITE_P(As, LibvirtFixture, testing::Values(VmmUser::LibvirtQemu),
                         [](const auto& parameter) { return std::string(name(parameter.param)); });

void expectDomainWorks(const TestDomain& domain, VmmUser user) {
    SCOPED_TRACE("domain '" + domain.name() + "'");
    domain.start();
    EXPECT_EQ(domain.state(), "running");
    domain.expectGuestIsWell();
    domain.expectConsoleAnswers("hello");
    domain.expectOneVmm();
    struct stat process {};
    ASSERT_EQ(::stat(("/proc/" + std::to_string(domain.vmm())).c_str(), &process), 0);
    EXPECT_EQ(process.st_uid, user == VmmUser::Root ? 0U : 64055U);
    const std::string status = readIfThere("/proc/" + std::to_string(domain.vmm()) + "/status");
    EXPECT_NE(status.find("\nSeccomp:\t2"), std::string::npos) << "QEMU's sandbox is off";
    std::error_code ignored;
    const auto namespaceOf = [&](const std::string& pid) {
        return std::filesystem::read_symlink("/proc/" + pid + "/ns/mnt", ignored).string();
    };
    EXPECT_EQ(namespaceOf(std::to_string(domain.vmm())) == namespaceOf("self"), user == VmmUser::Root);
    domain.destroy();
    EXPECT_EQ(domain.vmm(), 0);
    EXPECT_EQ(vmmsWithFileOpen(domain.disk()), std::set<pid_t>{});
}

TEST_P(LibvirtFixture, startsADomainOfEachKind) {
    const LibvirtHost host(GetParam());
    for (const DomainMemory memory : {DomainMemory::Memfd, DomainMemory::File, DomainMemory::TwoCells})
        expectDomainWorks(TestDomain(host, {.name = "memory" + std::to_string(static_cast<int>(memory)), .memory = memory}),
                          GetParam());
    expectDomainWorks(TestDomain(host, {.name = "not-ready", .memory = DomainMemory::Anonymous, .ready = false}), GetParam());
    expectDomainWorks(TestDomain(host, {.name = "graphics", .graphics = true}), GetParam());
    expectDomainWorks(TestDomain(host, {.name = "newer", .emulator = newQemu()}), GetParam());
}

TEST_P(LibvirtFixture, startsADomainWithFirmware) {
    const LibvirtHost host(GetParam());
    expectDomainWorks(TestDomain(host, {.name = "uefi", .uefi = true}), GetParam());
}

TEST_P(LibvirtFixture, startsDomainsOfHostileNames) {
    const LibvirtHost host(GetParam());
    for (const char* hostile : {"two words", "o'clock \"now\" & <then>", "größe-虚拟机;$(reboot)`true`", "-x%s"})
        expectDomainWorks(TestDomain(host, {.name = hostile}), GetParam());
}

TEST_P(LibvirtFixture, hasANetworkThatReachesTheGuest) {
    const LibvirtHost host(GetParam());
    const TestDomain domain(host, {.name = "network", .network = true});
    domain.start();
    domain.expectGuestIsWell();
    Pinger pinger(TestDomain::guestAddress, milliseconds(20), 64);
    pinger.start();
    EXPECT_TRUE(turnUntil([&] { return pinger.answered() > 10; }, patience));
    pinger.stop(seconds(5));
}

TEST_P(LibvirtFixture, keepsDomainsOverARestartOfTheDaemon) {
    LibvirtHost host(GetParam());
    const TestDomain domain(host, {});
    domain.start();
    domain.expectGuestIsWell();
    const pid_t vmm = domain.vmm();
    host.restart();
    EXPECT_EQ(domain.vmm(), vmm);
    EXPECT_EQ(domain.state(), "running");
    host.stop(9);
    EXPECT_EQ(host.daemon(), 0);
    domain.expectGuestIsWell();
    host.start();
    EXPECT_EQ(domain.state(), "running");
    domain.expectOneVmm();
}

TEST(LibvirtFixtureItself, endsAProgramThatDoesNot) {
    Ran ran;
    EXPECT_NONFATAL_FAILURE(ran = runProgram({"/usr/bin/sleep", "1000"}, milliseconds(50)),
                            "has not ended within 50 ms: /usr/bin/sleep 1000");
    EXPECT_EQ(ran.code, -1);
}

}  // namespace
}  // namespace vh::test
