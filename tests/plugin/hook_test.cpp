// The hook as libvirt calls it: the real program, against a real socket, with everything that may be wrong around it. Whatever it
// is, the program ends, and with status 0, since libvirt kills a domain over another one.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "manager/service/hook_inbox.h"
#include "plugin/domain/domain_xml.h"
#include "tests/support/required.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/file.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

constexpr const char* uuid = "c7f155c9-26b1-48e9-abba-797e3338bd8a";
constexpr int deadlineMs = 15'000;  // Longer than the hook's own, which is for a machine that hangs.

/// A domain that lacks nothing but shared firmware.
std::string domainXml(const std::string& more = "") {
    return "<domain type='qemu'>\n  <name>web1</name>\n  <uuid>" + std::string(uuid) +
           "</uuid>\n  <memory unit='KiB'>262144</memory>\n  <memoryBacking>\n    <source type='memfd'/>\n"
           "    <access mode='shared'/>\n  </memoryBacking>\n  <os>\n    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>\n"
           "  </os>\n  <devices>\n    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n" +
           more + "  </devices>\n</domain>\n";
}

UniqueFd memoryFile(const std::string& text = "") {
    UniqueFd file(::memfd_create("hook-test", MFD_CLOEXEC));
    for (std::size_t sent = 0; sent < text.size();) {
        const ssize_t length = ::write(file.get(), text.data() + sent, text.size() - sent);
        if (length <= 0) throw std::runtime_error("cannot fill a memfd");
        sent += static_cast<std::size_t>(length);
    }
    ::lseek(file.get(), 0, SEEK_SET);
    return file;
}

std::string contentsOf(int fd) {
    return readFile("/proc/self/fd/" + std::to_string(fd));
}

class Hook : public testing::Test {
 protected:
    std::string socketPath() const { return directory_ + "/libvirt-hook.sock"; }

    UniqueFd bindSocket(int type = SOCK_DGRAM) const {
        UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        std::strcpy(address.sun_path, socketPath().c_str());
        EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        return socket;
    }

    static std::optional<std::string> received(const UniqueFd& socket) {
        std::string text(8192, '\0');
        const ssize_t length = ::recv(socket.get(), text.data(), text.size(), 0);
        if (length < 0) return {};
        text.resize(static_cast<std::size_t>(length));
        return text;
    }

    void policy(const std::string& text) const { std::ofstream(directory_ + "/libvirt.yaml") << text; }

    struct Streams {
        int input = -1;  ///< Borrowed; -1 for a closed one.
        int output = -1;
        int error = -1;
    };
    /// Fails the test unless it ends, with status 0.
    void run(std::vector<std::string> arguments, Streams streams) const {
        arguments.insert(arguments.begin(), test::required("VH_HOOK"));
        std::vector<char*> argv;
        for (std::string& argument : arguments) argv.push_back(argument.data());
        argv.push_back(nullptr);
        const std::string runtime = "VIRT_HANDOVER_RUNTIME_DIR=" + directory_,
                          file = "VIRT_HANDOVER_LIBVIRT_POLICY=" + directory_ + "/libvirt.yaml";
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            // Out of the way of what they are to become.
            int fds[3] = {streams.input, streams.output, streams.error};
            for (int& fd : fds)
                if (fd >= 0) fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 100);
            for (int i = 0; i < 3; ++i)
                if (fds[i] < 0)
                    ::close(i);
                else
                    ::dup2(fds[i], i);
            char* environment[] = {const_cast<char*>(runtime.c_str()), const_cast<char*>(file.c_str()), nullptr};
            ::execve(argv[0], argv.data(), environment);
            ::_exit(127);
        }
        const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
        pollfd waited{process.get(), POLLIN, 0};
        const bool ended = ::poll(&waited, 1, deadlineMs) == 1;
        EXPECT_TRUE(ended) << "the hook does not end";
        if (!ended) ::kill(child, SIGKILL);
        int status = 0;
        ::waitpid(child, &status, 0);
        EXPECT_EQ(status, 0) << "libvirt would kill a domain over this";
    }

    /// What it prints.
    std::string output(const std::vector<std::string>& arguments, const std::string& xml) const {
        const UniqueFd input = memoryFile(xml), printed = memoryFile(), errors = memoryFile();
        run(arguments, {input.get(), printed.get(), errors.get()});
        return contentsOf(printed.get());
    }

    const TemporaryDirectory scratch_;
    std::string directory_ = scratch_.path();
};

TEST_F(Hook, tellsTheManagerWhatHappened) {
    const UniqueFd socket = bindSocket();
    for (const char* operation : {"started", "reconnect", "stopped", "release"}) {
        EXPECT_EQ(output({"web1", operation, "begin", "-"}, domainXml()), "");
        EXPECT_EQ(parseHookNotice(received(socket).value_or("")), (HookNotice{"web1", uuid, operation, ""}));
        EXPECT_EQ(received(socket), std::nullopt) << "one is enough";
    }
    output({"web1", "release", "end", "destroyed"}, domainXml());
    EXPECT_EQ(parseHookNotice(received(socket).value_or("")), (HookNotice{"web1", uuid, "release", "destroyed"}));
}

