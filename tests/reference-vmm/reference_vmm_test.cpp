// The reference VMM, driven over its monitor by a small client of the test's own: VMMs are started as a manager starts them, and
// handed over by hand.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/reference-vmm/reference_options.h"
#include "tests/support/open_descriptors.h"
#include "tests/support/required.h"
#include "tests/support/temporary_directory.h"
#include "vmm-shim/cpr_channel.h"
#include "vmm-shim/unix_socket.h"

namespace vh {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr int patienceMs = 20'000;  // Only ever waited for in full by a test that fails.

json unixChannel(const char* type, const std::string& path) {
    return {{"channel-type", type}, {"addr", {{"transport", "socket"}, {"type", "unix"}, {"path", path}}}};
}

/// Lines from a socket.
class Lines {
 public:
    Lines() = default;
    explicit Lines(UniqueFd socket) : socket_(std::move(socket)) {}
    int fd() const { return socket_.get(); }
    void close() { socket_.reset(); }

    /// Nothing when the peer has closed, or within the patience has not said anything.
    std::optional<std::string> next(int waitMs = patienceMs) {
        for (;;) {
            if (const std::size_t end = buffer_.find('\n'); end != std::string::npos) {
                const std::string line = buffer_.substr(0, end);
                buffer_.erase(0, end + 1);
                return line;
            }
            pollfd entry{socket_.get(), POLLIN, 0};
            if (::poll(&entry, 1, waitMs) <= 0) return std::nullopt;
            char data[65536];
            const ssize_t count = ::recv(socket_.get(), data, sizeof(data), 0);
            if (count <= 0) return std::nullopt;
            buffer_.append(data, static_cast<std::size_t>(count));
        }
    }

