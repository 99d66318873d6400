#include "tests/libvirt/upgrade_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

namespace vh::test {

using nlohmann::json;
using std::chrono::milliseconds, std::chrono::seconds, std::chrono::steady_clock;
namespace fs = std::filesystem;

namespace {

constexpr seconds longest{480};
constexpr const char *outputFile = "/tmp/tool.out", *errorFile = "/tmp/tool.err";

}  // namespace

Ran tool(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), required("VH_LIBVIRT_TOOL"));
    return runProgram(std::move(arguments), longest);
}

std::vector<std::string> upgradeOf(const std::vector<std::string>& domains) {
    // A busy host, or one that is emulated, must not send a guest back.
    std::vector<std::string> arguments{"--json", "upgrade",         "--to", newQemu(), "--pause-budget",
                                       "10s",    "--step-deadline", "120s"};
    arguments.insert(arguments.end(), domains.begin(), domains.end());
    return arguments;
}

json outcomeOf(const Ran& ran) {
    const json answer = json::parse(ran.output, nullptr, false);
    if (!answer.is_object() || !answer.contains("domains") || answer["domains"].size() != 1) {
        ADD_FAILURE() << "exit status " << ran.code << ": " << ran.output << ran.error;
        return {{"outcome", ""}, {"cause", ""}};
    }
    return answer["domains"][0];
}

void expectUpgraded(const Ran& ran) {
    const json outcome = outcomeOf(ran);
    EXPECT_EQ(outcome["outcome"], "upgraded") << ran.output << ran.error;
    EXPECT_EQ(ran.code, 0);
    EXPECT_FALSE(fs::exists(journalFile));
}

bool eventually(const std::function<bool()>& condition, milliseconds deadline) {
    for (const auto end = steady_clock::now() + deadline; steady_clock::now() < end;) {
        if (condition()) return true;
        std::this_thread::sleep_for(milliseconds(2));
    }
    return condition();
}

RunningTool::RunningTool(std::vector<std::string> arguments, const std::map<std::string, std::string>& environment,
                         const char* program) {
    arguments.insert(arguments.begin(), required(program));
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::dup2(::open(outputFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDOUT_FILENO);
    ::dup2(::open(errorFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
}

RunningTool::~RunningTool() {
    if (pid_ > 0) kill();
}

void RunningTool::kill() {
    ::kill(pid_, SIGKILL);
    wait();
}

Ran RunningTool::wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), readIfThere(outputFile), readIfThere(errorFile)};
}

bool RunningTool::stands() {
    siginfo_t state{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &state, WSTOPPED | WEXITED | WNOWAIT) == 0 && state.si_code == CLD_STOPPED;
}

void RunningTool::goOn() {
    ::kill(pid_, SIGCONT);
}

std::string phaseNow() {
    const json journal = json::parse(readIfThere(journalFile), nullptr, false);
    return journal.is_object() ? journal.value("/domains/0/phase"_json_pointer, std::string()) : std::string();
}

std::set<pid_t> guardians() {
    std::set<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc"))
        if (readIfThere(entry.path() / "cmdline").find(std::string("recover\0--guard\0", 16)) != std::string::npos)
            found.insert(std::stoi(entry.path().filename()));
    return found;
}

std::string freshImage(const std::string& name) {
    const std::string file = "/var/lib/libvirt/images/" + name;
    fs::remove(file);
    return file;
}

std::string snippet(const std::string& name, const std::string& xml) {
    const std::string file = "/tmp/" + name + ".xml";
    std::ofstream(file) << xml;
    return file;
}

std::string roomToPlugIn(int ports) {
    std::string xml = "    <controller type='pci' model='pcie-root'/>\n";
    for (int port = 0; port < ports; ++port) xml += "    <controller type='pci' model='pcie-root-port'/>\n";
    return xml;
}

std::string diskToPlugIn(const std::string& image, const std::string& target) {
    const std::string file = freshImage(image);
    runProgram({"/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", file, "16M"}, patience);
    return snippet(image, "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='" + file +
                              "'/><target dev='" + target + "' bus='virtio'/></disk>");
}

std::string writeProgram(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
    fs::permissions(path, fs::perms::all & ~fs::perms::group_write & ~fs::perms::others_write);
    return path;
}

std::string managerAfter(const std::string& shellCommands) {
    const std::string file = "/tmp/manager", done = file + ".done";
    fs::remove(done);
    return writeProgram(file, "#!/bin/sh\nif ! [ -e " + done + " ]; then\n: >" + done + "\n" + shellCommands + "\nfi\nexec '" +
                                  required("VH_CLI") + "' \"$@\"\n");
}

}  // namespace vh::test
