// Every verb of the command line, with names that are there, that are not, and that nobody should use, with flags that make sense
// and that make none, and over records that were damaged in every place. Whatever it is given, a verb ends by itself, with a
// documented exit status; with --json it prints one JSON document; and it makes nothing outside of the runtime directory.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <set>

#include <gmock/gmock.h>

#include "tests/support/json_places.h"
#include "tests/support/vm_fixture.h"

namespace vh::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

using Words = std::vector<std::string>;

std::string joined(const Words& words) {
    std::string line;
    for (const std::string& word : words) line += " '" + word.substr(0, 80) + "'";
    return line;
}

class CliFuzzTest : public testing::Test {
 protected:
    CliFuzzTest() {
        fs::create_directory(workspace.path() + "/definitions");
        ::unsetenv("VH_GUEST_KERNEL");  // `compare` would begin to measure.
    }

    void TearDown() override {
        if (daemon_ > 0) {
            ::kill(daemon_, SIGTERM);
            int status = 0;
            EXPECT_EQ(::waitpid(daemon_, &status, 0), daemon_);
            EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the daemon: status " << status;
        }
        for (const pid_t vmm : running()) ::kill(vmm, SIGKILL);  // Of a test that failed.
        std::error_code ignored;
        for (const auto& entry : fs::directory_iterator(workspace.runtime())) fs::remove_all(entry.path(), ignored);
        workspace.expectNothingLeft();
    }

    void startDaemon() { daemon_ = test::startDaemon(workspace); }

    /// The VMMs of this test's VM, by what their standard output is.
    std::vector<pid_t> running() const {
        std::vector<pid_t> found;
        std::error_code ignored;
        for (const auto& process : fs::directory_iterator("/proc", ignored))
            if (fs::read_symlink(process.path() / "fd/1", ignored).string().starts_with(workspace.runtime() + "/vm/"))
                found.push_back(std::stoi(process.path().filename()));
        return found;
    }

    /// Runs the command line, and expects of it what holds for every verb.
    Ran run(Words words) {
        words.insert(words.begin(), {required("VH_CLI"), "--runtime-dir", workspace.runtime(), "--definitions",
                                     workspace.path() + "/definitions"});
        const bool asJson = std::ranges::find(words, "--json") != words.end();
        SCOPED_TRACE(joined(words));
        const std::set<std::string> before = filesOutside();
        const pid_t child = spawnProgram(workspace, words, "cli");
        bool ended = false;
        // Waits without reaping; a verb that never ends is ended here.
        if (!turnUntil(
                [&] {
                    siginfo_t info{};
                    ended = ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
                            info.si_pid == child;
                    return ended;
                },
                patience))
            ::kill(child, SIGKILL);
        const Ran ran = collectProgram(workspace, child, "cli");
        ++runs;
        EXPECT_TRUE(ended) << "it does not end";
        EXPECT_GE(ran.code, 0);
        EXPECT_LE(ran.code, 5) << "not a documented exit status";
        for (const char* sign : {"defect", "Assertion", "terminate called", "CRITICAL"})
            EXPECT_THAT(ran.error, Not(HasSubstr(sign)));
        if (asJson)
            EXPECT_TRUE(json::accept(ran.output)) << "not one JSON document: " << ran.output;
        else
            EXPECT_FALSE(ran.output.empty() && ran.error.empty()) << "it says nothing";
        EXPECT_THAT(ran.output, Not(HasSubstr("\033")));
        EXPECT_THAT(ran.error, Not(HasSubstr("\033")));
        EXPECT_EQ(filesOutside(), before) << "it made something outside of the runtime directory";
        return ran;
    }

    /// All that is in the workspace but for the runtime directory.
    std::set<std::string> filesOutside() const {
        std::set<std::string> found;
        for (auto entry = fs::recursive_directory_iterator(workspace.path()); entry != fs::recursive_directory_iterator();
             ++entry) {
            if (entry->path() == workspace.runtime())
                entry.disable_recursion_pending();
            else if (entry->path().extension() != ".out" && entry->path().extension() != ".err")
                found.insert(entry->path().string());
        }
        return found;
    }