TEST_F(Hook, saysNothingOfWhatIsNotAskedFor) {
    policy("make_ready_on: [restore, migrate]\n");
    const UniqueFd socket = bindSocket();
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"web1", "prepare", "begin", "-"},
                                                      {"web1", "start", "begin", "-"},
                                                      {"web1", "restore", "end", "-"},
                                                      {"web1", "migrate"},
                                                      {"web1", "attach", "begin", "-"},
                                                      {"web1", "--help"},
                                                      {"web1", ""}}) {
        EXPECT_EQ(output(arguments, domainXml()), "");
        EXPECT_EQ(received(socket), std::nullopt);
    }
}

TEST_F(Hook, endsWhateverItIsCalledWith) {
    const UniqueFd socket = bindSocket();
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                      {""},
                                                      {"web1"},
                                                      {"", "", "", ""},
                                                      {"--version"},
                                                      {std::string(100'000, 'n'), "started", "begin", std::string(100'000, 'r')},
                                                      {"\xff\xfe\xc3", "stopped", "end", "\x80"},
                                                      {"web1", "started", "begin", "-", "one", "more"}})
        EXPECT_EQ(output(arguments, domainXml()), "");
    std::size_t notices = 0;
    for (std::optional<std::string> text; (text = received(socket)); ++notices) {
        EXPECT_LE(text->size(), HookInbox::maximumBytes);
        EXPECT_NO_THROW(parseHookNotice(*text)) << *text;
    }
    EXPECT_EQ(notices, 3U);
}

TEST_F(Hook, endsWhenThereIsNoManager) {
    output({"web1", "started", "begin", "-"}, domainXml());
    bindSocket().reset();  // A socket file whose owner is dead.
    output({"web1", "started", "begin", "-"}, domainXml());
    std::filesystem::remove(socketPath());
    std::ofstream(socketPath()) << "no socket";
    output({"web1", "started", "begin", "-"}, domainXml());
    std::filesystem::remove(socketPath());
    const UniqueFd stream = bindSocket(SOCK_STREAM);
    output({"web1", "started", "begin", "-"}, domainXml());
    directory_ += "/" + std::string(150, 'd');
    output({"web1", "started", "begin", "-"}, domainXml());
    directory_ = directory_.substr(0, directory_.rfind('/'));
}

TEST_F(Hook, endsWhenTheManagerHangs) {
    const UniqueFd socket = bindSocket();
    // Nobody reads: the kernel takes net.unix.max_dgram_qlen of them and no more.
    for (int i = 0; i < 30; ++i) output({"web1", "started", "begin", "-"}, domainXml());
    UniqueFd other(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::strcpy(address.sun_path, socketPath().c_str());
    ASSERT_EQ(::connect(other.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    while (::send(other.get(), "x", 1, 0) == 1) {
    }
    EXPECT_EQ(errno, EAGAIN);
    output({"web1", "stopped", "end", "-"}, domainXml());
}

TEST_F(Hook, endsWithoutItsStandardStreams) {
    policy("make_ready_on: [restore]\n");
    const UniqueFd socket = bindSocket();
    for (const char* operation : {"started", "restore"})
        for (int closed = 0; closed < 8; ++closed) {
            const UniqueFd input = memoryFile(domainXml()), printed = memoryFile(), errors = memoryFile();
            run({"web1", operation, "begin", "-"},
                {closed & 1 ? -1 : input.get(), closed & 2 ? -1 : printed.get(), closed & 4 ? -1 : errors.get()});
        }
    // Nor when the one that reads goes away.
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    ::close(ends[0]);
    const UniqueFd nobody(ends[1]), input = memoryFile(domainXml());
    run({"web1", "restore", "begin", "-"}, {input.get(), nobody.get(), nobody.get()});
}

TEST_F(Hook, endsWhenTheXmlNeverComes) {
    policy("make_ready_on: [migrate]\n");
    const UniqueFd socket = bindSocket();
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd silent(ends[0]), open(ends[1]), nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    run({"web1", "reconnect", "begin", "-"}, {silent.get(), nothing.get(), nothing.get()});
    run({"web1", "migrate", "begin", "-"}, {silent.get(), nothing.get(), nothing.get()});
}

TEST_F(Hook, readsNoMoreThanItNeeds) {
    const UniqueFd socket = bindSocket();
    const std::string xml = domainXml("<!--" + std::string(10'000'000, 'x') + "-->");
    const UniqueFd input = memoryFile(xml), nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    run({"web1", "started", "begin", "-"}, {input.get(), nothing.get(), nothing.get()});
    EXPECT_EQ(parseHookNotice(received(socket).value_or("")).uuid, uuid);
    // The offset is the program's, too.
    EXPECT_LT(::lseek(input.get(), 0, SEEK_CUR), 1'000'000);
}

TEST_F(Hook, makesADomainReadyWhereThePolicySaysSo) {
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), "") << "without a policy";
    policy("");
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), "");
    policy("make_ready_on: []\n");
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), "");
    policy("make_ready_on: [restore]\n");
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), makeReady(domainXml()));
    EXPECT_EQ(output({"web1", "migrate", "begin", "-"}, domainXml()), "");
    policy("make_ready_on: [migrate, restore]\n");
    EXPECT_EQ(output({"web1", "migrate", "begin", "-"}, domainXml()), makeReady(domainXml()));
    EXPECT_EQ(output({"web1", "migrate", "begin", "-"}, makeReady(domainXml())), "") << "libvirt keeps what is ready";
    const std::string large = domainXml("<!--" + std::string(10'000'000, 'x') + "-->");
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, large), makeReady(large));
}

