// What system tests against a real libvirt share. They run inside tests/libvirt/in-test-root, or tests/test-host/in-test-host
// --systemd: a libvirt, users and a network of their own, so that nothing here may look at what was there before, and all of it
// ends with the program.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/vm_fixture.h"
#include "vmm-shim/unique_fd.h"

namespace vh::test {

/// Runs a program until it ends; one that has not ended by the deadline is killed, fails the test, and has code -1.
Ran runProgram(std::vector<std::string> command, std::chrono::milliseconds deadline);

/// The QEMUs that have a file open, whoever started them: two with one disk are a disk about to be destroyed.
std::set<pid_t> vmmsWithFileOpen(const std::string& file);

/// All QEMUs there are.
std::set<pid_t> allVmms();

/// The process that a pid file names, 0 for none.
pid_t pidIn(const std::string& file);

/// Sends a signal and waits until the process is gone; fails the test when it does not go.
void endProcess(pid_t pid, int signal);

/// What qemu.conf says of the QEMUs.
enum class VmmUser {
    LibvirtQemu,  ///< Nothing: user libvirt-qemu, a private /dev, seccomp, files change their owner; as Debian ships it.
    Root,         ///< User root, without a namespace.
};
const char* name(VmmUser user);

/// virtlogd and libvirtd: as units where systemd is, which it is not in the test root; else started by hand.
class LibvirtHost {
 public:
    /// `qemuSettings`: more lines for qemu.conf.
    explicit LibvirtHost(VmmUser user = VmmUser::LibvirtQemu, const std::string& qemuSettings = {});
    /// Destroys every domain, ends the daemons, and fails the test when a QEMU is left.
    ~LibvirtHost();
    LibvirtHost(const LibvirtHost&) = delete;

    /// Starts libvirtd and waits until it answers.
    void start();
    /// Ends libvirtd (SIGTERM unless told otherwise); domains go on.
    void stop(int signal = 15);
    void restart() {
        stop();
        start();
    }
    /// 0 when it is not running.
    pid_t daemon() const;

    Ran virsh(std::vector<std::string> arguments, std::chrono::milliseconds deadline = patience) const;
    /// The same for what has to succeed: fails the test otherwise. Returns the output without the line ends behind it.
    std::string must(std::vector<std::string> arguments) const;
};

enum class DomainMemory {
    Memfd,
    File,
    TwoCells,
    Anonymous,  ///< QEMU's own, private: what a domain has that nobody made ready.
};

struct DomainOptions {
    std::string name = "t";
    DomainMemory memory = DomainMemory::Memfd;
    bool ready = true;       ///< `-machine aux-ram-share=on`
    bool withLinux = false;  ///< In place of the bare guest (tests/bare-guest), which lets go of no device.
    bool network = false;    ///< On a bridge, where the guest answers pings.
    bool uefi = false;       ///< With Linux, too.
    bool graphics = false;
    std::string emulator = oldQemu();
    std::string machine = "pc-q35-10.0";
    std::string serial = "<serial type='pty'/>";
    std::string moreDevices;  ///< XML.
    std::string cmdline;      ///< More for the kernel's command line.
};

/// A persistent domain with a qcow2 disk, a pty console and the guest probe; destroyed and undefined at the end.
class TestDomain {
 public:
    static constexpr const char* bridge = "vhbr0";            ///< Made for the first domain that has a network.
    static constexpr const char* guestAddress = "10.77.0.2";  ///< The host's is 10.77.0.1.

    TestDomain(const LibvirtHost& host, DomainOptions options);
    ~TestDomain();
    TestDomain(const TestDomain&) = delete;

    const DomainOptions& options() const { return options_; }
    const std::string& name() const { return options_.name; }
    const std::string& disk() const { return disk_; }
    const std::string& heartbeatSocket() const { return heartbeat_; }
    std::string statusFile() const { return "/run/libvirt/qemu/" + name() + ".xml"; }

    /// What it was defined with.
    std::string xml() const;
    /// Starts it. Does not wait for the guest.
    void start() const;
    void destroy() const;

    std::string uuid() const;
    std::string state() const;
    /// The process that libvirt takes for its QEMU, 0 for none; from libvirt's own file, so it can be asked while no libvirtd
    /// runs.
    pid_t vmm() const;

    /// What the guest says of itself just now; fails the test when it is silent for too long.
    std::map<std::string, std::uint64_t> guestStatus() const;
    /// The guest ticks, has lost nothing, and goes on checking its RAM and writing its disk.
    void expectGuestIsWell() const;
    /// The guest answers what is typed on its console.
    void expectConsoleAnswers(const std::string& text) const;
    /// Exactly one QEMU has the disk open, and libvirt knows it by its pid.
    void expectOneVmm() const;

 private:
    bool isLinux() const;
    /// What it boots.
    std::string guestXml() const;
    std::string address(unsigned slot) const;

    const LibvirtHost& host_;
    DomainOptions options_;
    std::string disk_;
    std::string heartbeat_;
};

/// `<`, `&`, quotes: for text in XML, also inside attributes.
std::string xmlEscaped(const std::string& text);

}  // namespace vh::test
