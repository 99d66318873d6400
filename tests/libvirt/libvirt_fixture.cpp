#include "tests/libvirt/libvirt_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <system_error>

#include "manager/vmm/heartbeat.h"
#include "vmm-shim/unix_socket.h"

namespace vh::test {

using std::chrono::milliseconds;
using std::chrono::seconds;
namespace fs = std::filesystem;

namespace {

bool hasSystemd() {
    return fs::is_directory("/run/systemd/system");
}

constexpr const char* libvirtLog = "/var/log/libvirt/libvirtd.log";

/// What may say why a test failed: the ends of what libvirtd and each domain's QEMUs said, and on a test host the kernel.
void showLogs() {
    const auto show = [](const std::string& who, const std::string& text) {
        std::cerr << who << " said:\n" << text.substr(text.size() - std::min<std::size_t>(text.size(), 3'000)) << "\n";
    };
    show("libvirtd", readIfThere(libvirtLog));
    std::error_code ignored;
    for (const auto& log : fs::directory_iterator("/var/log/libvirt/qemu", ignored)) show(log.path(), readIfThere(log.path()));
    if (hasSystemd()) show("the kernel", runProgram({"/usr/bin/dmesg"}, milliseconds(10'000)).output);
}

UniqueFd memoryFile(const char* name) {
    UniqueFd file(::memfd_create(name, MFD_CLOEXEC));
    if (!file) throw std::system_error(errno, std::generic_category(), "make a memfd");
    return file;
}

std::string contentsOf(const UniqueFd& file) {
    return readIfThere("/proc/self/fd/" + std::to_string(file.get()));
}

UniqueFd processHandle(pid_t pid) {
    return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool endsWithin(const UniqueFd& process, milliseconds deadline) {
    pollfd waited{process.get(), POLLIN, 0};
    return ::poll(&waited, 1, static_cast<int>(deadline.count())) == 1;
}

/// The processes that are QEMU and of which `wanted` holds.
std::set<pid_t> vmms(const std::function<bool(const fs::path& process)>& wanted) {
    std::set<pid_t> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
        const std::string text = entry.path().filename();
        pid_t pid = 0;
        if (std::from_chars(text.data(), text.data() + text.size(), pid).ptr != text.data() + text.size()) continue;
        // A -name is there from libvirt's start on, and not in the processes by which libvirt gets to know a binary.
        const std::string commandLine = readIfThere(entry.path() / "cmdline");
        if (commandLine.find("qemu") != std::string::npos && commandLine.find(std::string("\0-name\0", 7)) != std::string::npos &&
            wanted(entry.path()))
            found.insert(pid);
    }
    return found;
}

/// The value of the first `attribute='...'`; empty when there is none.
std::string attributeIn(const std::string& xml, const std::string& attribute) {
    const std::string opening = " " + attribute + "='";
    const std::size_t at = xml.find(opening);
    if (at == std::string::npos) return {};
    const std::size_t begin = at + opening.size();
    return xml.substr(begin, xml.find('\'', begin) - begin);
}

std::string trimmed(std::string text) {
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

void mustRun(std::vector<std::string> command) {
    const std::string program = command[0];
    const Ran ran = runProgram(std::move(command), patience);
    if (ran.code != 0) throw std::runtime_error(program + ": " + ran.error + ran.output);
}

void makeBridge() {
    if (fs::exists(std::string("/sys/class/net/") + TestDomain::bridge)) return;
    mustRun({"/usr/sbin/ip", "link", "add", TestDomain::bridge, "type", "bridge"});
    mustRun({"/usr/sbin/ip", "address", "add", "10.77.0.1/24", "dev", TestDomain::bridge});
    mustRun({"/usr/sbin/ip", "link", "set", TestDomain::bridge, "up"});
}

}  // namespace

pid_t pidIn(const std::string& file) {
    const std::string text = readIfThere(file);
    pid_t pid = 0;
    std::from_chars(text.data(), text.data() + text.size(), pid);
    return pid;
}

Ran runProgram(std::vector<std::string> command, milliseconds deadline) {
    std::vector<char*> argv;
    for (std::string& argument : command) argv.push_back(argument.data());
    argv.push_back(nullptr);
    // Files, not pipes: a daemon may keep its standard output for as long as it lives.
    const UniqueFd out = memoryFile("output"), err = memoryFile("errors"), in(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const pid_t child = ::fork();
    if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (child == 0) {
        ::dup2(in.get(), STDIN_FILENO);
        ::dup2(out.get(), STDOUT_FILENO);
        ::dup2(err.get(), STDERR_FILENO);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    const UniqueFd process = processHandle(child);
    const bool ended = endsWithin(process, deadline);
    if (!ended) {
        std::string line;
        for (const std::string& argument : command) line += " " + argument;
        ADD_FAILURE() << "has not ended within " << deadline.count() << " ms:" << line;
        ::kill(child, SIGKILL);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const int code = !ended ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return {code, contentsOf(out), contentsOf(err)};
}

std::set<pid_t> vmmsWithFileOpen(const std::string& file) {
    struct stat wanted {};
    if (::stat(file.c_str(), &wanted) != 0) return {};
    return vmms([&](const fs::path& process) {
        std::error_code ignored;
        for (const auto& entry : fs::directory_iterator(process / "fd", ignored)) {
            // By inode: the path means another thing in a mount namespace of its own.
            struct stat open {};
            if (::stat(entry.path().c_str(), &open) == 0 && open.st_dev == wanted.st_dev && open.st_ino == wanted.st_ino)
                return true;
        }
        return false;
    });
}

std::set<pid_t> allVmms() {
    return vmms([](const fs::path&) { return true; });
}

void endProcess(pid_t pid, int signal) {
    const UniqueFd process = processHandle(pid);
    if (!process) return;
    ::syscall(SYS_pidfd_send_signal, process.get(), signal, nullptr, 0);
    if (!endsWithin(process, patience)) ADD_FAILURE() << "process " << pid << " has not ended a minute after signal " << signal;
}

const char* name(VmmUser user) {
    return user == VmmUser::Root ? "root" : "libvirtQemu";
}

LibvirtHost::LibvirtHost(VmmUser user, const std::string& qemuSettings) {
    if (!std::getenv("VH_TEST_ROOT") && !std::getenv("VH_TEST_HOST")) {
        std::cerr << "[  FAILED  ] this changes the libvirt that it finds: run it through tests/libvirt/in-test-root, or "
                     "tests/test-host/in-test-host --systemd\n";
        std::exit(1);
    }
    static const std::string debians = readIfThere("/etc/libvirt/qemu.conf"), daemons = readIfThere("/etc/libvirt/libvirtd.conf");
    std::ofstream(std::string("/etc/libvirt/qemu.conf"))
        << debians << (user == VmmUser::Root ? "\nuser = \"root\"\ngroup = \"root\"\nnamespaces = []\n" : "") << "\n"
        << qemuSettings << "\n";
    std::ofstream(std::string("/etc/libvirt/libvirtd.conf")) << daemons << "\nlog_outputs = \"3:file:" << libvirtLog << "\"\n";
    if (!hasSystemd() && (::access("/run/virtlogd.pid", F_OK) != 0 || ::kill(pidIn("/run/virtlogd.pid"), 0) != 0))
        mustRun({"/usr/sbin/virtlogd", "--daemon"});
    start();
}

LibvirtHost::~LibvirtHost() {
    if (daemon() == 0) start();
    const std::string running = virsh({"list", "--uuid"}).output;
    for (std::size_t at = 0; at < running.size(); at = running.find('\n', at) + 1) {
        const std::string uuid = running.substr(at, running.find('\n', at) - at);
        if (uuid.empty()) break;
        virsh({"destroy", uuid});
    }
    stop();
    // Also of a whole suite, behind its last test.
    if (testing::UnitTest::GetInstance()->Failed()) showLogs();
    EXPECT_EQ(allVmms(), std::set<pid_t>{}) << "QEMUs are left that libvirt does not know";
    for (const pid_t pid : allVmms()) endProcess(pid, SIGKILL);
    fs::remove(libvirtLog);
}

pid_t LibvirtHost::daemon() const {
    // libvirtd removes the file when it ends by itself only. A zombie has no program any more.
    const pid_t pid = pidIn("/run/libvirtd.pid");
    std::error_code ignored;
    return pid > 0 && fs::read_symlink("/proc/" + std::to_string(pid) + "/exe", ignored).filename() == "libvirtd" ? pid : 0;
}

void LibvirtHost::start() {
    // With --daemon it returns when the drivers are there, or it fails.
    mustRun(hasSystemd() ? std::vector<std::string>{"/usr/bin/systemctl", "start", "libvirtd.socket", "libvirtd.service"}
                         : std::vector<std::string>{"/usr/sbin/libvirtd", "--daemon"});
    must({"version"});
}

void LibvirtHost::stop(int signal) {
    // Else it would be started again, by its sockets or as a failed service.
    if (hasSystemd())
        mustRun(
            {"/usr/bin/systemctl", "stop", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service"});
    if (const pid_t pid = daemon()) endProcess(pid, signal);
}

Ran LibvirtHost::virsh(std::vector<std::string> arguments, milliseconds deadline) const {
    arguments.insert(arguments.begin(), {"/usr/bin/virsh", "--quiet", "--connect", "qemu:///system"});
    return runProgram(std::move(arguments), deadline);
}

std::string LibvirtHost::must(std::vector<std::string> arguments) const {
    const std::string verb = arguments[0];
    const Ran ran = virsh(std::move(arguments));
    EXPECT_EQ(ran.code, 0) << "virsh " << verb << ": " << ran.error;
    return trimmed(ran.output);
}

std::string xmlEscaped(const std::string& text) {
    std::string escaped;
    for (const char character : text) {
        switch (character) {
            case '&':
                escaped += "&amp;";
                break;
            case '<':
                escaped += "&lt;";
                break;
            case '>':
                escaped += "&gt;";
                break;
            case '\'':
                escaped += "&apos;";
                break;
            case '"':
                escaped += "&quot;";
                break;
            default:
                escaped += character;
        }
    }
    return escaped;
}

TestDomain::TestDomain(const LibvirtHost& host, DomainOptions options) : host_(host), options_(std::move(options)) {
    // The sockets' names are numbers: a hostile one of the domain would not fit.
    static unsigned number = 0;
    ++number;
    const std::string directory = "/var/lib/libvirt/images";
    fs::create_directories(directory);
    fs::create_directories("/run/virt-handover-test");
    disk_ = directory + "/" + name() + ".qcow2";
    heartbeat_ = "/run/virt-handover-test/" + std::to_string(number) + ".heartbeat";
    mustRun({"/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", disk_, "64M"});
    if (options_.network) makeBridge();
    const std::string file = "/run/virt-handover-test/" + std::to_string(number) + ".xml";
    std::ofstream(file) << xml();
    host_.must({"define", file});
}

TestDomain::~TestDomain() {
    if (host_.daemon() == 0) return;
    if (vmm() != 0) host_.virsh({"destroy", "--domain=" + name()});
    host_.must({"undefine", "--nvram", "--domain=" + name()});
    fs::remove(disk_);
}

bool TestDomain::isLinux() const {
    return options_.withLinux || options_.uefi;
}

std::string TestDomain::guestXml() const {
    const std::string cmdline =
        (options_.network ? std::string(" probe.ip=") + guestAddress : "") + options_.cmdline + "</cmdline>\n";
    if (isLinux())
        return "    <kernel>" + required("VH_GUEST_KERNEL") + "</kernel>\n    <initrd>" + required("VH_GUEST_INITRAMFS") +
               "</initrd>\n    <cmdline>console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off clearcpuid=erms "
               "cryptomgr.notests" +
               cmdline;
    // A copy: libvirt changes a kernel's owner.
    const std::string kernel = "/run/virt-handover-test/bare-guest.elf";
    fs::copy_file(required("VH_BARE_GUEST"), kernel, fs::copy_options::skip_existing);
    return "    <kernel>" + kernel + "</kernel>\n    <cmdline>bare" + cmdline;
}

std::string TestDomain::address(unsigned slot) const {
    // Behind a port, where libvirt puts it, a virtio device has no legacy interface, which is what the bare guest knows.
    if (isLinux()) return {};
    return "<address type='pci' domain='0' bus='0' slot='" + std::to_string(slot) + "' function='0'/>";
}

std::string TestDomain::xml() const {
    const bool cells = options_.memory == DomainMemory::TwoCells;
    // 256 MiB for a guest's firmware of 2 MiB more; 192 are enough for the kernel and a working set, and quickly filled.
    const unsigned mib = options_.uefi ? 256 : 192;
    // The test host is emulated down to its virtualization: guests of its own it emulates no more.
    const std::string type = std::getenv("VH_TEST_HOST") ? "kvm" : "qemu";
    std::string xml = "<domain type='" + type + "' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  <name>" +
                      xmlEscaped(name()) + "</name>\n  <memory unit='MiB'>" + std::to_string(mib) + "</memory>\n";
    if (options_.memory != DomainMemory::Anonymous)
        xml += std::string("  <memoryBacking><source type='") + (options_.memory == DomainMemory::File ? "file" : "memfd") +
               "'/><access mode='shared'/></memoryBacking>\n";
    xml += std::string("  <vcpu>") + (cells ? "2" : "1") + "</vcpu>\n";
    if (cells) {
        const std::string half = "' memory='" + std::to_string(mib / 2) + "' unit='MiB' memAccess='shared'/>";
        xml += "  <cpu><numa><cell id='0' cpus='0" + half + "<cell id='1' cpus='1" + half + "</numa></cpu>\n";
    }
    xml += "  <os>\n    <type arch='x86_64' machine='" + options_.machine + "'>hvm</type>\n";
    if (options_.uefi)
        xml +=
            "    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\n"
            "    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>\n";
    xml += guestXml() + "  </os>\n  <features><acpi/></features>\n  <devices>\n    <emulator>" + xmlEscaped(options_.emulator) +
           "</emulator>\n    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='" +
           xmlEscaped(disk_) + "'/><target dev='vda' bus='virtio'/>" + address(0x10) +
           "</disk>\n    <controller type='virtio-serial' index='0'>" + address(0x11) + "</controller>\n    " + options_.serial +
           "\n    <console type='pty'/>\n    <channel type='unix'><source mode='bind' path='" + heartbeat_ +
           "'/><target type='virtio' name='org.virt-handover.heartbeat.0'/></channel>\n";
    if (options_.network)
        xml += std::string("    <interface type='bridge'><source bridge='") + bridge + "'/><model type='virtio'/>" +
               address(0x12) + "</interface>\n";
    if (options_.graphics)
        xml += "    <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>\n    <video><model type='vga'/></video>\n";
    xml += options_.moreDevices + "  </devices>\n";
    if (options_.ready)
        xml += "  <qemu:commandline><qemu:arg value='-machine'/><qemu:arg value='aux-ram-share=on'/></qemu:commandline>\n";
    return xml + "</domain>\n";
}

void TestDomain::start() const {
    host_.must({"start", "--domain=" + name()});
}

void TestDomain::destroy() const {
    host_.must({"destroy", "--domain=" + name()});
}

std::string TestDomain::uuid() const {
    return host_.must({"domuuid", "--domain=" + name()});
}

std::string TestDomain::state() const {
    return host_.must({"domstate", "--domain=" + name()});
}

pid_t TestDomain::vmm() const {
    const std::string text = attributeIn(readIfThere(statusFile()), "pid");
    pid_t pid = 0;
    std::from_chars(text.data(), text.data() + text.size(), pid);
    return pid;
}

std::map<std::string, std::uint64_t> TestDomain::guestStatus() const {
    // A guest that boots through firmware, on a busy machine; and more than one attempt, as for VMs of our own (vm_fixture.cpp).
    for (int attempt = 0; attempt < 10; ++attempt) {
        HeartbeatMonitor monitor;
        try {
            monitor.listen(connectUnix(heartbeat_));
        } catch (const std::system_error& error) {
            ADD_FAILURE() << "the guest's heartbeat: " << error.what();
            return {};
        }
        const bool heard = turnUntil(
            [&] { return monitor.summary().status.contains("mismatches") && monitor.summary().beats > 0; }, seconds(12));
        for (const std::string& error : monitor.summary().errors) ADD_FAILURE() << "the guest probe reports: " << error;
        if (heard) return monitor.summary().status;
    }
    ADD_FAILURE() << "the guest of '" << name() << "' is silent";
    return {};
}

void TestDomain::expectGuestIsWell() const {
    auto before = guestStatus(), after = before;
    const auto goesOn = [&](const char* counter) { return after[counter] > before[counter]; };
    const auto end = std::chrono::steady_clock::now() + patience;
    // Asked first: to ask whether it goes on puts what is missing into it.
    while (!after.empty() && !(goesOn("ram_checked") && goesOn("disk_checked")) && std::chrono::steady_clock::now() < end)
        after = guestStatus();
    EXPECT_EQ(after["mismatches"], 0U);
    EXPECT_GT(after["ram_checked"], before["ram_checked"]) << "the guest does not check its RAM";
    EXPECT_GT(after["disk_checked"], before["disk_checked"]) << "the guest does not get at its disk";
}

void TestDomain::expectConsoleAnswers(const std::string& text) const {
    const std::string path = host_.must({"ttyconsole", "--domain=" + name()});
    const UniqueFd console(::open(path.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    if (!console) {
        ADD_FAILURE() << "open the console '" << path << "': " << std::strerror(errno);
        return;
    }
    termios mode{};
    ::tcgetattr(console.get(), &mode);
    ::cfmakeraw(&mode);
    ::tcsetattr(console.get(), TCSANOW, &mode);
    std::string heard;
    const std::string wanted = "probe: echo " + text;
    // Typed again: what is typed before the guest reads its console is lost.
    for (int attempt = 0; attempt < 30 && heard.find(wanted) == std::string::npos; ++attempt) {
        const std::string line = text + "\r";
        (void)!::write(console.get(), line.data(), line.size());
        turnUntil(
            [&] {
                char buffer[512];
                for (ssize_t length; (length = ::read(console.get(), buffer, sizeof buffer)) > 0;)
                    heard.append(buffer, static_cast<std::size_t>(length));
                return heard.find(wanted) != std::string::npos;
            },
            seconds(2));
    }
    EXPECT_NE(heard.find(wanted), std::string::npos) << "the guest does not answer on '" << path << "'; heard: " << heard;
}

void TestDomain::expectOneVmm() const {
    EXPECT_EQ(vmmsWithFileOpen(disk_), std::set<pid_t>{vmm()})
        << "the disk '" << disk_ << "' is open in other QEMUs than libvirt's";
}

}  // namespace vh::test