TEST_F(Hook, leavesADomainAloneThatLibvirtWouldNotRestore) {
    policy("make_ready_on: [restore]\n");
    std::string xml = domainXml();
    const std::size_t at = xml.find("  <memoryBacking>"), end = xml.find("  <os>");
    xml.erase(at, end - at);
    ASSERT_NE(makeReady(xml), xml);
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, xml), "");
}

TEST_F(Hook, leavesXmlAloneWhenThePolicyIsBroken) {
    for (const char* broken :
         {"make_ready_on: restore\n", "make_ready_on: {restore: true}\n", "make_ready_on: [restore, start]\n",
          "make_ready_on: [[restore]]\n", "make_ready_on: [restore\n", "make_ready_on: [restore]\nmake_redy_on: [migrate]\n",
          "- make_ready_on\n", "restore\n", "\t\x01\xff", "&a [*a]\n", "? [a]\n: b\n", "make_ready_on: [restore]\n--- %\n..."}) {
        policy(broken);
        const UniqueFd input = memoryFile(domainXml()), printed = memoryFile(), errors = memoryFile();
        run({"web1", "restore", "begin", "-"}, {input.get(), printed.get(), errors.get()});
        if (std::string(broken).find("---") == std::string::npos) {
            EXPECT_EQ(contentsOf(printed.get()), "") << broken;
            EXPECT_THAT(contentsOf(errors.get()), testing::HasSubstr("stays as it is")) << broken;
        }
    }
    policy("make_ready_on: [restore]\n#" + std::string(100'000, 'x'));
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), "");
    policy(std::string(50'000, '['));
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), "");
    std::filesystem::remove(directory_ + "/libvirt.yaml");
    std::filesystem::create_directory(directory_ + "/libvirt.yaml");
    EXPECT_EQ(output({"web1", "restore", "begin", "-"}, domainXml()), "");
}

TEST_F(Hook, leavesBrokenXmlAlone) {
    policy("make_ready_on: [restore]\n");
    const std::string good = domainXml("    <disk type='file'><source file='/a b'/><target dev='vda'/></disk>\n");
    std::string deep = "<domain>";
    for (int i = 0; i < 1'000'000; ++i) deep += "<a>";
    for (const std::string& xml : {std::string(), std::string("no xml"), std::string(1000, '\0'), std::string("<domain/>"),
                                   good.substr(0, good.size() / 2), std::string("<network>") + good + "</network>", deep,
                                   deep + "</domain>", std::string(10'000'000, '<')})
        EXPECT_EQ(output({"web1", "restore", "begin", "-"}, xml), "");
}

TEST_F(Hook, standsXmlThatIsDamagedAtRandom) {
    policy("make_ready_on: [restore]\n");
    const UniqueFd socket = bindSocket();
    const std::string good = domainXml("    <disk type='file'><source file='/a b'/><target dev='vda'/></disk>\n");
    constexpr unsigned seed = 20261125;
    std::mt19937 random(seed);
    for (int round = 0; round < 150; ++round) {
        std::string xml = good;
        for (unsigned change = random() % 4 + 1; change > 0; --change) {
            const std::size_t at = random() % xml.size();
            switch (random() % 3) {
                case 0:
                    xml[at] = static_cast<char>(random());
                    break;
                case 1:
                    xml.erase(at, random() % 40 + 1);
                    break;
                default:
                    xml.insert(at, xml.substr(random() % xml.size(), random() % 40));
                    break;
            }
            if (xml.empty()) xml = "x";
        }
        SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round) + ":\n" + xml);
        output({"web1", "started", "begin", "-"}, xml);
        EXPECT_LE(received(socket).value_or("").size(), HookInbox::maximumBytes);
        std::string wanted;
        try {
            wanted = makeReady(xml);
        } catch (const std::exception&) {
        }
        EXPECT_THAT(output({"web1", "restore", "begin", "-"}, xml), testing::AnyOf("", wanted));
    }
}

}  // namespace
}  // namespace vh
