// tests/plugin/golden/NAME/ has what libvirt 11.3.0 and QEMU 10.0.2 said of one domain at one moment: its status XML, the
// arguments it was started with, libvirt's rendering of the live XML, and QEMU's table of descriptors. `arguments` is what a new
// QEMU gets.
#include "plugin/machine/machine_arguments.h"

#include <algorithm>
#include <random>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plugin/domain/qemu_option.h"
#include "plugin/host/libvirt_connection.h"
#include "tests/plugin/plugin_golden.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> all;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) all.push_back(line);
    return all;
}

MachineSources sourcesOf(const std::string& name) {
    const json descriptors = json::parse(golden(name + "/descriptors.json"));
    MachineSources sources{lines(golden(name + "/cmdline")), shellWords(golden(name + "/native")), golden(name + "/status.xml"),
                           descriptors["fdsets"]};
    for (const auto& [interface, fd] : descriptors["taps"].items()) sources.descriptors.tapFds[interface] = fd;
    for (const auto& [path, fd] : descriptors["listeners"].items()) sources.descriptors.listeners[path] = fd;
    return sources;
}

std::string textOf(const AdoptOrder& made) {
    std::ostringstream text;
    for (const std::string& argument : made.arguments) text << argument << "\n";
    text << "\nmachine " << made.machine << "\n";
    for (const std::string& model : made.models) text << "model " << model << "\n";
    for (const AdoptedVm::Descriptor& passed : made.descriptors)
        text << "descriptor " << passed.number << " of " << passed.of << (passed.tap ? " (tap)" : "") << "\n";
    return text.str();
}

const char* const goldens[] = {"as-started",         "hotplugged", "snapshot-and-medium", "unplugged-and-restarted",
                               "hostile-names-numa", "uefi"};

class RealDomain : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, RealDomain, testing::ValuesIn(goldens));

TEST_P(RealDomain, hasTheseArguments) {
    const std::string name = GetParam();
    expectPluginGolden(name + "/arguments", textOf(rebuildArguments(sourcesOf(name))));
}

/// What the next handover finds: the arguments of the last one, descriptors under their new numbers.
MachineSources afterHandover(MachineSources sources, const AdoptOrder& made) {
    sources.running = {"/opt/new-qemu", "-L", "/opt/share"};
    sources.running.insert(sources.running.end(), made.arguments.begin(), made.arguments.end());
    for (const char* own : {"-incoming", "defer", "-incoming", "{\"channel-type\":\"cpr\"}", "-chardev",
                            "socket,id=virt-handover,fd=77,server=on,wait=off", "-mon", "chardev=virt-handover,mode=control"})
        sources.running.push_back(own);
    std::map<int, int> numbers;
    for (const AdoptedVm::Descriptor& passed : made.descriptors) numbers[passed.of] = passed.number;
    for (auto* table : {&sources.descriptors.tapFds, &sources.descriptors.listeners})
        for (auto& [name, fd] : *table) fd = numbers.contains(fd) ? numbers[fd] : fd;
    sources.fdsets = json::array();
    for (std::size_t i = 0; i + 1 < made.arguments.size(); ++i)
        if (made.arguments[i] == "-add-fd") {
            const OptionValue value("-add-fd", made.arguments[i + 1]);
            sources.fdsets.push_back({{"fdset-id", std::stoi(value["set"])},
                                      {"fds", {{{"fd", 100 + std::stoi(value["fd"])}, {"opaque", value["opaque"]}}}}});
        }
    return sources;
}

TEST_P(RealDomain, hasTheSameArgumentsAfterAHandover) {
    const MachineSources sources = sourcesOf(GetParam());
    const AdoptOrder first = rebuildArguments(sources);
    const AdoptOrder second = rebuildArguments(afterHandover(sources, first));
    EXPECT_EQ(second.arguments, first.arguments);
    ASSERT_EQ(second.descriptors.size(), first.descriptors.size());
    for (std::size_t i = 0; i < first.descriptors.size(); ++i)
        EXPECT_EQ(second.descriptors[i].number, first.descriptors[i].number);
}

// ------------------------------------------------------------------------------------------------------------------- single
// decisions

/// A small domain of our own, for what no golden has.
struct Domain {
    std::string arguments = "-S -machine pc-q35-10.0,usb=off -m size=1024k";
    std::string native;
    std::string devices;
    std::vector<std::string> ids = {"pci.1"};
    std::string extraRunning = "-device {\"driver\":\"pcie-root-port\",\"id\":\"pci.1\",\"bus\":\"pcie.0\",\"addr\":\"0x1\"}";

