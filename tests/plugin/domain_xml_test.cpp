#include "plugin/domain/domain_xml.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/parse.h"
#include "tests/plugin/plugin_golden.h"

namespace vh {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string replaced(std::string text, const std::string& what, const std::string& with) {
    const std::size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << "'" << what << "' is not in the text";
    return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

std::string domain(const std::string& inside, const std::string& devices = "") {
    return "<domain type='kvm'>\n  <name>web1</name>\n  <memory unit='KiB'>524288</memory>\n" + inside + "  <devices>\n" +
           devices + "  </devices>\n</domain>\n";
}

std::string readyDomain(const std::string& devices) {
    return makeReady(domain("", devices));
}

std::vector<std::string> whats(const std::string& xml) {
    std::vector<std::string> texts;
    for (const Obstacle& obstacle : obstacles(xml)) texts.push_back(obstacle.what);
    return texts;
}

// -----------------------------------------------------------------------------------------------------------------------
// makeReady

TEST(MakeReady, addsSharedMemoryAndSharedFirmwareAndNothingElse) {
    EXPECT_EQ(makeReady(domain("  <vcpu>1</vcpu>\n")),
              "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n"
              "  <name>web1</name>\n"
              "  <memory unit='KiB'>524288</memory>\n"
              "  <memoryBacking>\n"
              "    <source type='memfd'/>\n"
              "    <access mode='shared'/>\n"
              "  </memoryBacking>\n"
              "  <vcpu>1</vcpu>\n"
              "  <devices>\n"
              "  </devices>\n"
              "  <qemu:commandline>\n"
              "    <qemu:arg value='-machine'/>\n"
              "    <qemu:arg value='aux-ram-share=on'/>\n"
              "  </qemu:commandline>\n"
              "</domain>\n");
}

TEST(MakeReady, leavesNothingInTheWay) {
    EXPECT_THAT(whats(domain("")), testing::SizeIs(2));
    EXPECT_THAT(whats(makeReady(domain(""))), IsEmpty());
}

TEST(MakeReady, returnsWhatIsReadyUnchanged) {
    // Double quotes, a comment and odd spaces would not survive being printed again by chance.
    const std::string ready =
        "<?xml version=\"1.0\"?>\n<!-- mine --><domain  type='kvm'\n xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<memoryBacking><source type=\"memfd\" /></memoryBacking>"
        "<q:commandline><q:arg value='-machine'/><q:arg value='usb=off,aux-ram-share=on'/></q:commandline></domain>";
    EXPECT_EQ(makeReady(ready), ready);
    const std::string once = makeReady(domain(""));
    EXPECT_EQ(makeReady(once), once);
}

TEST(MakeReady, keepsHugePages) {
    const std::string made =
        makeReady(domain("  <memoryBacking>\n    <hugepages>\n      <page size='2048' unit='KiB'/>\n    </hugepages>\n"
                         "  </memoryBacking>\n"));
    EXPECT_THAT(made,
                HasSubstr("    </hugepages>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>\n"));
}

TEST(MakeReady, doesNotCallHugePagesWithoutMemfdReady) {
    // QEMU makes a nameless file in the directory: a second QEMU would have empty memory.
    const std::string xml =
        "  <memoryBacking>\n    <hugepages/>\n    <source type='file'/>\n    <access mode='shared'/>\n  </memoryBacking>\n";
    EXPECT_THAT(whats(domain(xml)), testing::Contains(HasSubstr("huge pages")));
    EXPECT_THAT(makeReady(domain(xml)), HasSubstr("<hugepages/>\n    <source type='memfd'/>"));
}

TEST(MakeReady, keepsAFileThatIsShared) {
    const std::string made =
        makeReady(domain("  <memoryBacking>\n    <source type='file'/>\n    <access mode='shared'/>\n  </memoryBacking>\n"));
    EXPECT_THAT(made, HasSubstr("<source type='file'/>\n    <access mode='shared'/>"));
    EXPECT_THAT(makeReady(domain("  <memoryBacking>\n    <source type='file'/>\n  </memoryBacking>\n")),
                HasSubstr("<source type='file'/>\n    <access mode='shared'/>"));
}

TEST(MakeReady, replacesAnonymousAndPrivateMemory) {
    const std::string made = makeReady(domain(
        "  <memoryBacking>\n    <source type='anonymous'/>\n    <access mode='private'/>\n    <locked/>\n  </memoryBacking>\n"));
    EXPECT_THAT(made, HasSubstr("<source type='memfd'/>\n    <access mode='shared'/>\n    <locked/>"));
}

TEST(MakeReady, fillsAnEmptyElement) {
    EXPECT_THAT(makeReady(domain("  <memoryBacking/>\n")),
                HasSubstr("  <memoryBacking>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>\n"));
}

TEST(MakeReady, sharesPrivateNumaCells) {
    const std::string cells =
        "  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\n"
        "  <cpu><numa><cell id='0' memory='1' memAccess='private'/><cell id='1' memory='1'/></numa></cpu>\n";
    EXPECT_THAT(whats(domain(cells)), testing::Contains(HasSubstr("NUMA cell 0")));
    EXPECT_THAT(makeReady(domain(cells)),
                HasSubstr("<cell id='0' memory='1' memAccess='shared'/><cell id='1' memory='1'/></numa>"));
}

TEST(MakeReady, addsToACommandLineThatIsThere) {
    const std::string made = makeReady(replaced(domain("  <q:commandline>\n    <q:arg value='-snapshot'/>\n  </q:commandline>\n"),
                                                "type='kvm'", "type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"));
    EXPECT_THAT(made, HasSubstr("  <q:commandline>\n    <q:arg value='-snapshot'/>\n    <q:arg value='-machine'/>\n"
                                "    <q:arg value='aux-ram-share=on'/>\n  </q:commandline>\n"));
    EXPECT_THAT(made, Not(HasSubstr("xmlns:qemu")));
}

TEST(MakeReady, declaresANamespaceThatWasForgotten) {
    const std::string made =
        makeReady(domain("  <qemu:commandline>\n    <qemu:env name='A' value='1'/>\n  </qemu:commandline>\n"));
    EXPECT_THAT(made, HasSubstr("<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"));
    EXPECT_THAT(made, HasSubstr("<qemu:env name='A' value='1'/>\n    <qemu:arg value='-machine'/>"));
    EXPECT_EQ(made.find("commandline>"), made.rfind("<qemu:commandline>") + 6) << made;
}

TEST(MakeReady, knowsANamespaceDeclaredOnTheElementItself) {
    const std::string made =
        makeReady(domain("  <commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'><arg value='-S'/></commandline>\n"));
    EXPECT_THAT(made, HasSubstr("<arg value='-S'/><arg value='-machine'/><arg value='aux-ram-share=on'/></commandline>"));
}

TEST(MakeReady, overridesALaterOff) {
    const std::string off = replaced(makeReady(domain("")), "aux-ram-share=on'/>",
                                     "aux-ram-share=on'/><qemu:arg value='-machine'/>"
                                     "<qemu:arg value='aux-ram-share=off'/>");
    EXPECT_THAT(whats(off), ElementsAre(HasSubstr("aux-ram-share")));
    EXPECT_THAT(whats(makeReady(off)), IsEmpty());
}

TEST(MakeReady, keepsTextsThatNeedEscaping) {
    const std::string hostile = "  <title>it's &lt;b&gt; &amp; \"c\"</title>\n  <x a='&quot;&apos;&#10;&lt;'/>\n";
    const std::string made = makeReady(domain(hostile));
    EXPECT_THAT(made, HasSubstr("<title>it's &lt;b&gt; &amp; \"c\"</title>"));
    EXPECT_THAT(made, HasSubstr("<x a='\"&apos;&#10;&lt;'/>"));
}

TEST(MakeReady, refusesWhatIsNoDomain) {
    for (const char* text : {"", "hello", "<domain>", "<network/>", "<domain></domein>"}) {
        EXPECT_THROW(makeReady(text), std::runtime_error) << text;
        EXPECT_THROW(obstacles(text), std::runtime_error) << text;
        EXPECT_THROW(importDomain(text), std::runtime_error) << text;
    }
}

// -----------------------------------------------------------------------------------------------------------------------
// obstacles

TEST(Obstacles, letPassWhatWasTried) {
    EXPECT_THAT(
        whats(readyDomain("<emulator>/q</emulator><disk type='file' device='disk'><source file='/x'/>"
                          "<iotune><total_iops_sec>1</total_iops_sec></iotune></disk><disk type='block' "
                          "device='lun'/><controller type='scsi'/><interface type='bridge'/>"
                          "<serial type='pty'/><console type='pty'><target type='serial'/></console>"
                          "<channel type='unix'><source mode='bind' path='/s'/></channel><video><model type='vga'/></video>"
                          "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>"
                          "<input type='tablet' bus='usb'/><memory model='dimm'/><audio id='1' type='none'/>"
                          "<filesystem type='mount'><driver type='path'/></filesystem><watchdog model='itco'/>"
                          "<interface type='ethernet'><driver name='qemu'/></interface><interface type='bridge'><driver "
                          "name='vhost'/></interface>")),
        IsEmpty());
}

TEST(Obstacles, areNoneInRealDomains) {
    for (const char* name :
         {"as-started", "hotplugged", "snapshot-and-medium", "unplugged-and-restarted", "hostile-names-numa", "uefi"}) {
        const std::string status = golden(std::string(name) + "/status.xml");
        const std::string domainXml =
            status.substr(status.find("<domain "), status.find("</domain>") + 9 - status.find("<domain "));
        EXPECT_THAT(whats(domainXml), IsEmpty()) << name;
        EXPECT_EQ(makeReady(domainXml), domainXml) << name;
        EXPECT_EQ(importDomain(domainXml).definition.machine, "pc-q35-10.0") << name;
    }
}

struct Refusal {
    const char* device;
    const char* what;
};

class RefusedDevice : public testing::TestWithParam<Refusal> {};

TEST_P(RefusedDevice, isNamed) {
    EXPECT_THAT(whats(readyDomain(GetParam().device)), ElementsAre(HasSubstr(GetParam().what)));
}

const Refusal refusals[] = {
    {"<tpm><backend type='emulator'/><alias name='tpm0'/></tpm>", "the TPM 'tpm0' is emulated by swtpm"},
    {"<tpm><backend type='passthrough'/></tpm>", "the TPM has a backend 'passthrough'"},
    {"<filesystem><driver type='virtiofs'/><target dir='share'/></filesystem>", "'share' is served by virtiofsd"},
    {"<interface type='vhostuser'/>", "is vhost-user"},
    {"<interface type='user'/>", "slirp"},
    {"<interface type='user'><backend type='passt'/></interface>", "passt"},
    {"<interface type='hostdev'/>", "is of type 'hostdev'"},
    {"<interface type='direct'><target dev='macvtap0'/></interface>", "'macvtap0' is of type 'direct'"},
    {"<disk type='vhostuser'><target dev='vdb'/></disk>", "the disk 'vdb' is of type 'vhostuser'"},
    {"<disk type='network'/>", "is of type 'network'"},
    {"<disk type='nvme'/>", "is of type 'nvme'"},
    {"<disk type='vhostvdpa'/>", "is of type 'vhostvdpa'"},
    {"<disk type='file'><mirror type='file'/></disk>", "copied or committed"},
    {"<disk type='file'><throttlefilters><throttlefilter group='g'/></throttlefilters></disk>", "I/O limits by filters"},
    {"<disk type='block'><source dev='/d'><reservations managed='yes'/></source></disk>", "reservations"},
    {"<graphics type='spice'/>", "SPICE"},
    {"<graphics type='vnc' passwd='x'/>", "VNC has a password"},
    {"<graphics type='vnc' websocket='5700'/>", "WebSocket"},
    {"<graphics type='vnc'><listen type='socket' socket='/s'/></graphics>", "VNC listens on a unix socket"},
    {"<graphics type='dbus'/>", "'dbus'"},
    {"<hostdev mode='subsystem' type='pci'><alias name='hostdev0'/></hostdev>",
     "the host device 'hostdev0' is passed through ('pci')"},
    {"<hostdev mode='subsystem' type='mdev'/>", "('mdev')"},
    {"<shmem name='s'/>", "shared with other processes"},
    {"<smartcard mode='passthrough' type='spicevmc'/>", "<smartcard>"},
    {"<redirdev bus='usb' type='spicevmc'/>", "<redirdev>"},
    {"<input type='evdev'><source dev='/dev/input/event1'/></input>", "'evdev'"},
    {"<input type='passthrough'/>", "'passthrough'"},
    {"<rng><backend model='egd' type='tcp'/></rng>", "'egd'"},
    {"<vsock model='virtio'/>", "vhost"},
    {"<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>",
     "'com.redhat.spice.0' belongs to a SPICE"},
    {"<channel type='unix'><source mode='connect' path='/s'/></channel>", "a connection that QEMU made"},
    {"<serial type='tcp'><source mode='connect' host='h' service='1'/></serial>", "a connection that QEMU made"},
    {"<serial type='tcp'><source mode='bind' host='h' service='1'/></serial>", "two QEMUs cannot share"},
    {"<serial type='udp'><source mode='connect'/></serial>", "a connection that QEMU made"},
    {"<serial type='pipe'/>", "'pipe'"},
    {"<memory model='nvdimm'/>", "'nvdimm'"},
    {"<memory model='virtio-mem'/>", "'virtio-mem'"},
    {"<memory model='virtio-pmem'/>", "'virtio-pmem'"},
    {"<video><driver name='vhostuser'/></video>", "vhost-user"},
    {"<audio id='1' type='pulseaudio'/>", "'pulseaudio'"},
    {"<teleporter model='mk2'/>", "<teleporter> was not tried"},
};
INSTANTIATE_TEST_SUITE_P(All, RefusedDevice, testing::ValuesIn(refusals));

TEST(Obstacles, nameEncryptedMemoryAndPluggedCpus) {
    const std::string ready =
        makeReady(domain("  <launchSecurity type='sev'/>\n  <vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/>"
                         "<vcpu id='1' enabled='yes' hotpluggable='yes'/></vcpus>\n"));
    EXPECT_THAT(whats(ready), ElementsAre(HasSubstr("encrypted"), HasSubstr("vCPU '1'")));
}

TEST(Obstacles, tellWhatToDo) {
    EXPECT_EQ(obstacles(domain("")).at(0).remedy, "make the domain ready, and start it anew");
    EXPECT_EQ(obstacles(readyDomain("<rng><backend model='egd'/></rng>")).at(0).remedy,
              "use <backend model='random'>/dev/urandom</backend>, or detach it");
}

// --------------------------------------------------------------------------------------------------------------------------
// import

const char* const importable =
    "<domain type='qemu'><name>web 1</name><uuid>0F5A1C52-6A7E-4D53-9A0E-3C1F2B4D5E6F</uuid><memory unit='MiB'>512</memory>"
    "<vcpu>4</vcpu><memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>"
    "<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><cpu mode='custom'><model>Nehalem</model>"
    "<topology sockets='1' dies='1' cores='2' threads='2'/><feature policy='disable' name='pcid'/></cpu><clock offset='utc'/>"
    "<devices><emulator>/opt/qemu</emulator>"
    "<disk type='file' device='disk'><driver type='qcow2' cache='none'/><source file='/a.qcow2'/><target dev='vda' "
    "bus='virtio'/></disk>"
    "<disk type='block' device='disk'><source dev='/dev/x'/><target dev='sdb' bus='scsi'/><boot "
    "order='1'/><serial>S1</serial></disk>"
    "<disk type='network' device='disk'><target dev='vdc'/></disk>"
    "<interface type='bridge'><source bridge='br0'/><mac address='52:54:00:AA:00:01'/><model type='virtio'/></interface>"
    "<interface type='network'><source network='default'/></interface><interface type='user'/>"
    "<serial type='pty'><log file='/l.log'/></serial><graphics type='vnc'/>"
    "<hostdev type='pci'><source><address domain='0x0000' bus='0x3b' slot='0x02' function='0x1'/></source></hostdev>"
    "<channel type='unix'><target type='virtio' name='org.virt-handover.heartbeat.0'/></channel></devices></domain>";

TEST(ImportDomain, saysWhatADefinitionCanSay) {
    const VmDefinition vm = importDomain(importable).definition;
    EXPECT_EQ(vm.name, "web-1");
    EXPECT_EQ(vm.uuid, "0f5a1c52-6a7e-4d53-9a0e-3c1f2b4d5e6f");
    EXPECT_EQ(vm.machine, "pc-q35-10.0");
    EXPECT_EQ(vm.accelerator, Accelerator::Tcg);
    EXPECT_EQ(vm.cpu, (Cpu{"Nehalem,pcid=off", 1, 2, 2}));
    EXPECT_EQ(vm.memory.sizeBytes, 512ULL << 20);
    EXPECT_EQ(vm.memory.pageSizeBytes, 2ULL << 20);
    ASSERT_EQ(vm.disks.size(), 2u);
    EXPECT_EQ(vm.disks[0], (Disk{"vda", "/a.qcow2", DiskFormat::Qcow2, DiskCache::None, false, ""}));
    EXPECT_EQ(vm.disks[1], (Disk{"sdb", "/dev/x", DiskFormat::Raw, DiskCache::Writeback, false, "S1"}));
    EXPECT_EQ(vm.boot.disk, "sdb");
    ASSERT_EQ(vm.networks.size(), 2u);
    EXPECT_EQ(vm.networks[0], (Network{"net0", NetworkType::Tap, "br0", "52:54:00:aa:00:01"}));
    EXPECT_EQ(vm.networks[1].type, NetworkType::User);
    EXPECT_EQ(vm.console.log, "/l.log");
    EXPECT_TRUE(vm.heartbeat);
    ASSERT_EQ(vm.vfio.size(), 1u);
    EXPECT_EQ(vm.vfio[0].address, "0000:3b:02.1");
    EXPECT_EQ(vm.vmm.binary, "/opt/qemu");
}

TEST(ImportDomain, tellsWhatWasLost) {
    EXPECT_THAT(
        importDomain(importable).lost,
        ElementsAre("name 'web 1' became 'web-1'", "disk 'sdb': becomes a virtio disk", "device disk 'vdc': of type 'network'",
                    "device interface 'network': of type 'network', whose bridge is known while the domain runs only",
                    "device graphics 'vnc'", "<clock>"));
}

TEST(ImportDomain, isADefinitionThatTheParserTakes) {
    const VmDefinition vm = importDomain(importable).definition;
    EXPECT_EQ(parseVmDefinition(toYaml(vm), "vm.yaml"), vm) << toYaml(vm);
}

// ----------------------------------------------------------------------------------------------------------------------------
// fuzz

TEST(DomainXml, survivesDamagedText) {
    std::mt19937 random(4711);
    std::vector<std::string> texts{importable, makeReady(domain(""))};
    for (const std::string& text : texts)
        for (int round = 0; round < 3000; ++round) {
            const std::string damaged = damage(text, random);
            mayThrow([&] { obstacles(damaged); });
            mayThrow([&] { EXPECT_EQ(makeReady(makeReady(damaged)), makeReady(damaged)); });
            mayThrow([&] { importDomain(damaged); });
        }
}

}  // namespace
}  // namespace vh
