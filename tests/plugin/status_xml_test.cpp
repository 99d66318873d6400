#include "plugin/domain/status_xml.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <system_error>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/plugin/plugin_golden.h"
#include "tests/support/temporary_directory.h"

namespace vh {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string changed(std::string text, const std::string& what, const std::string& with) {
    const std::size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

std::string refusal(const std::function<void()>& function) {
    try {
        function();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "none";
}

TEST(ReadStatus, readsWhatLibvirtWrote) {
    const DomainStatus status = readStatus(golden("as-started/status.xml"));
    EXPECT_EQ(status.name, "plain");
    EXPECT_EQ(status.uuid.size(), 36u);
    EXPECT_EQ(status.state, "running");
    EXPECT_EQ(status.pid, 151);
    EXPECT_EQ(status.monitorPath, "/var/lib/libvirt/qemu/domain-1-plain/monitor.sock");
    EXPECT_EQ(status.emulator, "/var/cache/virt-handover/bin/qemu-10.0");
    EXPECT_FALSE(status.hasBlockJob);
    EXPECT_FALSE(status.hasJob);
}

TEST(ReadStatus, readsHostileNames) {
    EXPECT_EQ(readStatus(golden("hostile-names-numa/status.xml")).name, "it's, a \"name\" & <b>");
}

TEST(ReadStatus, seesJobs) {
    const std::string xml = golden("as-started/status.xml");
    EXPECT_TRUE(readStatus(changed(xml, "<blockjobs active='no'/>", "<blockjobs active='yes'/>")).hasBlockJob);
    EXPECT_TRUE(readStatus(changed(xml, "<backingStore/>", "<backingStore/><mirror type='file'/>")).hasBlockJob);
    EXPECT_TRUE(readStatus(changed(xml, "<blockjobs", "<job type='none' async='migration out'/><blockjobs")).hasJob);
    EXPECT_TRUE(readStatus(changed(xml, "<blockjobs", "<backups><domainbackup mode='push'/></backups><blockjobs")).hasJob);
}

TEST(ReadStatus, namesWhatIsMissing) {
    const std::string xml = golden("as-started/status.xml");
    const auto without = [&](const std::string& what, const std::string& with) {
        return refusal([&] { readStatus(changed(xml, what, with)); });
    };
    EXPECT_EQ(without(" pid='151'", ""), "status XML: pid is '', expected a number");
    EXPECT_THAT(without(" pid='151'", " pid='0'"), HasSubstr("does not run"));
    EXPECT_EQ(without("<monitor ", "<mouse "), "status XML without <monitor>");
    EXPECT_THAT(without("type='unix'/>", "type='pty'/>"), HasSubstr("expected 'unix'"));
    EXPECT_EQ(without("<name>plain</name>", ""), "status XML without a <name>");
    EXPECT_EQ(refusal([&] { readStatus("<domain/>"); }), "XML of a <domain>, expected a <domstatus>");
}

TEST(DefinitionIn, doesNotSeeWhatTheGuestChanges) {
    const std::string xml = changed(golden("as-started/status.xml"), "<clock offset='utc'/>",
                                    "<clock offset='variable' adjustment='0' basis='utc'/>");
    const auto seen = [&](const std::string& what, const std::string& with) {
        return definitionIn(changed(xml, what, with)) != definitionIn(xml);
    };
    EXPECT_FALSE(seen("state='disconnected'", "state='connected'")) << "it has opened a channel's port";
    EXPECT_FALSE(seen("<clock offset='variable' adjustment='0'", "<clock offset='variable' adjustment='-3600'"))
        << "has set its clock";
    EXPECT_FALSE(seen("<currentMemory unit='KiB'>131072", "<currentMemory unit='KiB'>65536")) << "has filled its balloon";
    EXPECT_FALSE(seen("<domstatus state='running' reason='booted'", "<domstatus state='paused' reason='user'"));
    EXPECT_TRUE(seen("<clock offset='variable'", "<clock offset='timezone'"));
    EXPECT_TRUE(seen("<currentMemory unit='KiB'>131072</currentMemory>", "<maxMemory slots='2' unit='KiB'>262144</maxMemory>"));
    EXPECT_TRUE(seen("<target type='virtio' name='org.virt-handover.heartbeat.0'", "<target type='virtio' name='other'"));
    EXPECT_TRUE(seen("<emulator>", "<disk type='file' device='cdrom'/><emulator>")) << "plugged in";
}

TEST(RewriteStatus, changesWhatAHandoverChangesAndNothingElse) {
    const std::string before = golden("unplugged-and-restarted/status.xml");
    const std::string after = rewriteStatus(before, {4711, {5001, 5002}, "/opt/new & better", {"kvm", "blockdev", "new"}});
    std::string expected = changed(before, "pid='151'", "pid='4711'");
    expected = changed(expected, "<vcpu id='0' pid='160'/>", "<vcpu id='0' pid='5001'/>");
    expected = changed(expected, "<vcpu id='1' pid='161'/>", "<vcpu id='1' pid='5002'/>");
    expected = changed(expected, "<emulator>/var/cache/virt-handover/bin/qemu-10.0</emulator>",
                       "<emulator>/opt/new &amp; better</emulator>");
    const std::size_t begin = expected.find("  <qemuCaps>");
    const std::size_t end = expected.find("  </qemuCaps>");
    expected.replace(begin, end - begin,
                     "  <qemuCaps>\n    <flag name='kvm'/>\n    <flag name='blockdev'/>\n    <flag name='new'/>\n");
    EXPECT_EQ(after, expected);
    EXPECT_EQ(readStatus(after).pid, 4711);
}

TEST(RewriteStatus, namesTheTerminalsOfTheNewQemu) {
    const std::string before = golden("as-started/status.xml");
    const std::string after =
        rewriteStatus(before, {1, {2, 3}, "/q", {"kvm"}, {{"charserial0", "/dev/pts/77"}, {"other", "/x"}}});
    EXPECT_THAT(after, HasSubstr("<console type='pty' tty='/dev/pts/77'>"));
    EXPECT_EQ(after.find("/dev/pts/0'"), std::string::npos);
    EXPECT_EQ(after.find("/x'"), std::string::npos);
}

TEST(RewriteStatus, keepsHostileNames) {
    const std::string before = golden("hostile-names-numa/status.xml");
    const std::string after = rewriteStatus(before, {4711, {5001, 5002}, "/q", {"kvm"}});
    EXPECT_EQ(readStatus(after).name, readStatus(before).name);
    EXPECT_EQ(readStatus(after).monitorPath, readStatus(before).monitorPath);
}

TEST(RewriteStatus, refusesThreadsThatDoNotFit) {
    const std::string xml = golden("as-started/status.xml");
    EXPECT_THAT(refusal([&] { rewriteStatus(xml, {1, {2}, "/q", {"kvm"}}); }), HasSubstr("no vCPU 1"));
    EXPECT_THAT(refusal([&] { rewriteStatus(xml, {1, {2, 3, 4}, "/q", {"kvm"}}); }), HasSubstr("has 3 vCPUs, the domain 2"));
    EXPECT_THAT(refusal([&] {
                    rewriteStatus(xml, {1, {2, 3}, "/q", {}});
                }),
                HasSubstr("without a pid, an emulator or capability flags"));
}

class CapabilityCache : public testing::Test {
 protected:
    CapabilityCache() {
        std::ofstream(emulator_) << "#!/bin/sh\n";
        struct stat binary = {};
        stat(emulator_.c_str(), &binary);
        xml_ = changed(golden("capabilities.xml"), "/var/cache/virt-handover/bin/qemu-10.0", emulator_);
        const std::size_t begin = xml_.find("<qemuctime>") + 11;
        xml_.replace(begin, xml_.find('<', begin) - begin, std::to_string(binary.st_ctime));
        std::filesystem::create_directory(cache_);
    }
    void keep(const std::string& name, const std::string& xml) { std::ofstream(cache_ + "/" + name) << xml; }

    TemporaryDirectory directory_;
    std::string emulator_ = directory_.path() + "/qemu";
    std::string cache_ = directory_.path() + "/capabilities";
    std::string xml_;
};

TEST_F(CapabilityCache, hasTheFlagsOfAnEmulator) {
    keep("a.xml", changed(xml_, emulator_, "/usr/bin/other"));
    keep("b.xml", xml_);
    const std::vector<std::string> flags = capabilityFlags(cache_, emulator_);
    EXPECT_EQ(flags.size(), 190u);
    EXPECT_THAT(flags, testing::Contains("virtio-rng"));
}

TEST_F(CapabilityCache, isNotBelievedAboutAnOlderFile) {
    keep("b.xml", changed(xml_, "<qemuctime>", "<qemuctime>1"));
    EXPECT_THAT(refusal([&] { capabilityFlags(cache_, emulator_); }), HasSubstr("are of an older file"));
}

TEST_F(CapabilityCache, saysHowToBeFilled) {
    EXPECT_EQ(refusal([&] { capabilityFlags(cache_, emulator_); }),
              "libvirt has no capabilities of '" + emulator_ + "' yet; ask libvirt for it: virsh domcapabilities --emulatorbin " +
                  emulator_);
    EXPECT_THAT(refusal([&] { capabilityFlags(cache_ + "x", emulator_); }), HasSubstr("No such file"));
    EXPECT_THAT(refusal([&] { capabilityFlags(cache_, emulator_ + "x"); }), HasSubstr("No such file"));
}

TEST(StatusXml, survivesDamagedText) {
    std::mt19937 random(4711);
    for (const char* name : {"as-started", "unplugged-and-restarted", "hostile-names-numa"}) {
        const std::string text = golden(std::string(name) + "/status.xml");
        for (int round = 0; round < 300; ++round) {
            const std::string damaged = damage(text, random);
            mayThrow([&] { readStatus(damaged); });
            mayThrow([&] { readStatus(rewriteStatus(damaged, {4711, {5001, 5002}, "/q", {"kvm"}})); });
        }
    }
}

}  // namespace
}  // namespace vh