    std::size_t any(std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_); }
    bool maybe() { return any(2) == 0; }
    template <class Value>
    const Value& oneOf(const std::vector<Value>& values) {
        return values[any(values.size())];
    }

    std::string anyName() {
        return oneOf<std::string>({"vm",
                                   "nosuch",
                                   "vm",
                                   "",
                                   ".",
                                   "..",
                                   "../x",
                                   "../definitions/x",
                                   "/etc/passwd",
                                   "x/y",
                                   "vm/1",
                                   std::string(300, 'a'),
                                   std::string(33, 'b'),
                                   "a\nb",
                                   "a\tb",
                                   "\033[2Jred",
                                   "f\xc3\xbcr",
                                   "\xff\xfe",
                                   "VM",
                                   "-",
                                   "--",
                                   "--json",
                                   "vm ",
                                   "vm.lock",
                                   "manager.sock",
                                   "%s%n",
                                   "$(id)",
                                   "'",
                                   "\"",
                                   "a,b=c",
                                   workspace.path() + "/nosuch.yaml"});
    }

    /// A verb with what it may be given, sensible or not.
    Words anyVerb() {
        static const std::vector<std::string> verbs{"start",   "list",   "show",    "console", "shutdown", "destroy",
                                                    "upgrade", "commit", "cancel",  "adopt",   "version",  "compare",
                                                    "fly",     "",       "upgrade", "libvirt"};
        Words words{oneOf(verbs)};
        if (maybe()) words.push_back("--json");
        if (words.front() == "libvirt") {  // Not the libvirt of this machine.
            words.insert(words.end(), {"--connect", "qemu+unix:///system?socket=" + workspace.path() + "/nosuch"});
            words.push_back(oneOf<std::string>({"check", "prepare", "import", "fly", "check", "--bogus"}));
            if (words.back() == "prepare" || words.back() == "import" || maybe()) words.push_back(anyName());
            return words;
        }
        if (words.front() == "adopt" && maybe()) words.push_back(oneOf<std::string>({"--recover", "--forget"}));
        if (any(8) != 0 && words.front() != "list" && words.front() != "version") words.push_back(anyName());
        const std::vector<Words> flags{{"--dry-run"},
                                       {"--standby"},
                                       {"--to", "/bin/false"},
                                       {"--to", "/nosuch"},
                                       {"--to", "\xff/x"},
                                       {"--to", ""},
                                       {"--design", "copy"},
                                       {"--design", "magic"},
                                       {"--pause-budget", "1s"},
                                       {"--pause-budget", "99999999999999999999s"},
                                       {"--pause-budget", "-1ms"},
                                       {"--timeout", "100ms"},
                                       {"--timeout", "x"},
                                       {"--wait-heartbeat", "1ms"},
                                       {"--bogus"},
                                       {"--to"},
                                       {"another"}};
        for (std::size_t count = any(3); count > 0; --count) {
            const Words& flag = oneOf(flags);
            words.insert(words.end(), flag.begin(), flag.end());
        }
        if (words.front() == "shutdown") words.insert(words.end(), {"--timeout", "200ms"});
        return words;
    }

    /// The file of a VM that really runs, on a reference VMM.
    std::string definition() const {
        return workspace.file("definitions/vm.yaml", referenceDefinition("vm", workspace.referenceVmm("vmm")));
    }

    /// The record of such a VM whose VMM has ended.
    std::string recordOfAnEndedVm() {
        EXPECT_EQ(run({"--embed", "start", definition()}).code, 0);
        const std::string record = readFile(recordFile());
        EXPECT_EQ(run({"--embed", "destroy", "vm"}).code, 0);
        return record;
    }

    std::string recordFile() const { return workspace.runtime() + "/vm/record.json"; }

    /// Puts a record there as if the VM had been started.
    void put(const std::string& record) {
        fs::remove_all(workspace.runtime() + "/vm");
        fs::create_directories(workspace.runtime() + "/vm/1");
        std::ofstream(recordFile(), std::ios::binary) << record;
    }

    Workspace workspace;
    pid_t daemon_ = 0;
    std::size_t runs = 0;

 private:
    std::mt19937 random_{20260101};
};