 private:
    UniqueFd socket_;
    std::string buffer_;
};

struct VmOptions {
    std::vector<std::string> arguments;  ///< After the others.
    int ram = -1;                        ///< A file that the VM's owner has; the VMM makes a memfd of its own without.
    bool incoming = false;
    bool cpr = false;
    bool auxRamShare = true;
};

class Vmm {
 public:
    Vmm(const std::string& directory, const VmOptions& setup) : directory_(directory) {
        std::filesystem::create_directory(directory);
        output_ = UniqueFd(::memfd_create("output", MFD_CLOEXEC));
        const UniqueFd monitor = listenUnix(directory + "/qmp.sock"), heartbeat = listenUnix(directory + "/heartbeat.sock"),
                       console = listenUnix(directory + "/console.sock");
        const std::string size = std::to_string(ramBytes);
        std::vector<std::string> argv{
            program(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-S",
            "-name",
            "guest=t",
            "-machine",
            "pc-q35-10.0,memory-backend=ram0" + std::string(setup.auxRamShare ? ",aux-ram-share=on" : ""),
            "-accel",
            "tcg",
            "-m",
            "size=" + size + "B",
            "-object",
            setup.ram < 0 ? "memory-backend-memfd,id=ram0,share=on,size=" + size
                          : "memory-backend-file,id=ram0,share=on,mem-path=/proc/self/fd/6,size=" + size,
            "-chardev",
            "socket,id=qmp,fd=3,server=on,wait=off",
            "-mon",
            "chardev=qmp,mode=control",
            "-chardev",
            "socket,id=con,fd=4,server=on,wait=off",
            "-serial",
            "chardev:con",
            "-chardev",
            "socket,id=beat,fd=5,server=on,wait=off",
            "-device",
            "virtserialport,bus=b.0,chardev=beat,name=org.virt-handover.heartbeat.0"};
        if (setup.incoming) argv.insert(argv.end(), {"-incoming", "defer"});
        if (setup.cpr) argv.insert(argv.end(), {"-incoming", unixChannel("cpr", cprPath()).dump()});
        argv.insert(argv.end(), setup.arguments.begin(), setup.arguments.end());
        std::vector<int> descriptors{monitor.get(), console.get(), heartbeat.get()};
        if (setup.ram >= 0) descriptors.push_back(setup.ram);
        start(argv, descriptors);
        // In the backlog, if nobody serves yet.
        monitor_ = Lines(connectUnix(directory + "/qmp.sock"));
        beats_ = Lines(connectUnix(directory + "/heartbeat.sock"));
    }
    ~Vmm() {
        if (pid_ > 0 && !status_) {
            ::kill(pid_, SIGKILL);
            waitForEnd();
        }
    }
    Vmm(const Vmm&) = delete;
    Vmm& operator=(const Vmm&) = delete;

    static constexpr std::uint64_t ramBytes = std::uint64_t{64} << 20;
    static std::string program() { return test::required("VH_REFERENCE_VMM"); }

    std::string cprPath() const { return directory_ + "/cpr.sock"; }
    std::string mainPath() const { return directory_ + "/main.sock"; }
    pid_t pid() const { return pid_; }
    Lines& monitor() { return monitor_; }
    Lines& beats() { return beats_; }

    void send(const std::string& command, const json& arguments = nullptr, int descriptor = -1) {
        json request{{"execute", command}, {"id", ++lastId_}};
        if (!arguments.is_null()) request["arguments"] = arguments;
        const std::string line = request.dump() + "\n";
        sendSome(monitor_.fd(), line.data(), line.size(), descriptor);
    }
    /// The answer to the command that was sent last, as `return` or `error`; null when the monitor closes or is silent.
    json answer() {
        while (const std::optional<std::string> line = monitor_.next()) {
            const json message = json::parse(*line);
            if (message.contains("event")) events_.push_back(message);
            if (message.value("id", 0) == lastId_) return message;
        }
        return nullptr;
    }
    json ask(const std::string& command, const json& arguments = nullptr, int descriptor = -1) {
        if (!std::exchange(greeted_, true)) {
            send("qmp_capabilities");
            if (answer().is_null()) return nullptr;
        }
        send(command, arguments, descriptor);
        return answer();
    }
    json value(const std::string& command, const json& arguments = nullptr, int descriptor = -1) {
        const json reply = ask(command, arguments, descriptor);
        EXPECT_TRUE(reply.contains("return")) << command << ": " << reply << said();
        return reply.value("return", json());
    }
    std::string refusal(const std::string& command, const json& arguments = nullptr) {
        const json reply = ask(command, arguments);
        return reply.contains("error") ? reply["error"].value("desc", "") : "not refused: " + reply.dump();
    }
    std::string runState() { return value("query-status").value("status", ""); }
    std::string migration() { return value("query-migrate").value("status", "none"); }

    /// Waits for an event, and for this status when it is MIGRATION; forgets those before it.
    json awaitEvent(const std::string& name, const std::string& status = {}) {
        for (;;) {
            while (!events_.empty()) {
                const json event = events_.front();
                events_.pop_front();
                seen_ += event.value("event", "") + " " + event.value("data", json::object()).value("status", "") + "; ";
                if (event["event"] == name && (status.empty() || event["data"].value("status", "") == status)) return event;
            }
            const std::optional<std::string> line = monitor_.next();
            if (!line) {
                ADD_FAILURE() << "no event " << name << " " << status << ", but: " << seen_ << said();
                return nullptr;
            }
            const json message = json::parse(*line);
            if (message.contains("event")) events_.push_back(message);
        }
    }

    /// The number of the next beat; other lines are kept. 0 when there is none.
    std::uint64_t beat(int waitMs = patienceMs) {
        while (const std::optional<std::string> line = beats_.next(waitMs)) {
            if (line->starts_with("B ")) return lastBeat_ = std::stoull(line->substr(2));
            if (line->starts_with("E ")) errors_.push_back(*line);
            if (line->starts_with("S ")) statusLine_ = *line;
        }
        return 0;
    }
    /// The number of the last beat, of a guest that is stopped.
    std::uint64_t lastBeat() {
        while (beat(0) > 0) continue;
        return lastBeat_;
    }
    /// A field of a status line that comes from now on.
    std::uint64_t status(const std::string& key) {
        statusLine_.clear();
        while (statusLine_.empty())
            if (beat() == 0) throw std::runtime_error("the guest is silent");
        std::istringstream fields(statusLine_);
        for (std::string field; fields >> field;)
            if (field.starts_with(key + "=")) return std::stoull(field.substr(key.size() + 1));
        throw std::runtime_error("no '" + key + "' in '" + statusLine_ + "'");
    }
    const std::vector<std::string>& errors() const { return errors_; }

    /// As waitpid() tells it.
    int waitForEnd() {
        if (!status_) {
            int status = 0;
            ::waitpid(pid_, &status, 0);
            status_ = status;
        }
        return *status_;
    }
    bool exitedWith(int code) {
        const int status = waitForEnd();
        return WIFEXITED(status) && WEXITSTATUS(status) == code;
    }
    bool wasKilled() {
        const int status = waitForEnd();
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    }
    std::string said() const {
        char text[4096];
        const ssize_t count = ::pread(output_.get(), text, sizeof(text), 0);
        return " [" + std::string(text, count > 0 ? static_cast<std::size_t>(count) : 0) + "]";
    }

    void setCapabilities(std::initializer_list<const char*> names) {
        json list = json::array();
        for (const char* name : names) list.push_back({{"capability", name}, {"state", true}});
        value("migrate-set-capabilities", {{"capabilities", list}});
    }

 private:
    void start(const std::vector<std::string>& argv, const std::vector<int>& descriptors) {
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_adddup2(&actions, output_.get(), STDERR_FILENO);
        // High first, so that no number is both a source and a target.
        std::vector<UniqueFd> high;
        for (std::size_t i = 0; i < descriptors.size(); ++i) {
            high.emplace_back(::fcntl(descriptors[i], F_DUPFD_CLOEXEC, 100));
            ::posix_spawn_file_actions_adddup2(&actions, high.back().get(), static_cast<int>(3 + i));
        }
        std::vector<char*> pointers;
        for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
        pointers.push_back(nullptr);
        const int error = ::posix_spawn(&pid_, pointers[0], &actions, nullptr, pointers.data(), environ);
        ::posix_spawn_file_actions_destroy(&actions);
        if (error != 0) throw std::system_error(error, std::generic_category(), "start '" + argv[0] + "'");
    }

    std::string directory_;
    UniqueFd output_;
    pid_t pid_ = 0;
    std::optional<int> status_;
    Lines monitor_, beats_;
    bool greeted_ = false;
    int lastId_ = 0;
    std::deque<json> events_;
    std::uint64_t lastBeat_ = 0;
    std::string seen_, statusLine_;
    std::vector<std::string> errors_;
};

class ReferenceVmmTest : public NoDescriptorLeaks {
 protected:
    /// The old VMM, whose guest runs.
    Vmm& startOld(VmOptions setup = {}) {
        old_ = std::make_unique<Vmm>(path_ + "/old", setup);
        old_->setCapabilities({"events", "return-path"});
        old_->value("cont");
        EXPECT_GT(old_->beat(), 0U) << old_->said();
        return *old_;
    }
    Vmm& startNew(VmOptions setup = {}) {
        setup.incoming = true;
        new_ = std::make_unique<Vmm>(path_ + "/new", setup);
        return *new_;
    }
    Vmm& startNewByCpr(VmOptions setup = {}) {
        setup.cpr = true;
        startNew(setup);
        // Nothing else tells that it listens.
        for (int tries = 0; tries < patienceMs && !isListening(new_->cprPath()); ++tries) ::usleep(1000);
        return *new_;
    }
    int makeRam() {
        ram_ = UniqueFd(::memfd_create("ram0", MFD_CLOEXEC));
        EXPECT_EQ(::ftruncate(ram_.get(), static_cast<off_t>(Vmm::ramBytes)), 0);
        return ram_.get();
    }