    MachineSources sources() const {
        MachineSources made;
        made.running = shellWords("/qemu -name guest=g " + arguments);
        const auto more = split(extraRunning);
        made.running.insert(made.running.end(), more.begin(), more.end());
        made.native = {"LC_ALL=C", "/qemu", "-name", "guest=g"};
        const auto rendered = split(native);
        made.native.insert(made.native.end(), rendered.begin(), rendered.end());
        made.statusXml = "<domstatus state='running' pid='1'><devices>";
        for (const std::string& id : ids) made.statusXml += "<device alias='" + id + "'/>";
        made.statusXml +=
            "</devices><domain><devices><controller type='pci' index='1'><alias name='pci.1'/><address type='pci' bus='0'"
            " slot='1' function='0'/></controller><controller type='pci' index='0'><alias name='pcie.0'/></controller>" +
            devices + "</devices></domain></domstatus>";
        made.fdsets = json::array();
        return made;
    }
    AdoptOrder rebuilt() const { return rebuildArguments(sources()); }
    std::string refusal() const { return refusalOf(sources()); }

    static std::string refusalOf(const MachineSources& sources) {
        try {
            rebuildArguments(sources);
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return "none";
    }
    static std::vector<std::string> split(const std::string& text) {
        std::vector<std::string> words;
        std::istringstream stream(text);
        for (std::string word; stream >> word;) words.push_back(word);
        return words;
    }
};

TEST(RebuildArguments, dropsWhatBelongedToTheStart) {
    Domain domain;
    domain.arguments =
        "-machine pc-q35-10.0 -incoming defer -loadvm s1 -chardev socket,id=virt-handover,fd=9,server=on,wait=off "
        "-mon chardev=virt-handover,mode=control --enable-kvm -incoming fd:7";
    EXPECT_THAT(domain.rebuilt().arguments,
                ElementsAre("-name", "guest=g", "-S", "-machine", "pc-q35-10.0", "-enable-kvm", "-device", HasSubstr("pci.1")));
}

TEST(RebuildArguments, tellsMachineAndModels) {
    Domain domain;
    domain.arguments += " -machine aux-ram-share=on -device virtio-rng-pci,rng=r -device pcie-root-port";
    const AdoptOrder made = domain.rebuilt();
    EXPECT_EQ(made.machine, "pc-q35-10.0");
    EXPECT_THAT(made.models, ElementsAre("virtio-rng-pci", "pcie-root-port"));
}

TEST(RebuildArguments, keepsAMultiqueueTap) {
    Domain domain;
    domain.arguments += " -netdev tap,fds=30:31,id=hostnet0";
    EXPECT_THAT(domain.rebuilt().descriptors,
                ElementsAre(AdoptedVm::Descriptor{30, 30, true}, AdoptedVm::Descriptor{31, 31, true}));
}

TEST(RebuildArguments, takesTheTapThatTheInterfaceHasNow) {
    Domain domain;
    domain.arguments += " -netdev {\\\"type\\\":\\\"tap\\\",\\\"fd\\\":\\\"30\\\",\\\"id\\\":\\\"hostnet0\\\"}";
    domain.devices = "<interface type='bridge'><target dev='vnet4'/><alias name='net0'/></interface>";
    MachineSources sources = domain.sources();
    sources.descriptors.tapFds = {{"vnet4", 41}};
    EXPECT_THAT(rebuildArguments(sources).descriptors, ElementsAre(AdoptedVm::Descriptor{30, 41, true}));
    sources.descriptors.tapFds = {{"vnet5", 41}};
    EXPECT_EQ(Domain::refusalOf(sources), "the netdev 'hostnet0': the old QEMU does not have the tap 'vnet4' open");
}

TEST(RebuildArguments, takesLogPipesFromWhereQemuKeepsThem) {
    Domain domain;
    domain.arguments += " -add-fd set=0,fd=30,opaque=serial0-log";
    MachineSources sources = domain.sources();
    sources.fdsets = json::parse(R"({"return":[{"fdset-id":0,"fds":[{"fd":6,"opaque":"serial0-log"}]}],"id":"x"})");
    EXPECT_THAT(rebuildArguments(sources).descriptors, ElementsAre(AdoptedVm::Descriptor{30, 6, false}));
    EXPECT_THAT(domain.refusal(), HasSubstr("the old QEMU has 0 such descriptors in set 0"));
}

TEST(RebuildArguments, adoptsAFileThatWasOpenedAtAHotplug) {
    Domain domain;
    domain.ids.push_back("serial1");
    domain.devices =
        "<serial type='file'><source path='/l'/><alias name='serial1'/><address type='pci' bus='1' slot='2' "
        "function='0'/></serial>";
    domain.native =
        "-chardev file,id=charserial0,path=/l,logfile=/m,logappend=on -device "
        "{\"driver\":\"pci-serial\",\"chardev\":\"charserial0\",\"id\":\"serial0\",\"bus\":\"pci.1\",\"addr\":\"0x2\"}";
    MachineSources sources = domain.sources();
    sources.fdsets = json::parse(
        R"([{"fdset-id":4,"fds":[{"fd":6,"opaque":"serial1-source"}]},{"fdset-id":5,"fds":[{"fd":7,"opaque":"serial1-log"}]}])");
    const AdoptOrder made = rebuildArguments(sources);
    EXPECT_THAT(made.arguments, Contains("file,id=charserial1,path=/dev/fdset/4,logfile=/dev/fdset/5,logappend=on,append=on"));
    EXPECT_THAT(made.arguments, Contains("set=4,fd=3,opaque=serial1-source"));
    EXPECT_THAT(made.descriptors, ElementsAre(AdoptedVm::Descriptor{3, 6, false}, AdoptedVm::Descriptor{4, 7, false}));
}

TEST(RebuildArguments, dropsADeviceThatMovedAndAddsItWhereItIs) {
    Domain domain;
    domain.ids.push_back("rng0");
    domain.extraRunning +=
        " -object rng-random,id=objrng0,filename=/dev/random -device virtio-rng-pci,rng=objrng0,id=rng0,bus=pci.1,addr=0x2";
    domain.devices = "<rng><alias name='rng0'/><address type='pci' bus='1' slot='3' function='0'/></rng>";
    domain.native =
        "-object {\"qom-type\":\"rng-builtin\",\"id\":\"objrng0\"} "
        "-device {\"driver\":\"virtio-rng-pci\",\"rng\":\"objrng0\",\"id\":\"rng0\",\"bus\":\"pci.1\",\"addr\":\"0x3\"}";
    const std::string text = textOf(domain.rebuilt());
    EXPECT_THAT(text, Not(HasSubstr("rng-random")));
    EXPECT_THAT(text, Not(HasSubstr("addr=0x2")));
    EXPECT_THAT(text, HasSubstr("rng-builtin"));
    EXPECT_THAT(text, HasSubstr("\"addr\":\"0x3\""));
}

TEST(RebuildArguments, followsThreadsThatCameAndWent) {
    Domain domain;
    domain.arguments += " -object iothread,id=iothread1";
    domain.native = "-object {\"qom-type\":\"iothread\",\"id\":\"iothread2\"}";
    const auto arguments = domain.rebuilt().arguments;
    EXPECT_THAT(arguments, Contains("{\"qom-type\":\"iothread\",\"id\":\"iothread2\"}"));
    EXPECT_THAT(arguments, Not(Contains("iothread,id=iothread1")));
}

TEST(RebuildArguments, addsANetworkWithItsAddressAndSize) {
    Domain domain;
    domain.ids.push_back("net1");
    domain.devices =
        "<interface type='bridge'><mac address='52:54:00:00:00:02'/><target dev='vnet1'/><model type='virtio'/><mtu size='9000'/>"
        "<driver name='qemu'/><alias name='net1'/><address type='pci' bus='1' slot='0' function='1'/></interface>";
    MachineSources sources = domain.sources();
    sources.descriptors.tapFds = {{"vnet1", 35}};
    const AdoptOrder made = rebuildArguments(sources);
    EXPECT_THAT(made.arguments, Contains(R"({"driver":"virtio-net-pci","host_mtu":9000,"netdev":"hostnet1","id":"net1",)"
                                         R"("mac":"52:54:00:00:00:02","bus":"pci.1","addr":"0x0.0x1"})"));
    EXPECT_THAT(made.arguments, Contains(R"({"type":"tap","id":"hostnet1","fd":"3"})"));
    EXPECT_THAT(made.descriptors, ElementsAre(AdoptedVm::Descriptor{3, 35, true}));
}

TEST(RebuildArguments, replacesAMediumThatWasEjected) {
    Domain domain;
    domain.ids.push_back("sata0-0-0");
    domain.extraRunning +=
        " -blockdev {\"driver\":\"file\",\"filename\":\"/a\",\"node-name\":\"libvirt-1-storage\"}"
        " -device ide-cd,bus=ide.0,drive=libvirt-1-storage,id=sata0-0-0";
    domain.devices = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><alias name='sata0-0-0'/></disk>";
    domain.native = "-device {\"driver\":\"ide-cd\",\"bus\":\"ide.0\",\"id\":\"sata0-0-0\"}";
    const auto arguments = domain.rebuilt().arguments;
    EXPECT_THAT(arguments, Contains("ide-cd,bus=ide.0,id=sata0-0-0"));
    EXPECT_THAT(arguments, Not(Contains("-blockdev")));
}

struct Refused {
    const char* option;
    const char* why;
};
class RefusedOption : public testing::TestWithParam<Refused> {};

TEST_P(RefusedOption, isNamed) {
    Domain domain;
    domain.extraRunning += std::string(" ") + GetParam().option;
    EXPECT_THAT(domain.refusal(), HasSubstr(GetParam().why));
}

const Refused refusedOptions[] = {
    {"-netdev {\"type\":\"tap\",\"fd\":\"5\",\"vhost\":true,\"id\":\"hostnet0\"}", "QEMU would open '/dev/vhost-net' itself"},
    {"-netdev tap,ifname=tap0,id=n", "a tap that QEMU opens itself"},
    {"-netdev socket,fd=5,id=n", "'-netdev socket,fd=5,id=n': a descriptor ('fd')"},
    {"-netdev stream,id=n,addr.type=fd,addr.str=5", "a descriptor ('addr.type')"},
    {"-netdev {\"type\":\"stream\",\"addr\":{\"type\":\"fd\",\"str\":\"5\"}}", "a descriptor ('type')"},
    {"-device vhost-vsock-pci,vhostfd=5", "a descriptor ('vhostfd')"},
    {"-object iommufd,id=i,fd=5", "a descriptor ('fd')"},
    {"-object memory-backend-file,id=m,mem-path=/proc/self/fd/5", "'/proc/self/fd/5'"},
    {"-chardev socket,id=c,path=/x", "a connection that QEMU made"},
    {"-chardev socket,id=c,path=/x,server=on", "a socket that QEMU made"},
    {"-chardev socket,id=c,fd=1,server=on", "'1' is no descriptor"},
    {"-chardev socket,id=c,fd=x,server=on", "'x' is no descriptor"},
    {"-chardev socket,id=c,fd=5,server=on -chardev socket,id=d,fd=5,server=on", "5 is named twice"},
    {"-device {\"driver\":", "is no JSON object"},
    {"-device", "'-device' has no value"},
    {"lonely", "'lonely' is not an option"},
};
INSTANTIATE_TEST_SUITE_P(All, RefusedOption, testing::ValuesIn(refusedOptions));

TEST(RebuildArguments, refusesToGuess) {
    Domain domain;
    domain.native = "-object {\"qom-type\":\"throttle-group\",\"id\":\"g\"}";
    EXPECT_THAT(domain.refusal(), HasSubstr("'g' of type 'throttle-group'"));
    domain = Domain();
    domain.ids.push_back("vcpu1");
    EXPECT_THAT(domain.refusal(), HasSubstr("'vcpu1' was added"));
    domain = Domain();
    domain.native = "-device pcie-root-port,id=pci.1,bus=pcie.0,addr=0x1,port=9";
    EXPECT_EQ(domain.refusal(), "none") << "a property that one libvirt writes and another does not";
    domain.native = "-device ioh3420,id=pci.1,bus=pcie.0,addr=0x1.0x0";
    EXPECT_THAT(domain.refusal(), HasSubstr("its 'driver' was 'pcie-root-port' and is 'ioh3420'"));
    domain = Domain();
    domain.ids = {};
    EXPECT_THAT(domain.refusal(), HasSubstr("no list of devices"));
}

TEST(RebuildArguments, refusesAHotplugThatItCannotTell) {
    Domain domain;
    domain.ids.push_back("net1");
    const std::string begin =
        "<interface type='bridge'><mac address='52:54:00:00:00:02'/><target dev='vnet1'/><model type='virtio'/>";
    const std::string end = "<alias name='net1'/><address type='pci' bus='1' slot='0' function='0'/></interface>";
    const auto refusal = [&](const std::string& inside, bool vhost) {
        domain.devices = begin + inside + end;
        MachineSources sources = domain.sources();
        sources.descriptors.vhost = vhost;
        sources.descriptors.tapFds = {{"vnet1", 35}};
        return Domain::refusalOf(sources);
    };
    EXPECT_EQ(refusal("", false), "none");
    EXPECT_EQ(refusal("<driver name='qemu'/>", true), "none");
    EXPECT_THAT(refusal("<driver name='qemu' queues='2'/>", false), HasSubstr("queues='2'"));
    EXPECT_THAT(refusal("<rom file='/x'/>", false), HasSubstr("<rom>"));
}

TEST(RebuildArguments, opensAnewWhatServesANetworkInTheKernel) {
    const auto served = [](int number) { return AdoptedVm::Descriptor{.number = number, .path = "/dev/vhost-net"}; };
    Domain domain;
    domain.arguments += " -netdev tap,fds=5:6,vhost=on,vhostfds=7:8,id=hostnet0";
    EXPECT_THAT(domain.rebuilt().descriptors,
                testing::UnorderedElementsAre(AdoptedVm::Descriptor{5, 5, true}, AdoptedVm::Descriptor{6, 6, true}, served(7),
                                              served(8)));
    // Of one that was plugged in, nothing says so but that libvirt does it where it can.
    domain = Domain();
    domain.ids.push_back("net1");
    const auto plugged = [&](const std::string& inside) {
        domain.devices = "<interface type='bridge'><mac address='52:54:00:00:00:02'/><target dev='vnet1'/>" + inside +
                         "<alias name='net1'/><address type='pci' bus='1' slot='0' function='0'/></interface>";
        MachineSources sources = domain.sources();
        sources.descriptors.vhost = true;
        sources.descriptors.tapFds = {{"vnet1", 35}};
        return rebuildArguments(sources).descriptors;
    };
    EXPECT_THAT(plugged("<model type='virtio'/>"), testing::UnorderedElementsAre(AdoptedVm::Descriptor{3, 35, true}, served(4)));
    EXPECT_THAT(plugged("<model type='virtio'/><driver name='qemu'/>"), ElementsAre(AdoptedVm::Descriptor{3, 35, true}));
    EXPECT_THAT(plugged("<model type='e1000'/>"), ElementsAre(AdoptedVm::Descriptor{3, 35, true}));
}

TEST(RebuildArguments, refusesWhatHasANameTwice) {
    Domain domain;
    domain.extraRunning +=
        " -device pcie-root-port,id=pci.1,bus=pcie.0,addr=0x9";  // Once where libvirt has it, and once elsewhere.
    EXPECT_EQ(domain.refusal(), "the command line of its QEMU has '-device' with the name 'pci.1' twice");
    for (const char* option :
         {"-object rng-builtin,id=x", "-netdev user,id=x", "-chardev null,id=x", "-blockdev null-co,node-name=x"}) {
        domain = Domain();
        domain.extraRunning += std::string(" ") + option + " " + option;
        EXPECT_THAT(domain.refusal(), HasSubstr("with the name 'x' twice"));
        domain = Domain();
        domain.native = std::string(option) + " " + option;
        EXPECT_THAT(domain.refusal(), HasSubstr("libvirt's rendering of it has"));
    }
}

TEST(RebuildArguments, refusesAReplacedDisk) {
    MachineSources sources = sourcesOf("as-started");
    for (std::string& word : sources.native)
        if (word.find("virtio-blk-pci") != std::string::npos) word.insert(word.size() - 1, ",\"serial\":\"S2\"");
    EXPECT_EQ(Domain::refusalOf(sources),
              "the device 'virtio-disk0' is not the one that it was at the start: its 'serial' was '' and is 'S2'");
}

TEST(RebuildArguments, refusesAListenerThatIsGone) {
    MachineSources sources = sourcesOf("as-started");
    sources.descriptors.listeners.erase("/tmp/hb.sock");
    EXPECT_EQ(Domain::refusalOf(sources), "the chardev 'charchannel0': the old QEMU does not listen on '/tmp/hb.sock'");
}

// -------------------------------------------------------------------------------------------------------------------------
// spellings

TEST(QemuOption, keepsTextInBothSpellings) {
    for (const char* text : {"socket,id=c,fd=31,server=on,wait=off", "file,path=/a,, b,,c.log,id=x", "pty",
                             R"({"driver":"file","filename":"/it's, \"x\"","read-only":false,"n":7,"x":null})", ""})
        EXPECT_EQ(OptionValue("-chardev", text).text(), text);
    EXPECT_EQ(OptionValue("-chardev", "file,path=/a,, b,,c.log,id=x")["path"], "/a, b,c.log");
    EXPECT_EQ(OptionValue("-chardev", "socket,server")["server"], "on");
    EXPECT_EQ(OptionValue("-device", R"({"a":true,"b":7,"c":[1],"d":null})")["a"], "on");
}

TEST(ShellWords, areThoseOfAShell) {
    EXPECT_THAT(shellWords("a 'b c' \\\n  'it'\\''s'\n"), ElementsAre("a", "b c", "it's"));
    EXPECT_THAT(shellWords("a '' b"), ElementsAre("a", "", "b"));
    EXPECT_THAT(shellWords(" \n"), IsEmpty());
    EXPECT_THROW(shellWords("a 'b"), std::runtime_error);
}

// ------------------------------------------------------------------------------------------------------------------------------
// fuzz

TEST(RebuildArguments, survivesDamagedSources) {
    std::mt19937 random(4711);
    for (const char* name : goldens) {
        const MachineSources good = sourcesOf(name);
        for (int round = 0; round < 150; ++round) {
            MachineSources bad = good;
            switch (random() % 4) {
                case 0:
                    bad.statusXml = damage(bad.statusXml, random);
                    break;
                case 1:
                    for (int i = 0; i < 3; ++i) {
                        std::string& word = bad.running[random() % bad.running.size()];
                        word = damage(word, random);
                    }
                    break;
                case 2:
                    for (int i = 0; i < 3; ++i) {
                        std::string& word = bad.native[random() % bad.native.size()];
                        word = damage(word, random);
                    }
                    break;
                default:
                    bad.fdsets = json::parse(damage(bad.fdsets.dump(), random), nullptr, false);
            }
            mayThrow([&] { rebuildArguments(bad); });
        }
    }
}

/// Positions of options, as opposed to their values.
std::vector<std::size_t> optionsIn(const std::vector<std::string>& words) {
    std::vector<std::size_t> found;
    for (std::size_t at = 0; at < words.size(); ++at)
        if (words[at].starts_with("-")) found.push_back(at);
    found.push_back(words.size());
    return found;
}

/// What nobody's arguments look like by accident, but a hostile QEMU's may: whole options doubled, as they are or almost,
/// dropped, exchanged; values exchanged between options.
void damageOptions(std::vector<std::string>& words, std::mt19937& random) {
    const std::vector<std::size_t> starts = optionsIn(words);
    const std::size_t one = random() % (starts.size() - 1), other = random() % (starts.size() - 1);
    const auto option = [&](std::size_t index) {
        return std::vector<std::string>(words.begin() + static_cast<long>(starts[index]),
                                        words.begin() + static_cast<long>(starts[index + 1]));
    };
    std::vector<std::string> copy = option(one);
    switch (random() % 4) {
        case 0:
            if (const std::size_t digit = copy.back().find_last_of("0123456789"); random() % 2 && digit != std::string::npos)
                copy.back()[digit] = static_cast<char>('0' + random() % 10);
            words.insert(words.begin() + static_cast<long>(starts[other]), copy.begin(), copy.end());
            break;
        case 1:
            words.erase(words.begin() + static_cast<long>(starts[one]), words.begin() + static_cast<long>(starts[one + 1]));
            break;
        case 2:
            std::swap(words[starts[one]], words[starts[other]]);
            break;
        default:
            std::swap(words[starts[one + 1] - 1], words[starts[other + 1] - 1]);
    }
}

TEST(RebuildArguments, survivesOptionsThatAreDoubledDroppedOrExchanged) {
    std::mt19937 random(1963);
    for (const char* name : goldens) {
        const MachineSources good = sourcesOf(name);
        for (int round = 0; round < 300; ++round) {
            MachineSources bad = good;
            for (std::size_t times = 1 + random() % 3; times > 0; --times)
                damageOptions(random() % 4 ? bad.running : bad.native, random);
            mayThrow([&] { rebuildArguments(bad); });
        }
    }
}

}  // namespace
}  // namespace vh