/// Records that are no more what they were, in every place once.
std::vector<std::string> damaged(const std::string& record) {
    const json whole = json::parse(record);
    std::vector<std::string> found{"",
                                   "{}",
                                   "[]",
                                   "null",
                                   "5",
                                   "\"text\"",
                                   "\xff\xfe",
                                   "{\"format\": 1}",
                                   "{\"format\": 2}",
                                   std::string(100'000, '['),
                                   record + record,
                                   std::string("\0\0\0\0", 4),
                                   record.substr(0, 1)};
    for (std::size_t length = 7; length < record.size(); length += record.size() / 7 + 1)
        found.push_back(record.substr(0, length));
    const std::vector<json> others{
        nullptr, true,         -7,           18446744073709551615U, 1e308,          "",
        "text",  "\033[2J\nx", "../../../x", json::array(),         json::object(), std::string(5000, 'x')};
    std::size_t next = 0;
    for (const json::json_pointer& place : places(whole)) {
        if (place.empty()) continue;
        // Some of the wrong values in each place; all of them in those that are alike.
        for (int i = 0; i < 4; ++i) {
            json changed = whole;
            changed[place] = others[next++ % others.size()];
            found.push_back(changed.dump(2));
        }
        found.push_back(without(whole, place).dump(2));
    }
    return found;
}

TEST_F(CliFuzzTest, neverEndsByASignalWhateverItIsTold) {
    const std::string record = recordOfAnEndedVm();
    for (int i = 0; i < 300; ++i) {
        if (i % 10 == 0) put(record);
        Words words = anyVerb();
        if (any(4) != 0) words.insert(words.begin(), "--embed");
        run(words);
    }
}

TEST_F(CliFuzzTest, neverEndsByASignalWhateverItTellsTheManager) {
    const std::string record = recordOfAnEndedVm();
    startDaemon();
    for (int i = 0; i < 200; ++i) {
        if (i % 10 == 0) put(record);
        run(anyVerb());
    }
    EXPECT_EQ(run({"list"}).code, 0) << "the manager lives";
}

TEST_F(CliFuzzTest, neverEndsByASignalWhateverARecordHasBecome) {
    const std::vector<Words> verbs{{"show", "vm"},
                                   {"list"},
                                   {"upgrade", "vm"},
                                   {"upgrade", "vm", "--dry-run"},
                                   {"upgrade", "vm", "--to", "/bin/false"},
                                   {"commit", "vm"},
                                   {"cancel", "vm"},
                                   {"console", "vm"},
                                   {"shutdown", "vm", "--timeout", "200ms"},
                                   {"destroy", "vm"},
                                   {"adopt", "--recover", "vm"},
                                   {"adopt", "--forget", "vm"}};
    const std::string record = recordOfAnEndedVm();
    std::size_t next = 0;
    for (const std::string& broken : damaged(record)) {
        SCOPED_TRACE(broken.substr(0, 2000));
        for (int i = 0; i < 2; ++i) {
            put(broken);
            Words words{"--embed"};
            const Words& verb = verbs[next++ % verbs.size()];
            words.insert(words.end(), verb.begin(), verb.end());
            if (maybe()) words.push_back("--json");
            run(words);
        }
    }
    // And what is in a record's place and is no file.
    for (const Words& verb : verbs) {
        fs::remove_all(workspace.runtime() + "/vm");
        fs::create_directories(recordFile() + "/x");
        Words words{"--embed", "--json"};
        words.insert(words.end(), verb.begin(), verb.end());
        run(words);
    }
    std::cout << runs << " runs\n";
}

/// Whoever puts an old record back, or loses a part of it, has a guest that runs: no verb but `destroy` and `shutdown` may end
/// it.
TEST_F(CliFuzzTest, neverEndsAGuestWhateverItsRecordHasBecome) {
    const std::vector<Words> verbs{{"show", "vm"},
                                   {"upgrade", "vm", "--dry-run"},
                                   {"upgrade", "vm"},
                                   {"commit", "vm"},
                                   {"cancel", "vm"},
                                   {"console", "vm", "--json"},
                                   {"adopt", "--recover", "vm"},
                                   {"adopt", "--forget", "vm"},
                                   {"start", definition()},
                                   {"list"}};
    ASSERT_EQ(run({"--embed", "start", definition()}).code, 0);
    std::string record = readFile(recordFile());
    ASSERT_EQ(running().size(), 1U);
    std::size_t next = 0;
    for (const std::string& broken : damaged(record)) {
        std::ofstream(recordFile(), std::ios::binary) << broken;
        const std::vector<pid_t> before = running();
        const Words& verb = verbs[next++ % verbs.size()];
        SCOPED_TRACE(joined(verb) + " with the record\n" + broken.substr(0, 3000));
        Words words{"--embed"};
        words.insert(words.end(), verb.begin(), verb.end());
        const Ran ran = run(words);
        ASSERT_EQ(running().size(), 1U) << ran.output << ran.error;
        // Handed over after all, where the damage was none that matters: then the record is new.
        if (running() != before) record = readFile(recordFile());
        std::ofstream(recordFile(), std::ios::binary) << record;
    }
    EXPECT_EQ(json::parse(run({"--embed", "show", "vm", "--json"}).output)["state"], "running");
    EXPECT_EQ(run({"--embed", "upgrade", "vm"}).code, 0);
    EXPECT_EQ(run({"--embed", "destroy", "vm"}).code, 0);
}

}  // namespace
}  // namespace vh::test