    json bothChannels() const {
        return {{"channels", json::array({unixChannel("main", new_->mainPath()), unixChannel("cpr", new_->cprPath())})}};
    }
    json mainChannel() const { return {{"channels", json::array({unixChannel("main", new_->mainPath())})}}; }

    /// The CPR state goes over; the old one's guest runs on.
    void sendCprState() {
        old_->value("migrate-set-parameters", {{"mode", "cpr-transfer"}});
        old_->value("migrate", bothChannels());
    }
    /// The main channel opens; then it is all up to the two.
    void letGo() {
        new_->setCapabilities({"events", "return-path"});
        new_->value("migrate-incoming", mainChannel());
    }
    void handOverByCpr() {
        sendCprState();
        letGo();
    }
    void expectGuestGoesOnOnNew() {
        old_->awaitEvent("MIGRATION", "completed");
        EXPECT_EQ(old_->runState(), "postmigrate");
        new_->awaitEvent("MIGRATION", "completed");
        EXPECT_EQ(new_->runState(), "paused");
        const std::uint64_t last = old_->lastBeat();
        EXPECT_GT(last, 0U);
        new_->value("cont");
        EXPECT_EQ(new_->beat(), last + 1);
        EXPECT_EQ(new_->status("mismatches"), 0U);
        EXPECT_THAT(new_->errors(), testing::IsEmpty());
    }

    /// As a shim does it: takes the CPR state and calls the migration off.
    CprCapture harvest(Vmm& vmm) {
        const std::string path = path_ + "/harvest.sock";
        const UniqueFd listener = listenUnix(path);
        vmm.value("migrate-set-parameters", {{"mode", "cpr-transfer"}});
        vmm.value("migrate", {{"channels", json::array({unixChannel("main", path_ + "/nobody"), unixChannel("cpr", path)})}});
        const UniqueFd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        CprReceiver receiver;
        while (!receiver.receiveSome(socket.get())) continue;
        EXPECT_EQ(vmm.runState(), "running");
        vmm.value("migrate_cancel");
        EXPECT_EQ(vmm.migration(), "cancelled");
        std::filesystem::remove(path);
        return receiver.take();
    }

    const TemporaryDirectory directory_;
    const std::string& path_ = directory_.path();
    UniqueFd ram_;
    std::unique_ptr<Vmm> old_, new_;
};

TEST_F(ReferenceVmmTest, answersWhatABinaryIsAsked) {
    auto [ours, theirs] = unixPair();
    const std::string number = std::to_string(theirs.get());
    ::fcntl(theirs.get(), F_SETFD, 0);
    const std::string chardev = "socket,id=qmp,fd=" + number, program = Vmm::program();
    std::vector<std::string> argv{
        program,   "-machine",   "none", "-nodefaults", "-S", "-chardev", chardev, "-mon", "chardev=qmp,mode=control",
        "--fault", "monitor=die"};
    std::vector<char*> pointers;
    for (std::string& argument : argv) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    pid_t pid = 0;
    ASSERT_EQ(::posix_spawn(&pid, program.c_str(), nullptr, nullptr, pointers.data(), environ), 0);
    theirs.reset();
    Lines monitor(std::move(ours));
    std::string questions;
    for (const char* command : {"qmp_capabilities", "query-version", "query-machines", "device-list-properties", "quit"})
        questions += json{{"execute", command}, {"id", command}, {"arguments", {{"typename", "VGA"}}}}.dump() + "\n";
    sendSome(monitor.fd(), questions.data(), questions.size());
    std::map<std::string, json> answers;
    while (const auto line = monitor.next()) {
        const json message = json::parse(*line);
        if (message.contains("id")) answers[message["id"]] = message["return"];
    }
    EXPECT_EQ(answers["query-version"]["qemu"]["major"], 11);
    EXPECT_EQ(answers["query-version"]["package"], "virt-handover reference VMM");
    EXPECT_THAT(answers["query-machines"].dump(), HasSubstr(R"("name":"pc-q35-10.0")"));
    EXPECT_THAT(answers["query-machines"].dump(), HasSubstr(R"("alias":"q35")"));
    EXPECT_EQ(answers["device-list-properties"], json::array());
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
}

TEST_F(ReferenceVmmTest, countsWhileItRunsAndNotWhileItIsStopped) {
    Vmm& vmm = startOld();
    std::uint64_t last = vmm.beat();
    for (int i = 0; i < 20; ++i) {
        const std::uint64_t beat = vmm.beat();
        ASSERT_EQ(beat, last + 1);
        last = beat;
    }
    vmm.value("stop");
    vmm.awaitEvent("STOP");
    EXPECT_EQ(vmm.runState(), "paused");
    last = vmm.lastBeat();
    EXPECT_EQ(vmm.beat(100), 0U) << "a stopped guest has beaten";
    vmm.value("cont");
    vmm.awaitEvent("RESUME");
    EXPECT_EQ(vmm.beat(), last + 1);
    EXPECT_GT(vmm.status("ram_checked"), 0U);
    EXPECT_EQ(vmm.status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, servesOneMonitorClientAfterTheOther) {
    Vmm& vmm = startOld();
    Lines second(connectUnix(path_ + "/old/qmp.sock"));
    EXPECT_FALSE(second.next(50)) << "two clients at a time";
    vmm.monitor().close();
    EXPECT_THAT(second.next().value_or(""), HasSubstr("QMP"));
    const std::string tooEarly = "{\"execute\":\"query-status\",\"id\":\"a\"}\n";
    sendSome(second.fd(), tooEarly.data(), tooEarly.size());
    EXPECT_THAT(second.next().value_or(""), testing::AllOf(HasSubstr("qmp_capabilities"), HasSubstr(R"("id":"a")")));
}

TEST_F(ReferenceVmmTest, quitsAndPowersDownWhenAsked) {
    startOld().value("quit");
    EXPECT_TRUE(old_->exitedWith(0));
    std::filesystem::remove_all(path_ + "/old");
    startOld().value("system_powerdown");
    old_->awaitEvent("POWERDOWN");
    EXPECT_TRUE(old_->awaitEvent("SHUTDOWN")["data"]["guest"]);
    EXPECT_TRUE(old_->exitedWith(0));
}

TEST_F(ReferenceVmmTest, keepsTheNumberOfABeatThatNobodyTook) {
    Vmm& vmm = startOld({.arguments = {"--beats-per-second", "1000"}});
    std::uint64_t last = 0;
    // Nobody reads until the socket is full, at some 300 lines. Longer than it takes only matters to a test that fails.
    for (int tries = 0; tries < 40 && vmm.status("unsent") == 0; ++tries) {
        last = vmm.lastBeat();
        ::usleep(500'000);
        for (int i = 0; i < 1000; ++i) {
            const std::uint64_t beat = vmm.beat();
            ASSERT_EQ(beat, last + 1);
            last = beat;
        }
    }
    EXPECT_GT(vmm.status("unsent"), 0U);
}

TEST_F(ReferenceVmmTest, tellsItsRamBlocksAsQemuDoes) {
    Vmm& vmm = startOld({.arguments = {"--vram-mib", "8"}});
    const std::string table = vmm.value("x-query-ramblock")["human-readable-text"];
    EXPECT_THAT(table, HasSubstr("              Block Name    PSize              Offset               Used              Total"
                                 "                HVA  RO\n"));
    EXPECT_THAT(table,
                HasSubstr("                    ram0    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x"));
    EXPECT_THAT(table,
                HasSubstr("   0000:00:01.0/ref.vram    4 KiB  0x0000000004000000 0x0000000000800000 0x0000000000800000 0x"));
    EXPECT_THAT(table,
                HasSubstr("         /rom@ref/tables    4 KiB  0x0000000004800000 0x0000000000020000 0x0000000000200000 0x"));
    EXPECT_THAT(table,
                HasSubstr("                ref.bios    4 KiB  0x0000000004a00000 0x0000000000040000 0x0000000000040000 0x"));
    const json objects = vmm.value("qom-list", {{"path", "/objects"}});
    EXPECT_THAT(objects.dump(), HasSubstr(R"("name":"ram0","type":"child<memory-backend-memfd>")"));
}

TEST_F(ReferenceVmmTest, touchesOnlyAFewPagesOfItsGuestsRam) {
    startOld({.ram = makeRam()});
    struct stat status {};
    ASSERT_EQ(::fstat(ram_.get(), &status), 0);
    EXPECT_GT(status.st_blocks, 0);
    EXPECT_LE(status.st_blocks * 512, 16 * 4096);
}

struct Pair {
    const char* oldAs;
    const char* newAs;
};
class BetweenVersions : public ReferenceVmmTest, public testing::WithParamInterface<Pair> {};

TEST_P(BetweenVersions, handsOverByCprWithMemoryOfTheVmms) {
    startOld({.arguments = {"--as", GetParam().oldAs}});
    startNewByCpr({.arguments = {"--as", GetParam().newAs}});
    sendCprState();
    EXPECT_EQ(new_->runState(), "inmigrate");
    EXPECT_EQ(old_->migration(), "setup");
    EXPECT_GT(old_->beat(), 0U);
    EXPECT_EQ(old_->runState(), "running") << "the guest runs until the channel is hung up";
    letGo();
    expectGuestGoesOnOnNew();
    EXPECT_EQ(old_->value("query-migrate")["ram"]["normal-bytes"], 0);
}

TEST_P(BetweenVersions, handsOverByCprWithMemoryOfTheManager) {
    startOld({.arguments = {"--as", GetParam().oldAs}, .ram = makeRam()});
    startNewByCpr({.arguments = {"--as", GetParam().newAs}, .ram = ram_.get()});
    handOverByCpr();
    expectGuestGoesOnOnNew();
}

std::string nameOf(const testing::TestParamInfo<Pair>& pair) {
    return "From" + std::string(pair.param.oldAs, 2) + "To" + std::string(pair.param.newAs, 2);
}

INSTANTIATE_TEST_SUITE_P(All, BetweenVersions, testing::Values(Pair{"10.0", "10.0"}, Pair{"10.0", "11.1"}, Pair{"11.1", "11.1"}),
                         nameOf);

TEST_F(ReferenceVmmTest, takesNoStateOf11When10) {
    startOld({.arguments = {"--as", "11.1"}});
    startNewByCpr({.arguments = {"--as", "10.0"}});
    sendCprState();
    EXPECT_TRUE(new_->exitedWith(1));
    EXPECT_THAT(new_->said(), HasSubstr("vmstate_load_state error -2"));
    old_->awaitEvent("MIGRATION", "failed");
    EXPECT_EQ(old_->runState(), "running");
}

TEST_F(ReferenceVmmTest, migratesWithRamLeftInPlace) {
    startOld({.ram = makeRam()});
    startNew({.ram = ram_.get()});
    old_->setCapabilities({"x-ignore-shared"});
    new_->setCapabilities({"x-ignore-shared"});
    letGo();
    old_->value("migrate", mainChannel());
    expectGuestGoesOnOnNew();
    const auto copied = old_->value("query-migrate")["ram"]["normal-bytes"].get<std::uint64_t>();
    EXPECT_EQ(copied, 3 * 4 * 4096U) << "the three implicit blocks, and nothing of the named file";
}

TEST_F(ReferenceVmmTest, migratesWithAllRamCopied) {
    startOld();
    startNew();
    letGo();
    old_->value("migrate", mainChannel());
    expectGuestGoesOnOnNew();
    const auto copied = old_->value("query-migrate")["ram"]["normal-bytes"].get<std::uint64_t>();
    EXPECT_EQ(copied, 4 * 4 * 4096U);
}

TEST_F(ReferenceVmmTest, copiesAnonymousMemoryToo) {
    startOld({.auxRamShare = false});
    startNew({.auxRamShare = false});
    letGo();
    old_->value("migrate", mainChannel());
    expectGuestGoesOnOnNew();
}

TEST_F(ReferenceVmmTest, savesToAFileAndRestores) {
    startOld();
    startNew();
    const UniqueFd file(::open(path_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    ASSERT_TRUE(file);
    const json channels{
        {"channels", json::array({{{"channel-type", "main"},
                                   {"addr", {{"transport", "file"}, {"filename", "/dev/fdset/7"}, {"offset", 0}}}}})}};
    old_->value("stop");
    old_->value("add-fd", {{"fdset-id", 7}}, file.get());
    old_->value("migrate", channels);
    old_->awaitEvent("MIGRATION", "completed");
    // A descriptor of its own offset, as a manager's reopening makes it.
    const UniqueFd again(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDONLY | O_CLOEXEC));
    new_->setCapabilities({"events"});
    new_->value("add-fd", {{"fdset-id", 7}}, again.get());
    new_->value("migrate-incoming", channels);
    new_->awaitEvent("MIGRATION", "completed");
    const std::uint64_t last = old_->lastBeat();
    new_->value("cont");
    EXPECT_EQ(new_->beat(), last + 1);
    EXPECT_EQ(new_->status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, handsOverAgainAndAgain) {
    startOld();
    for (int round = 0; round < 4; ++round) {
        new_ = std::make_unique<Vmm>(path_ + "/" + std::to_string(round), VmOptions{.incoming = true, .cpr = true});
        for (int tries = 0; tries < patienceMs && !isListening(new_->cprPath()); ++tries) ::usleep(1000);
        handOverByCpr();
        expectGuestGoesOnOnNew();
        old_->value("quit");
        old_ = std::move(new_);
        new_.reset();
    }
}

TEST_F(ReferenceVmmTest, isCalledOffWhileItWaitsForTheHangUp) {
    startOld();
    startNewByCpr();
    sendCprState();
    old_->value("migrate_cancel");
    old_->awaitEvent("MIGRATION", "cancelling");
    old_->awaitEvent("MIGRATION", "cancelled");
    EXPECT_EQ(old_->runState(), "running");
    new_.reset();
    EXPECT_GT(old_->status("seq"), 0U);
    EXPECT_EQ(old_->migration(), "cancelled") << "the end of the new VMM set nothing off";
    std::filesystem::remove_all(path_ + "/new");
    startNewByCpr();
    handOverByCpr();
    expectGuestGoesOnOnNew();
}

TEST_F(ReferenceVmmTest, isCalledOffWhileItIsActive) {
    startOld({.arguments = {"--fault", "stream-begin@1=slow:86400000", "--fault", "stream-middle=slow:86400000"}});
    startNew();
    letGo();
    old_->value("migrate", mainChannel());
    old_->awaitEvent("MIGRATION", "active");
    EXPECT_EQ(old_->runState(), "running");
    EXPECT_THAT(old_->refusal("migrate", mainChannel()), HasSubstr("in progress"));
    old_->value("migrate_cancel");
    EXPECT_EQ(old_->migration(), "cancelled");
    EXPECT_TRUE(new_->exitedWith(1)) << "an incoming migration that ends early ends the VMM";
    // Now with the guest stopped already.
    std::filesystem::remove_all(path_ + "/new");
    startNew();
    letGo();
    old_->value("migrate", mainChannel());
    old_->awaitEvent("STOP");
    EXPECT_EQ(old_->runState(), "finish-migrate");
    old_->value("migrate_cancel");
    old_->awaitEvent("RESUME");
    EXPECT_EQ(old_->runState(), "running");
    EXPECT_EQ(old_->status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, goesOnByItselfWhenTheNewOneRefuses) {
    startOld();
    startNewByCpr({.arguments = {"--vram-mib", "8"}});
    handOverByCpr();
    old_->awaitEvent("STOP");
    old_->awaitEvent("MIGRATION", "failed");
    old_->awaitEvent("RESUME");
    EXPECT_TRUE(new_->exitedWith(1));
    EXPECT_THAT(new_->said(), HasSubstr("Size mismatch: 0000:00:01.0/ref.vram: 4194304 != 8388608"));
    EXPECT_THAT(new_->said(), HasSubstr("load of migration failed"));
    EXPECT_EQ(old_->value("query-migrate")["error-desc"], "Sibling indicated error 1");
    EXPECT_EQ(old_->status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, saysCompletedToAnyoneWithoutAReturnPath) {
    startOld();
    old_->value("migrate-set-capabilities", {{"capabilities", json::array({{{"capability", "return-path"}, {"state", false}}})}});
    startNewByCpr({.arguments = {"--fault", "stream-end=exit:1"}});
    handOverByCpr();
    old_->awaitEvent("MIGRATION", "completed");
    EXPECT_TRUE(new_->exitedWith(1));
    EXPECT_EQ(old_->runState(), "postmigrate");
    old_->value("cont");
    EXPECT_EQ(old_->status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, isBlockedWithoutSharedImplicitBlocks) {
    startOld({.auxRamShare = false});
    EXPECT_FALSE(old_->value("query-migrate").contains("blocked-reasons"));
    old_->value("migrate-set-parameters", {{"mode", "cpr-transfer"}});
    EXPECT_EQ(old_->value("query-migrate")["blocked-reasons"].size(), 3U);
    startNew();
    EXPECT_THAT(old_->refusal("migrate", bothChannels()), HasSubstr("ref.vram is not compatible with CPR"));
    EXPECT_EQ(old_->runState(), "running");
}

TEST_F(ReferenceVmmTest, noticesThatTwoVmmsRunOneGuest) {
    startOld();
    startNewByCpr();
    handOverByCpr();
    expectGuestGoesOnOnNew();
    old_->value("cont");
    while (old_->errors().empty() && new_->errors().empty()) {
        ASSERT_GT(old_->beat(), 0U);
        ASSERT_GT(new_->beat(), 0U);
    }
    EXPECT_GT(new_->status("mismatches") + old_->status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, changesItsCprStateWhenToldTo) {
    Vmm& vmm = startOld();
    const CprCapture before = harvest(vmm);
    EXPECT_EQ(before.state.fds.size(), 4U);
    EXPECT_TRUE(before.state.vfioDevices.has_value());
    EXPECT_EQ(whatChanged(before, harvest(vmm)), "");
    vmm.value("x-ref-replace", {{"name", "ref.bios"}});
    EXPECT_THAT(whatChanged(before, harvest(vmm)), HasSubstr("'ref.bios' stands for another file"));
    const CprCapture between = harvest(vmm);
    vmm.value("x-ref-plug", {{"name", "plugged"}, {"size", 65536}});
    EXPECT_THAT(whatChanged(between, harvest(vmm)), HasSubstr("'plugged' is new"));
    EXPECT_THAT(vmm.refusal("x-ref-replace", {{"name", "nothing"}}), HasSubstr("'nothing'"));
    EXPECT_EQ(vmm.status("mismatches"), 0U);
}

// What happens on demand.

TEST(ReferenceVmmFaults, takesEveryActionAtEveryStepThatItMeansSomethingAt) {
    const auto options = [](const std::string& fault) {
        return parseReferenceOptions(
            {"-machine", "pc-q35-10.0,memory-backend=m", "-object", "memory-backend-memfd,id=m,size=4096", "--fault", fault});
    };
    const std::vector<std::string> steps{"start",      "cpr-sent",  "cpr-received", "monitor",      "verify",
                                         "migrate",    "incoming",  "hang-up",      "stream-begin", "stream-middle",
                                         "stream-end", "completed", "cont",         "quit"};
    for (const std::string& step : steps)
        for (const char* action : {"die", "exit:3", "hang", "slow:5"})
            EXPECT_EQ(options(step + "=" + action).faults.size(), 1U) << step << " " << action;
    for (const char* action : {"drop:a", "rename:a:b", "swap:a:b", "replace:a", "truncate:1", "trailing:1", "bad-service-byte:a",
                               "missing-descriptor", "garbage", "lie"})
        EXPECT_EQ(options("cpr-sent@2=" + std::string(action)).faults.at(0).visit, 2U) << action;
    for (const char* fault :
         {"monitor=garbage", "verify=garbage", "migrate=garbage", "incoming=garbage", "cont=garbage", "quit=garbage",
          "stream-begin=garbage", "stream-middle=garbage", "stream-end=garbage", "monitor=lie", "verify=lie", "migrate=lie",
          "incoming=lie", "cont=lie", "quit=lie", "cpr-received=lie", "hang-up=lie", "stream-end=lie"})
        EXPECT_NO_THROW(options(fault)) << fault;
}

TEST(ReferenceVmmFaults, refusesWhatItDoesNotKnow) {
    for (const char* fault : {"", "start", "nowhere=die", "start=nothing", "start=die:1", "start=exit", "start=exit:many",
                              "start=garbage", "cont=drop:a", "cpr-sent=swap:a", "cpr-sent=drop", "start@0=die", "start@x=die"})
        EXPECT_THROW(parseReferenceOptions({"-machine", "none", "--fault", fault}), std::invalid_argument) << fault;
}

TEST_F(ReferenceVmmTest, endsWithAMessageOnAnUnknownFault) {
    Vmm vmm(path_ + "/bad", {.arguments = {"--fault", "brunch=die"}});
    EXPECT_TRUE(vmm.exitedWith(1));
    EXPECT_THAT(vmm.said(), HasSubstr("--fault 'brunch=die': there is no step 'brunch', but "));
}

TEST_F(ReferenceVmmTest, diesExitsOrHangsWhereItIsTold) {
    EXPECT_TRUE(Vmm(path_ + "/a", {.arguments = {"--fault", "start=exit:3"}}).exitedWith(3));
    EXPECT_TRUE(Vmm(path_ + "/b", {.arguments = {"--fault", "start=die"}}).wasKilled());
    Vmm monitor(path_ + "/c", {.arguments = {"--fault", "monitor=exit:4"}});
    EXPECT_TRUE(monitor.ask("query-status").is_null());
    EXPECT_TRUE(monitor.exitedWith(4));
    Vmm cont(path_ + "/d", {.arguments = {"--fault", "cont@2=die"}});
    cont.value("cont");
    cont.value("stop");
    EXPECT_TRUE(cont.ask("cont").is_null());
    EXPECT_TRUE(cont.wasKilled());
    Vmm hung(path_ + "/e", {.arguments = {"--fault", "verify=hang"}});
    hung.value("cont");
    hung.send("x-query-ramblock");
    EXPECT_FALSE(hung.monitor().next(300).value_or("").find("return") != std::string::npos);
    while (hung.beat(200) > 0) continue;  // What was under way.
    EXPECT_EQ(::waitpid(hung.pid(), nullptr, WNOHANG), 0) << "it is there";
}

TEST_F(ReferenceVmmTest, isSlowInAnAnswerAndServesItsGuestMeanwhile) {
    Vmm& vmm = startOld({.arguments = {"--fault", "verify=slow:300"}});
    vmm.send("x-query-ramblock");
    for (int i = 0; i < 5; ++i) EXPECT_GT(vmm.beat(), 0U);
    EXPECT_TRUE(vmm.answer().contains("return"));
}

TEST_F(ReferenceVmmTest, answersGarbageWhereItIsTold) {
    Vmm vmm(path_ + "/a", {.arguments = {"--fault", "quit@1=garbage", "--fault", "verify=garbage"}});
    EXPECT_THAT(vmm.value("x-query-ramblock")["human-readable-text"].get<std::string>(), Not(HasSubstr("ram0")));
    vmm.send("quit");
    std::optional<std::string> line = vmm.monitor().next();
    ASSERT_TRUE(line);
    EXPECT_TRUE(json::parse(*line, nullptr, false).is_discarded());
    vmm.value("quit");
    EXPECT_TRUE(vmm.exitedWith(0));
}

TEST_F(ReferenceVmmTest, liesWhereItIsTold) {
    Vmm vmm(path_ + "/a", {.arguments = {"--fault", "quit@1=lie", "--fault", "cont=lie", "--fault", "verify=lie"}});
    EXPECT_THAT(vmm.value("x-query-ramblock")["human-readable-text"].get<std::string>(), Not(HasSubstr("ref.bios")));
    vmm.value("cont");
    EXPECT_EQ(vmm.runState(), "running");
    EXPECT_EQ(vmm.beat(100), 0U) << "it was said to run, and not to be";
    vmm.value("quit");
    vmm.value("query-status");
    vmm.value("quit");
    EXPECT_TRUE(vmm.exitedWith(0));
}

class MemoryFaults : public ReferenceVmmTest, public testing::WithParamInterface<const char*> {};

TEST_P(MemoryFaults, areNoticedByTheGuest) {
    startOld({.arguments = {"--fault", GetParam()}});
    startNewByCpr();
    handOverByCpr();
    old_->awaitEvent("MIGRATION", "completed");
    new_->awaitEvent("MIGRATION", "completed");
    new_->value("cont");
    EXPECT_GT(new_->status("mismatches"), 0U);
    EXPECT_THAT(new_->errors(), testing::Contains(HasSubstr("E ram block ")));
}

INSTANTIATE_TEST_SUITE_P(All, MemoryFaults,
                         testing::Values("cpr-sent=drop:ref.bios", "cpr-sent=rename:0000:00:01.0/ref.vram:other",
                                         "cpr-sent=swap:0000:00:01.0/ref.vram:/rom@ref/tables", "cpr-sent=replace:ram0"));

TEST_F(ReferenceVmmTest, losesMemoryOrTheDeviceWhenTheNewOneLies) {
    for (const char* fault : {"cpr-received=lie", "stream-end=lie"}) {
        startOld();
        startNewByCpr({.arguments = {"--fault", fault}});
        handOverByCpr();
        new_->awaitEvent("MIGRATION", "completed");
        new_->value("cont");
        EXPECT_GT(new_->status("mismatches"), 0U) << fault;
        old_.reset();
        new_.reset();
        std::filesystem::remove_all(path_ + "/old");
        std::filesystem::remove_all(path_ + "/new");
    }
}

class StateFaults : public ReferenceVmmTest, public testing::WithParamInterface<const char*> {};

TEST_P(StateFaults, areRefusedByTheNewOne) {
    startOld({.arguments = {"--fault", GetParam()}});
    startNewByCpr();
    sendCprState();
    EXPECT_TRUE(new_->exitedWith(1)) << new_->said();
    EXPECT_THAT(new_->said(), HasSubstr("vmm-shim: "));
    old_->awaitEvent("MIGRATION", "failed");
    EXPECT_EQ(old_->runState(), "running");
    EXPECT_EQ(old_->status("mismatches"), 0U);
}

INSTANTIATE_TEST_SUITE_P(All, StateFaults,
                         testing::Values("cpr-sent=garbage", "cpr-sent=truncate:0", "cpr-sent=truncate:20", "cpr-sent=trailing:5",
                                         "cpr-sent=bad-service-byte:ref.bios", "cpr-sent=missing-descriptor"));

struct StreamFault {
    const char* old;
    const char* newVmm;
};
class StreamFaults : public ReferenceVmmTest, public testing::WithParamInterface<StreamFault> {};

TEST_P(StreamFaults, letTheOldOneGoOn) {
    VmOptions oldOptions, newOptions;
    if (*GetParam().old) oldOptions.arguments = {"--fault", GetParam().old};
    if (*GetParam().newVmm) newOptions.arguments = {"--fault", GetParam().newVmm};
    startOld(oldOptions);
    startNewByCpr(newOptions);
    sendCprState();
    new_->setCapabilities({"events", "return-path"});
    new_->ask("migrate-incoming", mainChannel());
    old_->awaitEvent("MIGRATION", "failed");
    EXPECT_EQ(old_->runState(), "running");
    EXPECT_EQ(old_->status("mismatches"), 0U);
}

INSTANTIATE_TEST_SUITE_P(All, StreamFaults,
                         testing::Values(StreamFault{"stream-begin=garbage", ""}, StreamFault{"stream-middle=garbage", ""},
                                         StreamFault{"", "incoming=die"}, StreamFault{"", "hang-up=die"},
                                         StreamFault{"", "hang-up=lie"}, StreamFault{"", "stream-begin=die"},
                                         StreamFault{"", "stream-middle=exit:7"}, StreamFault{"", "stream-end=die"},
                                         StreamFault{"", "stream-begin=garbage"}, StreamFault{"", "stream-middle=garbage"},
                                         StreamFault{"", "stream-end=garbage"}));

TEST_F(ReferenceVmmTest, waitsForAnAnswerThatDoesNotComeUntilItIsCalledOff) {
    startOld();
    startNewByCpr({.arguments = {"--fault", "stream-end=hang"}});
    handOverByCpr();
    old_->awaitEvent("MIGRATION", "device");
    EXPECT_EQ(old_->runState(), "finish-migrate");
    old_->value("migrate_cancel");
    old_->awaitEvent("RESUME");
    EXPECT_EQ(old_->migration(), "cancelled");
    EXPECT_EQ(old_->status("mismatches"), 0U);
}

TEST_F(ReferenceVmmTest, pretendsToMigrateOrToListen) {
    startOld({.arguments = {"--fault", "migrate=lie"}});
    startNew({.arguments = {"--fault", "incoming=lie"}});
    new_->value("migrate-incoming", mainChannel());
    EXPECT_FALSE(isListening(new_->mainPath()));
    old_->value("migrate", mainChannel());
    EXPECT_EQ(old_->migration(), "none");
    EXPECT_EQ(old_->runState(), "running");
}

TEST_F(ReferenceVmmTest, pretendsToSendItsState) {
    startOld({.arguments = {"--fault", "cpr-sent=lie"}});
    startNewByCpr();
    sendCprState();
    EXPECT_EQ(old_->migration(), "setup");
    EXPECT_FALSE(new_->monitor().next(200)) << "a VMM without its state has no monitor";
    old_->value("migrate_cancel");
    EXPECT_TRUE(new_->exitedWith(1));
    EXPECT_GT(old_->beat(), 0U);
}

}  // namespace
}  // namespace vh
